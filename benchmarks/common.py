"""What the benchmarks share: records, the two sides, a bare commit, rounds and rows.

Both sides store and send the same stamps, and records are built outside the timing.
"""

from __future__ import annotations

import contextlib
import copy
import gc
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench_encoding import typical_records
from opentelemetry.sdk._logs import LogRecordProcessor, ReadWriteLogRecord

from otel_memoir.clock import SystemClock
from otel_memoir.delivery.encoding import SEQUENCE, STREAM_EPOCH, STREAM_ID, UID
from otel_memoir.sdk import DurableLogRecordProcessor
from otel_memoir.stamping import new_uid

HERE = Path(__file__).resolve().parent
PATIENCE_S = 120.0
NOWHERE = "http://127.0.0.1:1"
"""Nothing listens on port 1: every try fails at once and backs off."""

_TYPICAL = typical_records()


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the results.

    Attributes:
        what: What was measured.

        ours: Our figure, with its unit.

        against: What it is held against, with its unit.

        ratios: The figure that has a target, one per round.

        target: The target, as it is written in the table.

        met: Whether the median meets the target; ``None`` where there is none.
    """

    what: str
    ours: str
    against: str
    ratios: Sequence[float]
    target: str
    met: bool | None

    @property
    def median(self) -> float:
        return statistics.median(self.ratios)


def row(what: str, ours: str, against: str, ratios: Sequence[float], target: str) -> Row:
    """Make a row; ``target`` is ``<= 0.5``, ``>= 2.5``, or empty."""
    sign, _, bound = target.partition(" ")
    median, met = statistics.median(ratios), None
    if bound:
        met = median <= float(bound) if sign == "<=" else median >= float(bound)
    return Row(what=what, ours=ours, against=against, ratios=ratios, target=target, met=met)


def p(times_us: Sequence[float], percent: float) -> float:
    """A percentile by nearest rank."""
    return sorted(times_us)[min(len(times_us) - 1, int(len(times_us) * percent / 100))]


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much is measured."""

    name: str
    rounds: int
    records: int
    emits: int
    drain: int
    backlog: int
    backlog_rounds: int = 12


QUICK = Scale(name="quick", rounds=5, records=10_000, emits=100, drain=20_000, backlog=200_000)
NORMAL = Scale(name="normal", rounds=9, records=10_000, emits=300, drain=20_000, backlog=200_000)
FULL = Scale(
    name="full", rounds=15, records=20_000, emits=500, drain=50_000, backlog=10_000_000,
    backlog_rounds=24,
)


def per_s(count: int, wall_s: float) -> str:
    return f"{count / wall_s:,.0f}/s"


def us(times_us: Sequence[float]) -> str:
    return f"p50 {p(times_us, 50):.0f} µs, p99 {p(times_us, 99):.0f} µs"


# -- records ----------------------------------------------------------------------


def fresh_records(count: int) -> list[ReadWriteLogRecord]:
    """Records as a logger hands them to a processor: nobody has changed them yet."""
    return [_fresh(_TYPICAL[number % len(_TYPICAL)]) for number in range(count)]


def _fresh(typical: Any) -> ReadWriteLogRecord:
    log = copy.copy(typical.log_record)
    log.attributes = dict(log.attributes)
    return ReadWriteLogRecord(log, typical.resource, typical.instrumentation_scope)


class StampingProcessor(LogRecordProcessor):
    """The stamps as attributes: what a user of the stock SDK would have to write."""

    def __init__(self, following: LogRecordProcessor) -> None:
        self._following = following
        self._lock = threading.Lock()
        self._sequence = 0
        self._stream_id = new_uid()
        self._clock = SystemClock()

    def on_emit(self, log_record: ReadWriteLogRecord) -> None:
        with self._lock:
            self._sequence += 1
            stamp(log_record, self._stream_id, self._sequence)
            if not log_record.log_record.timestamp:
                log_record.log_record.timestamp = self._clock.read()[0]
        self._following.on_emit(log_record)

    def shutdown(self) -> None:
        self._following.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return self._following.force_flush(timeout_millis)


def stamp(record: ReadWriteLogRecord, stream_id: str, sequence: int) -> None:
    """Write our stamps into a record's attributes."""
    attributes: Any = record.log_record.attributes
    attributes[UID] = new_uid()
    attributes[STREAM_ID] = stream_id
    attributes[STREAM_EPOCH] = 1
    attributes[SEQUENCE] = sequence


# -- the sides --------------------------------------------------------------------


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A directory of its own on the disk of the system's temporary files."""
    with tempfile.TemporaryDirectory(prefix="memoir-bench-") as name:
        yield Path(name)


@contextlib.contextmanager
def durable(directory: Path, endpoint: str, **given: Any) -> Iterator[DurableLogRecordProcessor]:
    """Our processor; no environment variable has a say."""
    given = {"spool_dir": str(directory), "shutdown_timeout_s": 0.5, **given}
    if "sender" not in given:
        given["endpoint"] = endpoint
    processor = DurableLogRecordProcessor(environ={}, **given)
    try:
        yield processor
    finally:
        processor.shutdown()


class Sink:
    """The sink of ``sink.py``, in a process of its own."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "sink.py")], stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        self.endpoint = f"http://127.0.0.1:{int(self._process.stdout.readline())}"

    def __enter__(self) -> Sink:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(PATIENCE_S)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def count(self) -> tuple[int, int, int]:
        """Requests, records and body bytes since the last count."""
        requests, records, size = self._get("/count").split()
        return int(requests), int(records), int(size)

    def wait(self, requests: int) -> int:
        """Wait until so many requests have come; return how many have."""
        return int(self._get(f"/wait/{requests}"))

    def _get(self, path: str) -> bytes:
        with urllib.request.urlopen(self.endpoint + path, timeout=PATIENCE_S) as answer:
            return bytes(answer.read())


class BareCommits:
    """One-row commits by bare sqlite3, as durable as ``power``: what the disk can do."""

    def __init__(self, directory: Path, payload: bytes) -> None:
        self._payload = payload
        self._connection = sqlite3.connect(directory / "bare.db", isolation_level=None)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = FULL")
        self._connection.execute("CREATE TABLE record (id INTEGER PRIMARY KEY, payload BLOB)")

    def __call__(self, _: object = None) -> None:
        self._connection.execute("INSERT INTO record (payload) VALUES (?)", (self._payload,))

    def close(self) -> None:
        self._connection.close()


def bare_commit_us(count: int = 300) -> list[float]:
    """Time bare commits now: what the disk of the moment is like."""
    with scratch() as directory:
        bare = BareCommits(directory, b"x" * 500)
        with contextlib.closing(bare):
            return each_us(bare, range(count))


# -- timing -----------------------------------------------------------------------


def each_us(work: Callable[[Any], object], items: Sequence[Any]) -> list[float]:
    """Time each call; microseconds."""
    times = []
    for item in items:
        begin_ns = time.perf_counter_ns()
        work(item)
        times.append((time.perf_counter_ns() - begin_ns) / 1000)
    return times


@dataclass(frozen=True)
class Cost:
    """What a stretch of work took, in seconds."""

    wall_s: float
    cpu_s: float


def cost(work: Callable[[], object]) -> Cost:
    """Time a stretch of work and this process's CPU time in all its threads."""
    gc.collect()
    begin_s, cpu_s = time.perf_counter(), time.process_time()
    work()
    return Cost(time.perf_counter() - begin_s, time.process_time() - cpu_s)


def in_threads(work: Callable[[Any], object], shares: Sequence[Sequence[Any]]) -> list[float]:
    """Call ``work`` for each item, a share per thread, begun together; µs of each call."""
    barrier = threading.Barrier(len(shares))
    taken: list[list[float]] = [[] for _ in shares]

    def run(number: int) -> None:
        barrier.wait(PATIENCE_S)
        taken[number] = each_us(work, shares[number])

    threads = [
        threading.Thread(target=run, args=(number,), name=f"bench-{number}")
        for number in range(len(shares))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    return [time_us for times in taken for time_us in times]


def resident_bytes() -> int:
    """Resident memory of this process (Linux: proc(5), statm)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096
