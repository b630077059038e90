"""Taking a stamp: under the append lock, in order, and quickly."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappushpop
from typing import TYPE_CHECKING, Any, Protocol, cast

from otel_memoir.clock import Clock, Reading
from otel_memoir.stamping.hlc import HybridClock, Latest, later_than

if TYPE_CHECKING:
    from otel_memoir.spool import Draft, Stream
    from otel_memoir.spool.model import Stamper


LIVES_OVERLAP_MAX_NS = 10 * 10**9
"""A life begins after the last time of those before it, unless that lies further ahead of the
clock: then the clock was wrong, and order goes by the epoch alone. Ten seconds is what
ulid-creator's monotonic factory tolerates, too.
"""


class Suffix(Protocol):
    """Encodes a stamp as bytes to append to a payload."""

    def __call__(
        self,
        uid: str,
        sequence: int,
        time_unix_nano: int | None,
        error_bound_ns: int | None,
        clock_status: str | None = None,
        /,
    ) -> bytes: ...


class Told(Protocol):
    """How a clock is."""

    @property
    def status(self) -> str:
        """Empty when all is well, else one word."""
        ...

    @property
    def epoch(self) -> int:
        """How often it had to go back."""
        ...


class _Plain:
    status = ""
    epoch = 0


def says_how_it_is(clock: Clock) -> Told:
    """The object that says how a clock is; one that says nothing is well and never went back."""
    found: Any = clock if hasattr(clock, "status") and hasattr(clock, "epoch") else _Plain
    return cast("Told", found)


def stream_stamper(
    stream: Stream,
    *,
    clock: Clock,
    make_suffix: Callable[[Stream], Suffix],
    hybrid: HybridClock | None = None,
) -> Stamper:
    """What stamps the records of one stream. The append lock guards it.

    Args:
        stream: The stream.

        clock: What tells the time.

        make_suffix: Gives the encoder of a stream's stamps.

        hybrid: What the stampers of a process share; by default nothing is shared.

    Returns:
        A function of a draft and its sequence number that gives the stamp's bytes, and
        its time in unix ns. Times of a stream strictly increase, and are later than what
        the process stamped or learned of before, and its file's earlier lives: a clock that
        stands still, steps back or is behind a peer's is overruled by a nanosecond, and the
        bound says by how much. A record that says itself when its event happened keeps that
        time.
    """
    hybrid = hybrid or HybridClock()
    told, newest = says_how_it_is(clock), 0
    read, suffix, latest = clock.read, make_suffix(stream), hybrid.enter(told.epoch)
    _begin_after(stream, read, latest)

    # A closure, because every emitter waits for this one and an object costs 100 ns more.
    def stamp(draft: Draft, sequence: int) -> tuple[bytes, int]:
        nonlocal newest
        unix_ns, error_bound_ns = read()
        # As ``HybridClock.send``; the call would take 80 ns.
        if heappushpop(latest, unix_ns) is unix_ns:
            unix_ns, error_bound_ns = later_than(latest, unix_ns, error_bound_ns)
        newest = sequence
        told_ns = None if draft.timed else unix_ns
        if told.status:
            return suffix(draft.uid, sequence, told_ns, error_bound_ns, told.status), unix_ns
        return suffix(draft.uid, sequence, told_ns, error_bound_ns), unix_ns

    hybrid.follow(clock, lambda: (stream, newest) if newest else None)
    return stamp


def _begin_after(stream: Stream, read: Callable[[], Reading], latest: Latest) -> None:
    if not stream.after_unix_ns:
        return
    try:
        is_near = stream.after_unix_ns - read()[0] <= LIVES_OVERLAP_MAX_NS
    except Exception:  # noqa: BLE001 - the clock may be the application's own: each stamp says so
        return
    if is_near:
        heappushpop(latest, stream.after_unix_ns)
