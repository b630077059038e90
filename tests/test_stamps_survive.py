"""Kills and steps of the wall clock: what they must not do to the stamps of a stream."""

from __future__ import annotations

import signal
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from opentelemetry._logs import LogRecord
from opentelemetry.sdk._logs import LoggerProvider

from host_programs.hosting import (
    TIMEOUT_S,
    assert_accounted,
    drain,
    hosted,
    names,
    program,
    until,
)
from otel_memoir import DurableLogRecordProcessor
from otel_memoir.clock import SynchronizedClock
from otel_memoir.testing import NtpAnswer, ScriptedCollector, ScriptedNtpServer
from socket_programs.wiring import FAST

STEPS_S = (0, -3, -8, 5, -2)
"""By how much the wall clock of each life is wrong; none is set back by ten seconds or more."""

ENOUGH = 20

Epoch = tuple[str, int]


@pytest.fixture
def collector() -> Iterator[ScriptedCollector]:
    with ScriptedCollector() as running:
        yield running


def live_and_die(
    tmp_path: Path, collector: ScriptedCollector, durability: str, *arguments: str
) -> list[str]:
    """Lives that are killed while they emit, once something of theirs arrived.

    Returns:
        What they said they had emitted.
    """
    emitted: list[str] = []
    for life, step_s in enumerate(STEPS_S):
        command = program("stamping.py", f"life{life}", str(step_s), *arguments)
        name, given = f"life{life}.{ENOUGH}", {"MEMOIR_DURABILITY": durability}
        with hosted(command, tmp_path, collector.endpoint, **given) as host:
            assert collector.wait_for(lambda c, name=name: name in names(c.delivered), TIMEOUT_S)
            assert host.end(signal.SIGKILL) == -signal.SIGKILL
            emitted += host.emitted
    drain(tmp_path / "spool", collector.endpoint)
    return emitted


def by_epoch(records: Sequence[Any]) -> dict[Epoch, dict[int, Any]]:
    """The records of each epoch of each stream, by their numbers."""
    found: dict[Epoch, dict[int, Any]] = defaultdict(dict)
    for record in records:
        found[record.stream_id, record.epoch][record.sequence] = record
    return found


def told_missing(records: Sequence[Any]) -> dict[Epoch, set[int]]:
    """The numbers that gap events name."""
    found: dict[Epoch, set[int]] = defaultdict(set)
    for record in records:
        gap = {k.removeprefix("memoir.gap."): v for k, v in record.attributes.items()}
        if record.event_name == "memoir.delivery.gap" and "first_sequence" in gap:
            numbers = range(gap["first_sequence"], gap["last_sequence"] + 1)
            found[gap["stream.id"], gap["stream.epoch"]].update(numbers)
    return found


def regressions(records: Sequence[Any]) -> list[tuple[Any, Any]]:
    """Neighbours in a stream, over its epochs, of which the later has the lesser time.

    An event of a gap tells when the gap was noticed, so it does not count.
    """
    streams: dict[str, list[tuple[int, int, int]]] = defaultdict(list)
    for record in records:
        if record.event_name != "memoir.delivery.gap":
            streams[record.stream_id].append(
                (record.epoch, record.sequence, record.proto.time_unix_nano)
            )
    return [
        (a, b) for stream in streams.values() for a, b in pairwise(sorted(set(stream)))
        if a[2] >= b[2]
    ]


@pytest.mark.slow
@pytest.mark.parametrize("durability", ["power", "process", "batch"])
def test_no_kill_and_no_step_of_the_clock_breaks_a_stream(
    durability: str, collector: ScriptedCollector, tmp_path: Path
) -> None:
    """No number is given twice, no time is below one before it, and every hole is named."""
    emitted = live_and_die(tmp_path, collector, durability)
    records = collector.delivered
    uids = {((r.stream_id, r.epoch), r.sequence): {r.uid} for r in records}
    for record in records:
        uids[(record.stream_id, record.epoch), record.sequence].add(record.uid)
    assert [where for where, found in uids.items() if len(found) > 1] == []
    assert regressions(records) == []
    missing = told_missing(records)
    for epoch, numbered in by_epoch(records).items():
        holes = set(range(1, max(numbered) + 1)) - set(numbered)
        assert holes <= missing.get(epoch, set()), (epoch, holes)
        assert not missing.get(epoch, set()) & set(numbered)
    assert len(by_epoch(records)) >= len(STEPS_S)
    lost = set(emitted) - set(names(records))
    assert bool(missing) is (durability == "batch")
    assert durability == "batch" or not lost
    assert len(lost) <= sum(map(len, missing.values()))
    assert_accounted(tmp_path / "spool")


@pytest.mark.slow
def test_lives_that_do_not_care_what_was_stamped_before_go_back_in_time(
    collector: ScriptedCollector, tmp_path: Path
) -> None:
    """Negative control: the wall clock alone lets a stream's times decrease."""
    live_and_die(tmp_path, collector, "power", "forgetful")
    lives = Counter((a[0], b[0]) for a, b in regressions(collector.delivered))
    assert {(1, 2), (2, 3)} <= set(lives)


class Correctable:
    """A clock in mode `correct` that finds out how wrong it was."""

    status, epoch = "", 0

    def __init__(self) -> None:
        self.ahead_ns = 2000 * 10**9

    def read(self) -> tuple[int, int | None]:
        return time.time_ns() + self.ahead_ns, 10**6

    def find_out(self) -> None:
        """A majority confirmed it: go back, in a new epoch."""
        self.ahead_ns, self.epoch = 0, 1


def test_a_clock_that_has_to_go_back_begins_the_next_epoch_of_the_stream(
    collector: ScriptedCollector, tmp_path: Path
) -> None:
    """No time of a stream decreases within an epoch, and later epochs have the right time."""
    clock = Correctable()
    processor = DurableLogRecordProcessor(
        **FAST, endpoint=collector.endpoint, spool_dir=str(tmp_path), clock=clock
    )
    provider = LoggerProvider()
    provider.add_log_record_processor(processor)
    logger = provider.get_logger("proof")

    def emit() -> int:
        logger.emit(LogRecord(body="hello"))
        assert processor.wait_delivered(TIMEOUT_S)
        return int(collector.delivered[-1].epoch)

    assert emit() == emit() == 1
    clock.find_out()
    assert until(lambda: emit() == 2)
    provider.shutdown()
    in_epoch = by_epoch(collector.delivered)
    (stream,) = {stream for stream, _ in in_epoch}
    assert regressions([*in_epoch[stream, 1].values()]) == []
    last, first = in_epoch[stream, 1][max(in_epoch[stream, 1])], in_epoch[stream, 2][1]
    assert last.proto.time_unix_nano - first.proto.time_unix_nano > 1900 * 10**9
    assert [r for r in collector.delivered if r.event_name == "memoir.delivery.gap"] == []
    assert_accounted(tmp_path)


@pytest.mark.parametrize("mode", ["observe", "correct"])
def test_a_record_carries_the_bound_that_its_servers_allow(
    mode: Any, collector: ScriptedCollector, tmp_path: Path
) -> None:
    """Servers that are two seconds ahead: `observe` says so in the bound, `correct` follows."""
    ahead = NtpAnswer(offset_s=2.0)
    with ExitStack() as stack:
        servers = [stack.enter_context(ScriptedNtpServer(lambda _: ahead)) for _ in range(3)]
        told = ",".join(f"ntp://127.0.0.1:{server.port}" for server in servers)
        clock = SynchronizedClock(sources=told.split(","), directory=tmp_path / "clock", mode=mode)
        stack.callback(clock.close)
        processor = DurableLogRecordProcessor(
            **FAST, endpoint=collector.endpoint, spool_dir=str(tmp_path / "spool"), clock=clock
        )
        provider = LoggerProvider()
        provider.add_log_record_processor(processor)
        assert clock.wait_synced(TIMEOUT_S)
        before_ns = time.time_ns()
        provider.get_logger("proof").emit(LogRecord(body="hello"))
        after_ns = time.time_ns()
        assert processor.wait_delivered(TIMEOUT_S)
        provider.shutdown()
    (record,) = collector.delivered
    bound_ns = record.attributes["memoir.clock.error_bound"]
    assert "memoir.clock.status" not in record.attributes
    if mode == "observe":
        assert before_ns <= record.proto.time_unix_nano <= after_ns
        assert 2 * 10**9 < bound_ns < 3 * 10**9
    else:
        true_ns = record.proto.time_unix_nano - 2 * 10**9
        assert before_ns - bound_ns <= true_ns <= after_ns + bound_ns
        assert bound_ns < 10**9
