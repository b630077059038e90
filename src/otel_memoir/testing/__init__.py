"""Public fakes for tests of and with otel-memoir: a scripted collector, NTP server and clock.

``ScriptedCollector`` is a real OTLP server on loopback, over HTTP and gRPC, that
records every request and answers as told: with any status, late, never, byte by byte,
or by dropping the connection. Nothing is patched; what talks to it is the real thing.

    with ScriptedCollector() as collector:
        collector.script([Answer(status=503), Answer.drop(taken=True)])
        ...  # point something at collector.endpoint
        assert collector.wait_for(100, timeout=10)

gRPC is only imported when ``grpc_endpoint`` is asked for.
"""

from otel_memoir.testing.clock import FakeClock
from otel_memoir.testing.collector import ScriptedCollector
from otel_memoir.testing.ntp import NtpAnswer, ScriptedNtpServer
from otel_memoir.testing.play import Answer, RecordedRecord, RecordedRequest

__all__ = [
    "Answer",
    "FakeClock",
    "NtpAnswer",
    "RecordedRecord",
    "RecordedRequest",
    "ScriptedCollector",
    "ScriptedNtpServer",
]
