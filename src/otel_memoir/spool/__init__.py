"""The spool: SQLite files that keep payloads until they are settled.

What it is for: a record that was accepted is on disk, in order, until its batch is
settled; and it can be proven afterwards that none went missing.

Invariants:

1. *Accepted means committed.* In ``power`` a commit returns after fsync
   (``synchronous=FULL``, read back); in ``process`` it is fsynced within
   ``fsync_interval_s``; no row is sent that no fsync has covered.
2. *One writer.* A process holds an flock on its slot for as long as it lives. It
   has one connection that writes and checkpoints; everyone else reads, briefly.
3. *Sequences are contiguous.* The numbers of a stream run from 1 without a hole,
   but for those that a row of ``gap`` names.
4. *A batch is fixed before it is sent.* Its rows carry its number from the start,
   its ledger row is fsynced before the first attempt; sent again, it has the same bytes.
5. *A state change and its counter are one transaction.* No payload is deleted
   whose batch is not settled.
6. *Rows are checked.* A row has a CRC32; one that fails it is never sent.

    accepted = delivered + pending + rejected + quarantined + expired + evicted + discarded

What it refuses: to share a file between writers, to carry a connection over a
fork, to run on a network file system, to guess what a broken file meant, and to
know anything about OpenTelemetry.
"""

from otel_memoir.spool.model import (
    Batch,
    Draft,
    Hold,
    Refused,
    SpoolStatus,
    State,
    Stream,
    Totals,
)
from otel_memoir.spool.store import Spool
from otel_memoir.spool.ticket import Ticket

__all__ = [
    "Batch",
    "Draft",
    "Hold",
    "Refused",
    "Spool",
    "SpoolStatus",
    "State",
    "Stream",
    "Ticket",
    "Totals",
]
