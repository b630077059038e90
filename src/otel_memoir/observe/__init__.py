"""Observing ourselves: numbers about the spool, its delivery, the clock and its stamps.

What it is for: an operator sees what waits, how old it is and what became of the rest,
in the metrics that the application exports anyway.

Promises: its own meter scope and ``otel.component.type``, since an idle
``BatchLogRecordProcessor`` counts the same records under the SDK's; ``exported`` counts
a record once, on its final outcome. What it refuses: to count by anything that grows
with the data (names, ids).
"""

from otel_memoir.observe.clock_metrics import observe_clock
from otel_memoir.observe.hybrid_metrics import observe_hybrid
from otel_memoir.observe.metrics import Observed, observe

__all__ = ["Observed", "observe", "observe_clock", "observe_hybrid"]
