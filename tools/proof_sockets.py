"""Print what became of the records of each socket, each way to log, each way to die.

The programs are those of `tests/test_sockets.py`: they emit towards a port at which nobody
listens and die; a later process then delivers what they left to a real Collector. Counted
are records of the program; copies are arrivals beyond the first.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from collector import Collector  # noqa: E402
from socket_programs.wiring import numbers  # noqa: E402
from spool_helpers import totals_of  # noqa: E402
from test_sockets import (  # noqa: E402
    CONFIGURED,
    COUNT,
    DEATHS,
    SOCKETS,
    drain,
    environment,
    nowhere,
    run_program,
)

ROW = "{:<16} {:<8} {:<6} {:>7} {:>8} {:>9} {:>6}"
LATER = 1
"""Records of the process that delivers."""


LIVES_ON = """
from opentelemetry._logs import LogRecord
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from otel_memoir import DurableLogExporter
provider = LoggerProvider()
provider.add_log_record_processor(BatchLogRecordProcessor(DurableLogExporter()))
provider.get_logger("program").emit(LogRecord(body="hello"))
provider.force_flush()
"""
"""A program that lives until its batch processor hands a batch over."""


def warning_behind_a_batch_processor(place: Path) -> str:
    """What the exporter says once a hand-built batch processor calls it."""
    done = subprocess.run(
        [sys.executable, "-c", LIVES_ON], env=environment("batch", place, nowhere()),
        capture_output=True, text=True, timeout=60, check=True,
    )
    return done.stderr


def row(binary: Path, place: Path, socket: str, api: str, death: str) -> list[Any]:
    """Emit, die and deliver in a fresh directory; return the row of the table."""
    emitted, _ = run_program(
        socket, place, "configured" if socket in CONFIGURED else socket, api, death, str(COUNT),
        ends_by=signal.SIGKILL if death == "kill" else 0,
    )
    (place / "collector").mkdir()
    with Collector(binary, place / "collector") as collector:
        drain(place, collector.http_endpoint)
        arrived = numbers(collector.wait_received(LATER))
    accepted = totals_of(place / "spool").accepted - LATER
    delivered = len(set(arrived) & set(emitted))
    counts = [len(emitted), accepted, delivered, len(arrived) - len(set(arrived))]
    return [socket, api, death, *counts]


def main() -> int:
    """Print the table; return how many rows of a durable socket lost or repeated anything."""
    found = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "collector.py")], capture_output=True, text=True,
        check=True,
    )
    binary = Path(found.stdout.splitlines()[-1])
    print(ROW.format("socket", "API", "death", "emitted", "accepted", "delivered", "copies"))
    bad = 0
    for socket in (*SOCKETS, "batch"):
        for api in ("api", "stdlib"):
            for death in DEATHS:
                with tempfile.TemporaryDirectory() as place:
                    columns = row(binary, Path(place), socket, api, death)
                print(ROW.format(*columns), flush=True)
                emitted, accepted, delivered, copies = columns[3:]
                durable = emitted == accepted == delivered and copies == 0
                bad += socket != "batch" and not durable
    print("\nbatch: the exporter behind a hand-built BatchLogRecordProcessor. Once that calls it:")
    with tempfile.TemporaryDirectory() as place:
        print(warning_behind_a_batch_processor(Path(place)))
    return bad


if __name__ == "__main__":
    sys.exit(main())
