"""The lock manager: the public face of the room."""

from __future__ import annotations

import functools
import inspect
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from concurrent.futures import Executor
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from opentelemetry._logs import LoggerProvider
from opentelemetry.metrics import MeterProvider

from otel_memoir.diagnostics import complaints
from otel_memoir.locks import forks
from otel_memoir.locks.engine import AGING_NS, Engine
from otel_memoir.locks.foreign import bound, in_executor, join, waiting
from otel_memoir.locks.judge import OnDeadlock, Policy
from otel_memoir.locks.keys import shape
from otel_memoir.locks.lease import Lease, lease_of_all
from otel_memoir.locks.metrics import LockMetrics
from otel_memoir.locks.modes import X, mode_of
from otel_memoir.locks.order import LockOrder, OrderFinding, OrderMode
from otel_memoir.locks.parking import acquire_async
from otel_memoir.locks.parts import ForeignWait, Unit
from otel_memoir.locks.remote import make_victim
from otel_memoir.locks.repair import recover
from otel_memoir.locks.report import DeadlockReport, caller
from otel_memoir.locks.retry import again, again_async
from otel_memoir.locks.snapshot import Snapshot, take
from otel_memoir.locks.table import Table
from otel_memoir.locks.telemetry import LockEvents, Telemetry
from otel_memoir.locks.watch import Watch
from otel_memoir.locks.window import LockSocket, window
from otel_memoir.settings import Settings

T = TypeVar("T")


class LockManager:
    """Locks on memories, for threads and tasks of any number of event loops.

    Args:
        on_deadlock: ``refuse``: one unit of a circle gets ``DeadlockError``. ``report``: it
            is only reported, and timeouts decide.

        policy: ``detect``, ``wait-die`` or ``wound-wait``.

        class_of: The lock class of a key, for metrics and the lock-order graph: a few
            names, never one for each record. Default: its store and depth.

        order: The lock-order graph: ``off``, ``warn`` or ``raise``.

        events: How contention is told: ``span_event``, ``log`` or ``both``.

        long_wait_s: Who waited longer is told of, and gets a span link to its blocker.

        socket: ``contended``: ``otel-memoir locks`` can look into this process as soon as a
            unit has had to wait for a lock of this manager. ``off``: never.

        aging_s: What one step of priority is worth: a request is overtaken only by those
            that come less than this many seconds, for each step, after it.
    """

    def __init__(
        self, *, on_deadlock: OnDeadlock = "refuse", policy: Policy = "detect",
        order: OrderMode | None = None, class_of: Callable[[str], str] = shape,
        events: LockEvents | None = None, long_wait_s: float | None = None,
        socket: LockSocket | None = None,
        logger_provider: LoggerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        aging_s: float = AGING_NS / 1e9, monotonic_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:  # fmt: skip
        settings = Settings.load(
            lock_order=order, lock_events=events, lock_long_wait_s=long_wait_s, lock_socket=socket
        )
        # A fence grows over restarts too, as long as the clock is not set back, since no
        # process grants 2**20 locks in each millisecond of its life.
        fence = time.time_ns() // 10**6 << 20
        self._engine = Engine(
            Table(class_of), fence=fence, aging_ns=int(aging_s * 1e9), monotonic_ns=monotonic_ns,
            on_deadlock=on_deadlock, policy=policy,
        )  # fmt: skip
        metrics = LockMetrics(self._engine, meter_provider)
        self._telemetry = Telemetry(
            metrics, events=settings.lock_events, long_wait_s=settings.lock_long_wait_s,
            provider=logger_provider,
        )
        self._wire(self._telemetry, metrics)
        if settings.lock_order != "off":
            self._engine.order = LockOrder(self._engine.table)
            self._engine.raise_on_order = settings.lock_order == "raise"
        forks.enrol(self._engine)
        self._is_shown = settings.lock_socket != "off"
        if self._is_shown:
            window.show(self, self._engine)

    def _wire(self, telemetry: Telemetry, metrics: LockMetrics) -> None:
        engine = self._engine
        engine.on_verdict, engine.on_waited = telemetry.on_verdict, telemetry.on_waited
        engine.on_lease_lost = telemetry.on_lost
        engine.on_contended = metrics.released
        engine.on_order = _say_order

    # -- locks ----------------------------------------------------------------

    def hold(
        self, key: str, mode: str = "exclusive", *, timeout: float | None = None,
        priority: int = 0, ttl: float | None = None, max_hold: float | None = None,
    ) -> Lease:  # fmt: skip
        """A lock for a block: ``with locks.hold(key)`` or ``async with locks.hold(key)``.

        Args:
            key: What to lock. Its ancestors get the intent by themselves.

            mode: ``shared``, ``update`` or ``exclusive``.

            timeout: Seconds to wait at most; 0 does not wait; None waits as long as it takes.

            priority: Greater goes first, but starves nobody: all age alike.

            ttl: Seconds after which it may be taken away without a heartbeat; None: never.

            max_hold: Seconds after which a heartbeat does not help any more.
        """
        frame = sys._getframe(1)  # as ``caller`` does, without the price of a call
        lease = Lease(
            key, X if mode == "exclusive" else mode_of(mode), timeout, priority,
            (frame.f_code, frame.f_lasti),
        )  # fmt: skip
        lease.engine = self._engine
        return lease if ttl is None else lease.limit(ttl, max_hold)

    def hold_all(
        self, modes: Mapping[str, str], *, timeout: float | None = None, priority: int = 0
    ) -> Lease:
        """Several locks for a block, all or nothing, in canonical order whatever is given."""
        return lease_of_all(self._engine, modes, timeout, priority, caller())

    def acquire(self, key: str, mode: str = "exclusive", **options: Any) -> Lease:
        """Wait in this thread for a lock; options as for ``hold``. Let go: ``lease.release``."""
        lease = self.hold(key, mode, **options)
        lease.where = caller()
        return lease.__enter__()

    def acquire_async(self, key: str, mode: str = "exclusive", **options: Any) -> Awaitable[Lease]:
        """As ``acquire``, for tasks.

        Who calls is the owner, not who awaits: ``wait_for`` of Python 3.11 and older runs
        what it is given in a task of its own. Nobody can tell there that the owner waits for
        that task, so a circle through it ends by its timeout only: give ``timeout`` instead.
        """
        lease = self.hold(key, mode, **options)
        lease.where = caller()
        return self._acquire_for(lease, self._engine.roll.here().owner)

    async def _acquire_for(self, lease: Lease, owner: Unit) -> Lease:
        engine = self._engine
        unit = engine.roll.here()
        try:
            if unit.foreign or not engine.take(lease, owner):
                await acquire_async(engine, lease, unit, owner)
        except BaseException as error:
            recover(engine, lease, error)
            raise
        return lease

    def locked(
        self, key: str | Callable[..., str], mode: str = "exclusive", **options: Any
    ) -> Callable[[Callable[..., T]], Callable[..., T]]:
        """A decorator that holds a lock during a call, of a ``def`` or an ``async def``.

        Args:
            key: A format string over the parameters (``profile/{user}``), or a function of
                the arguments.

            mode, options: As for ``hold``.
        """

        def decorate(function: Callable[..., T]) -> Callable[..., T]:
            key_of = key if callable(key) else _formatted(key, function)
            if inspect.iscoroutinefunction(function):

                @functools.wraps(function)
                async def call_task(*args: Any, **kwargs: Any) -> Any:
                    async with self.hold(key_of(*args, **kwargs), mode, **options):
                        return await function(*args, **kwargs)

                return call_task  # type: ignore[return-value]

            @functools.wraps(function)
            def call(*args: Any, **kwargs: Any) -> T:
                with self.hold(key_of(*args, **kwargs), mode, **options):
                    return function(*args, **kwargs)

            return call

        return decorate

    def run(
        self, function: Callable[..., T], *args: Any, attempts: int | None = None, **kwargs: Any
    ) -> T:
        """Call a function, and again after a deadlock, until it was not refused.

        It has to take its locks itself, all of them, and to undo what it did under them
        when it is refused: it is done again from the beginning. It keeps its age, so that
        it is not refused for ever, and waits for what it was refused before it begins again.

        Args:
            function: A ``def``, or an ``async def``: then the result is to be awaited.

            attempts: How often at most; None: as often as it takes.
        """
        where = caller()
        do = again_async if inspect.iscoroutinefunction(function) else again
        return do(self._engine, function, args, kwargs, attempts, where)  # type: ignore[return-value]

    def retrying(self, function: Callable[..., T]) -> Callable[..., T]:
        """A decorator: ``run`` for each call."""
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def call_task(*args: Any, **kwargs: Any) -> Any:
                return await self.run(function, *args, **kwargs)

            return call_task  # type: ignore[return-value]

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> T:
            return self.run(function, *args, **kwargs)

        return call

    # -- ownership, and waits that are no locks --------------------------------

    def bind(self, function: Callable[..., T]) -> Callable[..., T]:
        """A function that acts for the calling unit in whatever thread or task it runs.

        What it locks belongs to this unit, and what this unit holds does not block it.
        """
        return bound(self._engine, function)

    def waiting_for(self, *targets: object, word: str = "task") -> AbstractContextManager[None]:
        """Declare that the calling unit waits for threads or tasks during a block.

        Raises:
            DeadlockError: One of them waits for what this unit holds.
        """
        return waiting(self._engine, ForeignWait(lambda: list(targets), word, caller()))

    def join(self, thread: threading.Thread, timeout: float | None = None) -> None:
        """``thread.join(timeout)``, as part of the wait-for graph."""
        join(self._engine, thread, timeout, caller())

    def run_in_executor(
        self, executor: Executor | None, function: Callable[..., T], *args: Any
    ) -> Awaitable[T]:
        """``loop.run_in_executor`` for the calling task, as part of the wait-for graph."""
        return in_executor(self._engine, executor, function, *args, where=caller())

    # -- looking ---------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        """Who holds what and who waits for whom, at one moment; ``to_dot``, ``to_mermaid``."""
        return take(self._engine, self.deadlocks())

    def publish(self, timeout: float = 1.0) -> bool:
        """Let ``otel-memoir locks`` look into this process now, before anybody had to wait.

        In a server that forks, call it in the workers: a fork child begins anew.

        Args:
            timeout: Seconds to wait for the socket at most; 0, for event loops: it comes soon.

        Returns:
            Whether it is there. Never, where the setting ``lock_socket`` is ``off``.
        """
        return self._is_shown and window.open(timeout)

    def deadlocks(self) -> tuple[DeadlockReport, ...]:
        """The last deadlocks, oldest first."""
        return tuple(self._telemetry.deadlocks)

    def order_findings(self) -> tuple[OrderFinding, ...]:
        """Orders that can deadlock, as far as the lock-order graph is on."""
        order = self._engine.order
        with self._engine.mutex:
            return tuple(order.findings) if order is not None else ()

    def watch(self, keys: Iterable[str]) -> Watch:
        """Note from now on who holds some keys exclusively, for one who does not hold them."""
        watch = Watch(keys)
        with self._engine.mutex:
            self._engine.watches = (*self._engine.watches, watch)
        return watch

    def unwatch(self, watch: Watch) -> None:
        """Let a watch note no more; harmless when that was said before."""
        with self._engine.mutex:
            self._engine.watches = tuple(w for w in self._engine.watches if w is not watch)

    # -- seams for a remote engine ---------------------------------------------

    def unit_id(self) -> str:
        """The stable id of the calling thread or task."""
        return self._engine.roll.here().id

    def owner_id(self) -> str:
        """The id of the unit that the calling one takes locks for: itself, unless bound."""
        return self._engine.roll.here().owner.id

    def on_block(self, call: Callable[[str, tuple[str, ...]], object]) -> None:
        """Have ``call(unit, holders)`` called, with ids, when a unit begins to wait."""
        self._engine.on_block.append(call)

    def on_unblock(self, call: Callable[[str], object]) -> None:
        """Have ``call(unit)`` called when a unit's wait has ended, however."""
        self._engine.on_unblock.append(call)

    def make_victim(self, unit: str, report: DeadlockReport) -> bool:
        """Refuse the wait of a unit, because of a circle that was found elsewhere.

        Args:
            unit: Its id.

            report: The circle, with the units of others as ``remote`` participants. It is
                kept and told of.

        Returns:
            Whether the unit waited; if not, nothing is changed.
        """
        return make_victim(self._engine, unit, report)

    def add_report(self, report: DeadlockReport) -> None:
        """Keep a deadlock that was found, broken and told of elsewhere."""
        self._telemetry.on_remote(report)


def _say_order(finding: OrderFinding) -> None:
    complaints.say(f"lock order {finding.classes}", str(finding))


def _formatted(key: str, function: Callable[..., Any]) -> Callable[..., str]:
    signature = inspect.signature(function)

    def key_of(*args: Any, **kwargs: Any) -> str:
        given = signature.bind(*args, **kwargs)
        given.apply_defaults()
        return key.format(**given.arguments)

    return key_of
