"""A sender that is made by the thread that sends."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

from otel_memoir.delivery.dispatch import Sender
from otel_memoir.delivery.outcome import Outcome


class LazySender:
    """Makes the real sender at the first request, in the courier's thread.

    Making it imports ``requests`` or ``grpc``. In the emitting thread a signal handler
    that logs would import them again inside the import, which CPython 3.11 answers with
    a ``KeyError`` (seen: the first records of a handler were lost).

    It is made under ``reading``, which a fork waits for: a child that is forked in the
    middle of an import finds a module half made, or its lock held for ever, and never
    sends anything (seen: two of three workers of gunicorn with ``--preload``).

    Args:
        make: Makes the real sender.

        reading: Gives the lock that a fork waits for; each process has its own.
    """

    def __init__(
        self, make: Callable[[], Sender], reading: Callable[[], AbstractContextManager[object]]
    ) -> None:
        self._make = make
        self._reading = reading
        self._sender: Sender | None = None

    def send(
        self, request: bytes, *, headers: Mapping[str, str], timeout: float | None = None
    ) -> Outcome:
        """As the real sender."""
        if self._sender is None:
            with self._reading():
                self._sender = self._make()
        return self._sender.send(request, headers=headers, timeout=timeout)

    def pack(self, request: bytes) -> None:
        """As the real sender, if there is one yet and it has something to do ahead."""
        pack = getattr(self._sender, "pack", None)
        if pack is not None:
            pack(request)

    def close(self) -> None:
        """As the real sender, if there is one yet."""
        if self._sender is not None:
            self._sender.close()

    def forget(self) -> None:
        """As the real sender, if there is one yet."""
        if self._sender is not None:
            self._sender.forget()
