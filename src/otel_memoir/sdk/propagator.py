"""The propagator ``memoir``: a request carries its sender's time, so that order survives it.

``OTEL_PROPAGATORS=tracecontext,baggage,memoir``. Each outgoing request gets one header:

    memoir-time: t=1764010000000000000;e=1250000;s=<stream>;p=3;q=41

``t`` is a time later than all that the sender stamped before, in unix ns; ``e`` how far it
can be from true time, in ns, where the sender knows; ``s``, ``p`` and ``q`` the stream, its
epoch and the last sequence number stamped in it, where there is one. Who extracts it stamps
nothing earlier from then on, so a caller's time never lies after its callee's.

The header is a claim of a stranger: it can push our stamps ahead of our clock by no more
than ``peer_offset_max_s``, and what it pushes is in their error bound.

OpenTelemetry loads propagators while it is itself being imported. So this module imports
neither the SDK nor gRPC, and nothing here raises.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from opentelemetry.context import Context, create_key, get_value, set_value
from opentelemetry.propagators.textmap import (
    CarrierT,
    Getter,
    Setter,
    TextMapPropagator,
    default_getter,
    default_setter,
)

from otel_memoir.clock.sources.peer import process_peers
from otel_memoir.diagnostics import complaints
from otel_memoir.settings import Settings
from otel_memoir.stamping.hlc import MALFORMED, HybridClock, process_clock

HEADER = "memoir-time"

_HEADER_LENGTH_MAX = 512
_NAME = r"[\w.:-]{1,64}"
_FORM = re.compile(
    r"t=(?P<t>\d{1,19})(?:;e=(?P<e>\d{1,19}))?"
    rf"(?:;s=(?P<s>{_NAME});p=(?P<p>\d{{1,19}});q=(?P<q>\d{{1,19}}))?"
    r"(?:;(?![tespq]=)[a-z]+=[\x21-\x3a\x3c-\x7e]*)*",  # what a later version may add
    re.ASCII,
)
_PEER = create_key("memoir-peer")


@dataclass(frozen=True)
class Peer:
    """What a caller said of itself.

    Attributes:
        unix_ns: A time later than all that it had stamped.

        error_bound_ns: How far that can be from true time, as it says.

        stream_id: Its stream; empty where it has none.

        epoch: The stream's epoch.

        sequence: All up to this number of the stream was stamped before the call.
    """

    unix_ns: int
    error_bound_ns: int | None = None
    stream_id: str = ""
    epoch: int = 0
    sequence: int = 0

    def __str__(self) -> str:
        text = f"t={self.unix_ns}"
        if self.error_bound_ns is not None:
            text += f";e={self.error_bound_ns}"
        if re.fullmatch(_NAME, self.stream_id, re.ASCII):
            text += f";s={self.stream_id};p={self.epoch};q={self.sequence}"
        return text

    @classmethod
    def parse(cls, text: str) -> Peer | None:
        """Read a header; ``None`` if it is not one of ours."""
        found = _FORM.fullmatch(text) if len(text) <= _HEADER_LENGTH_MAX else None
        if found is None:
            return None
        t, e, s, p, q = found.group("t", "e", "s", "p", "q")
        return cls(int(t), int(e) if e else None, s or "", int(p or 0), int(q or 0))


def peer_of(context: Context | None = None) -> Peer | None:
    """Who called, if a propagator took that from the request; by default the current one's."""
    found = get_value(_PEER, context)
    return found if isinstance(found, Peer) else None


class MemoirPropagator(TextMapPropagator):
    """Carries stamps over process boundaries. Nothing raises out of it, its constructor included.

    Args:
        hybrid: What the process's stampers share.

        environ: The environment, for ``MEMOIR_PEER_OFFSET_MAX``; ``os.environ`` by default.

        peer_offset_max_s: How far ahead of ours a peer's clock may be.
    """

    def __init__(
        self,
        *,
        hybrid: HybridClock | None = None,
        environ: Mapping[str, str] | None = None,
        peer_offset_max_s: float | None = None,
    ) -> None:
        self.hybrid = hybrid or process_clock
        settings = Settings.load(
            environ=environ, complain=_complain, peer_offset_max_s=peer_offset_max_s
        )
        self.hybrid.offset_max_ns = round(settings.peer_offset_max_s * 1e9)

    @property
    def fields(self) -> set[str]:
        """The headers that ``inject`` sets."""
        return {HEADER}

    def inject(
        self,
        carrier: CarrierT,
        context: Context | None = None,
        setter: Setter[CarrierT] = default_setter,
    ) -> None:
        """Write a time later than all that was stamped so far into a carrier."""
        try:
            unix_ns, error_bound_ns = self.hybrid.send(*self.hybrid.clock.read())
            position = self.hybrid.position()
            peer = Peer(unix_ns, error_bound_ns)
            if position is not None:
                stream, sequence = position
                peer = Peer(unix_ns, error_bound_ns, stream.stream_id, stream.epoch, sequence)
            setter.set(carrier, HEADER, str(peer))
        except Exception as error:  # promise 6: carrier, setter and clock are foreign
            complaints.say("inject", f"a request goes without its sender's time: {error!r}")

    def extract(
        self,
        carrier: CarrierT,
        context: Context | None = None,
        getter: Getter[CarrierT] = default_getter,
    ) -> Context:
        """Take the sender's time from a carrier: what is stamped from now on is later.

        Returns:
            The context with the sender in it (``peer_of``), or as it was if there is none
            or it was refused, which is counted.
        """
        context = Context() if context is None else context
        try:
            peer = self._peer(getter.get(carrier, HEADER))
            return context if peer is None else set_value(_PEER, peer, context)
        except Exception as error:  # promise 6, as above
            self.hybrid.refuse(MALFORMED)
            complaints.say("extract", f"a request's time could not be read: {error!r}")
            return context

    def _peer(self, found: list[str] | None) -> Peer | None:
        """Read and merge what a carrier had; two different times are none."""
        if not found:
            return None
        peer = Peer.parse(found[0]) if len(set(found)) == 1 else None
        if peer is None:
            self.hybrid.refuse(MALFORMED)
            return None
        now_ns, bound_ns = self.hybrid.clock.read()
        taken = self.hybrid.merge(peer.unix_ns, peer.error_bound_ns, now_ns, bound_ns)
        if taken and peer.stream_id:
            process_peers.tell(peer.stream_id, peer.unix_ns, peer.error_bound_ns)
        return peer if taken else None


def _complain(sentence: str) -> None:
    complaints.say(f"settings {sentence}", sentence)
