"""Endpoint, headers, batching and retention change many times while threads emit."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from otel_memoir.delivery.dispatch import Dispatcher
from otel_memoir.testing import ScriptedCollector
from socket_programs.wiring import Agent, agent, numbers
from spool_helpers import problems_of

CHANGES = int(os.environ.get("MEMOIR_RELOADS", "120"))
"""How many changes; MEMOIR_RELOADS=5000 makes it a long run."""

THREADS = 4
TIMEOUT_S = 60.0
ANYONE_WAITS = threading.Event()
HEADER = "x-change"


@pytest.fixture
def collectors() -> Iterator[list[ScriptedCollector]]:
    with ScriptedCollector() as one, ScriptedCollector() as other:
        yield [one, other]


def settings_of(change: int, collectors: list[ScriptedCollector]) -> dict[str, Any]:
    """What the change of a number says; the header tells which endpoint it belongs to."""
    over_grpc = change % 7 == 0
    collector = collectors[change % 2]
    return {
        "endpoint": collector.grpc_endpoint if over_grpc else collector.endpoint,
        "protocol": "grpc" if over_grpc else "http/protobuf",
        "headers": {HEADER: str(change)},
        "compression": ("none", "gzip")[change // 2 % 2],
        "request_records_max": 1 + change * 7 % 50,
        "request_bytes_max": (1024, 100_000)[change // 3 % 2],
        "linger_s": (0.0, 0.02)[change // 4 % 2],
        "retain_s": (0.0, 3600.0)[change // 5 % 2],
        "backoff_initial_s": (0.01, 0.5)[change // 6 % 2],
    }


def emit_until(it: Agent, stopping: threading.Event, first: int, emitted: list[int]) -> None:
    number = first
    while not stopping.is_set():
        it.logger.emit(body="hello", attributes={"number": number})
        emitted.append(number)
        number += THREADS
        ANYONE_WAITS.wait(0.002)


class Run(NamedTuple):
    """What came of a run: the numbers that were emitted, and the totals at its end."""

    emitted: list[int]
    totals: Any


def reload_under_load(
    spool_dir: Path, collectors: list[ScriptedCollector], changes: int, *, at_once: bool = True
) -> Run:
    """Change all the time while threads emit.

    Args:
        at_once: Each change as a whole; else one setting after the other.
    """
    stopping = threading.Event()
    emitted: list[list[int]] = [[] for _ in range(THREADS)]
    with agent(spool_dir, **{**settings_of(0, collectors), "durability": "process"}) as it:
        threads = [
            threading.Thread(target=emit_until, args=(it, stopping, n, emitted[n]))
            for n in range(THREADS)
        ]
        for thread in threads:
            thread.start()
        for change in range(changes):
            given = settings_of(change, collectors)
            for part in [given] if at_once else [{name: value} for name, value in given.items()]:
                it.processor.change_settings(**part)
                ANYONE_WAITS.wait(0.02 if at_once else 0.005)
        stopping.set()
        for thread in threads:
            thread.join(TIMEOUT_S)
        # Some batches have one record: a long run leaves thousands of requests.
        assert it.processor.wait_delivered(TIMEOUT_S + changes / 5)
        return Run(sorted(number for some in emitted for number in some), it.totals)


def arrived(collectors: list[ScriptedCollector]) -> list[int]:
    return sorted(number for one in collectors for number in numbers(one.delivered))


def astray(collectors: list[ScriptedCollector]) -> list[int]:
    """The changes whose headers came to the endpoint of another one."""
    changes = [
        (index, int(request.headers[HEADER]))
        for index, collector in enumerate(collectors) for request in collector.requests
    ]
    return [change for index, change in changes if change % 2 != index]


@pytest.mark.timeout(120 + CHANGES)
def test_every_record_is_delivered_exactly_once_whatever_changes_meanwhile(
    collectors: list[ScriptedCollector], tmp_path: Path
) -> None:
    """Each answer was a plain OK. No header of one change comes to the endpoint of another."""
    emitted, totals = reload_under_load(tmp_path, collectors, CHANGES)
    assert arrived(collectors) == emitted
    assert totals.delivered == totals.accepted == len(emitted)
    assert (totals.ambiguous_attempts, totals.unaccounted) == (0, 0)
    assert problems_of(tmp_path) == []
    assert astray(collectors) == []
    requests = [request for collector in collectors for request in collector.requests]
    assert len({request.headers[HEADER] for request in requests}) > CHANGES // 4
    assert {request.protocol for request in requests} == {"http", "grpc"}


def test_a_courier_that_forgets_the_last_answer_at_a_change_delivers_twice(
    collectors: list[ScriptedCollector], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control: one that is made anew does, for that answer is not on disk yet."""
    use = Dispatcher.use

    def forgetting(self: Dispatcher, sender: Any, settings: Any) -> None:
        self._unwritten = None
        use(self, sender, settings)

    monkeypatch.setattr(Dispatcher, "use", forgetting)
    emitted, _ = reload_under_load(tmp_path, collectors, 40)
    assert set(arrived(collectors)) == set(emitted)
    assert len(arrived(collectors)) > len(emitted)


def test_settings_that_are_changed_one_by_one_send_headers_to_another_endpoint(
    collectors: list[ScriptedCollector], tmp_path: Path
) -> None:
    """Negative control: to change them together is what keeps a token from a stranger."""
    emitted, _ = reload_under_load(tmp_path, collectors, 20, at_once=False)
    assert arrived(collectors) == emitted
    assert astray(collectors) != []
