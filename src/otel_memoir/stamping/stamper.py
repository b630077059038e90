"""Taking a stamp: under the append lock, in order, and quickly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from otel_memoir.clock import Clock
from otel_memoir.spool import Draft, Stream
from otel_memoir.spool.model import Stamper


class Suffix(Protocol):
    """Encodes a stamp as bytes to append to a payload."""

    def __call__(
        self, uid: str, sequence: int, time_unix_nano: int | None, error_bound_ns: int | None, /
    ) -> bytes: ...


def stream_stamper(
    stream: Stream, *, clock: Clock, make_suffix: Callable[[Stream], Suffix]
) -> Stamper:
    """What stamps the records of one stream. The append lock guards it.

    Args:
        stream: The stream.

        clock: What tells the time.

        make_suffix: Gives the encoder of a stream's stamps.

    Returns:
        A function of a draft and its sequence number that gives the stamp's bytes, and
        its time in unix ns. Times of a stream strictly increase: a clock that stands
        still or steps back is overruled by a nanosecond. A record that says itself when
        its event happened keeps that time.
    """
    read, suffix = clock.read, make_suffix(stream)
    last_unix_ns = 0

    # A closure, because every emitter waits for this one and an object costs 100 ns more.
    def stamp(draft: Draft, sequence: int) -> tuple[bytes, int]:
        nonlocal last_unix_ns
        unix_ns, error_bound_ns = read()
        if unix_ns <= last_unix_ns:
            unix_ns = last_unix_ns + 1
        last_unix_ns = unix_ns
        told_ns = None if draft.timed else unix_ns
        return suffix(draft.uid, sequence, told_ns, error_bound_ns), unix_ns

    return stamp
