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
    SimpleLogRecordProcessor,
)

__all__ = [
    "BatchLogRecordProcessor",
    "LogRecordExportResult",
    "LogRecordExporter",
    "LogRecordProcessor",
    "LoggerProvider",
    "ReadWriteLogRecord",
    "ReadableLogRecord",
    "SimpleLogRecordProcessor",
    "exporter_behind",
    "processors_of",
    "put_in_front",
]


# The private touches of this package. There is no public way to see the processors of a
# provider, nor to stand before one that is registered already (opentelemetry-python #4201).
# The names are the same from 1.40 to 1.45.


def processors_of(provider: LoggerProvider) -> tuple[LogRecordProcessor, ...]:
    """The processors of a provider, in the order in which a record meets them."""
    return tuple(provider._multi_log_record_processor._log_record_processors)


def put_in_front(provider: LoggerProvider, processor: LogRecordProcessor) -> None:
    """Register a processor before all others."""
    multi = provider._multi_log_record_processor
    multi._log_record_processors = (processor, *multi._log_record_processors)


def exporter_behind(processor: object) -> object | None:
    """The exporter that a processor of the SDK wraps, if it is one."""
    if not isinstance(processor, (BatchLogRecordProcessor, SimpleLogRecordProcessor)):
        return None
    return getattr(getattr(processor, "_batch_processor", processor), "_exporter", None)
