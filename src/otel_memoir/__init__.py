"""otel-memoir: OpenTelemetry logs that are on disk before ``emit`` returns.

Importing starts no thread and opens no file.
"""

from otel_memoir.clock import Clock, SystemClock
from otel_memoir.sdk import DurableLogExporter, DurableLogRecordProcessor
from otel_memoir.settings import Settings
from otel_memoir.spool import SpoolStatus, Totals

__all__ = [
    "Clock",
    "DurableLogExporter",
    "DurableLogRecordProcessor",
    "Settings",
    "SpoolStatus",
    "SystemClock",
    "Totals",
]
