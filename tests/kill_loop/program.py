"""Emits for ever through otel-memoir, and acknowledges each record after its emit returned.

    python -m kill_loop.program PREFIX THREADS PACE_S

Records are named PREFIX.thread.number, numbered from 0 without a hole. A name goes to
stdout, unbuffered, in the statement after its emit returned: only then is there an
obligation. It is wired by the usual environment variables, and ends with its stdin.
"""

from __future__ import annotations

import itertools
import os
import sys
import threading

from opentelemetry._logs import Logger, LogRecord, SeverityNumber
from opentelemetry.sdk._logs import LoggerProvider

from kill_loop.payload import payload_of
from otel_memoir import DurableLogRecordProcessor


def emit_for_ever(logger: Logger, lane: str, pace_s: float) -> None:
    never = threading.Event()
    for number in itertools.count():
        name = f"{lane}.{number}"
        body, attributes = payload_of(name)
        logger.emit(
            LogRecord(
                body=body, attributes=attributes, event_name="kill.loop",
                severity_number=SeverityNumber.INFO,
            )
        )
        os.write(1, f"{name}\n".encode())
        never.wait(pace_s)


def main(prefix: str, threads: str, pace_s: str) -> None:
    provider = LoggerProvider(shutdown_on_exit=False)
    provider.add_log_record_processor(DurableLogRecordProcessor())
    logger = provider.get_logger("kill-loop")
    for number in range(int(threads)):
        threading.Thread(
            target=emit_for_ever, args=(logger, f"{prefix}.{number}", float(pace_s)), daemon=True
        ).start()
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
