"""The lock manager against a plain reference, and against an independent finder of circles."""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from locks.model import CrowdedMachine, LockMachine
from otel_memoir.locks import queueing
from otel_memoir.locks.core import Core
from otel_memoir.locks.graph import Graph
from otel_memoir.locks.parts import Entry

EXAMPLES = int(os.environ.get("MEMOIR_TEST_EXAMPLES", "40"))


def profile(examples: int) -> settings:
    """The same examples in each run; more by the environment."""
    return settings(
        max_examples=examples, stateful_step_count=40, deadline=None, database=None,
        derandomize=True, suppress_health_check=list(HealthCheck),
        phases=(Phase.generate,), print_blob=False,
    )  # fmt: skip


def test_no_step_of_any_unit_breaks_what_the_reference_says() -> None:
    """No conflict, no lost wake-up, no circle that lasts, nothing half taken."""
    seen: list[str] = []

    class Watched(LockMachine):
        def teardown(self) -> None:
            seen.extend(self.verdicts)

    run_state_machine_as_test(Watched, settings=profile(EXAMPLES))
    assert seen.count("circle") > 10, "the examples hardly ever closed a circle"
    assert "join refused" in seen or EXAMPLES < 120, "nobody who joined was refused"


def test_a_queue_that_was_reordered_breaks_nothing_either() -> None:
    """Few keys and many readers: circles with soft edges."""
    seen: list[str] = []

    class Watched(CrowdedMachine):
        def teardown(self) -> None:
            seen.extend(self.verdicts)

    run_state_machine_as_test(Watched, settings=profile(EXAMPLES))
    assert seen.count("reordered") > 3, "the examples hardly ever reordered a queue"


def without_soft_edges(patch: pytest.MonkeyPatch) -> None:
    """The graph knows holders only."""
    real = Graph._lock_edges

    def lock_edges(wait: Any, found: list[Any]) -> None:
        every: list[Any] = []
        real(wait, every)
        found += [edge for edge in every if edge.kind != "queue"]

    patch.setattr(Graph, "_lock_edges", staticmethod(lock_edges))


def without_serving_after_a_timeout(patch: pytest.MonkeyPatch) -> None:
    """Who gives up serves nobody behind it."""
    real = Core.fail

    def fail(self: Core, wait: Any, state: str, error: Any, effects: Any) -> bool:
        dirty = list(effects.dirty)
        done = real(self, wait, state, error, effects)
        effects.dirty[:] = dirty
        return done

    patch.setattr(Core, "fail", fail)


def without_the_queue(patch: pytest.MonkeyPatch) -> None:
    """Newcomers are granted whatever is held."""
    patch.setattr(queueing, "may_pass", lambda wait, entry, mode: True)


def without_taking_back(patch: pytest.MonkeyPatch) -> None:
    """What was taken of a request that failed stays."""
    patch.setattr(queueing, "take_back", lambda owner, entry, mode: None)


def without_a_check(patch: pytest.MonkeyPatch) -> None:
    """Nobody looks for circles."""
    patch.setattr("otel_memoir.locks.judge.Judge.resolve", lambda self, unit, effects: None)


def without_an_upgrade_lane(patch: pytest.MonkeyPatch) -> None:
    """Upgrades queue at the tail."""
    real = queueing.order_of

    def order_of(wait: Any, entry: Entry, aging_ns: int) -> Any:
        return (1, *real(wait, entry, aging_ns)[1:])

    patch.setattr(queueing, "order_of", order_of)
    patch.setattr(queueing, "may_pass", _as_a_newcomer)


def _as_a_newcomer(wait: Any, entry: Entry, mode: int) -> bool:
    return not entry.queue and not entry.total - entry.holders.get(wait.owner, 0)


@pytest.mark.parametrize("broken", [
    without_soft_edges, without_serving_after_a_timeout, without_the_queue, without_taking_back,
    without_a_check, without_an_upgrade_lane,
])  # fmt: skip
def test_the_model_sees_each_of_its_guarantees_broken(
    broken: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative controls of the test above."""
    broken(monkeypatch)
    with pytest.raises((AssertionError, KeyError)):
        run_state_machine_as_test(LockMachine, settings=profile(200))
