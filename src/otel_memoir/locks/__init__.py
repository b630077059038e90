"""Locks on memories: for threads and tasks, with one wait-for graph.

What it is for: two writers of a memory do not overwrite each other, and no deadlock lasts.

Promises (each in its module): ``engine``: no two holders conflict, no wake-up is lost;
``judge``: a circle is found by the unit that closes it, before it sleeps; ``core``: a fencing
token that grows; ``effects``: nothing foreign is called while the table is locked.

To be read from the bottom up, since no module knows one above it: values (``states``, ``modes``,
``keys``, ``report``), what the table is made of (``parts``, ``table``, ``roll``), what is read
from it and how it is queued (``graph``, ``queueing``, ``donation``, ``order``), what can happen
to it (``core``), what is decided (``mourning``, ``judge``), who grants (``engine``), how one
waits for that (``parking``), what a holder has in hand (``lease``), and the ``manager``. What is
told: ``telemetry`` and ``metrics``; to other processes, ``window`` and ``inspect``.

What it refuses: to wait for ever for a dead owner, to block an event loop on itself, and to
let the owner of a lock be a span.
"""

from otel_memoir.locks.lease import Lease
from otel_memoir.locks.manager import LockManager
from otel_memoir.locks.report import DeadlockReport, Holding, Participant

__all__ = ["DeadlockReport", "Holding", "Lease", "LockManager", "Participant"]
