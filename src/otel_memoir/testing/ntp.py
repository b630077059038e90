"""An NTP server on loopback that answers as told: what a real server can not be made to send."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from typing_extensions import Self

JOIN_S = 5.0
_PACKET = struct.Struct("!BBbbIIIQ8sQQ")
_NTP_TO_UNIX_S = 2_208_988_800


@dataclass(frozen=True, kw_only=True)
class NtpAnswer:
    """One answer, by default a good one from a server at stratum 1 whose clock is ours.

    Attributes:
        offset_s: By how much the server's clock is ahead.

        leap, version, mode, stratum, precision: The packet's fields.

        root_delay_s, root_dispersion_s: Towards the reference clock.

        refid: Four bytes; at stratum 0 the kiss code, at 2 or more an IPv4 address.

        origin: ``echo`` repeats the question's transmit timestamp; ``zero`` and ``forged``
            do not.

        receive_ns, transmit_ns: Unix times to say instead of those of the server's clock;
            a negative one is sent as a timestamp of all zeros.

        request_delay_s, reply_delay_s: How long question and answer are on their way, as
            it were: the delay stands outside the server's two stamps.

        other_port: Sent from another port than the one that was asked.

        length: The packet is cut to so many bytes.

        trailer: Bytes after the packet.

        copies: How often it is sent; 0 is silence.

        flood_s: Seconds for which it is sent again and again.
    """

    offset_s: float = 0.0
    leap: int = 0
    version: int = 4
    mode: int = 4
    stratum: int = 1
    precision: int = -24
    root_delay_s: float = 0.0
    root_dispersion_s: float = 0.0
    refid: bytes = b"TEST"
    origin: Literal["echo", "zero", "forged"] = "echo"
    receive_ns: int | None = None
    transmit_ns: int | None = None
    request_delay_s: float = 0.0
    reply_delay_s: float = 0.0
    other_port: bool = False
    length: int | None = None
    trailer: bytes = b""
    copies: int = 1
    flood_s: float = 0.0

    @classmethod
    def silence(cls) -> NtpAnswer:
        """No answer."""
        return cls(copies=0)

    @classmethod
    def kiss(cls, code: str) -> NtpAnswer:
        """A kiss of death: RATE, DENY, RSTR, …"""
        return cls(stratum=0, leap=3, refid=code.encode().ljust(4, b"\0"))

    def packet(self, question: bytes, receive_ns: int, transmit_ns: int) -> bytes:
        """The answer's bytes, to a question that came and is answered at these Unix times."""
        origins = {"echo": question[40:48], "zero": bytes(8), "forged": b"\xe0forged!"}
        offset_ns = round(self.offset_s * 1e9)
        receive_ns = receive_ns + offset_ns if self.receive_ns is None else self.receive_ns
        transmit_ns = transmit_ns + offset_ns if self.transmit_ns is None else self.transmit_ns
        data = _PACKET.pack(
            self.leap << 6 | self.version << 3 | self.mode, self.stratum, 0, self.precision,
            round(self.root_delay_s * 65536), round(self.root_dispersion_s * 65536),
            int.from_bytes(self.refid, "big"), _stamp(receive_ns), origins[self.origin],
            _stamp(receive_ns), _stamp(transmit_ns),
        )
        return data[: self.length] + self.trailer


Answers = NtpAnswer | Sequence[NtpAnswer]
"""What one question is answered with: several packets one after the other, or one."""
Respond = Callable[[bytes], Answers]


class ScriptedNtpServer:
    """An NTP server on loopback that records questions and answers as told.

        with ScriptedNtpServer() as server:
            server.script([NtpAnswer.kiss("RATE"), NtpAnswer(offset_s=0.25)])
            ...  # point something at server.host, server.port

    Args:
        respond: Answers the questions for which the script has no answer; well by default.

        host: The loopback address to listen at: ``127.0.0.1``, or ``::1``.

        wall: What the server takes for the time, in nanoseconds since 1970.
    """

    def __init__(
        self,
        respond: Respond | None = None,
        *,
        host: str = "127.0.0.1",
        wall: Callable[[], int] = time.time_ns,
    ) -> None:
        self.respond: Respond = respond or (lambda question: NtpAnswer())
        self.questions: list[bytes] = []
        self.host = host
        self._wall = wall
        self._script: deque[Answers] = deque()
        self._changed = threading.Condition()
        self._stopped = threading.Event()
        self._family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = self._bound()
        self._other = self._bound()
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._run, name="scripted-ntp", daemon=True)

    def start(self) -> Self:
        """Begin to answer."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """Answer no more and free the port."""
        self._stopped.set()
        with socket.socket(self._family, socket.SOCK_DGRAM) as waker:
            waker.sendto(b"", (self.host, self.port))
        self._thread.join(JOIN_S)
        self._socket.close()
        self._other.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def script(self, answers: Iterable[Answers]) -> None:
        """Answer the next questions with these, in order."""
        with self._changed:
            self._script.extend(answers)

    def wait_asked(self, count: int, timeout: float = 10.0) -> bool:
        """Wait until so many questions have come; return whether they have."""
        with self._changed:
            return self._changed.wait_for(lambda: len(self.questions) >= count, timeout)

    def _bound(self) -> socket.socket:
        sock = socket.socket(self._family, socket.SOCK_DGRAM)
        sock.bind((self.host, 0))
        return sock

    def _run(self) -> None:
        while True:
            question, client = self._socket.recvfrom(2048)
            receive_ns = self._wall()
            if self._stopped.is_set():
                return
            with self._changed:
                self.questions.append(question)
                self._changed.notify_all()
                scripted = self._script.popleft() if self._script else None
            answers = self.respond(question) if scripted is None else scripted
            for answer in [answers] if isinstance(answers, NtpAnswer) else answers:
                self._answer(answer, question, client, receive_ns)

    def _answer(
        self, answer: NtpAnswer, question: bytes, client: tuple[str, int], receive_ns: int
    ) -> None:
        if answer.request_delay_s:
            self._stopped.wait(answer.request_delay_s)
            receive_ns = self._wall()
        data = answer.packet(question, receive_ns, self._wall())
        if answer.reply_delay_s:
            self._stopped.wait(answer.reply_delay_s)
        sock = self._other if answer.other_port else self._socket
        until_s = time.monotonic() + answer.flood_s
        sent = 0
        while sent < answer.copies or (time.monotonic() < until_s and not self._stopped.is_set()):
            try:
                sock.sendto(data, client)
            except OSError:
                return  # The client has gone, and ICMP has said so.
            sent += 1


def _stamp(unix_ns: int) -> int:
    """A Unix time as an NTP timestamp; the era falls off the top."""
    if unix_ns < 0:
        return 0
    seconds, rest_ns = divmod(unix_ns, 10**9)
    return ((seconds + _NTP_TO_UNIX_S) % 2**32) << 32 | (rest_ns << 32) // 10**9
