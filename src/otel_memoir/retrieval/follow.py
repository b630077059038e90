"""New events as they come."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from otel_memoir.retrieval.event import RetainedEvent
from otel_memoir.retrieval.filters import FilterArguments
from otel_memoir.retrieval.retrieval import Marks, Retrieval
from otel_memoir.spool.index import Place

if TYPE_CHECKING:
    from typing_extensions import Unpack

LOOK_S = 0.2
"""How often it looks."""

_REMEMBERED = 10_000


def follow(
    retrieval: Retrieval, *, stop: threading.Event, timeout: float | None = None,
    monotonic_s: Callable[[], float] = time.monotonic, **filters: Unpack[FilterArguments],
) -> Iterator[RetainedEvent]:
    """The events that are stored from this call on, by whatever process, until told to stop.

    A record whose file failed is stored again in another one; it is told once, unless
    10,000 others lie between.

    Args:
        retrieval: Where to look.

        stop: Set it to end.

        timeout: End after so many seconds.

        monotonic_s: The clock for durations.

        **filters: See ``FilterArguments``.

    Raises:
        SpoolError: As ``Retrieval.page``.
    """
    _, marks = retrieval.arrived(None, **filters)
    end_s = None if timeout is None else monotonic_s() + timeout
    return _come(retrieval, marks, stop, end_s, monotonic_s, filters)


def _come(
    retrieval: Retrieval, marks: Marks, stop: threading.Event, end_s: float | None,
    monotonic_s: Callable[[], float], filters: FilterArguments,
) -> Iterator[RetainedEvent]:
    told: dict[Place, None] = {}
    while not stop.is_set():
        found, marks = retrieval.arrived(marks, **filters)
        for event in found:
            if event.place not in told:
                told[event.place] = None
                if len(told) > _REMEMBERED:
                    del told[next(iter(told))]
                yield event
        left_s = LOOK_S if end_s is None else min(LOOK_S, end_s - monotonic_s())
        if left_s <= 0 or stop.wait(left_s):
            return
