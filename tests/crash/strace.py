"""Running a command under strace, and strace's output as values.

Nothing here knows which calls matter. The output is taken with ``-f -y -xx``:
every string and every path behind a descriptor is in hex, so no byte of a file
can be mistaken for strace's own punctuation (strace(1)).
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

_Result = TypeVar("_Result")

# Longer than any single write a workload makes; a cut string is refused, not guessed.
_STRING_LIMIT = 16 * 1024 * 1024

_LINE = re.compile(r"(\d+)\s+(.*)", re.DOTALL)
_UNFINISHED = " <unfinished ...>"
_RESUMED = re.compile(r"<\.\.\. \w+ resumed>(.*)", re.DOTALL)
_CALL = re.compile(r"(\w+)\((.*)\)\s+= (\?|-?\d+|0x[0-9a-f]+)(.*)", re.DOTALL)
_ENTERED = re.compile(r"(\w+)\((.*)", re.DOTALL)
_STRING = re.compile(r'"([^"]*)"(\.\.\.)?')
_DESCRIPTOR = re.compile(r"(AT_FDCWD|-?\d+)(?:<([^>]*)>(\(deleted\))?)?")
_ERROR = re.compile(r"\s*(E[A-Z0-9]+)\b")


class CrashToolError(Exception):
    """A crash tool cannot do, or cannot know, what it was asked.

    Args:
        operation: What was being done.
        cause: Why it failed.
        hint: What the reader can do about it.
    """

    def __init__(self, operation: str, *, cause: str, hint: str = "") -> None:
        self.operation = operation
        self.cause = cause
        self.hint = hint
        super().__init__(f"{operation}: {cause}. {hint}".strip())


@dataclass(frozen=True)
class Descriptor:
    """A file descriptor as strace shows it: number, path behind it, still named or not.

    ``number`` is None for ``AT_FDCWD``; ``path`` is empty where strace knew none.
    """

    number: int | None
    path: str
    deleted: bool


@dataclass(frozen=True)
class Syscall:
    """One system call of one thread.

    Attributes:
        tid: The thread.
        name: The call.
        args: Its arguments as text, strings emptied; lists are split at their commas too.
        strings: The bytes of its string arguments, in order.
        result: What it returned; None if it never did.
        error: The errno name if it failed.
        injected: Whether strace made it fail.
        outcome: The text behind the result (the path of a new descriptor).
        begin: The line on which it was entered.
        end: The line on which it returned.
    """

    tid: int
    name: str
    args: tuple[str, ...]
    strings: tuple[bytes, ...]
    result: int | None
    error: str | None
    injected: bool
    outcome: str
    begin: int
    end: int

    def descriptor(self, index: int = 0) -> Descriptor:
        """Argument ``index`` read as a descriptor."""
        return _descriptor(self.args[index])

    def opened(self) -> Descriptor:
        """The result read as a new descriptor."""
        return _descriptor(f"{self.result}{self.outcome}")


def require_strace() -> str:
    """The path of strace.

    Raises:
        CrashToolError: If it is not installed.
    """
    path = shutil.which("strace")
    if path is None:
        raise CrashToolError(
            "find strace", cause="it is not on PATH", hint="Install it: apt-get install strace."
        )
    return path


def run_strace(
    options: Sequence[str],
    command: Sequence[str],
    consume: Callable[[Iterable[str]], _Result],
    *,
    timeout: float,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> tuple[subprocess.CompletedProcess[bytes], _Result]:
    """Runs ``command`` and its children under strace and hands the output lines on.

    Args:
        options: strace options beyond ``-f -y -xx``.
        command: The command.
        consume: Takes the lines of strace's output once the command has ended.
        timeout: Seconds after which command and children are killed.
        env: Environment; the caller's if None.
        cwd: Working directory; the caller's if None.

    Returns:
        The ended process (strace hands on its exit status, stdout and stderr)
        and what ``consume`` returned.

    Raises:
        CrashToolError: If strace is missing, may not trace, or the time is up.
    """
    with tempfile.TemporaryDirectory(prefix="strace-") as scratch:
        output = Path(scratch, "output")
        line = [require_strace(), "-f", "-y", "-xx", f"-s{_STRING_LIMIT}", "--seccomp-bpf"]
        line += ["-qq", "-e", "signal=none", "-o", str(output), *options, "--", *command]
        completed = _run_group(line, timeout=timeout, env=env, cwd=cwd)
        _refuse_no_ptrace(completed)
        with output.open(encoding="ascii", errors="surrogateescape") as lines:
            return completed, consume(lines)


def _run_group(
    line: Sequence[str], *, timeout: float, env: Mapping[str, str] | None, cwd: Path | None
) -> subprocess.CompletedProcess[bytes]:
    process = subprocess.Popen(
        line,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=env,
        cwd=cwd,
        start_new_session=True,  # strace detaches when killed: its children need the signal too
    )
    with process:
        try:
            stdout, stderr = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired as expired:
            os.killpg(process.pid, signal.SIGKILL)
            raise CrashToolError(
                f"run {list(line[-2:])} under strace", cause=f"not done after {timeout} s"
            ) from expired
    return subprocess.CompletedProcess(line, process.returncode, stdout, stderr)


def _refuse_no_ptrace(completed: subprocess.CompletedProcess[bytes]) -> None:
    if re.search(rb"strace: .*(PTRACE|ptrace|attach)", completed.stderr):
        raise CrashToolError(
            "trace a process",
            cause=completed.stderr.decode(errors="replace").strip(),
            hint="Containers need --cap-add SYS_PTRACE and a seccomp profile that allows ptrace.",
        )


def parse(lines: Iterable[str]) -> Iterator[Syscall]:
    """The system calls in strace's output, in the order in which they returned.

    Calls that never returned (their thread was killed) come last, with no result.

    Raises:
        CrashToolError: If a line cannot be read.
    """
    entered: dict[int, tuple[int, str]] = {}
    for number, line in enumerate(lines):
        matched = _LINE.match(line.rstrip("\n"))
        if matched is None:
            raise _unreadable(line)
        tid, text = int(matched[1]), matched[2]
        if text.startswith(("+++", "---")):
            continue
        if text.endswith(_UNFINISHED):
            entered[tid] = (number, text[: -len(_UNFINISHED)])
            continue
        begin, head = entered.pop(tid, (number, "")) if text[0] == "<" else (number, "")
        yield _syscall(tid, _whole(head, text), begin, number)
    for tid, (begin, head) in entered.items():
        yield _never_returned(tid, head, begin)


def _whole(head: str, text: str) -> str:
    resumed = _RESUMED.match(text)
    return head + resumed[1] if resumed else text


def _syscall(tid: int, text: str, begin: int, end: int) -> Syscall:
    matched = _CALL.fullmatch(text)
    if matched is None:
        raise _unreadable(text)
    name, arguments, result, outcome = matched.groups()
    failed = _ERROR.match(outcome) if result == "-1" else None
    return Syscall(
        tid=tid,
        name=name,
        args=tuple(_STRING.sub('""', arguments).split(", ")),
        strings=_strings(arguments),
        result=None if result == "?" else int(result, 0),
        error=failed[1] if failed else None,
        injected="(INJECTED)" in outcome,
        outcome=outcome,
        begin=begin,
        end=end,
    )


def _never_returned(tid: int, head: str, begin: int) -> Syscall:
    matched = _ENTERED.fullmatch(head)
    if matched is None:
        raise _unreadable(head)
    args = tuple(_STRING.sub('""', matched[2]).split(", "))
    strings = _strings(matched[2])
    return Syscall(tid, matched[1], args, strings, None, None, False, "", begin, begin)


def _strings(arguments: str) -> tuple[bytes, ...]:
    found = _STRING.findall(arguments)
    if any(cut for _, cut in found):
        raise CrashToolError("read a trace", cause=f"a string is longer than {_STRING_LIMIT} bytes")
    return tuple(_unhex(text) for text, _ in found)


def _unhex(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))


def _descriptor(text: str) -> Descriptor:
    matched = _DESCRIPTOR.match(text)
    if matched is None:
        return Descriptor(None, "", False)
    number = None if matched[1] == "AT_FDCWD" else int(matched[1])
    path = os.fsdecode(_unhex(matched[2])) if matched[2] else ""
    return Descriptor(number, path, matched[3] is not None)


def _unreadable(line: str) -> CrashToolError:
    return CrashToolError("read a trace", cause=f"not a line of strace -f: {line[:200]!r}")
