"""Queries over what a spool retains: what indexing costs, how long an answer takes, and what
an emitter feels of somebody who asks beside it.

The spool is written by the product's own file layer, in large transactions, with a ledger of
delivered batches of 500; the events are typical ones, stamped. Everything that is timed is
what a user calls.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from common import (
    PATIENCE_S,
    Row,
    Scale,
    Sink,
    cost,
    durable,
    each_us,
    fresh_records,
    p,
    row,
    scratch,
    us,
)

from otel_memoir.delivery import wire
from otel_memoir.delivery.encoding import StampTemplate, join_envelope
from otel_memoir.events import names
from otel_memoir.retrieval.query import Retrieval
from otel_memoir.spool import Draft, State, ledger
from otel_memoir.spool.connection import transaction
from otel_memoir.spool.directory import prepare_directory, slots, take_slot
from otel_memoir.spool.file import SpoolFile
from otel_memoir.spool.model import Batch, Entry, Life, Stream
from otel_memoir.spool.rows import stored_records
from otel_memoir.stamping import new_uid
from otel_memoir.stamping.readers import event_of

RECORDS = {"quick": 50_000, "normal": 1_000_000, "full": 1_000_000}
ASKED, SCANNED = 40, 10_000
ASKING_S = 2.0
PAUSE_S = 0.05
KEPT: dict[str, Any] = {"retain_s": 1e9, "retain_bytes_max": 2**40}
BATCH = 500
BEGIN_NS = 1_760_000_000 * 10**9
STEP_NS = 50_000_000
ENVELOPE = join_envelope(b"\x0a\x00", b"\x0a\x00")
KINDS = (
    (names.EVENT_RECORD_UPDATED,) * 300 + (names.EVENT_RECORD_READ,) * 300
    + (names.EVENT_RECORD_CREATED,) * 150 + (names.EVENT_RECALL_COMPLETED,) * 200
    + (names.EVENT_RECORD_DELETED,) * 49 + (names.EVENT_WRITE_CONFLICT,)
)


# -- a spool that retains much --------------------------------------------------


def fill(directory: Path, count: int) -> None:
    """Write a spool file with so many delivered events of an agent's memory."""
    prepare_directory(directory)
    lock = take_slot(directory)
    with contextlib.closing(SpoolFile(lock, synchronous="NORMAL")) as file:
        number, stream = file.begin_stream(BEGIN_NS)
        life = Life("", number, stream, _no_stamp)
        payloads = _payloads(stream)
        for first in range(1, count + 1, BATCH):
            entries = [
                Entry(life, n, first // BATCH + 1, ENVELOPE, 9, BEGIN_NS + n * STEP_NS,
                      len(payload), False, payload)
                for n, payload in zip(range(first, min(first + BATCH, count + 1)), payloads)
            ]
            with transaction(file.connection):
                file.insert(number, entries)
                _deliver(file, number, entries)
        file.end_stream(number, count)


def _deliver(file: SpoolFile, stream: int, entries: list[Entry]) -> None:
    first, last = entries[0].sequence, entries[-1].sequence
    batch = Batch(
        number=entries[0].batch, stream=stream, first_id=first, last_id=last,
        first_sequence=first, last_sequence=last, records=len(entries),
        bytes=sum(entry.size for entry in entries),
    )
    ledger.open_batch(file.connection, batch)
    ledger.settle(file.connection, batch, State.DELIVERED, unix_ns=entries[-1].unix_ns)


def _no_stamp(draft: Draft, sequence: int) -> tuple[bytes, int]:
    raise NotImplementedError("the payloads have their stamps")


def _payloads(stream: Stream) -> Iterator[bytes]:
    """Stamped events, each unlike the next: 20 stores, 50,000 memory records, 10 agents."""
    template = StampTemplate(stream.stream_id, stream.epoch)
    chance = random.Random(1)
    for sequence in itertools.count(1):
        stamp = template.suffix(
            new_uid(), sequence, BEGIN_NS + sequence * STEP_NS, error_bound_ns=1_000_000
        )
        yield _event(sequence, chance) + stamp


def _event(sequence: int, chance: random.Random) -> bytes:
    """An event as the product encodes it. (Made by ``MemoryEvent`` a million take minutes.)"""
    kind = chance.choice(KINDS)
    one = f"profile/user-{chance.randrange(50_000)}"
    attributes: dict[str, Any] = {
        names.SCHEMA_VERSION: 1, names.GEN_AI_OPERATION_NAME: "update_memory",
        names.GEN_AI_MEMORY_STORE_ID: f"store-{chance.randrange(20)}",
        names.GEN_AI_AGENT_ID: f"agent-{chance.randrange(10)}",
        names.GEN_AI_CONVERSATION_ID: f"conversation-{sequence // 50}",
    }
    if kind == "memoir.recall.completed":
        ids = [f"profile/user-{chance.randrange(50_000)}" for _ in range(5)]
        attributes |= {names.RECORD_IDS: ids, names.GEN_AI_MEMORY_RECORD_COUNT: 5}
    else:
        attributes[names.GEN_AI_MEMORY_RECORD_ID] = one
    body = wire.any_value(f"memory record {one} was updated by consolidation", 90)
    trace = 1 + (sequence // 5) * 0x9E3779B97F4A7C15 % 2**127
    return b"".join((
        b"\x10\x09", wire.field(b"\x2a", body), wire.key_values(b"\x32", attributes.items(), 90),
        b"\x4a\x10", trace.to_bytes(16, "big"), b"\x52\x08", sequence.to_bytes(8, "big"),
        wire.text_field(b"\x62", kind),
    ))


# -- what is asked ---------------------------------------------------------------


def questions(count: int, stream: str, chance: random.Random) -> dict[str, dict[str, Any]]:
    """A typical question of each kind, of a spool with so many events."""
    one, at = f"profile/user-{chance.randrange(50_000)}", chance.randrange(count)
    trace = 1 + (at // 5) * 0x9E3779B97F4A7C15 % 2**127
    return {
        "the newest 20": {"newest_first": True, "limit": 20},
        "one memory record": {"record": one},
        "one conversation": {"conversation": f"conversation-{at // 50}"},
        "one trace": {"trace": f"{trace:032x}"},
        "a rare event, newest 20": {
            "event": names.EVENT_WRITE_CONFLICT, "newest_first": True, "limit": 20},
        "a common event and an agent, 20": {
            "event": names.EVENT_RECORD_UPDATED, "agent": "agent-3", "limit": 20},
        "a store since a time, 20": {
            "store": "store-7", "since": BEGIN_NS + at * STEP_NS, "limit": 20},
        "50 numbers of a stream": {
            "stream": stream, "first_sequence": at + 1, "last_sequence": at + 50},
        "what waits": {"state": "pending", "limit": 20},
    }


def query(scale: Scale) -> list[Row]:
    """Indexing, answers, and emit beside somebody who asks."""
    count = RECORDS[scale.name]
    with scratch() as place, Sink() as sink:
        directory = place / "spool"
        fill(directory, count)
        rows = [_indexing(directory, count), *_answers(directory, count)]
        for durability in ("power", "batch"):
            rows += _beside(directory, count, durability, sink, scale)
    return rows


def _indexing(directory: Path, count: int) -> Row:
    """Held against reading the same records one by one, which each answer would take without."""
    some = itertools.islice(stored_records(slots(directory)[0].database), SCANNED)
    scan = cost(lambda: [event_of(record.payload) for record in some])
    with Retrieval(directory) as retrieval:
        taken = cost(retrieval.refresh)
    size = sum(file.stat().st_size for file in directory.glob("memoir-index.db*"))
    return row(
        f"reading {count:,} records into the index: records/s of CPU time",
        f"{count / taken.cpu_s:,.0f}/s of CPU, {count / taken.wall_s:,.0f}/s of wall time, "
        f"{size / count:.0f} bytes a record",
        f"{SCANNED / scan.cpu_s:,.0f}/s of CPU, to read their stamps alone",
        [count / taken.cpu_s], ">= 50000",
    )


def _answers(directory: Path, count: int) -> list[Row]:
    """Each kind of question, again and again: what it takes of the processor, and how long."""
    asked: dict[str, list[tuple[float, float, int]]] = {}
    chance = random.Random(2)
    with Retrieval(directory) as retrieval:
        stream = retrieval.page(limit=1).events[0].place.stream_id
        for _ in range(ASKED):
            for name, question in questions(count, stream, chance).items():
                asked.setdefault(name, []).append(_timed(lambda q=question: retrieval.page(**q)))
            record = f"profile/user-{chance.randrange(50_000)}"
            asked.setdefault("the history of a memory record", []).append(
                _timed(lambda r=record: retrieval.history(r))
            )
    return [_answer(f"query of {count:,}: {name}", times) for name, times in asked.items()]


def _timed(ask: Callable[[], Any]) -> tuple[float, float, int]:
    """Milliseconds of this thread's CPU time, of wall time, and how many were found."""
    cpu_s, begin_s = time.thread_time(), time.perf_counter()
    found = len(ask())
    return (time.thread_time() - cpu_s) * 1e3, (time.perf_counter() - begin_s) * 1e3, found


def _answer(what: str, times: list[tuple[float, float, int]]) -> Row:
    cpu_ms, wall_ms, found = (list(column) for column in zip(*times))
    return row(
        f"{what}, ms of CPU", f"p50 {p(cpu_ms, 50):.1f} ms, p99 {p(cpu_ms, 99):.1f} ms",
        f"wall time p50 {p(wall_ms, 50):.1f} ms; {p(found, 50):.0f} found",
        [p(cpu_ms, 50)], "<= 10",
    )


# -- beside an emitter -------------------------------------------------------------


def _beside(
    directory: Path, count: int, durability: str, sink: Sink, scale: Scale
) -> list[Row]:
    """Emit alone, and while a process or a thread asks; rounds interleaved."""
    taken: dict[str, list[float]] = {"alone": [], "process": [], "thread": []}
    ratios: dict[str, list[float]] = {"process": [], "thread": []}
    with durable(directory, sink.endpoint, durability=durability, **KEPT) as processor, _Asker(
        directory, count
    ) as asker:
        each_us(processor.on_emit, fresh_records(scale.emits))
        for _ in range(scale.rounds):
            here = {
                "alone": each_us(processor.on_emit, fresh_records(scale.emits)),
                "process": asker.beside(lambda: _emit(processor, scale.emits)),
                "thread": _beside_a_thread(directory, count, processor, scale.emits),
            }
            for name, times in here.items():
                taken[name] += times
                if name != "alone":
                    ratios[name].append(p(times, 50) / p(here["alone"], 50))
    how = {"process": "a process asks without a pause", "thread": "a thread asks 20 times a second"}
    return [
        row(f"`{durability}` emit p50, while {how[name]}", us(taken[name]),
            f"{us(taken['alone'])} alone", ratios[name], "") for name in ratios
    ]


def _emit(processor: Any, count: int) -> list[float]:
    return each_us(processor.on_emit, fresh_records(count))


def _beside_a_thread(
    directory: Path, count: int, processor: Any, emits: int
) -> list[float]:
    stop, ready = threading.Event(), threading.Event()

    def ask() -> None:
        with Retrieval(directory) as retrieval:
            for asked in _endlessly(retrieval, count):
                retrieval.page(**asked)
                ready.set()
                if stop.wait(PAUSE_S):
                    return

    thread = threading.Thread(target=ask, name="bench-asker")
    thread.start()
    ready.wait(PATIENCE_S)
    times = _emit(processor, emits)
    stop.set()
    thread.join(PATIENCE_S)
    return times


def _endlessly(retrieval: Retrieval, count: int) -> Iterator[Mapping[str, Any]]:
    chance, stream = random.Random(3), retrieval.page(limit=1).events[0].place.stream_id
    while True:
        yield from questions(count, stream, chance).values()


class _Asker:
    """A process that asks when told to, for as long as told."""

    def __init__(self, directory: Path, count: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(directory), str(count)], text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )

    def __enter__(self) -> _Asker:
        self._answer()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(PATIENCE_S)
        self._process.stdout.close()

    def _answer(self) -> int:
        assert self._process.stdout is not None
        return int(self._process.stdout.readline())

    def beside(self, work: Callable[[], list[float]]) -> list[float]:
        """Do something again and again while the process asks."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{ASKING_S}\n")
        self._process.stdin.flush()
        ends_s, times = time.monotonic() + ASKING_S, []
        while time.monotonic() < ends_s:
            times += work()
        assert self._answer() > 0
        return times


def _asker(directory: str, count: int) -> None:
    with Retrieval(directory) as retrieval:
        asked = _endlessly(retrieval, count)
        retrieval.page(**next(asked))
        print(1, flush=True)
        for line in sys.stdin:
            ends_s, done = time.monotonic() + float(line), 0
            while time.monotonic() < ends_s:
                retrieval.page(**next(asked))
                done += 1
            print(done, flush=True)


BENCHES = {"query": query}

if __name__ == "__main__":
    _asker(sys.argv[1], int(sys.argv[2]))
