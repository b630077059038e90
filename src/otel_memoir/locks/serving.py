"""Gives each who connects one answer, and hangs up. One thread, many readers."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from otel_memoir.diagnostics import complaints
from otel_memoir.locks import sockets

PATIENCE_S = 5.0
READERS_MAX = 16

# How long to leave it when the process has no more descriptors to give.
_PAUSE_S = 1.0


class Reader:
    """One who is being answered."""

    def __init__(self, connection: socket.socket, answer: bytes, deadline_s: float) -> None:
        self.connection, self.deadline_s = connection, deadline_s
        self._rest = memoryview(answer)

    def go_on(self) -> bool:
        """Write what it takes now; return whether there is more to write."""
        try:
            self._rest = self._rest[self.connection.send(self._rest):]
        except BlockingIOError:
            return True
        except OSError:  # it hung up
            return False
        return bool(self._rest)


class Server:
    """The socket of this process. Made and used by one thread, but for ``wake``.

    Args:
        directory: Where the sockets are; made if need be, and cleared of dead ones.

        answer: What to tell who connects.

    Raises:
        LockError, OSError: There can be no socket.
    """

    def __init__(
        self, directory: Path, answer: Callable[[], bytes],
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._answer, self._monotonic_s = answer, monotonic_s
        sockets.prepare(directory)
        sockets.clear(directory)
        self._refused = False
        self._readers: dict[socket.socket, Reader] = {}
        self._bell, self._ear = socket.socketpair()
        self._listener, self._place = sockets.listen(directory)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ, self._take)
        self._selector.register(self._ear, selectors.EVENT_READ, lambda: None)

    def serve(self, stopping: threading.Event) -> None:
        """Answer until ``stopping`` is set and ``wake`` called."""
        while not stopping.is_set():
            for key, _ in self._selector.select(self._nap_s()):
                key.data()
            self._leave_the_slow()
            if self._refused:
                stopping.wait(_PAUSE_S)

    def _nap_s(self) -> float | None:
        deadlines = [reader.deadline_s for reader in self._readers.values()]
        return max(0.0, min(deadlines) - self._monotonic_s()) if deadlines else None

    def _take(self) -> None:
        try:
            connection, _ = self._listener.accept()
            self._refused = False
        except OSError as error:
            self._refused = not isinstance(error, BlockingIOError)
            return
        if not sockets.may_look(connection):
            connection.close()
            return
        if len(self._readers) >= READERS_MAX:
            self._hang_up(next(iter(self._readers)))
        connection.setblocking(False)
        self._begin(connection)

    def _begin(self, connection: socket.socket) -> None:
        try:
            answer = self._answer()
        except Exception as error:  # noqa: BLE001 - a key may be of a class of the application's
            complaints.say("lock picture", f"cannot show the locks: {error!r}")
            connection.close()
            return
        reader = Reader(connection, answer, self._monotonic_s() + PATIENCE_S)
        self._readers[connection] = reader
        self._selector.register(connection, selectors.EVENT_WRITE, partial(self._go_on, reader))

    def _go_on(self, reader: Reader) -> None:
        if reader.connection in self._readers and not reader.go_on():
            self._hang_up(reader.connection)

    def _leave_the_slow(self) -> None:
        now_s = self._monotonic_s()
        for reader in [one for one in self._readers.values() if one.deadline_s <= now_s]:
            self._hang_up(reader.connection)

    def _hang_up(self, connection: socket.socket) -> None:
        del self._readers[connection]
        self._selector.unregister(connection)
        connection.close()

    # -- the end --------------------------------------------------------------

    def wake(self) -> None:
        """Have it look at ``stopping``; from any thread."""
        with contextlib.suppress(OSError):
            self._bell.send(b"\0")

    def close(self) -> None:
        """Remove the socket."""
        self._place.path.unlink(missing_ok=True)
        self.abandon()

    def abandon(self) -> None:
        """Close all descriptors and leave the socket: in a fork child it is the parent's."""
        # Closed, not unregistered: the child's epoll(7) is the parent's.
        self._selector.close()
        for one in (self._listener, self._bell, self._ear, *self._readers):
            one.close()
