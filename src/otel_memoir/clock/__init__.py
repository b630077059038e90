"""The clock: what time it is, and how sure we are of it.

What it is for: one reading for every stamp, from a source that can be replaced.
What it refuses: to know anything about OpenTelemetry, and to be used for durations.
"""

from otel_memoir.clock.sample import Sample, Source, ruler_ns
from otel_memoir.clock.shared import shared_clock
from otel_memoir.clock.synchronized import SynchronizedClock
from otel_memoir.clock.system import Clock, Reading, SystemClock

__all__ = [
    "Clock", "Reading", "Sample", "Source", "SynchronizedClock", "SystemClock", "ruler_ns",
    "shared_clock",
]
