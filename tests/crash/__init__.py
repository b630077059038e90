"""What a power cut or a failing system call can do to a program's files, tried out.

A *workload* is any command that prints ``ACK <id>`` (one whole line per
``write(2)``, unbuffered) when it promises that ``id`` is safe. These tools

- record what it did to the files of one directory (``trace``),
- rebuild every state of that directory that a power cut could leave (``images``),
- fail its k-th system call (``faults``),
- and ask a callback whether each promise still holds (``judge``).

They promise to stop with an error where they cannot know what happened, never
to guess. They know nothing of the package they test, refuse anything but Linux
with ``strace``, and say in README.md which failures they do not model.
"""

from __future__ import annotations

from .faults import ERRORS, Fault, FaultRun, count_calls, run_with_fault, sweep
from .images import POLICIES, CrashImages, Image, Policy, Target
from .judge import Verdict, judge, sqlite_reader, table
from .strace import CrashToolError
from .trace import Trace, record

__all__ = [
    "ERRORS",
    "POLICIES",
    "CrashImages",
    "CrashToolError",
    "Fault",
    "FaultRun",
    "Image",
    "Policy",
    "Target",
    "Trace",
    "Verdict",
    "count_calls",
    "judge",
    "record",
    "run_with_fault",
    "sqlite_reader",
    "sweep",
    "table",
]
