"""A process with a wrong clock: handles requests, each an event, and passes them on.

    caller.py OFFSET_MS merge|ignore SPOOL_DIR

Reads the header of a request a line (``-`` for none), and answers with the stamp of the
event that handling it was, and with the header of the request that it would send next.
The same event is in the spool.
"""

from __future__ import annotations

import sys
import time

from opentelemetry._logs import LogRecord
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor

from otel_memoir import DurableLogRecordProcessor
from otel_memoir.clock import Reading
from otel_memoir.delivery.encoding import UID
from otel_memoir.sdk.propagator import HEADER, MemoirPropagator
from otel_memoir.sdk.stamp_processor import StampLogRecordProcessor


class Wrong:
    """The system's clock, and an offset."""

    status, epoch = "", 0

    def __init__(self, offset_ms: int) -> None:
        self._offset_ns = offset_ms * 10**6

    def read(self) -> Reading:
        """Look at it."""
        return time.time_ns() + self._offset_ns, None


def main(offset_ms: int, mode: str, spool_dir: str) -> None:
    """Handle requests until there are no more."""
    exporter, clock = InMemoryLogRecordExporter(), Wrong(offset_ms)
    propagator = MemoirPropagator(peer_offset_max_s=1.0)
    provider = LoggerProvider(shutdown_on_exit=False)
    for processor in (
        StampLogRecordProcessor(clock=clock, mode="correct"),
        SimpleLogRecordProcessor(exporter),
        DurableLogRecordProcessor(
            spool_dir=spool_dir, clock=clock, durability="process", shutdown_timeout_s=0.0,
            disk_free_bytes_min=0, peer_offset_max_s=1.0, endpoint="http://127.0.0.1:9",
        ),
    ):
        provider.add_log_record_processor(processor)
    logger = provider.get_logger("caller")
    for line in sys.stdin:
        if mode == "merge":
            propagator.extract({HEADER: line.strip()} if line.strip() != "-" else {})
        logger.emit(LogRecord(body="handled a request"))
        carrier: dict[str, str] = {}
        propagator.inject(carrier)
        handled = exporter.get_finished_logs()[-1].log_record
        print(handled.timestamp, handled.attributes[UID], carrier[HEADER], flush=True)
    provider.shutdown()


main(int(sys.argv[1]), sys.argv[2], sys.argv[3])
