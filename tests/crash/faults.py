"""Failing the k-th system call of a command, with strace's fault injection.

strace counts ``when`` per *thread* and counts only calls that touch the given
paths, so an interpreter's own ``openat`` calls stay out of it. The failing call
is not carried out. In a program of several threads a one-shot fault therefore
strikes each thread at its own k-th call.
"""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .strace import CrashToolError, Syscall, parse, run_strace

# Errors that these calls really return (their man pages); the first is the likeliest.
ERRORS: Mapping[str, tuple[str, ...]] = {
    "openat": ("EMFILE", "EIO", "EROFS", "ENOSPC"),
    "pwrite64": ("EIO", "ENOSPC"),
    "write": ("EIO", "ENOSPC"),
    "fdatasync": ("EIO", "ENOSPC"),
    "fsync": ("EIO", "ENOSPC"),
    "ftruncate": ("EIO", "ENOSPC"),
    "fallocate": ("ENOSPC", "EIO"),
    "rename": ("EIO", "ENOSPC", "EROFS"),
    "unlink": ("EIO", "EROFS"),
    "mkdir": ("ENOSPC", "EROFS"),
}


@dataclass(frozen=True)
class Fault:
    """The ``when``-th ``syscall`` of a thread fails with ``error``; all later ones too if sticky.

    ``str()`` gives strace's expression for it.
    """

    syscall: str
    error: str
    when: int
    sticky: bool = False

    def __str__(self) -> str:
        return f"{self.syscall}:error={self.error}:when={self.when}{'+' if self.sticky else ''}"


@dataclass(frozen=True)
class FaultRun:
    """A run with a fault.

    Attributes:
        fault: The fault.
        completed: The ended command, stdout with its promises included.
        injected: How many calls failed because of the fault; 0 means it was not reached.
    """

    fault: Fault
    completed: subprocess.CompletedProcess[bytes]
    injected: int

    @property
    def acked(self) -> frozenset[str]:
        """Ids promised on stdout."""
        lines = self.completed.stdout.decode().splitlines()
        return frozenset(line[4:] for line in lines if line.startswith("ACK "))


def count_calls(
    command: Sequence[str], paths: Iterable[Path], *, timeout: float = 60.0
) -> dict[str, int]:
    """Runs ``command`` without a fault and counts its calls on ``paths``.

    Args:
        command: The workload.
        paths: Files and directories, existing or not. A directory stands for
            itself, not for what is in it; ``Trace.touched`` lists what is.
        timeout: Seconds the run may take.

    Returns:
        The largest count of any one thread, per call of ``ERRORS`` that occurs.

    Raises:
        CrashToolError: If the run fails without any fault.
    """
    completed, calls = run_strace(
        [*_only(paths), "-e", "trace=" + _alternatives(ERRORS)], command, _list, timeout=timeout
    )
    if completed.returncode != 0:
        cause = completed.stderr.decode(errors="replace")[-500:]
        raise CrashToolError("count calls", cause=f"the command failed by itself: {cause}")
    per_thread = Counter((call.name, call.tid) for call in calls)
    counts: dict[str, int] = {}
    for (name, _), count in per_thread.items():
        counts[name] = max(count, counts.get(name, 0))
    return counts


def sweep(
    counts: Mapping[str, int],
    *,
    errors: Mapping[str, tuple[str, ...]] = ERRORS,
    sticky: tuple[bool, ...] = (False, True),
    every: int = 1,
) -> Iterator[Fault]:
    """One fault per call counted, per error, once and from then on.

    Args:
        counts: What ``count_calls`` returned.
        errors: Errors to try per call; calls not named are left out.
        sticky: Which kinds to try.
        every: Take each ``every``-th call only, the first included.
    """
    for syscall, count in counts.items():
        for error in errors.get(syscall, ()):
            for is_sticky in sticky:
                for when in range(1, count + 1, every):
                    yield Fault(syscall, error, when, is_sticky)


def run_with_fault(
    command: Sequence[str],
    fault: Fault,
    paths: Iterable[Path],
    *,
    timeout: float = 60.0,
    env: Mapping[str, str] | None = None,
) -> FaultRun:
    """Runs ``command`` while ``fault`` strikes its calls on ``paths``.

    Raises:
        CrashToolError: If strace cannot run, or the command hangs beyond
            ``timeout`` seconds (which is a finding about the command).
    """
    options = [*_only(paths), "-e", f"trace={fault.syscall}", "-e", f"inject={fault}"]
    completed, calls = run_strace(options, command, _list, timeout=timeout, env=env)
    return FaultRun(fault, completed, sum(call.injected for call in calls))


def _list(lines: Iterable[str]) -> list[Syscall]:
    return list(parse(lines))


def _only(paths: Iterable[Path]) -> list[str]:
    return [option for path in paths for option in ("-P", str(path))]


def _alternatives(names: Iterable[str]) -> str:
    # '?' lets strace pass over calls that this architecture does not have.
    return ",".join(f"?{name}" for name in names)
