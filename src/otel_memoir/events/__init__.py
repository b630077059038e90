"""Events: what happens to an agent's memory, as values.

What it is for: the vocabulary, declared once in ``registry/`` and generated from there;
``MemoryEvent``, a frozen value with the whole envelope; and its forms: OTel's ``LogRecord``,
OTLP bytes, OTLP JSON and CloudEvents, from each of which it can be read again.

What it promises: an event that was made says what its kind has to say, in the declared
types. A round trip through any form loses nothing, attributes that are not ours included.
A record that cannot be read as an event, because it is newer or somebody else's, is passed
on untouched. Content leaves only where the user opted in, and is never in a body, a repr or
an error. Every function is pure, but for the environment that says what to capture.

What it refuses: to emit, to stamp, to store, and to know the SDK.
"""

from otel_memoir.events.cloud_events import from_cloud_event, to_cloud_event
from otel_memoir.events.content import Capture, ContentHasher, capture_mode, content_size
from otel_memoir.events.declared import undeclared
from otel_memoir.events.log_record import current_trace, from_log_record, to_log_record
from otel_memoir.events.lost_updates import LostUpdate, lost_updates
from otel_memoir.events.model import SCHEMA_VERSION, MemoryEvent, TraceRef
from otel_memoir.events.otlp import from_otlp, from_otlp_request, to_otlp
from otel_memoir.events.otlp_json import from_otlp_json, from_otlp_json_request, to_otlp_json
from otel_memoir.events.reading import Opaque
from otel_memoir.events.renamed import renamed

__all__ = [
    "SCHEMA_VERSION",
    "Capture",
    "ContentHasher",
    "LostUpdate",
    "MemoryEvent",
    "Opaque",
    "TraceRef",
    "capture_mode",
    "content_size",
    "current_trace",
    "from_cloud_event",
    "from_log_record",
    "from_otlp",
    "from_otlp_json",
    "from_otlp_json_request",
    "from_otlp_request",
    "lost_updates",
    "renamed",
    "to_cloud_event",
    "to_log_record",
    "to_otlp",
    "to_otlp_json",
    "undeclared",
]
