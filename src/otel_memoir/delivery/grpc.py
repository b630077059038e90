"""OTLP/gRPC: one unary call per request, judged.

The request's bytes go out as they are, without a message class in between, over a
public ``grpc`` channel. Seen on the way in: the full status, both places where servers
put RetryInfo (the official exporter reads one), and the response with its partial success.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Mapping
from typing import Any

import grpc
from google.protobuf.message import DecodeError

# googleapis-common-protos has no types.
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status

from otel_memoir.delivery.destination import Destination, user_agent
from otel_memoir.delivery.judge import judge_failure, judge_grpc
from otel_memoir.delivery.outcome import FailureKind, Outcome
from otel_memoir.errors import DeliveryError

_METHOD = "/opentelemetry.proto.collector.logs.v1.LogsService/Export"

# gRPC imports these at its first call, beside which the process may fork (see LazySender).
for _name in ("grpc._channel", "grpc._utilities", "grpc.experimental"):
    with contextlib.suppress(ImportError):
        importlib.import_module(_name)

# Channels that belong to the parent of this fork child. Closing one there can crash
# (a gRPC core is not usable on the far side of a fork), and so can collecting it.
_abandoned: list[Any] = []


class GrpcSender:
    """Sends requests to one OTLP/gRPC destination. Opens nothing before the first send.

    One thread sends at a time; ``close`` may come from another, and then cancels a
    request in progress.

    Args:
        destination: Where and how.
    """

    def __init__(self, destination: Destination) -> None:
        self._destination = destination
        self._channel: Any = None
        self._pid = 0
        self._closed = False

    def send(
        self, request: bytes, *, headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> Outcome:
        """Send a request and judge the answer. Never raises an ``Exception``.

        Args:
            request: A serialised ``ExportLogsServiceRequest``; empty is a probe.

            headers: Metadata of this request only; names in lower case.

            timeout: Seconds for the whole call; the destination's by default.
        """
        if self._closed:
            return judge_failure(FailureKind.CLOSED, "")
        try:
            metadata = (*self._destination.headers, *(headers or {}).items())
            response, _ = self._opened().unary_unary(_METHOD).with_call(
                request, timeout=timeout or self._destination.timeout_s, metadata=metadata
            )
            return judge_grpc("OK", "", None, response)
        except grpc.RpcError as error:
            return self._judge(error)
        except Exception as error:  # noqa: BLE001  # promised: never raises
            return judge_failure(self._kind(error), str(error) or repr(error))

    def _kind(self, error: Exception) -> FailureKind:
        """Name what ended an attempt outside of the call: gRPC raises ValueError when closed."""
        if self._closed:
            return FailureKind.CLOSED
        known = isinstance(error, (OSError, DeliveryError))
        return FailureKind.UNUSABLE if known else FailureKind.UNEXPECTED

    def _judge(self, error: Any) -> Outcome:
        code = error.code()
        if code is grpc.StatusCode.UNAVAILABLE:
            # The next request must not wait for gRPC's own back-off, of up to two minutes.
            self._drop_channel()
        wait_s = _retry_info_s(error.trailing_metadata() or ())
        return judge_grpc(code.name, error.details() or "", wait_s, None)

    def _opened(self) -> Any:
        if self._channel is not None and self._pid != os.getpid():
            self.forget()
        if self._channel is None:
            self._channel = _make_channel(self._destination)
            self._pid = os.getpid()
        return self._channel

    def forget(self) -> None:
        """In a fork child: let go of the parent's channel without closing it."""
        if self._channel is not None:
            _abandoned.append(self._channel)
        self._channel = None
        self._closed = False

    def close(self) -> None:
        """Close the channel; later requests are not sent. Idempotent."""
        self._closed = True
        self._drop_channel()

    def _drop_channel(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None and self._pid == os.getpid():
            channel.close()


def _make_channel(destination: Destination) -> Any:
    options = (
        ("grpc.primary_user_agent", user_agent()),
        # A resend that we do not see would not be written down as an attempt.
        ("grpc.enable_retries", 0),
        # Else a fork child's new channel shares the parent's connection from gRPC's global
        # pool, and its first request fails (grpcio 1.85: 59 of 80 forks; 0 of 80 with this).
        ("grpc.use_local_subchannel_pool", 1),
    )
    gzipped = destination.compression == "gzip"
    compression = grpc.Compression.Gzip if gzipped else grpc.Compression.NoCompression
    if destination.insecure:
        return grpc.insecure_channel(destination.endpoint, options, compression)
    return grpc.secure_channel(
        destination.endpoint, _credentials(destination), options, compression
    )


def _credentials(destination: Destination) -> Any:
    if (destination.client_key_file is None) != (destination.client_certificate_file is None):
        # gRPC's core aborts the whole process on half a pair (SIGABRT, grpcio 1.85).
        raise DeliveryError(
            "use the client certificate for", target=destination.endpoint,
            cause="gRPC needs both a client certificate and its key, and one is missing",
            hint="Set both OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE and _CLIENT_KEY, or neither.",
        )
    return grpc.ssl_channel_credentials(
        root_certificates=_read(destination.certificate_file),
        private_key=_read(destination.client_key_file),
        certificate_chain=_read(destination.client_certificate_file),
    )


def _read(path: str | None) -> bytes | None:
    if path is None:
        return None
    with open(path, "rb") as file:
        return file.read()


def _retry_info_s(metadata: Any) -> float | None:
    """Find RetryInfo: in the standard details, or bare as the official exporter reads it."""
    info = RetryInfo()
    for key, value in metadata:
        try:
            if key == "grpc-status-details-bin":
                for detail in Status.FromString(value).details:
                    if detail.Unpack(info):
                        return _seconds(info)
            elif key == "google.rpc.retryinfo-bin":
                return _seconds(RetryInfo.FromString(value))
        except (DecodeError, TypeError):
            continue
    return None


def _seconds(info: Any) -> float:
    return float(info.retry_delay.seconds + info.retry_delay.nanos / 1e9)
