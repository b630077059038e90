"""Names to addresses, without ever waiting longer than the caller has time."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import threading
import time
from typing import NamedTuple

from otel_memoir.errors import ClockError

LIFETIME_S = 3600.0


class Endpoint(NamedTuple):
    """One address that a name stands for."""

    family: int
    sockaddr: tuple[str | int | bytes, ...]

    @property
    def address(self) -> str:
        return str(self.sockaddr[0])

    @property
    def public(self) -> bool:
        """Whether it belongs to the internet: others pay for what we ask there."""
        return ipaddress.ip_address(self.address.partition("%")[0]).is_global


class Resolver:
    """Addresses of one host and port, looked up in a thread of its own and remembered.

    ``getaddrinfo`` takes no timeout. A lookup that does not return is left to itself, and
    whoever asks next waits for the same one: there is never more than one thread.
    """

    def __init__(self, host: str, port: int, kind: int = socket.SOCK_DGRAM) -> None:
        self._wanted = (host, port, 0, kind)
        self._thread: threading.Thread | None = None
        self._found: tuple[Endpoint, ...] = ()
        self._error = ""
        self._stale_after_s = 0.0
        with contextlib.suppress(socket.gaierror):
            self._found = _unique(*self._wanted, flags=socket.AI_NUMERICHOST)
            self._stale_after_s = float("inf")

    def endpoints(self, deadline_s: float, source: str) -> tuple[Endpoint, ...]:
        """Every address of the host, the best first.

        Raises:
            ClockError: There is none (``dns_failed``), or none by ``deadline_s`` of the
                monotonic clock (``dns_timeout``).
        """
        if time.monotonic() >= self._stale_after_s:
            self._look_up(deadline_s)
        if not self._found:
            pending = self._thread is not None and self._thread.is_alive()
            raise ClockError(
                "dns_timeout" if pending else "dns_failed", source=source,
                cause="the name server has not answered" if pending else self._error,
                hint="Give the address instead of the name, or check the name.",
            )
        return self._found

    def forget(self) -> None:
        """Look a name up again before its next use: its addresses do not answer."""
        if self._stale_after_s != float("inf"):
            self._stale_after_s = 0.0

    def _look_up(self, deadline_s: float) -> None:
        # After a fork the parent's thread is not alive here, and a new one begins.
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._run, name="memoir-clock-dns", daemon=True)
            self._thread.start()
        self._thread.join(max(0.0, deadline_s - time.monotonic()))

    def _run(self) -> None:
        try:
            self._found = _unique(*self._wanted)
            self._stale_after_s = time.monotonic() + LIFETIME_S
        except (OSError, UnicodeError) as error:
            self._error = str(error)


def _unique(host: str, port: int, family: int, kind: int, flags: int = 0) -> tuple[Endpoint, ...]:
    found = socket.getaddrinfo(host, port, family, kind, 0, flags)
    return tuple(dict.fromkeys(Endpoint(entry[0], (*entry[4],)) for entry in found))
