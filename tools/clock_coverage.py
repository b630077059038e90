"""Print the table of docs/proof-clock.md: whether true time is inside the bound.

Runs every scenario of tests/virtual_time with some seeds, and the weakened ones; takes two minutes.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import pytest

from virtual_time import controls
from virtual_time.random_worlds import random_world
from virtual_time.run import Outcome, Run, Scenario
from virtual_time.scenarios import SCENARIOS, far, liar, servers
from virtual_time.world import MS

HEAD = ("| scenario | readings | outside the bound | back | median bound ms | median error ms |\n"
        "|---|---:|---:|---:|---:|---:|")


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--worlds", type=int, default=100)
    parsed = parser.parse_args()
    seeds = parsed.seeds
    print(HEAD)
    total = Outcome()
    for scenario in SCENARIOS:
        outcomes = [Run(scenario, seed).all() for seed in range(seeds)]
        print(_row(scenario.name, outcomes))
        _add(total, outcomes)
    worlds = [Run(random_world(seed), seed).all() for seed in range(parsed.worlds)]
    print(_row(f"{parsed.worlds} worlds at random, fewer than half lie", worlds))
    _add(total, worlds)
    print(f"| **all** | {total.samples:,} | {total.violations:,} | {total.backwards:,} | | |")
    for name, outcome in _controls():
        print(_row(f"control: {name}", [outcome]))


def _row(name: str, outcomes: list[Outcome]) -> str:
    joined = Outcome()
    _add(joined, outcomes)
    return (f"| {name} | {joined.samples:,} | {joined.violations:,} | {joined.backwards:,} | "
            f"{joined.median_bound_ms:.2f} | {joined.median_error_ms:.3f} |")


def _add(total: Outcome, outcomes: list[Outcome]) -> None:
    for outcome in outcomes:
        total.samples += outcome.samples
        total.violations += outcome.violations
        total.backwards += outcome.backwards
        total.bounds_ns += outcome.bounds_ns
        total.errors_ns += outcome.errors_ns


def _controls() -> list[tuple[str, Outcome]]:
    local = servers(3, base_ns=MS, there_ns=MS, back_ns=MS)
    crooked = Scenario(name="", servers=servers(4, base_ns=MS, there_ns=20 * MS, back_ns=0))
    found = [
        (f"15 ppm assumed, oscillator at {rate:+.0f} ppm",
         controls.with_trusted_drift(Scenario(name="", servers=local, rate=rate * 1e-6)))
        for rate in (200, -80)
    ]
    with pytest.MonkeyPatch.context() as patch:
        found.append(("weighted error of the mean for a bound",
                      controls.with_sigma(crooked, patch)))
    lying = [liar(f"l{number}", 90 * MS) for number in range(3)]
    believed = Run(Scenario(name="", servers=[*far(2), *lying])).all()
    return [*found, ("3 agreeing liars of 5", believed)]


if __name__ == "__main__":
    main()
