"""What the tests of memory logs share: logs of one directory, and what arrived of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from otel_memoir import MemoryLog
from otel_memoir.testing import RecordedRecord, ScriptedCollector
from socket_programs.wiring import FAST

TIMEOUT_S = 20.0


@contextmanager
def logs_of(
    spool: Path, collector: ScriptedCollector, **usual: Any
) -> Iterator[Callable[..., MemoryLog]]:
    """Makes logs of one directory; all are closed at the end."""
    made: list[MemoryLog] = []

    def new(**given: Any) -> MemoryLog:
        settings = {
            "spool_dir": str(spool), "endpoint": collector.endpoint, "environ": {},
            "store_id": "profile", **FAST, **usual, **given,
        }
        made.append(MemoryLog(**settings))
        return made[-1]

    try:
        yield new
    finally:
        for log in made:
            log.close()


def arrived(collector: ScriptedCollector, log: MemoryLog) -> list[RecordedRecord]:
    """What arrived, once all did."""
    assert log.wait_delivered(TIMEOUT_S)
    return collector.delivered
