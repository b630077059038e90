"""Locks under contention, against other locks, and what telling of it costs.

The others have no names, no owners, no fences, no ancestors, no deadlock check and no
telemetry. Each unit takes the lock, gives way to others, lets go, and begins again: without
giving way inside, hardly anybody would ever wait, as only one runs at a time.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from functools import partial
from typing import Any

from common import PATIENCE_S, Row, Scale, per_s, row
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider

from otel_memoir.locks import LockManager

GROUP = "install the peers: pip install --group bench"
HOLDS = 3_000
"""By all units of one round together."""
FREE_HOLDS = 5_000
READS = 7  # of eight; the rest are writes

Hold = Callable[[], AbstractContextManager[Any]]
HoldAsync = Callable[[], AbstractAsyncContextManager[Any]]


def threads_s(holds: Sequence[Hold], units: int) -> float:
    """Let threads take turns; seconds for ``HOLDS`` in all. Each goes through ``holds``."""
    barrier = threading.Barrier(units + 1)

    def work() -> None:
        barrier.wait(PATIENCE_S)
        for number in range(HOLDS // units):
            with holds[number % len(holds)]():
                os.sched_yield()

    threads = [
        threading.Thread(target=work, name=f"bench-{number}") for number in range(units)
    ]
    for thread in threads:
        thread.start()
    barrier.wait(PATIENCE_S)
    begin_s = time.perf_counter()
    for thread in threads:
        thread.join(PATIENCE_S)
    return time.perf_counter() - begin_s


def tasks_s(side: str, units: int) -> float:
    """Let the tasks of one loop take turns; seconds for ``HOLDS`` in all."""
    hold = task_sides()[side]

    async def work() -> None:
        for _ in range(HOLDS // units):
            async with hold():
                await asyncio.sleep(0)

    async def main() -> float:
        begin_s = time.perf_counter()
        await asyncio.gather(*(work() for _ in range(units)))
        return time.perf_counter() - begin_s

    return asyncio.run(main())


# -- the sides --------------------------------------------------------------------


def thread_sides() -> dict[str, Hold]:
    """Ours first; one lock each."""
    aiologic = _peer("aiologic")
    locks, plain, logic = LockManager(), threading.Lock(), aiologic.Lock()
    return {
        "ours": lambda: locks.hold("name"),
        "threading.Lock": lambda: plain,
        "aiologic.Lock": lambda: logic,
    }


def task_sides() -> dict[str, HoldAsync]:
    """Ours first; one lock each, for one loop."""
    aiologic = _peer("aiologic")
    locks, plain, logic = LockManager(), asyncio.Lock(), aiologic.Lock()
    return {
        "ours": lambda: locks.hold("name"),
        "asyncio.Lock": lambda: plain,
        "aiologic.Lock": lambda: logic,
    }


def reader_sides() -> dict[str, Sequence[Hold]]:
    """Ours first: seven reads, one write."""
    rwlock = _peer("readerwriterlock.rwlock")
    locks, fair = LockManager(), rwlock.RWLockFair()
    return {
        "ours": _mixed(lambda: locks.hold("name", "shared"), lambda: locks.hold("name")),
        "readerwriterlock.RWLockFair": _mixed(fair.gen_rlock, fair.gen_wlock),
    }


def _mixed(read: Hold, write: Hold) -> list[Hold]:
    return [*[read] * READS, write]


def _peer(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise SystemExit(f"{error}: {GROUP}") from error


# -- rows -------------------------------------------------------------------------


def _against(what: str, times: dict[str, list[float]]) -> list[Row]:
    """Ours to each of the others: a ratio of throughputs for each round."""
    ours, *others = times
    return [
        row(
            what, per_s(HOLDS, statistics.median(times[ours])),
            f"{per_s(HOLDS, statistics.median(times[other]))} {other}",
            [theirs / mine for mine, theirs in zip(times[ours], times[other])], "",
        )
        for other in others
    ]  # fmt: skip


def _rounds(scale: Scale, measures: dict[str, Callable[[], float]]) -> dict[str, list[float]]:
    """Interleaved: each round measures every side once."""
    times: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(scale.rounds):
        for name, measure in measures.items():
            times[name].append(measure())
    return times


def contended_threads(scale: Scale) -> list[Row]:
    """Threads on one lock."""
    rows = []
    for units in (4, 16):
        measures = {
            name: partial(threads_s, [hold], units) for name, hold in thread_sides().items()
        }
        rows += _against(f"{units} threads on one lock", _rounds(scale, measures))
    return rows


def contended_tasks(scale: Scale) -> list[Row]:
    """Tasks on one lock."""
    rows = []
    for units in (16, 64):
        measures = {name: partial(tasks_s, name, units) for name in task_sides()}
        rows += _against(f"{units} tasks on one lock", _rounds(scale, measures))
    return rows


def readers_and_writers(scale: Scale) -> list[Row]:
    """Threads of which seven of eight steps read."""
    measures = {name: partial(threads_s, holds, 8) for name, holds in reader_sides().items()}
    return _against("8 threads, 7 reads to 1 write", _rounds(scale, measures))


# -- telemetry --------------------------------------------------------------------


class Told:
    """A manager with a whole SDK, in memory, and a span that records."""

    def __init__(self) -> None:
        self.loggers = LoggerProvider(shutdown_on_exit=False)
        self.loggers.add_log_record_processor(
            SimpleLogRecordProcessor(InMemoryLogRecordExporter())
        )
        self.meters = MeterProvider([InMemoryMetricReader()], shutdown_on_exit=False)
        self.tracer = TracerProvider(shutdown_on_exit=False).get_tracer("bench")
        self.locks = LockManager(
            logger_provider=self.loggers, meter_provider=self.meters, events="both"
        )


def free_s(locks: LockManager) -> float:
    """Seconds for ``FREE_HOLDS`` of a free lock."""
    begin_s = time.perf_counter()
    for _ in range(FREE_HOLDS):
        with locks.hold("name"):
            pass
    return time.perf_counter() - begin_s


def telemetry(scale: Scale) -> list[Row]:
    """The same with an SDK and without: free, and by four threads."""
    told, silent = Told(), LockManager()

    def hold_in_span(locks: LockManager) -> Hold:
        return lambda: locks.hold("name")

    def free_in_span() -> float:
        with told.tracer.start_as_current_span("bench"):
            return free_s(told.locks)

    cases: list[tuple[str, int, dict[str, Callable[[], float]]]] = [
        ("telemetry on, a free lock", FREE_HOLDS,
         {"on": free_in_span, "off": lambda: free_s(silent)}),
        ("telemetry on, 4 threads on one lock", HOLDS,
         {"on": lambda: threads_s([hold_in_span(told.locks)], 4),
          "off": lambda: threads_s([hold_in_span(silent)], 4)}),
    ]  # fmt: skip
    return [_cost(what, count, _rounds(scale, sides)) for what, count, sides in cases]


def _cost(what: str, count: int, times: dict[str, list[float]]) -> Row:
    on, off = (f"{statistics.median(times[name]) / count * 1e6:.2f} µs" for name in ("on", "off"))
    ratios = [with_sdk / without for with_sdk, without in zip(times["on"], times["off"])]
    return row(what, on, f"{off} without an SDK", ratios, "")


def peers(scale: Scale) -> list[Row]:
    """All rows."""
    return [
        *contended_threads(scale), *contended_tasks(scale), *readers_and_writers(scale),
        *telemetry(scale),
    ]  # fmt: skip
