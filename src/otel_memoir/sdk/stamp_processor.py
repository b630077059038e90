"""The processor for foreign exporters: live stamps, as attributes."""

from __future__ import annotations

import copy
import os
import secrets
import threading
import weakref
from typing import Any, Literal, NamedTuple

from opentelemetry.attributes import BoundedAttributes
from opentelemetry.context import Context
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from otel_memoir.clock import Clock, shared_clock
from otel_memoir.delivery.encoding import (
    CLOCK_ERROR_BOUND,
    CLOCK_STATUS,
    SEQUENCE,
    STREAM_EPOCH,
    STREAM_ID,
    UID,
)
from otel_memoir.diagnostics import complaints
from otel_memoir.errors import SettingsError
from otel_memoir.sdk._compat import LogRecordProcessor, ReadWriteLogRecord
from otel_memoir.sdk.marks import STAMPS, is_stamped, mark_stamped
from otel_memoir.settings import Settings
from otel_memoir.spool import Stream
from otel_memoir.stamping import HybridClock, new_uid, process_clock
from otel_memoir.stamping.hlc import give_out
from otel_memoir.stamping.stamper import says_how_it_is

LOCK_TIMEOUT_S = 1.0


class LiveStamp(NamedTuple):
    """A stamp that was taken: the stream, the number in it, the time in unix ns and its bound."""

    stream: Stream
    sequence: int
    unix_ns: int
    error_bound_ns: int | None
    status: str


class LiveStream:
    """A stream without a spool.

    Args:
        clock: What tells the time.

        hybrid: What the stampers of the process share.
    """

    def __init__(self, clock: Clock, hybrid: HybridClock) -> None:
        self._clock, self._hybrid = clock, hybrid
        self._told = says_how_it_is(clock)
        self._spare: LiveStream | None = None
        self._begin()

    def _begin(self) -> None:
        """Begin a life: nobody has this stream's id, and nobody holds its lock."""
        self.pid = os.getpid()
        self._lock, self._owner = threading.Lock(), 0
        self._enter(Stream(secrets.token_hex(16), 1))
        self._hybrid.follow(self._clock, self._position)

    def _enter(self, stream: Stream) -> None:
        self._stream, self._sequence = stream, 0
        self._clock_epoch = self._told.epoch
        self._latest = self._hybrid.enter(self._clock_epoch)

    def forget(self) -> None:
        """In a fork child: the parent goes on with its stream, this process with another."""
        self._spare = None
        self._begin()

    def _position(self) -> tuple[Stream, int] | None:
        return (self._stream, self._sequence) if self._sequence else None

    def take(self) -> LiveStamp:
        """Take the next number, and a time later than that of the number before.

        A signal handler or a finaliser may emit on the thread that is in here: it gets a
        stream of its own, for between a number and its time there is no room for another.
        """
        if self.pid != os.getpid():  # forked where fork hooks are not called
            self.forget()
        me = threading.get_ident()
        if self._owner == me or not self._lock.acquire(timeout=LOCK_TIMEOUT_S):
            spare = self._spare = self._spare or LiveStream(self._clock, self._hybrid)
            return spare.take()
        try:
            self._owner = me
            return self._next()
        finally:
            self._owner = 0
            self._lock.release()

    def _next(self) -> LiveStamp:
        if self._told.epoch > self._clock_epoch:
            # The clock had to go back. In a new epoch the stream may follow it.
            self._enter(Stream(self._stream.stream_id, self._stream.epoch + 1))
        unix_ns, error_bound_ns = give_out(self._latest, *self._clock.read())
        self._sequence += 1
        return LiveStamp(
            self._stream, self._sequence, unix_ns, error_bound_ns, self._told.status
        )


_streams: weakref.WeakSet[LiveStream] = weakref.WeakSet()


def _forget_all() -> None:
    for stream in list(_streams):
        stream.forget()


os.register_at_fork(after_in_child=_forget_all)


class StampLogRecordProcessor(LogRecordProcessor):
    """Puts stamps on log records as attributes, for exporters that are not ours.

    On each emission, also of a ``LogRecord`` that was emitted before: a fresh
    ``log.record.uid``, ``memoir.stream.id``, ``memoir.stream.epoch``, ``memoir.sequence``,
    ``memoir.clock.error_bound`` in ns where the clock knows one, and
    ``memoir.clock.status`` where it is not normal. In mode ``correct`` a record that does
    not say itself when its event happened gets the clock's time as its timestamp.

    Register it before the processor that exports. The application's record is not
    touched: the processors that follow get a copy, so what an earlier emission left in a
    queue keeps its own stamps. Stamps do not count against the SDK's limits of attributes
    and of their length: a full record keeps all it has. ``DurableLogRecordProcessor``
    beside it has a stream of its own; registered after this one it stores the same uid.

    A stream lives as long as its process, and a fork child begins another. Without a spool
    nothing remembers what was given out: a number can be missing because the record was
    lost on its way (a full queue, a crash), and nothing will say so; nor can the last
    numbers before a crash be known to be missing. ``DurableLogRecordProcessor`` is for that.

    Args:
        clock: What tells the time; by default the process's, as ``MEMOIR_CLOCK_*`` say.

        mode: ``correct`` or ``observe``; by default the clock's own, else ``observe``.

        scope: Only records of this instrumentation scope, or of one below it (``a`` is
            above ``a.b``).

        event_prefix: Only records whose event name begins so.

        hybrid: What the stampers of the process share.

    Raises:
        SettingsError: There is no such mode.
    """

    def __init__(
        self,
        *,
        clock: Clock | None = None,
        mode: Literal["observe", "correct"] | None = None,
        scope: str | None = None,
        event_prefix: str | None = None,
        hybrid: HybridClock | None = None,
    ) -> None:
        clock = clock or shared_clock(Settings.load(complain=_complain))
        self._mode = mode or getattr(clock, "mode", "observe")
        if self._mode not in ("observe", "correct"):
            raise SettingsError(
                "use setting", target="mode", cause=f"{mode!r} is neither observe nor correct",
                hint="Choose one of them.",
            )
        self._scope, self._event_prefix = scope, event_prefix
        self._stream = LiveStream(clock, hybrid or process_clock)
        _streams.add(self._stream)

    def on_emit(self, log_record: ReadWriteLogRecord) -> None:
        """Put fresh stamps on a record, if it is one of the chosen."""
        try:
            if self._is_chosen(log_record) and not is_stamped(log_record.log_record):
                self._stamp(log_record)
        except Exception as error:  # promise 6: the host is never harmed
            complaints.say("stamp", f"a record goes without stamps: {error!r}")

    def _is_chosen(self, record: ReadWriteLogRecord) -> bool:
        if self._scope is not None:
            scope = record.instrumentation_scope
            if not f"{scope.name if scope else ''}.".startswith(f"{self._scope}."):
                return False
        prefix = self._event_prefix
        return prefix is None or str(record.log_record.event_name or "").startswith(prefix)

    def _stamp(self, record: ReadWriteLogRecord) -> None:
        log = copy.copy(record.log_record)
        before = log.attributes
        attributes = _unlimited(
            {name: value for name, value in _items(before) if name not in STAMPS}
        )
        # Taken last: what can fail above does not leave a number without a record.
        stamp = self._stream.take()
        attributes.update(_attributes(stamp))
        _limit_as(attributes, before)
        timed = self._mode == "correct" and not log.timestamp
        if timed:
            log.timestamp = stamp.unix_ns
        mark_stamped(attributes, before, timed=timed)
        log.attributes = attributes
        record.log_record = log

    def enabled(
        self,
        *,
        context: Context | None = None,
        instrumentation_scope: InstrumentationScope | None = None,
        severity_number: Any = None,
        event_name: str | None = None,
    ) -> bool:
        """False: stamps alone are no reason to make a record. The exporting processors decide."""
        return False

    def shutdown(self) -> None:
        """There is nothing to end: records that come late are still stamped."""

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """There is nothing to flush."""
        return True


def _complain(sentence: str) -> None:
    complaints.say(f"settings {sentence}", sentence)


def _items(attributes: Any) -> list[tuple[str, Any]]:
    """A copy of the pairs, in one step where another thread may be changing them."""
    if isinstance(attributes, BoundedAttributes):
        return list(attributes.copy().items())
    return list((attributes or {}).items())


def _attributes(stamp: LiveStamp) -> dict[str, str | int]:
    found: dict[str, str | int] = {
        UID: new_uid(),
        STREAM_ID: stamp.stream.stream_id,
        STREAM_EPOCH: stamp.stream.epoch,
        SEQUENCE: stamp.sequence,
    }
    if stamp.error_bound_ns is not None:
        found[CLOCK_ERROR_BOUND] = stamp.error_bound_ns
    if stamp.status:
        found[CLOCK_STATUS] = stamp.status
    return found


def _unlimited(attributes: dict[str, Any]) -> BoundedAttributes:
    try:
        # Before 1.45 the SDK dropped nested values without the last argument, which is to go.
        return BoundedAttributes(None, attributes, immutable=False, extended_attributes=True)
    except TypeError:
        return BoundedAttributes(None, attributes, immutable=False)


def _limit_as(attributes: BoundedAttributes, before: Any) -> None:
    """Let limits apply again from now on, with as much room left as there was before."""
    if isinstance(before, BoundedAttributes):
        if before.maxlen is not None:
            attributes.maxlen = before.maxlen + sum(name in STAMPS for name in attributes)
        attributes.max_value_len, attributes.dropped = before.max_value_len, before.dropped
