"""Stamping: who said it and in which order.

What it is for: every emission gets an id of its own, a stream, an epoch and the next
sequence number of the stream, and a time that is later than that of the number before and
than what the process had learned of others' times.
What it refuses: to take a stamp outside the append lock, where two records could swap; to
move a clock; and to let the order of arrival decide anything.
"""

from otel_memoir.stamping.hlc import HybridClock, process_clock
from otel_memoir.stamping.stamper import says_how_it_is, stream_stamper
from otel_memoir.stamping.uid import new_uid

__all__ = ["HybridClock", "new_uid", "process_clock", "says_how_it_is", "stream_stamper"]
