"""Deadlocks: soft ones, foreign ones, who is refused, policies, and those that never happened."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from typing import Any

import networkx
import pytest

from locks.actors import PATIENCE_S, Answer, Stage
from otel_memoir.errors import DeadlockError, LockOrderError, LockTimeoutError
from otel_memoir.locks import DeadlockReport, LockManager, Participant, foreign
from otel_memoir.locks.graph import Graph
from otel_memoir.locks.judge import REFUSALS_MAX, Judge, Policy
from otel_memoir.locks.parking import abandon


@pytest.fixture(autouse=True)
def nobody_looks_by_himself(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wake-up that is lost hangs a test, and is not made good by the waiter's patience."""
    monkeypatch.setattr("otel_memoir.locks.parking.PATIENCE_S", 3600.0)


@pytest.fixture
def stage() -> Iterator[Stage]:
    """Threads and tasks."""
    with Stage("mixed") as stage:
        yield stage


def soft_circle(stage: Stage) -> tuple[Any, Any, Any]:
    """A reads k; B queues to write it; C reads k behind B, and A wants what C has."""
    one, two, three = stage.actors(3)
    one.acquire("k", "shared").get()
    three.acquire("j").get()
    writer = two.acquire("k")
    stage.sleeps(two)
    reader = three.acquire("k", "shared")
    stage.sleeps(three)
    return writer, reader, one.acquire("j")


def test_a_circle_with_a_soft_edge_is_undone_by_reordering_and_nobody_is_refused(
    stage: Stage
) -> None:
    """The reader goes ahead of the writer, beside whom it can read."""
    writer, reader, closing = soft_circle(stage)
    assert reader.get().held
    assert [one.resolution for one in stage.locks.deadlocks()] == ["reordered"]
    assert not writer.done() and not closing.done()


def test_without_reordering_somebody_is_refused(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control."""
    monkeypatch.setattr(Judge, "_let_ahead", lambda *_: False)
    writer, _, _ = soft_circle(stage)
    assert isinstance(writer.error(), DeadlockError)
    assert [one.resolution for one in stage.locks.deadlocks()] == ["refused"]


def test_reordering_leaves_no_circle_of_others_behind() -> None:
    """One that goes ahead may close a circle in which the unit that asked has no part."""
    with Stage("threads") as stage:
        reader, writer, middle, second, last = stage.actors(5)
        locks, declared = stage.locks, list[Any]()

        def declare(actor: Any, target: Any) -> None:
            declared.append(locks.waiting_for(target.thread))
            actor.do(declared[-1].__enter__).get()

        middle.acquire("k/1").get()
        declare(writer, last)
        reader.acquire("j", "shared").get()
        writer.acquire("j")
        stage.sleeps(writer)
        behind = second.acquire("j", "shared")
        stage.sleeps(second)
        declare(middle, second)
        middle.acquire("j/2")
        stage.sleeps(middle)
        asked = last.acquire("k/1", "shared", timeout=3600.0)
        wait((behind, asked), PATIENCE_S, FIRST_COMPLETED)
        arrows = locks.snapshot().graph
        assert networkx.is_directed_acyclic_graph(
            networkx.DiGraph([(one.unit, one.target) for one in arrows])
        )


def ring(stage: Stage, priorities: tuple[int, ...], keys: str = "abcdefgh") -> list[Any]:
    """Units each of which holds a key and asks for the next one's."""
    actors = stage.actors(len(priorities))
    for actor, key in zip(actors, keys):
        actor.acquire(key).get()
    answers = []
    for at, (actor, priority) in enumerate(zip(actors, priorities)):
        answers.append(actor.acquire(keys[(at + 1) % len(actors)], priority=priority))
        if at < len(actors) - 1:
            stage.sleeps(actor)
    return [actors, answers]


def test_the_unit_of_the_lowest_priority_is_refused(stage: Stage) -> None:
    """Whoever closed the circle."""
    _, answers = ring(stage, (5, 1, 5))
    assert isinstance(answers[1].error(), DeadlockError)


def test_of_equals_the_one_that_holds_least_and_then_the_youngest_is_refused(
    stage: Stage
) -> None:
    """The youngest is the one whose oldest lease is newest."""
    _, answers = ring(stage, (0, 0, 0))
    error = answers[2].error()
    assert isinstance(error, DeadlockError)
    assert len(error.report.participants) == 3


def test_the_error_tells_the_whole_circle(stage: Stage) -> None:
    """Key, mode, unit, where it waits and where it acquired what."""
    actors, answers = ring(stage, (1, 1, 0))
    report = answers[2].error().report
    assert set(report.units) == {actor.unit for actor in actors}
    for one in report.participants:
        assert one.mode == "exclusive" and one.waits_for == "lock"
        assert one.held[0].mode == "exclusive" and one.held[0].fencing_token > 0
        assert "actors.py:" in one.waiting_at and "actors.py:" in one.held[0].acquired_at
    assert report.victim.unit == actors[2].unit


def test_the_same_unit_is_not_refused_for_ever(stage: Stage) -> None:
    """After a few times the other one is, whatever the priorities."""
    weak, strong = stage.actors(2)
    refused = []
    for _ in range(REFUSALS_MAX + 1):
        mine, other = weak.acquire("a").get(), strong.acquire("b").get()
        asked = strong.acquire("a", priority=9)
        stage.sleeps(strong)
        closing = weak.acquire("b")
        wait((asked, closing), PATIENCE_S, FIRST_COMPLETED)
        pairs = [(weak, closing, mine), (strong, asked, other)]
        pairs.sort(key=lambda one: not one[1].done())
        (loser, lost, kept), (winner, won, had) = pairs
        assert isinstance(lost.error(), DeadlockError)
        refused.append(loser.unit)
        loser.release(kept).get()
        winner.release(won.get()).get()
        winner.release(had).get()
    assert weak.unit in refused and strong.unit in refused


def test_only_reporting_lets_timeouts_decide() -> None:
    """And reports the circle once, though each further wait is checked."""
    with Stage("threads", on_deadlock="report") as stage:
        one, two, three = stage.actors(3)
        first = one.acquire("a").get()
        two.acquire("b").get()
        lasting = one.acquire("b")
        stage.sleeps(one)
        error = two.acquire("a", timeout=0.05).error()
        assert isinstance(error, LockTimeoutError)
        assert isinstance(three.acquire("a", timeout=0.01).error(), LockTimeoutError)
        (report,) = stage.locks.deadlocks()
        assert report.resolution == "reported" and report.victim is None
        assert any(unit.resolves_by_timeout for unit in report.participants)
        again = two.acquire("a", timeout=0.05)
        assert isinstance(again.error(), LockTimeoutError)
        assert len(stage.locks.deadlocks()) == 2, "another circle of the same units"
        two.end()
        assert lasting.error() is not None
        one.release(first).get()


# -- waits that are no locks ---------------------------------------------------


def test_joining_a_thread_that_waits_for_what_the_joiner_holds_is_a_deadlock() -> None:
    """The edge that no lock manager sees by itself."""
    with Stage("threads") as stage:
        one, two = stage.actors(2)
        lease = one.acquire("k").get()
        asked = two.acquire("k")
        stage.sleeps(two)
        thread = two.thread  # type: ignore[union-attr]
        closing = one.do(lambda: stage.locks.join(thread))
        assert isinstance(asked.error(), DeadlockError)
        two.end()
        closing.get()
        one.release(lease).get()


def test_awaiting_a_task_that_asks_for_what_the_awaiter_holds_is_a_deadlock() -> None:
    """Declared by ``waiting_for``."""
    locks = LockManager()

    async def child() -> None:
        async with locks.hold("k"):
            pass

    async def main() -> None:
        async with locks.hold("k"):
            task = asyncio.create_task(child())
            with locks.waiting_for(task):
                await task

    with pytest.raises(DeadlockError) as caught:
        asyncio.run(main())
    assert {one.waits_for for one in caught.value.report.participants} == {"lock", "task"}


def test_units_that_wait_for_each_other_without_any_lock_are_refused_too(stage: Stage) -> None:
    """Then there is no wait for a lock to end: the last to wait is refused."""
    with Stage("threads") as threads:
        one, two = threads.actors(2)
        entered = threading.Event()
        left = threading.Event()

        def first() -> None:
            with threads.locks.waiting_for(two.thread):  # type: ignore[union-attr]
                entered.set()
                assert left.wait(PATIENCE_S)

        waits = one.do(first)
        assert entered.wait(PATIENCE_S)

        def second() -> None:
            with threads.locks.waiting_for(one.thread):  # type: ignore[union-attr]
                pass

        assert isinstance(two.do(second).error(), DeadlockError)
        left.set()
        waits.get()


def test_a_pool_whose_workers_wait_for_what_the_submitter_holds_is_a_deadlock() -> None:
    """The next job would let it go, but no worker is left to begin it."""
    locks = LockManager()
    sleeping = threading.Event()
    locks.on_block(lambda unit, holders: sleeping.set())

    def greedy() -> None:
        with locks.hold("k"):
            pass

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1) as pool:
            async with locks.hold("k"):
                blocked = loop.run_in_executor(pool, greedy)
                assert await asyncio.to_thread(sleeping.wait, PATIENCE_S)
                await locks.run_in_executor(pool, int)
                with pytest.raises(DeadlockError):
                    await blocked

    asyncio.run(main())


def test_a_pool_with_a_free_worker_is_no_deadlock() -> None:
    """Negative control: one free worker is enough."""
    locks = LockManager()
    sleeping = threading.Event()
    locks.on_block(lambda unit, holders: sleeping.set())

    def greedy() -> None:
        with locks.hold("k"):
            pass

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(2) as pool:
            async with locks.hold("k"):
                blocked = loop.run_in_executor(pool, greedy)
                assert await asyncio.to_thread(sleeping.wait, PATIENCE_S)
                assert await locks.run_in_executor(pool, lambda: 7) == 7
            await blocked

    asyncio.run(main())
    assert locks.deadlocks() == ()


# -- acting for another --------------------------------------------------------


def test_what_a_bound_function_locks_belongs_to_who_bound_it() -> None:
    """In an executor: it does not wait for its own caller."""
    locks = LockManager()

    def inner() -> int:
        with locks.hold("k", timeout=0) as lease:
            return lease.fencing_token

    async def main() -> None:
        async with locks.hold("k") as lease:
            assert await locks.run_in_executor(None, inner) > lease.fencing_token
            async with asyncio.timeout(PATIENCE_S) if hasattr(asyncio, "timeout") else _nothing():
                await asyncio.create_task(locks.bind(_hold)(locks))
            with pytest.raises(LockTimeoutError):
                await asyncio.create_task(_hold(locks))

    asyncio.run(main())


class _nothing:  # noqa: N801 - stands where asyncio.timeout would
    async def __aenter__(self) -> None: ...

    async def __aexit__(self, *_: object) -> None: ...


async def _hold(locks: LockManager) -> None:
    async with locks.hold("k", timeout=0):
        pass


def test_an_owner_of_whose_crew_one_is_free_is_not_stuck() -> None:
    """A circle that is no knot: the other of the crew will let go."""
    with Stage("threads") as stage:
        one, helper, other = stage.actors(3)
        bound: Callable[..., Any] = one.do(
            lambda: stage.locks.bind(lambda: stage.locks.acquire("b"))
        ).get()
        mine = one.acquire("a").get()
        theirs = other.acquire("b").get()
        helped = helper.do(bound)
        stage.sleeps(helper)
        asked = other.acquire("a")
        stage.sleeps(other)
        assert stage.locks.deadlocks() == ()
        one.release(mine).get()
        other.release(asked.get()).get()
        other.release(theirs).get()
        one.release(helped.get()).get()


def test_an_owner_all_of_whose_crew_waits_is_stuck() -> None:
    """Then it is a knot."""
    with Stage("threads") as stage:
        one, helper, other = stage.actors(3)
        bound: Callable[..., Any] = one.do(
            lambda: stage.locks.bind(lambda: stage.locks.acquire("b"))
        ).get()
        one.acquire("a").get()
        other.acquire("b").get()
        helped = helper.do(bound)
        stage.sleeps(helper)
        asked = other.acquire("a")
        stage.sleeps(other)
        thread = helper.thread  # type: ignore[union-attr]
        joining = one.do(lambda: stage.locks.join(thread, 0.0))
        assert isinstance(asked.error(), DeadlockError)
        joining.get()
        assert not helped.done()


def test_one_of_a_crew_goes_ahead_of_the_queue_when_its_owner_gets_the_key() -> None:
    """What it queued for has become a conversion, and it is served at once."""
    with Stage("threads") as stage:
        holder, one, writer, helper = stage.actors(4)
        bound: Callable[..., Any] = one.do(
            lambda: stage.locks.bind(lambda: stage.locks.acquire("k", "shared"))
        ).get()
        lease = holder.acquire("k").get()
        mine = one.acquire("k", "shared")
        stage.sleeps(one)
        writing = writer.acquire("k")
        stage.sleeps(writer)
        helped = helper.do(bound)
        stage.sleeps(helper)
        holder.release(lease).get()
        assert mine.get().held and helped.get().held
        assert not writing.done()


# -- circles that are closed though nobody begins to wait -----------------------


def test_a_helper_that_leaves_closes_a_circle() -> None:
    """As long as it acted for the owner, it could have let go for it."""
    with Stage("threads") as stage:
        one, helper, other = stage.actors(3)
        acting, done = threading.Event(), threading.Event()

        def help_out() -> None:
            acting.set()
            assert done.wait(PATIENCE_S)

        bound: Callable[..., Any] = one.do(lambda: stage.locks.bind(help_out)).get()
        mine, theirs = one.acquire("a").get(), other.acquire("b").get()
        helped = helper.do(bound)
        assert acting.wait(PATIENCE_S)
        first = one.acquire("b")
        stage.sleeps(one)
        second = other.acquire("a", priority=1)
        stage.sleeps(other)
        assert stage.locks.deadlocks() == ()
        done.set()
        helped.get()
        assert isinstance(first.error(), DeadlockError)
        one.release(mine).get()
        other.release(second.get()).get()
        other.release(theirs).get()


def test_a_helper_that_dies_closes_a_circle() -> None:
    """It never came back from what it did for the owner."""
    with Stage("threads") as stage:
        one, helper, other = stage.actors(3)
        one.acquire("a").get()
        other.acquire("b").get()
        acting = foreign.acting(stage.locks._engine, one.do(stage.locks._engine.roll.here).get())
        helper.do(acting.__enter__).get()
        first = one.acquire("b")
        stage.sleeps(one)
        other.acquire("a", priority=1)
        stage.sleeps(other)
        helper.end()
        assert isinstance(first.error(), DeadlockError)


def test_who_has_declared_a_wait_and_takes_one_more_lock_closes_a_circle() -> None:
    """It is granted at once, but is known to wait already: for one who waits for that lock."""
    with Stage("threads") as stage:
        reader, writer, joiner = stage.actors(3)
        reader.acquire("k", "shared").get()
        writing = writer.acquire("k/1")
        stage.sleeps(writer)
        locks, thread = stage.locks, writer.thread  # type: ignore[union-attr]

        def join() -> None:
            with locks.waiting_for(thread), locks.hold("k/1", "shared"), locks.hold("k", "shared"):
                assert isinstance(writing.error(), DeadlockError)

        joiner.do(join).get()


def test_one_of_a_crew_that_goes_ahead_closes_no_circle() -> None:
    """Whom it overtook may hold what one in its way waits for: then it stays behind."""
    with Stage("threads") as stage:
        writing, reading, reader, owner, helper = stage.actors(5)
        locks = stage.locks
        bound: Callable[..., Any] = owner.do(lambda: locks.bind(lambda: locks.acquire("k"))).get()
        below = writing.acquire("k/1").get()
        reading.acquire("k/2", "shared").get()
        wanted = reader.acquire("j").get()
        asked = reader.acquire("k", "shared")
        stage.sleeps(reader)
        helped = helper.do(bound)
        stage.sleeps(helper)
        last = reading.acquire("j")
        stage.sleeps(reading)
        owner.acquire("k/3", "shared").get()
        writing.release(below).get()
        reader.release(asked.get()).get()
        reader.release(wanted).get()
        assert last.get().held and not helped.done()


# -- policies, priorities ------------------------------------------------------


def younger_asks(policy: Policy) -> BaseException | None:
    """A younger owner asks for what an older one holds; what it is refused with, if it is."""
    with Stage("threads", policy=policy) as stage:
        old, young = stage.actors(2)
        old.acquire("a").get()
        young.acquire("b").get()
        return young.acquire("a", timeout=0.05).error()


def test_wait_die_refuses_the_younger_at_once() -> None:
    """It holds something and would wait for an older one."""
    error = younger_asks("wait-die")
    assert isinstance(error, DeadlockError) and error.report.reason == "wait-die"


def test_without_wait_die_the_younger_waits() -> None:
    """Negative control: the same steps."""
    error = younger_asks("detect")
    assert isinstance(error, LockTimeoutError)


def test_with_wait_die_the_older_waits() -> None:
    """For the younger, until that has ended."""
    with Stage("threads", policy="wait-die") as stage:
        old, young = stage.actors(2)
        old.acquire("a").get()
        mine = young.acquire("b").get()
        waits = old.acquire("b")
        stage.sleeps(old)
        young.release(mine).get()
        assert waits.get().held


def older_asks(policy: Policy) -> Answer:
    """An older owner asks for what a younger one holds; what the younger one's next wish ends with.

    When it has let go, the older one gets what it waits for.
    """
    with Stage("threads", policy=policy) as stage:
        old, young = stage.actors(2)
        old.acquire("a").get()
        mine = young.acquire("b").get()
        waits = old.acquire("b")
        stage.sleeps(old)
        wish = young.acquire("c")
        wish.error()
        young.release(mine).get()
        assert waits.get().held
        return wish


def test_wound_wait_refuses_the_younger_when_it_asks_next() -> None:
    """Python cannot interrupt it while it works."""
    error = older_asks("wound-wait").error()
    assert isinstance(error, DeadlockError) and error.report.reason == "wound-wait"


def test_without_wound_wait_the_younger_goes_on() -> None:
    """Negative control: the same steps."""
    assert older_asks("detect").error() is None


def test_who_was_wounded_and_let_go_of_all_is_not_refused_any_more() -> None:
    """The older one has what it waited for, and nobody gains by it."""
    with Stage("threads", policy="wound-wait") as stage:
        old, young = stage.actors(2)
        old.acquire("a").get()
        mine = young.acquire("b").get()
        waits = old.acquire("b")
        stage.sleeps(old)
        young.release(mine).get()
        assert waits.get().held
        assert young.acquire("c").get().held


def donated(stage: Stage) -> tuple[str, ...]:
    """Who queues for k, when an important unit waits for what the last of them holds."""
    holder, early, late, boss = stage.actors(4)
    holder.acquire("k").get()
    late.acquire("j").get()
    early.acquire("k")
    stage.sleeps(early)
    late.acquire("k")
    stage.sleeps(late)
    boss.acquire("j", priority=60)
    stage.sleeps(boss)
    queue = next(one for one in stage.locks.snapshot().keys if one.key == "k").waiters
    return tuple({early.unit: "early", late.unit: "late"}[one.unit] for one in queue)


def test_who_is_in_the_way_of_an_important_unit_queues_as_importantly(stage: Stage) -> None:
    """Priority donation."""
    assert donated(stage) == ("late", "early")


def test_without_donation_the_order_stays(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control."""
    monkeypatch.setattr("otel_memoir.locks.donation.Donations.donate", lambda *_: None)
    assert donated(stage) == ("early", "late")


def test_a_donation_is_taken_back_when_the_donor_gives_up(stage: Stage) -> None:
    """The order is what it was."""
    holder, early, late, boss = stage.actors(4)
    holder.acquire("k").get()
    late.acquire("j").get()
    early.acquire("k")
    stage.sleeps(early)
    late.acquire("k")
    stage.sleeps(late)
    assert isinstance(
        boss.acquire("j", priority=60, timeout=0.05).error(), LockTimeoutError
    )
    queue = next(one for one in stage.locks.snapshot().keys if one.key == "k").waiters
    assert [one.unit for one in queue] == [early.unit, late.unit]


def test_a_donation_that_would_close_a_circle_is_not_made(stage: Stage) -> None:
    """A writer asks first, and an important reader stands ahead of it all the same.

    A second holder of the key is in the way of the writer only, and waits for the reader. With
    what an important unit gives it, the writer would go ahead of that reader again.
    """
    writing, reading, reader, writer, boss = stage.actors(5)
    below = writing.acquire("k/1").get()
    reading.acquire("k/2", "shared").get()
    wanted = reader.acquire("j").get()
    writer.acquire("m").get()
    for actor, key, mode, priority in (
        (writer, "k", "exclusive", 0), (reader, "k", "shared", 60),
        (reading, "j", "exclusive", 0), (boss, "m", "exclusive", 60),
    ):  # fmt: skip
        actor.acquire(key, mode, priority=priority)
        stage.sleeps(actor)
    queue = next(one for one in stage.locks.snapshot().keys if one.key == "k").waiters
    assert [one.unit for one in queue] == [reader.unit, writer.unit]
    writing.release(below).get()
    reader.release(wanted).get()
    assert stage.locks.deadlocks() == ()


def test_what_was_donated_at_each_key_of_a_request_is_taken_back(stage: Stage) -> None:
    """It waited for one, got it, and waited for the next."""
    holder, first, second, boss = stage.actors(4)
    holder.acquire("x").get()
    mine = first.acquire("a").get()
    second.acquire("b").get()
    for actor in (first, second):
        actor.acquire("x")
        stage.sleeps(actor)
    wanted = boss.acquire_all({"a": "exclusive", "b": "exclusive"}, priority=60, timeout=3600.0)
    stage.sleeps(boss)
    queue = stage.locks._engine.table.entries["x"].queue
    assert [len(one.donors) for one in queue] == [1, 0]
    engine = stage.locks._engine
    engine.release(mine, None)  # it cannot: it waits
    assert [len(one.donors) for one in queue] == [1, 1]
    (asked,) = engine.table.entries["b"].queue
    abandon(engine, asked)
    assert wanted.error() is not None
    assert [len(one.donors) for one in queue] == [0, 0]


# -- retrying ------------------------------------------------------------------


def test_a_block_that_is_refused_is_done_again_until_it_is_done() -> None:
    """Two transfers in opposite directions, many times: all are done."""
    locks = LockManager()
    done: list[str] = []

    @locks.retrying
    def move(one: str, other: str) -> None:
        with locks.hold(one), locks.hold(other):
            done.append(one)

    threads = [
        threading.Thread(target=lambda pair=pair: [move(*pair) for _ in range(200)], daemon=True)
        for pair in (("a", "b"), ("b", "a"), ("b", "c"), ("c", "a"))
    ]  # fmt: skip
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert len(done) == 800


def test_retrying_inside_locks_is_left_to_whoever_took_them() -> None:
    """What is in hand would be kept while it waits."""
    with Stage("threads") as stage:
        one, two = stage.actors(2)
        locks = stage.locks

        def inner() -> None:
            with locks.hold("b"):
                pass

        def outer() -> None:
            with locks.hold("a"):
                locks.run(inner)

        held = two.acquire("b").get()
        running = one.do(outer)
        stage.sleeps(one)
        two_asks = two.acquire("a", priority=1)
        assert isinstance(running.error(), DeadlockError)
        two.release(two_asks.get()).get()
        two.release(held).get()


def test_an_async_block_is_done_again_too() -> None:
    """With the same age."""
    locks = LockManager()
    tries: list[int] = []

    async def main() -> None:
        met = asyncio.Event()

        async def one() -> None:
            tries.append(1)
            async with locks.hold("a"):
                met.set()
                await other_has.wait()
                async with locks.hold("b"):
                    pass

        async def two() -> None:
            async with locks.hold("b"):
                other_has.set()
                await met.wait()
                async with locks.hold("a", priority=1):
                    pass

        other_has = asyncio.Event()
        await asyncio.gather(locks.run(one), locks.run(two))

    asyncio.run(main())
    assert len(tries) == 2


# -- the lock-order graph -------------------------------------------------------


@pytest.fixture
def ordered() -> LockManager:
    """A manager that refuses what could deadlock."""
    return LockManager(order="raise")


def test_two_orders_of_two_classes_are_found_though_nobody_ever_waited(
    ordered: LockManager
) -> None:
    """One after the other, on one thread."""
    with ordered.hold("notes/1"), ordered.hold("profile/2"):
        pass
    with ordered.hold("profile/9"), pytest.raises(LockOrderError) as caught:
        ordered.hold("notes/8").__enter__()
    assert "test_locks_deadlocks.py" in str(caught.value)
    (finding,) = ordered.order_findings()
    assert finding.classes == ("notes/*", "profile/*")


def test_an_order_of_three_classes_is_found(ordered: LockManager) -> None:
    """The circle is closed by the third."""
    for one, other in (("a/1", "b/1"), ("b/1", "c/1")):
        with ordered.hold(one), ordered.hold(other):
            pass
    with ordered.hold("c/1"), pytest.raises(LockOrderError):
        ordered.hold("a/1").__enter__()


def test_within_a_class_the_canonical_order_is_the_rule(ordered: LockManager) -> None:
    """An edge from a class to itself says nothing."""
    with ordered.hold("a/1"), ordered.hold("a/2"):
        pass
    with ordered.hold("a/2"), pytest.raises(LockOrderError):
        ordered.hold("a/1").__enter__()


def test_one_order_everywhere_and_hold_all_and_trying_are_no_findings(
    ordered: LockManager
) -> None:
    """Negative control."""
    for _ in range(3):
        with ordered.hold("a/1"), ordered.hold("b/1"):
            pass
        with ordered.hold_all({"b/2": "exclusive", "a/2": "exclusive"}):
            pass
        with ordered.hold("b/1"), ordered.hold("a/1", timeout=0):
            pass
    assert ordered.order_findings() == ()


def test_a_dangerous_order_can_be_only_warned_of_and_once() -> None:
    """The lock is granted all the same."""
    locks = LockManager(order="warn")
    for _ in range(2):
        with locks.hold("a/1"), locks.hold("b/1"):
            pass
        with locks.hold("b/1"), locks.hold("a/1"):
            pass
    assert len(locks.order_findings()) == 1


# -- seams ---------------------------------------------------------------------


def test_a_wait_can_be_made_the_victim_from_outside(stage: Stage) -> None:
    """With a report that names a unit of another host."""
    one, two = stage.actors(2)
    one.acquire("k").get()
    asked = two.acquire("k")
    stage.sleeps(two)
    report = DeadlockReport(
        id="d1", resolution="refused", reason="remote",
        participants=(
            Participant(unit=two.unit, role="victim", waits_for="lock", key="k"),
            Participant(unit="thread:far/1.1", role="survivor", waits_for="lock", remote=True),
        ),
    )  # fmt: skip
    assert stage.locks.make_victim(two.unit, report)
    error = asked.error()
    assert isinstance(error, DeadlockError) and error.report == report
    assert not stage.locks.make_victim(two.unit, report)
    assert stage.locks.deadlocks() == (report,)


# -- cost ------------------------------------------------------------------------


@pytest.mark.parametrize("count", [8, 64])
def test_who_queues_behind_many_does_not_make_the_check_look_at_each_pair(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those ahead wait for nothing else, so only the holder can wait for him."""
    looked: list[object] = []
    edges = Graph.edges
    monkeypatch.setattr(
        Graph, "edges", lambda self, unit: looked.append(unit) or edges(self, unit)
    )

    async def hold(locks: LockManager) -> None:
        async with locks.hold("k"):
            await asyncio.sleep(0)

    async def main() -> None:
        locks = LockManager()
        await asyncio.gather(*(hold(locks) for _ in range(count)))

    asyncio.run(main())
    assert len(looked) <= 2 * count
