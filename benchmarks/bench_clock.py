"""How wrong a sample of an NTP server is while the interpreter is busy.

A real chronyd on loopback serves the system's own time, so the true offset is 0 and what is
measured is error. Four threads run pure Python meanwhile, as in a busy service.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable

import ntplib
from common import HERE, PATIENCE_S, Row, Scale, p, row

from otel_memoir.clock.sources import NtpSource

sys.path.insert(0, str(HERE.parent / "tests"))

from chrony import CHRONYC, CHRONYD, SETPRIV, Chronyd
from clock_helpers import busy, offset_ns

BUSY_THREADS = 4
SAMPLES_MIN = 40


def our_error_us(source: NtpSource) -> float:
    """What one sample is off, in microseconds."""
    return abs(offset_ns(source.poll(PATIENCE_S))) / 1000


def their_error_us(server: Chronyd) -> float:
    """What one request of ntplib is off, in microseconds."""
    client = ntplib.NTPClient()
    stats = client.request(server.address, version=4, port=server.port, timeout=PATIENCE_S)
    return float(abs(stats.offset) * 1e6)


def ntp_error(scale: Scale) -> list[Row]:
    """The 95th percentile of the error, ours to theirs, rounds interleaved."""
    if not (CHRONYD and CHRONYC and SETPRIV):
        print("ntp: no chronyd: run `make system`", file=sys.stderr)
        return []
    samples = max(SAMPLES_MIN, scale.emits // 5)
    with Chronyd() as server:
        source = NtpSource(server.address, port=server.port)
        plain = NtpSource(server.address, port=server.port, kernel_stamps=False)
        sides = (
            lambda: our_error_us(source), lambda: our_error_us(plain),
            lambda: their_error_us(server),
        )  # fmt: skip
        for side in sides:
            side()
        rounds = [_round(sides, samples) for _ in range(scale.rounds)]
    ours, without, theirs = (
        [p(one[side], 95) for one in rounds] for side in range(len(sides))
    )
    figures = _figures(ours), _figures(theirs)
    return [
        row(
            f"NTP sample error p95, {BUSY_THREADS} busy threads: kernel stamps", *figures,
            [mine / their for mine, their in zip(ours, theirs)], "<= 0.01",
        ),
        row(
            "the same without kernel stamps", _figures(without), figures[1],
            [mine / their for mine, their in zip(without, theirs)], "",
        ),
    ]  # fmt: skip


def _round(sides: tuple[Callable[[], float], ...], samples: int) -> list[list[float]]:
    with busy(BUSY_THREADS):
        taken = [[side() for side in sides] for _ in range(samples)]
    return [[each[number] for each in taken] for number in range(len(sides))]


def _figures(p95s: list[float]) -> str:
    return f"{statistics.median(p95s):,.0f} µs (worst round {max(p95s):,.0f} µs)"


BENCHES: dict[str, Callable[[Scale], list[Row]]] = {"ntp": ntp_error}
