"""A memory that is a dictionary, and the memoir of it.

    python examples/quickstart.py

Every event is on disk before the call returns. Without a Collector at
OTEL_EXPORTER_OTLP_ENDPOINT (http://localhost:4318) they wait there for one.
"""

from otel_memoir import MemoryLog

memory = {"alice": "likes tea"}

with MemoryLog(store_id="profile", agent_name="planner") as log:
    receipt = log.created("alice", content=memory["alice"], record_version=1)
    print("on disk:", receipt.is_stored)

    found = [key for key, text in memory.items() if "tea" in text]
    log.recalled(found, query="who likes tea?")

    # The intention is on disk before the block begins. Killed inside it, the next
    # process would report that nobody knows what became of the change.
    with log.change("profile/alice", reason="she said so") as change:
        memory["alice"] = "likes coffee"
        change.made(content=memory["alice"], version=2)

    print("delivered:", log.wait_delivered(2.0))
