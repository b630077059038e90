"""What the shipped Collector configurations promise, run on a real Collector."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.exporter.otlp.proto.grpc._log_exporter import (
    OTLPLogExporter as GrpcLogExporter,
)
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import (
    InMemoryLogRecordExporter,
    LogRecordExporter,
    LogRecordExportResult,
    SimpleLogRecordProcessor,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.trace import NonRecordingSpan, SpanContext, set_span_in_context

from collector import Collector, CollectorError, ReceivedRecord, file_sink_config

ROOT = Path(__file__).resolve().parent.parent
AGENT = ROOT / "collector-config" / "agent.yaml"
GATEWAY = ROOT / "collector-config" / "gateway.yaml"
TOOL = ROOT / "tools" / "collector.py"

IN_MEMORY_QUEUE = {"exporters": {"otlp_http": {"sending_queue": {"storage": None}}}}
BATCH_IN_FRONT = {
    # A minute, so that the kill comes before the batch is due. With the default of 200 ms the
    # same loss happens to whatever arrived in the last 200 ms.
    "processors": {"batch": {"timeout": "60s"}},
    "service": {"pipelines": {"logs": {"processors": ["memory_limiter", "batch"]}}},
}


def export(exporter: LogRecordExporter, uid: str, **fields: Any) -> LogRecordExportResult:
    """Send one record with a stock exporter, once, and return what became of it."""
    kept = InMemoryLogRecordExporter()  # type: ignore[no-untyped-call]  # the SDK types it not
    provider = LoggerProvider(Resource({"service.name": "memoir-test"}), shutdown_on_exit=False)
    provider.add_log_record_processor(SimpleLogRecordProcessor(kept))
    attributes = {"log.record.uid": uid, **fields.pop("attributes", {})}
    provider.get_logger("test.scope").emit(LogRecord(attributes=attributes, **fields))
    try:
        return exporter.export(kept.get_finished_logs())
    finally:
        exporter.shutdown()  # type: ignore[no-untyped-call]  # the SDK types it not


def export_http(to: Collector, uid: str, **fields: Any) -> LogRecordExportResult:
    return export(OTLPLogExporter(f"{to.http_endpoint}/v1/logs", timeout=5), uid, **fields)


def make_sink(otelcol: Path, tmp_path: Path) -> Collector:
    (tmp_path / "sink").mkdir()
    return Collector(otelcol, tmp_path / "sink")


def make_gateway(otelcol: Path, tmp_path: Path, sink: Collector, *over: Any) -> Collector:
    (tmp_path / "gateway").mkdir()
    environ = gateway_environ(tmp_path, sink.http_endpoint)
    return Collector(otelcol, tmp_path / "gateway", [GATEWAY, *over], environ=environ)


def make_agent(otelcol: Path, tmp_path: Path, gateway: Collector) -> Collector:
    (tmp_path / "agent").mkdir()
    environ = {"OTLP_NEXT_ENDPOINT": gateway.grpc_endpoint.removeprefix("http://")}
    return Collector(otelcol, tmp_path / "agent", AGENT, environ=environ)


def gateway_environ(tmp_path: Path, next_endpoint: str) -> dict[str, str]:
    return {"OTLP_NEXT_ENDPOINT": next_endpoint, "OTELCOL_QUEUE_DIR": str(tmp_path / "queue")}


def uids(records: list[ReceivedRecord]) -> list[str]:
    return [record.uid for record in records]


def ask(otelcol: Path, config: Path, environ: Mapping[str, str], *command: str) -> Any:
    return subprocess.run(
        [str(otelcol), *command, "--config", str(config)],
        env={**os.environ, **environ}, capture_output=True, text=True, timeout=60, check=False,
    )


def effective(otelcol: Path, config: Path, environ: Mapping[str, str]) -> Any:
    """Return the configuration as the Collector understands it, defaults filled in."""
    printed = ask(otelcol, config, environ, "print-config", "--format", "json")
    assert printed.returncode == 0, printed.stderr
    return json.loads(printed.stdout)


@pytest.mark.collector
def test_the_collector_accepts_both_configurations(otelcol: Path, tmp_path: Path) -> None:
    """`validate` finds no fault, with the environment variables that each file names."""
    agent = ask(otelcol, AGENT, {}, "validate")
    assert agent.returncode == 0, agent.stderr
    gateway = ask(otelcol, GATEWAY, gateway_environ(tmp_path, "http://127.0.0.1:1"), "validate")
    assert gateway.returncode == 0, gateway.stderr


@pytest.mark.collector
def test_a_gateway_without_a_backend_is_refused(otelcol: Path) -> None:
    """A forgotten variable is an error at start, not a queue that nothing ever empties."""
    refused = ask(otelcol, GATEWAY, {"OTLP_NEXT_ENDPOINT": ""}, "validate")
    assert refused.returncode != 0
    assert "endpoint" in refused.stderr


@pytest.mark.collector
def test_the_gateway_queue_is_fsynced_and_gives_up_never(otelcol: Path, tmp_path: Path) -> None:
    """What no kill test can show: fsync on, no time limit, nothing in memory before the queue."""
    config = effective(otelcol, GATEWAY, gateway_environ(tmp_path, "http://127.0.0.1:1"))
    exporter = config["exporters"]["otlp_http"]
    assert config["extensions"]["file_storage"]["fsync"] is True
    assert exporter["sending_queue"]["storage"] == "file_storage"
    assert exporter["sending_queue"]["num_consumers"] == 1
    assert exporter["retry_on_failure"]["enabled"] is True
    assert exporter["retry_on_failure"]["max_elapsed_time"] == 0
    assert config["service"]["pipelines"]["logs"]["processors"] == ["memory_limiter"]


@pytest.mark.collector
def test_a_record_passes_through_agent_and_gateway_unchanged(
    otelcol: Path, tmp_path: Path
) -> None:
    """Everything that a memory event is made of arrives behind both configurations."""
    span = SpanContext(trace_id=0xABC, span_id=0xDEF, is_remote=False)
    sink = make_sink(otelcol, tmp_path)
    gateway = make_gateway(otelcol, tmp_path, sink)
    with sink, gateway, make_agent(otelcol, tmp_path, gateway) as agent:
        result = export_http(
            agent, "uid-1", timestamp=1_700_000_000_000_000_007, observed_timestamp=42,
            event_name="memoir.record.created", body="created profile/alice",
            severity_number=SeverityNumber.INFO,
            attributes={"n": 2**53 + 1, "f": 1.5, "t": True, "l": ["a", "b"], "b": b"\x00\xff"},
            context=set_span_in_context(NonRecordingSpan(span)),
        )
        assert result is LogRecordExportResult.SUCCESS
        [record] = sink.wait_received(1)
    assert record.uid == "uid-1"
    assert record.time_unix_nano == 1_700_000_000_000_000_007
    assert record.observed_time_unix_nano == 42
    assert record.event_name == "memoir.record.created"
    assert record.body == "created profile/alice"
    assert record.severity_number == 9
    assert record.attributes == {
        "log.record.uid": "uid-1", "n": 2**53 + 1, "f": 1.5, "t": True, "l": ["a", "b"],
        "b": b"\x00\xff",
    }
    assert int(record.trace_id, 16) == 0xABC
    assert int(record.span_id, 16) == 0xDEF
    assert record.scope_name == "test.scope"
    assert record.resource_attributes["service.name"] == "memoir-test"


@pytest.mark.collector
def test_an_agent_does_not_say_ok_before_its_gateway_has(otelcol: Path, tmp_path: Path) -> None:
    """Without a gateway the agent refuses; a queue in the agent would have said 200."""
    gateway = make_gateway(otelcol, tmp_path, make_sink(otelcol, tmp_path))
    with make_agent(otelcol, tmp_path, gateway) as agent:
        exporter = OTLPLogExporter(f"{agent.http_endpoint}/v1/logs", timeout=0.5)
        assert export(exporter, "uid-1") is LogRecordExportResult.FAILURE
        agent.restart([AGENT, {"exporters": {"otlp_grpc": {"sending_queue": {"enabled": True}}}}])
        assert export_http(agent, "uid-2") is LogRecordExportResult.SUCCESS
        agent.kill()  # in order it would wait for a gateway that never comes


def survivors(otelcol: Path, tmp_path: Path, *first_life: Any) -> list[str]:
    """Acknowledge one record, kill the gateway, and see what a durable second life delivers.

    The second record shows when the first one cannot come any more: the queue is first in,
    first out, and one request is sent at a time.
    """
    sink = make_sink(otelcol, tmp_path)
    gateway = make_gateway(otelcol, tmp_path, sink, *first_life)
    with gateway:
        assert export_http(gateway, "acknowledged") is LogRecordExportResult.SUCCESS
        gateway.kill()
        with sink:
            gateway.restart(GATEWAY)
            assert export_http(gateway, "marker") is LogRecordExportResult.SUCCESS
            return uids(sink.wait_received(lambda all_: "marker" in uids(all_), timeout=20))


@pytest.mark.collector
def test_what_the_gateway_acknowledged_survives_its_kill(otelcol: Path, tmp_path: Path) -> None:
    """kill -9 right after the 200, with the backend down: the record still arrives, once."""
    assert survivors(otelcol, tmp_path) == ["acknowledged", "marker"]


@pytest.mark.collector
def test_the_same_gateway_with_a_queue_in_memory_loses_it(otelcol: Path, tmp_path: Path) -> None:
    """Negative control: it is the storage of the queue that keeps the record."""
    assert survivors(otelcol, tmp_path, IN_MEMORY_QUEUE) == ["marker"]


@pytest.mark.collector
def test_the_same_gateway_with_a_batch_processor_loses_it(otelcol: Path, tmp_path: Path) -> None:
    """Negative control: a batch processor undoes a durable queue behind it."""
    assert survivors(otelcol, tmp_path, BATCH_IN_FRONT) == ["marker"]


@pytest.mark.collector
def test_what_a_sink_acknowledged_survives_its_kill(collector: Collector) -> None:
    """The tests' own sink must not lose what it took, or it would blame the product."""
    assert export_http(collector, "first life") is LogRecordExportResult.SUCCESS
    collector.kill()
    assert uids(collector.received()) == ["first life"]
    collector.restart()
    assert export_http(collector, "second life") is LogRecordExportResult.SUCCESS
    assert uids(collector.received()) == ["first life", "second life"]


@pytest.mark.collector
def test_a_sink_takes_grpc_as_well(collector: Collector) -> None:
    """The second endpoint speaks OTLP/gRPC."""
    exporter = GrpcLogExporter(collector.grpc_endpoint, insecure=True, timeout=5)
    assert export(exporter, "over grpc") is LogRecordExportResult.SUCCESS
    assert uids(collector.received()) == ["over grpc"]


@pytest.mark.collector
def test_a_sink_with_a_token_refuses_a_request_without_it(collector: Collector) -> None:
    """A real 401, and the same request passes with the token."""
    collector.restart(file_sink_config(collector.output, token="sesame"))
    assert export_http(collector, "no token") is LogRecordExportResult.FAILURE
    exporter = OTLPLogExporter(
        f"{collector.http_endpoint}/v1/logs", headers={"authorization": "Bearer sesame"}
    )
    assert export(exporter, "token") is LogRecordExportResult.SUCCESS
    assert uids(collector.received()) == ["token"]


@pytest.mark.collector
def test_a_collector_that_cannot_start_says_why(otelcol: Path, tmp_path: Path) -> None:
    """A faulty configuration ends the wait at once, with the Collector's own words."""
    with pytest.raises(CollectorError, match="no_such_receiver"):
        Collector(otelcol, tmp_path, {"receivers": {"no_such_receiver": {}}}).start()


@pytest.mark.collector
def test_waiting_for_a_record_that_never_comes_fails(collector: Collector) -> None:
    """The wait ends at its deadline, and at once when the Collector has ended."""
    with pytest.raises(CollectorError, match="0 have arrived"):
        collector.wait_received(1, timeout=0.05)
    collector.kill()
    with pytest.raises(CollectorError, match="0 have arrived"):
        collector.wait_received(1, timeout=3600)


def run_tool(**environ: str) -> subprocess.CompletedProcess[str]:
    """Run the tool with this environment and nothing else."""
    return subprocess.run(
        [sys.executable, str(TOOL)], env=environ, capture_output=True, text=True, timeout=60,
        check=False,
    )


def write_program(path: Path, says: str) -> None:
    path.write_text(f"#!/bin/sh\necho '{says}'\n")
    path.chmod(0o755)


def test_a_machine_without_go_and_collector_is_told_the_remedy(tmp_path: Path) -> None:
    """Nothing on PATH, nothing cached: an error that says what to install or to set."""
    found = run_tool(PATH=str(tmp_path), XDG_CACHE_HOME=str(tmp_path / "cache"))
    assert found.returncode == 1
    assert found.stdout == ""
    assert "Install Go" in found.stderr
    assert "OTELCOL" in found.stderr


def test_a_collector_without_the_components_is_passed_over(tmp_path: Path) -> None:
    """A distribution on PATH that lacks parts, or has them too old, is named and not used."""
    old = "    module: go.opentelemetry.io/collector/receiver/otlpreceiver v0.99.0"
    write_program(tmp_path / "otelcol-contrib", old)
    found = run_tool(PATH=str(tmp_path), XDG_CACHE_HOME=str(tmp_path / "cache"))
    assert found.returncode == 1
    assert "otlpreceiver" in found.stderr


def test_a_collector_on_path_with_all_components_is_used(tmp_path: Path) -> None:
    """The same parts, at the manifest's versions: no build is needed."""
    lines = (ROOT / "collector-config" / "builder.yaml").read_text().splitlines()
    parts = [line.replace("gomod:", "module:") for line in lines if "gomod:" in line]
    write_program(tmp_path / "otelcol", "\n".join(parts))
    found = run_tool(PATH=str(tmp_path), XDG_CACHE_HOME=str(tmp_path / "cache"))
    assert found.returncode == 0, found.stderr
    assert found.stdout.splitlines()[-1] == str(tmp_path / "otelcol")


def test_a_chosen_collector_that_does_not_do_is_an_error(tmp_path: Path) -> None:
    """`OTELCOL` is never overruled in silence."""
    write_program(tmp_path / "mine", "nothing")
    for chosen in ("mine", "absent"):
        found = run_tool(PATH=os.environ["PATH"], OTELCOL=str(tmp_path / chosen))
        assert found.returncode == 1
        assert chosen in found.stderr


@pytest.mark.collector
def test_a_finished_build_is_found_without_go(otelcol: Path, tmp_path: Path) -> None:
    """The cache serves a machine from which Go has been removed, and only this manifest's."""
    if "otel-memoir" not in otelcol.parts:
        pytest.skip("the Collector is not from the cache: unset OTELCOL to run this test")
    cache = tmp_path / "cache" / "otel-memoir"
    cache.mkdir(parents=True)
    kept = cache / otelcol.name
    shutil.copy(otelcol, kept)
    environ = {"PATH": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    assert run_tool(**environ).stdout.splitlines() == [str(kept)]
    kept.rename(cache / "otelcol-000000000000-go1.26")
    assert run_tool(**environ).returncode == 1
