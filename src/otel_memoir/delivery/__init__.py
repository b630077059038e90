"""Delivery: from the spool to the first hop of an OTLP pipeline.

What it is for: every batch is sent until its outcome is final, and each answer is
judged by one table.

Promises:

1. A batch is sent again with the same bytes, and only if its last answer was not
   final.
2. ``delivered`` means that the first hop answered that it took the records. What that
   hop then does is its configuration's promise.
3. An answer that only a person can change (a wrong endpoint, a refused token) holds
   delivery and drops nothing.
4. A record that no server takes is quarantined, with the reason, once it is proven
   that the record is at fault and not the server.

What it refuses: to keep anything that matters in memory, to give up after some time,
and to decide in an ``except`` whether something is tried again.
"""

from otel_memoir.delivery.courier import Courier
from otel_memoir.delivery.outcome import Outcome, Verdict

__all__ = ["Courier", "Outcome", "Verdict"]
