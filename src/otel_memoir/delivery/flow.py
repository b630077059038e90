"""How fast, and in what size, a destination may be sent to: learned from its answers."""

from __future__ import annotations

_SHARE_OF_BACKOFF = 0.1
"""The first gap, of the first backoff. With the default, ten requests in the first second after
an outage, and no gap after seven: 0.2 s in all, however large the backlog is."""

_GAP_MIN_S = 0.001

_SMALLEST = 1 / 16
"""Requests never get smaller than this, of the largest. What needs smaller ones is split as it
always was; but each small batch costs a commit and a round trip, so a destination that was wrong
once must not leave a large backlog in crumbs."""

_STEP = 1 / 256
"""What a yes adds, of the largest: a destination that takes half of it says no to one request in
a hundred or so, and one that was mended has large ones again after some hundred."""


class Flow:
    """Pure: what it knows are the answers, in their order.

    The rate: after an attempt that failed for the destination's sake, the first yes is followed
    by a gap, each further yes by half of the one before, until there is none. It doubles the rate
    with each answer, as TCP's slow start does (RFC 5681, 3.1), which restarts from small after a
    timeout. So a destination that just came back is not met by all backlogs at full speed.

    The size: a request that was too large halves the size of what is batched from now on, and each
    yes to one of about that size adds a constant: additive increase, multiplicative decrease (RFC
    5681; D. Chiu and R. Jain, 1989: of the linear rules, the one by which many clients come to
    fair shares). A yes to a smaller request says nothing of larger ones (RFC 7661).

    Args:
        backoff_initial_s: The first wait after a failure, in seconds; the gaps go by it.

        bytes_max: The largest request, in payload bytes.
    """

    def __init__(self, *, backoff_initial_s: float, bytes_max: int) -> None:
        self._gap_s = 0.0
        self._bytes_max = bytes_max
        self.bytes_max = bytes_max
        self.use(backoff_initial_s=backoff_initial_s, bytes_max=bytes_max)

    def use(self, *, backoff_initial_s: float, bytes_max: int) -> None:
        """Go on with other bounds; what was learned stays, as a share of the largest."""
        self._first_gap_s = backoff_initial_s * _SHARE_OF_BACKOFF
        self.bytes_max = max(1, self.bytes_max * bytes_max // self._bytes_max)
        self._bytes_max = bytes_max

    def failed(self) -> None:
        """Take note of an attempt that failed for the destination's sake."""
        self._gap_s = self._first_gap_s

    def too_large(self, size: int) -> None:
        """Take note that a request of ``size`` payload bytes was too large."""
        smallest = max(1, int(self._bytes_max * _SMALLEST))
        self.bytes_max = max(smallest, min(self.bytes_max, size // 2))

    def delivered(self, size: int) -> float:
        """Take note of a yes to a request of ``size`` payload bytes.

        Returns:
            How long to wait before the next request, in seconds.
        """
        if size > self.bytes_max // 2:
            step = max(1, int(self._bytes_max * _STEP))
            self.bytes_max = min(self._bytes_max, self.bytes_max + step)
        gap_s = self._gap_s if self._gap_s >= _GAP_MIN_S else 0.0
        self._gap_s = gap_s / 2
        return gap_s
