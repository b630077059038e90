"""The actions of the world in any order, chosen by hypothesis."""

from __future__ import annotations

import os
import sys
from collections import Counter
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from model.destination import REPLIES
from model.process import Process
from model.world import World

EXAMPLES = int(os.environ.get("MEMOIR_MODEL_EXAMPLES", "0"))
"""Above 0: a long run of so many examples, other ones each time. Else always the same few."""

STEPS = 30
PROCESSES_MAX = 3

seen: Counter[str] = Counter()
"""What a run did: examples, steps, the final states of records, the answers of requests."""

which = st.integers(0, PROCESSES_MAX - 1)


def profile(examples: int, *phases: Phase) -> settings:
    """Settings of a run; without ``phases`` it also shrinks what it finds."""
    return settings(
        max_examples=EXAMPLES or examples, stateful_step_count=STEPS, deadline=None,
        derandomize=not EXAMPLES, database=None, print_blob=False, report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck), phases=phases or tuple(Phase),
    )


def _some_live(machine: SpoolMachine) -> bool:
    return bool(machine.world.living)


class SpoolMachine(RuleBasedStateMachine):
    """Emitting, delivering, dying and failing, in any order."""

    world: World

    @initialize(
        durability=st.sampled_from(["power", "process", "batch"]),
        when_full=st.sampled_from(["refuse", "evict"]),
        expire_after_s=st.sampled_from([None, 60.0]),
        retain_s=st.sampled_from([20.0, 10**6]),
        retain_bytes_max=st.sampled_from([10**4, 10**6]),
    )
    def begin(self, **given: Any) -> None:
        """A directory, a destination, and one process."""
        seen["examples"] += 1
        self.world = World(**given)
        self.world.start()

    def process(self, index: int) -> Process:
        """One of the living."""
        return self.world.living[index % len(self.world.living)]

    # -- emitting -------------------------------------------------------------

    @precondition(_some_live)
    @rule(
        index=which, kind=st.sampled_from(["small", "small", "compressed", "big", "poison"]),
        count=st.integers(1, 5), severity=st.sampled_from([9, 9, 13]), on_loop=st.booleans(),
    )
    def emit(self, index: int, kind: str, count: int, severity: int, on_loop: bool) -> None:
        """Records that are accepted, or find no room."""
        process = self.process(index)
        for _ in range(count):
            if process in self.world.living:
                self.world.emit(process, kind, severity, on_loop=on_loop)

    @precondition(_some_live)
    @rule(index=which)
    def emit_too_large(self, index: int) -> None:
        """A record that is refused."""
        self.world.emit(self.process(index), "too large", 9, on_loop=False)

    @precondition(_some_live)
    @rule(index=which, on_loop=st.booleans())
    def intend(self, index: int, on_loop: bool) -> None:
        """A record that declares an intent."""
        self.world.intend(self.process(index), on_loop=on_loop)

    @precondition(_some_live)
    @rule(index=which, choice=st.integers(0, 3), on_loop=st.booleans())
    def conclude(self, index: int, choice: int, on_loop: bool) -> None:
        """The outcome of an intent, if the process has one that is open."""
        process = self.process(index)
        if found := self.world.intents.open_of(process.number):
            self.world.conclude(process, found[choice % len(found)], on_loop=on_loop)

    @precondition(_some_live)
    @rule(index=which, closes=st.booleans())
    def keep_up(self, index: int, closes: bool) -> None:
        """The writer wakes up, or the courier closes the open batch."""
        process = self.process(index)
        self.world.act(process, process.spool.close_batch if closes else process.write_once)

    # -- delivering -----------------------------------------------------------

    @precondition(_some_live)
    @rule(index=which, steps=st.integers(1, 6))
    def deliver(self, index: int, steps: int) -> None:
        """A courier's steps while the destination is well."""
        self._deliver(self.process(index), "ok", steps, True)

    @precondition(_some_live)
    @rule(
        index=which, reply=st.sampled_from([*REPLIES, "dies before", "dies after"]),
        answers_probe=st.booleans(), count=st.integers(0, 3), steps=st.integers(1, 3),
    )
    def deliver_to_trouble(
        self, index: int, reply: str, answers_probe: bool, count: int, steps: int
    ) -> None:
        """A courier's steps, each answered in one way of the outcome table."""
        process = self.process(index)
        self.emit(index, "small", count, 9, False)
        self._deliver(process, reply, steps, answers_probe)

    def _deliver(self, process: Process, reply: str, steps: int, answers_probe: bool) -> None:
        for _ in range(steps):
            if process in self.world.living:
                self.world.clock.advance(0.3)
                self.world.deliver(process, reply, answers_probe=answers_probe)

    @precondition(_some_live)
    @rule(
        index=which, records_max=st.integers(1, 4), bytes_max=st.sampled_from([2000, 20_000]),
        moves=st.booleans(),
    )
    def change(self, index: int, records_max: int, bytes_max: int, moves: bool) -> None:
        """Settings are changed while it runs."""
        self.world.change(
            self.process(index), moves=moves, request_records_max=records_max,
            request_bytes_max=bytes_max,
        )

    # -- failing --------------------------------------------------------------

    @precondition(_some_live)
    @rule(
        index=which, file=st.integers(0, 2),
        statement=st.sampled_from(["COMMIT", "COMMIT", "BEGIN", "UPDATE", "SAVEPOINT"]),
        error=st.sampled_from(["disk full", "io error", "killed"]), times=st.integers(1, 5),
        after=st.booleans(),
    )
    def break_disk(
        self, index: int, file: int, statement: str, error: str, times: int, after: bool
    ) -> None:
        """The next such statement fails: once; or for a while, where the disk is full.

        A COMMIT can fail, or the process die in it, before or after it took effect.
        """
        after = after and statement == "COMMIT" and error != "disk full"
        times = times if error == "disk full" else 1
        self.world.break_disk(self.process(index), file, statement, error, times, after)

    @precondition(_some_live)
    @rule(index=which)
    def kill(self, index: int) -> None:
        """SIGKILL."""
        self.world.kill(self.process(index))

    @precondition(_some_live)
    @rule(index=which, timeout=st.sampled_from([0.0, 0.5]))
    def shut_down(self, index: int, timeout: float) -> None:
        """A clean end, with or without time to deliver."""
        self.world.shut_down(self.process(index), timeout)

    @precondition(lambda self: len(self.world.living) < PROCESSES_MAX)
    @rule()
    def start(self) -> None:
        """One more process on the same directory, which adopts what the dead left."""
        self.world.start()

    # -- time, and people -----------------------------------------------------

    @rule(seconds=st.sampled_from([0.05, 1.0, 6.0, 30.0, 70.0]))
    def wait(self, seconds: float) -> None:
        """Time passes."""
        self.world.clock.advance(seconds)

    @rule(seconds=st.sampled_from([-86_400.0, -60.0, 60.0, 86_400.0]))
    def jump(self, seconds: float) -> None:
        """The wall clock is set; a courier has a step at least each second, so it notices."""
        self.world.jump(seconds)

    @precondition(_some_live)
    @rule(index=which)
    def go_back(self, index: int) -> None:
        """The clock of the stamps has to go back."""
        self.world.go_back(self.process(index))

    @precondition(lambda self: self.world.free_quarantined())
    @rule(choice=st.integers(0, 3), discards=st.booleans())
    def operate(self, choice: int, discards: bool) -> None:
        """An operator replays or discards a batch in quarantine."""
        self.world.operate(choice, discards=discards)

    # -- what must be true ----------------------------------------------------

    @invariant()
    def every_record_is_accounted_for(self) -> None:
        """All of ``World.check``."""
        if hasattr(self, "world"):
            seen["steps"] += 1
            self.world.check()

    def teardown(self) -> None:
        """After a calm time all is delivered, or named."""
        if not hasattr(self, "world"):
            return
        try:
            if sys.exc_info()[0] is None:
                self.world.calm()
        finally:
            seen.update(self.world.summary())
            self.world.end()
