"""A sender that is made by the thread that sends."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from otel_memoir.delivery.dispatch import Sender
from otel_memoir.delivery.outcome import Outcome


class LazySender:
    """Makes the real sender at the first request, in the courier's thread.

    Making it imports ``requests`` or ``grpc``. In the emitting thread a signal handler
    that logs would import them again inside the import, which CPython 3.11 answers with
    a ``KeyError`` (seen: the first records of a handler were lost).

    Args:
        make: Makes the real sender.
    """

    def __init__(self, make: Callable[[], Sender]) -> None:
        self._make = make
        self._sender: Sender | None = None

    def send(
        self, request: bytes, *, headers: Mapping[str, str], timeout: float | None = None
    ) -> Outcome:
        """As the real sender."""
        if self._sender is None:
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
