"""The clock: what time it is. How sure we are of it comes with the next release.

What it is for: one reading for every stamp, from a source that can be replaced.
What it refuses: to know anything about OpenTelemetry, and to be used for durations.
"""

from otel_memoir.clock.sample import Sample, Source, ruler_ns
from otel_memoir.clock.system import Clock, Reading, SystemClock

__all__ = ["Clock", "Reading", "Sample", "Source", "SystemClock", "ruler_ns"]
