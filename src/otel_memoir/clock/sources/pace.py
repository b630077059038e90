"""How often a server is asked: often at first, then ever less, and less again when it says so."""

from __future__ import annotations

QUICK_POLLS = 4
QUICK_S = 2.0
RATE_LIMITED_S = 64.0
PUBLIC_MIN_S = 64.0
DOUBLED_AFTER = 8


class Pace:
    """The interval between polls: a hint for whoever polls.

    The first four polls follow each other by two seconds (chrony's ``iburst``). Then the
    interval is doubled by each eight answers in a row, or each eight misses in a row, and
    an answer after a miss, or a miss after an answer, sets it back to the least.
    """

    def __init__(self, least_s: float, most_s: float, *, quick_start: bool) -> None:
        self._least_s = least_s
        self._most_s = most_s
        self._quick = QUICK_POLLS if quick_start else 0
        self._row = 0
        self._answered = True

    @property
    def seconds(self) -> float:
        """Seconds until the next poll."""
        if self._quick > 0:
            return min(QUICK_S, self._least_s)
        return min(self._most_s, self._least_s * 2.0 ** min(self._row // DOUBLED_AFTER, 20))

    def polled(self, *, answered: bool) -> None:
        """Say how a poll ended."""
        self._quick -= 1
        self._row = self._row + 1 if answered == self._answered else 0
        self._answered = answered

    def rate_limited(self) -> None:
        """The server wants to be asked less often (RFC 5905, 7.4)."""
        self._quick = 0
        self.at_least(max(2 * self.seconds, RATE_LIMITED_S))

    def at_least(self, seconds: float) -> None:
        """Never ask more often than this."""
        self._least_s = max(self._least_s, seconds)
        self._most_s = max(self._most_s, self._least_s)
