"""HTTP ``Date`` as a source: right to a second or two, and enough to see that a clock lies."""

from __future__ import annotations

import email.utils
import http.client
import io
import socket
import ssl
import time
from collections import Counter
from dataclasses import replace
from email.message import Message
from urllib.parse import SplitResult, urlsplit

from otel_memoir.clock.options import SourceOptions
from otel_memoir.clock.sample import Sample
from otel_memoir.clock.sources.exchange import Clocks
from otel_memoir.clock.sources.resolve import Endpoint, Resolver
from otel_memoir.errors import ClockError, SettingsError

OPTIONS = SourceOptions(noselect=True, poll_min_s=64.0)
HEAD_BYTES_MAX = 64 * 1024
_HALF_NS = 500_000_000
_CACHED_NS = 500_000_000
"""Servers make the header once a second and send it until they make the next."""
_PORTS = {"http": 80, "https": 443}


class HttpDateSource:
    """The ``Date`` of whatever answers a URL, by nature ``noselect``.

    ``failures`` counts polls that failed, by reason. Used by one thread.

    Args:
        url: Any answer serves, also 404 or 405: the OTLP endpoint's, for example.

        tls: How a server is judged; the system's authorities by default.

        options: How often it is asked. It never sets the time, whatever they say.

        clocks: What is read; a test hands in its own.
    """

    def __init__(
        self,
        url: str,
        *,
        tls: ssl.SSLContext | None = None,
        options: SourceOptions = OPTIONS,
        clocks: Clocks | None = None,
    ) -> None:
        self._url = _split(url)
        self._tls = tls
        self.options = replace(options, noselect=True)
        self.failures: Counter[str] = Counter()
        self._clocks = clocks or Clocks()
        port = self._url.port or _PORTS[self._url.scheme]
        self._name = f"http-date:{self._url.hostname}:{port}"
        self._resolver = Resolver(self._url.hostname or "", port, socket.SOCK_STREAM)

    @property
    def name(self) -> str:
        return self._name

    def poll(self, timeout: float) -> Sample:
        """Ask once.

        Raises:
            ClockError: There is no answer, or no ``Date`` of this moment in it.
        """
        try:
            return self._ask(time.monotonic() + timeout)
        except TimeoutError as error:
            raise self._failed("timeout", "no answer in time") from error
        except ConnectionRefusedError as error:
            raise self._failed("refused", "nothing listens there") from error
        except ssl.SSLError as error:
            raise self._failed("tls", error) from error
        except (OSError, http.client.HTTPException) as error:
            raise self._failed("unreachable", error) from error
        except ClockError as error:
            self.failures[error.reason] += 1
            raise

    def _failed(self, reason: str, cause: object) -> ClockError:
        self.failures[reason] += 1
        return ClockError(reason, source=self._name, cause=cause)

    def _ask(self, deadline_s: float) -> Sample:
        endpoint = self._resolver.endpoints(deadline_s, self._name)[0]
        with self._connected(endpoint, deadline_s) as sock:
            sent_ns = self._clocks.ruler()
            sock.sendall(self._question())
            head = _read_head(sock, deadline_s)
            received_ns = self._clocks.ruler()
        date_ns = self._date_ns(head)
        half_way_ns = (received_ns - sent_ns + 1) // 2
        return Sample(
            source=self._name, ruler_ns=sent_ns + half_way_ns, unix_ns=date_ns + _HALF_NS,
            distance_ns=_HALF_NS + _CACHED_NS + half_way_ns, delay_ns=received_ns - sent_ns,
        )

    def _connected(self, endpoint: Endpoint, deadline_s: float) -> socket.socket:
        sock = socket.socket(endpoint.family, socket.SOCK_STREAM)
        try:
            sock.settimeout(_left_s(deadline_s))
            sock.connect(endpoint.sockaddr)
            if self._url.scheme == "https":
                sock.settimeout(_left_s(deadline_s))
                context = self._tls or tls_context()
                return context.wrap_socket(sock, server_hostname=self._url.hostname)
        except BaseException:
            sock.close()
            raise
        return sock

    def _question(self) -> bytes:
        path = (self._url.path or "/") + (f"?{self._url.query}" if self._url.query else "")
        host = self._url.netloc.rpartition("@")[2]
        return f"HEAD {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()

    def _date_ns(self, head: Message) -> int:
        if head.get("Age") is not None:
            raise ClockError("cached", source=self._name, cause="a cache has answered")
        date = head.get("Date")
        if date is None:
            raise ClockError("no_date", source=self._name, cause="the answer has no Date")
        try:
            return int(email.utils.parsedate_to_datetime(date).timestamp()) * 10**9
        except (ValueError, OverflowError) as error:
            raise ClockError("bad_date", source=self._name, cause=f"Date is {date!r}") from error


def tls_context(cafile: str | None = None) -> ssl.SSLContext:
    """What a server is judged by: the authorities of a file, or the system's.

    As lenient as the OTLP exporters of the same endpoint are: from Python 3.13 on the
    default refuses certificates that are not to the letter of RFC 5280, as many private
    authorities issue them, and urllib3 does not.
    """
    context = ssl.create_default_context(cafile=cafile)
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


def _split(url: str) -> SplitResult:
    try:
        split = urlsplit(url)
        usable = split.scheme in _PORTS and split.hostname and split.port != 0
    except ValueError:
        usable = False
    if not usable or not url.isprintable() or not url.isascii() or " " in url:
        raise SettingsError(
            "use for HTTP Date", target=url, cause="it is not an http or https URL",
            hint="Give the OTLP endpoint, for example http://localhost:4318.",
        )
    return split


def _left_s(deadline_s: float) -> float:
    left_s = deadline_s - time.monotonic()
    if left_s <= 0:
        raise TimeoutError
    return left_s


def _read_head(sock: socket.socket, deadline_s: float) -> Message:
    """Status line and headers; a server that drips them cannot keep us beyond the deadline."""
    data = b""
    while b"\r\n\r\n" not in data:
        sock.settimeout(_left_s(deadline_s))
        piece = sock.recv(4096)
        data += piece
        if not piece or len(data) > HEAD_BYTES_MAX:
            raise http.client.HTTPException("the answer is not HTTP")
    status, _, rest = data.partition(b"\r\n")
    if not status.startswith(b"HTTP/"):
        raise http.client.HTTPException("the answer is not HTTP")
    return http.client.parse_headers(io.BytesIO(rest))
