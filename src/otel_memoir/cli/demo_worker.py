"""A worker of the demo: emits numbered records and notes each whose emit has returned.

    python -m otel_memoir.cli.demo_worker SIDE NUMBER RECORDS FILE

It plays an application, so it is set up as one: by the usual variables.
"""

from __future__ import annotations

import os
import sys
import threading

from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.sdk.resources import Resource

from otel_memoir.sdk import DurableLogRecordProcessor
from otel_memoir.sdk._compat import BatchLogRecordProcessor, LoggerProvider, LogRecordProcessor

ID = "demo.id"
"""The attribute that names a record; both sides have it."""

_PACE_S = 0.008


def main(side: str, number: str, records: str, path: str) -> None:
    """Emit, and append each id to a file right after its emit returned."""
    provider = LoggerProvider(
        resource=Resource.create({"service.name": "memoir-demo", "service.instance.id": number})
    )
    provider.add_log_record_processor(_processor(side))
    logger = provider.get_logger("memoir.demo")
    noted = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    never = threading.Event()
    for count in range(1, int(records) + 1):
        id_ = f"{number}-{count}"
        logger.emit(
            LogRecord(
                severity_number=SeverityNumber.INFO, body=f"record {count} of worker {number}",
                attributes={ID: id_},
            )
        )
        os.write(noted, f"{id_}\n".encode())
        never.wait(_PACE_S)
    os.close(noted)
    provider.shutdown()


def _processor(side: str) -> LogRecordProcessor:
    if side == "stock":
        return BatchLogRecordProcessor(OTLPLogExporter())
    return DurableLogRecordProcessor()


if __name__ == "__main__":
    main(*sys.argv[1:])
