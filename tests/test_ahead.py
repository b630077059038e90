"""The next request is made ready while one is in flight, and nothing depends on it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from otel_memoir.delivery import http
from otel_memoir.delivery.ahead import Ahead
from otel_memoir.testing import Answer, RecordedRequest, ScriptedCollector
from socket_programs.wiring import Agent, agent, numbers
from spool_helpers import problems_of

TIMEOUT_S = 15.0
NOWHERE = "http://127.0.0.1:1"


@pytest.fixture
def collector() -> Iterator[ScriptedCollector]:
    with ScriptedCollector() as running:
        yield running


class Watch:
    """Notes which requests were made ready ahead, and waits for one in the making."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.ready: list[bytes] = []
        self.waited: list[bool] = []
        self._courier: Any = None
        take = Ahead.take

        def noting(ahead: Ahead, source: Any, batch: Any) -> bytes | None:
            request = take(ahead, source, batch)
            self.ready += [request] if request is not None else []
            return request

        patch.setattr(Ahead, "take", noting)

    def follow(self, found: Agent) -> None:
        self._courier = found.processor.pipeline.courier

    def answer(self, request: RecordedRequest) -> Answer:
        """Take a request, but answer only once the next one is ready."""
        work = self._courier._dispatcher._ahead._work if self._courier else None
        if work is not None:
            self.waited.append(work.done.wait(TIMEOUT_S))
        return Answer()


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    return Watch(monkeypatch)


def leave_backlog(spool_dir: Path, records: int) -> None:
    """What an earlier process could not deliver, in batches of ten."""
    with agent(spool_dir, NOWHERE, request_records_max=10, durability="batch") as it:
        it.emit(records)


def deliver(spool_dir: Path, collector: ScriptedCollector, watch: Watch, **given: Any) -> list[int]:
    """Deliver a backlog with one record more, which starts the courier."""
    given = {"request_records_max": 10, **given}
    with agent(spool_dir, collector.endpoint, **given) as it:
        it.emit(1)
        watch.follow(it)
        it.processor.wait_delivered(TIMEOUT_S)
    return numbers(collector.delivered)


def test_while_a_request_waits_for_its_answer_the_next_one_is_made(
    collector: ScriptedCollector, watch: Watch, tmp_path: Path
) -> None:
    """The server answers only when the next request is ready: it always comes to that."""
    leave_backlog(tmp_path, 60)
    collector.respond = watch.answer
    assert deliver(tmp_path, collector, watch) == sorted([0, *range(60)])
    assert watch.waited
    assert all(watch.waited)
    assert watch.ready
    assert {*watch.ready} <= {request.body for request in collector.requests}


def test_without_it_the_same_records_arrive(
    collector: ScriptedCollector, watch: Watch, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The control: nothing depends on what is made ready."""
    monkeypatch.setattr(Ahead, "begin", lambda *_: None)
    leave_backlog(tmp_path, 60)
    assert deliver(tmp_path, collector, watch) == sorted([0, *range(60)])
    assert not watch.ready


def test_a_request_that_was_made_ahead_is_sent_again_with_the_same_bytes(
    collector: ScriptedCollector, watch: Watch, tmp_path: Path
) -> None:
    """The second try is read from the spool anew."""
    leave_backlog(tmp_path, 60)
    tried: list[bytes] = []

    def every_other_at_the_second_try(request: RecordedRequest) -> Answer:
        known = request.body in tried
        tried.extend([] if known else [request.body])
        return Answer(status=200 if known or len(tried) % 2 else 503)

    collector.respond = every_other_at_the_second_try
    assert deliver(tmp_path, collector, watch) == sorted([0, *range(60)])
    assert watch.ready
    bodies = [request.body for request in collector.requests]
    assert all(bodies.count(ready) == 2 for ready in watch.ready)


def test_a_damaged_row_is_found_and_set_aside_though_it_was_read_ahead(
    collector: ScriptedCollector, watch: Watch, tmp_path: Path
) -> None:
    """The checksum is compared wherever a row is read."""
    leave_backlog(tmp_path, 60)
    (database,) = tmp_path.glob("*.db")
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute(
            "UPDATE record SET payload = CAST(payload || x'00' AS BLOB) WHERE sequence = 25"
        )
    collector.respond = watch.answer
    expected = sorted([0, *(n for n in range(60) if n != 24)])
    assert deliver(tmp_path, collector, watch) == expected
    assert watch.ready
    assert problems_of(tmp_path) == []


def test_a_request_is_compressed_ahead_and_only_once(
    collector: ScriptedCollector, watch: Watch, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Compressing is the larger part of the work."""
    compressed: list[bytes] = []
    compress = http._compressed
    monkeypatch.setattr(
        http, "_compressed", lambda request: (compressed.append(request), compress(request))[1]
    )
    leave_backlog(tmp_path, 60)
    collector.respond = watch.answer
    assert deliver(tmp_path, collector, watch, compression="gzip") == sorted([0, *range(60)])
    assert watch.ready
    assert sorted(compressed) == sorted(request.body for request in collector.requests)
