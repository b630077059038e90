"""Observing ourselves: numbers about the spool, its delivery, the clock and its stamps, and a
verdict on them.

What it is for: an operator sees what waits, how old it is and what became of the rest, in
the metrics that the application exports anyway; and is told in words when something is
wrong, and what to do (``Health``).

Promises: its own meter scope and ``otel.component.type``, since an idle
``BatchLogRecordProcessor`` counts the same records under the SDK's; ``exported`` counts
a record once, on its final outcome; a verdict is a pure function of what was observed.
What it refuses: to count by anything that grows with the data (names, ids).
"""

from otel_memoir.observe.clock_metrics import observe_clock
from otel_memoir.observe.health import Cause, Health, HealthState, Signs
from otel_memoir.observe.health_causes import judge
from otel_memoir.observe.health_locks import oldest_wait_s, watch_locks
from otel_memoir.observe.health_metrics import observe_health
from otel_memoir.observe.health_signs import SignReader
from otel_memoir.observe.health_watch import HealthWatch, OnHealthChange
from otel_memoir.observe.hybrid_metrics import observe_hybrid
from otel_memoir.observe.metrics import Observed, observe

__all__ = [
    "Cause",
    "Health",
    "HealthState",
    "HealthWatch",
    "Observed",
    "OnHealthChange",
    "SignReader",
    "Signs",
    "judge",
    "observe",
    "observe_clock",
    "observe_health",
    "observe_hybrid",
    "oldest_wait_s",
    "watch_locks",
]
