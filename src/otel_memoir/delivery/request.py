"""From stored rows to the bytes of one ``ExportLogsServiceRequest``.

Promises: the order of the rows is kept; a row's payload is in the request byte for
byte, nothing is parsed; the same rows always give the same bytes, so a request that
is sent again is the request that was sent before.

Neighbours with the same envelope share one ScopeLogs, with the same resource one
ResourceLogs. Rows that are apart do not, even if they could: the order would change.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, groupby
from operator import itemgetter

from otel_memoir.delivery import wire
from otel_memoir.errors import SpoolCorruptError

_RESOURCE_LOGS_TAG = b"\x0a"
_SCOPE_LOGS_TAG = b"\x12"
_LOG_RECORDS_TAG = b"\x12"

_first, _second = itemgetter(0), itemgetter(1)


def split_envelope(envelope: bytes) -> tuple[bytes, bytes]:
    """Take an envelope apart.

    Returns:
        The fields ``resource`` and ``schema_url`` of a ResourceLogs, and the fields
        ``scope`` and ``schema_url`` of a ScopeLogs, both encoded.

    Raises:
        SpoolCorruptError: These bytes are no envelope.
    """
    try:
        size, start = wire.read_varint(envelope, 0)
        middle = start + size
        size, last = wire.read_varint(envelope, middle)
    except IndexError:
        raise _damaged(envelope) from None
    if last + size != len(envelope):
        raise _damaged(envelope)
    return envelope[start:middle], envelope[last:]


def _damaged(envelope: bytes) -> SpoolCorruptError:
    return SpoolCorruptError(
        "read envelope",
        target=f"of {len(envelope)} bytes",
        cause="its lengths do not add up",
        hint="Run `otel-memoir verify` on the spool.",
    )


def build_request(rows: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Build the bytes of an ``ExportLogsServiceRequest``, uncompressed.

    Args:
        rows: Pairs of envelope and payload, in the order in which they shall arrive.

    Returns:
        The request; empty bytes, a request without records, if there are no rows.

    Raises:
        SpoolCorruptError: An envelope is damaged.
    """
    # Joined once at the end: each copy of a megabyte costs as much as its rows do.
    request: list[bytes] = []
    for resource_part, scopes in groupby(_scope_logs(rows), key=_first):
        parts = [resource_part, *chain.from_iterable(map(_second, scopes))]
        request += _field(_RESOURCE_LOGS_TAG, parts)
    return b"".join(request)


def _scope_logs(rows: Iterable[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, list[bytes]]]:
    """Pair each run of rows with its resource, the run as a ``scope_logs`` field in parts."""
    table, known = wire.VARINTS, len(wire.VARINTS)
    for envelope, run in groupby(rows, key=_first):
        resource_part, scope_part = split_envelope(envelope)
        parts = [scope_part]
        for _, payload in run:
            size = len(payload)
            head = table[size] if size < known else wire.varint(size)
            parts += (_LOG_RECORDS_TAG, head, payload)
        yield resource_part, _field(_SCOPE_LOGS_TAG, parts)


def _field(tag: bytes, parts: list[bytes]) -> list[bytes]:
    """As ``wire.field``, of a body in parts."""
    return [tag, wire.varint(sum(map(len, parts))), *parts]
