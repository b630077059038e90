"""One attempt: write it down, send it, judge the answer, settle.

Before a request leaves, its batch and the attempt are fsynced; after a crash the
ledger therefore knows every batch that may have arrived. The settlement of one
batch and the attempt of the next share a commit.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from otel_memoir.delivery.ahead import Ahead
from otel_memoir.delivery.outcome import Outcome, Verdict
from otel_memoir.delivery.pace import Pace
from otel_memoir.delivery.parts import Run, apart, halves, part_of
from otel_memoir.delivery.policy import Action, Decision, decide
from otel_memoir.delivery.request import build_request
from otel_memoir.delivery.sources import Source
from otel_memoir.delivery.tally import DeliveryTally
from otel_memoir.diagnostics import complaints
from otel_memoir.settings import Settings
from otel_memoir.spool import Batch, State, ledger
from otel_memoir.spool.file import SpoolFile
from otel_memoir.spool.upkeep import give_up

STREAM_HEADER = "memoir-stream-id"
"""Lets a Collector key a message by its stream."""

_Write = Callable[[SpoolFile], None]


class Sender(Protocol):
    """Sends one request and judges the answer. Never raises an ``Exception``.

    It may also have ``pack(request)``, which does ahead, in another thread, what ``send``
    of that same object would do first.
    """

    def send(
        self, request: bytes, *, headers: Mapping[str, str], timeout: float | None = None
    ) -> Outcome: ...

    def close(self) -> None: ...

    def forget(self) -> None: ...


@dataclass(frozen=True)
class _Unwritten:
    source: Source
    batch: Batch
    write: _Write
    delivered: bool


class Dispatcher:
    """Carries batches to the destination. Only the courier's thread calls it."""

    def __init__(
        self,
        sender: Sender,
        settings: Settings,
        pace: Pace,
        tally: DeliveryTally,
        *,
        reading: threading.RLock,
        wall_ns: Callable[[], int],
        monotonic_s: Callable[[], float],
    ) -> None:
        self._reading = reading
        self._sender = sender
        self._settings = settings
        self.pace = pace
        self._tally = tally
        self._wall_ns = wall_ns
        self._monotonic_s = monotonic_s
        self._ahead = Ahead(
            reading, records_max=settings.request_records_max,
            pack=getattr(sender, "pack", None),
        )
        self._unwritten: _Unwritten | None = None
        self.deliveries = 0
        """How many requests were answered with a plain yes."""
        self._deliveries_at_failure: dict[tuple[str, int], int] = {}

    def use(self, sender: Sender, settings: Settings) -> None:
        """Send so from the next request on. What another destination said no longer counts."""
        self._settings = settings
        self.pace.use(settings)
        self._ahead.use(
            records_max=settings.request_records_max, pack=getattr(sender, "pack", None)
        )
        if sender is not self._sender:
            self._sender = sender
            self._deliveries_at_failure.clear()
            self.pace.go_at_once()

    @property
    def has_unwritten(self) -> bool:
        """Whether an answer is known that is not on disk yet."""
        return self._unwritten is not None

    def unwritten_of(self, source: Source) -> int | None:
        """The batch of a file whose answer is not on disk yet."""
        unwritten = self._unwritten
        return unwritten.batch.number if unwritten and unwritten.source is source else None

    def write(self) -> None:
        """Write the last answer down, if that has not happened yet; what follows is not known.

        The answer for a file that was left is forgotten: whoever drains it sends the batch
        again, and the attempt stays counted as ambiguous.
        """
        self._ahead.drop()
        unwritten = self._unwritten
        if unwritten is None:
            return
        if unwritten.source.is_left():
            self._unwritten = None
            return
        unwritten.source.perform(unwritten.write)
        self._written(unwritten)

    def found_ahead(self, source: Source) -> Batch | None:
        """The next batch of a file that was never sent, if it was found already."""
        return self._ahead.found(source)

    def join(self) -> None:
        """Wait for the thread that makes a request ready, if there is one, to end."""
        self._ahead.join()

    def _written(self, unwritten: _Unwritten) -> None:
        self._unwritten = None
        unwritten.source.settled(unwritten.batch.bytes, delivered=unwritten.delivered)

    def restore_pace(self, source: Source) -> None:
        """After a restart, go on waiting where the last process left off."""
        self.pace.restore(*ledger.read_hold(source.file.reader))

    # -- one attempt ----------------------------------------------------------

    def attempt(self, source: Source, batch: Batch) -> None:
        """Send a batch once and decide what becomes of it."""
        request = self._ahead.take(source, batch)
        if request is None:
            rows, wrong = source.file.rows(batch.first_id, batch.last_id)
            if wrong:
                self.write()
                self._set_aside(source, batch, wrong)
                return
            request = build_request(rows)
        if self._unwritten is not None and self._unwritten.source is not source:
            self.write()
        if not self._note_attempt(source, batch):
            return
        stream = source.file.stream(batch.stream)
        if not self.pace.failures:
            # A destination that is away is tried with one batch, and another is not read.
            self._ahead.begin(source, batch)
        outcome = self._send(request, {STREAM_HEADER: stream.stream_id})
        self._act(source, replace(batch, attempts=batch.attempts + 1), outcome)

    def _send(self, request: bytes, headers: Mapping[str, str]) -> Outcome:
        began_s = self._monotonic_s()
        # A fork waits for ``reading``; it must not wait for a server.
        self._reading.release()
        try:
            outcome = self._sender.send(request, headers=headers)
        finally:
            self._reading.acquire()
        self._tally.attempted(outcome, self._monotonic_s() - began_s)
        return outcome

    def _note_attempt(self, source: Source, batch: Batch) -> bool:
        unwritten = self._unwritten

        def note(file: SpoolFile) -> bool:
            if unwritten is not None:
                unwritten.write(file)
            self._enter(file, batch)
            return ledger.note_attempt(file.connection, batch)

        still_waits = source.perform(note)
        if unwritten is not None:
            self._written(unwritten)
        return still_waits

    def _act(self, source: Source, batch: Batch, outcome: Outcome) -> None:
        decision = decide(batch, outcome, others_delivered=self._others_delivered(source, batch))
        if decision.action is Action.PROBE:
            decision, outcome = self._probe(decision, outcome)
        {
            Action.DELIVER: self._deliver,
            Action.HALVE: self._halve,
            Action.QUARANTINE: self._quarantine,
        }.get(decision.action, self._keep)(source, batch, outcome, decision)

    def _others_delivered(self, source: Source, batch: Batch) -> bool:
        before = self._deliveries_at_failure.get((source.file.name, batch.number))
        return before is not None and self.deliveries > before

    def _probe(self, decision: Decision, outcome: Outcome) -> tuple[Decision, Outcome]:
        """Tell a record at fault from a destination at fault: send nothing and see."""
        answer = self._send(b"", {})
        if answer.verdict is Verdict.DELIVERED:
            return replace(decision, action=Action.QUARANTINE), outcome
        return replace(decision, action=Action.HOLD, pause=True), outcome

    # -- what becomes of it ---------------------------------------------------

    def _deliver(self, source: Source, batch: Batch, outcome: Outcome, _: Decision) -> None:
        now_ns = self._wall_ns()
        rejected = min(outcome.rejected, batch.records)

        def write(file: SpoolFile) -> None:
            ledger.note_clear_answer(file.connection, batch)
            ledger.settle(
                file.connection, batch, State.DELIVERED, unix_ns=now_ns, rejected=rejected,
                code=outcome.code, message=outcome.message,
            )
            if rejected:
                ledger.note_gap(
                    file.connection, batch.stream, "rejected", rejected, unix_ns=now_ns,
                    first_sequence=batch.first_sequence, last_sequence=batch.last_sequence,
                    at_most=False, message=outcome.message,
                )
            ledger.end_hold(file.connection)

        self.pace.delivered(batch.bytes)
        self.deliveries += 1
        self._deliveries_at_failure.pop((source.file.name, batch.number), None)
        self._tally.settled(State.DELIVERED, batch.records - rejected)
        if rejected:
            self._tally.settled(State.REJECTED, rejected)
        if outcome.hint:
            complaints.say(f"answer {outcome.code}", outcome.hint)
        self._unwritten = _Unwritten(source, batch, write, delivered=True)

    def _quarantine(self, source: Source, batch: Batch, outcome: Outcome, _: Decision) -> None:
        now_ns = self._wall_ns()

        def write(file: SpoolFile) -> None:
            self._clear_if_certain(file, batch, outcome)
            give_up(
                file.connection, batch, State.QUARANTINED, unix_ns=now_ns, code=outcome.code,
                message=outcome.message,
            )

        self._deliveries_at_failure.pop((source.file.name, batch.number), None)
        self._tally.settled(State.QUARANTINED, batch.records)
        complaints.say(
            "quarantine",
            f"{batch.records} record(s) were quarantined ({outcome.code}: {outcome.message}); "
            "see `otel-memoir quarantine list`",
        )
        self._unwritten = _Unwritten(source, batch, write, delivered=False)

    def _keep(self, source: Source, batch: Batch, outcome: Outcome, decision: Decision) -> None:
        """Keep a batch for later: after a backoff, on hold, or in the side lane."""
        now_ns = self._wall_ns()
        delay_s = self._delay_s(batch, outcome, decision)
        self._deliveries_at_failure[source.file.name, batch.number] = self.deliveries
        if decision.pause:
            self.pace.failed(outcome, held=decision.action is Action.HOLD)
        hold, until_ns = self.pace.hold, now_ns + int(delay_s * 1e9) if delay_s else 0
        lane = "side" if decision.action is Action.SIDE_LANE else batch.lane
        pause_ns = now_ns + int(max(0.0, self.pace.left_s) * 1e9)

        def write(file: SpoolFile) -> None:
            self._clear_if_certain(file, batch, outcome)
            ledger.postpone(
                # A server that was not reached, or that asked for time, says nothing
                # about the batch: its place in the order stays.
                file.connection, batch, until_unix_ns=until_ns,
                failed=outcome.ambiguous or outcome.verdict is Verdict.HALVE,
                suspect=decision.suspect, lane=lane, code=outcome.code, message=outcome.message,
            )
            if decision.pause:
                ledger.set_hold(file.connection, hold, pause_ns)

        source.perform(write)

    def _delay_s(self, batch: Batch, outcome: Outcome, decision: Decision) -> float:
        """How long this batch waits: nothing, where the whole destination waits for it."""
        if decision.action is Action.SIDE_LANE or batch.lane == "side":
            return self._settings.backoff_max_s
        if decision.pause:
            return 0.0
        return self.pace.delay_s(outcome, failures=batch.failures + 1)

    def _clear_if_certain(self, file: SpoolFile, batch: Batch, outcome: Outcome) -> None:
        if not outcome.ambiguous:
            ledger.note_clear_answer(file.connection, batch)

    def expire(self, source: Source, batch: Batch) -> None:
        """Give up on a batch that waited too long; counted, and told as a gap."""
        now_ns = self._wall_ns()

        def write(file: SpoolFile) -> bool:
            self._enter(file, batch)
            if not ledger.waits(file.connection, batch):
                return False
            give_up(file.connection, batch, State.EXPIRED, unix_ns=now_ns)
            return True

        self.write()
        if not source.perform(write):
            return
        source.settled(batch.bytes, delivered=False)
        self._deliveries_at_failure.pop((source.file.name, batch.number), None)
        self._tally.settled(State.EXPIRED, batch.records)

    def _enter(self, file: SpoolFile, batch: Batch) -> None:
        """Write the ledger row of a batch that has none yet."""
        if batch.first_id > file.ledgered_id:
            ledger.open_batch(file.connection, batch)
            file.ledgered_id = batch.last_id

    # -- parts ----------------------------------------------------------------

    def _halve(self, source: Source, batch: Batch, outcome: Outcome, decision: Decision) -> None:
        """Replace a batch by two halves of about equal bytes."""
        if decision.pause:
            self.pace.failed(outcome, held=False)
        if outcome.is_too_large:
            self.pace.too_large(batch.bytes)
        runs = halves(ledger.sizes(source.file.reader, batch))
        self._replace(source, batch, runs, outcome)

    def _set_aside(self, source: Source, batch: Batch, wrong: Mapping[int, str]) -> None:
        """Part the rows that are not what was written from the good ones around them."""
        runs = apart(batch, ledger.sizes(source.file.reader, batch), wrong)
        self._replace(source, batch, runs, None, wrong)

    def _replace(
        self,
        source: Source,
        batch: Batch,
        runs: list[Run],
        outcome: Outcome | None,
        wrong: Mapping[int, str] | None = None,
    ) -> None:
        now_ns = self._wall_ns()
        numbers = source.batch_numbers(len(runs))
        self._deliveries_at_failure.pop((source.file.name, batch.number), None)
        if outcome is not None and not outcome.needs_sibling:
            # What is delivered from here on tells a part that fails from a destination that does.
            self._deliveries_at_failure.update(
                ((source.file.name, number), self.deliveries) for number in numbers
            )
        parts = [part_of(batch, number, run) for number, run in zip(numbers, runs)]

        def write(file: SpoolFile) -> bool:
            self._enter(file, batch)
            if not ledger.waits(file.connection, batch):
                return False
            if outcome is not None:
                self._clear_if_certain(file, batch, outcome)
            ledger.split(file.connection, batch, parts)
            for part in parts:
                if wrong and part.first_id in wrong:
                    give_up(
                        file.connection, part, State.QUARANTINED, unix_ns=now_ns,
                        code="corrupt", message=wrong[part.first_id],
                    )
            return True

        if not source.perform(write):
            return
        for part in parts:
            if wrong and part.first_id in wrong:
                self._tally.settled(State.QUARANTINED, part.records)
                source.settled(part.bytes, delivered=False)
