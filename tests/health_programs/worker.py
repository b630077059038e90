"""A service with metrics that has some trouble, or none; it lives until its stdin ends.

Arguments: its name, where its metrics go, and its settings as JSON. Each line of stdin is the
body of a record; ``lock`` makes one thread wait for a lock that another holds.
"""

from __future__ import annotations

import json
import sys
import threading

from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.metrics import set_meter_provider
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource

from otel_memoir import DurableLogRecordProcessor, LockManager

EXPORT_INTERVAL_MS = 500


def wait_for_a_lock() -> LockManager:
    """Leave a thread waiting until the process ends."""
    locks = LockManager()
    locks.acquire("profile/alice")
    threading.Thread(target=lambda: locks.acquire("profile/alice"), daemon=True).start()
    return locks


def main(name: str, metrics_endpoint: str, settings: str) -> None:
    """Do what stdin says."""
    resource = Resource.create({"service.name": name, "service.instance.id": f"{name}-1"})
    exporter = OTLPMetricExporter(endpoint=f"{metrics_endpoint}/v1/metrics")
    reader = PeriodicExportingMetricReader(exporter, export_interval_millis=EXPORT_INTERVAL_MS)
    set_meter_provider(MeterProvider([reader], resource=resource))
    provider = LoggerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_log_record_processor(DurableLogRecordProcessor(**json.loads(settings)))
    logger, kept = provider.get_logger("worker"), []
    for line in sys.stdin:
        body = line.strip()
        if body == "lock":
            kept.append(wait_for_a_lock())
        else:
            logger.emit(LogRecord(body=body, severity_number=SeverityNumber.INFO))
        print("done", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
