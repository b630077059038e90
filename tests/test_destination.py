"""Settings and variables become a destination, as the official exporters read them.

The comparisons build an official exporter and ours under the same environment, let
both send the same request to one recording server, and compare what the server saw.
"""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import os
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from opentelemetry._logs import LogRecord
from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter as GrpcExporter
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter as HttpExporter
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk._logs.export import LogRecordExportResult
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from otel_memoir.delivery.destination import Destination, resolve_destination
from otel_memoir.delivery.grpc import GrpcSender
from otel_memoir.delivery.http import HttpSender
from otel_memoir.delivery.outcome import Verdict
from otel_memoir.delivery.senders import make_sender
from otel_memoir.errors import SettingsError
from otel_memoir.settings import Settings
from otel_memoir.testing import RecordedRequest, ScriptedCollector

if TYPE_CHECKING:
    from typing_extensions import Self

PREFIX = "OTEL_EXPORTER_OTLP_"


def resolve(*, settings: Settings | None = None, **variables: str) -> Destination:
    """Resolve with variables named without their prefix."""
    environ = {PREFIX + name: value for name, value in variables.items()}
    return resolve_destination(settings or Settings(), environ)


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the machine's own settings: they would reach requests and gRPC."""
    for name in list(os.environ):
        if name.startswith("OTEL_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)


# -- certificates -------------------------------------------------------------


class Certificates:
    """A small authority with one certificate for 127.0.0.1 and one for a client."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name(f"CA of {directory.name}")
        self.ca = self._write("ca.pem", _pem(self._issue(self._name, self._key, ca=True)))
        self.server, self.server_key = self._pair("server")
        self.client, self.client_key = self._pair("client")

    def _pair(self, name: str) -> tuple[str, str]:
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._write(f"{name}.pem", _pem(self._issue(_name(name), key)))
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        return certificate, self._write(f"{name}.key", private)

    def _issue(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, *, ca: bool = False
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.timezone.utc)
        day = datetime.timedelta(days=1)
        loopback = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        return (
            x509.CertificateBuilder(self._name, subject, key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - day)
            .not_valid_after(now + day)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([loopback]), critical=False)
            .sign(self._key, hashes.SHA256())
        )

    def _write(self, name: str, content: bytes) -> str:
        path = self._directory / name
        path.write_bytes(content)
        return str(path)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """One authority for this module."""
    return Certificates(tmp_path_factory.mktemp("ours"))


@pytest.fixture(scope="module")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Another authority, that nobody trusts."""
    return Certificates(tmp_path_factory.mktemp("theirs"))


# -- against the official exporters -------------------------------------------


def official_send(kind: type[Any], body: str = "hello") -> bool:
    """Send one record by an official exporter made from the environment."""
    record = ReadableLogRecord(
        LogRecord(timestamp=1, observed_timestamp=1, body=body, event_name="e"),
        Resource({}), InstrumentationScope("test"),
    )
    exporter = kind()
    try:
        return bool(exporter.export([record]) is LogRecordExportResult.SUCCESS)
    finally:
        exporter.shutdown()


def our_send(request: bytes) -> Verdict:
    """Send a request by our sender made from the environment."""
    sender = make_sender(resolve_destination(Settings(), os.environ))
    try:
        return sender.send(request).verdict
    finally:
        sender.close()


def set_variables(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], **places: str
) -> None:
    """Set variables given without their prefix; braces stand for places."""
    for name, value in variables.items():
        monkeypatch.setenv(PREFIX + name, value.format(**places))


def essence(request: RecordedRequest) -> tuple[Any, ...]:
    """What must be the same of two requests: all but the name of the client."""
    headers = dict(request.headers)
    for name in ("user-agent", "content-length"):
        headers.pop(name, None)
    return request.path, headers, request.body


HTTP_ENVIRONMENTS: list[dict[str, str]] = [
    {"ENDPOINT": "{base}"},
    {"ENDPOINT": "{base}/"},
    {"ENDPOINT": "{base}//"},
    {"ENDPOINT": "{base}/otlp"},
    {"ENDPOINT": "{base}/otlp/"},
    {"ENDPOINT": "{base}/otlp//"},
    {"LOGS_ENDPOINT": "{base}"},
    {"LOGS_ENDPOINT": "{base}/"},
    {"LOGS_ENDPOINT": "{base}/custom?key=1"},
    {"LOGS_ENDPOINT": "{base}/mine", "ENDPOINT": "http://127.0.0.1:1"},
    {"LOGS_ENDPOINT": "", "ENDPOINT": "{base}/otlp"},
    {"ENDPOINT": "{base}", "HEADERS": "Api-Key=s3cret,x-tenant=t%20one%2C%3D"},
    {"ENDPOINT": "{base}", "HEADERS": "authorization=Bearer a b c==, x=1"},
    {"ENDPOINT": "{base}", "HEADERS": "x = 1 ,, y=2,"},
    {"ENDPOINT": "{base}", "HEADERS": "x=1", "LOGS_HEADERS": "y=2"},
    {"ENDPOINT": "{base}", "HEADERS": "x=1", "LOGS_HEADERS": ""},
    {"ENDPOINT": "{base}", "HEADERS": "content-type=application/x-protobuf; v=1"},
    {"ENDPOINT": "{base}", "HEADERS": "no-equals-sign,x=1"},
    {"ENDPOINT": "{base}", "COMPRESSION": "gzip"},
    {"ENDPOINT": "{base}", "COMPRESSION": " GZIP "},
    {"ENDPOINT": "{base}", "COMPRESSION": "none"},
    {"ENDPOINT": "{base}", "COMPRESSION": "none", "LOGS_COMPRESSION": "gzip"},
    {"ENDPOINT": "{base}", "COMPRESSION": "gzip", "LOGS_COMPRESSION": "none"},
    {"ENDPOINT": "{base}", "COMPRESSION": "gzip", "LOGS_COMPRESSION": ""},
    {"ENDPOINT": "{base}", "TIMEOUT": "5", "LOGS_TIMEOUT": "7.5"},
    {"ENDPOINT": "{base}", "PROTOCOL": "http/protobuf", "INSECURE": "false"},
]


@pytest.mark.parametrize("variables", HTTP_ENVIRONMENTS, ids=str)
def test_over_http_a_server_sees_what_it_sees_of_the_official_exporter(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    """Path, headers, compression and body."""
    with ScriptedCollector() as collector:
        set_variables(monkeypatch, variables, base=collector.endpoint)
        assert official_send(HttpExporter)
        assert our_send(collector.requests[0].body) is Verdict.DELIVERED
        theirs, ours = collector.requests
    assert essence(ours) == essence(theirs)
    assert ours.headers.get("content-encoding") == theirs.headers.get("content-encoding")


GRPC_ENVIRONMENTS: list[dict[str, str]] = [
    {"ENDPOINT": "http://{target}"},
    {"ENDPOINT": "http://{target}/ignored/path"},
    {"ENDPOINT": "{target}", "INSECURE": "true"},
    {"ENDPOINT": "{target}", "INSECURE": "TRUE"},
    {"ENDPOINT": "{target}", "LOGS_INSECURE": "true"},
    {"ENDPOINT": "{target}", "INSECURE": "false", "LOGS_INSECURE": "true"},
    {"LOGS_ENDPOINT": "http://{target}", "ENDPOINT": "http://127.0.0.1:1"},
    {"ENDPOINT": "dns:///{target}", "INSECURE": "true"},
    {"ENDPOINT": "http://{target}", "HEADERS": "Api-Key=s3cret,x-tenant=t%20one"},
    {"ENDPOINT": "http://{target}", "HEADERS": "x=1", "LOGS_HEADERS": "y=2"},
    {"ENDPOINT": "http://{target}", "COMPRESSION": "gzip"},
    {"ENDPOINT": "http://{target}", "LOGS_COMPRESSION": "GZIP"},
    {"ENDPOINT": "http://{target}", "TIMEOUT": "5", "LOGS_TIMEOUT": "7.5"},
]


@pytest.mark.parametrize("variables", GRPC_ENVIRONMENTS, ids=str)
def test_over_grpc_a_server_sees_what_it_sees_of_the_official_exporter(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    """Method, metadata and body; the compression by the bytes on the wire."""
    with ScriptedCollector() as collector, Relay(collector.grpc_endpoint) as relay:
        set_variables(monkeypatch, {**variables, "PROTOCOL": "grpc"}, target=relay.target)
        assert official_send(GrpcExporter, "x" * 50_000)
        theirs_bytes = relay.count()
        assert our_send(collector.requests[0].body) is Verdict.DELIVERED
        ours_bytes = relay.count() - theirs_bytes
        theirs, ours = collector.requests
    assert essence(ours) == essence(theirs)
    gzipped = "gzip" in str(variables).lower()
    assert (theirs_bytes < 20_000) == (ours_bytes < 20_000) == gzipped


class Relay:
    """Passes connections on to a server and counts the bytes on the way to it."""

    def __init__(self, endpoint: str) -> None:
        host, _, port = endpoint.rpartition("://")[2].partition(":")
        self._server = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.target = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._lock = threading.Lock()
        self._bytes = 0
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, name="relay-accept", daemon=True)]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        for each in [self._listener, *self._sockets]:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        for thread in self._threads:
            thread.join(5.0)
            assert not thread.is_alive()

    def count(self) -> int:
        """Bytes that went to the server so far."""
        with self._lock:
            return self._bytes

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._server)
                self._sockets += [client, server]
                for source, sink in ((client, server), (server, client)):
                    thread = threading.Thread(
                        target=self._pass, args=(source, sink, sink is server), name="relay-pass",
                        daemon=True,
                    )
                    self._threads.append(thread)
                    thread.start()

    def _pass(self, source: socket.socket, sink: socket.socket, counted: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                with self._lock:
                    self._bytes += len(data) * counted
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)


TLS_ENVIRONMENTS: list[tuple[dict[str, str], bool]] = [
    ({"CERTIFICATE": "{ca}"}, True),
    ({"LOGS_CERTIFICATE": "{ca}"}, True),
    ({"LOGS_CERTIFICATE": "{ca}", "CERTIFICATE": "{foreign_ca}"}, True),
    ({"LOGS_CERTIFICATE": "{foreign_ca}", "CERTIFICATE": "{ca}"}, False),
    ({}, False),
]
MUTUAL_TLS_ENVIRONMENTS: list[tuple[dict[str, str], bool]] = [
    ({"CERTIFICATE": "{ca}", "CLIENT_KEY": "{key}", "CLIENT_CERTIFICATE": "{cert}"}, True),
    (
        {"LOGS_CERTIFICATE": "{ca}", "LOGS_CLIENT_KEY": "{key}",
         "LOGS_CLIENT_CERTIFICATE": "{cert}"},
        True,
    ),
    (
        {"CERTIFICATE": "{ca}", "CLIENT_KEY": "{foreign_key}",
         "CLIENT_CERTIFICATE": "{foreign_cert}"},
        False,
    ),
    ({"CERTIFICATE": "{ca}"}, False),
]


def compare_over_tls(
    monkeypatch: pytest.MonkeyPatch,
    protocol: str,
    variables: dict[str, str],
    collector: ScriptedCollector,
    ours: Certificates,
    theirs: Certificates,
) -> bool:
    """Return whether the official exporter and ours, which must agree, were let in."""
    kind, endpoint = {
        "http/protobuf": (HttpExporter, collector.endpoint),
        "grpc": (GrpcExporter, collector.grpc_endpoint),
    }[protocol]
    variables = {**variables, "ENDPOINT": endpoint, "PROTOCOL": protocol, "TIMEOUT": "1"}
    set_variables(
        monkeypatch, variables, ca=ours.ca, key=ours.client_key, cert=ours.client,
        foreign_ca=theirs.ca, foreign_key=theirs.client_key, foreign_cert=theirs.client,
    )
    official, verdict = official_send(kind), our_send(b"")
    assert official == (verdict is Verdict.DELIVERED)
    return official


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
@pytest.mark.parametrize(("variables", "accepted"), TLS_ENVIRONMENTS, ids=str)
def test_a_server_is_trusted_as_by_the_official_exporter(
    monkeypatch: pytest.MonkeyPatch, certificates: Certificates, strangers: Certificates,
    protocol: str, variables: dict[str, str], accepted: bool,
) -> None:
    """By the authority that the variables name, and by no other."""
    server = certificates.server, certificates.server_key
    with ScriptedCollector(certificate=server[0], key=server[1]) as collector:
        assert accepted == compare_over_tls(
            monkeypatch, protocol, variables, collector, certificates, strangers
        )


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
@pytest.mark.parametrize(("variables", "accepted"), MUTUAL_TLS_ENVIRONMENTS, ids=str)
def test_a_client_shows_its_certificate_as_the_official_exporter_does(
    monkeypatch: pytest.MonkeyPatch, certificates: Certificates, strangers: Certificates,
    protocol: str, variables: dict[str, str], accepted: bool,
) -> None:
    """Mutual TLS: a server that asks for a certificate gets it, and refuses a stranger's."""
    with ScriptedCollector(
        certificate=certificates.server, key=certificates.server_key, client_ca=certificates.ca
    ) as collector:
        assert accepted == compare_over_tls(
            monkeypatch, protocol, variables, collector, certificates, strangers
        )


def test_a_slow_handshake_counts_against_the_timeout(certificates: Certificates) -> None:
    """Sending gets only the time that is left, not the whole timeout once more."""
    release = threading.Event()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.server, certificates.server_key)
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = listener.accept()
        release.wait(1.0)
        with contextlib.suppress(OSError), context.wrap_socket(connection, server_side=True):
            release.wait(10.0)

    thread = threading.Thread(target=serve, name="slow-handshake", daemon=True)
    thread.start()
    endpoint = f"https://127.0.0.1:{listener.getsockname()[1]}/v1/logs"
    sender = HttpSender(Destination(endpoint=endpoint, certificate_file=certificates.ca))
    began_s = time.monotonic()
    outcome = sender.send(bytes(20_000_000), timeout=1.5)
    took_s = time.monotonic() - began_s
    release.set()
    sender.close()
    thread.join(5.0)
    listener.close()
    assert not thread.is_alive()
    assert (outcome.code, outcome.ambiguous) == ("timeout", True)
    assert 1.4 < took_s < 2.2


# -- what is not compared -----------------------------------------------------


def test_without_any_setting_it_is_http_on_this_machine() -> None:
    """The specification's defaults."""
    assert resolve() == Destination(
        protocol="http/protobuf", endpoint="http://localhost:4318/v1/logs", timeout_s=10.0
    )
    assert resolve(PROTOCOL="grpc") == Destination(
        protocol="grpc", endpoint="localhost:4317", insecure=True
    )


@pytest.mark.parametrize(
    ("given", "endpoint"),
    [
        ("http://collector:4318", "http://collector:4318/v1/logs"),
        ("http://collector:4318/", "http://collector:4318/v1/logs"),
        ("https://collector/otlp/logs", "https://collector/otlp/logs"),
    ],
)
def test_an_endpoint_in_code_is_a_base_unless_it_has_a_path(given: str, endpoint: str) -> None:
    """It wins over both variables."""
    found = resolve(
        settings=Settings(endpoint=given), ENDPOINT="http://a", LOGS_ENDPOINT="http://b/c"
    )
    assert found.endpoint == endpoint


def test_what_is_given_in_code_wins_over_the_variables() -> None:
    """Each setting by itself."""
    settings = Settings(
        protocol="http/protobuf", compression="none", request_timeout_s=3.0,
        headers={"X-One": "code"}, certificate_file="ca", client_key_file="key",
        client_certificate_file="cert",
    )
    found = resolve(
        settings=settings, PROTOCOL="grpc", COMPRESSION="gzip", TIMEOUT="9",
        HEADERS="x-one=env,x-two=env", CERTIFICATE="a", CLIENT_KEY="b", CLIENT_CERTIFICATE="c",
    )
    assert (found.protocol, found.compression, found.timeout_s) == ("http/protobuf", "none", 3.0)
    assert dict(found.headers) == {"x-one": "code", "x-two": "env"}
    files = found.certificate_file, found.client_key_file, found.client_certificate_file
    assert files == ("ca", "key", "cert")


def test_over_grpc_headers_in_code_replace_the_variables() -> None:
    """As in the official gRPC exporter; its HTTP sibling adds them. Names become lower case."""
    found = resolve(settings=Settings(protocol="grpc", headers={"X-One": "1"}), HEADERS="y=2")
    assert found.headers == (("x-one", "1"),)


@pytest.mark.parametrize(
    ("endpoint", "insecure", "variable", "is_insecure"),
    [
        ("https://c:4317", True, "true", False),
        ("http://c:4317", None, "", True),
        ("http://c:4317", None, "false", False),
        ("http://c:4317", False, "true", False),
        ("c:4317", None, "", False),
        ("c:4317", True, "false", True),
        ("c:4317", None, "true", True),
    ],
)
def test_grpc_goes_without_tls_by_scheme_setting_and_variable(
    endpoint: str, insecure: bool | None, variable: str, is_insecure: bool
) -> None:
    """https always means TLS; then code, then the variable, then http."""
    settings = Settings(protocol="grpc", endpoint=endpoint, insecure=insecure)
    found = resolve(settings=settings, INSECURE=variable)
    assert (found.endpoint, found.insecure) == ("c:4317", is_insecure)


@pytest.mark.parametrize(
    ("variables", "word"),
    [
        ({"PROTOCOL": "http/json"}, "http/protobuf"),
        ({"LOGS_PROTOCOL": "thrift"}, "grpc"),
        ({"COMPRESSION": "deflate"}, "gzip"),
        ({"LOGS_COMPRESSION": "zstd"}, "gzip"),
        ({"TIMEOUT": "soon"}, "seconds"),
        ({"TIMEOUT": "0"}, "seconds"),
        ({"TIMEOUT": "nan"}, "seconds"),
        ({"TIMEOUT": "inf"}, "seconds"),
        ({"ENDPOINT": "collector:4318"}, "http://"),
        ({"LOGS_ENDPOINT": "http://"}, "http://"),
        ({"ENDPOINT": "http://[::1"}, "http://"),
        ({"ENDPOINT": "http://c:99999"}, "http://"),
    ],
)
def test_a_value_that_cannot_be_used_is_an_error_with_a_hint(
    variables: dict[str, str], word: str
) -> None:
    """Strictly, and leniently with the same words."""
    environ = {PREFIX + name: value for name, value in variables.items()}
    with pytest.raises(SettingsError) as caught:
        resolve_destination(Settings(), environ)
    assert word in caught.value.hint
    said: list[str] = []
    resolve_destination(Settings(), environ, complain=said.append)
    assert said == [str(caught.value)]


def test_leniently_a_bad_endpoint_is_kept_and_the_rest_defaulted() -> None:
    """Records must not go to the default address because of a typing error."""
    environ = {
        PREFIX + "ENDPOINT": "collector:4318", PREFIX + "TIMEOUT": "soon",
        PREFIX + "COMPRESSION": "zstd", PREFIX + "PROTOCOL": "http/json",
    }
    said: list[str] = []
    found = resolve_destination(Settings(), environ, complain=said.append)
    assert found == Destination(endpoint="collector:4318/v1/logs")
    assert len(said) == 4
    assert make_sender(found).send(b"").verdict is Verdict.HOLD


def test_a_destination_does_not_show_its_headers_values() -> None:
    """They are tokens, and a repr ends up in logs."""
    shown = repr(resolve(HEADERS="api-key=s3cret"))
    assert "api-key" in shown
    assert "s3cret" not in shown


@pytest.mark.parametrize(("protocol", "kind"), [("grpc", GrpcSender), ("", HttpSender)])
def test_the_protocol_chooses_the_sender(protocol: str, kind: type[object]) -> None:
    """And making it opens nothing."""
    assert type(make_sender(resolve(PROTOCOL=protocol))) is kind


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    """Servers of this module stop by themselves."""
    yield
    assert not [t for t in threading.enumerate() if t.name.startswith(("scripted", "relay"))]
