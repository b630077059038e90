"""Worlds at random, in each of which fewer than half of the servers lie."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

from otel_memoir.clock.options import SourceOptions
from virtual_time.run import Scenario, step
from virtual_time.world import MS, S, Server, exact


def random_world(seed: int) -> Scenario:
    """Some servers, near and far; liars that are off, step, ramp, swing or alternate.

    Of five packets at most one is lost: eight misses in a row take the vote of an honest server.
    """
    noise = random.Random(seed)
    liars = noise.choice([0, 0, 1, 1, 2])
    honest = liars + noise.randint(1, 3)
    suspends = [(noise.randint(500, 2000) * S, noise.choice([1, 60, 4000]) * S)]
    jump_ns = noise.choice([-1, 1]) * noise.choice([MS, 200 * MS, 5 * S])
    return Scenario(
        name=f"world {seed}",
        servers=[_server(f"s{n}", noise, lies=n < liars) for n in range(honest + liars)],
        rate=noise.uniform(-450e-6, 450e-6), wander=10 ** noise.uniform(-10, -7.3),
        wall=step(noise.uniform(10, 3000), jump_ns),
        suspends=suspends if noise.random() < 0.3 else [],
        seconds=noise.choice([600, 4000, 10_000]), reads=3000,
    )


def _server(name: str, noise: random.Random, *, lies: bool) -> Server:
    base_ns = round(10 ** noise.uniform(4, 8))
    return Server(
        name=name, base_ns=base_ns, there_ns=round(base_ns * noise.uniform(0, 2)),
        back_ns=round(base_ns * noise.uniform(0, 2)), loss=noise.choice([0.0, 0.0, 0.1, 0.2]),
        root_ns=noise.choice([30_000, MS, 20 * MS]), lies=lies,
        error=_lie(noise) if lies else exact,
        options=SourceOptions(
            prefer=noise.random() < 0.15, poll_min_s=noise.choice([4, 16, 64, 256])
        ),
    )


def _lie(noise: random.Random) -> Callable[[int], int]:
    by_ns = noise.choice([1, 3, 10, 50, 400, 5000]) * MS * noise.choice([-1, 1])
    period_ns = noise.uniform(50, 3000) * S
    ways: list[Callable[[int], int]] = [
        lambda _: by_ns,
        lambda at_ns: by_ns if at_ns > period_ns else 0,
        lambda at_ns: round(by_ns * at_ns / period_ns),
        lambda at_ns: round(by_ns * math.sin(at_ns / period_ns * 6)),
        lambda at_ns: by_ns if int(at_ns / period_ns) % 2 else -by_ns,
    ]
    return noise.choice(ways)
