"""Locks: what a free one costs, and what finding a deadlock costs.

A free lock is held against ``threading.Lock``, which has no name, no owner, no fence and no
ancestors; a check for a deadlock against handing a thread the lock that it then would wait for.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable

from bench_locks_peers import peers
from common import PATIENCE_S, Row, Scale, row
from opentelemetry.context import get_current

from otel_memoir.locks import LockManager
from otel_memoir.locks.modes import X
from otel_memoir.locks.parts import Claim, Unit, Wait

HOLDS = 5_000
CHECKS = 300
HAND_OFFS = 500
WHERE = (compile("0", "bench", "eval"), 0)


def plain_us() -> float:
    """``with threading.Lock()``, in microseconds."""
    lock = threading.Lock()
    begin = time.perf_counter_ns()
    for _ in range(HOLDS):
        with lock:
            pass
    return (time.perf_counter_ns() - begin) / HOLDS / 1000


def hold_us(locks: LockManager, key: str) -> float:
    """``with locks.hold(key)``, in microseconds."""
    begin = time.perf_counter_ns()
    for _ in range(HOLDS):
        with locks.hold(key):
            pass
    return (time.perf_counter_ns() - begin) / HOLDS / 1000


def hand_off_us() -> float:
    """One thread wakes another that waits at a gate, and is woken by it: half of that."""
    here, there = threading.Semaphore(0), threading.Semaphore(0)

    def answer() -> None:
        for _ in range(HAND_OFFS):
            there.acquire(timeout=PATIENCE_S)
            here.release()

    thread = threading.Thread(target=answer)
    thread.start()
    begin = time.perf_counter_ns()
    for _ in range(HAND_OFFS):
        there.release()
        here.acquire(timeout=PATIENCE_S)
    took_ns = time.perf_counter_ns() - begin
    thread.join(PATIENCE_S)
    return took_ns / HAND_OFFS / 2 / 1000


class _NoParker:
    def wake(self) -> bool:
        return True


def chain(length: int) -> Callable[[], float]:
    """Units each of which waits for the next; returns a measurement of the check of the first."""
    locks = LockManager()
    engine = locks._engine
    units = [Unit("unit", str(number)) for number in range(length + 1)]
    for number, unit in enumerate(units):
        engine.take(_lease(f"k{number}"), unit) or engine.enter(
            _wait(f"k{number}", unit)
        )
    for number, unit in reversed(list(enumerate(units[:-1]))):
        engine.enter(_wait(f"k{number + 1}", unit))
    graph, first = engine.graph, units[0]

    def check_us() -> float:
        begin = time.perf_counter_ns()
        for _ in range(CHECKS):
            graph.cycle(first)
        return (time.perf_counter_ns() - begin) / CHECKS / 1000

    return check_us


def _lease(key: str) -> Claim:
    lease = Claim(key, X, None, 0, WHERE)
    lease.context = get_current()
    return lease


def _wait(key: str, unit: Unit) -> Wait:
    return Wait(_lease(key), (), unit, unit, _NoParker(), False)


def free_locks(scale: Scale) -> list[Row]:
    """A free lock, ours to the standard library's."""
    locks = LockManager()
    rounds = [
        (plain_us(), hold_us(locks, "name"), hold_us(locks, "store/collection/record"))
        for _ in range(scale.rounds)
    ]
    plain = f"{statistics.median(one[0] for one in rounds):.3f} µs"
    return [
        row(
            f"uncontended `with locks.hold(name)`, {what}",
            f"{statistics.median(one[at] for one in rounds):.2f} µs",
            f"`with threading.Lock()` {plain}", [one[at] / one[0] for one in rounds], target,
        )
        for at, what, target in ((1, "flat", "<= 15"), (2, "three levels", "<= 30"))
    ]  # fmt: skip


def checks(scale: Scale) -> list[Row]:
    """The check for a deadlock, to a hand-off between two threads."""
    lengths = (10, 100)
    chains = [chain(length) for length in lengths]
    rounds = [
        (hand_off_us(), *(check() for check in chains)) for _ in range(scale.rounds)
    ]
    theirs = f"thread hand-off {statistics.median(one[0] for one in rounds):.1f} µs"
    return [
        row(
            f"deadlock check, chain of {length}",
            f"{statistics.median(one[at] for one in rounds):.1f} µs", theirs,
            [one[at] / one[0] for one in rounds], target,
        )
        for at, (length, target) in enumerate(zip(lengths, ("<= 0.2", "<= 1")), start=1)
    ]  # fmt: skip


def locks(scale: Scale) -> list[Row]:
    """All rows."""
    return [*free_locks(scale), *checks(scale), *peers(scale)]


BENCHES: dict[str, Callable[[Scale], list[Row]]] = {"locks": locks}
