"""``otel-memoir events --follow``: the last few events, then new ones as they come."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import click

from otel_memoir.cli.event_lines import EVENT_HEADS, event_json, event_row
from otel_memoir.cli.filters import Reading
from otel_memoir.retrieval.event import RetainedEvent
from otel_memoir.retrieval.filters import FilterArguments
from otel_memoir.retrieval.follow import follow
from otel_memoir.retrieval.query import Retrieval
from otel_memoir.spool.index import Place

LAST = 10
"""How many events are shown first, unless told otherwise."""

# State, stream, epoch, sequence, time, bound and event: rows that come later have to fit, too.
_WIDTHS = (11, 8, 5, 8, 30, 9, 25)


def follow_events(
    directories: list[Path], asked: FilterArguments, as_json: bool, limit: int | None,
    timeout: float | None,
) -> int:
    """Show events until interrupted, or the time is over; return the exit code.

    Args:
        directories: Where to look.

        asked: Which events.

        as_json: Print each as a line of JSON.

        limit: How many of those that are there already to show first.

        timeout: The longest time, in seconds; ``None`` for ever.
    """
    if not as_json:
        _print_line(EVENT_HEADS)
    with Retrieval(directories, progress=Reading()) as retrieval, contextlib.suppress(
        KeyboardInterrupt
    ):
        for event in _told(retrieval, asked, limit or LAST, timeout):
            _print(event, as_json)
    return 0


def _told(
    retrieval: Retrieval, asked: FilterArguments, last: int, timeout: float | None
) -> Iterator[RetainedEvent]:
    # The marks are set before the last few are read, so that none falls between.
    new = follow(retrieval, stop=threading.Event(), timeout=timeout, **asked)
    page = retrieval.page(limit=last, newest_first=True, **asked)
    shown = [event.place for event in page]
    yield from page.events[::-1]
    yield from _without(new, shown)


def _without(events: Iterable[RetainedEvent], shown: list[Place]) -> Iterator[RetainedEvent]:
    return (event for event in events if event.place not in shown)


def _print(event: RetainedEvent, as_json: bool) -> None:
    if event.problem:
        click.echo(f"{event.file}: {event.problem}", err=True)
        return
    stamped = replace(event.stamp, payload=(event.state.value, event.log))
    if as_json:
        click.echo(json.dumps(event_json(stamped), default=str))
    else:
        _print_line(event_row(stamped))


def _print_line(cells: Iterable[str]) -> None:
    *first, body = cells
    click.echo("  ".join([*(c.ljust(w) for c, w in zip(first, _WIDTHS)), body]).rstrip())
