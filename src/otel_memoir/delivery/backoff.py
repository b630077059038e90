"""How long to wait before the next attempt.

Exponential with full jitter: a random time between nothing and a bound that
doubles with each failure. Of the usual kinds it makes the fewest calls when many
clients lost the same server ("Exponential Backoff And Jitter", M. Brooker, AWS
Architecture Blog, 2015). There is no limit in time: what is on disk can wait.
"""

from __future__ import annotations

import random
from collections.abc import Callable

_DOUBLINGS_MAX = 64

UNIFORM = random.SystemRandom().uniform
"""The system's: the application may have seeded the shared generator for a run to be repeated,
and fork children that inherit a state would all wait equally long.
"""


class Backoff:
    """Pure: the same random numbers give the same waits.

    Args:
        initial_s: The bound after the first failure, in seconds.

        maximum_s: The bound that is never passed, in seconds.

        uniform: Gives a random number between its arguments.
    """

    def __init__(
        self,
        *,
        initial_s: float,
        maximum_s: float,
        uniform: Callable[[float, float], float] = UNIFORM,
    ) -> None:
        self._initial_s = initial_s
        self._maximum_s = maximum_s
        self._uniform = uniform

    def next_delay_s(self, failures: int, *, at_least_s: float | None = None) -> float:
        """Return how long to wait, in seconds.

        Args:
            failures: Failures in a row, this one included.

            at_least_s: What the server asked for. The jitter comes on top of it, so that
                clients that were all told the same do not all come back at once. It may
                pass the maximum: a server that asks for an hour means it.
        """
        # Beyond 64 doublings every bound is the maximum, and a power of two of a large
        # count of failures would not fit into a float.
        doublings = min(max(failures, 1) - 1, _DOUBLINGS_MAX)
        bound_s = min(self._maximum_s, self._initial_s * 2.0**doublings)
        return (at_least_s or 0.0) + self._uniform(0.0, bound_s)
