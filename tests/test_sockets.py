"""Where OpenTelemetry plugs us in: each socket, each way to log, each way to die.

A program emits through a socket and dies at once, with a destination at which nobody
listens. A second process's pipeline over the same directory then delivers what it left.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket as sockets
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry._logs import LogRecord
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor, SimpleLogRecordProcessor
from opentelemetry.sdk.resources import Resource

from collector import Collector
from otel_memoir import DurableLogExporter, DurableLogRecordProcessor
from otel_memoir.diagnostics import logger as own_logger
from otel_memoir.sdk.entry_points import EntryPointLogExporter
from otel_memoir.spool.inspect import status_of_directory, sum_totals
from otel_memoir.testing import ScriptedCollector
from socket_programs.wiring import agent, numbers

PROGRAMS = Path(__file__).resolve().parent / "socket_programs"
INSTRUMENT = Path(sys.executable).with_name("opentelemetry-instrument")
TIMEOUT_S = 30.0
COUNT = 25

YAML = """
file_format: "1.1"
resource: {{attributes: [{{name: service.name, value: agent}}]}}
logger_provider:
  processors:
    - {processor}: {{exporter: {{memoir: {{spool_dir: "{spool}", endpoint: "{endpoint}"}}}}}}
"""

CONFIGURED = ("environment", "yaml simple", "yaml batch")
SOCKETS = ("processor", "simple", *CONFIGURED)
DEATHS = ("exit", "kill", "fork")


@pytest.fixture
def collector() -> Iterator[ScriptedCollector]:
    with ScriptedCollector() as running:
        yield running


def nowhere() -> str:
    """A URL at which nobody listens."""
    with sockets.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


def environment(kind: str, tmp_path: Path, endpoint: str, **more: str) -> dict[str, str]:
    """The environment of a program that is wired as the socket's name says."""
    environ = {
        name: value for name, value in os.environ.items()
        if not name.startswith(("OTEL_", "MEMOIR_"))
    }
    if kind in CONFIGURED and kind != "environment":
        path = tmp_path / "otel.yaml"
        path.write_text(YAML.format(
            processor=kind.removeprefix("yaml "), spool=tmp_path / "spool", endpoint=endpoint
        ))
        environ["OTEL_CONFIG_FILE"] = str(path)
    else:
        environ |= {
            "MEMOIR_SPOOL_DIR": str(tmp_path / "spool"),
            "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_LOGS_EXPORTER": "memoir", "OTEL_TRACES_EXPORTER": "none",
            "OTEL_METRICS_EXPORTER": "none",
        }
    return {**environ, **more}


def run_program(
    kind: str, tmp_path: Path, *arguments: str, program: str = "emitter.py",
    endpoint: str = "", ends_by: int = 0, **more: str,
) -> tuple[list[int], str]:
    """Run a program until it is dead; return what it said it emitted, and its stderr."""
    command = [sys.executable, str(PROGRAMS / program), *arguments]
    if kind in CONFIGURED:
        command.insert(0, str(INSTRUMENT))
    done = subprocess.run(
        command, env=environment(kind, tmp_path, endpoint or nowhere(), **more), text=True,
        capture_output=True, timeout=60, check=False,
    )
    assert done.returncode == -ends_by, done.stderr
    return sorted(int(line) for line in done.stdout.split()), done.stderr


def emit_and_die(kind: str, api: str, death: str, tmp_path: Path) -> list[int]:
    emitted, stderr = run_program(
        kind, tmp_path, "configured" if kind in CONFIGURED else kind, api, death, str(COUNT),
        ends_by=signal.SIGKILL if death == "kill" else 0,
    )
    assert len(emitted) == COUNT * (3 if death == "fork" else 1), stderr
    return emitted


def drain(tmp_path: Path, endpoint: str) -> None:
    """Deliver what dead programs left, as any later process of the same service does."""
    with agent(tmp_path / "spool", endpoint) as later:
        later.logger.emit(LogRecord(body="a later process"))
        assert later.processor.wait_delivered(TIMEOUT_S)


# -- the table ----------------------------------------------------------------


@pytest.mark.parametrize("death", DEATHS)
@pytest.mark.parametrize("api", ["api", "stdlib"])
@pytest.mark.parametrize("kind", SOCKETS)
def test_what_was_emitted_before_a_sudden_death_is_delivered_by_a_later_process(
    kind: str, api: str, death: str, collector: ScriptedCollector, tmp_path: Path
) -> None:
    """Each number that was told after its emit returned arrives, once, under its own uid."""
    emitted = emit_and_die(kind, api, death, tmp_path)
    assert not collector.requests
    drain(tmp_path, collector.endpoint)
    assert numbers(collector.delivered) == emitted
    ours = [r for r in collector.delivered if "number" in r.attributes]
    assert len({r.uid for r in ours}) == len(emitted)
    streams = {(r.stream_id, r.epoch) for r in ours}
    assert len(streams) == (2 if death == "fork" else 1)
    totals = sum_totals(status_of_directory(tmp_path / "spool"))
    assert (totals.pending, totals.unaccounted) == (0, 0)
    assert totals.delivered == totals.accepted


@pytest.mark.collector
@pytest.mark.parametrize("kind", SOCKETS)
def test_what_was_emitted_before_a_kill_reaches_a_real_collector(
    kind: str, collector: None, tmp_path: Path, otelcol: Path
) -> None:
    """The same with a real Collector, one row for each socket."""
    emitted = emit_and_die(kind, "api", "kill", tmp_path)
    (tmp_path / "collector").mkdir()
    with Collector(otelcol, tmp_path / "collector") as real:
        drain(tmp_path, real.http_endpoint)
        records = real.wait_received(len(emitted))
    ours = [r for r in records if "number" in r.attributes]
    assert numbers(ours) == emitted
    assert len({r.uid for r in ours}) == len(emitted)
    assert {r.attributes["memoir.sequence"] for r in ours} == {*range(1, COUNT + 1)}


def test_behind_a_hand_built_batch_processor_records_die_and_the_remedy_is_said(
    collector: ScriptedCollector, tmp_path: Path
) -> None:
    """The negative control: SDK memory is lost. What reaches us late is stored, with a warning."""
    emitted, _ = run_program("batch", tmp_path, "batch", "api", "exit", str(COUNT))
    assert len(emitted) == COUNT
    drain(tmp_path, collector.endpoint)
    assert numbers(collector.delivered) == []


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("kind", ["environment", "yaml batch"])
def test_records_of_multiprocessing_children_are_delivered(
    kind: str, method: str, collector: ScriptedCollector, tmp_path: Path
) -> None:
    """Three streams, none of whose processes ran an atexit hook."""
    emitted, stderr = run_program(kind, tmp_path, method, "10", program="children.py")
    assert len(emitted) == 30, stderr
    drain(tmp_path, collector.endpoint)
    assert numbers(collector.delivered) == emitted
    ours = [r for r in collector.delivered if "number" in r.attributes]
    assert len({(r.stream_id, r.epoch) for r in ours}) == 3


def test_a_program_that_lives_delivers_by_itself(
    collector: ScriptedCollector, tmp_path: Path
) -> None:
    """With a destination that answers, no second process is needed, and nothing is sent twice."""
    script = (
        "from opentelemetry import _logs\n"
        "for n in range(25):\n"
        "    _logs.get_logger('p').emit(_logs.LogRecord(body='x', attributes={'number': n}))\n"
    )
    done = subprocess.run(
        [str(INSTRUMENT), sys.executable, "-c", script], text=True, capture_output=True,
        env=environment("environment", tmp_path, collector.endpoint), timeout=60, check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert numbers(collector.taken) == [*range(25)]


# -- constructing -------------------------------------------------------------


def without_side_effects(make: Callable[[], Any], tmp_path: Path) -> Any:
    threads, files = {*threading.enumerate()}, {*os.listdir("/proc/self/fd")}
    made = make()
    assert {*threading.enumerate()} == threads
    assert {*os.listdir("/proc/self/fd")} == files
    assert not (tmp_path / "spool").exists()
    return made


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc: run it on Linux")
@pytest.mark.parametrize("make", [DurableLogRecordProcessor, DurableLogExporter])
def test_constructing_opens_no_file_and_starts_no_thread(
    make: Any, collector: ScriptedCollector, tmp_path: Path
) -> None:
    """The first record does; shutting down an unused one does neither."""
    spool = str(tmp_path / "spool")
    made = without_side_effects(
        lambda: make(spool_dir=spool, endpoint=collector.endpoint, environ={}), tmp_path
    )
    without_side_effects(made.force_flush, tmp_path)
    without_side_effects(made.shutdown, tmp_path)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc: run it on Linux")
def test_the_entry_point_constructs_without_side_effects(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Helper interpreters construct exporters too, and must not litter."""
    monkeypatch.setenv("MEMOIR_SPOOL_DIR", str(tmp_path / "spool"))
    exporter = without_side_effects(EntryPointLogExporter, tmp_path)
    exporter.shutdown()


def test_a_record_makes_the_spool_and_the_thread(
    collector: ScriptedCollector, tmp_path: Path
) -> None:
    """The control of the tests above."""
    before = {*threading.enumerate()}  # other tests leave spools as a crash would
    with agent(tmp_path / "spool", collector.endpoint) as it:
        it.emit(1)
        assert any(t.name.startswith("memoir") for t in {*threading.enumerate()} - before)
        assert (tmp_path / "spool").is_dir()
    assert not any(t.name.startswith("memoir") for t in {*threading.enumerate()} - before)


def test_a_bad_environment_value_degrades_at_the_entry_point_and_is_said(
    collector: ScriptedCollector, tmp_path: Path
) -> None:
    """An exception there would take down the host's whole configuration."""
    emitted, stderr = run_program(
        "environment", tmp_path, "configured", "api", "exit", "5",
        MEMOIR_FSYNC_INTERVAL="soon", MEMOIR_DURABILITY="perhaps",
    )
    assert emitted == [*range(5)]
    assert "durability" in stderr
    assert "MEMOIR_FSYNC_INTERVAL" in stderr
    drain(tmp_path, collector.endpoint)
    assert numbers(collector.delivered) == emitted


def test_a_bad_key_in_a_yaml_file_degrades_and_is_said(
    collector: ScriptedCollector, tmp_path: Path
) -> None:
    """An unknown setting is named; the rest of the configuration stands."""
    emitted, _ = run_program("yaml simple", tmp_path, "configured", "api", "exit", "5")
    assert emitted == [*range(5)]
    path = tmp_path / "otel.yaml"
    path.write_text(path.read_text().replace("spool_dir:", "no_such_setting: 1, spool_dir:"))
    done = subprocess.run(
        [str(INSTRUMENT), sys.executable, str(PROGRAMS / "emitter.py"), "configured", "api",
         "exit", "5"], text=True, capture_output=True, timeout=60, check=False,
        env={**environment("environment", tmp_path, nowhere()), "OTEL_CONFIG_FILE": str(path)},
    )
    assert "no_such_setting" in done.stderr
    drain(tmp_path, collector.endpoint)
    assert numbers(collector.delivered) == sorted([*range(5), *range(5)])


def test_a_bad_setting_in_code_raises(tmp_path: Path) -> None:
    """In code a person is there to read it."""
    with pytest.raises(ValueError, match="durability"):
        DurableLogRecordProcessor(spool_dir=str(tmp_path), durability="perhaps")


def test_the_package_loses_nobody_elses_logs_and_changes_nothing_without_memoir(
    tmp_path: Path,
) -> None:
    """Its mere presence: no spool, no complaint, where it is not configured."""
    script = (
        "from opentelemetry import _logs\n"
        "_logs.get_logger('p').emit(_logs.LogRecord(body='to the console'))\n"
    )
    environ = environment("environment", tmp_path, nowhere(), OTEL_LOGS_EXPORTER="console")
    done = subprocess.run(
        [str(INSTRUMENT), sys.executable, "-c", script],
        text=True, capture_output=True, timeout=60, check=False, env=environ,
    )
    assert "to the console" in done.stdout
    assert (done.returncode, done.stderr) == (0, "")
    assert not (tmp_path / "spool").exists()


# -- in one process -----------------------------------------------------------


class Heard(logging.Handler):
    """What our own logger said."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@pytest.fixture
def heard() -> Iterator[Heard]:
    handler = Heard()
    own_logger.addHandler(handler)
    yield handler
    own_logger.removeHandler(handler)


@pytest.fixture
def given(collector: ScriptedCollector, tmp_path: Path) -> dict[str, Any]:
    return {
        "spool_dir": str(tmp_path / "spool"), "endpoint": collector.endpoint, "environ": {},
        "linger_s": 0.01, "shutdown_timeout_s": 1.0,
    }


def make_provider(*processors: Any) -> LoggerProvider:
    provider = LoggerProvider(Resource({"service.name": "agent"}), shutdown_on_exit=False)
    for processor in processors:
        provider.add_log_record_processor(processor)
    return provider


def test_the_exporter_warns_once_behind_a_batch_processor(
    given: dict[str, Any], collector: ScriptedCollector, heard: Heard
) -> None:
    """The warning has the remedy; the records that reach it are stored and delivered."""
    exporter = DurableLogExporter(**given)
    provider = make_provider(BatchLogRecordProcessor(exporter, schedule_delay_millis=50))
    for number in range(10):
        provider.get_logger("t").emit(LogRecord(attributes={"number": number}))
        provider.force_flush()
    assert exporter.wait_delivered(TIMEOUT_S)
    provider.shutdown()
    (line,) = [line for line in heard.lines if "BatchLogRecordProcessor" in line]
    assert "DurableLogRecordProcessor()" in line
    assert numbers(collector.delivered) == [*range(10)]


def test_the_exporter_does_not_warn_behind_a_simple_processor(
    given: dict[str, Any], collector: ScriptedCollector, heard: Heard
) -> None:
    """The control of the test above."""
    exporter = DurableLogExporter(**given)
    provider = make_provider(SimpleLogRecordProcessor(exporter))
    provider.get_logger("t").emit(LogRecord(attributes={"number": 1}))
    assert exporter.wait_delivered(TIMEOUT_S)
    provider.shutdown()
    assert heard.lines == []


def test_one_record_object_that_is_emitted_twice_is_two_emissions(
    given: dict[str, Any], collector: ScriptedCollector
) -> None:
    """Two uids, two sequence numbers: a uid belongs to an emission, not to an object."""
    processor = DurableLogRecordProcessor(**given)
    provider = make_provider(processor)
    record = LogRecord(body="again", attributes={"number": 7})
    for _ in range(2):
        provider.get_logger("t").emit(record)
    assert processor.wait_delivered(TIMEOUT_S)
    provider.shutdown()
    assert numbers(collector.delivered) == [7, 7]
    assert len({r.uid for r in collector.delivered}) == 2
    assert {r.sequence for r in collector.delivered} == {1, 2}


def test_one_record_object_emitted_twice_through_the_entry_points_wiring_is_stored_twice(
    given: dict[str, Any], collector: ScriptedCollector
) -> None:
    """Processor and batching exporter over one pipeline: each emission once, not 1 and not 4."""
    processor = DurableLogRecordProcessor(**given)
    exporter = DurableLogExporter(pipeline=processor.pipeline)
    batch = BatchLogRecordProcessor(exporter, schedule_delay_millis=50)
    provider = make_provider(processor, batch)
    record = LogRecord(body="again", attributes={"number": 7})
    for _ in range(2):
        provider.get_logger("t").emit(record)
    provider.force_flush()
    assert processor.wait_delivered(TIMEOUT_S)
    provider.shutdown()
    assert numbers(collector.delivered) == [7, 7]


def test_128_user_attributes_stay_whole_beside_the_stamps(
    given: dict[str, Any], collector: ScriptedCollector
) -> None:
    """The SDK's limit is 128: stamps as attributes would evict five of the user's."""
    processor = DurableLogRecordProcessor(**given)
    provider = make_provider(processor)
    mine = {f"mine.{n}": n for n in range(128)}
    provider.get_logger("t").emit(LogRecord(body="full", attributes=mine))
    assert processor.wait_delivered(TIMEOUT_S)
    provider.shutdown()
    (record,) = collector.delivered
    assert {k: v for k, v in record.attributes.items() if k.startswith("mine.")} == mine
    assert record.proto.dropped_attributes_count == 0
    assert record.uid
    assert record.stream_id
    assert record.epoch is not None
    assert record.sequence == 1


@pytest.mark.parametrize("first", ["processor", "exporter"])
def test_shutdown_comes_in_either_order_with_export_between(
    first: str, given: dict[str, Any], collector: ScriptedCollector
) -> None:
    """The last one that lets go closes: what comes between is stored, and delivered."""
    processor = DurableLogRecordProcessor(**given)
    exporter = DurableLogExporter(pipeline=processor.pipeline)
    pair: dict[str, Any] = {"processor": processor, "exporter": exporter}
    provider = make_provider(processor)
    late = make_provider(SimpleLogRecordProcessor(exporter))
    provider.get_logger("t").emit(LogRecord(attributes={"number": 1}))
    pair.pop(first).shutdown()
    (late if first == "processor" else provider).get_logger("t").emit(
        LogRecord(attributes={"number": 2})
    )
    (other,) = pair.values()
    other.shutdown()
    other.shutdown()
    assert numbers(collector.delivered) == [1, 2]
    assert processor.status().totals.pending == 0


def test_nothing_raises_after_shutdown_and_what_comes_is_counted_as_refused(
    given: dict[str, Any], collector: ScriptedCollector
) -> None:
    """Every public call, in any order, on both classes."""
    processor = DurableLogRecordProcessor(**given)
    provider = make_provider(processor)
    logger = provider.get_logger("t")
    logger.emit(LogRecord(attributes={"number": 1}))
    provider.shutdown()
    processor.shutdown()
    logger.emit(LogRecord(attributes={"number": 2}))
    assert processor.enabled() is False
    processor.force_flush(100)
    processor.wait_delivered(0.1)
    processor.status()
    assert numbers(collector.delivered) == [1]
    assert processor.status().totals.accepted == 1


def test_records_after_shutdown_start_nothing_anew(
    given: dict[str, Any], collector: ScriptedCollector, tmp_path: Path
) -> None:
    """Shut down before the first record: no thread, and the record is not accepted."""
    before = {*threading.enumerate()}
    processor = DurableLogRecordProcessor(**given)
    provider = make_provider(processor)
    processor.shutdown()
    provider.get_logger("t").emit(LogRecord(attributes={"number": 1}))
    assert not any(t.name.startswith("memoir") for t in {*threading.enumerate()} - before)
    assert processor.status().totals.accepted == 0


def test_a_record_that_cannot_be_read_does_not_harm_the_host(
    given: dict[str, Any], collector: ScriptedCollector, heard: Heard
) -> None:
    """What is handed in is somebody else's object."""
    processor = DurableLogRecordProcessor(**given)
    exporter = DurableLogExporter(pipeline=processor.pipeline)
    processor.on_emit(object())  # type: ignore[arg-type]  # that is the point
    exporter.export([object()])  # type: ignore[list-item]  # that is the point
    assert heard.lines
    exporter.shutdown()
    processor.shutdown()


@pytest.mark.parametrize("on_event_loop", ["handover", "block"])
def test_emit_on_an_event_loop_hands_over_unless_told_to_block(
    on_event_loop: str, given: dict[str, Any], collector: ScriptedCollector
) -> None:
    """Handed over, the loop's thread makes no commit; all is on disk after a flush all the same."""
    processor = DurableLogRecordProcessor(on_event_loop=on_event_loop, **given)
    logger = make_provider(processor).get_logger("t")
    logger.emit(LogRecord(attributes={"number": 0}))  # opens the file
    assert processor.wait_delivered(TIMEOUT_S)
    writers: set[str] = set()
    parts = processor.pipeline._made["parts"]  # there is no public way to see who commits
    assert parts.spool.file is not None
    connection = parts.spool.file.connection
    connection.set_trace_callback(lambda sql: writers.add(threading.current_thread().name))

    async def emit() -> None:
        for number in range(1, 101):
            logger.emit(LogRecord(attributes={"number": number}))

    loop = threading.Thread(target=lambda: asyncio.run(emit()), name="event-loop")
    loop.start()
    loop.join(TIMEOUT_S)
    assert processor.force_flush()
    connection.set_trace_callback(None)
    assert writers
    assert ("event-loop" in writers) is (on_event_loop == "block")
    assert processor.wait_delivered(TIMEOUT_S)
    processor.shutdown()
    assert numbers(collector.delivered) == [*range(101)]


@contextlib.contextmanager
def busy_disk(processor: DurableLogRecordProcessor) -> Iterator[None]:
    """Somebody else holds the write lock of the spool file: no commit gets through."""
    path = processor.status().path
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


def test_emit_on_an_event_loop_does_not_wait_for_a_busy_disk(
    given: dict[str, Any], collector: ScriptedCollector
) -> None:
    """The loop goes on, and the record comes once the disk answers."""
    processor = DurableLogRecordProcessor(**given)
    logger = make_provider(processor).get_logger("t")
    logger.emit(LogRecord(attributes={"number": 0}))
    assert processor.wait_delivered(TIMEOUT_S)

    async def emit() -> float:
        began_s = time.monotonic()
        for number in range(1, 11):
            logger.emit(LogRecord(attributes={"number": number}))
        return time.monotonic() - began_s

    with busy_disk(processor):
        stalled_s = asyncio.run(emit())
    assert stalled_s < 0.2
    assert processor.wait_delivered(TIMEOUT_S)
    processor.shutdown()
    assert numbers(collector.delivered) == [*range(11)]


@pytest.mark.parametrize("call", ["force_flush", "wait_delivered", "shutdown"])
def test_a_call_with_a_deadline_keeps_it_while_the_disk_is_busy(
    call: str, given: dict[str, Any], collector: ScriptedCollector
) -> None:
    """A host that ends must not hang on us: at most its timeout, and some slack."""
    settings = {**given, "emit_timeout_s": 5.0, "shutdown_timeout_s": 0.5}
    processor = DurableLogRecordProcessor(**settings)
    logger = make_provider(processor).get_logger("t")
    logger.emit(LogRecord(attributes={"number": 0}))
    assert processor.wait_delivered(TIMEOUT_S)
    calls: dict[str, Callable[[], Any]] = {
        "force_flush": lambda: processor.force_flush(500),
        "wait_delivered": lambda: processor.wait_delivered(0.5),
        "shutdown": processor.shutdown,
    }
    with busy_disk(processor):
        began_s = time.monotonic()
        answer = calls[call]()
        took_s = time.monotonic() - began_s
    processor.shutdown()
    assert not answer
    assert took_s < 2.0


def test_after_shutdown_with_the_destination_down_delivery_is_not_claimed(
    given: dict[str, Any], collector: ScriptedCollector, tmp_path: Path
) -> None:
    """The rest stays on disk, and the numbers can still be asked for."""
    collector.down()
    processor = DurableLogRecordProcessor(**{**given, "shutdown_timeout_s": 0.2})
    logger = make_provider(processor).get_logger("t")
    for number in range(3):
        logger.emit(LogRecord(attributes={"number": number}))
    began_s = time.monotonic()
    processor.shutdown()
    assert time.monotonic() - began_s < 3.0
    assert sum_totals(status_of_directory(tmp_path / "spool")).pending == 3
    assert not processor.wait_delivered(0.1)
    assert processor.status().totals.pending == 3


def test_wait_delivered_is_false_while_records_wait_and_force_flush_is_true(
    given: dict[str, Any], collector: ScriptedCollector
) -> None:
    """Flushed means fsynced; only `wait_delivered` speaks of the destination."""
    collector.down()
    processor = DurableLogRecordProcessor(**{**given, "shutdown_timeout_s": 0.1})
    make_provider(processor).get_logger("t").emit(LogRecord(attributes={"number": 1}))
    assert processor.force_flush()
    assert not processor.wait_delivered(0.2)
    processor.shutdown()
