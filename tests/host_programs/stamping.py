"""Emits for ever, for somebody who kills it: `stamping.py NAME STEP_S [forgetful]`.

Its wall clock is wrong by STEP_S seconds. A forgetful one does not care what the lives before
it had stamped.
"""

from __future__ import annotations

import itertools
import sys
import time

from opentelemetry._logs import LogRecord
from opentelemetry.sdk._logs import LoggerProvider

from host_programs.emitting import tell
from otel_memoir import DurableLogRecordProcessor
from otel_memoir.stamping import stamper
from socket_programs.wiring import FAST

NAME, STEP_NS = sys.argv[1], int(sys.argv[2]) * 10**9


class Wrong:
    """A clock that somebody set to another time."""

    status, epoch = "", 0

    def read(self) -> tuple[int, int | None]:
        return time.time_ns() + STEP_NS, None


if "forgetful" in sys.argv:
    stamper.LIVES_OVERLAP_MAX_NS = -(2**62)

provider = LoggerProvider()
provider.add_log_record_processor(DurableLogRecordProcessor(**FAST, clock=Wrong()))
logger = provider.get_logger("host")
for number in itertools.count():
    name = f"{NAME}.{number}"
    logger.emit(LogRecord(body="hello", attributes={"name": name}))
    tell("emitted", name)
