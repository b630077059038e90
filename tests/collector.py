"""A real OpenTelemetry Collector that a test can start, kill and ask what it received.

Promises: loopback and free ports only; no wait without a deadline; what is
started is ended by ``stop``, ``kill`` or the end of the ``with`` block. A sink
(`file_sink_config`) has each record that it answered with OK on file, also
after ``kill``.

Refuses to pass over trouble in silence: a Collector that does not start, or
does not end when asked, is an error that carries the end of its log.
"""

from __future__ import annotations

import base64
import collections
import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, final

Config = Mapping[str, Any] | Path

READY = "Everything is ready"
START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 20.0
POLL_S = 0.01
PORT_ATTEMPTS = 3
_BEGIN_OF_REQUEST = '{"resourceLogs":'


class CollectorError(RuntimeError):
    """The Collector did not do what was asked; the message ends with the end of its log."""


@dataclass(frozen=True)
class ReceivedRecord:
    """One log record as it arrived; times in nanoseconds since 1970, 0 when not given."""

    uid: str
    event_name: str
    body: Any
    attributes: Mapping[str, Any]
    time_unix_nano: int
    observed_time_unix_nano: int
    severity_number: int
    trace_id: str
    span_id: str
    scope_name: str
    resource_attributes: Mapping[str, Any]


def file_sink_config(path: Path, *, token: str = "") -> dict[str, Any]:
    """Configure a Collector that writes each request to a file before it answers.

    Args:
        path: The file: one request a line, as OTLP/JSON.
        token: If given, a request without this bearer token is refused.
    """
    auth = {"auth": {"authenticator": "bearertokenauth"}} if token else {}
    config: dict[str, Any] = {
        "receivers": {"otlp": {"protocols": {
            "http": {"endpoint": "${env:OTLP_HTTP_LISTEN}", **auth},
            "grpc": {"endpoint": "${env:OTLP_GRPC_LISTEN}", **auth},
        }}},
        # With `rotation` (here so large that it never rotates) the exporter appends, and each
        # line is written before the answer. With `append: true` instead it goes through a
        # buffer that is flushed once a second: kill -9 loses what was acknowledged.
        "exporters": {"file": {"path": str(path), "rotation": {"max_megabytes": 1 << 20}}},
        "service": {
            "pipelines": {"logs": {"receivers": ["otlp"], "exporters": ["file"]}},
            # Else each Collector of the machine wants port 8888.
            "telemetry": {"metrics": {"level": "none"}},
        },
    }
    if token:
        config["extensions"] = {"bearertokenauth": {"token": token}}
        config["service"]["extensions"] = ["bearertokenauth"]
    return config


@final
class Collector:
    """One Collector on two ports, through as many lives as a test needs.

    The ports reach the configuration as ``${env:OTLP_HTTP_LISTEN}`` and
    ``${env:OTLP_GRPC_LISTEN}``, and are the same in every life.

    Args:
        binary: The Collector, as `tools/collector.py` finds it.
        directory: Where configuration and received records go; one per Collector.
        config: A mapping or a file, or several, of which later ones override
            earlier ones. By default a sink, whose records `received` reads.
        environ: Environment variables on top of this process's own.
    """

    def __init__(
        self,
        binary: Path,
        directory: Path,
        config: Config | Sequence[Config] | None = None,
        *,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.directory = directory
        self.output = directory / "received.jsonl"
        self._binary = binary
        self._config = config or file_sink_config(self.output)
        self._environ = dict(environ or {})
        self._ports: tuple[int, int] | None = None
        self._life: _Life | None = None
        self._inbox = _Inbox(self.output)

    @property
    def http_endpoint(self) -> str:
        """Base URL for OTLP/HTTP; known, and from then on fixed, before the first start."""
        return f"http://127.0.0.1:{self._fixed_ports()[0]}"

    @property
    def grpc_endpoint(self) -> str:
        """URL for OTLP/gRPC; known, and from then on fixed, before the first start."""
        return f"http://127.0.0.1:{self._fixed_ports()[1]}"

    @property
    def running(self) -> bool:
        return self._life is not None and not self._life.ended

    @property
    def log(self) -> str:
        """The end of what the present or last life wrote to stderr."""
        return self._life.tail() if self._life else "(never started)"

    def start(self) -> Collector:
        """Start it and wait until it takes requests.

        Raises:
            CollectorError: It ended, or was not ready in time.
        """
        if self.running:
            raise CollectorError("the Collector runs already")
        # Somebody else can take a free port before we do. Ports that a test has already read
        # cannot be changed any more.
        attempts = PORT_ATTEMPTS if self._ports is None else 1
        for attempt in range(attempts):
            ports = self._ports or _free_ports()
            life = self._life = _Life(self._command(), self._child_environ(ports))
            if life.wait_for(READY, START_TIMEOUT_S):
                self._ports = ports
                return self
            life.end(signal.SIGKILL, STOP_TIMEOUT_S)
            if "address already in use" not in life.tail() or attempt == attempts - 1:
                break
        raise CollectorError(f"the Collector did not start:\n{self.log}")

    def kill(self) -> None:
        """End it as a crash does (SIGKILL)."""
        if self._life is not None:
            self._life.end(signal.SIGKILL, STOP_TIMEOUT_S)

    def stop(self, timeout: float = STOP_TIMEOUT_S) -> None:
        """End it in order (SIGTERM): it sends what it holds, then exits.

        Raises:
            CollectorError: It was still there after ``timeout`` seconds; it is killed then.
        """
        if self._life is not None and not self._life.end(signal.SIGTERM, timeout):
            self.kill()
            raise CollectorError(f"the Collector did not end within {timeout} s:\n{self.log}")

    def restart(self, config: Config | Sequence[Config] | None = None) -> Collector:
        """End it in order if it runs, and start it on the same ports and the same files."""
        self.stop()
        self._config = config or self._config
        return self.start()

    def received(self) -> list[ReceivedRecord]:
        """Return every record that has arrived so far, in all lives, in order of arrival."""
        return self._inbox.read()

    def wait_received(
        self, expected: int | Callable[[list[ReceivedRecord]], bool], timeout: float = 10.0
    ) -> list[ReceivedRecord]:
        """Wait for a number of records, or for what a predicate says of them all.

        Returns:
            All records that have arrived by then; with a number, at least so many.

        Raises:
            CollectorError: It was not so within ``timeout`` seconds.
        """
        deadline_s = time.monotonic() + timeout
        while True:
            ended = not self.running
            records = self.received()
            if len(records) >= expected if isinstance(expected, int) else expected(records):
                return records
            if ended or self._life is None or time.monotonic() >= deadline_s:
                raise CollectorError(
                    f"waited {timeout} s for {expected} records; {len(records)} have arrived:\n"
                    f"{self.log}"
                )
            self._life.pause(POLL_S)

    def __enter__(self) -> Collector:
        return self if self.running else self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _fixed_ports(self) -> tuple[int, int]:
        if self._ports is None:
            self._ports = _free_ports()
        return self._ports

    def _command(self) -> list[str]:
        several = isinstance(self._config, Sequence)
        configs: Sequence[Any] = self._config if several else [self._config]  # type: ignore[assignment]  # mypy does not narrow by a variable
        command = [str(self._binary)]
        for number, config in enumerate(configs):
            path = config
            if not isinstance(config, Path):
                # YAML is a superset of JSON, so no YAML writer is needed.
                path = self.directory / f"config-{number}.json"
                path.write_text(json.dumps(config, indent=2))
            command += ["--config", f"file:{path}"]
        return command

    def _child_environ(self, ports: tuple[int, int]) -> dict[str, str]:
        listen = {
            "OTLP_HTTP_LISTEN": f"127.0.0.1:{ports[0]}",
            "OTLP_GRPC_LISTEN": f"127.0.0.1:{ports[1]}",
        }
        return {**os.environ, **listen, **self._environ}


class _Life:
    """One process, from its start to its end, and the thread that reads its stderr."""

    def __init__(self, command: list[str], environ: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            command, env=environ, text=True, errors="replace",
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )
        self._lines: collections.deque[str] = collections.deque(maxlen=1000)
        self._changed = threading.Condition()
        self._closed = False
        self._reader = threading.Thread(
            target=self._read, name=f"collector-log-{self._process.pid}", daemon=True
        )
        self._reader.start()

    @property
    def ended(self) -> bool:
        return self._closed or self._process.poll() is not None

    def tail(self) -> str:
        with self._changed:
            return "".join(list(self._lines)[-20:])

    def wait_for(self, text: str, timeout: float) -> bool:
        """Wait until a line holds ``text``; false when the process ended or time is up."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._said(text), timeout)
            return self._said(text) and not self._closed

    def pause(self, timeout: float) -> None:
        """Wait for the next line, the end of the process, or ``timeout`` seconds."""
        with self._changed:
            if not self._closed:
                self._changed.wait(timeout)

    def end(self, with_signal: signal.Signals, timeout: float) -> bool:
        """Send a signal and wait for the end; return whether it came in time."""
        self._process.send_signal(with_signal)
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return False
        self._reader.join(timeout)
        return not self._reader.is_alive()

    def _said(self, text: str) -> bool:
        return any(text in line for line in self._lines)

    def _read(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as stderr:
            for line in stderr:
                with self._changed:
                    self._lines.append(line)
                    self._changed.notify_all()
        with self._changed:
            self._closed = True
            self._changed.notify_all()


class _Inbox:
    """Reads the output of the ``file`` exporter, each line once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._records: list[ReceivedRecord] = []

    def read(self) -> list[ReceivedRecord]:
        if self._path.exists():
            with self._path.open("rb") as file:
                file.seek(self._offset)
                whole = file.read().rpartition(b"\n")
            self._offset += len(whole[0]) + len(whole[1])
            for line in whole[0].splitlines():
                self._records += _records_of_line(line.decode())
        return list(self._records)


def records_in(path: Path) -> Iterator[ReceivedRecord]:
    """Read the output of a ``file`` exporter record by record, however large it is."""
    if path.exists():
        with path.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                yield from _records_of_line(line.rstrip("\n"))


def _records_of_line(line: str) -> Iterator[ReceivedRecord]:
    # The exporter writes a request and its line end apart, and a large request in parts: a
    # kill in between leaves two requests on one line, or the beginning of one before the
    # next. What was cut off was not answered.
    decoder, position = json.JSONDecoder(), 0
    while position < len(line):
        try:
            request, position = decoder.raw_decode(line, position)
        except json.JSONDecodeError:
            position = _next_request(line, position + 1)
        else:
            yield from _records_of_request(request)


def _next_request(line: str, position: int) -> int:
    found = line.find(_BEGIN_OF_REQUEST, position)
    return len(line) if found < 0 else found


def _records_of_request(request: Mapping[str, Any]) -> Iterator[ReceivedRecord]:
    for of_resource in request.get("resourceLogs", []):
        resource = _attributes(of_resource.get("resource", {}))
        for of_scope in of_resource.get("scopeLogs", []):
            scope_name = of_scope.get("scope", {}).get("name", "")
            for record in of_scope.get("logRecords", []):
                yield _record(record, scope_name, resource)


def _record(
    record: Mapping[str, Any], scope_name: str, resource: Mapping[str, Any]
) -> ReceivedRecord:
    attributes = _attributes(record)
    return ReceivedRecord(
        uid=attributes.get("log.record.uid", ""),
        event_name=record.get("eventName", ""),
        body=_value(record.get("body", {})),
        attributes=attributes,
        time_unix_nano=int(record.get("timeUnixNano", 0)),
        observed_time_unix_nano=int(record.get("observedTimeUnixNano", 0)),
        severity_number=int(record.get("severityNumber", 0)),
        trace_id=record.get("traceId", ""),
        span_id=record.get("spanId", ""),
        scope_name=scope_name,
        resource_attributes=resource,
    )


def _attributes(owner: Mapping[str, Any]) -> dict[str, Any]:
    return {pair["key"]: _value(pair.get("value", {})) for pair in owner.get("attributes", [])}


def _value(value: Mapping[str, Any]) -> Any:
    """Turn an OTLP/JSON ``AnyValue`` into a Python value (opentelemetry-proto, JSON mapping)."""
    for kind, content in value.items():
        if kind == "intValue":
            return int(content)
        if kind == "doubleValue":
            return float(content)
        if kind == "bytesValue":
            return base64.b64decode(content)
        if kind == "arrayValue":
            return [_value(item) for item in content.get("values", [])]
        if kind == "kvlistValue":
            return _attributes({"attributes": content.get("values", [])})
        return content
    return None


def _free_ports() -> tuple[int, int]:
    with socket.socket() as http, socket.socket() as grpc:
        http.bind(("127.0.0.1", 0))
        grpc.bind(("127.0.0.1", 0))
        return http.getsockname()[1], grpc.getsockname()[1]
