"""What many emitters share, what they do to an event loop, and what a stamp costs."""

from __future__ import annotations

import asyncio
import logging
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from common import (
    PATIENCE_S,
    Row,
    Scale,
    Sink,
    StampingProcessor,
    durable,
    fresh_records,
    in_threads,
    p,
    row,
    scratch,
)
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.instrumentation.logging.handler import LoggingHandler
from opentelemetry.sdk._logs import LoggerProvider, LogRecordProcessor
from opentelemetry.sdk._logs.export import (
    BatchLogRecordProcessor,
)

from otel_memoir.clock import Clock, SynchronizedClock, SystemClock
from otel_memoir.clock.options import ConfiguredSource
from otel_memoir.clock.sources.kernel import SystemClockSource
from otel_memoir.delivery.encoding import StampTemplate
from otel_memoir.sdk import DurableLogRecordProcessor
from otel_memoir.spool import Draft, Stream
from otel_memoir.spool.model import Stamper
from otel_memoir.stamping import new_uid, stream_stamper

# -- 4: many emitters -------------------------------------------------------------

THREADS = 64


class _CommitCount:
    """Counts the commits of a spool file by what SQLite says it runs."""

    def __init__(self, processor: DurableLogRecordProcessor) -> None:
        parts = processor.pipeline._made["parts"]
        assert parts.spool.file is not None
        self._connection = parts.spool.file.connection
        self.commits = 0

    def __enter__(self) -> _CommitCount:
        self._connection.set_trace_callback(self._note)
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.set_trace_callback(None)

    def _note(self, statement: str) -> None:
        self.commits += statement == "COMMIT"


def threads(scale: Scale) -> list[Row]:
    """64 threads: how many records one fsync carries; the courier's commits count too."""
    shares: list[list[float]] = [[], []]
    with Sink() as sink, scratch() as directory, durable(directory, sink.endpoint) as processor:
        ways = (_directly, _by_logging)
        for _ in range(scale.rounds):
            for way, per_commit in zip(ways, shares):
                per_commit.append(_records_per_commit(processor, way, scale.emits // 4))
    bound = f">= {0.35 * THREADS:.1f}"
    names = ("to the processor", "through stdlib logging")
    return [
        row(f"`power`, {THREADS} threads, {name}: records per fsync",
            f"{statistics.median(found):.1f}", "itself", found, bound)
        for name, found in zip(names, shares)
    ]


_Way = Callable[[DurableLogRecordProcessor, int], Any]


def _records_per_commit(processor: DurableLogRecordProcessor, way: _Way, count: int) -> float:
    processor.on_emit(fresh_records(1)[0])
    processor.wait_delivered(PATIENCE_S)
    work, shares = way(processor, count)
    with _CommitCount(processor) as counted:
        in_threads(work, shares)
        commits = counted.commits
    processor.wait_delivered(PATIENCE_S)
    return THREADS * count / commits


def _directly(processor: DurableLogRecordProcessor, count: int) -> Any:
    return processor.on_emit, [fresh_records(count) for _ in range(THREADS)]


def _by_logging(processor: DurableLogRecordProcessor, count: int) -> Any:
    provider = LoggerProvider(shutdown_on_exit=False)
    provider.add_log_record_processor(processor)
    logger = logging.Logger("bench", logging.INFO)
    handler = LoggingHandler(logger_provider=provider)
    # Logging holds a handler's lock during emit: 64 threads would commit one by one.
    handler.lock = None
    logger.addHandler(handler)
    return (lambda n: logger.info("record %d", n)), [range(count)] * THREADS


def loop(scale: Scale) -> list[Row]:
    """64 asyncio tasks that emit and yield: how late a timer of the loop fires.

    The tasks never pause, so a turn of the loop is 64 emits; the stock side tells what of
    the lag is that. The file is opened before: that is measured with the backlog.
    """
    ours: list[float] = []
    stock: list[float] = []
    with Sink() as sink, scratch() as directory, durable(directory, sink.endpoint) as processor:
        batcher = BatchLogRecordProcessor(
            OTLPLogExporter(f"{sink.endpoint}/v1/logs"), max_queue_size=2**20
        )
        stamped = StampingProcessor(batcher)
        processor.on_emit(fresh_records(1)[0])
        for _ in range(scale.rounds):
            processor.wait_delivered(PATIENCE_S)
            ours += asyncio.run(_lags_ms(processor, scale.emits))
            processor.wait_delivered(PATIENCE_S)
            stock += asyncio.run(_lags_ms(stamped, scale.emits))
            stamped.force_flush()
        stamped.shutdown()
    return [row(f"`power`, {THREADS} asyncio tasks: loop lag p99 in ms", _ms(ours),
                f"{_ms(stock)} stock batch processor", [p(ours, 99)], "<= 5")]


def _ms(times_ms: Sequence[float]) -> str:
    percents = (50, 99, 100)
    return ", ".join(f"p{n} {p(times_ms, n):.1f}" for n in percents) + f" ms of {len(times_ms)}"


async def _lags_ms(processor: LogRecordProcessor, count: int) -> list[float]:
    running, lags = asyncio.get_running_loop(), []

    def tick(due_s: float) -> None:
        lags.append((running.time() - due_s) * 1000)
        again()

    def again() -> None:
        due_s = running.time() + 0.001
        timers[0] = running.call_at(due_s, tick, due_s)

    async def emitter(records: Sequence[Any]) -> None:
        for record in records:
            processor.on_emit(record)
            await asyncio.sleep(0)  # Yields to the other tasks; it waits for nothing.

    shares = [fresh_records(count) for _ in range(THREADS)]
    timers: list[Any] = [None]
    again()
    await asyncio.gather(*map(emitter, shares))
    timers[0].cancel()
    return lags


# -- 8: a stamp -------------------------------------------------------------------


def stamps(scale: Scale) -> list[Row]:
    """Taking a stamp as ``append`` does, under its lock, and its parts."""
    draft = Draft(b"", b"", 9, new_uid(), False)
    works: dict[str, Callable[[], object]] = {"making an id (before the lock)": new_uid}
    clocks = _clocks()
    for name, clock in clocks.items():
        works[f"reading the clock, {name}"] = clock.read
        works[f"taking a stamp (under the lock), {name}"] = partial(_stamper(clock), draft, 100_000)
    rounds = [(_ns(time.time_ns), {name: _ns(work) for name, work in works.items()})
              for _ in range(40 * scale.rounds)]
    base = statistics.median(base for base, _ in rounds)
    for clock in clocks.values():
        if isinstance(clock, SynchronizedClock):
            clock.close()
    return [
        row(name, f"{statistics.median(of[name] for _, of in rounds):.0f} ns",
            f"{base:.0f} ns `time.time_ns()`", [of[name] / base for base, of in rounds],
            "<= 12" if "stamp" in name else "")
        for name in works
    ]


def _clocks() -> dict[str, Clock]:
    """The clocks that can be chosen, calibrated: their sources do not matter to a reading."""
    local = ConfiguredSource(SystemClockSource(unknown_ns=5_000_000))
    found: dict[str, Clock] = {"system": SystemClock()}
    for mode in ("observe", "correct"):
        clock = SynchronizedClock(sources=[local], mode=mode)  # type: ignore[arg-type]
        assert clock.wait_synced(PATIENCE_S)
        found[f"synchronized, {mode}"] = clock
    return found


def _stamper(clock: Clock) -> Stamper:
    template = StampTemplate(new_uid(), 3)
    return stream_stamper(
        Stream(new_uid(), 3), clock=clock, make_suffix=lambda _: template.suffix
    )


def _ns(work: Callable[[], object], count: int = 500) -> float:
    begin_ns = time.perf_counter_ns()
    for _ in range(count):
        work()
    return (time.perf_counter_ns() - begin_ns) / count


BENCHES: dict[str, Callable[[Scale], list[Row]]] = {
    "threads": threads, "loop": loop, "stamps": stamps,
}
