"""Emits through the whole product and promises each record once its emit returned.

Usage: product.py DIRECTORY SYNCHRONOUS RECORDS [alone | dying | believing | sending | nested]

A child process that dies without a goodbye leaves a first spool file, which is then
adopted: emitting, committing in groups, settling, checkpoints and adoption all happen.
``SYNCHRONOUS`` is FULL, which leaves all to the product; NORMAL and OFF break the promise
on purpose. A promise is only
given for a record whose ticket says that it is stored. ``alone`` leaves out the child;
``dying`` is only that child: it leaves its records to whoever comes next. ``believing``
promises every record whose emit returned, whatever its ticket says: the negative control.
``sending`` runs in ``process``, and the promise is the destination's: once it has got a
record, no power cut may make us forget that it was sent. ``nested`` is ``alone`` in a
directory that is not there yet, nor is its parent.
"""

from __future__ import annotations

import os
import sqlite3
import sys
import threading
from typing import Any

from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.sdk._logs import LoggerProvider, LogRecordProcessor

from otel_memoir.sdk.pipeline import Pipeline
from otel_memoir.settings import Settings
from otel_memoir.spool import Ticket, connection, file, upkeep
from otel_memoir.testing import Answer, RecordedRequest, ScriptedCollector

THREADS = 3
NOWHERE = "http://127.0.0.1:9"
DIRECTORY, SYNCHRONOUS, RECORDS, *MODE = sys.argv[1:]


def weaken_and_shrink() -> None:
    """Set the asked level instead of the product's, and make checkpoints come soon."""
    def set_synchronous(opened: sqlite3.Connection, level: str) -> None:
        del level
        opened.execute(f"PRAGMA synchronous = {SYNCHRONOUS}")

    connection._CHECKPOINT_PAGES = 24
    if SYNCHRONOUS != "FULL":
        connection.set_synchronous = set_synchronous
        file.set_synchronous = set_synchronous
    upkeep.BALLAST_BYTES = 4096


class Promising(LogRecordProcessor):
    """Promises what the pipeline stored."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline

    def on_emit(self, log_record: Any) -> None:
        stored = self.pipeline.store(log_record)
        if MODE == ["sending"]:
            return
        if MODE == ["believing"] or (isinstance(stored, Ticket) and stored.stored):
            number = log_record.log_record.attributes["number"]
            os.write(1, b"ACK %s\n" % number.encode())

    def shutdown(self) -> None:
        self.pipeline.close(2.0)

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return self.pipeline.flush(timeout_millis / 1000)


def pipeline(endpoint: str) -> Pipeline:
    """A pipeline with short intervals."""
    return Pipeline(
        Settings(
            spool_dir=f"{DIRECTORY}/deep/deeper" if MODE == ["nested"] else DIRECTORY,
            endpoint=endpoint, linger_s=0.0, disk_free_bytes_min=0,
            adoption_interval_s=0.05, request_records_max=8, backoff_initial_s=0.05,
            backoff_max_s=0.1, emit_timeout_s=5.0,
            durability="process" if MODE == ["sending"] else "power", fsync_interval_s=60.0,
        ),
        environ={},
    )


def emit(provider: LoggerProvider, name: str, count: int) -> None:
    """Emit numbered records."""
    logger = provider.get_logger("product")
    for number in range(count):
        logger.emit(
            LogRecord(
                severity_number=SeverityNumber.INFO, body=f"<{name}.{number}>",
                attributes={"number": f"{name}.{number}"},
            )
        )


def got(request: RecordedRequest) -> Answer:
    """Promise, in the destination's name, what it got."""
    if MODE == ["sending"]:
        for record in request.records:
            os.write(1, b"ACK %s\n" % str(record.attributes["number"]).encode())
    return Answer()


def die_with_records(endpoint: str) -> None:
    """Leave a file with waiting records behind, as a killed process does."""
    provider = LoggerProvider(shutdown_on_exit=False)
    provider.add_log_record_processor(Promising(pipeline(endpoint)))
    emit(provider, "dead", 6)
    os._exit(0)


def leave_a_dead_file() -> None:
    """While we hold the first slot, a child takes the second and dies."""
    child = os.fork()
    if child == 0:
        die_with_records(NOWHERE)
    os.waitpid(child, 0)


def main() -> None:
    """Leave a dead file, then emit from several threads and deliver all of it."""
    weaken_and_shrink()
    if MODE == ["dying"]:
        die_with_records(NOWHERE)
    with ScriptedCollector(got) as collector:
        provider = LoggerProvider(shutdown_on_exit=False)
        mine = pipeline(collector.endpoint)
        provider.add_log_record_processor(Promising(mine))
        emit(provider, "first", 1)
        if not MODE:
            leave_a_dead_file()
        threads = [
            threading.Thread(
                target=emit, args=(provider, f"t{number}", int(RECORDS) // THREADS),
                name=f"emitter-{number}",
            )
            for number in range(THREADS)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        mine.wait_delivered(3.0)
        provider.shutdown()


main()
