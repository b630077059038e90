"""What people and metrics are shown of the clock."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from chrony import Chained, Chronyd, needs_chronyd, needs_faketime, upstream
from clock_host import MS, Host, S, Told
from otel_memoir.cli.app import main
from otel_memoir.cli.clock import signed, span
from otel_memoir.clock import SynchronizedClock
from otel_memoir.clock.options import ConfiguredSource, SourceOptions
from otel_memoir.clock.snapshot import ClockSnapshot
from otel_memoir.observe.clock_metrics import observe_clock

PATIENCE_S = 60.0


def run(directory: Path, sources: str, *arguments: str, **settings: str) -> Result:
    """``otel-memoir clock`` with these sources."""
    environ = {"MEMOIR_CLOCK_DIR": str(directory), "MEMOIR_CLOCK_SOURCES": sources, **settings}
    return CliRunner().invoke(main, ["clock", *arguments], env=environ)


def shown(result: Result) -> dict[str, Any]:
    """What JSON was printed."""
    found = json.loads(result.stdout)
    assert isinstance(found, dict)
    return found


def test_without_a_calibrating_process_each_source_is_asked_once(tmp_path: Path) -> None:
    """And nothing is written."""
    result = run(tmp_path / "none", "system?unknown_ms=5")
    assert result.exit_code == 0
    assert "each source was asked once" in result.stdout
    assert "within 5 ms of the estimate" in result.stdout
    assert not (tmp_path / "none").exists()
    found = shown(run(tmp_path / "none", "system?unknown_ms=5", "--json"))
    assert (found["selected"], found["polled_now"], found["status"]) == ("system", True, "")
    assert found["sources"][0]["factors"]["agreement"] == 0.5


def test_a_calibrating_process_is_asked_instead_of_its_sources(tmp_path: Path) -> None:
    """Its sources need not even be known here."""
    clock = SynchronizedClock(sources=["system?unknown_ms=7"], directory=tmp_path)
    try:
        assert clock.wait_synced(PATIENCE_S)
        result = run(tmp_path, "ntp://192.0.2.1")
        assert "calibrates for this host" in result.stdout
        assert "within 7" in result.stdout
        assert result.exit_code == 0
    finally:
        clock.close(PATIENCE_S)


@pytest.mark.parametrize(
    ("sources", "settings", "status"),
    [("nonsense", {}, "uncalibrated"), ("", {}, "uncalibrated"),
     ("system?unknown_ms=5", {"MEMOIR_CLOCK_BOUND_MAX": "0.001"}, "wide"),
     ("system?unknown_ms=5", {"MEMOIR_CLOCK_SOURCES_MIN": "2"}, "uncalibrated")],
)
def test_what_is_not_well_is_said_with_an_exit_code(
    sources: str, settings: dict[str, str], status: str, tmp_path: Path
) -> None:
    """1, as for the other commands."""
    result = run(tmp_path, sources, **settings)
    assert result.exit_code == 1
    assert f"Status:     {status}" in result.stdout
    assert shown(run(tmp_path, sources, "--json", **settings))["status"] == status


@pytest.mark.parametrize(
    ("ns", "text"),
    [(None, "-"), (0, "0 ns"), (999, "999 ns"), (21_000, "21 µs"), (1_234_567, "1.23 ms"),
     (2 * S, "2 s"), (90 * 60 * S, "1.5 h"), (5000 * 3600 * S, "5000 h")],
)
def test_times_are_said_in_the_unit_of_people(ns: int | None, text: str) -> None:
    """Three digits of them."""
    assert span(ns) == text
    if ns:
        assert (signed(ns), signed(-ns)) == (f"+{text}", f"-{text}")


def calibrated() -> SynchronizedClock:
    """A clock with a liar, after its first turn in virtual time."""
    host = Host()
    host.wall_off_ns = 3 * MS
    sources = [Told(name, host) for name in "abc"]
    sources[2].off_ns = 90 * MS
    told = [ConfiguredSource(source, SourceOptions()) for source in sources]
    clock = SynchronizedClock(sources=told, ruler=host.ruler, wall=host.wall)
    clock._turn()
    return clock


def test_a_snapshot_is_the_same_from_json_and_ignores_what_a_newer_version_adds() -> None:
    """Followers may be of another version than their leader."""
    snapshot = calibrated().snapshot()
    as_json = json.loads(json.dumps(snapshot.as_dict()))
    assert ClockSnapshot.from_dict(as_json) == snapshot
    as_json["new"] = as_json["sources"][0]["new"] = as_json["sources"][0]["factors"]["new"] = 1
    assert ClockSnapshot.from_dict(as_json) == snapshot


def collected(clock: Any) -> dict[str, list[tuple[dict[str, Any], float]]]:
    """Every data point of the clock's metrics."""
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    observe_clock(clock, provider)
    data = reader.get_metrics_data()
    provider.shutdown()
    return {
        metric.name: [(dict(p.attributes), p.value) for p in metric.data.data_points]
        for resource in (data.resource_metrics if data else ())
        for scope in resource.scope_metrics for metric in scope.metrics
    }


def test_metrics_say_what_the_snapshot_says_with_few_attributes() -> None:
    """Names of the Collector's chronyreceiver where it has them."""
    found = collected(calibrated())
    assert found["ntp.time.correction"] == [({}, -0.003)]
    assert found["ntp.stratum"] == [({}, 2)]
    assert found["memoir.clock.error_bound"][0][1] == pytest.approx(0.001, rel=0.01)
    votes = {(a["memoir.clock.source"], a["memoir.clock.vote"])
             for a, _ in found["memoir.clock.source.state"]}
    assert votes == {("a", "selected"), ("b", "survivor"), ("c", "falseticker")}
    agrees = {a["memoir.clock.source"]: v for a, v in found["memoir.clock.source.selected"]}
    assert agrees == {"a": 1, "b": 1, "c": 0}
    names = {name for points in found.values() for attributes, _ in points for name in attributes}
    assert names <= {"memoir.clock.source", "memoir.clock.vote", "memoir.clock.step", "error.type"}


def test_metrics_of_an_uncalibrated_or_broken_clock_harm_nobody() -> None:
    """What is not known is not said."""
    found = collected(SynchronizedClock(sources=[Told()]))
    assert "ntp.time.correction" not in found
    assert found["memoir.clock.confidence"] == [({}, 0.0)]

    class Broken:
        """Raises when it is asked."""

        def snapshot(self) -> ClockSnapshot:
            """Fails."""
            raise RuntimeError("broken")

    assert collected(Broken()) == {}


@pytest.mark.slow
@needs_chronyd
@needs_faketime
def test_five_real_servers_with_two_liars_are_told_apart(tmp_path: Path) -> None:
    """By a process that calibrates, and by the command that asks each of them once."""
    with upstream() as first, Chronyd() as exact, Chained(first, 0.0003) as ahead, \
            Chained(first, -0.0002) as behind, Chained(first, 0.05) as liar, \
            Chronyd(faketime="+3600s") as wild:
        five = {"exact": exact, "ahead": ahead, "behind": behind, "liar": liar, "wild": wild}
        urls = {name: f"ntp://127.0.0.1:{server.port}" for name, server in five.items()}
        sources = ",".join(f"{url}?minpoll=0" for url in urls.values())
        asked_once = run(tmp_path / "none", sources, "--json")
        clock = SynchronizedClock(sources=sources.split(","), directory=tmp_path)
        try:
            assert clock.wait_synced(PATIENCE_S, bound_ns=10 * MS)
            unix_ns, bound_ns = clock.read()
            told = run(tmp_path, sources)
            print(told.stdout)
        finally:
            clock.close(PATIENCE_S)
    assert bound_ns is not None
    assert bound_ns < 10 * MS
    assert abs(unix_ns - time.time_ns()) < PATIENCE_S * S
    votes = {s["name"]: s["vote"] for s in shown(asked_once)["sources"]}
    outvoted = {name for name, url in urls.items() if votes[url] == "falseticker"}
    assert outvoted == {"liar", "wild"}
    assert told.stdout.count("falseticker") == 2
    assert "5 voted, 2 outvoted" in told.stdout
