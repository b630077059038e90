"""Two reflections in a deadlock: one is refused at once, begins again, and both complete.

    python examples/reflections_in_deadlock.py

Each thinks about one person, and then wants to write about the other one too. With both
memories in ``keys`` there could be no deadlock: those are taken all or nothing.
"""

import threading

from otel_memoir import MemoryLog
from otel_memoir.errors import DeadlockError

memory = {"alice": "likes tea", "bob": "likes coffee"}
began = {name: threading.Event() for name in memory}

with MemoryLog(store_id="profile", agent_name="planner") as log:

    @log.locks.retrying  # the whole of it again, and as old as it was
    def compare(mine: str, other: str) -> None:
        """Think about one person, and write about both."""
        with log.reflect("compare", keys=f"profile/{mine}") as reflection:
            began[mine].set()
            began[other].wait(30.0)  # so that both have begun, and they do deadlock
            try:
                with log.change(f"profile/{other}", hold=True, reason="compared") as change:
                    memory[other] += f", unlike {mine}"
                    change.made(content=memory[other])
                    reflection.wrote(f"profile/{other}")
            except DeadlockError as error:
                print("refused:", error.report)
                raise
        print("completed:", mine)

    threads = [
        threading.Thread(target=compare, args=pair, name=pair[0])
        for pair in (("alice", "bob"), ("bob", "alice"))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60.0)
    print("delivered:", log.wait_delivered(10.0))
