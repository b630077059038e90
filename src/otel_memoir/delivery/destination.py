"""Where and how requests are sent: settings and ``OTEL_EXPORTER_OTLP_*``, resolved.

The variables mean what they mean to the official Python exporters (1.45), which a
test compares with ours under the same environments. Where an official exporter fails
on a value or ignores it, the specification decides ("OpenTelemetry Protocol Exporter",
environment variables): an empty variable counts as not set; ``none`` is a compression
over gRPC too; each certificate variable falls back alone.
"""

from __future__ import annotations

import functools
import importlib.metadata
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast
from urllib.parse import urlsplit

from opentelemetry.util.re import parse_env_headers

from otel_memoir.errors import SettingsError
from otel_memoir.settings import Protocol, Settings

DEFAULT_TIMEOUT_S = 10.0
TIMEOUT_MAX_S = 86400.0

Compression = Literal["none", "gzip"]
Complain = Callable[[str], object]

_LOGS_PATH = "/v1/logs"
_DEFAULT_HTTP = "http://localhost:4318"
_DEFAULT_GRPC = "http://localhost:4317"


@dataclass(frozen=True, kw_only=True)
class Destination:
    """Everything a sender needs to know.

    Attributes:
        protocol: ``http/protobuf`` or ``grpc``.

        endpoint: The full URL for HTTP; the target (``host:port``) for gRPC.

        insecure: gRPC without TLS. HTTP goes by the URL.

        headers: Sent with each request; names in lower case.

        compression: ``none`` or ``gzip``.

        timeout_s: Longest time for one request.

        certificate_file: CA that the server's certificate is checked against.

        client_key_file: Private key for mutual TLS.

        client_certificate_file: Certificate for mutual TLS.
    """

    protocol: Protocol = "http/protobuf"
    endpoint: str = _DEFAULT_HTTP + _LOGS_PATH
    insecure: bool = False
    headers: tuple[tuple[str, str], ...] = ()
    compression: Compression = "none"
    timeout_s: float = DEFAULT_TIMEOUT_S
    certificate_file: str | None = None
    client_key_file: str | None = None
    client_certificate_file: str | None = None

    def __repr__(self) -> str:
        # Headers carry tokens, and a repr ends up in logs.
        names = ", ".join(name for name, _ in self.headers)
        return f"Destination({self.protocol} to {self.endpoint}, headers: {names or 'none'})"


def resolve_destination(
    settings: Settings, environ: Mapping[str, str], *, complain: Complain | None = None
) -> Destination:
    """Find out where and how to send.

    Args:
        settings: What is given there wins.

        environ: The environment.

        complain: If given, a value that cannot be used is passed to it in words and the
            default is used. An endpoint that cannot be used is kept: records must not go
            to an address that nobody chose; sending then holds and says why.

    Raises:
        SettingsError: A value cannot be used and ``complain`` is not given.
    """
    look = _Look(settings, environ, complain)
    protocol = cast(Protocol, look.usable(_protocol, "http/protobuf"))
    find_endpoint = _grpc_endpoint if protocol == "grpc" else _http_endpoint
    endpoint, insecure = find_endpoint(look)
    return Destination(
        protocol=protocol,
        endpoint=endpoint,
        insecure=insecure,
        headers=_headers(look, protocol),
        compression=cast(Compression, look.usable(_compression, "none")),
        timeout_s=look.usable(_timeout_s, DEFAULT_TIMEOUT_S),
        certificate_file=settings.certificate_file or look.env("CERTIFICATE"),
        client_key_file=settings.client_key_file or look.env("CLIENT_KEY"),
        client_certificate_file=settings.client_certificate_file or look.env("CLIENT_CERTIFICATE"),
    )


DESTINATION_SETTINGS = frozenset({
    "endpoint", "protocol", "headers", "compression", "request_timeout_s", "insecure",
    "certificate_file", "client_key_file", "client_certificate_file",
})
"""The settings that say where and how to send."""


def check_destination(settings: Settings, environ: Mapping[str, str]) -> None:
    """Refuse settings by which nothing could be sent. Opens no connection.

    Raises:
        SettingsError: A value cannot be used, or a file is not there.
    """
    destination = resolve_destination(settings, environ)
    for name in ("certificate_file", "client_key_file", "client_certificate_file"):
        path = getattr(destination, name)
        if path is not None and not os.path.isfile(path):
            raise SettingsError("use setting", target=name, cause=f"{path} is no file")


@functools.lru_cache(maxsize=1)
def user_agent() -> str:
    """``otel-memoir/<version>``."""
    try:
        return f"otel-memoir/{importlib.metadata.version('otel-memoir')}"
    except importlib.metadata.PackageNotFoundError:
        return "otel-memoir"


class _Look:
    """Reads settings and variables, and knows what to do about bad ones."""

    def __init__(
        self, settings: Settings, environ: Mapping[str, str], complain: Complain | None
    ) -> None:
        self.settings = settings
        self._environ = environ
        self._complain = complain

    def logs_env(self, name: str) -> str | None:
        return self._environ.get(f"OTEL_EXPORTER_OTLP_LOGS_{name}") or None

    def base_env(self, name: str) -> str | None:
        return self._environ.get(f"OTEL_EXPORTER_OTLP_{name}") or None

    def env(self, name: str) -> str | None:
        return self.logs_env(name) or self.base_env(name)

    def usable(self, read: Callable[[_Look], Any], otherwise: Any) -> Any:
        try:
            return read(self)
        except SettingsError as error:
            self.bad(error)
            return otherwise

    def bad(self, error: SettingsError) -> None:
        if self._complain is None:
            raise error
        self._complain(str(error))


def _protocol(look: _Look) -> str:
    chosen = (look.settings.protocol or look.env("PROTOCOL") or "http/protobuf").strip().lower()
    if chosen in ("http/protobuf", "grpc"):
        return chosen
    raise SettingsError(
        "use", target="OTEL_EXPORTER_OTLP_(LOGS_)PROTOCOL",
        cause=f"{chosen!r} is a protocol that cannot be sent",
        hint="Use http/protobuf or grpc. Every OTLP/HTTP receiver that takes http/json also "
        "takes http/protobuf, on the same port and path.",
    )


def _http_endpoint(look: _Look) -> tuple[str, bool]:
    given, logs = look.settings.endpoint, look.logs_env("ENDPOINT")
    if given:
        has_path = urlsplit(given).path not in ("", "/")
        endpoint = given if has_path else given.rstrip("/") + _LOGS_PATH
    elif logs:
        endpoint = logs
    else:
        endpoint = (look.base_env("ENDPOINT") or _DEFAULT_HTTP).removesuffix("/") + _LOGS_PATH
    if problem := _http_problem(endpoint):
        look.bad(SettingsError(
            "use endpoint", target=endpoint, cause=problem,
            hint="Write it like http://collector:4318 or https://collector:4318/v1/logs.",
        ))
    return endpoint, False


def _http_problem(endpoint: str) -> str:
    try:
        parts = urlsplit(endpoint)
        if parts.scheme not in ("http", "https"):
            return "it does not begin with http:// or https://"
        return "" if parts.hostname and parts.port != 0 else "it names no host and port"
    except ValueError as error:
        return str(error)


def _grpc_endpoint(look: _Look) -> tuple[str, bool]:
    url = look.settings.endpoint or look.env("ENDPOINT") or _DEFAULT_GRPC
    try:
        parts = urlsplit(url)
    except ValueError as error:
        look.bad(SettingsError(
            "use endpoint", target=url, cause=error, hint="Write it like http://collector:4317."
        ))
        return url, False
    return parts.netloc or url, _is_insecure(look, parts.scheme)


def _is_insecure(look: _Look, scheme: str) -> bool:
    """The scheme https always means TLS; else the variables decide; else the scheme."""
    if scheme == "https":
        return False
    if look.settings.insecure is not None:
        return look.settings.insecure
    said = look.env("INSECURE")
    return scheme == "http" if said is None else said.strip().lower() == "true"


def _headers(look: _Look, protocol: Protocol) -> tuple[tuple[str, str], ...]:
    """Headers in code are added to the variables' over HTTP and replace them over gRPC."""
    given = {name.lower(): value for name, value in (look.settings.headers or {}).items()}
    if given and protocol == "grpc":
        return tuple(given.items())
    found = parse_env_headers(look.env("HEADERS") or "", liberal=True)
    return tuple({**found, **given}.items())


def _compression(look: _Look) -> str:
    chosen = (look.settings.compression or look.env("COMPRESSION") or "none").strip().lower()
    if chosen in ("none", "gzip"):
        return chosen
    raise SettingsError(
        "use", target="OTEL_EXPORTER_OTLP_(LOGS_)COMPRESSION",
        cause=f"{chosen!r} is not a compression that every receiver knows",
        hint="Use gzip or none: OTLP requires servers to take both, and nothing else.",
    )


def _timeout_s(look: _Look) -> float:
    """In seconds, as in all of OpenTelemetry Python (the specification has milliseconds)."""
    if look.settings.request_timeout_s is not None:
        return min(look.settings.request_timeout_s, TIMEOUT_MAX_S)
    said = look.env("TIMEOUT")
    try:
        timeout_s = float(said) if said else DEFAULT_TIMEOUT_S
    except ValueError:
        timeout_s = math.nan
    if 0 < timeout_s <= TIMEOUT_MAX_S:
        return timeout_s
    raise SettingsError(
        "use", target="OTEL_EXPORTER_OTLP_(LOGS_)TIMEOUT",
        cause=f"{said!r} is not a number of seconds above 0 and up to {TIMEOUT_MAX_S:.0f}",
        hint="In Python it is in seconds.",
    )
