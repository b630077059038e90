"""The alert rules and the dashboard that we ship, under a real Prometheus, behind a real Collector.

Seven services run at once: one that is well, and six with a real fault each. The rules are the
shipped ones but for their times: `IN_A_HURRY` says what each number is here.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from clock_helpers import until
from collector import Collector
from otel_memoir.observe.health_causes import RULES
from otel_memoir.testing import (
    Answer,
    NtpAnswer,
    RecordedRequest,
    ScriptedCollector,
    ScriptedNtpServer,
)
from prometheus import CONFIG, Prometheus, binary, free_port

pytestmark = pytest.mark.collector

WORKER = Path(__file__).resolve().parent / "health_programs" / "worker.py"
SHIPPED = yaml.safe_load((CONFIG / "alerts.yaml").read_text())
ALERTS = {rule["alert"]: rule for rule in SHIPPED["groups"][0]["rules"]}
PATIENCE_S = 40.0

IN_A_HURRY = {
    "MemoirDeliveryFailing": ("> 120", "> 2"),
    "MemoirBacklogOld": ("> 300", "> 2"),
    "MemoirDiskSlow": ("> 0.5", "> 0.25"),
    "MemoirLockWait": ("> 30", "> 2"),
}
FAULTS = {
    "MemoirDeliveryHeld": "held",
    "MemoirDeliveryFailing": "down",
    "MemoirBacklogOld": "down",
    "MemoirSpoolFilling": "down",
    "MemoirRecordsRefused": "down",
    "MemoirRecordsLost": "poison",
    "MemoirQuarantineGrows": "poison",
    "MemoirInMemory": "memory",
    "MemoirDiskTrouble": "full",
    "MemoirDiskSlow": "slow",
    "MemoirClockWrong": "memory",
    "MemoirLockWait": "memory",
    "MemoirFailing": "held",
}
"""Which of the services below fires each alert."""

HASTY = {
    "health_interval_s": 0.2, "health_recover_s": 0.0, "health_clock_s": 1.0,
    "hold_probe_interval_s": 1.0, "backoff_initial_s": 0.1, "backoff_max_s": 0.5, "linger_s": 0.0,
}
RECEIVER = {
    "receivers": {"otlp": {"protocols": {
        "http": {"endpoint": "${env:OTLP_HTTP_LISTEN}"},
        "grpc": {"endpoint": "${env:OTLP_GRPC_LISTEN}"},
    }}},
    "exporters": {"nop": {}},
    "service": {
        "pipelines": {"logs": {"receivers": ["otlp"], "exporters": ["nop"]}},
        "telemetry": {"metrics": {"level": "none"}},
    },
}


def in_a_hurry() -> dict[str, Any]:
    """The shipped rules, with times for a test."""
    rules = copy.deepcopy(SHIPPED)
    for rule in rules["groups"][0]["rules"]:
        rule["for"] = "1s"
        old, new = IN_A_HURRY.get(rule["alert"], ("", ""))
        assert old in rule["expr"]
        rule["expr"] = rule["expr"].replace(old, new) if old else rule["expr"]
    return rules


class Worker:
    """A service in a process of its own."""

    def __init__(
        self, name: str, metrics: str, prefix: tuple[str, ...] = (), **settings: Any
    ) -> None:
        command = [*prefix, sys.executable, str(WORKER), name, metrics,
                   json.dumps({**HASTY, **settings})]
        environ = {n: v for n, v in os.environ.items() if not n.startswith(("OTEL_", "MEMOIR_"))}
        self._process = subprocess.Popen(
            command, env=environ, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def say(self, *lines: str) -> None:
        """Have it emit records, or do something else; returns when it did."""
        assert self._process.stdin and self._process.stdout
        for line in lines:
            print(line, file=self._process.stdin, flush=True)
        for _ in lines:
            assert self._process.stdout.readline() == "done\n"

    def end(self) -> None:
        """End its stdin; all of them end at once."""
        if self._process.stdin and not self._process.stdin.closed:
            self._process.stdin.close()

    def wait(self) -> None:
        """Wait for its end."""
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(20)
        assert self._process.stdout
        self._process.stdout.close()


@dataclass
class World:
    """What runs."""

    prometheus: Prometheus
    down: ScriptedCollector
    workers: dict[str, Worker]


def poisonous(request: RecordedRequest) -> Answer:
    """Refuses one record for good, and does not take another."""
    if b"toxic" in request.body:  # the name of the service is in each request
        return Answer(status=400, message="no")
    return Answer(rejected=1 if b"unwanted" in request.body else 0)


@pytest.fixture(scope="module")
def world(otelcol: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The services, the Collector that takes their metrics, and Prometheus."""
    place = tmp_path_factory.mktemp("alerts")
    (place / "collector").mkdir()
    (place / "file").write_text("")
    binary("prometheus")
    strace = (binary("strace"), "-f", "-qq", "-o", "/dev/null", "-e", "trace=fdatasync,fsync",
              "-e", "inject=fdatasync,fsync:delay_exit=400000")
    target = f"127.0.0.1:{free_port()}"
    with contextlib.ExitStack() as stack:
        down, poison = ScriptedCollector(), ScriptedCollector(poisonous)
        ntp, silent = ScriptedNtpServer(), ScriptedNtpServer(lambda _: NtpAnswer.silence())
        for server in (down, poison, ntp, silent):
            stack.enter_context(server)
        down.down()
        metrics = stack.enter_context(Collector(
            otelcol, place / "collector", [RECEIVER, CONFIG / "metrics.yaml"],
            environ={"PROMETHEUS_LISTEN": target},
        )).http_endpoint
        right = {"endpoint": metrics, "clock_sources": f"ntp://127.0.0.1:{ntp.port}",
                 "clock_dir": str(place / "clock")}

        def worker(name: str, prefix: tuple[str, ...] = (), **given: Any) -> Worker:
            given = {"spool_dir": str(place / name), **right, **given}
            made = Worker(name, metrics, prefix, **given)
            stack.callback(made.wait)
            return made

        workers = {
            "slow": worker("slow", strace),
            "well": worker("well"),
            "down": worker("down", endpoint=down.endpoint, spool_bytes_max=2**16),
            "held": worker("held", endpoint=f"{metrics}/wrong/path"),
            "poison": worker("poison", endpoint=poison.endpoint),
            "memory": worker(
                "memory", spool_dir=str(place / "file" / "spool"),
                clock_sources=f"ntp://127.0.0.1:{silent.port}", clock_dir=str(place / "no-clock"),
            ),
            "full": worker("full", disk_free_bytes_min=2**50),
        }
        for one in workers.values():
            stack.callback(one.end)
        workers["down"].say(*["x" * 10_000 for _ in range(8)])
        for name in ("well", "held", "memory", "full"):
            workers[name].say("hello")
        workers["poison"].say("hello", "toxic", "unwanted", "hello")
        workers["memory"].say("lock")
        workers["well"].say("hello", "lock")
        prometheus = stack.enter_context(Prometheus(place / "prometheus", target, in_a_hurry()))
        workers["slow"].say("hello", "hello")
        yield World(prometheus, down, workers)


def test_promtool_takes_the_rules() -> None:
    """And finds nothing to warn of."""
    done = subprocess.run(
        [binary("promtool"), "check", "rules", str(CONFIG / "alerts.yaml")],
        capture_output=True, text=True, timeout=30, check=False,
    )
    assert done.returncode == 0 and f"{len(ALERTS)} rules found" in done.stdout, done.stderr


def test_promtool_takes_the_configuration_with_its_rules() -> None:
    """As it is shipped."""
    done = subprocess.run(
        [binary("promtool"), "check", "config", str(CONFIG / "prometheus.yaml")],
        capture_output=True, text=True, timeout=30, check=False,
    )
    assert done.returncode == 0 and "1 rule files found" in done.stdout, done.stderr


@pytest.mark.parametrize("under", ["agent.yaml", "gateway.yaml"])
def test_the_collector_takes_the_metrics_on_top_of_each_configuration(
    under: str, otelcol: Path, tmp_path: Path
) -> None:
    """As they are shipped."""
    done = subprocess.run(
        [str(otelcol), "validate", "--config", str(CONFIG / under), "--config",
         str(CONFIG / "metrics.yaml")],
        env={**os.environ, "OTELCOL_QUEUE_DIR": str(tmp_path),
             "OTLP_NEXT_ENDPOINT": "http://127.0.0.1:9"},
        capture_output=True, text=True, timeout=30, check=False,
    )
    assert done.returncode == 0, done.stderr


def test_every_alert_names_the_cause_that_the_operations_page_explains() -> None:
    """Or says that it may be any; and every component is watched over by one."""
    causes = {rule.id: rule.component for rule in RULES}
    named = {rule["annotations"]["cause"] for rule in ALERTS.values()} - {"any"}
    assert named <= set(causes)
    assert {causes[name] for name in named} == set(causes.values())
    assert set(FAULTS) == set(ALERTS)


@pytest.mark.parametrize("alert", FAULTS)
def test_every_alert_is_fired_by_its_fault_and_not_without(alert: str, world: World) -> None:
    """The service that is well fires none, with the same thresholds."""
    wanted = (alert, FAULTS[alert])

    def fires() -> bool:
        if wanted[1] == "slow":  # how long commits take is known from the last minute's
            world.workers["slow"].say("hello")
        return wanted in world.prometheus.firing()

    assert until(fires, PATIENCE_S), (
        world.prometheus.firing(), world.prometheus.query(ALERTS[alert]["expr"])
    )
    well = {name for name, job in world.prometheus.firing() if job == "well"}
    assert well <= {"MemoirLockWait"}  # it has a lock that waits, for the dashboard


def expressions() -> list[tuple[str, str]]:
    """Each query of the dashboard, as Grafana would send it."""
    panels = json.loads((CONFIG / "dashboard.json").read_text())["panels"]
    return [
        (panel["title"], target["expr"].replace("$job", ".+").replace("$__rate_interval", "10s"))
        for panel in panels for target in panel["targets"]
    ]


@pytest.mark.parametrize(("title", "expression"), expressions())
def test_every_panel_of_the_dashboard_has_data(
    title: str, expression: str, world: World
) -> None:
    """With the names that the Collector gives them."""
    assert "$" not in expression
    assert until(lambda: bool(world.prometheus.query(expression)), PATIENCE_S), title


def test_an_alert_ends_when_its_fault_does(world: World) -> None:
    """The endpoint comes back: what waited is delivered, and nobody is called any more."""
    fired = {"MemoirDeliveryFailing", "MemoirBacklogOld", "MemoirSpoolFilling"}

    def of_down() -> set[str]:
        return {name for name, job in world.prometheus.firing() if job == "down"} & fired

    assert until(lambda: of_down() == fired, PATIENCE_S)
    world.down.up()
    try:
        assert world.down.wait_for(4, 30)
        assert until(lambda: not of_down(), PATIENCE_S), of_down()
    finally:
        world.down.down()
