"""Shows the locks of this process to ``otel-memoir locks``, which is another process.

Who hangs cannot tell why: its threads wait and its event loops stand still. So a thread of its
own answers, whatever the others do, as long as the interpreter runs and the mutex of a manager
is let go, under which nothing foreign is called.

Promises:

- Nothing is opened or started before somebody has to wait, or ``publish`` is called; what is
  free pays nothing. A process that hangs in locks has waited, so it shows them without having
  been told to before, and one that never waits has no thread and no socket.
- What is shown is a snapshot: keys, modes, units, spans, lines of code. No content.
- A reader gets one snapshot, written to it as fast as it reads, for ``PATIENCE_S`` at most. One
  that does not read keeps nobody waiting: no manager, and no other reader.
- A fork child lets go of its parent's socket, and makes its own when somebody has to wait there.
"""

from __future__ import annotations

import atexit
import itertools
import json
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable
from typing import Literal, Protocol

from otel_memoir.diagnostics import complaints, unobserved
from otel_memoir.errors import MemoirError
from otel_memoir.locks.core import Core
from otel_memoir.locks.serving import Server
from otel_memoir.locks.snapshot import Snapshot
from otel_memoir.locks.sockets import socket_directory

LockSocket = Literal["contended", "off"]

FORMAT = 1
"""Of the answer. Fields may be added; a reader leaves out what it does not know."""

CLOSE_TIMEOUT_S = 1.0


class Shown(Protocol):
    """A lock manager."""

    def snapshot(self) -> Snapshot:
        """Its table and graph."""
        ...


class Window:
    """The one of a process; several managers are seen through it side by side."""

    def __init__(self) -> None:
        self._managers: weakref.WeakValueDictionary[int, Shown] = weakref.WeakValueDictionary()
        self._numbers = itertools.count()
        self._cores: weakref.WeakSet[Core] = weakref.WeakSet()
        self._server: Server | None = None
        self._start_anew()

    def _start_anew(self) -> None:
        self._lock = threading.RLock()
        self._starting = threading.Lock()
        self._settled = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._server = None

    def show(self, manager: Shown, core: Core) -> None:
        """Show a manager, for as long as it lives, from the first time that a unit waits."""
        with self._lock:
            self._managers[next(self._numbers)] = manager
            self._cores.add(core)
        _FirstWait(self, core).arm()

    def open(self, timeout: float = 0.0) -> bool:
        """Open it unless it is open; return whether it is, after so many seconds at most."""
        if self._thread is None and self._starting.acquire(blocking=False):
            try:
                self._start()
            finally:
                self._starting.release()
        if timeout > 0:
            self._settled.wait(timeout)
        return self._server is not None

    def close(self, timeout: float = CLOSE_TIMEOUT_S) -> bool:
        """Remove the socket and end the thread; return whether that took less than ``timeout``.

        It can be opened again.
        """
        thread = self._thread
        if thread is None or thread is threading.current_thread():
            return thread is None
        self._stopping.set()
        if self._server is not None:
            self._server.wake()
        thread.join(timeout)
        if thread.is_alive():
            return False
        self._start_anew()
        return True

    def forget(self) -> None:
        """In a fork child: the socket is the parent's, and its thread is not here."""
        if self._server is not None:
            self._server.abandon()
        self._start_anew()
        for core in list(self._cores):
            _FirstWait(self, core).arm()

    # -- the thread -----------------------------------------------------------

    def _start(self) -> None:
        if self._thread is not None:
            return
        thread = threading.Thread(target=self._run, name="memoir-locks", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # no more threads, or the interpreter ends
            complaints.say("lock socket", f"cannot show the locks: {error}")
        else:
            self._thread = thread

    def _run(self) -> None:
        server: Server | None = None
        try:
            with unobserved():
                server = Server(socket_directory(), self.picture)
                self._server = server
                self._settled.set()
                server.serve(self._stopping)
        except (OSError, MemoirError) as error:
            complaints.say("lock socket", f"`otel-memoir locks` cannot see this process: {error}")
        finally:
            self._server = None
            self._settled.set()
            if server is not None:
                server.close()

    def picture(self) -> bytes:
        """What a reader is given."""
        with self._lock:
            managers = list(self._managers.values())
        return json.dumps({
            "format": FORMAT, "pid": os.getpid(),
            "program": os.path.basename(sys.argv[0]) if getattr(sys, "argv", None) else "",
            "taken_unix_ns": time.time_ns(),
            "managers": [manager.snapshot().to_dict() for manager in managers],
        }).encode()  # fmt: skip


class _FirstWait:
    """Opens the window when a unit of a core has to wait, and is not called again."""

    def __init__(self, window: Window, core: Core) -> None:
        self._window, self._core = window, weakref.ref(core)

    def arm(self) -> None:
        core = self._core()
        if core is not None:
            core.on_block = [*self._others(core), self]

    def __call__(self, unit: str, holders: tuple[str, ...]) -> None:
        core = self._core()
        if core is not None:
            with core.mutex:
                core.on_block = self._others(core)
        self._window.open()

    @staticmethod
    def _others(core: Core) -> list[Callable[[str, tuple[str, ...]], object]]:
        return [call for call in core.on_block if not isinstance(call, _FirstWait)]


window = Window()
os.register_at_fork(after_in_child=window.forget)
atexit.register(window.close)
