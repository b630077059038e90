"""What the processes of a host share: one small file, and who may write it.

The leader holds an ``flock`` on a sibling file, asks the sources and replaces the state as a
whole; the others read it. A reading of the ruler means the same to all processes that share
a boot and a time namespace (time_namespaces(7)), and nothing to others. After a reboot only
the drift, the epoch and the upper bound of what was served are of use.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import stat
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from otel_memoir.clock.drift import Drift
from otel_memoir.clock.line import Line
from otel_memoir.user_state import user_state_directory

STATE_NAME = "clock.state"
LOCK_NAME = "clock.lock"
_VERSION = 1
_SIZE_MAX = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class HostState:
    """What one process of a host found out for all.

    Attributes:
        ruler: Which ruler the readings are of.

        line: What readings are computed from; ``None`` before the first selection.

        asleep_ns: How long the machine had been suspended when it was written.

        drift: The ruler's drift.

        epoch: How often the served clock had to jump back.

        upper_ns: No time above this was served.

        status: One word for what is not normal.

        sources: How the leader was told whom to ask.

        snapshot: For people.
    """

    ruler: str
    line: Line | None = None
    asleep_ns: int = 0
    drift: Drift = field(default_factory=Drift)
    epoch: int = 0
    upper_ns: int = 0
    status: str = "uncalibrated"
    sources: str = ""
    snapshot: Mapping[str, Any] = field(default_factory=dict)


def encode(state: HostState) -> bytes:
    """A line with version and checksum, and the state as JSON."""
    fields = {**asdict(state), "line": list(state.line) if state.line else None}
    body = json.dumps(fields, separators=(",", ":")).encode()
    return _sealed(body)


def _sealed(body: bytes) -> bytes:
    return b"memoir-clock %d %08x\n%s\n" % (_VERSION, zlib.crc32(body), body)


def decode(data: bytes) -> HostState | None:
    """The state, or ``None`` if a byte of it is not what was written, or a newer one."""
    body = data.partition(b"\n")[2][:-1]
    if data != _sealed(body):
        return None
    try:
        fields = json.loads(body)
        line = Line(*fields.pop("line")) if fields["line"] else fields.pop("line")
        return HostState(line=line, drift=Drift(**fields.pop("drift")), **fields)
    except (ValueError, TypeError, KeyError):
        return None


def read_state(directory: Path) -> HostState | None:
    """What the leader of this directory wrote last, if it can be used and is ours."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        descriptor = os.open(directory / STATE_NAME, flags)
    except OSError:
        return None
    try:
        found = os.fstat(descriptor)
        if found.st_uid != os.geteuid() or not stat.S_ISREG(found.st_mode):
            return None
        return decode(os.read(descriptor, _SIZE_MAX))
    except OSError:
        return None
    finally:
        os.close(descriptor)


def write_state(directory: Path, state: HostState, *, durable: bool) -> None:
    """Replace the state as a whole; readers see the old one or the new one.

    Args:
        directory: Prepared, and led by this process.

        state: What to write.

        durable: Whether it is to survive a power cut.

    Raises:
        OSError: The disk said no.
    """
    fresh = directory / f".{STATE_NAME}.new"
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(fresh, flags, 0o600)
    try:
        data = memoryview(encode(state))
        while data:
            data = data[os.write(descriptor, data):]
        if durable:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.replace(fresh, directory / STATE_NAME)
    if durable:
        _sync_directory(directory)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Leadership:
    """Whether this process asks the sources for all of the host. Dies with the process."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._descriptor: int | None = None

    @property
    def held(self) -> bool:
        """Whether this process leads."""
        return self._descriptor is not None

    def take(self) -> bool:
        """Lead, unless another process does; return whether this one does now.

        Raises:
            OSError: The directory cannot be used.
        """
        if self._descriptor is None:
            for directory in (self._directory.parent, self._directory):
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._descriptor = _locked(self._directory / LOCK_NAME)
        return self.held

    def give_up(self) -> None:
        """Close the lock: in a fork child it stays the parent's (flock(2)), else it is free."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            with contextlib.suppress(OSError):
                os.close(descriptor)


def is_led(directory: Path) -> bool:
    """Whether a living process leads. Asks without creating anything."""
    try:
        descriptor = os.open(directory / LOCK_NAME, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def _locked(path: Path) -> int | None:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return None
        raise
    return descriptor


def ruler_identity() -> str:
    """Which ruler this process reads: its boot, and its time namespace; empty if unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
    try:
        return f"{boot} {os.readlink('/proc/self/ns/time')}"
    except OSError:  # before Linux 5.6 there is one for all
        return boot


def state_directory() -> Path:
    """Where the state is by default: beside the spools, under a name that no service has."""
    return user_state_directory() / ".clock"
