"""Every import from ``opentelemetry.sdk._logs``, the signal that is not stable yet.

The SDK means to rename it to ``opentelemetry.sdk.logs`` (opentelemetry-python #2240);
when it does, this is the file that changes. Works with 1.40 to 1.45.
"""

from __future__ import annotations

from opentelemetry.sdk._logs import (
    LoggerProvider,
    LogRecordProcessor,
    ReadableLogRecord,
    ReadWriteLogRecord,
)
from opentelemetry.sdk._logs.export import (
    BatchLogRecordProcessor,
    LogRecordExporter,
    LogRecordExportResult,
)

__all__ = [
    "BatchLogRecordProcessor",
    "LogRecordExportResult",
    "LogRecordExporter",
    "LogRecordProcessor",
    "LoggerProvider",
    "ReadWriteLogRecord",
    "ReadableLogRecord",
]
