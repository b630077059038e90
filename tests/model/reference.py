"""What must be true of spool and courier, whatever happened: the model's own books.

It keeps what was emitted and what the destination saw, and compares that with what
lies on disk. It knows nothing of how either gets there.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from model.destination import Arrived, Attempt, Key, is_delivered
from model.disk import Disk
from otel_memoir.delivery.outcome import Verdict
from otel_memoir.settings import Settings
from otel_memoir.spool import Draft, Refused, Ticket

FINAL = ("delivered", "expired", "evicted", "discarded")
"""States that no record leaves."""

FIRST_HANDOVER_IS_UNNAMED = True
"""Known: a number that an event loop was given before any commit has reserved it."""

A_RAISED_COMMIT_COUNTS_REFUSALS_TWICE = True
"""Known: one that held nothing but refusals, raised, and is durable all the same."""

STATES = ("pending", "quarantined", *FINAL)


@dataclass
class Emission:
    """A record that was emitted.

    Attributes:
        at_s: When, in monotonic seconds of the model's clock.

        ticket: What its emitter holds, while its process lives.

        is_stored: Its emitter was told that it is stored.

        refusal: Its emitter was told that it is not.

        is_uncertain: It was told neither: its process died first, or the record came on an
            event loop before the file was open and waits in memory for that.

        is_unreserved: Its process died, and no commit had reserved its number.
    """

    process: int
    draft: Draft
    at_s: float
    ticket: Ticket | None = None
    key: Key | None = None
    is_stored: bool = False
    refusal: str = ""
    is_uncertain: bool = True
    is_unreserved: bool = False

    def look(self) -> None:
        """Ask the ticket what became of the record."""
        if self.ticket is None:
            return
        self.is_stored = self.is_stored or self.ticket.stored
        self.is_uncertain = self.is_uncertain and not self.is_stored
        if self.ticket.refusal is not None:
            assert not self.is_stored, f"{self.key}: said to be stored, then to be refused"
            self.refusal, self.is_uncertain = str(self.ticket.refusal), False


@dataclass
class Reference:
    """The books. Each check raises ``AssertionError`` with what is wrong.

    Attributes:
        unwritten: Processes that may have had an answer which they could not write down.

        killed: Processes that did not end by themselves.

        unheard: Refusals that are counted and that no emitter was told of.
    """

    settings: Settings
    emissions: dict[bytes, list[Emission]] = field(default_factory=lambda: defaultdict(list))
    by_key: dict[Key, Emission] = field(default_factory=dict)
    attempts: dict[Key, list[Attempt]] = field(default_factory=lambda: defaultdict(list))
    taken: Counter[Key] = field(default_factory=Counter)
    payloads_taken: set[bytes] = field(default_factory=set)
    states: dict[Key, str] = field(default_factory=dict)
    forgotten: Counter[str] = field(default_factory=Counter)
    replayed: set[Key] = field(default_factory=set)
    discarded: set[Key] = field(default_factory=set)
    unordered: set[tuple[str, int]] = field(default_factory=set)
    not_before_s: dict[int, float] = field(default_factory=dict)
    killed: set[int] = field(default_factory=set)
    unwritten: set[int] = field(default_factory=set)
    unheard: Counter[str] = field(default_factory=Counter)
    a_commit_raised: bool = False
    now_s: float = 0.0

    # -- what happens ---------------------------------------------------------

    def begun(self, process: int, draft: Draft) -> None:
        """Take note that a record is being emitted."""
        self.emissions[draft.payload].append(Emission(process, draft, self.now_s))

    def numbered(self, draft: Draft, ticket: Ticket) -> None:
        """Take note of the number that a record got: at once, or once the file was open."""
        several = self.emissions[draft.payload]
        emission = next(one for one in several if one.key is None and not one.refusal)
        stream = ticket.life.stream
        emission.ticket = ticket
        emission.key = Key(stream.stream_id, stream.epoch, ticket.sequence)
        assert emission.key not in self.by_key, f"{emission.key} was given out twice"
        self.by_key[emission.key] = emission

    def ended(self, draft: Draft, found: Ticket | Refused | None) -> None:
        """Take note of what its emitter was told."""
        emission = self.emissions[draft.payload][-1]
        emission.is_uncertain = found is None
        if isinstance(found, Refused):
            emission.refusal = str(found)
        emission.look()

    def attempted(self, attempt: Attempt) -> None:
        """Check a request as it is sent."""
        assert attempt.at_s >= self.not_before_s.get(attempt.process, 0.0), "sent too early"
        self._check_bounds(attempt)
        for record in attempt.records:
            self._check_known(record)
            self._check_resent(record.key, attempt)
            self.attempts[record.key].append(attempt)
        self._check_order(attempt)
        for record in attempt.taken:
            self.taken[record.key] += 1
            self.payloads_taken.add(record.payload)
        self._take_pace(attempt)

    def _take_pace(self, attempt: Attempt) -> None:
        outcome = attempt.outcome
        if outcome is None or not attempt.records:
            return
        wait_s = outcome.retry_after_s or 0.0
        if outcome.verdict is Verdict.HOLD:
            wait_s = self.settings.hold_probe_interval_s
        self.not_before_s[attempt.process] = attempt.at_s + wait_s - 0.001

    def died(self, process: int, unwritten: Counter[str]) -> None:
        """Take note that a process is gone, and of the refusals it took with it."""
        self.look()
        self.forgotten += unwritten
        for emission in self._all():
            if emission.process == process and emission.ticket is not None:
                reserved = emission.ticket.life.reserved
                emission.is_unreserved = emission.ticket.sequence > reserved
                emission.ticket = None

    def look(self) -> None:
        """See what became of the records that were handed over."""
        for emission in self._all():
            emission.look()

    def _all(self) -> Iterable[Emission]:
        return (one for several in self.emissions.values() for one in several)

    # -- requests -------------------------------------------------------------

    def _check_bounds(self, attempt: Attempt) -> None:
        records = attempt.records
        size = sum(len(record.payload) + len(record.stamp) for record in records)
        assert len(records) <= self.settings.request_records_max, "too many records"
        assert len(records) == 1 or size <= self.settings.request_bytes_max, "too many bytes"
        assert len({record.key[:2] for record in records}) <= 1, "a batch of two streams"
        sequences = [record.key.sequence for record in records]
        assert sequences == sorted(set(sequences)), f"not in order: {sequences}"
        times = [record.unix_ns for record in records]
        assert times == sorted(set(times)), f"times do not increase: {times}"

    def _check_known(self, record: Arrived) -> None:
        """Each record is one that was emitted, byte for byte, under one number."""
        emission = self.by_key.get(record.key) or self._adopt(record)
        assert emission.draft.payload == record.payload, f"{record.key}: other bytes"
        assert not emission.refusal, f"{record.key} was refused ({emission.refusal}), yet stored"

    def _adopt(self, record: Arrived) -> Emission:
        """A record of a fork child, whose numbers nobody here was told."""
        several = self.emissions.get(record.payload)
        assert several, f"{record.key} was never emitted: {record.payload[:80]!r}"
        found = next((one for one in several if one.key is None and one.is_uncertain), None)
        assert found is not None, f"{record.key} is a second copy of {record.payload[:80]!r}"
        found.key, found.is_stored, found.is_uncertain = record.key, True, False
        self.by_key[record.key] = found
        return found

    def _check_resent(self, key: Key, attempt: Attempt) -> None:
        """Sent again, a batch has the same bytes, unless it was to be halved."""
        before = self.attempts[key][-1:]
        for last in before:
            written = is_delivered(last) and last.process not in self.unwritten
            assert not written, f"{key} was sent again after a plain OK"
            halved = last.outcome is not None and last.outcome.verdict is Verdict.HALVE
            if not halved:
                assert last.request == attempt.request, f"{key} was sent again in other bytes"

    def _check_order(self, attempt: Attempt) -> None:
        """A stream arrives in order while no answer has blamed one of its batches."""
        outcome = attempt.outcome
        keys = [record.key for record in attempt.records]
        if not keys:
            return
        stream = keys[0][:2]
        if outcome is not None and (outcome.verdict is Verdict.HALVE or outcome.ambiguous):
            self.unordered.add(stream)
        if stream not in self.unordered and not self.attempts[keys[0]][:-1]:
            later = [k for k in self.attempts if k[:2] == stream and k > keys[-1]]
            assert not later, f"{keys[0]} is sent after {later[0]}"

    # -- the disk -------------------------------------------------------------

    def check(self, disk: Disk) -> None:
        """Check what lies on disk."""
        self.look()
        self._check_rows(disk)
        self._check_places(disk)
        self._check_stored(disk)
        for key, places in disk.places.items():
            self._check_state(key, places[0].state, disk)
            copies, ambiguous = self.taken[key], disk.ambiguous[key]
            assert copies <= 1 + ambiguous, f"{key}: {copies} copies, {ambiguous} ambiguous"

    def _check_rows(self, disk: Disk) -> None:
        for row in disk.rows:
            self._check_known(row)

    def _check_places(self, disk: Disk) -> None:
        for key, places in disk.places.items():
            assert len(places) == 1, f"{key} is counted several times: {places}"
            assert key in self.by_key, f"{key} is on disk and was never emitted"

    def _check_stored(self, disk: Disk) -> None:
        for emission in self._all():
            if emission.is_stored:
                assert emission.key in disk.places, f"{emission.key} is missing"
            if emission.refusal and emission.key:
                assert emission.key not in disk.places, f"{emission.key} was refused"

    def _check_state(self, key: Key, state: str, disk: Disk) -> None:
        before = self.states.setdefault(key, "pending")
        assert state in STATES, f"{key} is {state}"
        if state == before:
            return
        if before in FINAL:
            raise AssertionError(f"{key} went from {before} to {state}")
        if before == "quarantined" and state in ("pending", "delivered"):
            assert key in self.replayed, f"{key} left the quarantine by itself"
        self.states[key] = state
        getattr(self, f"_check_{state}")(key, disk)

    def _check_pending(self, key: Key, disk: Disk) -> None:
        """A record may wait for as long as it likes."""

    def _check_delivered(self, key: Key, disk: Disk) -> None:
        last = self.attempts[key][-1:]
        assert last, f"{key} counts as delivered and was never sent"
        assert is_delivered(last[0]), f"{key} counts as delivered: {last[0].outcome}"
        outcome = last[0].outcome
        assert outcome is not None
        rejected = min(outcome.rejected, len(last[0].records))
        assert disk.places[key][0].rejected >= rejected, f"{key}: rejections are not counted"
        if rejected:
            self._check_named(key, "rejected", disk)

    def _check_quarantined(self, key: Key, disk: Disk) -> None:
        last = self.attempts[key][-1]
        assert len(last.records) == 1, f"{key} was quarantined together with others"
        assert last.outcome is not None
        assert last.outcome.verdict is Verdict.HALVE, f"{key}: {last.outcome.code}"
        self._check_named(key, "quarantined", disk)

    def _check_expired(self, key: Key, disk: Disk) -> None:
        limit_s = self.settings.expire_after_s
        assert limit_s is not None, f"{key} expired, and nothing expires"
        waited_s = self.now_s - self.by_key[key].at_s
        assert waited_s >= limit_s, f"{key} expired after {waited_s:.1f} s"
        self._check_named(key, "expired", disk)

    def _check_evicted(self, key: Key, disk: Disk) -> None:
        assert self.settings.when_full == "evict", f"{key} was evicted"
        assert not self.attempts[key], f"{key} was evicted although it had been sent"
        self._check_named(key, "evicted", disk)

    def _check_discarded(self, key: Key, disk: Disk) -> None:
        assert key in self.discarded, f"{key} was discarded by nobody"
        self._check_named(key, "discarded", disk)

    def _check_named(self, key: Key, cause: str, disk: Disk) -> None:
        """A loss is a row of ``gap`` from the moment on at which it is one."""
        found = any(loss.cause == cause and loss.covers(key) for loss in disk.losses)
        assert found, f"{key} is {cause}, and no gap says so"

    # -- counters -------------------------------------------------------------

    def check_refused(self, written: Counter[str], in_memory: Counter[str]) -> None:
        """Every refusal that an emitter was told of is counted once, unless it died in memory."""
        told = Counter(one.refusal for one in self._all() if one.refusal)
        known = written + in_memory
        unsure = sum(one.is_uncertain for one in self._all())
        for reason in {*told, *known}:
            least, most = told[reason] - self.forgotten[reason], told[reason] + unsure
            self.unheard[reason] = max(0, known[reason] - told[reason])
            if self.a_commit_raised and A_RAISED_COMMIT_COUNTS_REFUSALS_TWICE:
                most = known[reason]
            assert least <= known[reason] <= most, f"{reason}: {least}..{most}, {known[reason]}"

    def stored(self, payload: bytes) -> int:
        """How many emissions of a payload were ever seen on disk."""
        return sum(one.key in self.states for one in self.emissions.get(payload, ()))

    @property
    def accepted(self) -> int:
        """How many records were ever seen on disk."""
        return len(self.states)

    # -- the end --------------------------------------------------------------

    def check_end(self, disk: Disk) -> None:
        """After a calm time, nothing waits, and no number of a stream is unexplained."""
        waiting = [key for key, places in disk.places.items() if places[0].state == "pending"]
        assert not waiting, f"still pending: {waiting[:3]}"
        for loss in disk.losses:
            assert loss.told, f"nobody was told: {loss}"
        self._check_numbers(disk)
        put_off = [e for e in self._all() if e.is_uncertain and e.process not in self.killed]
        heard = sum(self.unheard.values()) + sum(self.forgotten.values())
        assert len(put_off) <= heard, f"never stored: {put_off[:3]}"

    def _check_numbers(self, disk: Disk) -> None:
        """Promise 4: each number that an emitter holds is stored, or named by a gap."""
        for key, emission in self.by_key.items():
            if emission.is_unreserved and FIRST_HANDOVER_IS_UNNAMED:
                continue
            named = key in disk.places or any(
                loss.covers(key) and not loss.is_elsewhere for loss in disk.losses
            )
            assert named, f"{key} is neither stored nor named by a gap"
