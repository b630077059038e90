"""Where the numbers of health come from, and the metrics that they are shown in."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from clock_helpers import until
from otel_memoir.clock import SystemClock
from otel_memoir.clock.snapshot import ClockSnapshot
from otel_memoir.delivery.outcome import Outcome, Verdict
from otel_memoir.delivery.tally import DeliveryTally
from otel_memoir.locks import LockManager
from otel_memoir.memory_log import MemoryLog
from otel_memoir.observe import Health, observe, observe_health, oldest_wait_s, watch_locks
from otel_memoir.observe.health_causes import COMPONENTS
from otel_memoir.observe.health_metrics import GAUGES
from otel_memoir.observe.health_signs import SignReader, _Growth, _Rates
from otel_memoir.sdk.pipeline import Pipeline
from otel_memoir.settings import Settings
from otel_memoir.spool import SpoolStatus, Totals
from otel_memoir.spool.vitals import CommitTimes
from otel_memoir.testing import Answer, ScriptedCollector
from spool_helpers import open_spool, store
from test_cli import NOWHERE, record
from test_health import healthy_or_not


def times_of(*seconds: float, now_s: float = 10.0) -> CommitTimes:
    """What commits that took so long leave behind."""
    times = CommitTimes()
    for one in seconds:
        times.begins(now_s - one)
        times.ends(now_s, counts=True)
    return times


def test_one_slow_commit_among_many_is_no_slow_disk() -> None:
    """And many are."""
    assert times_of(*[0.001] * 63, 5.0).seconds(10.0) < 0.01
    assert times_of(*[0.001] * 20, *[5.0] * 20).seconds(10.0) == 5.0


def test_commits_of_more_than_a_minute_ago_say_nothing_of_now() -> None:
    """Nor do more than the last 64."""
    assert times_of(5.0).seconds(69.0) == 5.0
    assert times_of(5.0).seconds(71.0) == 0.0
    assert times_of(*[5.0] * 10, *[0.001] * 64).seconds(10.0) < 0.01


def test_a_commit_that_hangs_is_slow_before_it_ends() -> None:
    """By how long it has hung."""
    times = times_of(0.001)
    times.begins(20.0)
    assert times.seconds(25.0) == 5.0
    times.ends(25.0, counts=False)
    assert times.seconds(25.0) < 0.01


def test_only_commits_that_were_fsynced_count(tmp_path: Path) -> None:
    """In ``process`` most are not, and would hide those that are."""
    spool = open_spool(tmp_path, durability="process", fsync_interval_s=1000.0)
    store(spool, "a")
    assert spool.vitals().commit_s == 0.0
    assert spool.flush(5)
    assert spool.vitals().commit_s > 0.0
    spool.close(1.0)


def test_vitals_know_what_waits_and_the_disk(tmp_path: Path) -> None:
    """Before the first record there is nothing to know."""
    spool = open_spool(tmp_path, spool_bytes_max=2**20)
    assert spool.vitals().waiting_bytes == 0
    store(spool, "a", size=1000)
    vitals = spool.vitals()
    assert 1000 < vitals.waiting_bytes < 1100 and vitals.waiting_bytes_max == 2**20
    assert vitals.is_on_disk and vitals.disk_free_bytes and vitals.late == 0
    spool.close(1.0)


def test_growth_is_what_came_in_the_window() -> None:
    """Counters only rise."""
    growth = _Growth(10.0)
    assert [growth.new(at, n) for at, n in ((0, 0), (1, 2), (5, 3), (11.5, 3), (20, 3))] == [
        0, 2, 3, 1, 0
    ]


def test_rates_are_those_of_the_last_minute_and_of_one_file() -> None:
    """Another file counts from another number."""
    rates = _Rates()

    def note(at_s: float, accepted: int, delivered: int, name: str = "a") -> tuple[float, float]:
        totals = Totals(accepted=accepted)
        return rates.note(
            at_s, SpoolStatus(name=name, path="", alive=True, totals=totals), delivered
        )

    assert note(0, 100, 50) == (0.0, 0.0)
    assert note(10, 200, 60) == (10.0, 1.0)
    assert note(100, 200, 60) == (0.0, 0.0)
    assert note(110, 5000, 60, "b") == (0.0, 0.0)


def test_trouble_begins_at_the_first_failure_and_ends_at_the_first_yes() -> None:
    """Whatever the answers are."""
    now_s = 0.0
    tally = DeliveryTally(lambda: now_s)
    for now_s in (1.0, 2.0, 3.0):
        tally.attempted(Outcome(verdict=Verdict.RETRY, code=f"http 50{now_s:.0f}"), 0.1)
    assert tally.trouble is not None
    assert (tally.trouble.since_s, tally.trouble.attempts, tally.trouble.code) == (
        1.0, 3, "http 503"
    )
    tally.attempted(Outcome(verdict=Verdict.DELIVERED, code="http 200"), 0.1)
    assert tally.trouble is None


class Told:
    """A clock that says what it is told to."""

    def __init__(self) -> None:
        self.status = "uncalibrated"

    def snapshot(self) -> ClockSnapshot:
        """As a real one's."""
        return ClockSnapshot(taken_unix_ns=0, mode="observe", status=self.status)


def test_how_long_a_clock_is_wrong_is_counted_from_when_it_was_right_last() -> None:
    """And a clock that cannot be asked is not judged."""
    clock, observed = Told(), cast(Any, None)
    reader = SignReader(
        observed, Settings(), clock=clock, lock_wait_s=lambda: 0.0, monotonic_s=lambda: 0.0
    )

    def wrong_for_s(now_s: float, status: str) -> float:
        clock.status = status
        found: float = reader._of_clock(now_s)["clock_wrong_for_s"]
        return found

    told = ((10, "uncalibrated"), (20, ""), (30, "holdover"), (50, "holdover"))
    assert [wrong_for_s(at_s, status) for at_s, status in told] == [10, 0, 10, 30]
    reader._clock = SystemClock()
    assert reader._of_clock(60.0) == {}


def test_a_lock_manager_that_is_gone_is_watched_no_more() -> None:
    """And one that is free waits for nothing."""
    locks = LockManager()
    watch_locks(locks)
    with locks.hold("profile/alice"):
        assert oldest_wait_s() == 0.0
    del locks
    assert oldest_wait_s() == 0.0


def test_a_memory_log_has_its_locks_watched_and_knows_its_health(tmp_path: Path) -> None:
    """Whoever waits for one of its keys counts."""
    log = MemoryLog(
        spool_dir=str(tmp_path), endpoint=NOWHERE, clock_mode="system", health_lock_wait_s=0.01,
        shutdown_timeout_s=0.1,
    )
    assert log.health() == Health()
    log.created("record")
    with log.locks.hold("profile/alice"):
        thread = threading.Thread(target=lambda: log.locks.acquire("profile/alice", timeout=20))
        thread.start()
        assert until(lambda: log.health().of("locks") == "degraded")
    thread.join(20)
    log.close()


# -- the metrics --------------------------------------------------------------------------------


@contextlib.contextmanager
def metrics(observed: Any) -> Iterator[Any]:
    """A way to collect: by name, the values by their attributes but for the component's."""
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    observe_health(observed, provider)
    if isinstance(observed, Pipeline):
        observe(observed, provider)

    def collect() -> dict[str, dict[tuple[str, ...], float]]:
        data = reader.get_metrics_data()
        return {
            metric.name: {
                tuple(str(v) for k, v in p.attributes.items()
                      if k not in ("otel.component.type", "otel.component.name")): p.value
                for p in metric.data.data_points
            }
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics for metric in scope.metrics
        }

    yield collect
    provider.shutdown()


def test_every_metric_of_health_is_there_for_a_pipeline_that_is_well(tmp_path: Path) -> None:
    """With every component, and each at 0."""
    with ScriptedCollector() as server:
        made = healthy_or_not(tmp_path, server.endpoint)
        made.store(record(1))
        assert until(lambda: made.health().signs.delivered_per_s > 0)
        assert until(lambda: not made.health().signs.pending)
        with metrics(made) as collect:
            found = collect()
        made.close(1.0)
    assert {name for name, *_ in GAUGES} <= set(found)
    assert found["memoir.health.state"] == {(component,): 0 for component in COMPONENTS}
    assert found["memoir.spool.on_disk"] == {(): 1}
    assert found["otel.sdk.processor.log.processed"] == {(): 1}


def test_the_metrics_tell_of_trouble(tmp_path: Path) -> None:
    """By component, and with the numbers."""
    with ScriptedCollector(lambda _: Answer(status=404)) as server:
        made = healthy_or_not(tmp_path, server.endpoint, record_bytes_max=1000)
        made.store(record(1))
        made.store(record(2, "x" * 2000))
        assert until(lambda: {"delivery", "refused"} <= {
            cause.component for cause in made.health().causes
        })
        with metrics(made) as collect:
            found = collect()
        made.close(0.0)
    states = found["memoir.health.state"]
    assert (states["delivery",], states["refused",], states["clock",]) == (2, 2, 0)
    assert found["memoir.delivery.hold"] == {(): 1}
    assert found["otel.sdk.processor.log.processed"]["too_large",] == 1


def test_health_that_cannot_be_looked_at_costs_its_metrics_only() -> None:
    """No metric harms the host."""

    class Broken:
        """Raises."""

        def health(self, *, at_most_s: float = 0.0) -> Any:
            """As said."""
            raise RuntimeError("no")

    with metrics(Broken()) as collect:
        assert not any(collect().values())


def test_one_collection_looks_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thirteen instruments share a look."""
    made = healthy_or_not(tmp_path, health_interval_s=1e6)
    made.store(record(1))
    watch = made._made["parts"].health
    read, looks = watch._read, []
    monkeypatch.setattr(watch, "_read", lambda: looks.append(1) or read())
    with metrics(made) as collect:
        collect()
    made.close(0.0)
    assert len(looks) <= 2  # a slow machine may need more than half a second for them
