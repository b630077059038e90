"""Reflections: read a snapshot of memories, think, write derived memories back; safely.

What it is for: the long call of a model is made without locks, and what was written meanwhile
is not overwritten (``Reflection.unlocked``); two who would reflect on the same memories do it
once (``if_busy="skip"``); a trace shows each reflection, and a log how each ended.

What it promises: each reflection ends with exactly one event, ``completed``, ``failed`` or
``skipped``, however its block is left; with ``started`` before it if it got its locks. After a
block nothing is held. What a block raises reaches the caller; what telemetry raises does not.

What it refuses: to write back, when a memory changed since it was read; to run a block
without its locks; to know the SDK.
"""

from otel_memoir.reflection.account import RerunRequest
from otel_memoir.reflection.reflection import Reflection
from otel_memoir.reflection.reflections import Reflections

__all__ = ["Reflection", "Reflections", "RerunRequest"]
