"""Sending retained events again, to a collector that lost them.

Promises: each record goes out with the bytes and the uid that it had, so what arrives a
second time can be seen to; a request holds records of one stream, in order; answers are
judged and retried by the courier's own rules. No spool file is written to: what became of
a record there stays as true as it was, so this works beside a living process and on a copy.

What it refuses: to wait for a person. Where the courier would hold, this stops and says why.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from otel_memoir.delivery.backoff import Backoff
from otel_memoir.delivery.dispatch import STREAM_HEADER, Sender
from otel_memoir.delivery.outcome import Outcome, Verdict
from otel_memoir.delivery.parts import halves
from otel_memoir.delivery.policy import Action, Decision, decide
from otel_memoir.delivery.request import build_request
from otel_memoir.diagnostics import unobserved
from otel_memoir.retrieval.event import RetainedEvent
from otel_memoir.settings import Settings
from otel_memoir.spool import Batch

_GATHERED_BYTES_MAX = 16 * 2**20


@dataclass(kw_only=True)
class Redelivered:
    """What a redelivery came to, so far.

    Attributes:
        read: Records that were to be sent.

        taken: Those that the destination said it took.

        rejected: Those of delivered requests that it said it did not take.

        refused: Those that it refuses, though it takes others.

        requests: Requests that were sent.

        ambiguous: Requests whose answer leaves a doubt; their records may be there twice.

        damaged: Records that cannot be read, and why.

        why: Why it ended before all was sent; empty if it did not.
    """

    read: int = 0
    taken: int = 0
    rejected: int = 0
    refused: int = 0
    requests: int = 0
    ambiguous: int = 0
    damaged: list[str] = field(default_factory=list)
    why: str = ""

    @property
    def left(self) -> int:
        """Records that were read and not sent, or whose answer is not known."""
        return self.read - self.taken - self.rejected - self.refused

    @property
    def is_complete(self) -> bool:
        """Whether the destination has all of them."""
        return not (self.why or self.left or self.rejected or self.refused or self.damaged)


@dataclass(frozen=True, kw_only=True)
class _Parcel:
    """Consecutive records of one stream that go out in one request."""

    events: Sequence[RetainedEvent]
    failures: int = 0
    suspect: int = 0
    deliveries_seen: int | None = None
    lets_others_pass: bool = False

    @property
    def batch(self) -> Batch:
        """As the policy knows it."""
        first, last = self.events[0].place, self.events[-1].place
        return Batch(
            number=0, stream=0, first_id=0, last_id=0, first_sequence=first.sequence,
            last_sequence=last.sequence, records=len(self.events),
            bytes=sum(map(_size, self.events)), failures=self.failures, suspect=self.suspect,
        )


class Redelivery:
    """Sends events again. One thread uses it; ``stop`` may be set by another.

    Args:
        sender: How to send; it stays open.

        settings: The bounds of a request, and the backoff.

        patience_s: It gives up once nothing was taken for so many seconds.

        stop: Set it to end.

        monotonic_s: The clock for durations.

        backoff: How long to wait after a failure; by default as the settings say.
    """

    def __init__(
        self, sender: Sender, settings: Settings, *, patience_s: float,
        stop: threading.Event | None = None, monotonic_s: Callable[[], float] = time.monotonic,
        backoff: Backoff | None = None,
    ) -> None:
        self.result = Redelivered()
        self._sender = sender
        self._settings = settings
        self._patience_s = patience_s
        self._stop = stop or threading.Event()
        self._monotonic_s = monotonic_s
        self._backoff = backoff or Backoff(
            initial_s=settings.backoff_initial_s, maximum_s=settings.backoff_max_s
        )
        self._deliveries = 0
        self._last_taken_s = monotonic_s()

    def run(self, events: Iterable[RetainedEvent]) -> Redelivered:
        """Send events; return what it came to, which ``result`` also tells if this is left.

        Args:
            events: In the order of ``Retrieval.every``.

        Raises:
            SpoolError: A spool file cannot be read.
        """
        self._last_taken_s = self._monotonic_s()
        fresh, again = self._parcels(events), deque[_Parcel]()
        with unobserved():
            while not self.result.why and (parcel := _next(fresh, again)) is not None:
                self._try(parcel, again)
        return self.result

    # -- gathering ----------------------------------------------------------------

    def _parcels(self, events: Iterable[RetainedEvent]) -> Iterator[_Parcel]:
        """Parcels of one stream each, cut where a request is full."""
        open_ones: dict[tuple[str, int], list[RetainedEvent]] = {}
        sizes: dict[tuple[str, int], int] = {}
        for event in events:
            if event.problem:
                self.result.damaged.append(f"{event.file}: {event.problem}")
                continue
            self.result.read += 1
            stream, size = (event.place.stream_id, event.place.epoch), _size(event)
            if stream in open_ones and self._is_full(len(open_ones[stream]), sizes[stream] + size):
                yield _Parcel(events=open_ones.pop(stream))
                sizes.pop(stream)
            open_ones.setdefault(stream, []).append(event)
            sizes[stream] = sizes.get(stream, 0) + size
            if sum(sizes.values()) > _GATHERED_BYTES_MAX:
                largest = max(sizes, key=lambda name: sizes[name])
                yield _Parcel(events=open_ones.pop(largest))
                sizes.pop(largest)
        yield from (_Parcel(events=some) for some in open_ones.values())

    def _is_full(self, records: int, size: int) -> bool:
        settings = self._settings
        return records >= settings.request_records_max or size > settings.request_bytes_max

    # -- sending --------------------------------------------------------------------

    def _try(self, parcel: _Parcel, again: deque[_Parcel]) -> None:
        """Send a parcel once; what is to be sent again of it is put back."""
        outcome = self._send(
            build_request([(e.stored.envelope, e.stored.payload) for e in parcel.events]),
            {STREAM_HEADER: parcel.events[0].place.stream_id},
        )
        seen = parcel.deliveries_seen
        decision = decide(
            parcel.batch, outcome,
            others_delivered=seen is not None and self._deliveries > seen,
        )
        if decision.action is Action.PROBE:
            decision, outcome = self._probed(decision, outcome)
        self._act(parcel, outcome, decision, again)

    def _send(self, request: bytes, headers: dict[str, str]) -> Outcome:
        outcome = self._sender.send(request, headers=headers)
        self.result.requests += 1
        self.result.ambiguous += outcome.ambiguous
        return outcome

    def _probed(self, decision: Decision, outcome: Outcome) -> tuple[Decision, Outcome]:
        answer = self._send(b"", {})
        if answer.verdict is Verdict.DELIVERED:
            return replace(decision, action=Action.QUARANTINE), outcome
        return replace(decision, action=Action.HOLD), outcome

    def _act(
        self, parcel: _Parcel, outcome: Outcome, decision: Decision, again: deque[_Parcel]
    ) -> None:
        if decision.action is Action.DELIVER:
            self._delivered(len(parcel.events), outcome)
        elif decision.action is Action.QUARANTINE:
            self.result.refused += len(parcel.events)
        elif decision.action is Action.HALVE:
            again.extendleft(reversed(self._halves(parcel, outcome)))
        elif decision.action is Action.HOLD:
            self.result.why = f"{outcome.code}: {outcome.message}. {outcome.hint}".strip()
        else:
            self._wait(parcel, outcome, decision, again)

    def _delivered(self, records: int, outcome: Outcome) -> None:
        rejected = min(outcome.rejected, records)
        self.result.taken += records - rejected
        self.result.rejected += rejected
        self._deliveries += 1
        self._last_taken_s = self._monotonic_s()

    def _halves(self, parcel: _Parcel, outcome: Outcome) -> list[_Parcel]:
        rows = [(at, 0, _size(event)) for at, event in enumerate(parcel.events)]
        seen = None if outcome.needs_sibling else self._deliveries
        return [
            _Parcel(events=[parcel.events[at] for at, _, _ in run], deliveries_seen=seen)
            for run in halves(rows)
        ]

    def _wait(
        self, parcel: _Parcel, outcome: Outcome, decision: Decision, again: deque[_Parcel]
    ) -> None:
        """Let some time pass; the parcel is tried again."""
        failures = parcel.failures + 1
        wait_s = self._backoff.next_delay_s(failures, at_least_s=outcome.retry_after_s)
        left_s = self._last_taken_s + self._patience_s - self._monotonic_s()
        if wait_s > left_s or self._stop.wait(wait_s):
            self.result.why = f"{outcome.code}: {outcome.message}".rstrip(": ") + (
                "; it was told to stop" if self._stop.is_set()
                else f"; nothing was taken for {self._patience_s:g} s"
            )
            return
        is_at_fault = outcome.verdict is Verdict.HALVE or not decision.pause
        later = replace(
            parcel, failures=failures, suspect=decision.suspect, deliveries_seen=self._deliveries,
            lets_others_pass=is_at_fault,
        )
        if is_at_fault:
            again.append(later)
        else:
            again.appendleft(later)


def _next(fresh: Iterator[_Parcel], again: deque[_Parcel]) -> _Parcel | None:
    """The parcel whose turn it is: one that may be at fault itself lets all others pass."""
    if again and not again[0].lets_others_pass:
        return again.popleft()
    found = next(fresh, None)
    return again.popleft() if found is None and again else found


def _size(event: RetainedEvent) -> int:
    return len(event.stored.payload)
