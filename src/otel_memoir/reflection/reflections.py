"""``Reflections``: where the reflections of an agent begin."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from otel_memoir.locks.report import caller
from otel_memoir.reflection.plan import IfBusy, Keys, Plan, known, modes_of
from otel_memoir.reflection.reflection import Reflection
from otel_memoir.reflection.rota import rota_of
from otel_memoir.reflection.telling import Teller

if TYPE_CHECKING:
    from opentelemetry._logs import Logger, LoggerProvider
    from opentelemetry.trace import TracerProvider

    from otel_memoir.locks import LockManager


class Reflections:
    """The reflections of one agent.

    Several may share a lock manager: their reflections see each other.

    Args:
        locks: Where the memories are locked.

        agent_name, agent_id: Who reflects; told on spans and events.

        tracer_provider, logger_provider: The global ones by default. Without the SDK
            nothing is told, and all else is the same.

        logger: A logger to use, whatever the provider.

        monotonic_s, time_ns: The clocks, for durations and for the time of events.
    """

    def __init__(
        self, locks: LockManager, *, agent_name: str | None = None, agent_id: str | None = None,
        tracer_provider: TracerProvider | None = None,
        logger_provider: LoggerProvider | None = None, logger: Logger | None = None,
        monotonic_s: Callable[[], float] = time.monotonic,
        time_ns: Callable[[], int] = time.time_ns,
    ) -> None:  # fmt: skip
        self._locks, self._rota, self._monotonic_s = locks, rota_of(locks), monotonic_s
        self._teller = Teller(
            agent_name=agent_name, agent_id=agent_id, tracer_provider=tracer_provider,
            logger_provider=logger_provider, logger=logger, time_ns=time_ns,
        )

    def reflect(
        self, name: str, *, keys: Keys = (), priority: int = 0, timeout: float | None = None,
        ttl: float | None = None, max_hold: float | None = None, if_busy: IfBusy = "wait",
        on_rerun: Callable[[Reflection], object] | None = None,
        version_of: Callable[[str], Any] | None = None, trigger: str | None = None,
        conversation_id: str | None = None,
    ) -> Reflection:  # fmt: skip
        """A reflection for one block: ``with`` or ``async with``, on the same call.

        Args:
            name: What kind of reflection it is: a few names, no ids.

            keys: What to lock, all or nothing, in canonical order whatever is given: a
                key, several (``exclusive``), or keys with their modes. None at all is
                allowed.

            priority, ttl, max_hold: As for ``LockManager.hold``.

            timeout: Seconds to wait for locks at most, all in all, also when they are
                taken again; 0 does not wait; None waits as long as it takes.

            if_busy: What to do when another reflection is under way on the same memories:
                ``wait`` for its locks, of which one that thinks holds none; or ``skip``: do
                not wait, ask it to run again, and raise. A lock that is held, but by no
                reflection, is waited for in both cases: its holder will not do this work.

            on_rerun: Called with this reflection when it has ended, however, if it was
                asked to run again. What it raises is said, not passed on.

            version_of: Tells the version of a memory, by key, in whatever can be compared;
                an ``async def`` in ``async with``. It is asked before and after ``unlocked``,
                while the locks are held. By default the lock manager tells who held the keys
                exclusively, which is enough where all who write take the locks; the versions
                of a conflict are fencing tokens then.

            trigger: What set it off: ``schedule``, ``threshold``, ``idle``, ``trial_end``,
                ``manual``.

        Raises (when the block is entered, and then it is not run):
            ReflectionSkippedError: Another is under way (``if_busy="skip"``).

            LockTimeoutError, DeadlockError, OwnerDiedError: As for ``LockManager.hold_all``.
        """
        plan = Plan(
            name=name, keys=modes_of(keys), priority=priority, timeout=timeout, ttl=ttl,
            max_hold=max_hold, if_busy=known(if_busy), version_of=version_of, trigger=trigger,
            conversation_id=conversation_id, where=caller(),
        )  # fmt: skip
        return Reflection(
            self._locks, self._rota, self._teller, plan, on_rerun, monotonic_s=self._monotonic_s
        )
