"""Whether the endpoint is there and takes logs: it is sent one empty request.

A Collector answers an empty request by itself, so this says nothing of the hops behind it
(``docs/decisions/0005-poison-needs-a-sibling.md``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from otel_memoir.delivery.answers import NEEDS_TLS, TO_HTTP_PORT
from otel_memoir.delivery.destination import Destination, resolve_destination
from otel_memoir.delivery.outcome import FailureKind, Outcome, Verdict
from otel_memoir.delivery.senders import make_sender
from otel_memoir.errors import SettingsError
from otel_memoir.observe.health_findings import Finding, finding
from otel_memoir.settings import Settings

_TIMEOUT_S = 5.0

_SELF_EVIDENT = (FailureKind.REFUSED.value, FailureKind.GRPC_PORT.value)
"""Of these the HTTP library says a page, and no more than the code does."""

_BY_CODE = {
    FailureKind.UNUSABLE.value: "unusable", FailureKind.TLS.value: "tls",
    FailureKind.GRPC_PORT.value: "protocol", FailureKind.NOT_HTTP.value: "not_otlp",
    FailureKind.PROXY_CREDENTIALS.value: "credentials",
    **{kind.value: "unreachable" for kind in (
        FailureKind.REFUSED, FailureKind.NAME, FailureKind.UNREACHABLE,
        FailureKind.CONNECT_TIMEOUT, FailureKind.TIMEOUT, FailureKind.DISCONNECTED,
    )},
    **dict.fromkeys(("http 404", "http 405", "http 501", "grpc UNIMPLEMENTED",
                     "grpc NOT_FOUND"), "path"),
    **dict.fromkeys(("http 401", "http 403", "http 407", "grpc UNAUTHENTICATED",
                     "grpc PERMISSION_DENIED"), "credentials"),
}


def look_at_endpoint(
    settings: Settings, environ: Mapping[str, str], *, timeout: float = _TIMEOUT_S
) -> Iterator[Finding]:
    """Send an empty request to where records would go, and judge the answer.

    Args:
        settings: The settings.

        environ: The environment, for the ``OTEL_EXPORTER_OTLP_*`` variables.

        timeout: Longest wait for the answer, in seconds.
    """
    try:
        destination = resolve_destination(settings, environ)
    except SettingsError as error:
        yield finding("endpoint.unusable", str(error))
        return
    sender = make_sender(destination)
    try:
        outcome = sender.send(b"", headers={}, timeout=timeout)
    finally:
        sender.close()
    yield from _judged(destination, outcome)


def _judged(destination: Destination, outcome: Outcome) -> Iterator[Finding]:
    if outcome.verdict is Verdict.DELIVERED and not outcome.hint:
        return
    is_told = not outcome.message or outcome.code in _SELF_EVIDENT
    said = outcome.code if is_told else f"{outcome.code}: {outcome.message}"
    yield finding(
        f"endpoint.{_kind(outcome)}",
        f"{destination.endpoint} ({destination.protocol}): {said}", remedy=outcome.hint,
    )


def _kind(outcome: Outcome) -> str:
    if outcome.verdict is Verdict.DELIVERED or "an HTML page" in outcome.message:
        return "not_otlp"
    if outcome.hint == TO_HTTP_PORT:
        return "protocol"
    if outcome.hint == NEEDS_TLS:
        return "tls"
    if outcome.code in _BY_CODE:
        return _BY_CODE[outcome.code]
    if outcome.code.startswith("http 3"):
        return "path"
    return "busy" if outcome.verdict is Verdict.RETRY else "refuses"
