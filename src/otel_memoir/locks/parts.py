"""What the table is made of: keys, units, what they claim, and what they wait for.

Values only, written under the manager's mutex; what happens to them is told by ``core`` and
``engine``. They are in one module because they know each other: a key has holders and a queue,
a unit has claims and a wait, and those have a unit and a key.
"""

from __future__ import annotations

import itertools
import os
import threading
import weakref
from collections.abc import Callable
from typing import Any, Protocol

from opentelemetry.context import Context, get_current

from otel_memoir.errors import LockLostError
from otel_memoir.locks.modes import INTENT, NAMES, ONE, X
from otel_memoir.locks.report import Verdict, Where
from otel_memoir.locks.states import HELD, LOST, NEW, WAITING

_serials = itertools.count(1)


# -- keys ----------------------------------------------------------------------


class LockClass:
    """What is counted of all keys of a class."""

    __slots__ = ("acquired", "contended", "name", "timeouts")

    def __init__(self, name: str) -> None:
        self.name = name
        self.acquired = self.contended = self.timeouts = 0


class Entry:
    """One key.

    Attributes:
        holders: How often each owner holds it in each mode, counted in fields (``modes``).

        total: The sum of ``holders``.

        queue: Who waits, in the order in which they are to be served.

        steps: By mode, what has to be taken, and how, to hold the key: ancestors first.
    """

    __slots__ = ("holders", "key", "kind", "queue", "steps", "total")

    def __init__(self, key: str, kind: LockClass, ancestors: tuple[Entry, ...]) -> None:
        self.key, self.kind = key, kind
        self.holders: dict[Unit, int] = {}
        self.total = 0
        self.queue: list[Wait] = []
        self.steps: tuple[Steps, ...] = tuple(
            (*((entry, INTENT[mode]) for entry in ancestors), (self, mode))
            for mode in range(len(ONE))
        )

    @property
    def idle(self) -> bool:
        """Whether nothing is known of it."""
        return not self.holders and not self.queue


Step = tuple[Entry, int]
Steps = tuple[Step, ...]


# -- units ---------------------------------------------------------------------


class Unit:
    """One thread or one task; never a span.

    Children of ``gather`` inherit their parent's span, and would share its "exclusive" lock
    without knowing. Who shares a lock says so: while a unit *acts for* another one
    (``LockManager.bind``), that one is the owner of what it takes, and the owner is able to go
    on as long as one of its ``crew`` is.

    Attributes:
        owner: Whom it takes locks for: itself, unless it acts for another.

        crew: The living units that take locks for this one. Empty: it is dead.

        leases: What is held for it.

        wait: The lock it waits for now.

        foreign: What else it waits for now, as far as that was declared.

        thread_ident: The thread it runs in: when that one blocks, the unit stands still.

        ticket: Its age: a stamp that it keeps through retries. None: that of its oldest lease.

        refusals: How often in a row it was the victim of a deadlock.

        refused_at: The fence of the last time: what it held then does not end the row.

        wounded: An older unit waits for it: its next wait is refused (wound-wait).
    """

    __slots__ = (
        "__weakref__", "crew", "foreign", "kind", "leases", "name", "owner", "pid", "refusals",
        "refused_at", "serial", "task", "thread_ident", "ticket", "wait", "wounded",
    )  # fmt: skip

    def __init__(self, kind: str, name: str, task: weakref.ref[Any] | None = None) -> None:
        self.kind, self.name, self.task = kind, name, task
        self.serial, self.pid = next(_serials), os.getpid()
        self.thread_ident = threading.get_ident()
        self.owner: Unit = self
        self.crew: tuple[Unit, ...] = (self,)
        self.leases: set[Claim] = set()
        self.wait: Wait | None = None
        self.foreign: list[ForeignWait] = []
        self.ticket: int | None = None
        self.refusals = self.refused_at = 0
        self.wounded: Verdict | None = None

    @property
    def id(self) -> str:
        """Stable, and unique on this host while the process lives."""
        return f"{self.kind}:{self.name}/{self.pid}.{self.serial}"

    def __repr__(self) -> str:
        return f"<Unit {self.id}>"


# -- claims ----------------------------------------------------------------------


class Claim:
    """A lock that is asked for or granted, as the table has it; a ``Lease`` is one in hand.

    Attributes:
        key, mode: The key, and its mode as a number of ``modes``; the first of several.

        keys: All keys with their modes; empty: ``key`` alone.

        state: ``new``, ``held``, ``released``, or ``lost`` (taken away).

        slow: Whether it cannot be granted on the path without contention.

        token: The fence. Greater than that of every claim granted before it.

        acquired_ns: When it was granted, on the monotonic clock.

        waited_ns: How long was waited for it; 0: it was free.
    """

    __slots__ = (
        "acquired_ns", "context", "expires_ns", "key", "keys", "lost_why", "max_hold_s", "mode",
        "on_lost_calls", "owner", "priority", "slow", "state", "steps", "timeout", "token",
        "ttl_s", "waited_ns", "where",
    )  # fmt: skip

    # Set by the grant: an attribute that is not set costs nothing.
    owner: Unit | None
    steps: Steps
    token: int
    acquired_ns: int
    waited_ns: int
    expires_ns: int
    max_hold_s: float | None
    lost_why: str
    context: Context

    def __init__(
        self, key: str, mode: int, timeout: float | None, priority: int, where: Where,
        keys: tuple[tuple[str, int], ...] = (),
    ) -> None:  # fmt: skip
        self.key, self.mode, self.keys = key, mode, keys
        self.timeout, self.priority, self.where = timeout, priority, where
        self.state = NEW
        self.slow = bool(keys)
        self.on_lost_calls: tuple[Callable[[], object], ...] = ()
        self.ttl_s: float | None = None

    @property
    def mode_name(self) -> str:
        """``shared``, ``update`` or ``exclusive``."""
        return NAMES[self.mode]

    @property
    def unit(self) -> str:
        """The id of the unit that owns it."""
        return self.owner.id if self.owner else ""

    @property
    def wants(self) -> tuple[tuple[str, int], ...]:
        """The keys that it is for, with their modes."""
        return self.keys or ((self.key, self.mode),)

    @property
    def exclusive(self) -> bool:
        """Whether its holder may have written."""
        return any(mode == X for _, mode in self.wants)

    @property
    def held(self) -> bool:
        """Whether it still counts."""
        return self.state is HELD

    def check(self) -> None:
        """Raise ``LockLostError`` if it was taken away: to be asked before each write."""
        if self.state is LOST:
            raise LockLostError(
                "use lease of", target=self.key, cause=self.lost_why,
                hint="Another may have changed what it protected: read it again.",
            )  # fmt: skip

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.key} {self.mode_name} {self.state}>"


# -- waits -----------------------------------------------------------------------

Order = tuple[int, int, int]


class Parker(Protocol):
    """Where one unit sleeps."""

    def wake(self) -> bool:
        """End the sleep, from any thread; False if there is nobody to wake any more."""
        ...


class Wait:
    """One request that has to wait, for one claim.

    A timeout, a cancellation, a hand-off and a verdict race for its state word. It is written
    under the mutex and only while it says ``WAITING``: the first wins, and the others accept
    that. A lock is handed over by whoever lets it go, so nobody who comes later can take it
    first.

    Attributes:
        index: Of ``steps``, those before it are taken.

        entry, mode: What it queues for now.

        order: Its place in the queue: (0 if its owner holds the key already, arrival less
            what priority and donations are worth in ns, stamp). It does not change with
            time, though priorities age: all age alike, so none overtakes another by it.

        outer: The wait of the same unit that a signal handler interrupted with this one.

        slept: Whether it had to wait at all; ``waited_ns``: how long, when it is over.

        blockers, queue_length, blocker: Who was in the way when it began, how many queued,
            and the context of the first.

        donors: Waits with a higher priority that this one stands in the way of.

        verdict: Why it was refused.
    """

    __slots__ = (
        "arrival_ns", "blocker", "blockers", "context", "deadline_s", "donors", "entry", "error",
        "index", "lease", "mode", "order", "outer", "owner", "parker", "priority", "queue_length",
        "slept", "stamp", "state", "steps", "sync", "unit", "verdict", "waited_ns", "where",
    )  # fmt: skip

    def __init__(
        self, lease: Claim, steps: Steps, unit: Unit, owner: Unit, parker: Parker, sync: bool
    ) -> None:
        self.lease, self.steps, self.unit, self.owner = lease, steps, unit, owner
        self.parker, self.sync = parker, sync
        self.priority = lease.priority
        self.state = WAITING
        self.index = 0
        self.entry: Entry | None = None
        self.outer: Wait | None = None
        self.mode = 0
        self.arrival_ns = self.stamp = 0
        self.deadline_s: float | None = None
        self.order: Order = (1, 0, 0)
        self.donors: set[Wait] = set()
        self.verdict: Verdict | None = None
        self.error: BaseException | None = None
        self.slept, self.waited_ns, self.queue_length = False, 0, 0
        self.blockers: tuple[Unit, ...] = ()
        self.blocker: Context | None = None
        self.context, self.where = lease.context, lease.where

    @property
    def worth(self) -> int:
        """Its priority, or the highest that was donated to it."""
        return max([self.priority, *(donor.priority for donor in self.donors)])

    @property
    def holders(self) -> tuple[str, ...]:
        """Ids of the units that were in the way when it began."""
        return tuple(dict.fromkeys(unit.id for unit in self.blockers))


class ForeignWait:
    """A unit waits for other units.

    Args:
        targets: Threads, tasks or units; asked for whenever the graph is read, under the
            mutex, so it looks at attributes and calls nothing foreign.

        any: Whether one of them is enough.

        word: What it is called in a report: ``task``, ``join``, ``executor``.
    """

    __slots__ = ("any", "context", "targets", "where", "word")

    def __init__(
        self, targets: Callable[[], list[Any]], word: str, where: Where | None, *,
        any: bool = False,  # noqa: A002
    ) -> None:  # fmt: skip
        self.targets, self.any, self.word, self.where = targets, any, word, where
        self.context = get_current()
