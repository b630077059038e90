"""The provider of every host program: made where the module is imported, as an application's is."""

from __future__ import annotations

import os

from opentelemetry._logs import LogRecord
from opentelemetry.sdk._logs import LoggerProvider

from otel_memoir import DurableLogRecordProcessor
from socket_programs.wiring import FAST

processor = DurableLogRecordProcessor(**FAST)
provider = LoggerProvider()
provider.add_log_record_processor(processor)
_logger = provider.get_logger("host")


def emit(name: str) -> None:
    """Emit a record that can be told from others, and by which process it was emitted."""
    _logger.emit(LogRecord(body="hello", attributes={"name": name, "pid": os.getpid()}))


def tell(*words: object) -> None:
    """Say something to the test, unbuffered and whole, whoever else speaks."""
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def promise(name: str) -> None:
    """Emit, and say so in the next statement."""
    emit(name)
    tell("emitted", name)
