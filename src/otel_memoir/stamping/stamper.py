"""Taking a stamp: under the append lock, in order, and quickly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from otel_memoir.clock import Clock
from otel_memoir.spool import Draft, Stream


class Suffix(Protocol):
    """Encodes a stamp as bytes to append to a payload."""

    def __call__(
        self,
        uid: str,
        sequence: int,
        *,
        time_unix_nano: int | None,
        error_bound_ns: int | None,
    ) -> bytes: ...


class StreamStamper:
    """Stamps the records of one stream. The append lock guards it.

    Args:
        stream: The stream.

        clock: What tells the time.

        make_suffix: Gives the encoder of a stream's stamps.
    """

    def __init__(
        self, stream: Stream, *, clock: Clock, make_suffix: Callable[[Stream], Suffix]
    ) -> None:
        self._clock = clock
        self._suffix = make_suffix(stream)
        self._last_unix_ns = 0

    def __call__(self, draft: Draft, sequence: int) -> tuple[bytes, int]:
        """The stamp of the next record: its bytes, and its time in unix ns.

        Times of a stream strictly increase: a clock that stands still or steps back
        is overruled by a nanosecond. A record that says itself when its event
        happened keeps that time.
        """
        reading = self._clock.read()
        unix_ns = max(reading.unix_ns, self._last_unix_ns + 1)
        self._last_unix_ns = unix_ns
        suffix = self._suffix(
            draft.uid, sequence, time_unix_nano=None if draft.timed else unix_ns,
            error_bound_ns=reading.error_bound_ns,
        )
        return suffix, unix_ns
