"""Intents: told of once, whatever the disk does meanwhile, and only if nobody ended them."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from otel_memoir.delivery import Courier
from otel_memoir.spool import Draft, Spool
from otel_memoir.spool.model import Intent
from spool_helpers import (
    Destination,
    courier_of,
    disk_full,
    make_faulty,
    open_spool,
    own_draft,
    select,
    stop,
)

UNKNOWN = b"memoir.change.unknown"
TIMEOUT_S = 15.0
ANYONE_WAITS = threading.Event()


def declaring(id_: str) -> Draft:
    return own_draft(f"intends.{id_}")._replace(intent=Intent(id_, b"{}"))


def ending(id_: str) -> Draft:
    return own_draft(f"did.{id_}")._replace(intent=Intent(id_, None))


def left_open(directory: Path) -> None:
    """A process that ended with an intent that is open."""
    spool = open_spool(directory)
    spool.append(declaring("one"))
    spool.close(2.0)


def told(spool: Spool, destination: Destination) -> int:
    """How often it was told of, once nothing waits any more."""
    for _ in range(int(TIMEOUT_S / 0.02)):
        if not spool.has_work() and destination.copies(UNKNOWN):
            break
        ANYONE_WAITS.wait(0.02)
    return destination.copies(UNKNOWN)


def adopting(directory: Path) -> tuple[Spool, Courier, Destination]:
    """A process whose courier, once awake, finds a file with an intent that was left open."""
    left_open(directory)
    other = open_spool(directory)  # takes that file, so that this process has one of its own
    other.open()
    destination = Destination()
    spool = open_spool(directory, durability="batch", emit_timeout_s=0.1)
    courier = courier_of(spool, destination)
    spool.open()
    other.close(2.0)
    return spool, courier, destination


@pytest.mark.timeout(60)
def test_an_intent_is_not_forgotten_while_the_disk_refuses_to_tell_of_it(tmp_path: Path) -> None:
    """A ticket is no commit: nobody was told at all."""
    spool, courier, destination = adopting(tmp_path)
    make_faulty(spool, "INSERT OR REPLACE INTO intent", disk_full())
    courier.wake()
    assert told(spool, destination) == 1
    stop(courier, spool)


@pytest.mark.timeout(60)
def test_an_intent_is_told_of_once_though_the_disk_is_slow(tmp_path: Path) -> None:
    """While the event waited for a commit, it was emitted again at each step."""
    spool, courier, destination = adopting(tmp_path)
    with spool._commits.committing(TIMEOUT_S):
        courier.wake()
        while spool._commits.first_queued() is None:
            ANYONE_WAITS.wait(0.01)
        courier.wake()
        ANYONE_WAITS.wait(2.5)  # some steps
    assert told(spool, destination) == 1
    stop(courier, spool)
    assert destination.copies(UNKNOWN) == 1


@pytest.mark.timeout(60)
def test_an_intent_that_is_ended_before_it_is_declared_stays_ended(tmp_path: Path) -> None:
    """What a loop hands over can be overtaken: it was open for ever, and told of."""
    spool = open_spool(tmp_path)
    for draft in (ending("one"), declaring("one"), declaring("two"), ending("two")):
        spool.append(draft)
    spool.append(declaring("three"))
    path = spool.file and spool.file.path
    spool.close(2.0)
    assert select(Path(str(path)), "SELECT id FROM intent WHERE ended = 0") == [("three",)]
