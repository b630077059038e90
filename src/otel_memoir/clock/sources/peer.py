"""What callers said of the time: they cannot set it, but their word is held against it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import NamedTuple

from otel_memoir.clock.options import SourceOptions
from otel_memoir.clock.sample import Sample, ruler_ns
from otel_memoir.clock.sources.bracket import ReadNs
from otel_memoir.clock.sources.packet import DRIFT_PPM
from otel_memoir.errors import ClockError

OPTIONS = SourceOptions(noselect=True)
EXPIRY_S = 300.0
TRANSIT_MAX_S = 5.0
PEERS_MAX = 64


class _Word(NamedTuple):
    """What a peer said, and when the ruler heard it."""

    ruler_ns: int
    unix_ns: int
    bound_ns: int


class PeerSource:
    """The times that came with requests of other processes, by nature ``noselect``.

    ``tell`` may be called by any thread and takes no lock, so that neither a fork nor a
    signal handler can find one held. ``failures`` counts polls without an answer and
    ``untold`` words that were of no use, by reason.

    Args:
        expiry_s: Seconds for which a word counts.

        transit_max_s: Longest time that a request is on its way, in seconds. What waits in
            a queue between processes must not be told.

        options: How often it is asked. It never sets the time, whatever they say.

        ruler: What is read; a test hands in its own.
    """

    name = "peers"

    def __init__(
        self,
        *,
        expiry_s: float = EXPIRY_S,
        transit_max_s: float = TRANSIT_MAX_S,
        options: SourceOptions = OPTIONS,
        ruler: ReadNs = ruler_ns,
    ) -> None:
        self.options = replace(options, noselect=True)
        self.failures: Counter[str] = Counter()
        self.untold: Counter[str] = Counter()
        self._expiry_ns = round(expiry_s * 1e9)
        self._transit_ns = round(transit_max_s * 1e9)
        self._ruler = ruler
        self._words: dict[str, _Word] = {}

    def tell(self, peer: str, unix_ns: int, bound_ns: int | None) -> None:
        """Hear a peer's time as it arrives with a request.

        Args:
            peer: Who said so: its stream id. At most 64 are remembered.

            unix_ns: The peer's time when it sent, nanoseconds since 1970.

            bound_ns: How wrong the peer thinks that can be; a peer that does not know
                is of no use.
        """
        if bound_ns is None or bound_ns < 0:
            self.untold["no_bound"] += 1
            return
        now_ns = self._ruler()
        if peer not in self._words and len(self._words) >= PEERS_MAX:
            self._forget_oldest()
        self._words[peer] = _Word(now_ns, unix_ns, bound_ns)

    def poll(self, timeout: float) -> Sample:
        """The word of the peer that is surest now.

        Raises:
            ClockError: Nobody has said anything for ``expiry_s`` (``no_peers``).
        """
        now_ns = self._ruler()
        live = {p: w for p, w in self._words.copy().items() if not self._expired(w, now_ns)}
        if not live:
            self.failures["no_peers"] += 1
            raise ClockError("no_peers", source=self.name, cause="no peer has told its time")
        word = min(live.values(), key=lambda w: self._distance_ns(w, now_ns))
        return Sample(
            source=self.name, ruler_ns=now_ns,
            unix_ns=word.unix_ns + (now_ns - word.ruler_ns) + self._transit_ns // 2,
            distance_ns=self._distance_ns(word, now_ns), delay_ns=self._transit_ns,
        )

    def earliest_ns(self) -> int | None:
        """A time that has certainly passed if the peers are right, however slow the network
        was; nanoseconds since 1970, or ``None`` where nobody has said anything.
        """
        now_ns = self._ruler()
        live = [w for w in self._words.copy().values() if not self._expired(w, now_ns)]
        return max((self._earliest_ns(word, now_ns) for word in live), default=None)

    def _earliest_ns(self, word: _Word, now_ns: int) -> int:
        age_ns = now_ns - word.ruler_ns
        return word.unix_ns - word.bound_ns + age_ns - _drift_ns(age_ns)

    def _distance_ns(self, word: _Word, now_ns: int) -> int:
        return word.bound_ns + (self._transit_ns + 1) // 2 + _drift_ns(now_ns - word.ruler_ns)

    def _expired(self, word: _Word, now_ns: int) -> bool:
        return now_ns - word.ruler_ns > self._expiry_ns

    def _forget_oldest(self) -> None:
        words = self._words.copy()
        oldest = min(words, key=lambda peer: words[peer].ruler_ns)
        self._words.pop(oldest, None)


process_peers = PeerSource()
"""What the propagator tells, and what the source ``peers`` of this process's clock asks."""


def _drift_ns(age_ns: int) -> int:
    return age_ns * DRIFT_PPM // 10**6 + 1
