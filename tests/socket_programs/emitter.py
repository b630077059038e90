"""Emits numbered records through the socket that it is told, then dies as it is told.

    emitter.py SOCKET API DEATH COUNT

A number goes to stdout, unbuffered, in the statement after its emit returned. How it dies:
`exit` is os._exit; `kill` is SIGKILL; `fork` emits in a fork child too, which ends by
os._exit, as the parent then does. Nothing is flushed, and no atexit hook runs.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable

from opentelemetry import _logs as logs
from opentelemetry._logs import LogRecord, SeverityNumber

COUNT_MAX = 1000


def wire(socket: str) -> None:
    """Wire a socket in code; under `opentelemetry-instrument` it is wired already."""
    if socket == "configured":
        return
    from opentelemetry.sdk._logs import LoggerProvider, LogRecordProcessor
    from opentelemetry.sdk._logs.export import BatchLogRecordProcessor, SimpleLogRecordProcessor

    from otel_memoir import DurableLogExporter, DurableLogRecordProcessor

    provider = LoggerProvider()
    makers: dict[str, Callable[[], LogRecordProcessor]] = {
        "processor": DurableLogRecordProcessor,
        "simple": lambda: SimpleLogRecordProcessor(DurableLogExporter()),
        "batch": lambda: BatchLogRecordProcessor(DurableLogExporter()),
    }
    provider.add_log_record_processor(makers[socket]())
    logs.set_logger_provider(provider)


def emitter(socket: str, api: str) -> Callable[[int], object]:
    """What emits a number: the Logger API, or a logger of the standard library."""
    if api == "api":
        logger = logs.get_logger("program")
        return lambda number: logger.emit(
            LogRecord(
                body="hello", severity_number=SeverityNumber.INFO, attributes={"number": number}
            )
        )
    root = logging.getLogger()
    root.setLevel(logging.INFO)
    if socket != "configured":
        from opentelemetry.instrumentation.logging.handler import LoggingHandler

        root.addHandler(LoggingHandler())
    return lambda number: logging.getLogger("program").info("hello", extra={"number": number})


def tell(text: str) -> None:
    os.write(1, f"{text}\n".encode())


def main(socket: str, api: str, death: str, count: int) -> None:
    wire(socket)
    emit = emitter(socket, api)
    for number in range(count):
        emit(number)
        tell(str(number))
    if death == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if death == "fork":
        child = os.fork()
        first = COUNT_MAX if child == 0 else 2 * COUNT_MAX
        for number in range(first, first + count):
            emit(number)
            tell(str(number))
        if child:
            os.waitpid(child, 0)
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
