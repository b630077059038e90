"""``otel-memoir events`` and ``history``: the records that spools or an export hold, in order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import click
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord

from otel_memoir.cli.event_lines import EVENT_HEADS, event_json, event_row
from otel_memoir.cli.filters import Reading, filters, taken_from
from otel_memoir.cli.follow import follow_events
from otel_memoir.cli.places import all_slots, as_json, spool_dir
from otel_memoir.cli.places import directories as all_directories
from otel_memoir.cli.show import print_json, print_table
from otel_memoir.retrieval.event import RetainedEvent
from otel_memoir.retrieval.filters import FilterArguments, filters_of, matches
from otel_memoir.retrieval.query import Retrieval
from otel_memoir.sdk.gap_event import GAP_EVENT
from otel_memoir.spool.rows import StoredRecord, absences, stored_records
from otel_memoir.stamping.event import StampedEvent
from otel_memoir.stamping.readers import event_of, records_of_file
from otel_memoir.stamping.resolution import Policy, Resolution, resolve
from otel_memoir.stamping.validation import Gap, explain

_EXPORTED = "exported"
_PAGE = 500


@dataclass
class Found:
    """What was read.

    Attributes:
        events: The stamped records; the payload of each is its state and the record.

        told: Ranges of numbers that are missing, and why.

        unstamped: How many records have no stamps.

        damaged: Records that cannot be read, and why.
    """

    events: list[StampedEvent] = field(default_factory=list)
    told: list[tuple[Gap, str]] = field(default_factory=list)
    unstamped: int = 0
    damaged: list[str] = field(default_factory=list)


@click.command("events")
@click.argument(
    "directories", nargs=-1, type=click.Path(exists=True, file_okay=False, path_type=Path)
)
@click.option("--order", is_flag=True, help="Bring them into one order, and say what is wrong.")
@click.option(
    "--from-file", "exports", multiple=True, metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Read what a Collector's file exporter wrote, beside the DIRECTORIES or instead.",
)
@click.option(
    "--policy", type=click.Choice([policy.value for policy in Policy]), default="keep_all",
    show_default=True, help="Which of several records with one number stays, with --order.",
)
@filters
@click.option("--limit", type=click.IntRange(min=1), help="The most events; by default all.")
@click.option("--newest-first", is_flag=True, help="Begin with the newest.")
@click.option("--follow", is_flag=True, help="Show the last few, then new ones as they come.")
@click.option(
    "--timeout", type=click.FloatRange(min=0), help="End --follow after so many seconds.",
)
@spool_dir
@as_json
@click.pass_context
def events_command(
    ctx: click.Context, /, directories: tuple[Path, ...], order: bool, exports: tuple[Path, ...],
    policy: str, spool_dir: Path | None, as_json: bool, follow: bool, timeout: float | None,
    limit: int | None, newest_first: bool, **options: Any,
) -> None:
    """List the records in DIRECTORIES: what waits, and what is delivered and kept.

    They are found through an index beside the spool files, which is brought up to date
    first. An option that is given more than once asks for any of its values; different
    options have to hold together.

    With --order and --from-file all is read, nothing is looked up. With --order the exit
    code is 1 if a number is missing and nobody told why, if two records have one number,
    or if a record is damaged. With --follow, --json prints a line for each event.
    """
    asked = taken_from(options)
    if follow:
        if order or exports or newest_first:
            raise click.UsageError("--follow goes by itself: not with --order, --from-file or "
                                   "--newest-first")
        ctx.exit(follow_events(places(directories, spool_dir), asked, as_json, limit, timeout))
    if order or exports:
        found = _read(directories, exports, spool_dir)
    else:
        found = _looked_up(places(directories, spool_dir), asked, limit, newest_first)
    resolution = resolve(found.events, policy=Policy(policy)) if order else None
    events = resolution.events if resolution else tuple(found.events)
    if (order or exports) and (asked or limit or newest_first):
        events = _chosen(events, asked, limit, newest_first)
    _show(ctx, found, events, resolution, as_json)


def _show(
    ctx: click.Context, found: Found, events: tuple[StampedEvent, ...],
    resolution: Resolution | None, as_json: bool,
) -> None:
    missing = explain(resolution.gaps, found.told) if resolution else ()
    if as_json:
        print_json(_as_json(found, events, resolution, missing))
    else:
        _print(found, events, resolution, missing)
    unexplained = any(not cause for _, cause in missing)
    conflicts = bool(resolution and resolution.conflicts)
    ctx.exit(1 if unexplained or conflicts or found.damaged else 0)


@click.command("history")
@click.argument("record")
@click.option("--store", multiple=True, metavar="TEXT", help="Id of the store whose record it is.")
@spool_dir
@as_json
@click.pass_context
def history_command(
    ctx: click.Context, record: str, store: tuple[str, ...], spool_dir: Path | None, as_json: bool
) -> None:
    """Tell the history of the memory record RECORD: all events that name it, in order.

    The order is that of `events --order`: by sequence, epoch and known cause, then by time
    as far as its error bounds allow. What is delivered is here while it is retained.
    """
    with Retrieval(places((), spool_dir), progress=Reading()) as retrieval:
        told = retrieval.history(record, store=store or None)
    found = Found()
    for event in told:
        _take_retained(found, event)
    _show(ctx, found, tuple(found.events), None, as_json)


# -- looking up ---------------------------------------------------------------


def places(directories: tuple[Path, ...], spool_dir: Path | None) -> list[Path]:
    """The directories that were named, else those of every service."""
    return list(directories) or all_directories(spool_dir)


def _looked_up(
    directories: list[Path], asked: FilterArguments, limit: int | None, newest_first: bool
) -> Found:
    found, cursor, left = Found(), "", limit
    with Retrieval(directories, progress=Reading()) as retrieval:
        while left is None or left > 0:
            size = _PAGE if left is None else min(_PAGE, left)
            page = retrieval.page(limit=size, after=cursor, newest_first=newest_first, **asked)
            for event in page:
                _take_retained(found, event)
            cursor, left = page.cursor, None if left is None else left - len(page)
            found.damaged += [problem for problem in page.problems if problem not in found.damaged]
            if not page.has_more:
                break
    return found


def _take_retained(found: Found, event: RetainedEvent) -> None:
    if event.problem:
        found.damaged.append(f"{event.file}: {event.problem}")
    else:
        stamped = event.stamp if event.place.uid else None
        _take(found, stamped and replace(stamped, payload=event.log), event.state.value)


def _chosen(
    events: tuple[StampedEvent, ...], asked: FilterArguments, limit: int | None,
    newest_first: bool,
) -> tuple[StampedEvent, ...]:
    wanted = filters_of(asked)
    found = [
        event for event in events
        if matches(wanted, replace(event, payload=event.payload[1]), event.payload[0])
    ]
    return tuple((found[::-1] if newest_first else found)[:limit])


# -- reading ------------------------------------------------------------------


def _read(
    directories: tuple[Path, ...], exports: tuple[Path, ...], spool_dir: Path | None
) -> Found:
    found = Found()
    places = directories or (() if exports else (spool_dir,))
    for slot in [slot for place in places for slot in all_slots(place)]:
        found.told += [
            (Gap(a.stream.stream_id, a.stream.epoch, a.first_sequence, a.last_sequence), a.cause)
            for a in absences(slot.database)
        ]
        for row in stored_records(slot.database):
            _take_row(found, slot.database, row)
    for path in exports:
        for record in records_of_file(path):
            _take(found, record.event, _EXPORTED)
    return found


def _take_row(found: Found, path: Path, row: StoredRecord) -> None:
    if row.problem:
        found.damaged.append(f"{path}: {row.problem}")
        return
    event = event_of(row.payload)
    # The row knows the stamp's time also of a record that has a time of its own.
    stamped = event and replace(event, unix_ns=row.stamped_unix_ns)
    _take(found, stamped, row.state.value)


def _take(found: Found, event: StampedEvent | None, state: str) -> None:
    if event is None:
        found.unstamped += 1
        return
    log = event.payload
    if log.event_name == GAP_EVENT:
        found.told += _told_by(log)
    found.events.append(replace(event, payload=(state, log)))


def _told_by(log: LogRecord) -> Iterator[tuple[Gap, str]]:
    """What a gap event says is missing."""
    said = {entry.key.removeprefix("memoir.gap."): entry.value for entry in log.attributes}
    if {"stream.id", "stream.epoch", "first_sequence", "last_sequence"} <= said.keys():
        yield Gap(
            said["stream.id"].string_value, said["stream.epoch"].int_value,
            said["first_sequence"].int_value, said["last_sequence"].int_value,
        ), said["cause"].string_value


# -- showing ------------------------------------------------------------------


def _print(
    found: Found, events: tuple[StampedEvent, ...], resolution: Resolution | None,
    missing: Iterable[tuple[Gap, str]],
) -> None:
    if events:
        print_table(EVENT_HEADS, [event_row(event) for event in events])
    else:
        click.echo("there are no records")
    if found.unstamped:
        click.echo(f"{found.unstamped:,} record(s) without stamps are not shown")
    for sentence in (*found.damaged, *_verdicts(resolution, missing)):
        click.echo(sentence)


def _name(event: StampedEvent) -> str:
    return f"{event.stream} epoch {event.epoch} sequence {event.sequence}"


def _verdicts(
    resolution: Resolution | None, missing: Iterable[tuple[Gap, str]]
) -> Iterator[str]:
    if resolution is None:
        return
    for gap, cause in missing:
        numbers = str(gap.first) if gap.missing == 1 else f"{gap.first} to {gap.last}"
        yield (
            f"gap: {gap.stream} epoch {gap.epoch} sequence {numbers} is not here: "
            f"{cause or 'nobody told why'}"
        )
    for group in resolution.conflicts:
        yield f"conflict: {_name(group[0])} is {', '.join(event.uid for event in group)}"
    for event in resolution.regressions:
        yield f"time regression: {_name(event)} is not later than what comes before it"
    for effect, cause_ in resolution.dismissed:
        yield f"cause dismissed: {_name(effect)} cannot have come of {_name(cause_)}"


def _as_json(
    found: Found, events: tuple[StampedEvent, ...], resolution: Resolution | None,
    missing: Iterable[tuple[Gap, str]],
) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "events": [event_json(event) for event in events], "unstamped": found.unstamped,
        "damaged": found.damaged,
    }
    if resolution is not None:
        shown |= {
            "gaps": [{**gap._asdict(), "cause": cause} for gap, cause in missing],
            "conflicts": [[event_json(e) for e in group] for group in resolution.conflicts],
            "regressions": [event.uid for event in resolution.regressions],
            "dismissed": [{"effect": e.uid, "cause": c.uid} for e, c in resolution.dismissed],
        }
    return shown
