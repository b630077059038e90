"""What a processor and an exporter have in common: record in, spool, courier, out.

A pipeline may have several holders (the entry point makes a processor and an exporter
over one pipeline); the last one that lets go closes it. Everything is made at the
first record: constructing opens no file and starts no thread.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from opentelemetry.context import get_value

from otel_memoir.clock import Clock, shared_clock
from otel_memoir.clock.shared import change_shared_clock
from otel_memoir.delivery import Courier
from otel_memoir.delivery.destination import DESTINATION_SETTINGS, resolve_destination
from otel_memoir.delivery.dispatch import Sender
from otel_memoir.delivery.encoding import StampTemplate, encode_record
from otel_memoir.delivery.lazy_sender import LazySender
from otel_memoir.delivery.senders import make_sender
from otel_memoir.diagnostics import CONTRIB_SUPPRESS_KEY, complaints
from otel_memoir.observe import (
    Health,
    HealthState,
    HealthWatch,
    OnHealthChange,
    SignReader,
    observe,
    observe_clock,
    observe_health,
    observe_hybrid,
    oldest_wait_s,
)
from otel_memoir.sdk.bell import Bell
from otel_memoir.sdk.emission import emission_of
from otel_memoir.sdk.gap_event import gap_draft
from otel_memoir.sdk.health_event import health_draft
from otel_memoir.sdk.hosts import warn_of_host
from otel_memoir.sdk.live_settings import LiveSettings, check_change, clock_settings
from otel_memoir.sdk.marks import is_stamped, without_stamps
from otel_memoir.sdk.observed import ObservedPipeline
from otel_memoir.sdk.spool_place import spool_directory
from otel_memoir.sdk.unknown_event import unknown_draft
from otel_memoir.settings import Settings
from otel_memoir.spool import Draft, Refused, Spool, SpoolStatus, State, Ticket, Totals
from otel_memoir.spool.directory import Slot
from otel_memoir.spool.inspect import status_of, status_of_slot
from otel_memoir.spool.model import Stream
from otel_memoir.spool.whereabouts import UNKNOWN, Whereabouts, in_file
from otel_memoir.stamping import new_uid, process_clock, says_how_it_is, stream_stamper

_OWN_SCOPES = ("otel_memoir", "opentelemetry.", "urllib3", "requests", "grpc")
"""Loggers that speak while we deliver; what they say then would never end (#2701)."""


@dataclass(frozen=True)
class _Parts:
    spool: Spool
    courier: Courier
    health: HealthWatch


class Pipeline:
    """From a log record to the destination.

    Args:
        settings: The settings.

        clock: What stamps are taken from; by default the process's, as the settings say.

        sender: How to send; by default over OTLP to the configured destination.

        environ: The environment, for the ``OTEL_EXPORTER_OTLP_*`` variables.

        on_health_change: Told of each verdict with another state or other causes than the
            one before, in the courier's thread.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        clock: Clock | None = None,
        sender: Sender | None = None,
        environ: Mapping[str, str] | None = None,
        on_health_change: OnHealthChange | None = None,
    ) -> None:
        self._live = LiveSettings(settings, check=self._check_change, use=self._use)
        self._on_health_change = on_health_change
        self._clock = clock or shared_clock(settings)
        self._environ = os.environ if environ is None else environ
        self._sender = sender
        self._has_own_clock, self._has_own_sender = clock is not None, sender is not None
        self._made: dict[str, _Parts] = {}
        self._holders = 0
        self._slot: Slot | None = None
        self._closed = False
        self.bell = Bell()
        self.mark = object()

    # -- in -------------------------------------------------------------------

    def store(self, record: Any) -> Ticket | Refused | None:
        """Accept a log record of the SDK, or say why not.

        Returns:
            As ``Spool.append``; ``None`` also for what our own delivery logs.
        """
        scope = record.instrumentation_scope
        if get_value(CONTRIB_SUPPRESS_KEY) and scope and scope.name.startswith(_OWN_SCOPES):
            return None
        parts = self._made.get("parts") or self._make(record.resource)
        uid = ""
        if is_stamped(record.log_record):
            record, uid = without_stamps(record)
        encoded = encode_record(record)
        emission = emission_of(record.log_record)
        wanted = emission.wanted_uid if emission is not None else ""
        draft = Draft(
            encoded.envelope, encoded.payload, encoded.severity, uid or wanted or new_uid(),
            _is_timed(record.log_record),
        )
        if emission is not None:
            emission.begin(draft.uid, self)
            draft = draft._replace(intent=emission.intent, taken=emission.taken)
        return parts.spool.append(draft)

    def _make(self, resource: Any) -> _Parts:
        """Make the parts once; of two threads that try, one wins and nothing was opened."""
        settings = self.settings
        spool = self._make_spool(resource)
        courier = self._make_courier(spool)
        health = self._watch(spool, courier)
        process_clock.offset_max_ns = round(self.settings.peer_offset_max_s * 1e9)
        mine = _Parts(spool, courier, health)
        parts = self._made.setdefault("parts", mine)
        if parts is mine:
            observe(self)
            observe_health(self)
            observe_clock(self._clock)
            observe_hybrid(process_clock)
            warn_of_host()
        if self.settings is not settings:  # changed meanwhile
            self._use(self.settings, settings.changed(self.settings))
        if self._closed:
            parts.spool.close(0.0)
        return parts

    def _make_spool(self, resource: Any) -> Spool:
        return Spool(
            self.settings, directory=spool_directory(self.settings, resource),
            make_stamper=lambda stream: stream_stamper(
                stream, clock=self._clock, hybrid=process_clock,
                make_suffix=lambda s: StampTemplate(s.stream_id, s.epoch).suffix,
            ),
            clock_epoch=lambda: says_how_it_is(self._clock).epoch,
        )

    def _make_courier(self, spool: Spool) -> Courier:
        if self._sender is None:
            self._sender = self._make_sender(self.settings)
        courier = Courier(
            spool, self._sender, self.settings, make_gap_draft=gap_draft,
            make_orphan_draft=unknown_draft,
        )

        def accepted() -> None:
            courier.wake()
            self.bell.ring()

        spool.on_accept = accepted
        return courier

    def _reader(self, spool: Spool, courier: Courier) -> SignReader:
        return SignReader(
            ObservedPipeline(spool, courier, self.status), self.settings, clock=self._clock,
            lock_wait_s=oldest_wait_s,
        )

    def _watch(self, spool: Spool, courier: Courier) -> HealthWatch:
        def tell(health: Health, before: HealthState) -> bool:
            with spool.reading:
                envelope = spool.file.last_envelope() if spool.file else None
            return courier.tell(health_draft(health, before, envelope))

        def forget() -> None:
            self._slot = None  # it is the parent's
            self.bell.forget()
            self._live.forget()
            courier.forget()
            health.forget(self._reader(spool, courier).read)
            # The parent may have been in the middle of a change.
            self._hand_on(_Parts(spool, courier, health))

        health = HealthWatch(
            self._reader(spool, courier).read, self.settings, tell=tell,
            on_change=self._on_health_change,
        )

        def turn() -> None:
            self._live.look_at_file()
            health.turn()

        courier.on_turn, spool.on_forget = turn, forget
        return health

    def _make_sender(self, settings: Settings) -> Sender:
        return LazySender(
            lambda: make_sender(resolve_destination(settings, self._environ, complain=_complain)),
            lambda: self._made["parts"].spool.reading,
        )

    # -- settings -------------------------------------------------------------

    @property
    def settings(self) -> Settings:
        """What counts now."""
        return self._live.settings

    @property
    def settings_problem(self) -> str:
        """Why what the settings file says does not count; empty, if it does."""
        return self._live.problem

    def change_settings(self, **given: Any) -> None:
        """Change settings while all goes on: the whole change is done, or nothing.

        The request in flight ends as it began. With another destination, a hold ends at once.

        Args:
            given: Settings by name; ``None`` takes back what the code had said.

        Raises:
            SettingsError: One of them cannot be used, or not be changed in a running process.
        """
        self._live.change(given)

    def _check_change(self, settings: Settings, changed: frozenset[str]) -> None:
        check_change(
            settings, changed, environ=self._environ,
            has_own_clock=self._has_own_clock, has_own_sender=self._has_own_sender,
        )

    def _use(self, settings: Settings, changed: frozenset[str]) -> None:
        if clock_settings(changed):
            change_shared_clock(self._clock, settings)
        if (parts := self._made.get("parts")) is None:
            return
        if "peer_offset_max_s" in changed:
            process_clock.offset_max_ns = round(settings.peer_offset_max_s * 1e9)
        if changed & DESTINATION_SETTINGS:
            self._sender = self._make_sender(settings)
        self._hand_on(parts)
        read = self._reader(parts.spool, parts.courier).read
        parts.health.use(settings, read if "health_window_s" in changed else None)

    def _hand_on(self, parts: _Parts) -> None:
        """Let the parts go by what counts now."""
        assert self._sender is not None
        parts.spool.use(self.settings)
        parts.courier.use(self._sender, self.settings)

    # -- asking ---------------------------------------------------------------

    def health(self, *, at_most_s: float = 0.0) -> Health:
        """The verdict on this pipeline, with its causes; ok before the first record.

        Args:
            at_most_s: One that is no older, in seconds, will do.
        """
        parts = self._made.get("parts")
        if parts is None:
            return Health()
        parts.spool.check_pid()
        return parts.health.now(at_most_s=at_most_s)

    def flush(self, timeout: float) -> bool:
        """Fsync all that was accepted; return whether that was done in ``timeout`` seconds."""
        parts = self._made.get("parts")
        return parts is None or parts.spool.flush(timeout)

    def wait_delivered(self, timeout: float) -> bool:
        """Wait until all accepted so far is delivered; return whether it is."""
        parts = self._made.get("parts")
        if parts is None:
            return True
        deadline_s = time.monotonic() + timeout
        if not parts.spool.flush(timeout):
            return False
        if parts.spool.file is None:
            return self.status().totals.pending == 0 and not _has_lost(parts)
        drained = parts.courier.wait_drained(deadline_s - time.monotonic())
        return drained and not _has_lost(parts)

    def status(self) -> SpoolStatus:
        """The numbers of promise 2 for the file of this process, also after its end."""
        parts = self._made.get("parts")
        if parts is None:
            return SpoolStatus(name="", path="", alive=False)
        parts.spool.check_pid()
        with parts.spool.reading:
            return self._status(parts)

    def _note_slot(self, parts: _Parts) -> None:
        """Keep in mind where the numbers are once the spool is closed."""
        file = parts.spool.file
        if file is not None:
            self._slot = file.lock.slot if file.lock else None

    def _status(self, parts: _Parts) -> SpoolStatus:
        self._note_slot(parts)
        file = parts.spool.file
        if file is not None and file.lock is None:
            found = status_of(
                file.connection, name=file.name, path="", alive=True, now_ns=time.time_ns()
            )
        elif self._slot is not None:
            found = status_of_slot(self._slot)
        else:
            found = SpoolStatus(name="", path="", alive=False)
        late = Totals(refused=dict(parts.spool.refused_unwritten))
        return replace(found, totals=found.totals + late)

    def outcomes(self) -> dict[State, int]:
        """Records by final outcome, since this process began."""
        parts = self._made.get("parts")
        return parts.courier.tally.outcomes() if parts else {}

    def attempts(self) -> dict[str, int]:
        """Requests by answer, since this process began."""
        parts = self._made.get("parts")
        return parts.courier.tally.attempts() if parts else {}

    @property
    def directory(self) -> Path | None:
        """Where its spool files are, once there was a record."""
        parts = self._made.get("parts")
        return parts.spool.directory if parts else None

    def in_memory(self, stream: Stream, sequence: int) -> Whereabouts:
        """What became of a record that has no file: that is known as long as we run."""
        parts = self._made.get("parts")
        if parts is None or parts.spool.file is None:
            return UNKNOWN
        return parts.spool.perform(
            lambda file: in_file(file.connection, stream, sequence) or UNKNOWN
        )

    @property
    def courier(self) -> Courier | None:
        """The courier, once there was a record."""
        parts = self._made.get("parts")
        return parts.courier if parts else None

    # -- the end --------------------------------------------------------------

    def hold(self) -> None:
        """Count one more holder."""
        self._holders += 1

    def let_go(self, timeout: float) -> None:
        """Count one holder less; the last one closes."""
        self._holders -= 1
        if self._holders <= 0:
            self.close(timeout)

    def close(self, timeout: float) -> None:
        """Deliver for at most ``timeout`` seconds, then close. The rest stays on disk."""
        self._closed = True
        parts = self._made.get("parts")
        if parts is None:
            return
        deadline_s = time.monotonic() + timeout
        self._note_slot(parts)
        parts.spool.flush(min(timeout, 1.0))
        try:
            parts.courier.close(max(0.0, deadline_s - time.monotonic()))
        finally:  # a courier whose file cannot be read raises; a slot that stays held is lost
            parts.spool.close(max(0.5, deadline_s - time.monotonic()))


def _has_lost(parts: _Parts) -> bool:
    return parts.courier.tally.lost() or parts.spool.has_evicted


def _is_timed(log: Any) -> bool:
    try:
        return bool(log.timestamp)
    except Exception:  # a method of the application's own object may raise anything
        return False


def _complain(sentence: str) -> None:
    complaints.say(f"destination {sentence}", sentence)
