"""Forks children that change a memory, and kills each at a moment of its own choosing.

Usage: changes.py KILLS SEED [without]. Tells ``began ID`` once a block began, ``ended ID``
once it is over. With ``without``, intents are not written down: the product without this guarantee.
"""

from __future__ import annotations

import os
import random
import select
import signal
import sys
import time

from otel_memoir import MemoryLog
from otel_memoir.spool.intents import OpenIntents

LIFE_MAX_S = 0.03


def child(out: int, number: int) -> None:
    """Make changes until somebody kills us."""
    log = MemoryLog(store_id="profile", adoption_interval_s=0.05)
    for count in range(10**6):
        with log.change(f"r{number}.{count}") as change:
            os.write(out, f"began {change.id}\n".encode())
            change.made(content=count, version=1)
        os.write(out, f"ended {change.id}\n".encode())


def main() -> None:
    """One child after the other."""
    kills, rng = int(sys.argv[1]), random.Random(int(sys.argv[2]))
    if sys.argv[3:] == ["without"]:
        OpenIntents.write = lambda *_: None  # type: ignore[method-assign]  # what is shown
    for number in range(kills):
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(read)
            child(write, number)
        os.close(write)
        heard = os.read(read, 64)  # its first change began
        deadline_s = time.monotonic() + rng.uniform(0, LIFE_MAX_S)
        while (left_s := deadline_s - time.monotonic()) > 0:
            if select.select([read], [], [], left_s)[0]:
                heard += os.read(read, 65536)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        while more := os.read(read, 65536):
            heard += more
        os.close(read)
        sys.stdout.write(heard.decode())
        sys.stdout.flush()
    print("done", flush=True)


if __name__ == "__main__":
    main()
