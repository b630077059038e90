"""The pitfalls into which other lock managers fell, each as a test.

Those that every shape of unit has are in the suite, those of circles with the deadlocks: a
re-entrant read behind a queued writer, two upgraders, an upgrade at the tail, an exhausted pool, a
retry of less than the whole block, a timeout that serves nobody behind it.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import linecache
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Coroutine, Generator
from typing import Any

import pytest

from locks.actors import PATIENCE_S, Stage, ThreadActor
from otel_memoir.errors import DeadlockError, LockError, LockLostError, LockTimeoutError
from otel_memoir.locks import Lease, LockManager, parking, states
from otel_memoir.locks.effects import Effects
from otel_memoir.locks.engine import Engine
from otel_memoir.locks.judge import Judge
from otel_memoir.locks.roll import Roll


@pytest.fixture(autouse=True)
def nobody_looks_by_himself(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wake-up that is lost hangs a test, and is not made good by the waiter's patience."""
    monkeypatch.setattr("otel_memoir.locks.parking.PATIENCE_S", 3600.0)


@pytest.fixture
def locks() -> LockManager:
    """A manager."""
    return LockManager()


def empty(locks: LockManager) -> bool:
    """Whether nothing is held and nobody waits."""
    return locks.snapshot().keys == ()


def test_who_let_go_before_is_in_no_phantom_of_a_circle() -> None:
    """The edges of a moment ago do not count."""
    with Stage("threads") as stage:
        one, two = stage.actors(2)
        for _ in range(20):
            first, second = one.acquire("a").get(), two.acquire("b").get()
            asked = one.acquire("b")
            stage.sleeps(one)
            two.release(second).get()
            last = two.acquire("a")
            stage.sleeps(two)
            one.release(first).get()
            one.release(asked.get()).get()
            two.release(last.get()).get()
        assert stage.locks.deadlocks() == ()


def test_a_walk_ends_in_a_circle_that_does_not_contain_its_beginning() -> None:
    """One that is only reported stays, and others come to wait behind it."""
    with Stage("threads", on_deadlock="report") as stage:
        one, two, three = stage.actors(3)
        one.acquire("a").get()
        two.acquire("b").get()
        one.acquire("b")
        stage.sleeps(one)
        two.acquire("a")
        stage.sleeps(two)
        assert isinstance(three.acquire("a", timeout=0.01).error(), LockTimeoutError)
        assert len(stage.locks.deadlocks()) == 1


def test_a_wait_with_a_timeout_is_part_of_a_circle_and_is_said_to_end_by_itself() -> None:
    """Neither overlooked, nor the same as one without."""
    with Stage("threads") as stage:
        one, two = stage.actors(2)
        one.acquire("a").get()
        two.acquire("b").get()
        one.acquire("b", timeout=3600.0)
        stage.sleeps(one)
        error = two.acquire("a").error()
        assert isinstance(error, DeadlockError)
        by_unit = {unit.unit: unit.resolves_by_timeout for unit in error.report.participants}
        assert by_unit == {one.unit: True, two.unit: False}


def test_trying_without_waiting_closes_no_circle() -> None:
    """And nobody else is refused for it."""
    with Stage("threads") as stage:
        one, two = stage.actors(2)
        one.acquire("a").get()
        two.acquire("b").get()
        waits = one.acquire("b")
        stage.sleeps(one)
        assert isinstance(two.acquire("a", timeout=0).error(), LockTimeoutError)
        assert not waits.done()


def test_a_task_cancelled_in_the_same_tick_as_the_hand_over_hands_on(locks: LockManager) -> None:
    """The lock came first; the cancelled one does not keep it."""

    async def main() -> bool:
        first = await locks.acquire_async("k")
        loser = asyncio.create_task(_hold(locks, "k"))
        winner = asyncio.create_task(_hold(locks, "k"))
        await _turns()
        first.release()
        loser.cancel()
        await winner
        with pytest.raises(asyncio.CancelledError):
            await loser
        return empty(locks)

    assert asyncio.run(main())


def test_keeping_the_lock_of_a_cancelled_task_would_be_seen(
    locks: LockManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control: without passing it on, nobody gets it."""
    monkeypatch.setattr(parking, "abandon", lambda engine, wait: None)
    monkeypatch.setattr(Engine, "release", _only_once(Engine.release))
    monkeypatch.setattr(Roll, "_done", lambda self, task: None)

    async def main() -> None:
        first = await locks.acquire_async("k")
        loser = asyncio.create_task(_hold(locks, "k"))
        winner = asyncio.create_task(_hold(locks, "k"))
        await _turns()
        first.release()
        loser.cancel()
        await _turns()
        assert not winner.done()
        winner.cancel()

    asyncio.run(main())


def _only_once(real: Any) -> Any:
    calls: list[object] = []

    def release(self: Engine, lease: Lease, by: Any) -> None:
        calls.append(lease)
        if len(calls) == 1:
            real(self, lease, by)

    return release


async def _hold(locks: LockManager, key: str) -> None:
    async with locks.hold(key):
        pass


async def _turns() -> None:
    """Let the others run until they wait."""
    for _ in range(5):
        await asyncio.sleep(0)


def test_of_a_timeout_and_a_grant_the_first_wins_and_the_loser_accepts_that() -> None:
    """One word, written under the mutex."""
    with Stage("threads") as stage:
        one, two = stage.actors(2)
        lease = one.acquire("k").get()
        asked = two.acquire("k")
        stage.sleeps(two)
        engine = stage.locks._engine
        (wait,) = engine.table.waits()
        one.release(lease).get()
        effects = Effects()
        with engine.mutex:
            engine.time_out(wait, effects)
        assert wait.state is states.GRANTED
        assert asked.get().held


def test_a_timeout_in_a_thread_leaves_no_request_behind(locks: LockManager) -> None:
    """As an acquire that goes on in a loop does, and keeps the lock when it gets it."""
    with Stage("threads") as stage:
        one, two = stage.actors(2)
        lease = one.acquire("k").get()
        assert isinstance(two.acquire("k", timeout=0.01).error(), LockTimeoutError)
        one.release(lease).get()
        assert empty(stage.locks)


def test_who_calls_acquire_async_owns_what_another_task_awaited(locks: LockManager) -> None:
    """``wait_for`` runs it in a task of its own up to Python 3.11."""

    async def main() -> None:
        lease = await asyncio.create_task(_awaiting(locks.acquire_async("k")))
        assert lease.held
        async with locks.hold("k", timeout=0):
            pass
        lease.release()
        waited = await asyncio.wait_for(locks.acquire_async("k"), PATIENCE_S)
        assert waited.held
        waited.release()

    asyncio.run(main())
    assert empty(locks)


def through_wait_for(locks: LockManager, timeout: float) -> list[Any]:
    """How a circle of two ends of which one asks by ``wait_for``, and the other after it."""

    async def one() -> None:
        async with locks.hold("a"):
            await _turns()
            lease = await asyncio.wait_for(locks.acquire_async("b"), timeout)
            lease.release()

    async def two() -> None:
        async with locks.hold("b"):
            await _turns()
            async with locks.hold("a"):
                pass

    async def main() -> list[Any]:
        return await asyncio.gather(*map(asyncio.create_task, (one(), two())),
                                    return_exceptions=True)

    return [type(end) for end in asyncio.run(main())]


@pytest.mark.skipif(
    sys.version_info >= (3, 12), reason="wait_for awaits in the same task: run it on 3.10 or 3.11"
)
def test_a_circle_through_a_wait_for_of_another_task_ends_by_its_timeout(
    locks: LockManager
) -> None:
    """Nobody is told that the owner waits for that task. The other gets what it waits for."""
    assert through_wait_for(locks, 0.01) == [asyncio.TimeoutError, type(None)]
    assert empty(locks)
    assert locks.deadlocks() == ()


@pytest.mark.skipif(
    sys.version_info < (3, 12), reason="wait_for awaits in another task: run it on 3.12 or newer"
)
def test_a_circle_through_a_wait_for_of_the_same_task_is_a_deadlock(locks: LockManager) -> None:
    """As if the lock had been asked for directly."""
    assert through_wait_for(locks, PATIENCE_S) == [type(None), DeadlockError]
    assert empty(locks)


async def _awaiting(what: Any) -> Any:
    return await what


def test_a_task_of_one_loop_wakes_a_task_of_another() -> None:
    """A future that is set from another thread wakes nobody."""
    with Stage("loops") as stage:
        one, two = stage.actors(2)
        three = stage.actor()
        assert len(stage._loops) > 1
        lease = one.acquire("k").get()
        asked = three.acquire("k")
        stage.sleeps(three)
        one.release(lease).get()
        assert asked.get().held
        two.end()


def test_a_waiter_whose_loop_is_closed_is_skipped() -> None:
    """What it was given goes to the next."""
    with Stage("threads") as stage:
        one, two = stage.actors(2)
        lease = one.acquire("k").get()
        loop = asyncio.new_event_loop()
        lost = loop.create_task(_hold(stage.locks, "k"))
        loop.run_until_complete(_turns())
        loop.close()
        asked = two.acquire("k")
        stage.sleeps(two)
        one.release(lease).get()
        assert asked.get().held
        lost._log_destroy_pending = False  # type: ignore[attr-defined]  # it is what is tested


def test_a_synchronous_wait_that_would_block_its_own_loop_is_refused(locks: LockManager) -> None:
    """The holder is a task of the loop that would be blocked."""

    async def blocking() -> None:
        with locks.hold("k"):
            pass

    async def main() -> None:
        async with locks.hold("k"):
            with pytest.raises(DeadlockError) as caught:
                await asyncio.create_task(blocking())
        kinds = {one.waits_for for one in caught.value.report.participants}
        assert kinds == {"lock", "event loop"}

    asyncio.run(main())


def test_a_task_whose_loop_is_blocked_by_another_is_not_the_victim(locks: LockManager) -> None:
    """It could not act on that: the one that blocks is refused, whatever its priority."""
    let_go = held_elsewhere(locks)

    async def both() -> None:
        async with locks.hold("mine"), locks.hold("k"):
            pass

    async def main() -> None:
        task = asyncio.create_task(both())
        await _turns()
        with pytest.raises(DeadlockError):
            locks.acquire("mine", priority=9)
        await asyncio.to_thread(let_go)
        await task

    asyncio.run(main())
    assert len(locks.deadlocks()) == 1


def test_it_is_refused_also_while_the_loop_is_paused(locks: LockManager) -> None:
    """The loop of a task that holds the lock runs in this thread, or not at all."""
    loop = asyncio.new_event_loop()
    try:
        lease = loop.run_until_complete(_kept(locks, loop))
        with pytest.raises(DeadlockError):
            locks.acquire("k")
        loop.run_until_complete(lease)
    finally:
        loop.close()


async def _kept(locks: LockManager, loop: asyncio.AbstractEventLoop) -> asyncio.Task[None]:
    async def keep() -> None:
        async with locks.hold("k"):
            await asyncio.sleep(0)
            await asyncio.sleep(0)

    task = loop.create_task(keep())
    await asyncio.sleep(0)
    return task


def test_a_synchronous_wait_for_a_thread_may_block_a_loop(locks: LockManager) -> None:
    """Negative control: it ends, so it is the caller's choice."""
    holding, go = threading.Event(), threading.Event()

    def hold() -> None:
        with locks.hold("k"):
            holding.set()
            assert go.wait(PATIENCE_S)

    thread = threading.Thread(target=hold)
    thread.start()
    assert holding.wait(PATIENCE_S)
    locks.on_block(lambda unit, holders: go.set())

    async def main() -> None:
        with locks.hold("k"):
            pass

    asyncio.run(main())
    thread.join(PATIENCE_S)
    assert empty(locks)


class OutsideError(BaseException):
    """Comes from outside, between two lines."""


def hold_one(locks: LockManager) -> None:
    """The path without contention."""
    with locks.hold("s/c/r"):
        pass


def hold_several(locks: LockManager) -> None:
    """The path with it, but for the wait."""
    with locks.hold_all({"s/a": "exclusive", "t": "shared"}):
        pass


def hold_contended(locks: LockManager) -> None:
    """The path with the wait: the lock is let go as this thread begins to sleep."""
    holder = ThreadActor(locks)
    lease = holder.acquire("k").get()
    park = parking.ThreadParker.park

    def let_go_and_park(parker: Any, timeout: float) -> None:
        holder.release(lease).get()
        park(parker, timeout)

    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(parking.ThreadParker, "park", let_go_and_park)
            with locks.hold("k"):
                pass
    finally:
        holder.release(lease).get()
        holder.end()


def lines_of(operation: Any) -> list[tuple[str, int]]:
    """Every line of the room that an operation runs, but those that take the mutex.

    A tracer comes to a ``with`` again as its block ends, where no signal handler does.
    """
    seen: dict[tuple[str, int], None] = {}

    def note(frame: Any, event: str, arg: Any) -> Any:
        name, number = frame.f_code.co_filename, frame.f_lineno
        if "otel_memoir/locks" not in name:
            return None
        if event == "line" and not linecache.getline(name, number).strip().startswith("with "):
            seen[name, number] = None
        return note

    locks = LockManager()
    operation(locks)
    sys.settrace(note)
    try:
        operation(locks)
    finally:
        sys.settrace(None)
    return list(seen)


def interrupted(locks: LockManager, operation: Any, place: tuple[str, int]) -> bool:
    """Do something, with an exception from outside at a line; whether it got there."""

    def strike(frame: Any, event: str, arg: Any) -> Any:
        if event == "line" and (frame.f_code.co_filename, frame.f_lineno) == place:
            sys.settrace(None)
            raise OutsideError
        return strike

    sys.settrace(strike)
    try:
        operation(locks)
    except OutsideError:
        return True
    finally:
        sys.settrace(None)
    return False


def harmed(operation: Any) -> list[tuple[str, int]]:
    """Lines at which an interrupt leaves something held, or a count that is wrong."""
    found = []
    for place in lines_of(operation):
        locks = LockManager()
        operation(locks)
        with without_collector():
            assert interrupted(locks, operation, place), place
        entries = locks._engine.table.entries.values()
        if not empty(locks) or any(entry.total for entry in entries):
            found.append(place)
    return found


@contextlib.contextmanager
def without_collector() -> Generator[None, None, None]:
    """A finaliser of an earlier manager would run the same lines, and swallow what strikes it."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@pytest.mark.parametrize("operation", [hold_one, hold_several, hold_contended])
def test_an_interrupt_at_any_line_leaves_nothing_held(operation: Any) -> None:
    """Between the grant and the block, and also between two lines under the mutex.

    One place remains: after the call of ``__exit__`` and before its first line, since no code
    of ours has begun. There the lock stays with its unit until that ends.
    """
    assert len(lines_of(operation)) > 30
    first = min(number for *_, number in Lease.__exit__.__code__.co_lines()
                if number and number > Lease.__exit__.__code__.co_firstlineno)  # fmt: skip
    assert {number for _, number in harmed(operation)} <= {first}


def test_without_recovery_an_interrupt_leaves_something_held(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control."""
    monkeypatch.setattr("otel_memoir.locks.lease.recover", lambda engine, lease, error: None)
    assert len(harmed(hold_one)) > 5


def test_a_signal_handler_inside_the_manager_gets_an_error_and_does_not_hang(
    locks: LockManager
) -> None:
    """It interrupted the manager on its own thread, so nobody could let it in."""
    errors: list[BaseException] = []

    def handler(*_: object) -> None:
        try:
            locks.acquire("other")
        except LockError as error:
            errors.append(error)

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        with locks._engine.mutex:
            signal.raise_signal(signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert len(errors) == 1
    with locks.hold("other"):
        pass


INTERRUPTED = """
import signal, threading
from otel_memoir.locks import LockManager, parking
parking.PATIENCE_S = 3600.0
locks, sleeps, go = LockManager(), threading.Semaphore(0), threading.Event()
locks.on_block(lambda unit, holders: sleeps.release())

def hold():
    with locks.hold("outer"):
        with locks.hold("inner"):
            go.set()
            sleeps.acquire()
            signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)
            sleeps.acquire()

def handler(*_):
    with locks.hold("inner"):
        print("inner", end=" ")

signal.signal(signal.SIGUSR1, handler)
thread = threading.Thread(target=hold)
thread.start()
go.wait()
with locks.hold("outer"):
    print("outer", locks.snapshot().keys[0].key)
thread.join()
"""


def test_a_signal_handler_that_waits_while_the_thread_waits_loses_no_wake_up() -> None:
    """The wait that it interrupted is handed its lock meanwhile, and goes on afterwards."""
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, timeout=10,
        check=False,
    )
    assert done.stdout.split() == ["inner", "outer", "outer"], done.stderr


def test_a_finaliser_inside_the_manager_puts_its_release_off(locks: LockManager) -> None:
    """The collector may run it anywhere; the next operation does it."""

    class Owner:
        def __init__(self) -> None:
            self.lease, self.me = locks.acquire("k"), self

        def __del__(self) -> None:
            self.lease.release()

    Owner()
    with locks._engine.mutex:
        gc.collect()
    assert not empty(locks)
    other = threading.Thread(target=lambda: locks.acquire("k").release())
    other.start()
    other.join(PATIENCE_S)
    assert not other.is_alive()


FORKS = pytest.mark.skipif(
    not hasattr(os, "fork"), reason="needs os.fork: run it on Linux or macOS"
)


def left_to_a_child(locks: LockManager, lease: Lease) -> list[str]:
    """Fork; what the child still has of its parent, who holds a lease of ``k``."""
    reader, writer = os.pipe()
    if (child := _fork()) == 0:
        try:
            signal.alarm(30)
            engine, found = locks._engine, []
            found += ["the mutex"] * (not engine.mutex.acquire(blocking=False))
            found += ["the lease"] * (lease.state is not states.LOST)
            found += ["the table"] * bool(engine.table.entries)
            found += ["who waits"] * bool(engine.blocked or engine.donations._given)
            found += ["verdicts"] * bool(engine.judge._said)
            os.write(writer, ",".join(found).encode())
        finally:
            os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with os.fdopen(reader) as file:
        said = file.read()
    return said.split(",") if said else []


def busy_manager(stage: Stage) -> Lease:
    """A manager with a circle that is reported, and a donation."""
    one, two, three, boss = stage.actors(4)
    lease: Lease = one.acquire("k").get()
    two.acquire("j").get()
    one.acquire("n").get()
    three.acquire("m").get()
    for actor, key, priority in ((one, "j", 0), (two, "k", 0), (three, "n", 0), (boss, "m", 60)):
        actor.acquire(key, priority=priority)
        stage.sleeps(actor)
    return lease


@contextlib.contextmanager
def somebody_inside(locks: LockManager) -> Generator[None, None, None]:
    """For a block, another thread is inside the manager."""
    inside, go = threading.Event(), threading.Event()

    def stay() -> None:
        with locks._engine.mutex:
            inside.set()
            go.wait(PATIENCE_S)

    thread = threading.Thread(target=stay)
    thread.start()
    assert inside.wait(PATIENCE_S)
    try:
        yield
    finally:
        go.set()
        thread.join(PATIENCE_S)


@FORKS
def test_a_fork_child_has_nothing_of_its_parents_locks() -> None:
    """Also when another thread was inside the manager as it forked."""
    with Stage("threads", on_deadlock="report") as stage:
        lease = busy_manager(stage)
        with somebody_inside(stage.locks):
            assert left_to_a_child(stage.locks, lease) == []
        assert lease.held


@FORKS
def test_without_beginning_anew_a_fork_child_would_have_all_of_it(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control."""
    monkeypatch.setattr("otel_memoir.locks.forks.begin_anew", lambda engine: None)
    with Stage("threads", on_deadlock="report") as stage:
        lease = busy_manager(stage)
        with somebody_inside(stage.locks):
            left = left_to_a_child(stage.locks, lease)
        assert left == ["the mutex", "the lease", "the table", "who waits", "verdicts"]


@FORKS
def test_a_fork_child_can_lock() -> None:
    """The same keys, and what it inherited does not let go of them."""
    locks = LockManager()
    lease = locks.acquire("k")
    if (child := _fork()) == 0:
        code = 1
        try:
            signal.alarm(30)
            fresh = locks.acquire("k", timeout=0)
            lease.release()
            code = 0 if fresh.held else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert lease.held
    lease.release()


def _fork() -> int:
    import warnings

    with warnings.catch_warnings():
        # From 3.12 on, forking with threads warns; here it is what is tested.
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


class Terms:
    """Two threads, and leases of a second on a clock that the test sets."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.stage = Stage("threads", monotonic_ns=lambda: self.now_ns)


def test_a_lease_that_ran_out_is_fenced_and_its_holder_is_told() -> None:
    """The abandoned writer may still write: its token is too old for that."""
    terms = Terms()
    told: list[Lease] = []
    with terms.stage as stage:
        one, two = stage.actors(2)
        lease = one.acquire("k", ttl=1.0).get()
        lease.on_lost(told.append)
        terms.now_ns = 2 * 10**9
        fresh = two.acquire("k").get()
        assert fresh.fencing_token > lease.fencing_token
        assert told == [lease]
        with pytest.raises(LockLostError):
            lease.check()
        one.release(lease).get()
        assert fresh.held
        with pytest.raises(LockLostError):
            lease.heartbeat()


def test_without_a_term_a_lease_is_kept_however_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: also one with a term, if nobody looks whether it is over."""
    for ttl, expire in ((None, Judge.expire), (1.0, lambda *_: float("inf"))):
        monkeypatch.setattr(Judge, "expire", expire)
        terms = Terms()
        with terms.stage as stage:
            one, two = stage.actors(2)
            lease = one.acquire("k", ttl=ttl).get()
            terms.now_ns = 2 * 10**9
            assert isinstance(two.acquire("k", timeout=0.001).error(), LockTimeoutError)
            assert lease.held


def worked(terms: Terms, lease: Lease, beats: int) -> bool:
    """Work on, nine tenths of a term at a time; whether a rival had to wait all the while."""
    two = terms.stage.actor()
    for _ in range(beats):
        lease.heartbeat()
        terms.now_ns += 9 * 10**8
        rival = two.acquire("k", timeout=0.001)
        if not isinstance(rival.error(), LockTimeoutError):
            return False
    return True


def test_a_healthy_holder_keeps_its_lease_by_heartbeat_up_to_a_cap() -> None:
    """However long it works, and not for ever."""
    terms = Terms()
    with terms.stage as stage:
        lease = stage.actor().acquire("k", ttl=1.0, max_hold=5.0).get()
        assert worked(terms, lease, 5)
        assert lease.held and not worked(terms, lease, 2)
        assert not lease.held


def test_without_a_heartbeat_a_healthy_holder_would_lose_its_lease(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control."""
    monkeypatch.setattr("otel_memoir.locks.terms.renew", lambda engine, lease: None)
    terms = Terms()
    with terms.stage as stage:
        lease = stage.actor().acquire("k", ttl=1.0).get()
        assert not worked(terms, lease, 2)
        assert not lease.held


def test_a_reporter_that_takes_locks_itself_does_not_hang() -> None:
    """It is called when the mutex is free again, and from within it can come back."""
    with Stage("threads") as stage:
        one, two = stage.actors(2)
        engine = stage.locks._engine
        seen: list[bool] = []
        real = engine.on_verdict

        def report(verdict: Any) -> None:
            seen.append(engine.inside())
            with stage.locks.hold("report"):
                real(verdict)

        engine.on_verdict = report
        one.acquire("a").get()
        two.acquire("b").get()
        one.acquire("b")
        stage.sleeps(one)
        assert isinstance(two.acquire("a").error(), DeadlockError)
        assert seen == [False]


def test_a_reporter_that_fails_breaks_no_hand_over() -> None:
    """What it raises is said, and the victim is woken."""
    with Stage("threads") as stage:
        one, two = stage.actors(2)

        def report(verdict: Any) -> None:
            raise RuntimeError("broken")

        stage.locks._engine.on_verdict = report
        one.acquire("a").get()
        two.acquire("b").get()
        one.acquire("b", priority=1)
        stage.sleeps(one)
        assert isinstance(two.acquire("a").error(), DeadlockError)


# -- cancellation at every await -------------------------------------------------


class CancelledAt:
    """A coroutine into which a cancellation comes where it is suspended for the n-th time."""

    def __init__(self, coroutine: Coroutine[Any, Any, None], number: int) -> None:
        self._coroutine, self._number = coroutine, number
        self.suspended = 0

    def __await__(self) -> Generator[Any, Any, None]:
        steps = self._coroutine.__await__()
        try:
            while True:
                waits_for = steps.send(None)
                self.suspended += 1
                while self.suspended == self._number:
                    waits_for = steps.throw(asyncio.CancelledError())
                    self.suspended += 1
                yield waits_for
        except StopIteration:
            return


async def _scenario(locks: LockManager) -> None:
    async with locks.hold("s/a", "shared") as lease:
        await lease.upgrade_async()
        async with locks.hold_all({"s/b": "exclusive", "t": "update"}):
            await asyncio.sleep(0)
    lease = await locks.acquire_async("s")
    lease.release()


async def _rival(locks: LockManager, key: str, mode: str, until: asyncio.Event) -> None:
    async with locks.hold(key, mode):
        await until.wait()


async def _cancelled_at(locks: LockManager, number: int) -> int:
    go = asyncio.Event()
    locks.on_block(lambda unit, holders: go.set())
    rivals = [
        asyncio.create_task(_rival(locks, key, mode, go))
        for key, mode in (("s/a", "shared"), ("t", "exclusive"), ("s/c", "exclusive"))
    ]
    await _turns()
    injected = CancelledAt(_scenario(locks), number)
    with contextlib.suppress(asyncio.CancelledError):
        await injected
    await asyncio.wait_for(asyncio.gather(*rivals), PATIENCE_S)
    assert empty(locks), number
    async with locks.hold("s", timeout=0), locks.hold("t", timeout=0):
        pass
    return injected.suspended


def test_a_cancellation_at_any_await_leaves_nothing_held_and_nobody_waiting() -> None:
    """One after the other, until the scenario ends before it comes."""
    most = asyncio.run(_cancelled_at(LockManager(), -1))
    assert most >= 2
    for number in range(1, most + 1):
        asyncio.run(_cancelled_at(LockManager(), number))


def test_units_that_ended_and_keys_that_are_free_leave_nothing_behind(
    locks: LockManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A manager may live as long as its process, and see a key for each record."""
    monkeypatch.setattr("otel_memoir.locks.table.IDLE_MAX", 50)
    locks._engine.table._limit = 50

    async def main() -> None:
        await asyncio.gather(*(_hold(locks, f"store/{number}") for number in range(300)))

    asyncio.run(main())
    threads = [
        threading.Thread(target=lambda key=f"t/{number}": locks.acquire(key, "shared").release())
        for number in range(20)
    ]
    for thread in threads:
        thread.start()
        thread.join(PATIENCE_S)
    engine = locks._engine
    assert len(engine.table.entries) <= 51
    locks.acquire("k").release()
    engine.notice_deaths()
    assert [unit.kind for unit in engine.roll.living()] == ["thread"]


def test_a_key_that_is_held_or_still_to_be_taken_is_not_forgotten(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two entries of one key would be two locks."""
    with Stage("threads") as stage:
        one, two, three = stage.actors(3)
        stage.locks._engine.table._limit = 1
        monkeypatch.setattr("otel_memoir.locks.table.IDLE_MAX", 1)
        hurdle = one.acquire("a").get()
        asked = two.acquire_all({"a": "exclusive", "z/1": "exclusive"})
        stage.sleeps(two)
        for number in range(10):
            one.release(one.acquire(f"n/{number}").get()).get()
        other = three.acquire("z/1").get()
        one.release(hurdle).get()
        assert len(stage.locks._engine.table.waits()) == 1
        three.release(other).get()
        assert asked.get().held


# -- between two steps of a wait, by hand ------------------------------------------


def at(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, step: Any) -> None:
    """Have something done just before a method runs for the first time."""
    real, left = getattr(owner, name), [step]

    def method(self: Any, *args: Any) -> Any:
        if left:
            left.pop()()
        return real(self, *args)

    monkeypatch.setattr(owner, name, method)


def held_elsewhere(locks: LockManager) -> Any:
    """A lock that another thread holds; returns what lets it go."""
    has, go = threading.Event(), threading.Event()

    def hold() -> None:
        with locks.hold("k"):
            has.set()
            assert go.wait(PATIENCE_S)

    thread = threading.Thread(target=hold)
    thread.start()
    assert has.wait(PATIENCE_S)

    def let_go() -> None:
        go.set()
        thread.join(PATIENCE_S)

    return let_go


def test_a_hand_over_before_the_waiter_sleeps_is_not_lost(
    locks: LockManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the queue and the gate."""
    let_go = held_elsewhere(locks)
    at(monkeypatch, parking.ThreadParker, "park", let_go)
    with locks.hold("k") as lease:
        assert lease.held


def test_a_hand_over_between_the_end_of_the_sleep_and_the_look_at_the_clock_counts(
    locks: LockManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its time is over, but the lock came first."""
    let_go = held_elsewhere(locks)
    real = parking.look
    looks: list[int] = []

    def look(engine: Engine, wait: Any) -> float:
        looks.append(1)
        if len(looks) == 2:
            let_go()
        return real(engine, wait)

    monkeypatch.setattr(parking, "look", look)
    monkeypatch.setattr(parking.ThreadParker, "park", lambda self, timeout: None)
    with locks.hold("k", timeout=0.001) as lease:
        assert lease.held


def test_a_lock_that_is_let_go_before_the_request_queues_is_had_at_once(
    locks: LockManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the first try and the queue."""
    let_go = held_elsewhere(locks)
    at(monkeypatch, Engine, "enter", let_go)
    with locks.hold("k") as lease:
        assert lease.held


@pytest.mark.parametrize("how", ["thread", "task"])
def test_who_wakes_in_the_middle_of_a_grant_does_not_go_on_before_it_is_whole(
    how: str, locks: LockManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """He who looks by himself may see the state word before the rest is written."""
    has, go, went_on = threading.Event(), threading.Event(), threading.Event()
    end = Engine.end

    def end_slowly(self: Engine, wait: Any, state: str, effects: Any) -> None:
        end(self, wait, state, effects)
        if state is states.GRANTED and wait.slept:
            wait.parker.wake()
            went_on.wait(0.2)

    def hold() -> None:
        with locks.hold("k"):
            has.set()
            assert go.wait(PATIENCE_S)

    def seen(lease: Lease) -> bool:
        went_on.set()
        return lease.held and lease.fencing_token > 0

    async def ask() -> bool:
        async with locks.hold("k") as lease:
            return seen(lease)

    thread = threading.Thread(target=hold)
    thread.start()
    assert has.wait(PATIENCE_S)
    monkeypatch.setattr(Engine, "end", end_slowly)
    locks.on_block(lambda unit, holders: go.set())
    if how == "task":
        assert asyncio.run(ask())
    else:
        with locks.hold("k") as lease:
            assert seen(lease)
    thread.join(PATIENCE_S)
    assert empty(locks)


def test_waiting_tasks_do_not_block_their_loop() -> None:
    """Not for a moment: blockbuster would raise."""
    from blockbuster import blockbuster_ctx

    locks = LockManager()

    async def main() -> None:
        first = await locks.acquire_async("k")
        others = [asyncio.create_task(_hold(locks, "k")) for _ in range(3)]
        await _turns()
        first.release()
        await asyncio.gather(*others)
        with pytest.raises(LockTimeoutError):
            async with locks.hold("k"):
                await asyncio.create_task(_impatient(locks))

    with blockbuster_ctx():
        asyncio.run(main())


def test_a_synchronous_wait_on_a_loop_is_seen_by_blockbuster(locks: LockManager) -> None:
    """Negative control: that one blocks the loop, and is the caller's choice."""
    from blockbuster import BlockingError, blockbuster_ctx

    let_go = held_elsewhere(locks)

    async def main() -> None:
        with blockbuster_ctx(), pytest.raises(BlockingError), locks.hold("k"):
            pass

    asyncio.run(main())
    let_go()
    assert empty(locks)


async def _impatient(locks: LockManager) -> None:
    async with locks.hold("k", timeout=0.001):
        pass


# -- gevent ----------------------------------------------------------------------

GREENLETS = """
from gevent import monkey; monkey.patch_all()
import gevent
from gevent.event import Event
from otel_memoir.errors import DeadlockError, OwnerDiedError
from otel_memoir.locks import LockManager
locks, said = LockManager(), []
has, waits = {"a": Event(), "b": Event()}, Event()
locks.on_block(lambda unit, holders: waits.set())
def both(one, other):
    try:
        with locks.hold(one):
            has[one].set(); has[other].wait(30)
            with locks.hold(other): said.append("both")
    except DeadlockError: said.append("deadlock")
gevent.joinall([gevent.spawn(both, "a", "b"), gevent.spawn(both, "b", "a")], timeout=30)
dying = gevent.spawn(lambda: locks.acquire("d") and None)
dying.join(30)
del dying
def ask():
    try: locks.acquire("d", timeout=30)
    except OwnerDiedError: said.append("died")
gevent.spawn(ask).join(30)
print(*said)
"""


def test_under_gevents_patching_a_greenlet_is_a_unit() -> None:
    """It waits without blocking the others, deadlocks are found, and its death is noticed."""
    pytest.importorskip("gevent", reason="needs gevent: pip install gevent")
    done = subprocess.run(
        [sys.executable, "-c", GREENLETS], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.stdout.split() == ["deadlock", "both", "died"], done.stderr
