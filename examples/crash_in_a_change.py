"""A process is killed inside a change; the next one says that nobody knows.

    python examples/crash_in_a_change.py
"""

import os
import signal

from otel_memoir import MemoryLog


def change_and_die() -> None:
    """What a process does that is killed between its intention and its outcome."""
    log = MemoryLog(store_id="profile", agent_name="planner")
    with log.change("profile/alice", reason="she said so"):
        # Was the memory written? Whoever reads it now cannot tell.
        os.kill(os.getpid(), signal.SIGKILL)


child = os.fork()
if child == 0:
    change_and_die()
status = os.waitpid(child, 0)[1]
print("killed by signal", os.WTERMSIG(status))

with MemoryLog(store_id="profile", agent_name="planner") as log:
    log.recalled(["alice"], query="what does alice like?")
    # Delivering, the process finds what the dead one left and tells of it.
    print("delivered:", log.wait_delivered(10.0))
