"""What one source said lately, and which of it to believe."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

from otel_memoir.clock.drift import Drift
from otel_memoir.clock.sample import Sample

SAMPLES_MAX = 8
_REACH_BITS = 0xFF


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a source says of *now*, from its best sample.

    Attributes:
        unix_ns: The time, in nanoseconds since 1970-01-01 UTC.

        distance_ns: How far true time can be from it unless the source lies.

        jitter_ns: How far its samples are from the best, root mean square.

        sample: The sample it rests on.
    """

    unix_ns: int
    distance_ns: int
    jitter_ns: int
    sample: Sample


class Register:
    """The last samples of one source; the nearest of them speaks.

    A delayed answer is wrong by up to half its delay, so the least distance wins, and age
    makes every sample more distant.
    """

    def __init__(self) -> None:
        self._samples: deque[Sample] = deque(maxlen=SAMPLES_MAX)
        self.reach = 0
        self.contradictions = 0

    @property
    def last(self) -> Sample | None:
        """The newest sample."""
        return self._samples[-1] if self._samples else None

    def add(self, sample: Sample, drift: Drift) -> None:
        """Take an answer. What contradicts it is forgotten: the source or the ruler jumped."""
        self.reach = (self.reach << 1 | 1) & _REACH_BITS
        if any(not _overlap(old, sample, drift) for old in self._samples):
            self.contradictions += 1
            self._samples.clear()
        self._samples.append(sample)

    def miss(self) -> None:
        """Note that it did not answer."""
        self.reach = self.reach << 1 & _REACH_BITS
        if not self.reach:
            self._samples.clear()

    def forget(self) -> None:
        """Drop all samples: the ruler stood still."""
        self._samples.clear()

    def estimate(self, now_ns: int, drift: Drift) -> Estimate | None:
        """What the source says of the ruler's reading ``now_ns``."""
        if not self._samples:
            return None
        seen = [(*project(sample, now_ns, drift), sample) for sample in self._samples]
        unix_ns, distance_ns, sample = min(seen, key=lambda s: (s[1], -s[2].ruler_ns))
        off = math.fsum(float(other - unix_ns) ** 2 for other, _, _ in seen)
        jitter_ns = math.sqrt(off / (len(seen) - 1)) if len(seen) > 1 else 0.0
        return Estimate(
            unix_ns=unix_ns, distance_ns=distance_ns, jitter_ns=round(jitter_ns), sample=sample
        )


def project(sample: Sample, now_ns: int, drift: Drift) -> tuple[int, int]:
    """A sample's time and distance when the ruler reads ``now_ns``."""
    passed_ns = now_ns - sample.ruler_ns
    return (sample.unix_ns + drift.true_ns(passed_ns),
            sample.distance_ns + drift.doubt_ns(passed_ns))


def _overlap(old: Sample, new: Sample, drift: Drift) -> bool:
    unix_ns, distance_ns = project(old, new.ruler_ns, drift)
    return abs(unix_ns - new.unix_ns) <= distance_ns + new.distance_ns
