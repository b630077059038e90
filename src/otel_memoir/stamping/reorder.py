"""Order as events arrive: hold each back until nothing earlier can come."""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from typing import Any, NamedTuple

from otel_memoir.stamping.event import StampedEvent


class Released(NamedTuple):
    """An event that is let go; ``reorder_forced`` if something earlier may still come."""

    event: StampedEvent
    reorder_forced: bool = False


class ReorderBuffer:
    """Lets events go in the order of their times, within bounds of number and time.

    An event is let go once every live stream is past it: when its latest true time is not
    after the *watermark*, the least of the streams' last times, each less its bound. That is
    the order of the times; that of causes needs the whole set (``order.total_order``). A
    bound that nobody knows counts as none.

    Promises: an event that is not marked as forced is not earlier than any let go before it.

    Args:
        events_max: How many events are held; above it the earliest go, forced.

        hold_ns: How long an event is held; then it goes, and what is earlier, forced.

        idle_ns: How long after its last event a stream is waited for.
    """

    def __init__(
        self, *, events_max: int = 10_000, hold_ns: int = 5 * 10**9, idle_ns: int = 2 * 10**9
    ) -> None:
        self._events_max, self._hold_ns, self._idle_ns = events_max, hold_ns, idle_ns
        self._held: list[tuple[tuple[Any, ...], int, StampedEvent]] = []
        self._arrived: deque[tuple[int, int]] = deque()
        self._gone: set[int] = set()
        self._streams: dict[str, tuple[int, int]] = {}
        self._numbers = itertools.count()
        self._last_key: tuple[Any, ...] | None = None

    def __len__(self) -> int:
        return len(self._held)

    def push(self, event: StampedEvent, *, now_ns: int) -> list[Released]:
        """Take an event in; return those that may go.

        Args:
            event: The event.

            now_ns: The receiver's clock, any that does not go back.
        """
        number = next(self._numbers)
        heapq.heappush(self._held, (event.total_key, number, event))
        self._arrived.append((now_ns, number))
        edge_ns = event.unix_ns - (event.error_bound_ns or 0)
        known_ns, _ = self._streams.get(event.stream, (edge_ns, 0))
        self._streams[event.stream] = (max(known_ns, edge_ns), now_ns)
        return self.tick(now_ns=now_ns)

    def tick(self, *, now_ns: int) -> list[Released]:
        """Let time pass; return the events that may go."""
        for stream in [s for s, (_, at) in self._streams.items() if now_ns - at > self._idle_ns]:
            del self._streams[stream]
        released = self._below(self._watermark())
        while len(self._held) > self._events_max:
            released.append(self._pop(forced=True))
        while self._overdue(now_ns):
            released.append(self._pop(forced=True))
        return released

    def flush(self) -> list[Released]:
        """Let all go that are left, at the end, when nothing can come any more."""
        return [self._pop(forced=False) for _ in range(len(self._held))]

    def _watermark(self) -> int | None:
        """Below it nothing can come; ``None`` if no stream is live, and nothing can come."""
        return min((edge for edge, _ in self._streams.values()), default=None)

    def _below(self, watermark_ns: int | None) -> list[Released]:
        released: list[Released] = []
        while self._held:
            first = self._held[0][2]
            latest_ns = first.unix_ns + (first.error_bound_ns or 0)
            if watermark_ns is not None and latest_ns > watermark_ns:
                break
            released.append(self._pop(forced=False))
        return released

    def _overdue(self, now_ns: int) -> bool:
        """Whether the event that is held longest is held too long."""
        while self._arrived and self._arrived[0][1] in self._gone:
            self._gone.discard(self._arrived.popleft()[1])
        return bool(self._arrived) and now_ns - self._arrived[0][0] > self._hold_ns

    def _pop(self, *, forced: bool) -> Released:
        key, number, event = heapq.heappop(self._held)
        self._gone.add(number)
        late = self._last_key is not None and key < self._last_key
        self._last_key = key if not late else self._last_key
        return Released(event, forced or late)
