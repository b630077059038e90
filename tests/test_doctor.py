"""``otel-memoir doctor`` and ``diagnose``: each finding provoked for real, and none without."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from opentelemetry._logs import LogRecord
from opentelemetry.sdk._logs import LoggerProvider, LogRecordProcessor
from opentelemetry.sdk._logs.export import (
    BatchLogRecordProcessor,
    InMemoryLogRecordExporter,
    SimpleLogRecordProcessor,
)

from collector import Collector
from otel_memoir import DurableLogExporter, DurableLogRecordProcessor
from otel_memoir.cli import main
from otel_memoir.observe.health_findings import CHECKS, Finding, finding
from otel_memoir.sdk import diagnose
from otel_memoir.sdk.diagnosis import complain_of_wiring
from otel_memoir.spool.connection import sqlite_lacks
from otel_memoir.spool.directory import slots
from otel_memoir.testing import (
    Answer,
    NtpAnswer,
    RecordedRequest,
    ScriptedCollector,
    ScriptedNtpServer,
)
from spool_helpers import open_spool
from test_cli import fill, pipeline, record

Environ = dict[str, str]
Provoked = contextlib.AbstractContextManager[Environ]
PROVOKE: dict[str, Callable[[Path], Provoked]] = {}
OTHER_UID = 65534


class Host:
    """Where all is well: a server that takes records, a clock that is right, a directory."""

    def __init__(self, directory: Path, server: ScriptedCollector, ntp: ScriptedNtpServer) -> None:
        self.environ = {
            "MEMOIR_SPOOL_DIR": str(directory),
            "MEMOIR_CLOCK_SOURCES": f"ntp://127.0.0.1:{ntp.port}",
            "MEMOIR_CLOCK_DIR": str(directory.parent / "clock"),
            "OTEL_EXPORTER_OTLP_ENDPOINT": server.endpoint,
        }


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """A host where all is well."""
    with ScriptedCollector() as server, ScriptedNtpServer() as ntp:
        yield Host(tmp_path / "spool", server, ntp)


def doctor(environ: Environ, *arguments: object) -> Result:
    """Run the command with an environment of ours only."""
    names = [n for n in os.environ if n.startswith(("OTEL_", "MEMOIR_"))]
    return CliRunner().invoke(
        main, ["doctor", *map(str, arguments)], env={**dict.fromkeys(names), **environ},
    )


def found(environ: Environ, *arguments: object) -> dict[str, Any]:
    """What it found, by id."""
    result = doctor(environ, "--json", *arguments)
    assert result.stdout, result.output
    return {one["id"]: one for one in json.loads(result.stdout)["findings"]}


def provokes(
    *ids: str,
) -> Callable[[Callable[[Path], Iterator[Environ]]], Callable[[Path], Iterator[Environ]]]:
    """Take a way to provoke findings into the list: it yields what the environment says more."""

    def take(way: Callable[[Path], Iterator[Environ]]) -> Callable[[Path], Iterator[Environ]]:
        PROVOKE.update(dict.fromkeys(ids, contextlib.contextmanager(way)))
        return way

    return take


# -- settings and wiring ------------------------------------------------------------------------


@provokes("settings.unknown")
def _misspelt(_: Path) -> Iterator[Environ]:
    yield {"MEMOIR_SPOOL_DIRECTORY": "/var/spool"}


@provokes("settings.unusable")
def _no_number(_: Path) -> Iterator[Environ]:
    yield {"MEMOIR_LINGER": "soon"}


@provokes("settings.contradiction")
def _at_odds(_: Path) -> Iterator[Environ]:
    yield {"MEMOIR_BACKOFF_INITIAL": "100"}


@provokes("wiring.sdk_disabled")
def _switched_off(_: Path) -> Iterator[Environ]:
    yield {"OTEL_SDK_DISABLED": "true"}


@provokes("wiring.no_logging")
def _logging_off(_: Path) -> Iterator[Environ]:
    yield {"OTEL_LOGS_EXPORTER": "memoir", "OTEL_PYTHON_LOG_AUTO_INSTRUMENTATION": "false"}


@provokes("wiring.batch_yaml")
def _batch(directory: Path) -> Iterator[Environ]:
    path = directory / "otel.yaml"
    path.write_text("logger_provider: {processors: [{batch: {exporter: {memoir: {}}}}]}")
    yield {"OTEL_CONFIG_FILE": str(path)}


@provokes("wiring.config_file")
def _no_yaml(directory: Path) -> Iterator[Environ]:
    path = directory / "otel.yaml"
    path.write_text("logger_provider: [")
    yield {"OTEL_CONFIG_FILE": str(path)}


# -- directories --------------------------------------------------------------------------------


@provokes("directory.unusable")
def _not_ours(directory: Path) -> Iterator[Environ]:
    (directory / "file").write_text("")
    yield {"MEMOIR_SPOOL_DIR": str(directory / "file" / "spool")}


@provokes("directory.volatile")
def _in_memory(_: Path) -> Iterator[Environ]:
    place = Path("/dev/shm") / f"memoir-doctor-{os.getpid()}"
    place.mkdir(mode=0o700)
    try:
        yield {"MEMOIR_SPOOL_DIR": str(place)}
    finally:
        place.rmdir()


@provokes("directory.open")
def _readable(directory: Path) -> Iterator[Environ]:
    fill(directory / "spool", 1)
    slots(directory / "spool")[0].database.chmod(0o644)
    yield {}


@provokes("directory.disk_low")
def _reserve(_: Path) -> Iterator[Environ]:
    yield {"MEMOIR_DISK_FREE_BYTES_MIN": str(2**50)}


# -- files --------------------------------------------------------------------------------------


@provokes("spool.unreadable")
def _garbage(directory: Path) -> Iterator[Environ]:
    (directory / "spool").mkdir(mode=0o700)
    (directory / "spool" / "memoir-0001.db").write_bytes(b"\xff" * 8192)
    (directory / "spool" / "memoir-0001.db").chmod(0o600)
    yield {}


@provokes("spool.broken")
def _moved_aside(directory: Path) -> Iterator[Environ]:
    (directory / "spool").mkdir(mode=0o700)
    path = directory / "spool" / "broken-0001-1795813967908113282.db"
    path.write_bytes(b"\xff" * 8192)
    path.chmod(0o600)
    yield {}


@provokes("spool.unaccounted")
def _miscounted(directory: Path) -> Iterator[Environ]:
    import sqlite3

    fill(directory / "spool", 3)
    with contextlib.closing(sqlite3.connect(slots(directory / "spool")[0].database)) as file:
        file.execute("UPDATE stream SET accepted = accepted + 1")
        file.commit()
    yield {}


@provokes("spool.hold")
def _held(directory: Path) -> Iterator[Environ]:
    with ScriptedCollector(lambda _: Answer(status=404)) as server:
        made = pipeline(directory / "spool", server.endpoint)
        made.store(record(1))
        assert server.wait_for(lambda s: bool(s.requests))
        made.close(1.0)
    yield {}


@provokes("spool.backlog")
def _slow(directory: Path) -> Iterator[Environ]:
    made = pipeline(directory / "spool")
    made.store(record(1))
    try:
        yield {"MEMOIR_HEALTH_BACKLOG_AGE": "0.001"}
    finally:
        made.close(0.0)


@provokes("spool.dead")
def _left(directory: Path) -> Iterator[Environ]:
    fill(directory / "spool", 3)
    yield {}


@provokes("spool.quarantine")
def _poison(directory: Path) -> Iterator[Environ]:
    def respond(request: RecordedRequest) -> Answer:
        return Answer(status=400 if b"poison" in request.body else 200)

    with ScriptedCollector(respond) as server:
        made = pipeline(directory / "spool", server.endpoint, linger_s=0.0)
        made.store(record(1, "poison"))
        for number in range(3):
            made.store(record(number))
        made.wait_delivered(10)
        made.close(1.0)
    yield {}


@provokes("spool.copy")
def _copied(directory: Path) -> Iterator[Environ]:
    fill(directory / "spool", 3)
    shutil.copy(slots(directory / "spool")[0].database, directory / "spool" / "memoir-0002.db")
    yield {}


# -- the endpoint -------------------------------------------------------------------------------


@provokes("endpoint.unusable")
def _no_scheme(_: Path) -> Iterator[Environ]:
    yield {"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4318"}


@provokes("endpoint.unreachable")
def _nobody(_: Path) -> Iterator[Environ]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    yield {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}"}


@provokes("endpoint.tls")
def _plain(_: Path) -> Iterator[Environ]:
    with ScriptedCollector() as server:
        yield {"OTEL_EXPORTER_OTLP_ENDPOINT": server.endpoint.replace("http:", "https:")}


@provokes("endpoint.protocol")
def _grpc_port(_: Path) -> Iterator[Environ]:
    with ScriptedCollector() as server:
        yield {"OTEL_EXPORTER_OTLP_ENDPOINT": server.grpc_endpoint}


def _answering(status: int, **more: Any) -> Callable[[Path], Iterator[Environ]]:
    def way(_: Path) -> Iterator[Environ]:
        with ScriptedCollector(lambda _: Answer(status=status, **more)) as server:
            yield {"OTEL_EXPORTER_OTLP_ENDPOINT": server.endpoint}

    return way


provokes("endpoint.path")(_answering(404))
provokes("endpoint.credentials")(_answering(401))
provokes("endpoint.not_otlp")(_answering(
    200, body=b"<!doctype html><html>hello</html>", headers={"content-type": "text/html"}
))
provokes("endpoint.refuses")(_answering(400, message="no"))
provokes("endpoint.busy")(_answering(503, message="later"))


# -- the clock ----------------------------------------------------------------------------------


@provokes("clock.wrong")
def _silence(_: Path) -> Iterator[Environ]:
    with ScriptedNtpServer(lambda _: NtpAnswer.silence()) as server:
        yield {"MEMOIR_CLOCK_SOURCES": f"ntp://127.0.0.1:{server.port}"}


@provokes("clock.falseticker")
def _liar(_: Path) -> Iterator[Environ]:
    with contextlib.ExitStack() as stack:
        ports = [stack.enter_context(ScriptedNtpServer()).port for _ in range(3)]
        liar = ScriptedNtpServer(lambda _: NtpAnswer(offset_s=100.0))
        ports.append(stack.enter_context(liar).port)
        yield {"MEMOIR_CLOCK_SOURCES": ",".join(f"ntp://127.0.0.1:{port}" for port in ports)}


# -- the command --------------------------------------------------------------------------------

INSIDE = {check.id for check in CHECKS if check.id.startswith("wiring.")} - set(PROVOKE)
ALONE = {"directory.network", "directory.container", "host.sqlite", *INSIDE}
"""Those that have a test of their own below."""


def test_a_host_where_all_is_well_has_no_finding(host: Host, tmp_path: Path) -> None:
    """Before the first record, and with a living service that delivers."""
    first = doctor(host.environ)
    assert (first.exit_code, "ok: nothing found" in first.output) == (0, True), first.output
    assert not (tmp_path / "spool").exists()
    living = pipeline(tmp_path / "spool", host.environ["OTEL_EXPORTER_OTLP_ENDPOINT"])
    living.store(record(1))
    assert living.wait_delivered(10)
    assert found(host.environ) == {}
    living.close(1.0)


@pytest.mark.newest
def test_a_program_that_is_wired_by_its_environment_has_no_finding(host: Host) -> None:
    """Here are the distribution and the instrumentation of logging that it needs."""
    wired = {"OTEL_LOGS_EXPORTER": "memoir", "OTEL_SDK_DISABLED": "", "MEMOIR_DURABILITY": "batch"}
    assert found({**host.environ, **wired}) == {}


NEED_TOOLS = ("wiring.batch_yaml",)


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=[pytest.mark.newest] * (name in NEED_TOOLS))
    for name in sorted(PROVOKE)
])
def test_every_finding_is_found_when_it_is_there(name: str, host: Host, tmp_path: Path) -> None:
    """By a real fault, with a remedy, and with the exit code of its severity."""
    with PROVOKE[name](tmp_path) as more:
        environ = {**host.environ, **more}
        one = found(environ)[name]
        printed = doctor(environ)
    assert one["message"] and one["remedy"].strip()
    assert name in printed.output and one["remedy"][:30] in printed.output
    assert printed.exit_code == {"degraded": 1, "failing": 3}[one["severity"]] or (
        printed.exit_code == 3
    )


def test_every_finding_of_the_table_has_a_test_that_provokes_it() -> None:
    """A new one needs one; and each id stands there once."""
    assert {check.id for check in CHECKS} == set(PROVOKE) | ALONE
    assert len({check.id for check in CHECKS}) == len(CHECKS)


def test_the_exit_code_tells_degraded_from_failing_and_from_wrong_usage(host: Host) -> None:
    """0, 1, 3; and 2 as with every command."""
    assert doctor(host.environ).exit_code == 0
    assert doctor({**host.environ, "MEMOIR_SPOL_DIR": "x"}).exit_code == 1
    assert doctor({**host.environ, "OTEL_SDK_DISABLED": "true"}).exit_code == 3
    assert doctor(host.environ, "--nonsense").exit_code == 2


def test_a_near_miss_is_named(host: Host) -> None:
    """Also behind a prefix that it does not have."""
    environ = {**host.environ, "OTEL_MEMOIR_DURABILITY": "batch", "MEMOIR_XYZZY": "1"}
    result = json.loads(doctor(environ, "--json").stdout)["findings"]
    remedies = {one["message"].split()[0]: one["remedy"] for one in result}
    assert remedies["OTEL_MEMOIR_DURABILITY"] == "Did you mean MEMOIR_DURABILITY?"
    assert "docs/settings.md" in remedies["MEMOIR_XYZZY"]


CONTRADICTIONS: list[Environ] = [
    {"MEMOIR_BACKOFF_INITIAL": "100"},
    {"MEMOIR_RECORD_BYTES_MAX": "1000000", "MEMOIR_SPOOL_BYTES_MAX": "1000000"},
    {"MEMOIR_RECORD_BYTES_MAX": "9000000", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
    {"MEMOIR_EXPIRE_AFTER": "30"},
    {"MEMOIR_FSYNC_INTERVAL": "2"},
    {"MEMOIR_DURABILITY": "batch", "MEMOIR_ON_EVENT_LOOP": "block"},
    {"MEMOIR_CLOCK_MODE": "system", "MEMOIR_CLOCK_SOURCES": "chronyd"},
    {"OTEL_EXPORTER_OTLP_INSECURE": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "https://collector"},
]


@pytest.mark.parametrize("environ", CONTRADICTIONS, ids="+".join)
def test_settings_that_contradict_each_other_are_found(environ: Environ, tmp_path: Path) -> None:
    """Each pair, and nothing else about the settings."""
    given = {"MEMOIR_SPOOL_DIR": str(tmp_path / "spool"), **environ}
    result = json.loads(doctor(given, "--json", "--offline").stdout)["findings"]
    assert [one["id"] for one in result] == ["settings.contradiction"], result


def test_one_half_of_each_contradiction_is_none(tmp_path: Path) -> None:
    """Negative control: the variables of a pair, one by one, where one alone is fine."""
    for environ in CONTRADICTIONS:
        if len(environ) == 2:
            for name, value in list(environ.items())[1:]:
                given = {"MEMOIR_SPOOL_DIR": str(tmp_path / "spool"), name: value}
                assert found(given, "--offline") == {}, name


def test_offline_asks_nobody(host: Host, tmp_path: Path) -> None:
    """Neither the endpoint nor a time source."""
    with ScriptedCollector() as server, ScriptedNtpServer() as ntp:
        found(Host(tmp_path / "spool", server, ntp).environ, "--offline")
        assert not server.requests and not ntp.questions
        found(Host(tmp_path / "spool", server, ntp).environ)
        assert [request.body for request in server.requests] == [b""] and ntp.questions


def test_a_grpc_endpoint_is_asked_too_and_an_http_port_is_known(tmp_path: Path) -> None:
    """The other way round of the wrong protocol."""
    with ScriptedCollector() as server:
        spoken = {"MEMOIR_SPOOL_DIR": str(tmp_path / "spool"), "MEMOIR_CLOCK_MODE": "system",
                  "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}
        well = {**spoken, "OTEL_EXPORTER_OTLP_ENDPOINT": server.grpc_endpoint}
        assert found(well) == {}
        wrong = found({**spoken, "OTEL_EXPORTER_OTLP_ENDPOINT": server.endpoint})
    assert "OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf" in wrong["endpoint.protocol"]["remedy"]


@pytest.mark.collector
def test_a_real_collector_is_well_and_each_wrong_way_to_it_has_its_remedy(
    collector: Collector, tmp_path: Path
) -> None:
    """Its HTTP and its gRPC port, the right way and crosswise; and a path that it has not."""
    spoken = {"MEMOIR_SPOOL_DIR": str(tmp_path / "spool"), "MEMOIR_CLOCK_MODE": "system"}

    def asked(endpoint: str, protocol: str) -> set[str]:
        return set(found({**spoken, "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
                          "OTEL_EXPORTER_OTLP_PROTOCOL": protocol}))

    http, grpc = collector.http_endpoint, collector.grpc_endpoint
    assert asked(http, "http/protobuf") == asked(grpc, "grpc") == set()
    assert asked(grpc, "http/protobuf") == asked(http, "grpc") == {"endpoint.protocol"}
    assert asked(f"{http}/elsewhere", "http/protobuf") == {"endpoint.path"}
    assert asked(http.replace("http:", "https:"), "http/protobuf") == {"endpoint.tls"}
    assert asked(grpc.replace("http:", "https:"), "grpc") == {"endpoint.tls"}


def test_a_copied_file_can_be_looked_at_alone(host: Host, tmp_path: Path) -> None:
    """Under any name; and one that is no spool file is said to be none."""
    fill(tmp_path / "other", 3)
    copy = tmp_path / "copy.db"
    shutil.copy(slots(tmp_path / "other")[0].database, copy)
    assert {"spool.copy", "spool.dead"} == set(found(host.environ, copy))
    copy.write_bytes(b"no spool")
    assert set(found(host.environ, copy)) == {"spool.unreadable"}


def test_a_living_neighbour_adopts_what_a_dead_one_left(host: Host, tmp_path: Path) -> None:
    """So that is no finding while it lives."""
    both = [pipeline(tmp_path / "spool") for _ in range(2)]
    for made in both:
        made.store(record(1))
    for made in both:
        made.close(0.0)
    assert "spool.dead" in found(host.environ, "--offline")
    living = open_spool(tmp_path / "spool")  # without a courier: it has not adopted it yet
    living.open()
    assert "spool.dead" not in found(host.environ, "--offline")
    living.close(1.0)
    assert "spool.dead" in found(host.environ, "--offline")


def test_a_directory_of_another_user_or_a_shared_one_is_unusable(
    host: Host, tmp_path: Path
) -> None:
    """As the spool itself would say."""
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    said = found({**host.environ, "MEMOIR_SPOOL_DIR": str(shared)})["directory.unusable"]
    assert "shared temporary" in said["message"]
    if os.getuid() != 0:
        pytest.skip("only root can give a directory to another user: run it as root")
    os.chown(shared, OTHER_UID, OTHER_UID)
    said = found({**host.environ, "MEMOIR_SPOOL_DIR": str(shared)})["directory.unusable"]
    assert "another user" in said["message"]


def test_a_containers_own_file_system_is_found(tmp_path: Path) -> None:
    """A real overlay, in a mount namespace of its own."""
    script = (
        'mount -t tmpfs none "$0" && cd "$0" && mkdir low up work top && '
        "mount -t overlay none -o lowerdir=low,upperdir=up,workdir=work top && "
        f"exec {sys.executable} -m otel_memoir.cli doctor --json --offline "
        '--spool-dir "$0/top/spool"'
    )
    environ = {n: v for n, v in os.environ.items() if not n.startswith(("OTEL_", "MEMOIR_"))}
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, str(tmp_path)], env=environ,
        capture_output=True, text=True, timeout=60, check=False,
    )
    if not done.stdout:
        pytest.skip(f"run it as root where overlayfs can be mounted: {done.stderr.strip()}")
    ids = [one["id"] for one in json.loads(done.stdout)["findings"]]
    assert ids == ["directory.container"]


def test_a_network_file_system_is_found(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is none here to mount, so its type is pretended."""
    monkeypatch.setattr("otel_memoir.cli.doctor_spools.file_system", lambda path: "nfs4")
    assert "nfs4" in found(host.environ)["directory.network"]["message"]


def test_a_sqlite_that_cannot_keep_a_spool_is_found(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no such one here, so its version is pretended."""
    assert sqlite_lacks() == ""
    assert "3.36.0" in sqlite_lacks((3, 36, 0))
    assert "THREADSAFE=0" in sqlite_lacks((3, 50, 0), 0)
    monkeypatch.setattr("otel_memoir.cli.doctor.sqlite_lacks", lambda: sqlite_lacks((3, 36, 0)))
    assert found(host.environ)["host.sqlite"]["severity"] == "failing"


def test_without_the_distribution_the_exporter_variable_does_nothing(tmp_path: Path) -> None:
    """In a Python that has all but opentelemetry-distro and the logging instrumentation."""
    site = Path(next(p for p in sys.path if p.endswith("site-packages")))
    lacking = ("opentelemetry_distro", "opentelemetry_instrumentation_logging")
    view = tmp_path / "site"
    view.mkdir()
    for entry in site.iterdir():
        if not entry.name.startswith(lacking) and entry.suffix != ".pth":
            (view / entry.name).symlink_to(entry)
    source = Path(__file__).resolve().parent.parent / "src"
    code = (
        f"import sys; sys.path += [{str(source)!r}, {str(view)!r}]; "
        "from otel_memoir.cli import main; main(['doctor', '--json', '--offline'])"
    )
    environ = {n: v for n, v in os.environ.items() if not n.startswith(("OTEL_", "MEMOIR_"))}
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], capture_output=True, text=True, timeout=60,
        check=False, env={**environ, "OTEL_LOGS_EXPORTER": "memoir"},
    )
    ids = [one["id"] for one in json.loads(done.stdout)["findings"]]
    assert ids == ["wiring.no_instrument", "wiring.no_logging"], done.stderr


# -- from inside --------------------------------------------------------------------------------


class Redactor(LogRecordProcessor):
    """Somebody's own processor."""

    def on_emit(self, log_record: Any) -> None:
        """Change nothing."""

    def shutdown(self) -> None:
        """Nothing to do."""

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Nothing to do."""
        return True


@pytest.fixture
def provider() -> Iterator[LoggerProvider]:
    """A provider that is shut down in the end."""
    made = LoggerProvider()
    yield made
    made.shutdown()


def durable(tmp_path: Path, name: str = "spool") -> DurableLogRecordProcessor:
    """Our processor."""
    return DurableLogRecordProcessor(
        spool_dir=str(tmp_path / name), endpoint="http://127.0.0.1:9", clock_mode="system"
    )


def ids(findings: tuple[Finding, ...]) -> list[str]:
    """Their names."""
    return [one.id for one in findings]


def test_a_provider_that_is_wired_as_documented_has_no_finding(
    provider: LoggerProvider, tmp_path: Path
) -> None:
    """The redactor first, then ours, then others' exporters."""
    provider.add_log_record_processor(Redactor())
    ours = durable(tmp_path)
    provider.add_log_record_processor(ours)
    provider.add_log_record_processor(SimpleLogRecordProcessor(InMemoryLogRecordExporter()))
    provider.add_log_record_processor(
        BatchLogRecordProcessor(DurableLogExporter(pipeline=ours.pipeline))
    )
    assert diagnose(provider) == ()


def test_a_provider_that_is_none_or_has_nothing_of_ours_is_found(
    provider: LoggerProvider,
) -> None:
    """Records go nowhere."""
    assert ids(diagnose(object())) == ["wiring.no_provider"]
    provider.add_log_record_processor(Redactor())
    assert ids(diagnose(provider)) == ["wiring.no_processor"]


def test_a_batch_processor_in_front_is_found(provider: LoggerProvider, tmp_path: Path) -> None:
    """And a simple one is not."""
    exporter = DurableLogExporter(spool_dir=str(tmp_path / "a"))
    provider.add_log_record_processor(BatchLogRecordProcessor(exporter))
    assert ids(diagnose(provider)) == ["wiring.batch_in_front"]
    simple = LoggerProvider()
    simple.add_log_record_processor(SimpleLogRecordProcessor(exporter))
    assert diagnose(simple) == ()
    simple.shutdown()


def test_a_redactor_behind_is_found(provider: LoggerProvider, tmp_path: Path) -> None:
    """By its name."""
    provider.add_log_record_processor(durable(tmp_path))
    provider.add_log_record_processor(Redactor())
    (one,) = diagnose(provider)
    assert (one.id, "Redactor" in one.message) == ("wiring.redactor_behind", True)


def test_two_pipelines_on_one_provider_are_found(
    provider: LoggerProvider, tmp_path: Path
) -> None:
    """Each would store every record."""
    provider.add_log_record_processor(durable(tmp_path, "a"))
    provider.add_log_record_processor(durable(tmp_path, "b"))
    assert ids(diagnose(provider)) == ["wiring.twice"]


@pytest.mark.newest
def test_a_root_logger_at_its_default_level_is_found_where_logging_is_bridged(
    provider: LoggerProvider, tmp_path: Path
) -> None:
    """And not without the bridge, nor once the level is set."""
    from opentelemetry.instrumentation.logging.handler import LoggingHandler

    root = logging.getLogger()
    level = root.level
    provider.add_log_record_processor(durable(tmp_path))
    handler = LoggingHandler(logger_provider=provider)
    try:
        root.setLevel(logging.WARNING)
        assert diagnose(provider) == ()
        root.addHandler(handler)
        assert ids(diagnose(provider)) == ["wiring.root_level"]
        root.setLevel(logging.INFO)
        assert diagnose(provider) == ()
    finally:
        root.removeHandler(handler)
        root.setLevel(level)


def test_the_processor_says_at_its_first_record_what_is_wrong_around_it() -> None:
    """Once, on standard error, where its provider is the global one."""
    code = """
import tempfile
from opentelemetry._logs import LogRecord, set_logger_provider, get_logger
from opentelemetry.sdk._logs import LoggerProvider, LogRecordProcessor
from otel_memoir import DurableLogRecordProcessor

class Redactor(LogRecordProcessor):
    def on_emit(self, log_record): pass
    def shutdown(self): pass
    def force_flush(self, timeout_millis=30000): return True

provider = LoggerProvider()
ours = DurableLogRecordProcessor(spool_dir=tempfile.mkdtemp(), endpoint="http://127.0.0.1:9")
provider.add_log_record_processor(ours)
provider.add_log_record_processor(Redactor())
set_logger_provider(provider)
for _ in range(3):
    get_logger("app").emit(LogRecord(body="hello"))
provider.shutdown()
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stderr.count("(wiring.redactor_behind)") == 1, done.stderr


def test_a_processor_of_another_provider_says_nothing_of_the_global_one(tmp_path: Path) -> None:
    """It does not know its own."""
    complain_of_wiring(durable(tmp_path))


def test_a_provider_that_cannot_be_looked_at_costs_no_record(
    provider: LoggerProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A later SDK may keep its processors elsewhere."""
    ours = durable(tmp_path)
    provider.add_log_record_processor(ours)
    monkeypatch.setattr("otel_memoir.sdk.diagnosis.get_logger_provider", lambda: provider)
    monkeypatch.setattr("otel_memoir.sdk.diagnosis.processors_of", lambda _: 1 / 0)
    provider.get_logger("app").emit(LogRecord(body="hello"))
    assert ours.status().totals.accepted == 1


def test_a_finding_that_is_not_in_the_table_cannot_be_made() -> None:
    """So no id is undocumented."""
    with pytest.raises(KeyError):
        finding("nowhere.to_be_found", "x")


