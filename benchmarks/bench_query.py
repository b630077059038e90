"""Queries over what a spool retains: what indexing costs, how long an answer takes, and what
an emitter feels of somebody who asks beside it.

The spool is written by the product's own file layer, in large transactions, with a ledger of
delivered batches of 500; the events are typical ones, stamped. Everything that is timed is
what a user calls.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common import (
    NOWHERE,
    PATIENCE_S,
    Row,
    Scale,
    durable,
    each_us,
    fresh_records,
    p,
    row,
    scratch,
    us,
)

from otel_memoir.delivery.encoding import StampTemplate, join_envelope
from otel_memoir.delivery import wire
from otel_memoir.events import names
from otel_memoir.memory_log.query import Retrieval
from otel_memoir.spool import Draft, State, ledger
from otel_memoir.spool.connection import transaction
from otel_memoir.spool.directory import prepare_directory, take_slot
from otel_memoir.spool.file import SpoolFile
from otel_memoir.spool.model import Batch, Entry, Life, Stream
from otel_memoir.stamping import new_uid

BATCH = 500
ROUNDS = 60
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
