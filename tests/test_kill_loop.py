"""Programs, their Collector and its backend are killed at random: nothing acknowledged is missing.

    programs ─► gateway.yaml ─► sink         each of them killed with SIGKILL, over and over

`MEMOIR_KILL_LOOP_SECONDS` says for how long, 12 by default; `pytest -s` prints the table.
A kill tests recovery and the order of writing and answering, not what fsync is for: that
is `test_crash_product.py`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter

from collector import Collector, records_in
from kill_loop import Disturbance, Evidence, Verdict, Victim, judge, payload_of, table
from otel_memoir.spool.directory import slots
from otel_memoir.spool.inspect import looking_at
from spool_helpers import problems_of, totals_of
from test_collector_config import GATEWAY, IN_MEMORY_QUEUE, export

SECONDS = float(os.environ.get("MEMOIR_KILL_LOOP_SECONDS", "12"))
AT_MOST_S = 4 * SECONDS + 60
CALM_TIMEOUT_S = 60.0
SEED = int(os.environ.get("MEMOIR_KILL_LOOP_SEED", "1"))
BATCH: Mapping[str, Any] = {
    "processors": {"batch": {"timeout": "200ms"}},  # the default
    "service": {"pipelines": {"logs": {"processors": ["memory_limiter", "batch"]}}},
}
IN_MEMORY_FOR_LONG = {"MEMOIR_DURABILITY": "batch", "MEMOIR_BATCH_DELAY": "0.3"}
LANES, PACE_S = 2, 0.005
ENOUGH_ACKED, ENOUGH_KILLS = 300, 4

ROWS: list[tuple[str, Verdict]] = []


def killing(test: Any) -> Any:
    """What the tests that kill have in common."""
    for mark in (
        pytest.mark.collector, pytest.mark.slow,
        pytest.mark.timeout(3 * AT_MOST_S + 5 * CALM_TIMEOUT_S),
    ):
        test = mark(test)
    return test


@pytest.fixture(scope="module", autouse=True)
def print_the_table() -> Iterator[None]:
    """What each configuration did."""
    yield
    if ROWS:
        print(f"\n{SECONDS:g} s each, seed {SEED}\n{table(ROWS)}")


Where = tuple[str, Any, int]
"""Stream, epoch and sequence of a record."""


@dataclass
class Arrivals:
    """What a hop has on file, by the name of a record."""

    times: Counter[str] = field(default_factory=Counter)
    altered: set[str] = field(default_factory=set)
    where: dict[str, set[Where]] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Arrivals:
        found = cls()
        for record in records_in(path):
            name = record.attributes.get("kill.name")
            if name is None:
                continue
            found.times[name] += 1
            given = {k: v for k, v in record.attributes.items() if k.startswith("kill.")}
            if (record.body, given) != payload_of(name) or record.event_name != "kill.loop":
                found.altered.add(name)
            stamp = [record.attributes.get(f"memoir.{part}") for part in (
                "stream.id", "stream.epoch", "sequence")]
            found.where.setdefault(name, set()).add(tuple(stamp))  # type: ignore[arg-type]  # JSON
        return found


class Arena:
    """Two programs, over HTTP and gRPC, in one spool directory; a gateway; a sink."""

    def __init__(
        self, otelcol: Path, directory: Path, over: Mapping[str, Any], memoir: Mapping[str, str]
    ) -> None:
        for name in ("sink", "gateway"):
            (directory / name).mkdir()
        self.spool_dir = directory / "spool"
        self._memoir = memoir
        self.taken = directory / "gateway" / "taken.jsonl"
        self.sink = Collector(otelcol, directory / "sink")
        self.gateway = Collector(
            otelcol, directory / "gateway", [GATEWAY, self._noting(), over],
            environ={
                "OTLP_NEXT_ENDPOINT": self.sink.http_endpoint,
                "OTELCOL_QUEUE_DIR": str(directory / "queue"),
            },
        )
        self.programs = [
            self._program("http", "http/protobuf", self.gateway.http_endpoint),
            self._program("grpc", "grpc", self.gateway.grpc_endpoint),
        ]

    def _noting(self) -> Mapping[str, Any]:
        """The gateway also notes what it takes, and waits less for its backend."""
        note = {"path": str(self.taken), "rotation": {"max_megabytes": 1 << 20}}
        pace = {"initial_interval": "50ms", "max_interval": "200ms"}
        return {
            "exporters": {"file": note, "otlp_http": {"retry_on_failure": pace}},
            "service": {"pipelines": {"logs": {"exporters": ["file", "otlp_http"]}}},
        }

    def _program(self, name: str, protocol: str, endpoint: str) -> Victim:
        command = [sys.executable, "-m", "kill_loop.program"]
        return Victim(
            name, lambda prefix: [*command, prefix, str(LANES), str(PACE_S)], lanes=LANES,
            environ={
                **self.environ(protocol, endpoint), **self._memoir,
                "PYTHONPATH": str(Path(__file__).parent),
            },
        )

    def environ(self, protocol: str, endpoint: str) -> dict[str, str]:
        return {
            **os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
            "OTEL_EXPORTER_OTLP_PROTOCOL": protocol, "MEMOIR_SPOOL_DIR": str(self.spool_dir),
            "MEMOIR_BACKOFF_INITIAL": "0.02", "MEMOIR_BACKOFF_MAX": "0.2",
            "MEMOIR_LINGER": "0.02", "MEMOIR_ADOPTION_INTERVAL": "0.3",
        }

    def disturb(self) -> dict[str, int]:
        """Kill all of them at random; return how often each was killed."""
        disturbance = Disturbance(SEED)

        def enough() -> bool:
            kills = [*disturbance.server_kills.values(), *(p.kills for p in self.programs)]
            acked = sum(len(program.acked()) for program in self.programs)
            return acked >= ENOUGH_ACKED and min(kills) >= ENOUGH_KILLS

        disturbance.run(
            self.programs, [("gateway", self.gateway), ("sink", self.sink)],
            seconds=SECONDS, enough=enough, at_most_s=AT_MOST_S,
        )
        return {**disturbance.server_kills, **{p.name: p.kills for p in self.programs}}

    def calm(self) -> None:
        """Let everything arrive that can: drain the spool, then the gateway's queue.

        The queue is first in, first out, so nothing comes after the marker any more.
        """
        drained = subprocess.run(
            [sys.executable, "-m", "otel_memoir.cli", "drain", "--timeout", str(CALM_TIMEOUT_S)],
            env=self.environ("http/protobuf", self.gateway.http_endpoint), capture_output=True,
            text=True, timeout=2 * CALM_TIMEOUT_S, check=False,
        )
        assert drained.returncode == 0, drained.stdout + drained.stderr
        export(OTLPLogExporter(f"{self.gateway.http_endpoint}/v1/logs"), "marker")
        self.sink.wait_received(
            lambda records: any(r.uid == "marker" for r in records), CALM_TIMEOUT_S
        )

    def evidence(self, kills: Mapping[str, int]) -> Evidence:
        """Read what the files say."""
        taken, arrived = Arrivals.read(self.taken), Arrivals.read(self.sink.output)
        admitted = admitted_copies(self.spool_dir)
        return Evidence(
            acked=set().union(*(program.acked() for program in self.programs)),
            in_flight=set().union(*(program.in_flight() for program in self.programs)),
            taken=taken.times, arrived=arrived.times, altered=taken.altered | arrived.altered,
            allowed_copies={
                name: sum(admitted[where] for where in places)
                for name, places in taken.where.items()
            },
            kills=kills,
        )


def admitted_copies(spool_dir: Path) -> Counter[Where]:
    """How many attempts the ledger counts as ambiguous, for each record."""
    admitted: Counter[Where] = Counter()
    for slot in slots(spool_dir):
        with looking_at(slot.database) as connection:
            for stream_id, epoch, first, last, ambiguous in connection.execute(
                "SELECT stream_id, epoch, first_sequence, last_sequence, ambiguous FROM batch "
                "JOIN stream ON stream.id = batch.stream WHERE ambiguous > 0"
            ):
                for sequence in range(first, last + 1):
                    admitted[stream_id, epoch, sequence] += ambiguous
    return admitted


def verdict_on(
    title: str,
    otelcol: Path,
    directory: Path,
    *,
    over: Mapping[str, Any] | None = None,
    memoir: Mapping[str, str] | None = None,
) -> Verdict:
    """Disturb, calm, judge; enough must have happened, and the spool's books must balance.

    Args:
        title: For the table.

        otelcol: The Collector.

        directory: An empty one.

        over: On top of the gateway's configuration.

        memoir: On top of the programs' environment.
    """
    arena = Arena(otelcol, directory, over or {}, memoir or {})
    with arena.sink, arena.gateway:
        kills = arena.disturb()
        arena.calm()
    verdict = judge(arena.evidence(kills))
    ROWS.append((title, verdict))
    totals = totals_of(arena.spool_dir)
    assert problems_of(arena.spool_dir) == []
    assert (totals.pending, totals.unaccounted, totals.quarantined) == (0, 0, 0), totals
    assert verdict.acked >= ENOUGH_ACKED, verdict
    assert min(kills.values()) >= ENOUGH_KILLS, kills
    return verdict


@killing
def test_nothing_acknowledged_is_missing_however_often_all_of_them_are_killed(
    otelcol: Path, tmp_path: Path
) -> None:
    """Missing 0, invented 0, contents equal, and each copy is one that the ledger admits."""
    verdict = verdict_on("gateway.yaml", otelcol, tmp_path)
    assert verdict.holds, verdict
    assert 0 < verdict.may_be_copied < verdict.acked / 2, verdict


@killing
@pytest.mark.parametrize(
    ("title", "weaker"),
    [
        ("a `batch` processor", {"over": BATCH}),
        ("the queue in memory", {"over": IN_MEMORY_QUEUE}),
        ("programs with `durability=batch`", {"memoir": IN_MEMORY_FOR_LONG}),
    ],
    ids=["a-batch-processor", "its-queue-in-memory", "programs-that-acknowledge-from-memory"],
)
def test_the_same_loop_goes_red_with(
    title: str, weaker: Mapping[str, Any], otelcol: Path, tmp_path: Path
) -> None:
    """Controls: what was acknowledged from memory dies with it, and the judge sees it.

    Chance decides whether a kill strikes while something is in memory: up to three runs.
    """
    for attempt in range(3):
        directory = tmp_path / str(attempt)
        directory.mkdir()
        verdict = verdict_on(title, otelcol, directory, **weaker)
        assert (verdict.invented, verdict.altered) == (0, 0), verdict
        if verdict.missing:
            return
    pytest.fail(f"three runs with {title}, and nothing is missing")


# -- the judge ----------------------------------------------------------------

GOOD = Evidence(
    acked={"a.0.0.0", "a.0.0.1"}, in_flight={"a.0.0.2"}, taken={"a.0.0.0": 2, "a.0.0.1": 1},
    arrived={"a.0.0.0": 2, "a.0.0.1": 1}, altered=(), allowed_copies={"a.0.0.0": 1},
    kills={"a": 1},
)
BAD = {
    "missing": replace(GOOD, arrived={"a.0.0.0": 1}),
    "invented": replace(GOOD, arrived={**GOOD.arrived, "a.0.0.3": 1}),
    "altered": replace(GOOD, altered=["a.0.0.1"]),
    "unexplained": replace(GOOD, allowed_copies={}),
}


def test_the_judge_finds_nothing_wrong_with_a_good_run() -> None:
    """A copy that was admitted, and one that the first hop made itself, are in order."""
    assert judge(GOOD).holds
    later = judge(replace(GOOD, arrived={"a.0.0.0": 2, "a.0.0.1": 3, "a.0.0.2": 1}))
    assert later.holds
    assert later.copied_behind == 2


@pytest.mark.parametrize("name", BAD)
def test_the_judge_counts_what_is(name: str) -> None:
    """Each way to break the promise has its own number."""
    verdict = judge(BAD[name])
    assert not verdict.holds
    assert getattr(verdict, name) == 1


def test_a_request_that_a_kill_cut_off_is_passed_over(tmp_path: Path) -> None:
    """The file of a killed Collector: a whole request, a torn one, the next life's first."""
    whole = '{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"eventName":"%s"}]}]}]}'
    (tmp_path / "out").write_text(f"{whole % 'one'}\n{(whole % 'torn')[:-9]}{whole % 'two'}\n")
    assert [r.event_name for r in records_in(tmp_path / "out")] == ["one", "two"]
