"""chronyd on this host as a source: it knows how wrong the system clock is."""

from __future__ import annotations

import secrets
import time
from collections import Counter

from otel_memoir.clock.options import DEFAULT_OPTIONS, SourceOptions
from otel_memoir.clock.sample import Sample
from otel_memoir.clock.sources.cmdmon import Tracking, answers, decode_tracking, tracking_request
from otel_memoir.clock.sources.exchange import Asking, Clocks, Exchange
from otel_memoir.clock.sources.packet import DISTANCE_MAX_NS, Refusal
from otel_memoir.clock.sources.resolve import Resolver
from otel_memoir.errors import ClockError

PORT = 323
_UNSYNCHRONISED = 3
_LOCAL_REFID = 0x7F7F0101
_HINTS = {
    "refused": "Is chronyd running here, with its command port open (cmdport, bindcmdaddress)?",
    "timeout": "Does chronyd allow this host to ask (cmdallow)?",
    "unsynchronised": "See: chronyc sources.",
    "local_reference": "Give chronyd a server to follow.",
}


class ChronydSource:
    """What chronyd says of the system clock, asked over its command port.

    ``failures`` counts polls that failed, by reason. Used by one thread.

    Args:
        host: Where chronyd is: the loopback address, because it speaks of its host's clock.

        port: Its command port (``cmdport``).

        options: What it may say in the vote, and how often it is asked.

        clocks: What is read; a test hands in its own.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        *,
        port: int = PORT,
        options: SourceOptions = DEFAULT_OPTIONS,
        clocks: Clocks | None = None,
    ) -> None:
        default = (host, port) == ("127.0.0.1", PORT)
        bracketed = f"[{host}]" if ":" in host else host
        self._name = "chronyd" if default else f"chronyd://{bracketed}:{port}"
        self.options = options
        self.failures: Counter[str] = Counter()
        self.last: Tracking | None = None
        self._resolver = Resolver(host, port)
        self._asking = Asking(
            source=self._name, clocks=clocks or Clocks(), kernel_stamps=False
        )

    @property
    def name(self) -> str:
        return self._name

    def poll(self, timeout: float) -> Sample:
        """Ask chronyd once.

        Raises:
            ClockError: It does not answer, does not follow anybody, or answers nonsense.
        """
        try:
            return self._ask(time.monotonic() + timeout)
        except ClockError as error:
            self.failures[error.reason] += 1
            raise ClockError(
                error.reason, source=self._name, cause=error.cause,
                hint=error.hint or _HINTS.get(error.reason, ""),
            ) from error

    def _ask(self, deadline_s: float) -> Sample:
        sequence = secrets.randbits(32)

        def judge(data: bytes, _: str) -> Tracking | None:
            return self._judge(data, sequence)

        endpoint = self._resolver.endpoints(deadline_s, self._name)[0]
        question = tracking_request(sequence)
        return self._sample(self._asking.exchange(endpoint, question, judge, deadline_s))

    def _judge(self, data: bytes, sequence: int) -> Tracking | None:
        if not answers(data, sequence):
            return None
        tracking = decode_tracking(data)
        if isinstance(tracking, Tracking):
            wrong = _refusal(tracking)
            if wrong is None:
                return tracking
        else:
            wrong = tracking
        raise ClockError(wrong.reason, source=self._name, cause=wrong.cause)

    def _sample(self, exchange: Exchange[Tracking]) -> Sample:
        """chronyd's clock read somewhere between our two readings of the same clock.

        The distance is ClockBound's: what is still to be corrected, half the root delay
        and the root dispersion, though the correction is already in the time given.
        """
        tracking, span = exchange.answer, exchange.span
        if span.stepped:
            raise ClockError(
                "wall_stepped", source=self._name, cause=f"by {span.slew_ns} ns meanwhile"
            )
        self.last = tracking
        distance_ns = bound_ns(tracking) + span.error_ns
        return Sample(
            source=self._name, ruler_ns=span.after.ruler_ns,
            unix_ns=span.after.wall_ns + tracking.correction_ns, distance_ns=distance_ns,
            delay_ns=tracking.root_delay_ns, stratum=tracking.stratum,
        )


def bound_ns(tracking: Tracking) -> int:
    """How wrong the system clock can be, in nanoseconds (ClockBound's formula)."""
    half_delay_ns = (tracking.root_delay_ns + 1) // 2
    return abs(tracking.correction_ns) + half_delay_ns + tracking.root_dispersion_ns


def _refusal(tracking: Tracking) -> Refusal | None:
    if tracking.leap == _UNSYNCHRONISED or tracking.refid == 0:
        return Refusal("unsynchronised", "chronyd is not synchronised")
    if tracking.refid == _LOCAL_REFID:
        return Refusal("local_reference", "chronyd follows nobody but this clock itself")
    if not 1 <= tracking.stratum <= 15:
        return Refusal("stratum", f"its stratum is {tracking.stratum}")
    if min(tracking.root_delay_ns, tracking.root_dispersion_ns) < 0:
        return Refusal("malformed", "a negative root delay or dispersion")
    if bound_ns(tracking) >= DISTANCE_MAX_NS:
        return Refusal("root_distance", "it is 16 s or more from its reference")
    return None
