"""A model of spool and courier: whatever happens, in any order, every record is accounted for.

The parts are in ``tests/model``. ``MEMOIR_MODEL_EXAMPLES=5000`` makes it a long run.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import Phase
from hypothesis.stateful import run_state_machine_as_test

from model.destination import REPLIES
from model.machine import EXAMPLES, SpoolMachine, profile, seen
from model.process import ENVELOPE
from model.world import World
from otel_memoir.delivery import dispatch, planner, policy
from otel_memoir.delivery.dispatch import Dispatcher
from otel_memoir.delivery.outcome import Outcome, Verdict
from otel_memoir.spool import Batch, Draft, directory, intents, ledger
from otel_memoir.spool.commit import Committer
from otel_memoir.spool.file import SpoolFile

Break = Callable[[pytest.MonkeyPatch], object]


@pytest.mark.timeout(3 * 3600 if EXAMPLES else 240)
def test_whatever_happens_every_record_is_accounted_for() -> None:
    """No sequence of actions breaks an invariant; and in the end all is delivered or named."""
    seen.clear()
    run_state_machine_as_test(SpoolMachine, settings=profile(70))
    print(dict(seen))
    assert seen["steps"] > 1000
    assert min(seen[what] for what in ("delivered", "quarantined", "http 400", "died")) > 0


# -- negative controls: each is a product with one thing broken -----------------


def _settles_without_a_counter(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ledger, "count", lambda *_: None)


def _sends_without_writing_the_attempt_down(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ledger, "note_attempt", lambda *_: True)
    patch.setattr(ledger, "note_clear_answer", lambda *_: None)


def _says_stored_before_it_is(patch: pytest.MonkeyPatch) -> None:
    def pretend(self: Committer, entries: list[object], chores: list[object]) -> None:
        if chores:
            plain(self, entries, chores)  # type: ignore[arg-type]  # passed on as it came
        else:
            self._stored(entries, chores, synced=True)  # type: ignore[arg-type]  # as above

    plain = Committer._store
    patch.setattr(Committer, "_store", pretend)


def _does_not_fix_a_batch_before_it_is_sent(patch: pytest.MonkeyPatch) -> None:
    def enter(self: Dispatcher, file: SpoolFile, batch: Batch) -> None:
        if not batch.attempts:
            return
        plain(self, file, batch)

    plain = Dispatcher._enter
    patch.setattr(Dispatcher, "_enter", enter)


def _builds_a_request_in_another_order_each_time(patch: pytest.MonkeyPatch) -> None:
    plain = dispatch.build_request
    patch.setattr(dispatch, "build_request", lambda rows: plain(list(rows)[::-1]))


def _takes_no_answer_for_a_yes(patch: pytest.MonkeyPatch) -> None:
    def decide(batch: Batch, outcome: Outcome, *, others_delivered: bool) -> policy.Decision:
        if outcome.verdict is Verdict.RETRY:
            return policy.Decision(action=policy.Action.DELIVER)
        return plain(batch, outcome, others_delivered=others_delivered)

    plain = policy.decide
    patch.setattr(dispatch, "decide", decide)


def _writes_no_gap(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ledger, "note_gap", lambda *_, **__: None)


def _forgets_what_died_in_memory(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        SpoolFile, "_end_lost_streams",
        lambda self, *_: self.connection.execute("UPDATE stream SET ended = 'unclean'"),
    )


def _lets_two_processes_hold_a_slot(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(directory.fcntl, "flock", lambda *_: None)


def _expires_by_the_wall_clock(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(planner.Planner, "tried_s", lambda _: float("inf"))


def _tells_of_no_intent(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(intents, "orphans", lambda *_, **__: [])


def _writes_no_outcome(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(intents.OpenIntents, "_end", lambda *_: None)


BROKEN: dict[str, Break] = {
    function.__name__.lstrip("_").replace("_", " "): function
    for function in (
        _settles_without_a_counter, _sends_without_writing_the_attempt_down,
        _says_stored_before_it_is, _does_not_fix_a_batch_before_it_is_sent,
        _builds_a_request_in_another_order_each_time, _takes_no_answer_for_a_yes,
        _writes_no_gap, _forgets_what_died_in_memory, _lets_two_processes_hold_a_slot,
        _expires_by_the_wall_clock, _tells_of_no_intent, _writes_no_outcome,
    )
}


@pytest.mark.timeout(240)
@pytest.mark.parametrize("broken", BROKEN)
def test_the_model_finds_a_product_that(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: with one thing broken, some sequence of actions shows it."""
    BROKEN[broken](monkeypatch)
    with pytest.raises(AssertionError):
        run_state_machine_as_test(SpoolMachine, settings=profile(600, Phase.generate))


# -- what the model found, each as short as it can be -----------------------------


@contextmanager
def played(**given: Any) -> Iterator[World]:
    """A world with one process; what holds after each action is checked, and a calm end."""
    world = World(**{"durability": "power", "linger_s": 0.0, **given})
    try:
        world.start()
        yield world
        world.check()
        world.calm()
    finally:
        world.end()


def emit(world: World, count: int, kind: str = "small", *, process: int = 0) -> None:
    """Emit some records of a kind."""
    for _ in range(count):
        world.emit(world.living[process], kind, 9, on_loop=False)
        world.check()


def deliver(world: World, *replies: str, process: int = 0) -> None:
    """One step of a courier for each answer."""
    for reply in replies:
        world.deliver(world.living[process], reply, answers_probe=True)
        world.check()


def sent(world: World) -> list[int]:
    """The first number of each request, in order."""
    return [one.records[0].key.sequence for one in world.destination.attempts if one.records]


def test_a_wall_clock_that_is_set_back_puts_no_batch_off() -> None:
    """What was to be tried next waited for as long as the clock had been set back."""
    with played() as world:
        emit(world, 8)
        deliver(world, "throttled")
        world.clock.jump(-1_800.0)
        world.clock.advance(10.0)
        deliver(world, "ok")
        world.clock.advance(0.1)  # after a failure there is a gap between yeses, too
        deliver(world, "ok")
        assert sent(world) == [1, 1, 5]


def test_a_flow_that_never_ends_does_not_starve_what_failed_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A new batch was always there to be sent first, so the old one was tried no more."""
    with played(request_records_max=1) as world:
        plain = world.destination._reply

        def refuse_the_first(records: Any) -> Any:
            is_first = any(record.key.sequence == 1 for record in records)
            return REPLIES["unavailable"] if is_first else plain(records)

        def flow(until: Callable[[], bool], steps: int) -> bool:
            for _ in range(steps):
                emit(world, 1)
                deliver(world, "ok")
                world.clock.advance(0.5)
                if until():
                    return True
            return False

        def first_is_in_the_side_lane() -> bool:
            file = world.living[0].spool.file
            assert file is not None
            return bool(ledger.waiting(file.reader, lane="side"))

        emit(world, 10)
        with monkeypatch.context() as patch:
            patch.setattr(world.destination, "_reply", refuse_the_first)
            assert flow(first_is_in_the_side_lane, 300)
        assert flow(lambda: sent(world)[-1] == 1, 40)


def test_what_waits_gets_no_turn_in_a_flow_while_the_destination_says_now_yes_now_no() -> None:
    """It throttles: three noes among the yeses of others made poison of an innocent record."""
    with played(request_records_max=1) as world:
        planner = world.living[0].courier._planner
        emit(world, 40)
        deliver(world, "exhausted further down")
        world.clock.advance(10.0)
        deliver(world, "exhausted further down")
        world.clock.advance(10.0)
        source = planner.sources()[0]
        chosen = []
        for number in range(30):
            batch = planner.next_batch(source, skip=None, hurry=True)
            assert batch is not None
            chosen.append(batch.first_sequence)
            planner.note_answer(is_yes=number % 4 != 3)
        assert 1 not in chosen
        for _ in range(10):
            batch = planner.next_batch(source, skip=None, hurry=True)
            assert batch is not None
            chosen.append(batch.first_sequence)
            planner.note_answer(is_yes=True)
        assert 1 in chosen


def test_two_poison_records_in_a_row_do_not_hold_up_what_comes_after_them() -> None:
    """Each waited for the other to be delivered, and nothing else was ever tried."""
    with played(request_records_max=1) as world:
        emit(world, 2, "poison")
        emit(world, 4)
        world.calm()
        states = [world.reference.states[key] for key in sorted(world.reference.states)]
        assert states[:6] == ["quarantined"] * 2 + ["delivered"] * 4


def test_a_batch_that_failed_twice_is_tried_again_beside_one_that_is_poison() -> None:
    """The destination was away; the poison behind it was then tried for ever, and it never."""
    with played(request_records_max=1) as world:
        emit(world, 1)
        emit(world, 1, "poison")
        for _ in range(2):
            deliver(world, "unavailable")
            world.clock.advance(10.0)
        for _ in range(20):
            deliver(world, "ok")
            world.clock.advance(10.0)
        assert sent(world)[:2] == [1, 1]
        assert "delivered" in world.reference.states.values()


def test_a_commit_that_raised_and_is_there_all_the_same_stores_nothing_twice() -> None:
    """Its records counted as not yet fsynced and as not stored: the next file got both."""
    with played() as world:
        emit(world, 1)
        world.break_disk(world.living[0], 0, "COMMIT", "io error", 1, after=True)
        emit(world, 1)
        assert world.living[0].spool.file is not None
        assert world.living[0].spool.file.name == "memoir-0002"


def test_a_failover_beside_a_free_file_that_has_batches_already_goes_on_delivering() -> None:
    """Batches that moved there had numbers of which that file's ledger had its own."""
    with played() as world:
        world.start()
        emit(world, 1, process=0)
        emit(world, 1, process=1)
        deliver(world, "ok", process=0)
        world.shut_down(world.living[0], 0.5)
        world.break_disk(world.living[0], 0, "COMMIT", "io error", 1, after=False)
        emit(world, 1)


@pytest.mark.parametrize("after", [0, 2])
def test_numbers_that_a_full_disk_refused_stay_named_once_over_a_failover(after: int) -> None:
    """They were named in the file that was left, and nowhere in the one that went on."""
    with played(durability="process") as world:
        emit(world, 2)
        world.break_disk(world.living[0], 0, "COMMIT", "disk full", 1, after=False)
        emit(world, 1 + after)
        world.break_disk(world.living[0], 0, "COMMIT", "io error", 1, after=False)
        emit(world, 2)
        assert any(slot.name == "memoir-0002" for slot in directory.slots(world.directory))


def test_rows_that_a_failover_stores_again_count_as_waiting() -> None:
    """The bound of the new file did not know of them."""
    with played(durability="process") as world:
        emit(world, 3, "big")
        world.break_disk(world.living[0], 0, "COMMIT", "io error", 1, after=False)
        emit(world, 1)
        upkeep = world.living[0].spool._home.upkeep
        assert upkeep is not None
        assert upkeep._waiting_bytes > 3 * 9000


def test_an_eviction_that_a_full_disk_undid_counts_for_nothing() -> None:
    """Its bytes counted as free: the next records were accepted beyond the bound."""
    with played(when_full="evict") as world:
        emit(world, 5, "big")
        world.break_disk(world.living[0], 0, "COMMIT", "disk full", 1, after=False)
        emit(world, 1, "big")
        assert "evicted" in world.reference.states.values()


def test_a_process_that_ends_on_a_full_disk_gives_its_file_back() -> None:
    """The end of its stream could not be written, and the file was not closed either."""
    with played() as world:
        emit(world, 2)
        world.break_disk(world.living[0], 0, "COMMIT", "disk full", 99, after=False)
        world.shut_down(world.living[0], 0.5)


def test_a_wall_clock_that_jumps_ahead_expires_nothing() -> None:
    """Not even where the courier has tried for long: the record is new."""
    with played(expire_after_s=60.0) as world:
        emit(world, 1)
        deliver(world, "ok")
        world.clock.advance(70.0)
        emit(world, 1)
        world.clock.jump(86_400.0)
        deliver(world, "ok", "ok")
        assert set(world.reference.states.values()) == {"delivered"}


def test_two_jumps_that_cancel_out_expire_nothing() -> None:
    """A courier looks at its clocks at each step, also while it has nothing to send."""
    with played(expire_after_s=60.0) as world:
        emit(world, 1)
        deliver(world, "ok")
        world.clock.jump(-86_400.0)
        deliver(world, "ok")
        world.clock.advance(70.0)
        emit(world, 1)
        world.clock.jump(86_400.0)
        deliver(world, "ok", "ok")
        assert set(world.reference.states.values()) == {"delivered"}


def test_what_waits_long_by_both_clocks_expires() -> None:
    """The control of the test above."""
    with played(expire_after_s=60.0) as world:
        emit(world, 2)
        deliver(world, "credentials refused")
        world.clock.advance(70.0)
        deliver(world, "ok")
        assert set(world.reference.states.values()) == {"expired"}


# -- intents that are open when a file is left ------------------------------------


def _over_a_failover(*, ends: bool) -> None:
    """A process declares an intent, leaves its file, and dies; another adopts the old file."""
    with played() as world:
        first = world.living[0]
        intent = world.intend(first, on_loop=False)
        world.break_disk(first, 0, "COMMIT", "io error", 1, after=False)
        emit(world, 1)
        if ends:
            world.conclude(first, intent, on_loop=False)
        world.start()
        emit(world, 1, process=1)
        world.clock.advance(3.0)
        deliver(world, *["ok"] * 6, process=1)
        world.kill(first)


@pytest.mark.parametrize("ends", [True, False])
def test_an_intent_that_is_open_over_a_failover_is_told_of_once_if_at_all(ends: bool) -> None:
    """Both files have it as open; in the end only the new one knows what came of it."""
    _over_a_failover(ends=ends)


@pytest.mark.parametrize(
    ("where", "name", "without"),
    [(intents, "known_elsewhere", lambda *_: set()),
     (intents.OpenIntents, "leave", lambda *_: None)],
)
def test_without_a_look_at_the_other_file_it_is_told_of_while_its_process_lives(
    where: Any, name: str, without: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control."""
    monkeypatch.setattr(where, name, without)
    with pytest.raises(AssertionError, match="intent-0"):
        _over_a_failover(ends=False)


# -- a fork ---------------------------------------------------------------------


def test_what_a_fork_child_accepts_is_a_stream_of_its_own_and_is_delivered() -> None:
    """The child dies without an end; its parent adopts what it left."""
    with played() as world:
        emit(world, 2)
        parent = world.living[0]
        drafts = [Draft(ENVELOPE, b"<child%d>" % number, 9, f"uid-{number}") for number in range(3)]
        for draft in drafts:
            world.reference.begun(-1, draft)
        child = os.fork()
        if child == 0:
            stored = [getattr(parent.spool.append(draft), "stored", False) for draft in drafts]
            os._exit(0 if all(stored) else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        emit(world, 1)
        world.clock.advance(3.0)
        deliver(world, *["ok"] * 6)
        streams = {key[:2] for key in world.reference.states}
        assert len(streams) == 2
        assert set(world.reference.states.values()) == {"delivered"}
