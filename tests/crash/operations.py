"""The operations on a directory that matter to what survives a power cut.

Paths are relative to the traced directory; ``""`` is the directory itself.
``begin`` and ``end`` are lines of the trace: where the system call was entered
and where it returned. A sync covers only what returned before it was entered.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One system call that succeeded (or, for ``SyncFailed``, did not).

    Attributes:
        begin: Line of the trace on which the call was entered.
        end: Line of the trace on which it returned.
    """

    begin: int
    end: int


@dataclass(frozen=True)
class Create(Operation):
    """``path`` was opened with ``O_CREAT``: an empty file, unless it was there."""

    path: str


@dataclass(frozen=True)
class Write(Operation):
    """``data`` was written at ``offset``, or at the end of the file if that is None."""

    path: str
    offset: int | None
    data: bytes


@dataclass(frozen=True)
class Truncate(Operation):
    """The file was cut or extended with zeros to ``size`` bytes."""

    path: str
    size: int


@dataclass(frozen=True)
class Allocate(Operation):
    """The file was extended with zeros to at least ``size`` bytes (``fallocate``)."""

    path: str
    size: int


@dataclass(frozen=True)
class Sync(Operation):
    """``fsync`` or ``fdatasync`` of a file returned success.

    Both make data and size durable: POSIX has ``fdatasync`` write the metadata
    that is needed to read the data back (fdatasync(2)).
    """

    path: str


@dataclass(frozen=True)
class SyncFailed(Operation):
    """``fsync`` or ``fdatasync`` failed; ``error`` is the errno name."""

    path: str
    error: str


@dataclass(frozen=True)
class SyncDir(Operation):
    """``fsync`` or ``fdatasync`` of a directory returned success."""

    path: str


@dataclass(frozen=True)
class Rename(Operation):
    """``source`` became ``target``, replacing what was there."""

    source: str
    target: str


@dataclass(frozen=True)
class Link(Operation):
    """``target`` became a second name of the file ``source``."""

    source: str
    target: str


@dataclass(frozen=True)
class Unlink(Operation):
    """The name ``path`` of a file or directory was removed."""

    path: str


@dataclass(frozen=True)
class Mkdir(Operation):
    """The directory ``path`` was made."""

    path: str


@dataclass(frozen=True)
class Ack(Operation):
    """The workload promised that ``id`` is safe.

    It stands in the list where its ``write`` was *entered*: from then on
    somebody may have read it.
    """

    id: str
