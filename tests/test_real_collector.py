"""A real Collector that is misconfigured or in trouble, and repaired while we wait.

Two hundred records are pending each time. Nobody restarts our process: the repair alone
must bring every record in. Each test also says what the answer was, as `otel status` does;
`pytest -s` prints the table.
"""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from collector import Collector, file_sink_config
from socket_programs.wiring import Agent, agent, numbers

pytestmark = pytest.mark.collector

COUNT = 200
TIMEOUT_S = 30.0
ANYONE_WAITS = threading.Event()
TABLE: list[str] = []

HTTP, GRPC = "http/protobuf", "grpc"


@pytest.fixture(scope="module", autouse=True)
def table() -> Iterator[None]:
    """Print what was seen, for `docs/`."""
    yield
    print("\n| trouble | protocol | answers, most often first | hold |\n|---|---|---|---|")
    print("\n".join(TABLE))


@pytest.fixture
def sink(otelcol: Path, tmp_path: Path) -> Iterator[Collector]:
    """A Collector that is not started yet."""
    (tmp_path / "collector").mkdir()
    made = Collector(otelcol, tmp_path / "collector")
    yield made
    if made.running:
        made.stop()


def good(sink: Collector, **changes: Any) -> dict[str, Any]:
    """The configuration of a working sink, with changes merged in."""
    return merged(file_sink_config(sink.output), changes)


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    result = copy.deepcopy(dict(base))
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = merged(result[key], value) if both else value
    return result


def receiver(protocol: str, **options: Any) -> dict[str, Any]:
    """An option of one of the receiver's protocols, as a configuration to merge in."""
    name = "http" if protocol == HTTP else "grpc"
    return {"receivers": {"otlp": {"protocols": {name: options}}}}


def endpoint(sink: Collector, protocol: str) -> str:
    return sink.http_endpoint if protocol == HTTP else sink.grpc_endpoint


def until(condition: Callable[[], Any], timeout: float = TIMEOUT_S) -> bool:
    """Wait for what no event tells; return whether it came."""
    deadline_s = time.monotonic() + timeout
    while not condition():
        if time.monotonic() >= deadline_s:
            return False
        ANYONE_WAITS.wait(0.02)
    return True


def attempts(it: Agent) -> dict[str, int]:
    courier = it.processor.pipeline.courier
    return courier.tally.attempts() if courier else {}


def note(trouble: str, protocol: str, it: Agent) -> None:
    """Add a row to the table."""
    hold = it.processor.status().hold
    codes = sorted(attempts(it).items(), key=lambda pair: -pair[1])
    said = ", ".join(f"`{code}` x{count}" for code, count in codes)
    why = f"`{hold.code}`: {hold.message[:90]} → {hold.hint[:90]}" if hold else "none (backoff)"
    TABLE.append(f"| {trouble} | {protocol} | {said} | {why} |")


def in_trouble(it: Agent, tries: int = 4, **attributes: Any) -> None:
    """Emit what will be pending, and wait until the trouble was met several times."""
    it.emit(COUNT, **attributes)
    assert until(lambda: sum(attempts(it).values()) >= tries), attempts(it)
    totals = it.totals
    assert totals.accepted == totals.pending == COUNT
    assert totals.unaccounted == 0


def assert_all_arrive(it: Agent, sink: Collector) -> None:
    """Every record, none set aside, and the books balance."""
    assert it.processor.wait_delivered(TIMEOUT_S), (it.totals, attempts(it))
    totals = it.totals
    assert (totals.unaccounted, totals.quarantined, totals.rejected) == (0, 0, 0)
    assert totals.delivered == totals.accepted
    records = sink.wait_received(len(it.emitted))
    assert [*dict.fromkeys(numbers(records))] == it.emitted
    uids = {r.uid for r in records if "number" in r.attributes}
    assert len(uids) == len(it.emitted)
    assert until(lambda: it.processor.status().hold is None)


@pytest.mark.parametrize("protocol", [HTTP, GRPC])
def test_a_healthy_collector_takes_everything_once(
    protocol: str, sink: Collector, tmp_path: Path
) -> None:
    """The control: one plain OK a request, no duplicate."""
    sink.start()
    with agent(tmp_path / "spool", endpoint(sink, protocol), protocol=protocol) as it:
        it.emit(COUNT)
        assert_all_arrive(it, sink)
        note("none", protocol, it)
        assert it.totals.ambiguous_attempts == 0
    assert len(sink.received()) == COUNT


def test_a_wrong_path_holds_until_the_collector_serves_it(
    sink: Collector, tmp_path: Path
) -> None:
    """404 is a misconfiguration, not a reason to drop."""
    sink.start().restart(good(sink, **receiver(HTTP, logs_url_path="/elsewhere")))
    with agent(tmp_path / "spool", sink.http_endpoint) as it:
        in_trouble(it)
        note("wrong path", HTTP, it)
        hold = it.processor.status().hold
        assert hold is not None
        assert hold.code == "http 404"
        sink.restart(good(sink))
        assert_all_arrive(it, sink)


@pytest.mark.parametrize("protocol", [HTTP, GRPC])
def test_a_collector_without_a_logs_pipeline_holds_until_it_has_one(
    protocol: str, sink: Collector, tmp_path: Path
) -> None:
    """404 over HTTP, UNIMPLEMENTED over gRPC; the hint names the pipeline."""
    without = good(sink)
    without["service"]["pipelines"] = {"traces": without["service"]["pipelines"].pop("logs")}
    sink.start().restart(without)
    with agent(tmp_path / "spool", endpoint(sink, protocol), protocol=protocol) as it:
        in_trouble(it)
        note("no logs pipeline", protocol, it)
        hold = it.processor.status().hold
        assert hold is not None
        assert hold.code == ("http 404" if protocol == HTTP else "grpc UNIMPLEMENTED")
        assert "logs pipeline" in hold.hint
        sink.restart(good(sink))
        assert_all_arrive(it, sink)


@pytest.mark.parametrize("protocol", [HTTP, GRPC])
def test_the_wrong_protocol_on_the_port_holds_until_the_port_speaks_ours(
    protocol: str, sink: Collector, tmp_path: Path
) -> None:
    """HTTP to the gRPC port and the reverse; the hint names the other port."""
    wrong = sink.grpc_endpoint if protocol == HTTP else sink.http_endpoint
    sink.start()
    with agent(tmp_path / "spool", wrong, protocol=protocol) as it:
        in_trouble(it)
        note("the other protocol's port", protocol, it)
        hold = it.processor.status().hold
        assert hold is not None
        assert ("4318" if protocol == HTTP else "4317") in hold.hint
        swapped = good(sink)
        protocols = swapped["receivers"]["otlp"]["protocols"]
        protocols["http"]["endpoint"], protocols["grpc"]["endpoint"] = (
            protocols["grpc"]["endpoint"], protocols["http"]["endpoint"]
        )
        sink.restart(swapped)
        assert_all_arrive(it, sink)


@pytest.mark.parametrize("protocol", [HTTP, GRPC])
def test_a_refused_token_holds_until_the_collector_accepts_it(
    protocol: str, sink: Collector, tmp_path: Path
) -> None:
    """The server's side of a rotated token; nothing is dropped meanwhile."""
    sink.start().restart(file_sink_config(sink.output, token="new"))
    mine = {"authorization": "Bearer old"}
    with agent(
        tmp_path / "spool", endpoint(sink, protocol), protocol=protocol, headers=mine
    ) as it:
        in_trouble(it)
        note("refused token", protocol, it)
        hold = it.processor.status().hold
        assert hold is not None
        assert hold.code == ("http 401" if protocol == HTTP else "grpc UNAUTHENTICATED")
        assert "OTEL_EXPORTER_OTLP_HEADERS" in hold.hint
        sink.restart(file_sink_config(sink.output, token="old"))
        assert_all_arrive(it, sink)


def test_a_body_limit_below_the_batch_is_met_by_smaller_requests(
    sink: Collector, tmp_path: Path
) -> None:
    """The Collector says 400 for too large; halves fit, and no repair is needed."""
    sink.start().restart(good(sink, **receiver(HTTP, max_request_body_size=4000)))
    with agent(tmp_path / "spool", sink.http_endpoint, linger_s=0.3) as it:
        it.emit(COUNT, padding="x" * 200)
        assert_all_arrive(it, sink)
        note("body limit above a record", HTTP, it)
        assert attempts(it).get("http 400", 0) > 0


def test_a_record_above_the_body_limit_is_set_aside_and_named_and_the_rest_arrives(
    sink: Collector, tmp_path: Path
) -> None:
    """A record that fails alone while an empty request is taken is set aside, not lost."""
    sink.start().restart(good(sink, **receiver(HTTP, max_request_body_size=4000)))
    with agent(tmp_path / "spool", sink.http_endpoint) as it:
        it.emit(COUNT // 2)
        it.emit(1, padding="x" * 5000)
        it.emit(COUNT // 2)
        assert until(lambda: it.totals.quarantined == 1 and it.totals.pending == 0), it.totals
        note("body limit below one record", HTTP, it)
        assert it.totals.unaccounted == 0
        records = sink.wait_received(lambda r: any(x.event_name for x in r))
    assert numbers(records) == [n for n in it.emitted if n != COUNT // 2]
    (gap,) = [r for r in records if r.event_name == "memoir.delivery.gap"]
    assert gap.attributes["memoir.gap.records"] == 1


def test_a_grpc_message_limit_below_the_batch_is_met_by_smaller_requests(
    sink: Collector, tmp_path: Path
) -> None:
    """RESOURCE_EXHAUSTED without RetryInfo: halves fit, nothing is set aside."""
    sink.start().restart(good(sink, **receiver(GRPC, max_recv_msg_size_mib=1)))
    with agent(
        tmp_path / "spool", sink.grpc_endpoint, protocol=GRPC, linger_s=0.3,
        request_bytes_max=3_000_000,
    ) as it:
        it.emit(COUNT, padding="x" * 10_000)
        assert_all_arrive(it, sink)
        note("message limit above a record", GRPC, it)
        assert attempts(it).get("grpc RESOURCE_EXHAUSTED", 0) > 0


@pytest.mark.parametrize("protocol", [HTTP, GRPC])
def test_a_memory_limiter_that_refuses_everything_is_waited_for(
    protocol: str, sink: Collector, tmp_path: Path
) -> None:
    """503 and UNAVAILABLE: backoff, no hold, nothing lost."""
    refusing = good(
        sink,
        processors={"memory_limiter": {"check_interval": "100ms", "limit_mib": 1}},
        service={"pipelines": {"logs": {"processors": ["memory_limiter"]}}},
    )
    sink.start().restart(refusing)
    # It first looks at its memory after a check interval, and says when it refuses.
    assert until(lambda: "Refusing data" in sink.log), sink.log
    with agent(tmp_path / "spool", endpoint(sink, protocol), protocol=protocol) as it:
        in_trouble(it)
        note("memory limiter", protocol, it)
        sink.restart(good(sink))
        assert_all_arrive(it, sink)


@pytest.mark.parametrize("protocol", [HTTP, GRPC])
def test_a_full_queue_is_waited_for_and_the_repaired_collector_gets_the_rest(
    protocol: str, sink: Collector, tmp_path: Path, otelcol: Path
) -> None:
    """The next hop is down and the queue of the first is full.

    What the first hop had acknowledged into its memory is its own promise, so it ends in
    order here, with the next hop back.
    """
    (tmp_path / "edge").mkdir()
    edge = Collector(otelcol, tmp_path / "edge", queueing(sink))
    with edge, agent(
        tmp_path / "spool", endpoint(edge, protocol), protocol=protocol, request_records_max=10
    ) as it:
        it.emit(COUNT)
        assert until(lambda: any("503" in c or "UNAVAILABLE" in c for c in attempts(it)))
        note("full queue", protocol, it)
        assert it.totals.pending > 0
        assert (it.totals.unaccounted, it.totals.quarantined) == (0, 0)
        sink.start()
        assert_all_arrive(it, sink)


def queueing(sink: Collector) -> dict[str, Any]:
    """A Collector with a queue of two requests before the sink."""
    config = file_sink_config(sink.output)
    config["exporters"] = {"otlp_http": {
        "endpoint": sink.http_endpoint,
        "sending_queue": {"queue_size": 2, "num_consumers": 1},
        "retry_on_failure": {"initial_interval": "50ms", "max_interval": "100ms"},
    }}
    config["service"]["pipelines"]["logs"]["exporters"] = ["otlp_http"]
    return config


@pytest.mark.parametrize("protocol", [HTTP, GRPC])
def test_a_collector_that_is_killed_and_started_again_gets_every_record(
    protocol: str, sink: Collector, tmp_path: Path
) -> None:
    """SIGKILL in the middle of the stream; what was acknowledged is on its file already."""
    sink.start()
    with agent(
        tmp_path / "spool", endpoint(sink, protocol), protocol=protocol, request_records_max=10
    ) as it:
        it.emit(COUNT // 2)
        sink.wait_received(1)
        sink.kill()
        it.emit(COUNT // 2)
        assert until(lambda: any(c not in ("http 200", "grpc OK") for c in attempts(it)))
        note("killed", protocol, it)
        sink.start()
        assert_all_arrive(it, sink)
