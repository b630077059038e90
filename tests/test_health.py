"""The verdict on health: pure, steady, told once, and never in anybody's way."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from clock_helpers import until
from otel_memoir.errors import SettingsError
from otel_memoir.observe import Health, HealthWatch, Signs, judge
from otel_memoir.observe.health_causes import RULES
from otel_memoir.sdk.pipeline import Pipeline
from otel_memoir.settings import Settings
from otel_memoir.spool import Hold
from otel_memoir.testing import Answer, ScriptedCollector
from test_cli import NOWHERE, record

SETTINGS = Settings()
GAP, HEALTH = "memoir.delivery.gap", "memoir.health.changed"


def ids(health: Health) -> list[str]:
    """The causes, by name."""
    return [cause.id for cause in health.causes]


def old(age_s: float, at_s: float = 0.0, **given: Any) -> Signs:
    """Signs of a backlog."""
    return Signs(
        pending=5, oldest_pending_age_s=age_s, monotonic_s=at_s, taken_unix_ns=round(at_s * 1e9),
        **given,
    )


def follow(ages: list[float], step_s: float, settings: Settings = SETTINGS) -> list[str]:
    """The states of a backlog that is looked at every ``step_s``."""
    health, states = Health(), []
    for number, age_s in enumerate(ages):
        health = judge(old(age_s, number * step_s), settings, health)
        states.append(health.state)
    return states


def test_without_a_sign_of_trouble_health_is_ok() -> None:
    """And says so without a cause."""
    assert judge(Signs(pending=10, waiting_bytes=10, waiting_bytes_max=100), SETTINGS) == Health()


def test_a_verdict_is_a_function_of_its_arguments() -> None:
    """The same signs give the same verdict, as often as one likes."""
    signs = old(400.0)
    assert judge(signs, SETTINGS) == judge(dataclasses.replace(signs), SETTINGS)


def test_the_worst_cause_comes_first_and_gives_the_state() -> None:
    """Whatever the order of the table."""
    health = judge(old(400.0, is_on_disk=False), SETTINGS)
    assert (health.state, ids(health)) == ("failing", ["disk.memory", "backlog.age"])
    assert (health.of("disk"), health.of("backlog"), health.of("clock")) == (
        "failing", "degraded", "ok"
    )


def test_a_cause_says_its_number_its_threshold_and_what_to_do() -> None:
    """So that nobody has to look for them."""
    (cause,) = judge(old(400.0, delivered_per_s=2.0), SETTINGS).causes
    assert (cause.value, cause.threshold, cause.state) == (400.0, 300.0, "degraded")
    assert cause.message.endswith("the oldest for 400 s; 2 a second are delivered, 2 s to go")
    assert cause.hint


@pytest.mark.parametrize(
    ("accepted", "delivered", "eta"), [(0, 5, 1.0), (5, 5, None), (0, 0, None)]
)
def test_the_time_to_drain_comes_from_both_rates(
    accepted: float, delivered: float, eta: float | None
) -> None:
    """What comes in meanwhile has to go out as well."""
    assert old(1.0, accepted_per_s=accepted, delivered_per_s=delivered).drain_eta_s == eta


def test_what_gets_worse_is_said_at_once_and_since_when_it_began() -> None:
    """From degraded to failing it is the same cause."""
    first = judge(old(400.0, 1.0), SETTINGS)
    worse = judge(old(4000.0, 2.0), SETTINGS, first)
    assert worse.state == "failing"
    assert worse.causes[0].since_unix_ns == first.causes[0].since_unix_ns == 10**9


def test_a_number_around_its_threshold_does_not_flap() -> None:
    """It has to fall a fifth below it."""
    assert follow([310, 290, 310, 290, 310], 20.0) == ["degraded"] * 5
    assert follow([310, 230, 230], 20.0) == ["degraded", "ok", "ok"]


def test_a_cause_that_comes_and_goes_does_not_flap() -> None:
    """It has to be gone for ``health_recover_s``."""
    assert follow([400, 0, 400, 0, 0, 0, 0], 4.0) == ["degraded"] * 5 + ["ok"] * 2


def test_without_its_hysteresis_the_same_verdict_flaps() -> None:
    """Negative control: with no time to recover, each look is another state."""
    hasty = Settings(health_recover_s=0.0)
    assert follow([400, 0, 400, 0], 4.0, hasty) == ["degraded", "ok"] * 2


def test_the_thresholds_are_settings() -> None:
    """And what cannot be one is refused."""
    assert judge(old(2.0), Settings(health_backlog_age_s=1.0)).state == "degraded"
    with pytest.raises(SettingsError, match="health_backlog_age_s"):
        Settings(health_backlog_age_s=0.0)


def test_a_verdict_can_be_written_as_json() -> None:
    """With its causes and what it was drawn from."""
    found = judge(old(400.0), SETTINGS).as_dict()
    assert (found["state"], found["causes"][0]["id"]) == ("degraded", "backlog.age")
    assert found["signs"]["drain_eta_s"] is None


# -- watching -----------------------------------------------------------------------------------


class Watched:
    """A watch over signs that a test sets, with a clock that a test moves."""

    def __init__(self, **given: Any) -> None:
        self.signs = Signs()
        self.now_s = 0.0
        self.looks = 0
        self.room = True
        self.told: list[tuple[str, str]] = []
        self.called: list[str] = []
        self.watch = HealthWatch(
            self._read, Settings(**{"health_recover_s": 0.0, **given}), tell=self._tell,
            on_change=lambda health: self.called.append(health.state),
            monotonic_s=lambda: self.now_s,
        )

    def _read(self) -> Signs:
        self.looks += 1
        return dataclasses.replace(self.signs, monotonic_s=self.now_s)

    def _tell(self, health: Health, before: str) -> bool:
        if self.room:
            self.told.append((before, health.state))
        return self.room

    def turn(self, signs: Signs | None = None, after_s: float = 5.0) -> None:
        """Let time pass and the courier come by."""
        self.signs = self.signs if signs is None else signs
        self.now_s += after_s
        self.watch.turn()


def test_health_is_looked_at_no_more_often_than_was_asked_for() -> None:
    """However often the courier comes by."""
    watched = Watched(health_interval_s=5.0)
    for _ in range(110):
        watched.turn(after_s=0.1)
    assert watched.looks == 2


def test_a_change_is_told_once_and_so_is_the_way_back() -> None:
    """As an event and to the callback."""
    watched = Watched(health_event_interval_s=0.0)
    for signs in (Signs(), old(400.0), old(401.0), Signs(), Signs()):
        watched.turn(signs)
    assert watched.told == [("ok", "degraded"), ("degraded", "ok")]
    assert watched.called == ["degraded", "ok"]


def test_another_cause_of_the_same_state_is_told_to_the_callback_only() -> None:
    """An event is for another state."""
    watched = Watched(health_event_interval_s=0.0)
    watched.turn(old(400.0))
    watched.turn(old(400.0, commit_s=0.6))
    assert (watched.told, watched.called) == ([("ok", "degraded")], ["degraded"] * 2)


def test_events_come_at_most_so_often_and_the_last_state_is_told_in_the_end() -> None:
    """What was in between is left out."""
    watched = Watched(health_event_interval_s=60.0)
    for _ in range(6):
        watched.turn(old(400.0))
        watched.turn(Signs())
    watched.turn(old(4000.0), after_s=0.0)
    assert watched.told == [("ok", "degraded")] and len(watched.called) == 12
    watched.turn(old(4000.0), after_s=60.0)
    assert watched.told[1:] == [("degraded", "failing")]


def test_an_event_that_finds_no_room_is_told_later() -> None:
    """A full spool must not keep its own trouble secret for ever."""
    watched = Watched(health_event_interval_s=0.0)
    watched.room = False
    watched.turn(old(400.0))
    assert watched.told == []
    watched.room = True
    watched.turn()
    assert watched.told == [("ok", "degraded")]


def test_a_callback_that_raises_and_signs_that_cannot_be_read_harm_nobody() -> None:
    """They are said."""
    def raising(*_: object) -> Any:
        raise RuntimeError("the application's")

    watch = HealthWatch(raising, Settings(health_interval_s=0.01), tell=raising)
    watch._next_s = 0.0
    watch.turn()
    loud = HealthWatch(
        lambda: old(400.0), Settings(health_interval_s=0.01), tell=lambda *_: True,
        on_change=raising,
    )
    loud._next_s = 0.0
    loud.turn()
    assert loud.now().state == "degraded"


def test_whoever_asks_while_another_looks_gets_the_last_verdict_in_time() -> None:
    """Nobody hangs behind a disk that does not answer."""
    entered, release = threading.Event(), threading.Event()

    def slow() -> Signs:
        entered.set()
        release.wait(10)
        return old(400.0)

    watch = HealthWatch(slow, SETTINGS, tell=lambda *_: True)
    thread = threading.Thread(target=watch.now)
    thread.start()
    assert entered.wait(5)
    began_s = time.monotonic()
    assert watch.now().state == "ok"
    assert time.monotonic() - began_s < 3
    release.set()
    thread.join(10)
    assert watch.now(at_most_s=60.0).state == "degraded"


# -- in a pipeline ------------------------------------------------------------------------------

QUICK = {
    "backoff_initial_s": 0.01, "backoff_max_s": 0.05, "linger_s": 0.0,
    "hold_probe_interval_s": 0.05, "health_interval_s": 0.05, "health_recover_s": 0.0,
    "health_event_interval_s": 0.0, "clock_mode": "system", "disk_free_bytes_min": 0,
    "adoption_interval_s": 0.1,
}


def healthy_or_not(directory: Path, endpoint: str = NOWHERE, **given: Any) -> Pipeline:
    """A pipeline that looks at itself often; ``on_health_change`` may be given."""
    on_change = given.pop("on_health_change", None)
    chosen = {"spool_dir": str(directory), "endpoint": endpoint, **QUICK, **given}
    return Pipeline(
        Settings.load(environ={}, **chosen), environ={}, on_health_change=on_change
    )


def test_before_the_first_record_health_is_ok_and_nothing_was_opened(tmp_path: Path) -> None:
    """Asking makes nothing."""
    pipeline = healthy_or_not(tmp_path / "spool")
    assert pipeline.health() == Health()
    assert not (tmp_path / "spool").exists()


def test_a_pipeline_that_delivers_is_ok_and_writes_nothing_about_it(tmp_path: Path) -> None:
    """No event, no callback, no commit."""
    called: list[Health] = []
    with ScriptedCollector() as collector:
        pipeline = healthy_or_not(tmp_path, collector.endpoint, on_health_change=called.append)
        for number in range(20):
            pipeline.store(record(number))
        assert pipeline.wait_delivered(10)
        wal = tmp_path / "memoir-0001.db-wal"
        before = (wal.stat().st_size, wal.stat().st_mtime_ns)
        looked = pipeline.health().signs.monotonic_s
        watch = pipeline._made["parts"].health
        assert until(lambda: watch._looked_s > looked + 1.5)
        assert (wal.stat().st_size, wal.stat().st_mtime_ns) == before
        assert pipeline.health().state == "ok" and called == []
        pipeline.close(1)
        assert all(not r.event_name for r in collector.delivered)


def test_the_event_of_a_change_is_delivered_in_its_own_scope_and_only_twice(
    tmp_path: Path,
) -> None:
    """One for the trouble, one for its end; it tells the worst cause, and nothing of itself."""
    with ScriptedCollector() as collector:
        collector.respond = lambda _: Answer(status=404)
        pipeline = healthy_or_not(tmp_path, collector.endpoint)
        pipeline.store(record(1))
        assert until(lambda: pipeline.status().totals.pending == 2)
        collector.respond = lambda _: Answer()
        assert collector.wait_for(lambda c: len([r for r in c.delivered if r.event_name]) == 2)
        assert until(lambda: pipeline.status().totals.pending == 0)
        first, second = [r for r in collector.delivered if r.event_name]
        pipeline.close(1)
    assert first.event_name == second.event_name == HEALTH
    assert first.attributes["memoir.health.state"] == "failing"
    assert first.attributes["memoir.health.previous_state"] == "ok"
    assert first.attributes["memoir.health.component"] == "delivery"
    assert "/v1/logs" in first.attributes["memoir.health.hint"]
    assert second.attributes["memoir.health.state"] == "ok"
    assert [r.proto.severity_number for r in (first, second)] == [17, 9]
    assert first.sequence and first.uid


def test_the_callback_runs_with_no_lock_held(tmp_path: Path) -> None:
    """It may emit, ask for health and flush; from any thread that must wait for it."""
    done = threading.Event()
    found: list[str] = []

    def on_change(health: Health) -> None:
        def elsewhere() -> None:
            pipeline.store(record(2))
            found.append(pipeline.health().state)
            pipeline.flush(1)

        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join(10)
        if not thread.is_alive():
            done.set()

    pipeline = healthy_or_not(tmp_path, health_backlog_age_s=0.01, on_health_change=on_change)
    pipeline.store(record(1))
    assert done.wait(20)
    assert found[0] != "ok"
    pipeline.close(0)


FORKING = """
import os, sys, tempfile
from otel_memoir.sdk.pipeline import Pipeline
from otel_memoir.settings import Settings
sys.path.insert(0, sys.argv[1])
from test_cli import record

made = Pipeline(Settings.load(
    environ={}, spool_dir=tempfile.mkdtemp(), endpoint="http://127.0.0.1:9",
    health_backlog_age_s=0.001, clock_mode="system", health_recover_s=1e6,
), environ={})
made.store(record(1))
print(made.health().state, flush=True)
made._made["parts"].health._lock.acquire()  # as if a thread of the parent were looking
if os.fork() == 0:
    print(made.health().state, flush=True)
    os._exit(0)
os.wait()
os._exit(0)
"""


def test_a_fork_child_judges_itself_anew() -> None:
    """Whatever its parent knew, and whoever held the parent's lock."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKING, str(Path(__file__).parent)],
        capture_output=True, text=True, timeout=60, check=True,
    )
    parent, child = done.stdout.split()
    assert parent != "ok" and child == "ok", done.stderr


def test_every_cause_names_its_component_its_meaning_and_its_remedy() -> None:
    """In whole sentences, and each id once."""
    assert len({rule.id for rule in RULES}) == len(RULES)
    for rule in RULES:
        assert rule.id.split(".")[0] == rule.component
        assert rule.meaning.endswith(".") and rule.hint.endswith("."), rule.id


def test_a_hold_in_the_signs_carries_the_hint_of_its_answer() -> None:
    """The table of answers knows better than a general remedy."""
    hold = Hold(since_unix_ns=10**9, code="http 404", message="no", hint="Check the path.")
    (cause,) = judge(Signs(hold=hold, taken_unix_ns=3 * 10**9), SETTINGS).causes
    assert (cause.hint, cause.value, cause.state) == ("Check the path.", 2.0, "failing")


