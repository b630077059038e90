"""Turns system calls into operations on the followed directory.

Follows what an offset or a relative path depends on: descriptors (shared by
threads and duplicates, inherited over fork) and working directories.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from . import operations as ops
from .strace import CrashToolError, Descriptor, Syscall, parse

OPENS = ("openat", "open", "creat", "openat2")
SYNCS = ("fsync", "fdatasync")
_POSITIONED = ("pwrite64", "pwritev")
_PLAIN = ("write", "writev")
_BIRTHS = ("clone", "clone3", "fork", "vfork")
# Calls that change a file unseen, with the argument that says which (None: any file).
_NOT_REPLAYED: dict[str, int | None] = {
    "copy_file_range": 2,
    "io_uring_setup": None,
    "mmap": 4,
    "pwritev2": 0,
    "sendfile": 0,
    "splice": 2,
}
# Only on request: an interpreter reads megabytes while it imports.
READS = ("read", "readv", "fcntl")

_ACK = re.compile(rb"ACK (\S+)\n")


def _position(operation: ops.Operation) -> int:
    # A promise counts from when its write was entered, everything else from its return.
    return operation.begin if isinstance(operation, ops.Ack) else operation.end


@dataclass
class _OpenFile:
    """An open file description: what threads, dup'ed descriptors and fork children share."""

    append: bool
    readable: bool
    synchronous: bool
    position: int = 0


@dataclass
class _Process:
    """Descriptors and working directory; threads share one."""

    cwd: str
    files: dict[int, _OpenFile] = field(default_factory=dict)

    def child(self) -> _Process:
        return _Process(self.cwd, dict(self.files))


class Reader:
    """Turns the lines of one trace into operations.

    Args:
        root: The followed directory, without symbolic links in its path.
        directories: Its subdirectories at the start.
        ignore: Endings of file names that are not followed.
        reads: Whether the trace shows ``read`` as well.
    """

    def __init__(
        self, root: Path, directories: frozenset[str], ignore: tuple[str, ...], reads: bool
    ) -> None:
        self.root = str(root)
        self.ignore = ignore
        self.reads = reads
        self.directories = {"", *directories}
        self._found: list[ops.Operation] = []
        self.touched: set[str] = set()
        self._processes: dict[int, _Process] = {}
        self._births: dict[int, Syscall] = {}

    def read(self, lines: Iterable[str]) -> int:
        """Reads a whole trace; returns how many of its calls were made to fail."""
        calls = list(parse(lines))
        # A child may show up before its parent's clone has returned, so births are read first.
        self._births = {call.result: call for call in calls if call.name in _BIRTHS and call.result}
        for call in calls:
            self._take(call)
        return sum(call.injected for call in calls)

    def operations(self) -> tuple[ops.Operation, ...]:
        """What was done, in the order in which it counts."""
        return tuple(sorted(self._found, key=_position))

    def _take(self, call: Syscall) -> None:
        if call.name in _PLAIN and self._is_ack(call):
            self._acks(call)
        elif call.error is not None:
            self._failed(call)
        elif call.result is not None:
            handler = _HANDLERS.get(call.name)
            if handler is not None:
                handler(self, call)

    def _process(self, tid: int) -> _Process:
        if tid not in self._processes:
            birth = self._births.get(tid)
            parent = self._process(birth.tid) if birth else _Process(os.getcwd())
            shared = birth is not None and any("CLONE_FILES" in text for text in birth.args)
            self._processes[tid] = parent if shared else parent.child()
        return self._processes[tid]

    def _birth(self, call: Syscall) -> None:
        if call.result is not None:
            self._process(call.result)  # now: what the parent opens later is not the child's

    # Promises.

    def _is_ack(self, call: Syscall) -> bool:
        data = b"".join(call.strings)
        return data.startswith(b"ACK ") and not self._inside(call.descriptor().path)

    def _acks(self, call: Syscall) -> None:
        data = b"".join(call.strings)
        if _ACK.sub(b"", data):
            raise self._unknown(call, f"a promise is a whole line 'ACK <id>', not {data!r}")
        if call.error is None:
            for name in _ACK.findall(data):
                self._add(ops.Ack(name.decode(), begin=call.begin, end=call.end))

    # Names.

    def _inside(self, path: str) -> bool:
        return path == self.root or path.startswith(self.root + "/")

    def _relative(self, path: str) -> str | None:
        """``path`` below the root, or None where it is not followed."""
        if not self._inside(path):
            return None
        relative = path[len(self.root) + 1 :]
        self.touched.add(relative)
        return None if relative.endswith(self.ignore) else relative

    def _behind(self, descriptor: Descriptor) -> str | None:
        return None if descriptor.deleted else self._relative(descriptor.path)

    def _named(self, call: Syscall, string: int = 0, argument: int | None = None) -> str | None:
        """String ``string`` as a followed path; ``argument`` is its directory descriptor."""
        base = self._process(call.tid).cwd
        if argument is not None:
            base = call.descriptor(argument).path
        path = Path(base, os.fsdecode(call.strings[string]))
        return self._relative(str(Path(os.path.realpath(path.parent), path.name)))

    def _rename(self, call: Syscall) -> None:
        source, target = self._pair(call)
        if any("RENAME_EXCHANGE" in text for text in call.args):
            raise self._unknown(call, "an exchange of names is not modelled")
        if source is None and target is None:
            return
        if source is None or target is None:
            raise self._unknown(call, "a rename over the border of what is followed")
        moved = {name for name in self.directories if f"{name}/".startswith(f"{source}/")}
        self.directories -= moved
        self.directories |= {target + name[len(source) :] for name in moved}
        self._add(ops.Rename(source, target, begin=call.begin, end=call.end))

    def _link(self, call: Syscall) -> None:
        source, target = self._pair(call)
        if target is not None and source is None:
            raise self._unknown(call, "a link to a file that is not followed")
        if source is not None and target is not None:
            self._add(ops.Link(source, target, begin=call.begin, end=call.end))

    def _pair(self, call: Syscall) -> tuple[str | None, str | None]:
        if "at" not in call.name:
            return self._named(call, 0), self._named(call, 1)
        return self._named(call, 0, 0), self._named(call, 1, 2)

    def _one(self, call: Syscall) -> str | None:
        return self._named(call, 0, 0 if call.name.endswith("at") else None)

    def _unlink(self, call: Syscall) -> None:
        path = self._one(call)
        if path is not None:
            self.directories.discard(path)
            self._add(ops.Unlink(path, begin=call.begin, end=call.end))

    def _mkdir(self, call: Syscall) -> None:
        path = self._one(call)
        if path is not None:
            self.directories.add(path)
            self._add(ops.Mkdir(path, begin=call.begin, end=call.end))

    # Content.

    def _open(self, call: Syscall) -> None:
        flags = " ".join(call.args) + (" O_CREAT O_TRUNC O_WRONLY" if call.name == "creat" else "")
        opened = call.opened()
        if opened.number is None or not self._inside(opened.path):
            return
        self._process(call.tid).files[opened.number] = _OpenFile(
            append="O_APPEND" in flags,
            readable="O_WRONLY" not in flags,
            synchronous="O_SYNC" in flags or "O_DSYNC" in flags,
        )
        if "O_TMPFILE" in flags:
            raise self._unknown(call, "a file that is born without a name is not modelled")
        path = self._behind(opened)
        if path is not None and "O_CREAT" in flags:
            self._add(ops.Create(path, begin=call.begin, end=call.end))
        if path is not None and "O_TRUNC" in flags:
            self._add(ops.Truncate(path, 0, begin=call.begin, end=call.end))

    def _write(self, call: Syscall) -> None:
        path = self._behind(call.descriptor())
        if path is None:
            return
        opened = self._opened(call)
        if opened is None:
            raise self._unknown(call, f"no open was seen for this descriptor of {path!r}")
        offset: int | None = opened.position
        if call.name in _POSITIONED:
            offset = int(call.args[-1])
        elif opened.readable and not opened.append and not self.reads:
            raise self._unknown(call, f"the position in {path!r} may have been moved by a read")
        else:
            opened.position += call.result or 0
        # Linux appends even with pwrite if the file is open for appending (pwrite(2), BUGS).
        offset = None if opened.append else offset
        data = b"".join(call.strings)[: call.result]
        self._add(ops.Write(path, offset, data, begin=call.begin, end=call.end))
        if opened.synchronous:
            self._add(ops.Sync(path, begin=call.end, end=call.end))

    def _ftruncate(self, call: Syscall) -> None:
        path = self._one(call) if call.name == "truncate" else self._behind(call.descriptor())
        if path is not None:
            self._add(ops.Truncate(path, int(call.args[1]), begin=call.begin, end=call.end))

    def _fallocate(self, call: Syscall) -> None:
        path = self._behind(call.descriptor())
        if path is None or call.args[1] == "FALLOC_FL_KEEP_SIZE":
            return
        if call.args[1] != "0":
            raise self._unknown(call, f"fallocate mode {call.args[1]} is not modelled")
        size = int(call.args[2]) + int(call.args[3])
        self._add(ops.Allocate(path, size, begin=call.begin, end=call.end))

    def _sync(self, call: Syscall) -> None:
        path = self._behind(call.descriptor())
        if path is not None:
            kind = ops.SyncDir if path in self.directories else ops.Sync
            self._add(kind(path, begin=call.begin, end=call.end))

    def _failed(self, call: Syscall) -> None:
        if call.name in SYNCS and call.error is not None:
            path = self._behind(call.descriptor())
            if path is not None and path not in self.directories:
                self._add(ops.SyncFailed(path, call.error, begin=call.begin, end=call.end))

    def _refuse(self, call: Syscall) -> None:
        """Refuses what changes a followed file behind the trace's back."""
        text = " ".join(call.args)
        if call.name == "mmap" and not ("MAP_SHARED" in text and "PROT_WRITE" in text):
            return
        written = _NOT_REPLAYED[call.name]
        if written is None or self._behind(call.descriptor(written)) is not None:
            raise self._unknown(call, "its writes cannot be seen")

    def _refuse_symlink(self, call: Syscall) -> None:
        if self._named(call, 1, 1 if call.name.endswith("at") else None) is not None:
            raise self._unknown(call, "symbolic links are not modelled")

    # Descriptors.

    def _opened(self, call: Syscall) -> _OpenFile | None:
        return self._process(call.tid).files.get(call.descriptor().number or 0)

    def _close(self, call: Syscall) -> None:
        self._process(call.tid).files.pop(call.descriptor().number or 0, None)

    def _duplicate(self, call: Syscall) -> None:
        opened = self._opened(call)
        is_duplicate = call.name != "fcntl" or "F_DUPFD" in call.args[1]
        if opened is not None and is_duplicate and call.result is not None:
            self._process(call.tid).files[call.result] = opened

    def _seek(self, call: Syscall) -> None:
        opened = self._opened(call)
        if opened is not None and call.result is not None:
            opened.position = call.result

    def _advance(self, call: Syscall) -> None:
        opened = self._opened(call)
        if opened is not None and call.result is not None:
            opened.position += call.result

    def _chdir(self, call: Syscall) -> None:
        process = self._process(call.tid)
        path = os.fsdecode(call.strings[0]) if call.strings else call.descriptor().path
        process.cwd = str(Path(process.cwd, path))

    def _add(self, operation: ops.Operation) -> None:
        self._found.append(operation)

    def _unknown(self, call: Syscall, cause: str) -> CrashToolError:
        return CrashToolError(
            f"follow {call.name}({', '.join(call.args)[:120]})",
            cause=cause,
            hint="A moved position: follow_reads=True. No durable state: add it to ignore.",
        )


_HANDLERS: dict[str, Callable[[Reader, Syscall], None]] = {
    **dict.fromkeys(OPENS, Reader._open),
    **dict.fromkeys((*_POSITIONED, *_PLAIN), Reader._write),
    **dict.fromkeys(SYNCS, Reader._sync),
    **dict.fromkeys(("rename", "renameat", "renameat2"), Reader._rename),
    **dict.fromkeys(("link", "linkat"), Reader._link),
    **dict.fromkeys(("unlink", "unlinkat", "rmdir"), Reader._unlink),
    **dict.fromkeys(("mkdir", "mkdirat"), Reader._mkdir),
    **dict.fromkeys(("symlink", "symlinkat"), Reader._refuse_symlink),
    **dict.fromkeys(("ftruncate", "truncate"), Reader._ftruncate),
    **dict.fromkeys(("dup", "dup2", "dup3", "fcntl"), Reader._duplicate),
    **dict.fromkeys(("read", "readv"), Reader._advance),
    **dict.fromkeys(("chdir", "fchdir"), Reader._chdir),
    **dict.fromkeys(_NOT_REPLAYED, Reader._refuse),
    **dict.fromkeys(_BIRTHS, Reader._birth),
    "fallocate": Reader._fallocate,
    "close": Reader._close,
    "lseek": Reader._seek,
}

TRACED = tuple(name for name in _HANDLERS if name not in READS)
