"""Retrieval: what local spools still hold, found, shown in order, exported, sent again.

What it is for: *what did the agent believe, and who changed it?* without a backend. Queries
over living, dead and copied spool files, delivered records included; exports in other forms;
and a time range sent again to a collector that lost it.

What it promises: answers come from an index that whoever asks brings up to date, never the
emitter, and states from the ledger as it is now. What cannot be read is said beside the
answer. An export is there whole or not at all. To send again changes no spool file: the
same bytes and uids, so that duplicates can be seen.

What it refuses: to write to a spool, and to guess what a damaged record said.
"""

from otel_memoir.retrieval.event import Page, RetainedEvent
from otel_memoir.retrieval.filters import FilterArguments
from otel_memoir.retrieval.query import events, history
from otel_memoir.retrieval.retrieval import Retrieval

__all__ = ["FilterArguments", "Page", "RetainedEvent", "Retrieval", "events", "history"]
