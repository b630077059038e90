"""Run a host program in a process group of its own, and judge what became of its records."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from opentelemetry._logs import LogRecord

from otel_memoir.spool.directory import slots
from otel_memoir.testing import ScriptedCollector
from socket_programs.wiring import agent
from spool_helpers import problems_of, totals_of

PROGRAMS = Path(__file__).resolve().parent
TIMEOUT_S = 30.0


@dataclass
class Host:
    """A running program: its process, its spool directory, and what it writes."""

    process: subprocess.Popen[bytes]
    spool: Path
    stderr: Path
    told: list[str] = field(default_factory=list)

    def wait_told(self, what: str, *, times: int = 1) -> None:
        """Read what it tells until it told this so often; pytest's timeout is the deadline."""
        assert self.process.stdout is not None
        while [line.partition(" ")[0] for line in self.told].count(what) < times:
            line = self.process.stdout.readline().decode()
            assert line, f"it ended without telling {what!r}: {self.complaints}"
            self.told.append(line.strip())

    def end(self, with_signal: signal.Signals | None = None) -> int:
        """Ask it to end, or only wait for it; what it told until then is read."""
        if with_signal is not None:
            self.process.send_signal(with_signal)
        said, _ = self.process.communicate(timeout=TIMEOUT_S)
        self.told += said.decode().splitlines()
        return self.process.returncode

    @property
    def emitted(self) -> list[str]:
        """The names of the records whose emit returned, as far as it told."""
        return [line.partition(" ")[2] for line in self.told if line.startswith("emitted ")]

    @property
    def complaints(self) -> str:
        return self.stderr.read_text(errors="replace")


def environment(spool: Path, endpoint: str, **more: str) -> dict[str, str]:
    """The environment of a host program; its settings come from nowhere else."""
    paths = [str(PROGRAMS.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environ = {
        name: value for name, value in os.environ.items()
        if not name.startswith(("OTEL_", "MEMOIR_"))
    }
    return {
        **environ, "PYTHONPATH": os.pathsep.join(paths), "MEMOIR_SPOOL_DIR": str(spool),
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_SERVICE_NAME": "host", **more,
    }


@contextmanager
def hosted(
    command: Sequence[str], tmp_path: Path, endpoint: str, *, pass_fds: Sequence[int] = (),
    **more: str,
) -> Iterator[Host]:
    """Run a command; at the end nothing of its process group is left, however it went."""
    stderr = tmp_path / "stderr"
    spool = tmp_path / "spool"
    with stderr.open("wb") as log:
        process = subprocess.Popen(
            command, env=environment(spool, endpoint, **more), stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=log, pass_fds=pass_fds, start_new_session=True,
            cwd=tmp_path,
        )
    try:
        with process:
            try:
                yield Host(process, spool, stderr)
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
    finally:
        assert process.returncode is not None


def program(name: str, *arguments: str) -> list[str]:
    """The command of a program of this folder."""
    return [sys.executable, str(PROGRAMS / name), *arguments]


_INTERRUPTIBLE = (
    "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); "
    "os.execv(sys.argv[1], sys.argv[1:])"
)


def interruptible(command: Sequence[str]) -> list[str]:
    """A command that an interrupt reaches: what a shell runs in the background ignores them."""
    return [sys.executable, "-c", _INTERRUPTIBLE, *command]


@contextmanager
def listening() -> Iterator[socket.socket]:
    """A socket that listens, for a server to inherit: it can be connected to at once."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        yield listener


def request(port: int, name: str) -> int | None:
    """Ask a server to emit a record; the pid that did, or ``None`` if no answer came."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", f"/{name}")
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()
        return int(answer.read())
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def drain(spool: Path, endpoint: str) -> None:
    """Deliver what dead programs left, as any later process of the same service does."""
    with agent(spool, endpoint) as later:
        later.logger.emit(LogRecord(body="a later process"))
        assert later.processor.wait_delivered(TIMEOUT_S)


def names(records: Iterable[Any]) -> list[str]:
    """The names of received records, others left out."""
    return [r.attributes["name"] for r in records if "name" in r.attributes]


def wait_for_names(collector: ScriptedCollector, wanted: Iterable[str]) -> None:
    """Wait until records with all these names were delivered."""
    missing = set(wanted)

    def all_there(seen: ScriptedCollector) -> bool:
        missing.difference_update(names(seen.delivered))
        return not missing

    assert collector.wait_for(all_there, TIMEOUT_S), f"missing: {sorted(missing)[:9]}"


def streams_by_pid(records: Iterable[Any]) -> dict[int, set[tuple[str, int]]]:
    """The streams in which each process emitted."""
    found: dict[int, set[tuple[str, int]]] = defaultdict(set)
    for record in records:
        if "pid" in record.attributes:
            found[record.attributes["pid"]].add((record.stream_id, record.epoch))
    return found


def assert_each_process_has_its_own_stream(records: Iterable[Any]) -> None:
    """One stream for each process, one process for each stream."""
    by_pid = streams_by_pid(records)
    assert all(len(streams) == 1 for streams in by_pid.values()), by_pid
    assert len(set.union(*by_pid.values())) == len(by_pid), by_pid


def identities(records: Iterable[Any]) -> list[tuple[str, int, int]]:
    """What names each record in the world."""
    return [
        tuple(r.attributes[f"memoir.{part}"] for part in ("stream.id", "stream.epoch", "sequence"))
        for r in records
    ]


def assert_copies_are_equal(records: Iterable[Any]) -> None:
    """What arrived twice, as an attempt cut off by a death can, is the same record."""
    pairs = set(zip(identities(records), (r.attributes["log.record.uid"] for r in records)))
    assert len(pairs) == len({identity for identity, _ in pairs}) == len({uid for _, uid in pairs})


def assert_no_copies(records: Iterable[Any]) -> None:
    """Nothing arrived twice."""
    found = identities(records)
    assert len(set(found)) == len(found)


def wait_settled(spool: Path) -> None:
    """Wait until nothing waits in a directory that others write to."""
    assert until(lambda: not totals_of(spool).pending), totals_of(spool)


def until(condition: Callable[[], bool]) -> bool:
    """Wait for what no event tells; return whether it came."""
    pause = threading.Event()
    deadline_s = time.monotonic() + TIMEOUT_S
    while not condition():
        if time.monotonic() >= deadline_s:
            return False
        pause.wait(0.02)
    return True


def assert_accounted(spool: Path) -> None:
    """Nothing waits, nothing was refused or lost, and every file is as it was written."""
    totals = totals_of(spool)
    assert (totals.pending, totals.unaccounted, totals.refused) == (0, 0, {}), totals
    assert totals.delivered == totals.accepted
    assert problems_of(spool) == []


def count_of_slots(spool: Path) -> int:
    """How many spool files a directory has."""
    return len(slots(spool))
