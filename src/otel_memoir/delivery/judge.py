"""From an answer, or the lack of one, to an outcome: pure, by the table of ``answers``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from otel_memoir.delivery import answers
from otel_memoir.delivery.outcome import FailureKind, Outcome, Verdict
from otel_memoir.delivery.partial import (
    PartialSuccess,
    clamped,
    read_json,
    read_protobuf,
    read_retry_after,
    read_status_message,
    tidy,
)

# -- HTTP ---------------------------------------------------------------------


def judge_http(
    status: int, headers: Mapping[str, str], body: bytes, *, now_unix_s: float
) -> Outcome:
    """Judge an HTTP answer.

    Args:
        status: The status code.

        headers: The answer's headers; names in any case.

        body: The answer's body, decompressed, as much of it as was read.

        now_unix_s: The wall clock in seconds, for a ``Retry-After`` that is a date.
    """
    fields = {name.lower(): value for name, value in headers.items()}
    content_type = fields.get("content-type", "").lower()
    if 200 <= status < 300:
        return _judge_http_success(status, content_type, body)
    message = read_status_message(body, content_type)
    location = fields.get("location")
    if 300 <= status < 400 and location:
        message = f"redirected to {location}. {message}"
    outcome = _outcome(_http_rule(status, body), f"http {status}", message)
    if status == 400 and outcome.verdict is Verdict.HALVE and answers.TOO_LARGE.search(message):
        outcome = replace(outcome, is_too_large=True)
    if outcome.verdict is not Verdict.RETRY:
        return outcome
    return replace(outcome, retry_after_s=read_retry_after(fields.get("retry-after"), now_unix_s))


def _http_rule(status: int, body: bytes) -> answers.Rule:
    if status == 400 and answers.HTTP_TO_HTTPS.search(body[:1000]):
        # Go's and nginx's answer to plain HTTP on a TLS port. Halving would take every batch
        # apart for what is one wrong letter in the endpoint.
        return answers.Rule(Verdict.HOLD, answers.NEEDS_TLS)
    if status in answers.HTTP:
        return answers.HTTP[status]
    if 300 <= status < 400:
        return answers.REDIRECT
    if 400 <= status < 500:
        return answers.OTHER_4XX
    return answers.AT_FAULT_AT_LAST if 500 <= status < 600 else answers.NO_ANSWER_CLASS


def _judge_http_success(status: int, content_type: str, body: bytes) -> Outcome:
    code = f"http {status}"
    if "html" in content_type or answers.HTML.match(body):
        # A login page or a captive portal says 200 to everything. The stock exporters
        # take this for success; the records would be gone.
        rule = answers.Rule(Verdict.HOLD, answers.ENDPOINT, ambiguous=True)
        return _outcome(rule, code, "an HTML page: " + body[:2000].decode("utf-8", "replace"))
    if not body:
        return _delivered(code, PartialSuccess())
    as_json = "json" in content_type or body.lstrip()[:1] == b"{"
    partial = read_json(body) if as_json else read_protobuf(body)
    if partial is not None and (as_json or "text/" not in content_type):
        return _delivered(code, partial)
    return _delivered_opaquely(code, content_type, body)


def _delivered_opaquely(code: str, content_type: str, body: bytes) -> Outcome:
    """The status says taken and the body cannot be read.

    This holds for a broken protobuf body too. The body could only have said that some
    records were rejected, which is never resent; a retry would get the same body from
    the same server each time, and all records would arrive again and again.
    """
    kind = content_type or "no content type"
    return Outcome(
        verdict=Verdict.DELIVERED, code=code, message=tidy(body[:2000].decode("utf-8", "replace")),
        hint=f"The server said {code} with a body that is no OTLP response ({kind}), so rejected "
        "records would go unnoticed: check that the endpoint is an OTLP receiver.",
    )


# -- gRPC ---------------------------------------------------------------------


def judge_grpc(
    code_name: str, details: str, retry_info_s: float | None, response: bytes | None
) -> Outcome:
    """Judge a gRPC answer, or what gRPC's client says in its place.

    Args:
        code_name: The status by name: ``OK``, ``UNAVAILABLE``.

        details: The status message.

        retry_info_s: The wait that ``google.rpc.RetryInfo`` asks for, in seconds.

        response: The response message's bytes, where the status is ``OK``.
    """
    code = f"grpc {code_name}"
    if code_name == "OK":
        return _judge_grpc_success(code, response or b"")
    if code_name == "UNAVAILABLE" and (outcome := _without_connection(code, details)):
        return outcome
    outcome = _outcome(_grpc_rule(code_name, details, retry_info_s), code, details)
    if outcome.verdict is not Verdict.RETRY or retry_info_s is None:
        return outcome
    return replace(outcome, retry_after_s=clamped(retry_info_s))


def _judge_grpc_success(code: str, response: bytes) -> Outcome:
    partial = read_protobuf(response)
    if partial is None:
        return _delivered_opaquely(code, "gRPC", response)
    return _delivered(code, partial)


def _without_connection(code: str, details: str) -> Outcome | None:
    if answers.GRPC_TO_HTTP.search(details):
        # The client waits for the server's SETTINGS before it sends a request.
        return _outcome(answers.Rule(Verdict.HOLD, answers.TO_HTTP_PORT), code, details)
    for pattern, kind in answers.GRPC_CLIENT_FAILURES:
        if pattern.search(details):
            return judge_failure(kind, details)
    return None


def _grpc_rule(code_name: str, details: str, retry_info_s: float | None) -> answers.Rule:
    by_client = code_name in ("UNKNOWN", "INTERNAL", "UNIMPLEMENTED")
    if by_client and answers.GRPC_GOT_HTTP.search(details):
        return answers.Rule(Verdict.HOLD, answers.TO_HTTP_PORT, ambiguous=True)
    if code_name == "INTERNAL" and details == "Invalid metadata":
        # Said by our own client before anything is sent.
        return answers.FAILURES[FailureKind.UNUSABLE]
    if code_name == "RESOURCE_EXHAUSTED" and retry_info_s is not None:
        # OTLP: only RetryInfo makes it a throttle.
        return answers.LATER_AMBIGUOUS
    return answers.GRPC.get(code_name, answers.OTHER_GRPC)


# -- the network --------------------------------------------------------------


def judge_failure(kind: FailureKind, message: str) -> Outcome:
    """Judge an attempt that ended without an answer.

    Args:
        kind: How it ended.

        message: What the network or the library said.
    """
    return _outcome(answers.FAILURES[kind], kind.value, message)


# -- parts --------------------------------------------------------------------


def _outcome(rule: answers.Rule, code: str, message: str) -> Outcome:
    return Outcome(
        verdict=rule.verdict, code=code, message=tidy(message), hint=rule.hint,
        ambiguous=rule.ambiguous, needs_sibling=rule.needs_sibling, tries=rule.tries,
        is_too_large=rule.is_too_large,
    )


def _delivered(code: str, partial: PartialSuccess) -> Outcome:
    # A message beside zero rejected records is a warning (OTLP, "Partial Success").
    warning = "" if partial.rejected else partial.message
    return Outcome(
        verdict=Verdict.DELIVERED, code=code, message=tidy(partial.message),
        hint=f"The server took all records and warns: {tidy(warning)}" if warning else "",
        rejected=partial.rejected,
    )
