"""What an OTLP answer says beside its status: what was not taken, why, when to come back.

Read here by hand, because servers are not as strict as parsers: the Collector's
encoder does not check that an error message is UTF-8, and a strict parser would
then lose the count beside it.

Sources: OTLP 1.x, "Partial Success" and "Failures"; ``logs_service.proto``
(ExportLogsServiceResponse); ``google/rpc/status.proto``; the protobuf encoding guide;
protobuf's JSON mapping (an int64 is a string or a number, a field has two names).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timezone
from email.utils import parsedate_to_datetime
from typing import Any

from otel_memoir.delivery.wire import read_varint

RETRY_AFTER_MAX_S = 3600.0
"""No server may silence us for longer: it could be a mistake or a clock that jumped."""

MESSAGE_LENGTH_MAX = 500

_FIXED_SIZES = {1: 8, 5: 4}


@dataclass(frozen=True, kw_only=True)
class PartialSuccess:
    """What a server said about a request it answered with success.

    Attributes:
        rejected: Records that it did not take; 0 is full success.

        message: Why, or a warning where nothing was rejected.
    """

    rejected: int = 0
    message: str = ""


def read_protobuf(body: bytes) -> PartialSuccess | None:
    """Read an ``ExportLogsServiceResponse``; ``None`` if the bytes are none."""
    try:
        found = PartialSuccess()
        for number, value in _fields(body):
            if number == 1:
                found = _partial_success(_as_bytes(value))
        return found
    except (IndexError, ValueError):
        return None


def read_json(body: bytes) -> PartialSuccess | None:
    """Read an ``ExportLogsServiceResponse`` in OTLP/JSON; ``None`` if it is none."""
    answer = _json_object(body)
    if answer is None:
        return None
    partial = answer.get("partialSuccess", answer.get("partial_success")) or {}
    if not isinstance(partial, dict):
        return None
    rejected = partial.get("rejectedLogRecords", partial.get("rejected_log_records")) or 0
    message = partial.get("errorMessage", partial.get("error_message")) or ""
    try:
        return PartialSuccess(rejected=max(0, int(rejected)), message=str(message))
    except (TypeError, ValueError, OverflowError):
        return None


def read_status_message(body: bytes, content_type: str) -> str:
    """Return what a failure's body says, for people: a ``Status`` message, or the text."""
    said = None
    if "protobuf" in content_type:
        said = _protobuf_status_message(body)
    elif "json" in content_type:
        said = (_json_object(body) or {}).get("message")
    return said if isinstance(said, str) and said else body.decode("utf-8", "replace")


def _protobuf_status_message(body: bytes) -> str | None:
    try:
        messages = [_as_bytes(value) for number, value in _fields(body) if number == 2]
    except (IndexError, ValueError):
        return None
    return messages[-1].decode("utf-8", "replace") if messages else None


def _partial_success(body: bytes) -> PartialSuccess:
    rejected, message = 0, ""
    for number, value in _fields(body):
        if number == 1 and isinstance(value, int):
            # An int64: what is above the sign bit is negative, and means nothing here.
            rejected = value if value < 2**63 else 0
        elif number == 2:
            message = _as_bytes(value).decode("utf-8", "replace")
    return PartialSuccess(rejected=rejected, message=message)


def _fields(body: bytes) -> Iterator[tuple[int, int | bytes]]:
    position = 0
    while position < len(body):
        tag, position = read_varint(body, position)
        number, kind = tag >> 3, tag & 7
        if number == 0 or kind not in (0, 1, 2, 5):
            raise ValueError("not a protobuf message")
        if kind == 0:
            value, position = read_varint(body, position)
            yield number, value
            continue
        size = _FIXED_SIZES.get(kind)
        if size is None:
            size, position = read_varint(body, position)
        end = position + size
        if end > len(body):
            raise IndexError("the message ends inside a field")
        yield number, body[position:end]
        position = end


def _as_bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        # As any other malformed message, for the one who catches it.
        raise ValueError("a number where a message belongs")
    return value


def _json_object(body: bytes) -> dict[str, Any] | None:
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return answer if isinstance(answer, dict) else None


def read_retry_after(value: str | None, now_unix_s: float) -> float | None:
    """Return how long a ``Retry-After`` header asks to wait, in seconds from 0 to 3600.

    Args:
        value: The header: seconds or an HTTP date (RFC 9110, 10.2.3).

        now_unix_s: The wall clock, in seconds.

    Returns:
        The wait, or ``None`` if there is no header or it cannot be read.
    """
    text = (value or "").strip()
    if re.fullmatch(r"[0-9]+(\.[0-9]*)?", text):
        return clamped(float(text))
    try:
        date = parsedate_to_datetime(text)
        if date.tzinfo is None:
            date = date.replace(tzinfo=timezone.utc)
        return clamped(date.timestamp() - now_unix_s)
    except (TypeError, ValueError, IndexError, OverflowError):
        return None


def clamped(wait_s: float) -> float | None:
    """Bring a wait that a server asked for between 0 and 3600 seconds; ``None`` for NaN."""
    if math.isnan(wait_s):
        return None
    return min(max(wait_s, 0.0), RETRY_AFTER_MAX_S)


def tidy(message: str) -> str:
    """One printable line of at most 500 characters: it goes to terminals and to disk."""
    printable = "".join(c if c.isprintable() else " " for c in message[: 8 * MESSAGE_LENGTH_MAX])
    return " ".join(printable.split())[:MESSAGE_LENGTH_MAX]
