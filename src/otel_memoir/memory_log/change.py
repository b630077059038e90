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

On an event loop, use ``async with``: ``with`` would block the loop until the disk answers.
"""

from __future__ import annotations

import contextlib
import inspect
import os
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, NamedTuple

from opentelemetry.trace import Span

from otel_memoir.diagnostics import complaints
from otel_memoir.errors import MemoirError, WriteConflictError
from otel_memoir.events import MemoryEvent, names
from otel_memoir.locks import Lease
from otel_memoir.memory_log.emitter import Emitter, describe
from otel_memoir.memory_log.fields import NOTHING, EventMaker, without_none
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
        self._maker = maker.also({
            **fields, "change_id": self.id, "record_id": target.record_id, "operation": operation,
            **({"store_id": target.store_id} if target.store_id else {}),
        })
        self._target, self._version = target, version
        self._name = OUTCOMES[operation]
        self._said: dict[str, Any] = {}
        self._pid = os.getpid()
        self._cleanup = contextlib.ExitStack()
        self._span: Span | None = None

    # -- for the block ----------------------------------------------------------

    def made(
        self, *, content: Any = NOTHING, before: Any = NOTHING, version: int | None = None,
        **fields: Any,
    ) -> None:  # fmt: skip
        """Say what the change made: the content afterwards, the version it has now.

        Args:
            content, before: The memory record after and before; told as keyed hashes and
                sizes, and in full only where the user opted in.

            version: The version that was made.

            fields: Fields of ``MemoryEvent``, for the outcome.
        """
        found = {"content": content, "before": before, "record_version": version, **fields}
        self._said.update({
            key: value for key, value in found.items() if value is not None and value is not NOTHING
        })

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
        with contextlib.ExitStack() as undo:
            if self.lease is not None:
                undo.enter_context(self.lease)
            self._begin_span(undo)
            self._check_version(self._version.ask() if self._version.ask else None)
            self.intended = self._declare()
            stored = self.intended.wait_stored(self._emitter.timeout_s)
            self._emitter.must_be_stored(self.intended, stored)
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
        async with contextlib.AsyncExitStack() as undo:
            if self.lease is not None:
                await undo.enter_async_context(self.lease)
            spans = undo.enter_context(contextlib.ExitStack())
            self._begin_span(spans)
            found = self._version.ask() if self._version.ask else None
            self._check_version(await found if inspect.isawaitable(found) else found)
            self.intended = self._declare()
            stored = await self.intended.stored(self._emitter.timeout_s)
            self._emitter.must_be_stored(self.intended, stored)
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
        if expected is None or self._version.ask is None or found == expected:
            return
        error = self.conflict(found)
        self._tell(None)
        raise error

    def _declare(self) -> Receipt:
        try:
            event = self._maker.make(names.EVENT_CHANGE_INTENDED, {})
        except (MemoirError, TypeError) as error:
            return self._emitter.failed("declare a change", error)
        return self._emitter.emit(
            event, capture=self._maker.captures(), intent=Intent(self.id, note_of(event))
        )

    def _end(self, error: BaseException | None) -> None:
        """Tell of the outcome, once, in the process that began."""
        if self._pid != os.getpid() or self.outcome is not None:
            return
        cause = [self.intended.uid] if self.intended is not None and self.intended.uid else None
        self._said.setdefault("cause_uids", cause)
        if isinstance(error, Exception):
            self._said |= {"outcome": "failure", "error_type": type(error).__qualname__}
        elif error is not None:
            # Cancelled or interrupted: the write may be on its way, or done.
            self._said |= {"outcome": "unknown", "error_type": type(error).__qualname__}
        try:
            self._tell(Intent(self.id, None))
        except MemoirError as failure:
            if error is None:
                raise
            complaints.say("outcome of change", f"the outcome is not recorded: {failure}")

    def _tell(self, intent: Intent | None) -> None:
        event = self._outcome_event()
        describe(self._span, event)
        self.outcome = self._emitter.emit(event, capture=self._maker.captures(), intent=intent)

    def _outcome_event(self) -> MemoryEvent:
        try:
            return self._maker.make(self._name, {}, **without_none(self._said))
        except (MemoirError, TypeError) as error:
            # Whatever was wrong with what was said of it: that it ended has to be told.
            complaints.say("outcome", f"what was said of a change cannot be told: {error}")
            return self._maker.make(self._name, {}, reason="what was said of it cannot be told")
