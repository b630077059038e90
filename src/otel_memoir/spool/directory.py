"""The directory of a spool: slots, who holds them, and whether it can be trusted.

A slot is a name for one spool file and its siblings::

    memoir-0001.db        the SQLite file (with -wal and -shm beside it)
    memoir-0001.lock      an flock on it means: alive; holds the number of lives
    memoir-0001.ballast   room to settle in when the disk is full

Beside them is the index of whoever asked for records (``index.py``).

Only the lock tells whether a slot is in use. A pid would lie after a reboot, in
another container, and when it is given out anew.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

try:
    import fcntl
except ImportError as error:
    raise ImportError(
        "otel-memoir needs flock(2), which Windows does not have: run it in WSL or a container"
    ) from error

from otel_memoir.errors import SpoolError
from otel_memoir.user_state import NETWORK_FILE_SYSTEMS, file_system

_SLOT_NAME = re.compile(r"memoir-(\d{4,})\.db")
_BROKEN_NAME = re.compile(r"(broken|salvaged)-\d{4,}-\d+\.db")
_OUR_NAME = re.compile(r"\.?(memoir|broken|salvaged)-(\d|index\.)")
_SLOTS_MAX = 9999

# One lock file that another user left, or that is none, is no reason to give up all slots.
_NOT_OURS = frozenset({errno.EACCES, errno.EPERM, errno.EISDIR, errno.ELOOP, errno.ENXIO})


@dataclass(frozen=True)
class Slot:
    """One numbered place for a spool file in a directory."""

    directory: Path
    number: int

    @property
    def name(self) -> str:
        """The file name without its ending, which is how people see the slot."""
        return f"memoir-{self.number:04d}"

    @property
    def database(self) -> Path:
        """The SQLite file."""
        return self.directory / f"{self.name}.db"

    @property
    def lock_file(self) -> Path:
        """The file whose lock means that a living process holds the slot."""
        return self.directory / f"{self.name}.lock"

    @property
    def ballast(self) -> Path:
        """Preallocated room, given back to the file system when it is full."""
        return self.directory / f"{self.name}.ballast"


_inherited: set[Path] = set()
"""Databases that a parent had open when it forked, kept out of this process for good.
SQLite has one view of a file for all connections of a process, abandoned ones included: a
child that opened one, after other processes had, lost 20 of their 20 fsynced records."""


def was_inherited(database: Path) -> bool:
    """Whether a parent had a database open when it forked this process."""
    return database in _inherited


class SlotLock:
    """A held slot. Dies with the process; never survives it."""

    def __init__(self, slot: Slot, descriptor: int) -> None:
        self.slot = slot
        self._descriptor: int | None = descriptor

    def is_in_place(self) -> bool:
        """Whether the lock file is still the one that others would lock."""
        if self._descriptor is None:
            return False
        try:
            found = os.stat(self.slot.lock_file)
        except FileNotFoundError:
            return False
        return os.path.samestat(found, os.fstat(self._descriptor))

    def lives(self) -> int:
        """How many lives the slot's stream had, as far as the lock file knows."""
        text = os.pread(self._descriptor, 20, 0) if self._descriptor is not None else b""
        return int(text) if text.strip().isdigit() else 0

    def note_lives(self, lives: int) -> None:
        """Note how many lives the slot's stream had, over a restored file."""
        if self._descriptor is not None:
            os.pwrite(self._descriptor, f"{lives:<19}\n".encode(), 0)

    def release(self) -> None:
        """Give the slot back. Only for the process that took it."""
        self._close()

    def abandon(self) -> None:
        """In a fork child: close our descriptor without unlocking, and never take the slot.

        A fork child shares the lock with its parent: unlocking there would free
        the living parent's slot, and keeping it open would keep a dead parent's
        slot locked. Closing does neither (flock(2)).
        """
        _inherited.add(self.slot.database)
        self._close()

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            with contextlib.suppress(OSError):
                os.close(descriptor)


def prepare_directory(path: Path) -> None:
    """Make the directory ready to hold memories of people, or say why it cannot be.

    On return it exists, is ours alone (0700), and survives a power cut.

    Raises:
        SpoolError: It cannot be made, is not ours, or is on a network file system.
    """
    try:
        make_durable_directory(path)
        found = path.stat()
    except OSError as error:
        raise SpoolError(
            "use spool directory", target=path, cause=error,
            hint="Set MEMOIR_SPOOL_DIR to a writable directory on a local disk.",
        ) from error
    check_owner(path, found)
    if stat.S_IMODE(found.st_mode) & 0o077 and all(map(_OUR_NAME.match, os.listdir(path))):
        path.chmod(0o700)  # never a directory that others use too: /, /var/lib, a home
    kind = file_system(path)
    if kind in NETWORK_FILE_SYSTEMS:
        raise SpoolError(
            "use spool directory", target=path, cause=f"it is on a network file system ({kind})",
            hint="Set MEMOIR_SPOOL_DIR to a directory on a local disk.",
        )


def check_owner(path: Path, found: os.stat_result) -> None:
    """Check that a directory is ours, ours to write to, and no shared temporary one.

    Raises:
        SpoolError: It is not.
    """
    if found.st_uid != os.geteuid():
        raise SpoolError(
            "use spool directory", target=path, cause="it belongs to another user",
            hint="Choose a directory of the user that runs this process.",
        )
    if not stat.S_ISDIR(found.st_mode) or not os.access(path, os.W_OK | os.X_OK):
        raise SpoolError(
            "use spool directory", target=path, cause="it is not a writable directory",
            hint="Set MEMOIR_SPOOL_DIR to a writable directory on a local disk.",
        )
    if found.st_mode & stat.S_ISVTX:
        raise SpoolError(
            "use spool directory", target=path, cause="it is a shared temporary directory",
            hint="Set MEMOIR_SPOOL_DIR to a directory of its own, on a disk that stays.",
        )


def make_durable_directory(path: Path) -> None:
    """Create the directory and its parents, and fsync each parent that gained an entry.

    SQLite ignores a failing fsync of a directory, so it is done here, where a
    failure is seen.
    """
    missing = []
    probe = path
    while not probe.exists():
        missing.append(probe)
        probe = probe.parent
    for directory in reversed(missing):
        with contextlib.suppress(FileExistsError):
            directory.mkdir(mode=0o700)
        sync_directory(directory.parent)


def sync_directory(path: Path) -> None:
    """Make the entries of a directory durable.

    Raises:
        OSError: The disk said no.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def slots(directory: Path) -> list[Slot]:
    """The slots that have a file, in the order of their numbers."""
    try:
        names = os.listdir(directory)
    except (FileNotFoundError, NotADirectoryError):
        return []
    numbers = [int(found.group(1)) for name in names if (found := _SLOT_NAME.fullmatch(name))]
    return [Slot(directory, number) for number in sorted(numbers)]


def broken_files(directory: Path, *, salvaged: bool = True) -> list[Path]:
    """The files that were moved aside; those that were salvaged too, unless told otherwise."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        found = sorted(filter(_BROKEN_NAME.fullmatch, os.listdir(directory)))
        return [directory / name for name in found if salvaged or name.startswith("broken")]
    return []


def try_lock(slot: Slot) -> SlotLock | None:
    """Take a slot if no living process holds it, and this one did not inherit it.

    Raises:
        OSError: The lock file cannot be made.
    """
    if was_inherited(slot.database):
        return None
    descriptor = try_lock_file(slot.lock_file)
    return None if descriptor is None else SlotLock(slot, descriptor)


def try_lock_file(path: Path) -> int | None:
    """Lock a file that nobody holds; return its descriptor, which the caller closes.

    Raises:
        OSError: The file cannot be made.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(path, flags, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return None
        raise
    return descriptor


def rename_database(path: Path, target: Path) -> None:
    """Give a database another name, and its log with it; nobody has it open for writing.

    After a power cut it may have both names, but under neither does it lack its log: a
    database without its log has lost what was not checkpointed.

    Raises:
        OSError: The disk said no, or the file system knows no second names.
    """
    for ending in ("-wal", ""):
        with contextlib.suppress(FileNotFoundError):
            os.link(f"{path}{ending}", f"{target}{ending}")
    sync_directory(path.parent)
    # A log that is left without its database is removed by SQLite (pagerOpenWalIfPresent).
    for ending in ("", "-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{path}{ending}")


def is_held(slot: Slot) -> bool:
    """Whether a living process holds the slot. Asks without creating anything."""
    try:
        descriptor = os.open(slot.lock_file, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def take_slot(directory: Path, *, avoid: frozenset[int] = frozenset()) -> SlotLock:
    """Take the first free slot, or a new one. Exactly one process gets each.

    Args:
        directory: A prepared directory.

        avoid: Numbers of slots that this process does not trust.

    Raises:
        SpoolError: There is no slot to be had.
    """
    last: OSError | None = None
    taken = {slot.number for slot in slots(directory)}
    for number in [*sorted(taken), *range(1, _SLOTS_MAX + 1)]:
        if number in avoid:
            continue
        try:
            held = try_lock(Slot(directory, number))
        except OSError as error:
            if error.errno not in _NOT_OURS:
                raise
            held, last = None, error
        if held is not None:
            return held
    raise SpoolError(
        "take a slot in", target=directory, cause=last or f"all {_SLOTS_MAX} are in use",
        hint="Give each service its own spool directory.",
    )
