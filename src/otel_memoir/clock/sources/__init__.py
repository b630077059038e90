"""Whom to ask for the time: the system's own clock, chronyd, NTP servers, HTTP, peers.

What it is for: samples (a time, how wrong it can be, when it was) from whoever knows, with
everything refused that cannot be trusted, each refusal a ``ClockError`` with its own reason.
What it refuses: to judge between sources, to wait beyond a deadline, to touch a clock, and
to ask anybody on the internet who was not configured.

Importing it loads ntplib and ssl, so it is imported where sources are made and not before.
"""

from otel_memoir.clock.sources.chronyd import ChronydSource
from otel_memoir.clock.sources.http_date import HttpDateSource
from otel_memoir.clock.sources.kernel import SystemClockSource
from otel_memoir.clock.sources.keys import Key, read_key
from otel_memoir.clock.sources.ntp import NtpSource
from otel_memoir.clock.sources.parse import parse_source, parse_sources
from otel_memoir.clock.sources.peer import PeerSource

__all__ = [
    "ChronydSource",
    "HttpDateSource",
    "Key",
    "NtpSource",
    "PeerSource",
    "SystemClockSource",
    "parse_source",
    "parse_sources",
    "read_key",
]
