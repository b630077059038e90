"""A memory log as an agent or a conversation has it: what it tells, changes and thinks over."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from opentelemetry.trace import NoOpTracerProvider
from typing_extensions import Unpack

from otel_memoir.errors import SettingsError
from otel_memoir.locks import LockManager
from otel_memoir.locks.keys import store_and_record
from otel_memoir.locks.report import caller
from otel_memoir.memory_log.change import OUTCOMES, Change, Target, Version
from otel_memoir.memory_log.emitter import Emitter
from otel_memoir.memory_log.fields import ChangeFields, EventFields, EventMaker
from otel_memoir.memory_log.recorder import Recorder
from otel_memoir.reflection import Reflection, Reflections


class BoundLog(Recorder):
    """Events, changes and reflections that all say some fields: who, in which conversation.

    Attributes:
        locks: The lock manager.
    """

    def __init__(self, emitter: Emitter, maker: EventMaker, locks: LockManager) -> None:
        super().__init__(emitter, maker)
        self.locks = locks
        self._reflections = Reflections(
            locks, agent_name=maker.fields.get("agent_name"),
            agent_id=maker.fields.get("agent_id"), logger=emitter.logger,
            tracer_provider=emitter.tracer_provider or NoOpTracerProvider(),
        )

    def bind(self, **fields: Unpack[EventFields]) -> BoundLog:
        """The same log, all of whose events say these fields too: an agent, a conversation."""
        return BoundLog(self._emitter, self._maker.also(fields), self.locks)

    def change(
        self, key: str, *, operation: str = "update_memory", expected_version: int | None = None,
        version_of: Callable[[], Any] | None = None, hold: bool = False,
        timeout: float | None = None, priority: int = 0, **fields: Unpack[ChangeFields],
    ) -> Change:  # fmt: skip
        """A change of a memory record, for a block: ``with`` or ``async with`` on it.

        Args:
            key: ``store/record``, ``store/collection/record``, or ``record`` in the log's store.

            operation: ``create_memory``, ``update_memory``, ``upsert_memory`` or
                ``delete_memory``.

            expected_version: The version on which the change is based.

            version_of: Returns the version that the store has now, or something to await
                for it. Asked once the key is held, before the intention. Without it, the
                version counts that this process told of last, if it did.

            hold: Whether to hold the key exclusively, by the lock manager, for the block.

            timeout: The longest wait for the lock, in seconds; ``None``: no limit.

            priority: The lock request's.

            fields: Fields that the intention and its outcome say.

        Raises:
            WriteConflictError: On entry: the store has another version. It is told as
                ``memoir.write.conflict``, and the block does not begin.

            LockError: On entry: the lock was not granted.

            SpoolRefusedError: On entry, with ``on_failure="raise"``: the intention is not
                on disk.

            SettingsError: The key names no memory record, or there is no such operation.
        """
        if not isinstance(operation, str) or operation not in OUTCOMES:
            raise SettingsError(
                "change", target=f"{operation}"[:60] if isinstance(operation, str) else "operation",
                cause="no such operation on a memory record",
                hint=f"Give one of {', '.join(OUTCOMES)}.",
            )
        default = fields.get("store_id") or self._maker.fields.get("store_id")
        target = _target(key, default if isinstance(default, str) else None)
        lease = None
        if hold:
            lease = self.locks.hold(target.key, timeout=timeout, priority=priority)
            lease.where = caller()
        return Change(
            self._emitter, self._maker, target, operation=operation, fields=fields,
            version=Version(expected_version, version_of), lease=lease,
        )

    def reflect(self, name: str, **options: Any) -> Reflection:
        """A reflection, for a block: ``with`` or ``async with`` on it.

        Args:
            name: What kind of reflection it is: a few names, no ids.

            options: As for ``Reflections.reflect``: ``keys``, ``priority``, ``timeout``,
                ``if_busy``, ``version_of`` and the rest.

        Raises:
            LockError: On entry: its locks were not granted, or another reflection is under
                way (``if_busy="skip"``).
        """
        conversation = self._maker.fields.get("conversation_id")
        if conversation is not None:
            options.setdefault("conversation_id", conversation)
        return self._reflections.reflect(name, **options)


def _target(key: str, default_store: str | None) -> Target:
    if not isinstance(key, str):
        raise SettingsError(
            "change", target=type(key).__name__, cause="a key is text", hint="Give store/record.",
        )
    if "/" in key:
        return Target(key, *store_and_record(key))
    if not key:
        raise SettingsError(
            "change", target=f"{key!r}", cause="no memory record is named",
            hint="Give store/record, or a record in the log's own store.",
        )
    return Target(f"{default_store}/{key}" if default_store else key, default_store, key)
