"""Looks at the locks of other processes."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from otel_memoir.locks.snapshot import Arrow, Snapshot
from otel_memoir.locks.sockets import Place, connect, listener_is_gone, places, socket_directory
from otel_memoir.locks.window import FORMAT

ANSWER_BYTES_MAX = 2**28
_CHUNK_BYTES = 2**16


@dataclass(frozen=True, kw_only=True)
class ProcessLocks:
    """The locks of one process, at one moment.

    Attributes:
        program: The name of its script, without the path.

        taken_unix_ns: When it looked, by its wall clock.

        managers: Each of its lock managers.
    """

    pid: int
    program: str
    taken_unix_ns: int
    managers: tuple[Snapshot, ...]

    @property
    def graph(self) -> tuple[Arrow, ...]:
        """The wait-for graphs of all its managers."""
        return tuple(arrow for manager in self.managers for arrow in manager.graph)


@dataclass(frozen=True, kw_only=True)
class Silent:
    """A process that is there and does not show its locks, and why."""

    pid: int
    why: str


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a look found, by pid."""

    processes: tuple[ProcessLocks, ...]
    silent: tuple[Silent, ...]


def look(
    pids: Collection[int] = (), *, timeout: float = 2.0, directory: Path | None = None
) -> Seen:
    """Ask the processes of this user for their locks; remove the sockets of dead ones.

    Args:
        pids: Which; by default all.

        timeout: Seconds for each.

        directory: Where the sockets are.

    Raises:
        LockError: The directory cannot be trusted.
    """
    found = [
        _ask(place, timeout) for place in places(directory or socket_directory())
        if not pids or place.pid in pids
    ]
    return Seen(
        processes=tuple(sorted(
            (one for one in found if isinstance(one, ProcessLocks)), key=lambda one: one.pid
        )),
        silent=tuple(sorted(
            (one for one in found if isinstance(one, Silent)), key=lambda one: one.pid
        )),
    )  # fmt: skip


def _ask(place: Place, timeout: float) -> ProcessLocks | Silent | None:
    """What a process shows; None if it is dead."""
    deadline_s = time.monotonic() + timeout
    try:
        connection = connect(place, timeout)
    except (ConnectionRefusedError, FileNotFoundError):
        return None
    except BlockingIOError:
        return Silent(pid=place.pid, why=f"too many look at it: no turn within {timeout:g} s")
    except OSError as error:
        return Silent(pid=place.pid, why=f"it cannot be reached: {error}")
    with connection:
        try:
            answer = b"".join(_chunks(connection, deadline_s))
        except TimeoutError:
            if not listener_is_gone(connection):
                return Silent(pid=place.pid, why=f"it did not answer within {timeout:g} s")
            place.path.unlink(missing_ok=True)
            return None
        except OSError as error:
            return Silent(pid=place.pid, why=f"it hung up: {error}")
    return _read(place.pid, answer)


def _chunks(connection: socket.socket, deadline_s: float) -> Iterator[bytes]:
    size = 0
    while size < ANSWER_BYTES_MAX:
        left_s = deadline_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        connection.settimeout(left_s)
        chunk = connection.recv(_CHUNK_BYTES)
        if not chunk:
            return
        size += len(chunk)
        yield chunk


def _read(pid: int, answer: bytes) -> ProcessLocks | Silent:
    if not answer:
        return Silent(pid=pid, why="it hung up without an answer")
    try:
        return _process(json.loads(answer))
    except (ValueError, TypeError, KeyError) as error:
        return Silent(pid=pid, why=f"it answers what this version cannot read: {error}")


def _process(told: dict[str, Any]) -> ProcessLocks:
    if told["format"] != FORMAT:
        raise ValueError(f"format {told['format']}")
    return ProcessLocks(
        pid=int(told["pid"]), program=str(told["program"]),
        taken_unix_ns=int(told["taken_unix_ns"]),
        managers=tuple(map(Snapshot.from_dict, told["managers"])),
    )  # fmt: skip


def standing(process: ProcessLocks) -> frozenset[str]:
    """Ids of the deadlocks that were only reported, and in which all units still wait."""
    graph = {(one.unit, one.target) for one in process.graph}
    return frozenset(
        report.id for manager in process.managers for report in manager.deadlocks
        if report.resolution == "reported"
        and graph.issuperset(zip(report.units, (*report.units[1:], *report.units[:1])))
    )
