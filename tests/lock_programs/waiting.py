"""A process that locks in the way that its argument says, tells its pid, and waits to be ended.

It ends when its standard input does. ``ready PID`` is told when what is to be seen is there,
but for the socket, which comes by itself.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
import threading

from opentelemetry.sdk.trace import TracerProvider

from otel_memoir.locks import LockManager

PATIENCE_S = 60.0

tracer = TracerProvider(shutdown_on_exit=False).get_tracer("program")


def tell(*words: object) -> None:
    """Tell the test something."""
    print(*words, flush=True)


def until_ended() -> None:
    """Wait until the test closes the pipe."""
    sys.stdin.read()


class Waits:
    """Tells when so many units of a manager wait."""

    def __init__(self, locks: LockManager, count: int) -> None:
        self._left, self._all = count, threading.Event()
        locks.on_block(self._on_block)

    def _on_block(self, unit: str, holders: tuple[str, ...]) -> None:
        self._left -= 1
        if not self._left:
            self._all.set()

    def wait(self) -> None:
        """Until they do."""
        assert self._all.wait(PATIENCE_S)


def threads_wait(locks: LockManager, key: str = "notes/a") -> None:
    """One holds a key in a span, another waits for it."""
    waits, held = Waits(locks, 1), threading.Event()

    def hold() -> None:
        with tracer.start_as_current_span("hold"), locks.hold(key):
            held.set()
            until_ended()
            os._exit(0)

    def want() -> None:
        with locks.hold(key, priority=3):
            pass

    threading.Thread(target=hold, name="holder", daemon=True).start()
    assert held.wait(PATIENCE_S)
    threading.Thread(target=want, name="waiter", daemon=True).start()
    waits.wait()


def free() -> None:
    """Locks that nobody waits for."""
    locks = LockManager()
    with locks.hold("notes/a"):
        tell("threads", *(thread.name for thread in threading.enumerate()))
        tell("ready", os.getpid())
        until_ended()


def publish() -> None:
    """The same, shown because it was asked for."""
    locks = LockManager()
    with locks.hold("notes/a"):
        tell("published", locks.publish(PATIENCE_S))
        tell("ready", os.getpid())
        until_ended()


def wait() -> None:
    """A thread waits for another; two managers."""
    one, two = LockManager(), LockManager()
    threads_wait(one)
    with two.hold("other/b", "shared"):
        tell("ready", os.getpid())
        threading.Event().wait()


def blocked() -> None:
    """All threads wait, the main one too: for a lock that is never let go."""
    locks = LockManager()
    threads_wait(locks)
    tell("ready", os.getpid())
    with locks.hold("notes/a"):
        pass


def hung_loop() -> None:
    """A task waits for another one's lock, and then a third one blocks their event loop."""
    locks = LockManager()

    async def hold() -> None:
        async with locks.hold("notes/a"):
            await asyncio.Event().wait()

    async def want() -> None:
        async with locks.hold("notes/a"):
            pass

    async def main() -> None:
        tasks = [asyncio.create_task(hold(), name="holder")]
        await asyncio.sleep(0)
        tasks.append(asyncio.create_task(want(), name="waiter"))
        await asyncio.sleep(0)
        tell("ready", os.getpid())
        until_ended()
        os._exit(0)

    asyncio.run(main())


def circle() -> None:
    """Two threads in a deadlock that is only reported."""
    locks = LockManager(on_deadlock="report")
    waits, both = Waits(locks, 2), threading.Barrier(2)

    def take(first: str, then: str) -> None:
        with locks.hold(first):
            both.wait(PATIENCE_S)
            with locks.hold(then):
                pass

    for name, first, then in (("one", "notes/a", "notes/b"), ("two", "notes/b", "notes/a")):
        threading.Thread(target=take, args=(first, then), name=name, daemon=True).start()
    waits.wait()
    tell("ready", os.getpid())
    until_ended()


def forks() -> None:
    """A process whose threads wait forks; its child locks too."""
    locks = LockManager()
    threads_wait(locks)
    child = os.fork()
    if child == 0:
        threads_wait(locks, "notes/child")
        tell("ready", os.getpid())
        threading.Event().wait()
    tell("ready", os.getpid())
    os.waitpid(child, 0)


def forks_unseen() -> None:
    """A fork behind Python's back: the child keeps a socket that it knows nothing of."""
    locks = LockManager()
    threads_wait(locks)
    assert locks.publish(PATIENCE_S)
    child = ctypes.CDLL(None).fork()
    if child == 0:
        ctypes.CDLL(None).pause()
    tell("child", child)
    tell("ready", os.getpid())
    threading.Event().wait()


if __name__ == "__main__":
    globals()[sys.argv[1]]()
