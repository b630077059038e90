"""Small cases of threads in every schedule up to a bound, so that nothing is left to luck.

By default: all schedules with one preemption at the operations of gates and mutexes, and some
at random with preemptions at any line. MEMOIR_TEST_LOCK_SCHEDULES=N: one preemption more, and
N at random.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import Any

import pytest

it = pytest.importorskip(
    "interleave_test",
    reason="needs interleave-test, and that needs Python 3.12 or newer: "
    "`python tools/matrix.py` runs this file there",
)

from locks.schedules import Cast, explore, meeting  # noqa: E402
from otel_memoir.locks import DeadlockReport, states  # noqa: E402
from otel_memoir.locks.engine import Engine  # noqa: E402
from otel_memoir.locks.parkers import ThreadParker  # noqa: E402

ASKED = int(os.environ.get("MEMOIR_TEST_LOCK_SCHEDULES", "0"))

pytestmark = pytest.mark.timeout(120 + 2 * ASKED)

Ends = tuple[str, ...]


def ends_of(model: Callable[[], dict[str, str]], preemptions: int = 1) -> set[Ends]:
    """How the threads of a model can end, by their names' order, over all schedules tried."""
    seen: set[Ends] = set()

    def one() -> None:
        said = model()
        seen.add(tuple(said[name] for name in sorted(said)))

    assert explore(one, preemptions=preemptions + bool(ASKED)).exhausted
    explore(one, at="line", schedules=ASKED or 25)
    return seen


def circle(count: int, **options: Any) -> dict[str, str]:
    """Each holds a key, and asks for that of the next one when all hold theirs."""
    cast, meet = Cast(**options), meeting(count)

    def body(own: str, other: str) -> None:
        with cast.locks.hold(own):
            meet()
            with cast.locks.hold(other), cast.alone(other):
                pass

    for number in range(count):
        keys = f"k{number}", f"k{(number + 1) % count}"
        cast.thread(f"t{number}", lambda keys=keys: body(*keys))
    return cast.end()


@pytest.mark.parametrize("count", [2, 3])
def test_of_a_circle_exactly_one_is_refused_in_every_schedule(count: int) -> None:
    """Whoever comes last, and wherever the others were stopped."""
    seen = ends_of(lambda: circle(count), preemptions=3 - count)
    assert {tuple(sorted(ends)) for ends in seen} == {("DeadlockError", *["done"] * (count - 1))}


def test_of_two_who_upgrade_exactly_one_is_refused_in_every_schedule() -> None:
    """Both read, both want to write."""

    def model() -> dict[str, str]:
        cast, meet = Cast(), meeting(2)

        def body() -> None:
            with cast.locks.hold("k", "shared") as lease:
                meet()
                lease.upgrade()
                with cast.alone("k"):
                    pass

        cast.thread("a", body)
        cast.thread("b", body)
        return cast.end()

    assert ends_of(model) == {("DeadlockError", "done"), ("done", "DeadlockError")}


def contended(
    cast: Cast, rival: Callable[[], object], *, timeout: float | None = None, more: bool = False
) -> None:
    """``a`` lets go when ``b`` has queued; at the same time ``c`` does something to ``b``'s wait.

    Args:
        more: Whether ``d`` queues too.
    """
    asked = cast.asked()

    def ask(timeout: float | None) -> None:
        with cast.locks.hold("k", timeout=timeout), cast.alone("k"):
            pass

    def hold() -> None:
        with cast.locks.hold("k"), cast.alone("k"):
            cast.thread("b", lambda: ask(timeout))
            asked.acquire()
            cast.thread("c", rival)
            if more:
                cast.thread("d", lambda: ask(None))

    cast.thread("a", hold)


def over_or_granted(*, more: bool = False) -> dict[str, str]:
    """One lets go as the time of who waits for it is over."""
    cast = Cast()
    contended(cast, cast.clock.strike, timeout=5.0, more=more)
    return cast.end()


def test_a_timeout_and_a_hand_over_end_a_wait_once() -> None:
    """Granted or over, never both."""
    assert ends_of(over_or_granted) == {
        ("done", "done", "done"), ("done", "LockTimeoutError", "done"),
    }  # fmt: skip


def test_who_queues_behind_a_timeout_is_served() -> None:
    """Whichever comes first."""
    explore(lambda: over_or_granted(more=True), preemptions=0)
    explore(lambda: over_or_granted(more=True), at="line", schedules=ASKED or 50)


def test_a_verdict_from_elsewhere_and_a_hand_over_end_a_wait_once() -> None:
    """And who gave the verdict knows whether it counted."""

    def model() -> dict[str, str]:
        cast, units, made = Cast(), list[str](), list[bool]()
        cast.locks.on_block(lambda unit, holders: units.append(unit))

        def refuse() -> None:
            report = DeadlockReport(id="d1", resolution="refused", participants=())
            made.append(cast.locks.make_victim(units[0], report))

        contended(cast, refuse)
        said = cast.end()
        assert made == [said["b"] == "DeadlockError"]
        return said

    assert ends_of(model) == {("done", "done", "done"), ("done", "DeadlockError", "done")}


def test_all_or_nothing_against_one_after_the_other_loses_at_most_one() -> None:
    """One takes both at once, the other from behind."""

    def model() -> dict[str, str]:
        cast = Cast()

        def at_once() -> None:
            with cast.locks.hold_all({"b": "exclusive", "a": "exclusive"}), cast.alone("a"):
                pass

        def step_by_step() -> None:
            with cast.locks.hold("b"), cast.locks.hold("a"), cast.alone("a"):
                pass

        cast.thread("a", at_once)
        cast.thread("b", step_by_step)
        return cast.end()

    seen = ends_of(model)
    assert ("done", "done") in seen
    assert ("DeadlockError", "DeadlockError") not in seen


def test_several_who_take_all_at_once_are_never_refused() -> None:
    """In whatever order they name the keys."""

    def model() -> dict[str, str]:
        cast = Cast()

        def body(*keys: str) -> None:
            with cast.locks.hold_all(dict.fromkeys(keys, "exclusive")), cast.alone(keys[0]):
                pass

        cast.thread("a", lambda: body("x/1", "y"))
        cast.thread("b", lambda: body("y", "x/1"))
        return cast.end()

    assert ends_of(model) == {("done", "done")}


def test_who_reads_and_ends_as_another_lets_go_keeps_no_writer_waiting() -> None:
    """A thread that ends with a shared lock has left nothing half done."""

    def model() -> dict[str, str]:
        cast = Cast()
        one, two = cast.asked(), cast.asked()

        def let_go() -> None:
            lease = cast.locks.acquire("k", "shared")
            cast.thread("b", end)
            one.acquire()
            lease.release()

        def end() -> None:
            cast.locks.acquire("k", "shared")
            cast.thread("c", write)
            two.acquire()

        def write() -> None:
            with cast.locks.hold("k"), cast.alone("k"):
                pass

        cast.thread("a", let_go)
        return cast.end()

    assert ends_of(model) == {("done", "done", "done")}


def test_who_waits_for_a_writer_that_ends_is_told_or_served_and_never_forgotten() -> None:
    """A helper that acts for the writer lets go at the moment in which the writer ends."""

    def model() -> dict[str, str]:
        cast = Cast()

        def write() -> None:
            lease = cast.locks.acquire("k")
            cast.thread("b", cast.locks.bind(lease.release))
            cast.thread("c", ask)

        def ask() -> None:
            with cast.locks.hold("k"), cast.alone("k"):
                pass

        cast.thread("a", write)
        return cast.end()

    assert ends_of(model) == {("done", "done", "done"), ("done", "done", "OwnerDiedError")}


def test_a_block_that_is_done_again_after_a_deadlock_is_done_in_every_schedule() -> None:
    """``run`` ends for both."""

    def model() -> dict[str, str]:
        cast = Cast()

        def both(one: str, other: str) -> None:
            with cast.locks.hold(one), cast.locks.hold(other), cast.alone("k"):
                pass

        cast.thread("a", lambda: cast.locks.run(both, "x", "y"))
        cast.thread("b", lambda: cast.locks.run(both, "y", "x"))
        return cast.end()

    assert ends_of(model) == {("done", "done")}


# -- negative controls: what is broken on purpose, the explorer finds --------------


def handed_over() -> None:
    """One lets go, one is served."""
    cast = Cast()
    contended(cast, lambda: None)
    assert set(cast.end().values()) == {"done"}


def test_a_wake_up_that_comes_too_early_and_is_forgotten_is_found(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gate that opens only for who stands before it: right without a preemption."""
    asleep: set[ThreadParker] = set()
    park, wake = ThreadParker.park, ThreadParker.wake

    def park_noted(self: ThreadParker, timeout: float) -> None:
        asleep.add(self)
        park(self, timeout)

    monkeypatch.setattr(ThreadParker, "park", park_noted)
    monkeypatch.setattr(ThreadParker, "wake", lambda self: self not in asleep or wake(self))
    with pytest.raises(it.DeadlockError, match="blocked on Lock"):
        explore(handed_over)


def struck_by_the_holder() -> None:
    """The time is over, and only then the holder lets go."""
    cast = Cast()
    asked = cast.asked()

    def ask() -> None:
        with cast.locks.hold("k", timeout=5.0), cast.alone("k"):
            pass

    def hold() -> None:
        with cast.locks.hold("k"), cast.alone("k"):
            cast.thread("b", ask)
            asked.acquire()
            cast.clock.strike()

    cast.thread("a", hold)
    cast.end()


def test_a_timeout_that_does_not_look_whether_the_lock_came_first_is_found(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock would stay with somebody who was told that he has not got it."""
    fail = Engine.fail

    def fail_anyway(self: Engine, wait: Any, state: str, *rest: Any) -> bool:
        if state is states.TIMEOUT and wait.state is states.GRANTED:
            wait.state = states.WAITING
        return fail(self, wait, state, *rest)

    monkeypatch.setattr(Engine, "fail", fail_anyway)
    with pytest.raises((it.DeadlockError, it.RaceFound)):
        explore(struck_by_the_holder, preemptions=2)


class NoMutex(contextlib.nullcontext[None]):
    """Lets everybody in."""

    def acquire(self, timeout: float = -1) -> bool:
        """At once."""
        return True

    def release(self) -> None:
        """Nothing."""


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_without_a_mutex_a_conflict_is_found() -> None:
    """Any line may be the one at which a thread is stopped."""

    def model() -> None:
        cast = Cast()
        engine = cast.locks._engine
        engine.mutex, engine.inside = NoMutex(), lambda: False  # type: ignore[assignment]
        contended(cast, lambda: None, more=True)
        cast.end()

    with pytest.raises(it.InterleaveError):
        explore(model, at="line", schedules=500)


def test_a_circle_that_nobody_breaks_is_found() -> None:
    """With ``on_deadlock="report"`` and no timeouts."""
    with pytest.raises(it.DeadlockError, match="blocked on Lock"):
        explore(lambda: circle(2, on_deadlock="report"))
