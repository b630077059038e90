"""Forks of one kind: `forks.py SCENARIO [FLAG...]`; `weaken` switches off what is tested."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from host_programs.emitting import processor, promise, provider, tell
from otel_memoir.delivery import planner
from otel_memoir.spool import Spool
from otel_memoir.spool.alarm import Alarm
from otel_memoir.spool.directory import SlotLock, is_held, slots

DELIVERED_S = 30.0

Flags = Collection[str]


def fork(work: Callable[[], object], *, by: Callable[[], int] = os.fork) -> int:
    """Run work in a fork child that then ends without any clean-up; its pid."""
    child = by()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    return child


def fork_as_uwsgi() -> int:
    """Fork without Python's knowledge: none of its hooks runs.

    A thread that is inside SQLite at that moment leaves SQLite's locks taken in the child
    for ever, which only the hooks can prevent. uWSGI forks where no other thread runs;
    so here ours sleep: with the interpreter's lock held they cannot wake before the fork.
    """
    sys.setswitchinterval(1000.0)
    pause = threading.Event()
    while not all(map(sleeps, threading.enumerate())):
        pause.wait(0.01)
    return int(ctypes.PyDLL(None).fork())


def sleeps(thread: threading.Thread) -> bool:
    """Whether a thread is none of ours, or waits: for its alarm, or, the clock's, for its time."""
    waits = threading.Condition.wait if thread.name == "memoir-clock" else Alarm.wait
    frame = sys._current_frames()[thread.ident or 0]
    return not thread.name.startswith("memoir") or frame.f_code is waits.__code__


class SlowImport:
    """A finder for which a module takes half a second to be found; says when it is sought."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.begun = threading.Event()

    def find_spec(self, name: str, path: Sequence[str] | None, target: Any = None) -> None:
        if name == self._name and not self.begun.is_set():
            self.begun.set()
            threading.Event().wait(0.5)


def importing(flags: Flags) -> None:
    """Fork while the courier imports what it sends with."""
    if "weaken" in flags:
        Spool.quiesce = lambda self: None  # type: ignore[method-assign]
    slow = SlowImport("otel_memoir.delivery.http")
    sys.meta_path.insert(0, slow)  # type: ignore[arg-type]  # find_spec is all that is called
    promise("parent")
    assert slow.begun.wait(DELIVERED_S)

    def child() -> None:
        promise("child")
        # In a thread: the courier of a child that was not waited for hangs with its lock.
        answers: list[bool] = []
        asking = threading.Thread(
            target=lambda: answers.append(processor.wait_delivered(DELIVERED_S)), daemon=True
        )
        asking.start()
        asking.join(2.0 if "weaken" in flags else DELIVERED_S)
        tell("delivered", answers == [True])

    os.waitpid(fork(child), 0)
    os._exit(0)


def inheriting(flags: Flags) -> None:
    """A child outlives the file that its parent had open; meanwhile others write to it."""
    if "weaken" in flags:
        SlotLock.abandon = SlotLock.release  # type: ignore[method-assign]
    promise("parent")
    assert processor.wait_delivered(DELIVERED_S)
    go, gone = os.pipe()

    def child() -> None:
        os.close(gone)
        os.read(go, 1)
        for number in range(20):
            promise(f"child {number}")

    heir = fork(child)
    provider.shutdown()
    subprocess.run([sys.executable, __file__, "leaving"], check=False, stdin=subprocess.DEVNULL)
    os.close(gone)
    os.waitpid(heir, 0)


def leaving(_: Flags) -> None:
    """Leave records and a write-ahead log behind."""
    for number in range(20):
        promise(f"stranger {number}")
    os.kill(os.getpid(), signal.SIGKILL)


def outliving(flags: Flags) -> None:
    """A child waits for ever, having emitted or not; the parent waits to be killed."""
    if "weaken" in flags:
        name = "check_pid" if "unhooked" in flags else "forget"
        setattr(Spool, name, lambda self: None)
    promise("parent 0")
    assert processor.wait_delivered(DELIVERED_S)
    heard, said = os.pipe()

    def child() -> None:
        if "idle" not in flags:
            for number in range(3):
                promise(f"child {number}")
        os.write(said, b".")
        signal.pause()

    fork(child, by=fork_as_uwsgi if "unhooked" in flags else os.fork)
    os.read(heard, 1)
    promise("parent 1")
    tell("ready")
    signal.pause()


def nesting(_: Flags) -> None:
    """A child, and a child of it that outlives it."""
    promise("parent before")

    def grandchild(alive: int, held: int) -> None:
        os.close(held)
        promise("grandchild before")
        os.read(alive, 1)
        promise("grandchild after")

    def child() -> None:
        promise("child before")
        alive, held = os.pipe()
        fork(lambda: grandchild(alive, held))
        promise("child after")

    os.waitpid(fork(child), 0)
    promise("parent after")


def counting(_: Flags) -> None:
    """A child that has emitted nothing asks for its numbers."""
    promise("parent")
    processor.status()
    os.waitpid(fork(lambda: tell("accepted", processor.status().totals.accepted)), 0)


def dying(_: Flags) -> None:
    """A child that is dead and stays a zombie until our standard input ends."""
    promise("parent")
    child = fork(lambda: promise("child"))
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    tell("zombie", child)
    sys.stdin.read()
    os.waitpid(child, 0)


def threading_(_: Flags) -> None:
    """Eight threads emit; each of them forks in the middle."""

    def work(thread: int) -> None:
        for number in range(10):
            promise(f"thread {thread} {number}")
            if number == thread:
                child = fork(lambda: [promise(f"child {thread} {n}") for n in range(3)])
                os.waitpid(child, 0)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def littering(flags: Flags) -> None:
    """24 children, one after the other, emit and die; nothing can be delivered."""
    if "weaken" in flags:
        planner._ADOPTED_MAX = 1000
    promise("parent")
    directory = Path(processor.status().path).parent
    pause = threading.Event()
    for number in range(24):
        os.waitpid(fork(lambda number=number: promise(f"child {number}")), 0)
        while sum(map(is_held, slots(directory))) < min(number + 2, 1 + planner._ADOPTED_MAX):
            pause.wait(0.01)
    os._exit(0)


SCENARIOS = {
    work.__name__.strip("_"): work
    for work in (importing, inheriting, leaving, outliving, nesting, counting, dying,
                 threading_, littering)
}

if __name__ == "__main__":
    SCENARIOS[sys.argv[1]](sys.argv[2:])
