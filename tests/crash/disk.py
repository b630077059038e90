"""A file system between two syncs: what is durable, and what is still on its way.

Names lead to inodes, so that a file keeps its bytes through renames and a
replaced file is still there if the rename is lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any, Literal

from . import operations as ops
from .strace import CrashToolError

_ROOT = 0
_Key = tuple[int, str]
Names = dict[_Key, int]


@dataclass(frozen=True)
class DataChange:
    """An unsynced change of one file: ``data`` at ``offset``, or a new size.

    ``size`` is None for a write; ``grow_only`` marks an allocation. ``is_lost``
    says that a sync of it failed.
    """

    number: int
    end: int
    offset: int = 0
    data: bytes = b""
    size: int | None = None
    grow_only: bool = False
    is_lost: bool = False

    def apply(self, content: bytearray) -> None:
        """Does to ``content`` what the call did; holes read as zeros."""
        if self.size is None:
            _grow(content, self.offset)
            content[self.offset : self.offset + len(self.data)] = self.data
            return
        if not self.grow_only:
            del content[self.size :]
        _grow(content, self.size)

    def size_after(self, size: int) -> int:
        """The size of a file of ``size`` bytes after this change."""
        if self.size is None:
            return max(size, self.offset + len(self.data))
        return max(size, self.size) if self.grow_only else self.size


def _grow(content: bytearray, size: int) -> None:
    content.extend(bytes(max(0, size - len(content))))


@dataclass(frozen=True)
class _NameChange:
    """An unsynced change of names; durable once no parent ``waits`` for its sync."""

    end: int
    waits: frozenset[int]
    removes: _Key | None = None
    adds: _Key | None = None
    inode: int = 0

    def apply(self, names: Names) -> None:
        # Only if it is still that file: a half-synced move must not remove a newer one.
        if self.removes is not None and names.get(self.removes) == self.inode:
            del names[self.removes]
        if self.adds is not None:
            names[self.adds] = self.inode


class Disk:
    """The state after some operations.

    Args:
        files: Durable files at the start, by relative path.
        directories: Durable directories at the start.
        failed_sync: Whether the writes of a failed sync are ``lost`` for good
            or can be ``retried`` by the next one.
    """

    def __init__(
        self,
        files: Mapping[str, bytes],
        directories: frozenset[str],
        *,
        failed_sync: Literal["lost", "retried"] = "lost",
    ) -> None:
        self.pending: dict[int, tuple[DataChange, ...]] = {}
        self._failed_sync = failed_sync
        self._durable: dict[int, bytes] = {}
        self._sizes: dict[int, int] = {}
        self._versions: dict[int, int] = {}
        self._directories = {_ROOT}
        self._live: Names = {}
        self._name_changes: list[_NameChange] = []
        self._numbers = 0
        for path in sorted(directories):
            self._directories.add(self._plant(path))
        for path, content in files.items():
            inode = self._plant(path)
            self._durable[inode], self._sizes[inode] = content, len(content)
        self._names: Names = dict(self._live)

    def _plant(self, path: str) -> int:
        self._numbers += 1
        self._live[self._key(path)] = self._numbers
        return self._numbers

    # What is unsynced.

    @property
    def is_unsynced(self) -> bool:
        """Whether a power cut now could lose anything."""
        return bool(self.pending or self._name_changes)

    @property
    def pending_names(self) -> int:
        """How many changes of names are unsynced."""
        return len(self._name_changes)

    def writes(self) -> Iterator[tuple[int, int, DataChange]]:
        """The unsynced writes: file, place in its ``pending``, write."""
        for inode, changes in self.pending.items():
            for index, change in enumerate(changes):
                if change.size is None:
                    yield inode, index, change

    # What a power cut leaves.

    def names(self, kept: int) -> Names:
        """The durable names and the first ``kept`` unsynced changes."""
        names = dict(self._names)
        for change in self._name_changes[:kept]:
            change.apply(names)
        return names

    def fingerprint(self, names: Names, chosen: Mapping[int, tuple[DataChange, ...]]) -> int:
        """Equal for two images of one run that are equal because of their history."""
        parts = [
            (key, inode, self._versions.get(inode, 0), _identity(chosen.get(inode, ())))
            for key, inode in names.items()
        ]
        return hash(frozenset(parts))

    def contents(
        self, names: Names, chosen: Mapping[int, tuple[DataChange, ...]]
    ) -> tuple[dict[str, bytes], frozenset[str]]:
        """Files with content and directories; what hangs under a lost directory is lost."""
        children: dict[int, list[tuple[str, int]]] = {}
        for (parent, name), inode in names.items():
            children.setdefault(parent, []).append((name, inode))
        files: dict[str, bytes] = {}
        directories: set[str] = set()
        todo = [(_ROOT, "")]
        while todo:
            parent, path = todo.pop()
            for name, inode in children.get(parent, ()):
                if inode in self._directories:
                    directories.add(path + name)
                    todo.append((inode, f"{path}{name}/"))
                else:
                    files[path + name] = self._content(inode, chosen.get(inode, ()))
        return files, frozenset(directories)

    def _content(self, inode: int, changes: tuple[DataChange, ...]) -> bytes:
        durable = self._durable[inode]
        if not changes:
            return durable
        content = bytearray(durable)
        for change in changes:
            change.apply(content)
        return bytes(content)

    # Operations.

    def apply(self, operation: ops.Operation) -> None:
        """Takes the next operation.

        Raises:
            CrashToolError: If it names a file that does not exist here.
        """
        _APPLY[type(operation)](self, operation)

    def _key(self, path: str) -> _Key:
        pure = PurePosixPath(path)
        return self._inode(str(pure.parent)), pure.name

    def _inode(self, path: str) -> int:
        inode = _ROOT
        for name in PurePosixPath(path).parts:
            try:
                inode = self._live[inode, name]
            except KeyError:
                raise CrashToolError("replay a trace", cause=f"{path!r} is unknown") from None
        return inode

    def _change_names(self, change: _NameChange) -> None:
        change.apply(self._live)
        self._name_changes.append(change)

    def _add_name(self, path: str, inode: int, end: int) -> None:
        key = self._key(path)
        self._change_names(_NameChange(end, frozenset({key[0]}), adds=key, inode=inode))

    def _create(self, op: ops.Create) -> None:
        if self._key(op.path) in self._live:
            return
        self._numbers += 1
        self._durable[self._numbers], self._sizes[self._numbers] = b"", 0
        self._add_name(op.path, self._numbers, op.end)

    def _mkdir(self, op: ops.Mkdir) -> None:
        self._numbers += 1
        self._directories.add(self._numbers)
        self._add_name(op.path, self._numbers, op.end)

    def _link(self, op: ops.Link) -> None:
        self._add_name(op.target, self._inode(op.source), op.end)

    def _rename(self, op: ops.Rename) -> None:
        source, target, inode = self._key(op.source), self._key(op.target), self._inode(op.source)
        parents = frozenset({source[0], target[0]})
        if self._live.get(target) != inode:  # two names of one file: rename(2) does nothing
            self._change_names(_NameChange(op.end, parents, source, target, inode))

    def _unlink(self, op: ops.Unlink) -> None:
        key = self._key(op.path)
        change = _NameChange(op.end, frozenset({key[0]}), key, None, self._inode(op.path))
        self._change_names(change)

    def _write(self, op: ops.Write) -> None:
        inode = self._inode(op.path)
        offset = self._sizes[inode] if op.offset is None else op.offset
        self._change_data(inode, DataChange(self._next(), op.end, offset, op.data))

    def _truncate(self, op: ops.Truncate) -> None:
        inode = self._inode(op.path)
        if self._sizes[inode] != op.size:
            self._change_data(inode, DataChange(self._next(), op.end, size=op.size))

    def _allocate(self, op: ops.Allocate) -> None:
        change = DataChange(self._next(), op.end, size=op.size, grow_only=True)
        self._change_data(self._inode(op.path), change)

    def _next(self) -> int:
        self._numbers += 1
        return self._numbers

    def _change_data(self, inode: int, change: DataChange) -> None:
        self._sizes[inode] = change.size_after(self._sizes[inode])
        self.pending[inode] = (*self.pending.get(inode, ()), change)

    def _sync(self, op: ops.Sync) -> None:
        inode = self._inode(op.path)
        changes = self.pending.pop(inode, ())
        covered = tuple(change for change in changes if change.end <= op.begin)
        left = tuple(change for change in changes if change.end > op.begin)
        if left:
            self.pending[inode] = left
        if covered:
            settled = tuple(change for change in covered if not change.is_lost)
            self._durable[inode] = self._content(inode, settled)
            self._versions[inode] = self._next()

    def _sync_failed(self, op: ops.SyncFailed) -> None:
        inode = self._inode(op.path)
        if self._failed_sync == "lost" and inode in self.pending:
            self.pending[inode] = tuple(
                replace(change, is_lost=change.is_lost or change.end <= op.begin)
                for change in self.pending[inode]
            )

    def _sync_dir(self, op: ops.SyncDir) -> None:
        directory = self._inode(op.path)
        left: list[_NameChange] = []
        for change in self._name_changes:
            covered = change.end <= op.begin
            still = replace(change, waits=change.waits - {directory}) if covered else change
            if still.waits:
                left.append(still)
            else:
                change.apply(self._names)
        self._name_changes = left


def _identity(changes: tuple[DataChange, ...]) -> int:
    return hash(tuple((change.number, change.offset, len(change.data)) for change in changes))


_APPLY: dict[type[ops.Operation], Callable[[Disk, Any], None]] = {
    ops.Create: Disk._create,
    ops.Mkdir: Disk._mkdir,
    ops.Link: Disk._link,
    ops.Rename: Disk._rename,
    ops.Unlink: Disk._unlink,
    ops.Write: Disk._write,
    ops.Truncate: Disk._truncate,
    ops.Allocate: Disk._allocate,
    ops.Sync: Disk._sync,
    ops.SyncFailed: Disk._sync_failed,
    ops.SyncDir: Disk._sync_dir,
}
