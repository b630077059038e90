"""Files that SQLite calls corrupt: what can be read of them is delivered, the rest is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from otel_memoir.spool import Spool, salvage
from otel_memoir.spool.model import Intent
from spool_helpers import (
    Destination,
    courier_of,
    open_spool,
    own_draft,
    problems_of,
    put,
    select,
    stop,
    totals_of,
)

RECORDS = 60
PAGE = 4096
SETTINGS = {"linger_s": 0.0, "adoption_interval_s": 0.05, "request_records_max": 16,
            "backoff_initial_s": 0.01, "backoff_max_s": 0.05}


def copies(taker: Destination, number: int) -> int:
    """How often a record arrived."""
    return taker.copies(b"<r%d>" % number)


def fill(spool: Spool, first: int, last: int) -> None:
    """Accept numbered records, about five to a page."""
    for number in range(first, last):
        put(spool, f"r{number}", size=600)


def leave_records(directory: Path, *, delivered: int = 0) -> Path:
    """A file with waiting records whose process is gone; the first ones were delivered."""
    spool = open_spool(directory, **SETTINGS)
    if delivered:
        courier = courier_of(spool, Destination())
        fill(spool, 0, delivered)
        courier.wake()
        assert courier.wait_drained(20.0)
        courier.close(5.0)
    fill(spool, delivered, RECORDS)
    spool.close(5.0)
    return directory / "memoir-0001.db"


def page_with(path: Path, number: int) -> int:
    """The page of a file that holds a record."""
    return path.read_bytes().index(b"<r%d>" % number) // PAGE


def wreck(path: Path, page: int, size: int = PAGE) -> None:
    """Overwrite the beginning of a page."""
    with open(path, "r+b") as file:
        file.seek(page * PAGE)
        file.write(b"\xa5" * size)


def deliver(directory: Path) -> Destination:
    """Let a new process deliver what it finds."""
    spool, taker = open_spool(directory, **SETTINGS), Destination()
    spool.open()
    courier = courier_of(spool, taker)
    courier.wake()
    assert courier.wait_drained(30.0)
    stop(courier, spool)
    return taker


def assert_accounted(directory: Path, taker: Destination) -> set[int]:
    """The books balance and each record arrived once at most; return those that did not."""
    totals = totals_of(directory)
    assert totals.unaccounted == 0
    assert totals.pending == 0
    assert problems_of(directory) == []
    assert [path.name for path in directory.iterdir() if path.name.startswith("broken")] == []
    assert len([p for p in directory.iterdir() if p.name.startswith("salvaged")]) >= 1
    assert max(copies(taker, number) for number in range(RECORDS)) == 1
    return {number for number in range(RECORDS) if not copies(taker, number)}


@pytest.mark.timeout(60)
def test_a_page_that_was_overwritten_costs_its_own_records_and_no_other(tmp_path: Path) -> None:
    """About five of sixty are gone; the event that tells of them arrives."""
    path = leave_records(tmp_path)
    wreck(path, page_with(path, 30))
    taker = deliver(tmp_path)
    lost = assert_accounted(tmp_path, taker)
    assert 30 in lost
    assert len(lost) < 12
    assert taker.copies(b"memoir.delivery.gap")
    gaps = [
        (cause, records)
        for file in tmp_path.glob("memoir-*.db")
        for cause, records in select(file, "SELECT cause, records FROM gap")
    ]
    assert gaps == [("broken", len(lost))]


@pytest.mark.timeout(60)
def test_a_file_whose_header_was_overwritten_loses_nothing(tmp_path: Path) -> None:
    """SQLite says "file is not a database"; every row is still there."""
    path = leave_records(tmp_path)
    wreck(path, 0, 100)
    assert assert_accounted(tmp_path, deliver(tmp_path)) == set()


@pytest.mark.timeout(60)
def test_what_was_delivered_before_the_file_broke_is_not_sent_again(tmp_path: Path) -> None:
    """The ledger can be read: it says what is settled."""
    path = leave_records(tmp_path, delivered=20)
    wreck(path, 0, 100)
    assert assert_accounted(tmp_path, deliver(tmp_path)) == set(range(20))


@pytest.mark.timeout(60)
def test_a_file_that_breaks_under_its_living_process_is_left_and_salvaged(tmp_path: Path) -> None:
    """The courier finds the damage; emit goes on in a new file."""
    spool = open_spool(tmp_path, **SETTINGS)
    taker = Destination(is_open=False)
    fill(spool, 0, RECORDS - 1)
    assert spool.file is not None
    spool.file.truncate_log()
    wreck(tmp_path / "memoir-0001.db", page_with(tmp_path / "memoir-0001.db", 30))
    taker.is_open = True
    courier = courier_of(spool, taker)
    courier.wake()
    assert courier.wait_drained(30.0)
    fill(spool, RECORDS - 1, RECORDS)
    assert courier.wait_drained(30.0)
    stop(courier, spool)
    lost = assert_accounted(tmp_path, taker)
    assert 30 in lost
    assert len(lost) < 12


@pytest.mark.timeout(60)
def test_a_crash_between_salvage_and_its_end_stores_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new file says where its records came from."""
    path = leave_records(tmp_path)
    wreck(path, 0, 100)
    plain = salvage.rename_database
    crashes = [OSError("the process died here")]

    def die_once(path: Path, target: Path) -> None:
        if crashes:
            raise crashes.pop()
        plain(path, target)

    monkeypatch.setattr(salvage, "rename_database", die_once)
    taker = deliver(tmp_path)
    assert crashes == []
    taker.requests += deliver(tmp_path).requests
    assert assert_accounted(tmp_path, taker) == set()


@pytest.mark.timeout(60)
def test_without_salvage_the_same_file_delivers_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: what arrives in the other tests comes from the broken file."""
    nothing: Callable[..., None] = lambda *_, **__: None  # noqa: E731 - the least that is callable
    monkeypatch.setattr("otel_memoir.delivery.sources.salvage_all", nothing)
    path = leave_records(tmp_path)
    wreck(path, 0, 100)
    assert deliver(tmp_path).copies(b"<r") == 0


@pytest.mark.timeout(60)
@pytest.mark.parametrize("without", [False, True], ids=["", "control"])
def test_an_intent_in_a_broken_file_is_told_of_once(
    tmp_path: Path, without: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process died with it open; the control does not read the table of intents."""
    if without:
        monkeypatch.setattr(salvage, "_intents", lambda _: [])
    spool = open_spool(tmp_path, **SETTINGS)
    spool.append(own_draft("intended")._replace(intent=Intent("change-1", b"{}")))
    spool.close(5.0)
    wreck(leave_records(tmp_path), 0, 100)
    first, second = deliver(tmp_path), deliver(tmp_path)
    told = first.copies(b"memoir.change.unknown") + second.copies(b"memoir.change.unknown")
    assert told == (0 if without else 1)
