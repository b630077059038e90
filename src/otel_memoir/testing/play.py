"""What is played: how a request is answered, and what arrived."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """How to answer one request.

    Attributes:
        status: HTTP status. Over gRPC, the code that a Collector gives for it.

        headers: HTTP headers, or gRPC trailing metadata (names in lower case).

        body: The body; by default an OTLP response for 2xx, with ``rejected`` and
            ``message``, else the message.

        rejected: Records that are said to be rejected, the last ones of the request.

        message: What is said about it.

        code: gRPC status by name, where ``status`` does not say it.

        retry_info_s: Over gRPC, a RetryInfo in ``grpc-status-details-bin``.

        delay_s: Wait this long first. Ends early when the collector goes down.

        manner: ``answer``; ``drop`` the connection without an answer; ``hang`` until
            ``release``; ``dribble`` the answer a byte at a time (HTTP only).

        taken: The records count as taken although no OK is sent.
    """

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    rejected: int = 0
    message: str = ""
    code: str = ""
    retry_info_s: float | None = None
    delay_s: float = 0.0
    manner: Literal["answer", "drop", "hang", "dribble"] = "answer"
    taken: bool = False

    @classmethod
    def drop(cls, *, taken: bool = False) -> Answer:
        """Break the connection, before or after taking the records."""
        return cls(manner="drop", taken=taken)

    @classmethod
    def hang(cls, *, taken: bool = False) -> Answer:
        """Say nothing until ``ScriptedCollector.release``."""
        return cls(manner="hang", taken=taken)

    @property
    def is_ok(self) -> bool:
        """Whether the answer is a plain success."""
        by_code = self.code in ("", "OK") and 200 <= self.status < 300
        return by_code and self.manner in ("answer", "dribble")

    def content(self) -> bytes:
        """The body that is sent."""
        if self.body is not None:
            return self.body
        if not 200 <= self.status < 300:
            return self.message.encode()
        response = ExportLogsServiceResponse()
        # A Collector sends an empty partial_success with each success.
        response.partial_success.SetInParent()
        response.partial_success.rejected_log_records = self.rejected
        response.partial_success.error_message = self.message
        return response.SerializeToString()


@dataclass(frozen=True, kw_only=True)
class RecordedRecord:
    """A log record as it arrived; ``None`` or empty where it does not say."""

    uid: str | None
    stream_id: str | None
    epoch: Any
    sequence: int | None
    event_name: str
    attributes: Mapping[str, Any]
    proto: Any


@dataclass(frozen=True, kw_only=True)
class RecordedRequest:
    """A request as it arrived. Header names are in lower case.

    ``raw`` is the body on the wire and ``body`` the same decompressed; over gRPC the
    library decompresses, and both are the message.
    """

    protocol: Literal["http", "grpc"]
    path: str
    headers: Mapping[str, str]
    raw: bytes
    body: bytes
    records: tuple[RecordedRecord, ...]
    peer: str


Respond = Callable[[RecordedRequest], Answer]
"""Answers a request."""


def records_of(body: bytes) -> tuple[RecordedRecord, ...]:
    """The records of a request's bytes; none, if they are no request."""
    from google.protobuf.message import DecodeError

    try:
        request = ExportLogsServiceRequest.FromString(body)
    except DecodeError:
        return ()
    return tuple(
        _record(proto)
        for resource in request.resource_logs
        for scope in resource.scope_logs
        for proto in scope.log_records
    )


def _record(proto: Any) -> RecordedRecord:
    attributes = {pair.key: _value(pair.value) for pair in proto.attributes}
    return RecordedRecord(
        uid=attributes.get("log.record.uid"),
        stream_id=attributes.get("memoir.stream.id"),
        epoch=attributes.get("memoir.stream.epoch"),
        sequence=attributes.get("memoir.sequence"),
        event_name=proto.event_name,
        attributes=attributes,
        proto=proto,
    )


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(item) for item in value.array_value.values]
    if kind == "kvlist_value":
        return {pair.key: _value(pair.value) for pair in value.kvlist_value.values}
    return getattr(value, kind) if kind else None
