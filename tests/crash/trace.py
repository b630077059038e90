"""What a command did to the files of one directory, as a list of typed operations.

``record`` runs the command under strace. Three things are not followed, and
said here because they shape the proof: files whose names end in ``ignore``
(SQLite's ``-shm`` is written through a memory map and rebuilt after a crash, so
it is not durable state; sqlite.org/wal.html), bytes written to a file that has
no name left, and ``sync``/``syncfs``/``sync_file_range`` (taken as not having
happened, which is the stricter reading). A call that changes a followed file
in a way that cannot be replayed raises ``CrashToolError``.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import operations as ops
from .reader import READS, TRACED, Reader
from .strace import run_strace


@dataclass(frozen=True)
class Trace:
    """A recorded run.

    Attributes:
        directory: The directory that was followed.
        files: Its files before the run, by relative path.
        directories: Its subdirectories before the run.
        operations: What was done, in order.
        touched: Relative paths of all its files that were named or opened, ignored ones too.
        injected: How many calls strace made fail.
        completed: The ended command.
    """

    directory: Path
    files: Mapping[str, bytes]
    directories: frozenset[str]
    operations: tuple[ops.Operation, ...]
    touched: frozenset[str]
    injected: int
    completed: subprocess.CompletedProcess[bytes]

    @property
    def acked(self) -> frozenset[str]:
        """All ids that the workload promised."""
        return frozenset(op.id for op in self.operations if isinstance(op, ops.Ack))


def record(
    command: Sequence[str],
    directory: Path,
    *,
    timeout: float = 60.0,
    inject: str | None = None,
    ignore: tuple[str, ...] = ("-shm",),
    follow_reads: bool = False,
    env: Mapping[str, str] | None = None,
) -> Trace:
    """Runs ``command`` and records what it does below ``directory``.

    Args:
        command: The workload; it may fork and use threads.
        directory: An existing directory; what is in it counts as durable.
        timeout: Seconds the run may take.
        inject: A strace fault expression (``str(Fault)``), to follow a program
            through a failing call. Its ``when`` counts all calls of a thread,
            not only those below the directory.
        ignore: Endings of file names that are no durable state.
        follow_reads: Follow ``read`` too. Needed only if a file is written with
            ``write`` (not ``pwrite``) through a descriptor opened ``O_RDWR``.
        env: Environment of the command.

    Returns:
        The operations in order. Check ``completed.returncode``: a workload that
        failed is recorded as well.

    Raises:
        CrashToolError: If strace cannot run, or a call cannot be replayed.
    """
    directory = directory.resolve(strict=True)
    files, directories = snapshot(directory)
    traced = TRACED + (READS if follow_reads else ())
    options = ["-e", "trace=" + ",".join(f"?{name}" for name in traced)]
    options += ["-e", f"inject={inject}"] if inject else []
    reader = Reader(directory, directories, ignore, follow_reads)
    completed, injected = run_strace(options, command, reader.read, timeout=timeout, env=env)
    touched = frozenset(reader.touched)
    return Trace(directory, files, directories, reader.operations(), touched, injected, completed)


def snapshot(directory: Path) -> tuple[dict[str, bytes], frozenset[str]]:
    """Files (with content) and subdirectories below ``directory``, by relative path."""
    found = {str(path.relative_to(directory)): path for path in directory.rglob("*")}
    files = {name: path.read_bytes() for name, path in found.items() if path.is_file()}
    return files, frozenset(name for name, path in found.items() if path.is_dir())
