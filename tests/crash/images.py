"""The states of a directory that a power cut could leave.

The model. A file's bytes are durable up to the last successful sync of that
file; of the writes since then any may be on disk, whole or cut at a 512-byte
sector. A name (created, renamed, removed) is durable after a sync of its
directory; of the later changes of names a prefix may be on disk (file systems
keep the order of metadata; ALICE, OSDI'14). A rename between directories
counts after both are synced. Pages of a failed sync may be gone although a
later sync succeeds (Rebello et al., ATC'20).

Not modelled: drives that lie about a flush, damage to sectors that were not
written, and memory-mapped writes.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from .disk import DataChange, Disk
from .operations import Ack, Operation
from .target import Image, Target
from .trace import Trace

__all__ = ["POLICIES", "CrashImages", "Image", "Policy", "Target"]

SECTOR = 512


@dataclass(frozen=True)
class Policy:
    """What becomes of unsynced writes (``data``) and unsynced changes of names (``names``)."""

    name: str
    data: Literal["dropped", "kept", "subset", "torn"]
    names: Literal["dropped", "kept", "prefix"]

    @property
    def is_random(self) -> bool:
        """Whether another seed gives another image."""
        return self.data in ("subset", "torn")


POLICIES = (
    Policy("dropped", data="dropped", names="dropped"),
    Policy("empty", data="dropped", names="kept"),
    Policy("nameless", data="kept", names="dropped"),
    Policy("kept", data="kept", names="kept"),
    Policy("subset", data="subset", names="prefix"),
    Policy("torn", data="torn", names="prefix"),
)

_Chosen = dict[int, tuple[DataChange, ...]]


@dataclass(frozen=True)
class CrashImages:
    """All images of one trace: each policy at each point between two operations.

    Iterating yields each distinct image once, in trace order, and the same
    images for the same seed. An image is built only when it is yielded.

    Attributes:
        trace: The recorded run.
        policies: What may happen to unsynced state.
        seed: Seed of the random policies.
        rounds: How often each random policy is tried at each point.
        share: The part of the images to build, drawn by the seed; see ``sample``.
        failed_sync: Whether writes of a failed sync are lost for good, or only
            unsynced until the next one.
    """

    trace: Trace
    policies: tuple[Policy, ...] = POLICIES
    seed: int = 0
    rounds: int = 1
    share: float = 1.0
    failed_sync: Literal["lost", "retried"] = "lost"

    def sample(self, every_n: int) -> CrashImages:
        """About one in ``every_n`` of these images, always the same ones."""
        return replace(self, share=self.share / every_n)

    def __iter__(self) -> Iterator[Image]:
        disk = Disk(self.trace.files, self.trace.directories, failed_sync=self.failed_sync)
        seen: set[int] = set()
        acked: frozenset[str] = frozenset()
        since: list[str] = []
        last: Operation | None = None
        for cut, operation in enumerate((*self.trace.operations, None)):
            if isinstance(operation, Ack):
                since.append(operation.id)
                continue
            # Nothing else changed since the last cut, so the longest list of promises judges all.
            acked, since = acked.union(since), []
            yield from self._at(disk, cut, last, acked, seen)
            if operation is not None:
                disk.apply(operation)
                last = operation

    def _at(
        self, disk: Disk, cut: int, last: Operation | None, acked: frozenset[str], seen: set[int]
    ) -> Iterator[Image]:
        for policy, round_ in self._cases(disk):
            dice = random.Random(f"{self.seed}:{cut}:{policy.name}:{round_}")
            if dice.random() >= self.share:
                continue
            chosen = _choose(disk, policy, dice)
            if chosen is None:
                continue
            names = disk.names(_prefix(disk, policy, dice))
            key = hash((disk.fingerprint(names, chosen), len(acked)))
            if key not in seen:
                seen.add(key)
                files, directories = disk.contents(names, chosen)
                yield Image(cut, _describe(last), policy.name, files, directories, acked)

    def _cases(self, disk: Disk) -> Iterator[tuple[Policy, int]]:
        """The policies that can differ here, random ones once per round."""
        for policy in self.policies:
            if policy.is_random and not disk.is_unsynced:
                continue
            for round_ in range(self.rounds if policy.is_random else 1):
                yield policy, round_


def _describe(operation: Operation | None) -> str:
    if operation is None:
        return "start"
    where = getattr(operation, "path", None) or getattr(operation, "target", "")
    return f"{type(operation).__name__} {where} (line {operation.end + 1})"


def _prefix(disk: Disk, policy: Policy, dice: random.Random) -> int:
    pending = disk.pending_names
    return {"dropped": 0, "kept": pending}.get(policy.names, dice.randint(0, pending))


def _choose(disk: Disk, policy: Policy, dice: random.Random) -> _Chosen | None:
    """The unsynced changes on disk, per file; None if the policy has nothing to act on."""
    if policy.data == "dropped":
        return {}
    if policy.data == "kept":
        return dict(disk.pending)
    if policy.data == "subset":
        return {file: _subset(changes, dice) for file, changes in disk.pending.items()}
    return _tear(disk, dice)


def _subset(changes: tuple[DataChange, ...], dice: random.Random) -> tuple[DataChange, ...]:
    keep = dice.random()
    return tuple(change for change in changes if dice.random() < keep)


def _tear(disk: Disk, dice: random.Random) -> _Chosen | None:
    """One write is cut at a sector; what came before it is whole or a subset."""
    victims = [(file, i) for file, i, change in disk.writes() if _boundaries(change)]
    if not victims:
        return None
    file, index = dice.choice(victims)
    chosen = {other: _subset(changes, dice) for other, changes in disk.pending.items()}
    before, after = disk.pending[file][:index], disk.pending[file][index + 1 :]
    before = before if dice.random() < 0.5 else _subset(before, dice)
    torn = _cut(disk.pending[file][index], dice)
    chosen[file] = (*before, torn, *_subset(after, dice))
    return chosen


def _boundaries(change: DataChange) -> range:
    """The sector boundaries strictly inside a write."""
    first = (change.offset // SECTOR + 1) * SECTOR
    return range(first, change.offset + len(change.data), SECTOR)


def _cut(change: DataChange, dice: random.Random) -> DataChange:
    at = dice.choice(_boundaries(change))
    head = at - change.offset
    if dice.random() < 0.5:
        return replace(change, data=change.data[:head])
    return replace(change, offset=at, data=change.data[head:])
