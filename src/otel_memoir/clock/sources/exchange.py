"""One question and its answer over UDP, stamped, and over by the deadline whatever comes."""

from __future__ import annotations

import contextlib
import math
import select
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from otel_memoir.clock.sample import ruler_ns
from otel_memoir.clock.sources import kernel_stamps
from otel_memoir.clock.sources.bracket import Bracket, ReadNs, Span, read_bracket
from otel_memoir.clock.sources.resolve import Endpoint
from otel_memoir.errors import ClockError

DATAGRAM_BYTES = 2048
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Clocks:
    """The two clocks that an exchange reads; a test hands in its own."""

    ruler: ReadNs = ruler_ns
    wall: ReadNs = time.time_ns

    def bracket(self) -> Bracket:
        """Both at once."""
        return read_bracket(self.ruler, self.wall)


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange(Generic[Answer]):
    """An answer that was accepted, and its times on the ruler in nanoseconds.

    Attributes:
        answer: What the judge made of it.

        sent_ns, received_ns: When the question left and the answer came.

        error_ns: How wrong these two can be.

        span: The wall clock before and after.

        kernel_stamps: How many of the two times are the kernel's, 0 to 2.

        local_address: The address that the other side saw.
    """

    answer: Answer
    sent_ns: int
    received_ns: int
    error_ns: int
    span: Span
    kernel_stamps: int
    local_address: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """What all exchanges with one source have in common.

    Attributes:
        source: Its name, for errors.

        clocks: What is read before and after.

        kernel_stamps: Whether the kernel's stamps are wanted.
    """

    source: str
    clocks: Clocks = Clocks()
    kernel_stamps: bool = True

    def exchange(
        self,
        endpoint: Endpoint,
        question: bytes,
        judge: Callable[[bytes, str], Answer | None],
        deadline_s: float,
    ) -> Exchange[Answer]:
        """Ask and wait for an answer that the judge accepts.

        Args:
            endpoint: Whom to ask; the kernel drops what comes from elsewhere.

            question: The datagram.

            judge: Told each datagram and our own address. It returns ``None`` for what
                is to be ignored, and raises to end the exchange.

            deadline_s: Reading of the monotonic clock at which the exchange is over.

        Raises:
            ClockError: ``timeout``, ``refused``, ``unreachable``, or what the judge raised.
        """
        try:
            with _connected(endpoint) as sock:
                return self._on(sock, question, judge, deadline_s)
        except TimeoutError as error:
            raise self._error("timeout", "no answer in time") from error
        except ConnectionRefusedError as error:
            raise self._error("refused", f"nothing listens at {endpoint.address}") from error
        except OSError as error:
            raise self._error("unreachable", error) from error

    def _on(
        self,
        sock: socket.socket,
        question: bytes,
        judge: Callable[[bytes, str], Answer | None],
        deadline_s: float,
    ) -> Exchange[Answer]:
        stamping = self.kernel_stamps and kernel_stamps.enable(sock)
        local = str(sock.getsockname()[0])
        left = None
        before = self.clocks.bracket()
        sent_ns = self.clocks.ruler()
        sock.send(question)
        while True:
            _wait(sock, deadline_s)
            left = left or (kernel_stamps.sent_stamp(sock) if stamping else None)
            data, ancillary = _receive(sock)
            received_ns = self.clocks.ruler()
            answer = judge(data, local) if data is not None else None
            if answer is None:
                continue
            left = left or (kernel_stamps.sent_stamp(sock) if stamping else None)
            stamps = (left, kernel_stamps.stamp_of(ancillary) if stamping else None)
            span = Span(before, self.clocks.bracket())
            return _stamped(answer, span, (sent_ns, received_ns), stamps, local)

    def _error(self, reason: str, cause: object) -> ClockError:
        return ClockError(reason, source=self.source, cause=cause)


def _stamped(
    answer: Answer,
    span: Span,
    own: tuple[int, int],
    kernel: tuple[int | None, int | None],
    local_address: str,
) -> Exchange[Answer]:
    """Take the kernel's stamps where they lie between the readings around the exchange.

    They do not where the wall clock was set, or where this process is shown another one.
    """
    sent, came = (s if s is not None and span.holds(s) else None for s in kernel)
    if sent is not None and came is not None and came < sent:
        sent = came = None
    used = [s for s in (sent, came) if s is not None]
    return Exchange(
        answer=answer,
        sent_ns=own[0] if sent is None else span.on_ruler(sent),
        received_ns=own[1] if came is None else span.on_ruler(came),
        error_ns=span.error_ns if used else 0,
        span=span, kernel_stamps=len(used), local_address=local_address,
    )


@contextlib.contextmanager
def _connected(endpoint: Endpoint) -> Iterator[socket.socket]:
    """A socket of its own for each exchange: a fresh port, and no late answers."""
    with socket.socket(endpoint.family, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.connect(endpoint.sockaddr)
        yield sock


def _wait(sock: socket.socket, deadline_s: float) -> None:
    """Wait for a datagram, for the stamp of the one that was sent, or for an error."""
    remaining_s = deadline_s - time.monotonic()
    if remaining_s <= 0:
        raise TimeoutError
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    if not poll.poll(math.ceil(remaining_s * 1000)):
        raise TimeoutError


def _receive(sock: socket.socket) -> tuple[bytes | None, kernel_stamps.Ancillary]:
    """The next datagram, or ``None``; raises what ICMP said."""
    try:
        data, ancillary, _, _ = sock.recvmsg(DATAGRAM_BYTES, kernel_stamps.ANCILLARY_BYTES)
    except BlockingIOError:
        return None, ()
    return data, ancillary
