"""Reads a clock each time that a line arrives, and prints what it is as JSON.

Arguments: mode, state directory (or nothing to share), and optionally ``any-ruler``, which
takes the readings of any ruler for its own: the control of the test with time namespaces.
"""

from __future__ import annotations

import json
import sys

from otel_memoir.clock import Sample, SynchronizedClock, calibrator, ruler_ns
from otel_memoir.clock.options import ConfiguredSource, SourceOptions
from otel_memoir.clock.watch import read_clocks

BEGAN_RULER_NS, BEGAN_UNIX_NS, _ = read_clocks()


def true_ns() -> int:
    """What nobody can set: the time at the start, and the ruler since."""
    return BEGAN_UNIX_NS + ruler_ns() - BEGAN_RULER_NS


class Unmoved:
    """A source that knows true time."""

    name = "unmoved"

    def poll(self, timeout: float) -> Sample:
        """As a source's."""
        at_ns = ruler_ns()
        unix_ns = BEGAN_UNIX_NS + at_ns - BEGAN_RULER_NS
        return Sample(source=self.name, ruler_ns=at_ns, unix_ns=unix_ns, distance_ns=10**6)


def main(mode: str, directory: str, *flags: str) -> None:
    """Read, until the input ends."""
    if "any-ruler" in flags:
        calibrator.ruler_identity = lambda: "any"
    often = SourceOptions(poll_min_s=0.05, poll_max_s=0.05)
    source = ConfiguredSource(Unmoved(), often)
    clock = SynchronizedClock(
        sources=[] if "silent" in flags else [source], mode=mode,  # type: ignore[arg-type]
        directory=directory or None,
    )
    synced = clock.wait_synced(0.5 if "silent" in flags else 60.0)
    for _ in sys.stdin:
        before_ns = true_ns()
        unix_ns, bound_ns = clock.read()
        after_ns = true_ns()
        error_ns = max(0, before_ns - unix_ns, unix_ns - after_ns)
        print(json.dumps({
            "synced": synced, "unix_ns": unix_ns, "bound_ns": bound_ns, "error_ns": error_ns,
            "status": clock.status, "epoch": clock.epoch, "snapshot": clock.snapshot().as_dict(),
        }), flush=True)
    clock.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
