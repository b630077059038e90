"""Every error that otel-memoir raises or reports.

    MemoirError
    ├── SettingsError      (also a ValueError)   a setting cannot be used
    ├── SpoolError                               a spool file or directory cannot be used
    │   ├── SpoolRefusedError                    a record was not accepted
    │   ├── SpoolCorruptError                    a file does not hold what was written to it
    │   └── SpoolRemovedError                    a file in use was removed
    ├── DeliveryError                            a destination cannot be used
    ├── ClockError                               a time source gave nothing that can be used
    ├── LockError                                a lock cannot be taken, kept or let go
    │   ├── DeadlockError                        units wait for each other in a circle
    │   ├── LockOrderError                       locks were asked for in a dangerous order
    │   ├── LockTimeoutError (also a TimeoutError)   a lock was not granted in time
    │   ├── LockLostError                        a lease ended while its holder was at work
    │   ├── OwnerDiedError                       a unit ended with its lock still held
    │   └── ReflectionSkippedError               another reflection is under way, and was asked
    ├── WriteConflictError                       a change met a version it was not based on
    └── EventError         (also a ValueError)   a memory event cannot be made or read

Each error names the operation that failed, the object it failed on, the cause,
and what a person can do about it. None of them leaves ``emit``, ``export``,
``force_flush`` or ``shutdown``: there they are counted and said, never raised.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple


class MemoirError(Exception):
    """Root of all errors of this package.

    Args:
        operation: What was being done, in words ("open spool").

        target: What it was done to: a path, a setting, an endpoint.

        cause: Why it failed, in words or as the exception that said so.

        hint: What the reader can do about it.
    """

    def __init__(
        self, operation: str, *, target: object = "", cause: object = "", hint: str = ""
    ) -> None:
        self.operation = operation
        self.target = str(target)
        self.cause = str(cause)
        self.hint = hint
        super().__init__(self._sentence())

    def _sentence(self) -> str:
        head = f"{self.operation} {self.target}".strip()
        tail = f" {self.hint}" if self.hint else ""
        return f"{head}: {self.cause}.{tail}" if self.cause else f"{head}.{tail}"


class SettingsError(MemoirError, ValueError):
    """A setting has a value that cannot be used."""


class SpoolError(MemoirError):
    """A spool file or directory cannot be used."""


class SpoolRefusedError(SpoolError):
    """A record was not accepted; ``reason`` is the name under which it was counted."""

    def __init__(self, reason: str, *, cause: object = "", hint: str = "") -> None:
        self.reason = reason
        super().__init__("store record", cause=cause or reason, hint=hint)


class SpoolCorruptError(SpoolError):
    """A file, or a row of it, does not hold what was written to it."""


class SpoolRemovedError(SpoolError):
    """A file that is in use was removed or replaced under its name."""


class DeliveryError(MemoirError):
    """A destination cannot be used as it is configured."""


class ClockError(MemoirError):
    """A time source gave nothing that can be used; ``reason`` is the name it is counted under."""

    def __init__(
        self, reason: str, *, source: str, cause: object = "", hint: str = ""
    ) -> None:
        self.reason = reason
        super().__init__("ask", target=source, cause=cause or reason, hint=hint)


class LockError(MemoirError):
    """A lock cannot be taken, kept or let go."""


class DeadlockError(LockError):
    """Units wait for each other in a circle, and this one's request was refused.

    The error is retryable: what the unit did under its locks has to be undone, its
    locks let go, and the whole block done again. ``LockManager.run`` does that.

    Attributes:
        report: A ``locks.DeadlockReport``, the whole circle: each unit, its span, the key
            and mode it waits for, what it holds and where it was acquired.
    """

    def __init__(self, report: Any, *, target: object, cause: object) -> None:
        self.report = report
        super().__init__(
            "wait for lock", target=target, cause=cause,
            hint="Let go of all locks and do the whole block again, as LockManager.run does.",
        )


class LockOrderError(LockError):
    """Locks were asked for in an order that, with another one seen before, can deadlock."""


class LockTimeoutError(LockError, TimeoutError):
    """A lock was not granted in time; ``holders`` names who had it then."""

    def __init__(self, target: object, *, waited_s: float, holders: Sequence[str]) -> None:
        self.waited_s, self.holders = waited_s, tuple(holders)
        held = f", held by {', '.join(holders)}" if holders else ""
        super().__init__(
            "wait for lock", target=target, cause=f"not granted within {waited_s:.3g} s{held}",
            hint="LockManager.snapshot() shows who waits for whom.",
        )


class LockLostError(LockError):
    """A lease ended while its holder was at work: what it would write now may be stale."""


class OwnerDiedError(LockError):
    """A unit ended with the lock held: what the lock protects may be half written."""


class ReflectionSkippedError(LockError):
    """A reflection did not run: others are under way on its memories, and were asked to run again.

    Attributes:
        holders: Ids of the reflections that were asked. Each finds the request in its
            ``rerun_requests``.
    """

    def __init__(self, name: str, *, holders: Sequence[str]) -> None:
        self.holders = tuple(holders)
        super().__init__(
            "start reflection", target=name,
            cause=f"reflection {', '.join(holders)} is under way, and was asked to run again",
            hint='Let it be, or wait for it with if_busy="wait".',
        )


class EventError(MemoirError, ValueError):
    """A memory event cannot be made, written in some form, or read from it."""


class Conflict(NamedTuple):
    """A memory that has another version than was expected."""

    key: str
    expected: Any
    found: Any

    def __str__(self) -> str:
        # Other versions than numbers may be content, and errors are logged.
        known = all(version is None or type(version) is int for version in self[1:])
        return f"it has version {self.found}, not {self.expected}" if known else "it changed"


class WriteConflictError(MemoirError):
    """A change met a version that it was not based on, and was refused.

    Attributes:
        key: The key of the memory record; of several the first.

        expected, found: The version on which the change was based, and the one there is.

        conflicts: All of them: each a key, the version expected and the version found.
    """

    def __init__(
        self, key: str, *, expected: object, found: object, more: Sequence[Conflict] = ()
    ) -> None:
        self.key, self.expected, self.found = key, expected, found
        self.conflicts = (Conflict(key, expected, found), *more)
        cause = "; ".join([str(self.conflicts[0]), *(f"{one.key}: {one}" for one in more)])
        super().__init__(
            "change", target=key, cause=cause,
            hint="Somebody changed it in between: read it again, and decide again.",
        )
