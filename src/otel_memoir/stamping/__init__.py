"""Stamping: who said it and in which order.

What it is for: every emission gets an id of its own, a stream, an epoch and the next
sequence number of the stream, and a time that is later than that of the number before.
What it refuses: to take a stamp outside the append lock, where two records could swap.
"""

from otel_memoir.stamping.stamper import stream_stamper
from otel_memoir.stamping.uid import new_uid

__all__ = ["new_uid", "stream_stamper"]
