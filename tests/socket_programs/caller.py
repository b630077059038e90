"""A process with a wrong clock: handles requests, each an event, and passes them on.

    caller.py OFFSET_MS merge|ignore

Reads the header of a request a line (``-`` for none), and answers with the stamp of the
event that handling it was, and with the header of the request that it would send next.
"""

from __future__ import annotations

import sys
import time

from opentelemetry._logs import LogRecord
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor

from otel_memoir.clock import Reading
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


def main(offset_ms: int, mode: str) -> None:
    """Handle requests until there are no more."""
    exporter, propagator = InMemoryLogRecordExporter(), MemoirPropagator(peer_offset_max_s=1.0)
    provider = LoggerProvider(shutdown_on_exit=False)
    provider.add_log_record_processor(
        StampLogRecordProcessor(clock=Wrong(offset_ms), mode="correct")
    )
    provider.add_log_record_processor(SimpleLogRecordProcessor(exporter))
    logger = provider.get_logger("caller")
    for line in sys.stdin:
        if mode == "merge":
            propagator.extract({HEADER: line.strip()} if line.strip() != "-" else {})
        logger.emit(LogRecord(body="handled a request"))
        carrier: dict[str, str] = {}
        propagator.inject(carrier)
        stamped = exporter.get_finished_logs()[-1].log_record.timestamp
        print(stamped, carrier[HEADER], flush=True)


main(int(sys.argv[1]), sys.argv[2])
