"""Where processes show their locks: one socket each, in a directory of the user's.

Who may look: the directory is the user's own and closed to others (0700), and where the system
tells who connects (``SO_PEERCRED``, unix(7)), only that user and root are answered.

Who is dead: nobody listens on its socket any more (connect(2): ``ECONNREFUSED``). Whoever finds
such a socket removes it. That holds on one machine only, so none is made on a network file system.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import socket
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from otel_memoir.errors import LockError
from otel_memoir.user_state import NETWORK_FILE_SYSTEMS, file_system, user_state_directory

BACKLOG = 16

# sun_path has 108 bytes on Linux and 104 on macOS, one of them for the final zero.
_ADDRESS_BYTES_MAX = 103
_NAME = re.compile(r"(\d+)-[0-9a-f]{8}\.sock")
_GLANCE_S = 0.01
_CREDENTIALS = struct.Struct("3i")


@dataclass(frozen=True)
class Place:
    """The socket of one process, living or dead."""

    path: Path
    pid: int


def socket_directory() -> Path:
    """Beside the spools, under a name that no service has."""
    return user_state_directory() / ".locks"


def prepare(directory: Path) -> None:
    """Make the directory, for this user alone.

    Raises:
        LockError: It is another's, open to others, or on a network file system.

        OSError: It cannot be made.
    """
    directory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        directory.mkdir(mode=0o700)
    check(directory)
    kind = file_system(directory)
    if kind in NETWORK_FILE_SYSTEMS:
        raise _unusable(directory, f"it is on a network file system ({kind})")


def check(directory: Path) -> None:
    """See that nobody else can have put a socket there.

    Raises:
        LockError: Somebody can.

        OSError: There is no such directory.
    """
    found = os.lstat(directory)
    if not stat.S_ISDIR(found.st_mode):
        raise _unusable(directory, "it is no directory")
    if found.st_uid != os.geteuid():
        raise _unusable(directory, "it belongs to another user")
    if stat.S_IMODE(found.st_mode) & 0o077:
        raise _unusable(directory, "others can get in")


def _unusable(directory: Path, why: str) -> LockError:
    return LockError(
        "use directory of lock sockets", target=directory, cause=why,
        hint="It has to be the user's own, with mode 0700, on a local disk; XDG_STATE_HOME "
        "moves it.",
    )  # fmt: skip


def places(directory: Path) -> list[Place]:
    """All sockets in a directory, by process; none if there is no directory.

    Raises:
        LockError: The directory cannot be trusted.
    """
    try:
        check(directory)
        names = sorted(os.listdir(directory))
    except FileNotFoundError:
        return []
    found = [(name, _NAME.fullmatch(name)) for name in names]
    return [Place(directory / name, int(match.group(1))) for name, match in found if match]


def clear(directory: Path) -> None:
    """Remove the sockets of dead processes. Those whose pid lives are not even asked."""
    for place in places(directory):
        if not _lives(place.pid):
            with contextlib.suppress(OSError):
                connect(place, _GLANCE_S).close()


def listen(directory: Path) -> tuple[socket.socket, Place]:
    """Make this process's socket in a prepared directory.

    It gets its name when it listens already: before that it would be taken for a dead one.

    Raises:
        OSError: It cannot be made.
    """
    pid = os.getpid()
    place = Place(directory / f"{pid}-{secrets.token_hex(4)}.sock", pid)
    early = place.path.with_suffix(".new")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _address(early) as address:
            listener.bind(address)
        os.chmod(early, 0o600)
        listener.listen(BACKLOG)
        listener.setblocking(False)
        os.rename(early, place.path)
    except BaseException:
        listener.close()
        early.unlink(missing_ok=True)
        raise
    return listener, place


def connect(place: Place, timeout: float) -> socket.socket:
    """Connect to a process within so many seconds.

    Raises:
        ConnectionRefusedError: It is dead; its socket is removed.

        OSError: It cannot be reached.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # ``settimeout`` would not wait where many want to look at once: unix(7), EAGAIN.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(timeout))
        with _address(place.path) as address:
            connection.connect(address)
        connection.settimeout(timeout)
    except BaseException as error:
        connection.close()
        if isinstance(error, ConnectionRefusedError):
            place.path.unlink(missing_ok=True)
        raise
    return connection


def _timeval(seconds: float) -> bytes:
    microseconds = max(1, int(seconds * 1e6))  # 0 would be for ever
    return struct.pack("ll", *divmod(microseconds, 10**6))


@contextlib.contextmanager
def _address(path: Path) -> Iterator[str]:
    """A name of a path that is short enough for the kernel."""
    if len(os.fsencode(path)) <= _ADDRESS_BYTES_MAX:
        yield str(path)
        return
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{path.name}"
    finally:
        os.close(descriptor)


def may_look(connection: socket.socket) -> bool:
    """Whether the other end is of our user or root; elsewhere the directory has to do."""
    peer = _peer(connection)
    return peer is None or peer[1] in (os.geteuid(), 0)


def listener_is_gone(connection: socket.socket) -> bool:
    """Whether who listened is dead, and a child that it forked unseen keeps the socket open."""
    peer = _peer(connection)
    # 0: of a pid namespace that we do not see.
    return peer is not None and peer[0] > 0 and not _lives(peer[0])


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _peer(connection: socket.socket) -> tuple[int, int] | None:
    """Pid and uid of the other end."""
    if not hasattr(socket, "SO_PEERCRED"):
        return None
    size = _CREDENTIALS.size
    found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    pid, uid, _ = _CREDENTIALS.unpack(found)
    return pid, uid
