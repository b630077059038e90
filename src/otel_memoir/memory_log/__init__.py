"""The front door: what an application that has a memory calls.

What it is for: one object, ``MemoryLog``, with a method for each event of the vocabulary,
changes whose intention is on disk before they begin, and receipts.

What it promises: nothing raises into the application unless it asked for that; it is
initialised and closed exactly once; it uses the application's providers where there are
any; a change that nobody recorded cannot exist.

What it refuses: to keep content that nobody opted in to, to change a memory store itself,
and to guess an outcome.
"""

from otel_memoir.memory_log.bound import BoundLog
from otel_memoir.memory_log.change import Change
from otel_memoir.memory_log.log import MemoryLog, install
from otel_memoir.memory_log.receipt import Receipt

__all__ = ["BoundLog", "Change", "MemoryLog", "Receipt", "install"]
