"""A change: the intention is on disk before the application touches its store.

    with log.change("profile/alice", reason="she said so") as change:
        store.put("alice", new)
        change.made(content=new, version=4)

Promises:

- The block begins once ``memoir.change.intended`` is on disk, as durable as the settings
  say; with ``on_failure="raise"`` it does not begin without.
- At its end stands exactly one outcome: the change as it was made, a failure with its
  error, ``memoir.record.rejected``, or ``memoir.write.conflict``. It ends the intention in
  its own commit.
- Should the process die in between, the next one on the directory tells of it:
  ``memoir.change.unknown``. A fork child ends no change of its parent.
- A stale change is refused before its block begins.
- A block that does not begin after its intention was told has an outcome too: a failure.

On an event loop, use ``async with``: ``with`` would block the loop until the disk answers.
"""

from __future__ import annotations

import contextlib
import inspect
import os
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, NamedTuple

from opentelemetry.trace import Span
from typing_extensions import Unpack

from otel_memoir.errors import MemoirError, WriteConflictError
from otel_memoir.events import MemoryEvent, names
from otel_memoir.locks import Lease
from otel_memoir.memory_log.emitter import Emitter, complain, describe
from otel_memoir.memory_log.fields import NOTHING, ChangeFields, EventMaker
from otel_memoir.memory_log.receipt import Receipt
from otel_memoir.sdk.unknown_event import note_of
from otel_memoir.spool.model import Intent
from otel_memoir.stamping import new_uid

OUTCOMES = {
    "create_memory": names.EVENT_RECORD_CREATED,
    "update_memory": names.EVENT_RECORD_UPDATED,
    "upsert_memory": names.EVENT_RECORD_UPDATED,
    "delete_memory": names.EVENT_RECORD_DELETED,
}
"""The event that tells of a change that was made, by its operation."""


class Target(NamedTuple):
    """The memory record that is changed.

    Attributes:
        key: Its key, as the lock manager knows it.

        store_id, record_id: Its names in the vocabulary.
    """

    key: str
    store_id: str | None
    record_id: str


class Version(NamedTuple):
    """On which version a change is based, and how to learn which one there is.

    Attributes:
        expected: The version that was read; ``None``: it does not matter.

        ask: Returns the version that the store has now, or something to await for it.
    """

    expected: int | None
    ask: Callable[[], Any] | None


class Change:
    """A change that is being made. Made by ``MemoryLog.change``; used once.

    Attributes:
        id: What its intention and its outcome have in common: ``memoir.change.id``.

        intended: The receipt of its intention, once it began.

        outcome: The receipt of its outcome, once it ended.

        lease: The lock on its key, if it was to be held.
    """

    def __init__(
        self, emitter: Emitter, maker: EventMaker, target: Target, *, operation: str,
        fields: Mapping[str, Any], version: Version, lease: Lease | None,
    ) -> None:  # fmt: skip
        self.id = new_uid()
        self.intended: Receipt | None = None
        self.outcome: Receipt | None = None
        self.lease = lease
        self._emitter = emitter
        known = {"change_id": self.id, "record_id": target.record_id, "operation": operation}
        if target.store_id:
            known["store_id"] = target.store_id
        self._maker = maker.also({**fields, **known})
        self._bare_maker = maker.only(known)
        self._target, self._version = target, version
        self._name = OUTCOMES[operation]
        self._said: dict[str, Any] = {}
        self._pid = os.getpid()
        self._is_used = False
        self._cleanup = contextlib.ExitStack()
        self._span: Span | None = None

    # -- for the block ----------------------------------------------------------

    def made(
        self, *, content: Any = NOTHING, before: Any = NOTHING, version: int | None = None,
        **fields: Unpack[ChangeFields],
    ) -> None:  # fmt: skip
        """Say what the change made: the content afterwards, the version it has now.

        Args:
            content, before: The memory record after and before; told as keyed hashes and
                sizes, and in full only where the user opted in.

            version: The version that was made.

            fields: Fields of ``MemoryEvent``, for the outcome.
        """
        found = {"record_version": version, **fields}
        self._said.update({key: value for key, value in found.items() if value is not None})
        told = {"content": content, "before": before}  # ``None`` is content
        self._said.update({key: value for key, value in told.items() if value is not NOTHING})

    def reject(self, reason: str) -> None:
        """Say that nothing was changed, by a decision. The reason never holds content."""
        self._name, self._said = names.EVENT_RECORD_REJECTED, {"reason": reason}

    def conflict(self, found: int | None = None) -> WriteConflictError:
        """Say that the store refused it, since it has another version; return what to raise."""
        self._note_conflict(found)
        return WriteConflictError(
            self._target.key, expected=self._version.expected, found=found
        )

    def _note_conflict(self, found: int | None) -> None:
        self._name = names.EVENT_WRITE_CONFLICT
        self._said = {
            "attributes": {
                names.CONFLICT_EXPECTED_VERSION: self._version.expected,
                names.CONFLICT_ACTUAL_VERSION: found, names.CONFLICT_ACTION: "dropped",
            }
        }

    # -- with -------------------------------------------------------------------

    def __enter__(self) -> Change:
        self._use()
        with contextlib.ExitStack() as undo:
            if self.lease is not None:
                undo.enter_context(self.lease)
            self._begin_span(undo)
            self._check_version(self._version.ask() if self._version.ask else None)
            with self._beginning() as intended:
                stored = intended.wait_stored(self._emitter.timeout_s)
                self._emitter.must_be_stored(intended, stored)
            self._cleanup = undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        with contextlib.ExitStack() as last:
            last.push(self._cleanup.__exit__)
            self._end(error)
            last.pop_all()
            self._cleanup.__exit__(kind, error, trace)

    async def __aenter__(self) -> Change:
        self._use()
        async with contextlib.AsyncExitStack() as undo:
            if self.lease is not None:
                await undo.enter_async_context(self.lease)
            spans = undo.enter_context(contextlib.ExitStack())
            self._begin_span(spans)
            found = self._version.ask() if self._version.ask else None
            self._check_version(await found if inspect.isawaitable(found) else found)
            with self._beginning() as intended:
                stored = await intended.stored(self._emitter.timeout_s)
                self._emitter.must_be_stored(intended, stored)
            self._async_cleanup = undo.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        try:
            self._end(error)
        finally:
            await self._async_cleanup.__aexit__(kind, error, trace)

    # -- how --------------------------------------------------------------------

    def _use(self) -> None:
        if self._is_used:
            raise MemoirError(
                "begin change", target=self._target.key, cause="it was begun before",
                hint="Call log.change for each block.",
            )
        self._is_used = True

    def _begin_span(self, stack: contextlib.ExitStack) -> None:
        operation = self._maker.fields["operation"]
        provider = self._maker.fields.get("provider_name")
        self._span = stack.enter_context(self._emitter.span(operation, provider))

    def _check_version(self, found: int | None) -> None:
        """Refuse a change that is based on another version than there is.

        Raises:
            WriteConflictError: It is.
        """
        expected = self._version.expected
        if self._version.ask is None:
            found = self._emitter.versions.of(self._target.store_id, self._target.record_id)
            found = expected if found is None else found
        if expected is None or found == expected:
            return
        error = self.conflict(found)
        self._tell(None)
        raise error

    @contextlib.contextmanager
    def _beginning(self) -> Iterator[Receipt]:
        """Tell of the intention, and, should the block not begin after all, of that."""
        try:
            self.intended = self._declare()
            yield self.intended
        except BaseException as error:
            # Torn out of the emit itself, the intention may be on its way.
            if self.intended is not None or not isinstance(error, Exception):
                self._said = {"reason": "the change did not begin", **_failure(error)}
                self._end_quietly()
            raise

    def _declare(self) -> Receipt:
        event = self._event(names.EVENT_CHANGE_INTENDED, {"uid": new_uid()}, self._emitter.failed)
        return self._emitter.emit(
            event, capture=self._maker.captures(), intent=Intent(self.id, note_of(event))
        )

    def _end(self, error: BaseException | None) -> None:
        """Tell of the outcome, once, in the process that began."""
        if self._pid != os.getpid() or self.outcome is not None:
            return
        if isinstance(error, Exception):
            self._said |= _failure(error)
        elif error is not None:
            # Cancelled or interrupted: the write may be on its way, or done.
            self._said |= {**_failure(error), "outcome": "unknown"}
        if error is not None:
            self._end_quietly()
            return
        try:
            self._tell_outcome()
        except Exception as failure:  # noqa: BLE001 - promise 6
            self._emitter.failed("tell outcome", failure)

    def _end_quietly(self) -> None:
        """Tell of the outcome where another error is on its way to the application."""
        try:
            self._tell_outcome()
        except Exception as failure:  # noqa: BLE001 - it would hide the other one
            complain("tell outcome", failure)

    def _tell_outcome(self) -> None:
        intended = self.intended
        if intended is not None and intended.uid:
            self._said.setdefault("cause_uids", [intended.uid])
        was_refused = intended is not None and intended.refusal
        self._tell(None if was_refused else Intent(self.id, None))

    def _tell(self, intent: Intent | None) -> None:
        event = self._event(self._name, self._said, complain)
        describe(self._span, event)
        self.outcome = self._emitter.emit(event, capture=self._maker.captures(), intent=intent)

    def _event(
        self, name: str, said: Mapping[str, Any], on_error: Callable[[str, Exception], object]
    ) -> MemoryEvent:
        """An event of this change; whatever is wrong with what is said: that it was is told."""
        try:
            return self._maker.make(name, {}, **said)
        except Exception as error:  # noqa: BLE001 - promise 6: content is the application's
            on_error("say all of a change", error)
        least = {key: said[key] for key in _ALWAYS_SAID if isinstance(said.get(key), str)}
        return self._bare_maker.make(name, {}, reason="what was said cannot be told", **least)


_ALWAYS_SAID = ("uid", "outcome", "error_type")


def _failure(error: BaseException) -> dict[str, Any]:
    return {"outcome": "failure", "error_type": type(error).__qualname__}
