"""A world whose true time is known: an oscillator, a wall clock, servers and a network.

After the model of clknetsim, which chrony's own simulations use: the frequency wanders at
random, a packet takes a base delay and an exponential one.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from otel_memoir.clock.drift import RATE_MAX
from otel_memoir.clock.options import DEFAULT_OPTIONS, SourceOptions
from otel_memoir.clock.sample import Sample

S = 10**9
MS = 10**6
EPOCH_NS = 1_800_000_000 * S


class Oscillator:
    """The ruler: counts true time too fast or too slowly, and stands still when told to.

    Args:
        rate: How much it gains, per second.

        wander: By how much that changes each second, standard deviation.
    """

    def __init__(self, rate: float, wander: float, noise: random.Random) -> None:
        self._rate, self._wander, self._noise = rate, wander, noise
        self._at_ns = 0
        self._ruler_ns = 10**15
        self._stops: list[tuple[int, int]] = []

    def stop(self, at_ns: int, for_ns: int) -> None:
        """Stand still: a suspended machine."""
        self._stops.append((at_ns, for_ns))

    def read(self, at_ns: int) -> int:
        """The ruler at a true time, which never decreases from call to call by a second."""
        while self._at_ns + S <= at_ns:
            self._ruler_ns += self._counted(self._at_ns + S)
            self._at_ns += S
            self._rate += self._noise.gauss(0, self._wander) if self._wander else 0.0
        return self._ruler_ns + self._counted(at_ns)

    def _counted(self, end_ns: int) -> int:
        """What it counts until then, in the second that it is in."""
        awake_ns = end_ns - self._at_ns
        for begin_ns, long_ns in self._stops:
            slept_ns = min(end_ns, begin_ns + long_ns) - max(self._at_ns, begin_ns)
            awake_ns -= max(0, slept_ns)
        return awake_ns + round(awake_ns * self._rate)


def exact(_: int) -> int:
    """A server that tells true time."""
    return 0


@dataclass(kw_only=True)
class Server:
    """A server and the way to it.

    Attributes:
        name: Its name.

        error: What its clock is off, in ns, at a true time.

        base_ns: Least time of a packet, one way.

        there_ns: Mean of the exponential delay on the way there.

        back_ns: The same on the way back.

        loss: Share of polls without an answer.

        silent: Whether it is silent at a true time.

        root_ns: Root distance that it claims.

        lies: Whether ``error`` goes beyond what it claims.

        refusal: The reason that is given for a poll without an answer.

        options: What is configured for it.
    """

    name: str
    error: Callable[[int], int] = exact
    base_ns: int = 5 * MS
    there_ns: int = MS // 2
    back_ns: int = MS // 2
    loss: float = 0.0
    silent: Callable[[int], bool] = lambda _: False
    root_ns: int = 100_000
    lies: bool = False
    refusal: str = "timeout"
    options: SourceOptions = DEFAULT_OPTIONS

    def poll(
        self, at_ns: int, ruler: Callable[[int], int], noise: random.Random
    ) -> Sample | None:
        """Ask at a true time; ``None`` when there is no answer."""
        if self.silent(at_ns) or noise.random() < self.loss:
            return None
        there_ns = self.base_ns + round(noise.expovariate(1.0) * self.there_ns)
        back_ns = self.base_ns + round(noise.expovariate(1.0) * self.back_ns)
        sent, received = ruler(at_ns), ruler(at_ns + there_ns + back_ns)
        taken_ns = at_ns + there_ns
        delay_ns = received - sent
        return Sample(
            source=self.name, ruler_ns=(sent + received) // 2,
            unix_ns=EPOCH_NS + taken_ns + self.error(taken_ns), delay_ns=delay_ns,
            distance_ns=delay_ns // 2 + self.root_ns + 1000 + round(delay_ns * RATE_MAX),
        )
