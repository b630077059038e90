"""``Record``: a log record between two forms.

Every form (OTel's ``LogRecord``, OTLP bytes, OTLP JSON, CloudEvents) is read into a
``Record`` and written from one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from otel_memoir.events.model import TraceRef


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What all forms of a log record have in common.

    Attributes:
        name: Its event name, or "".

        attributes: In plain Python values.

        time_unix_ns, observed_unix_ns: In nanoseconds; ``None`` where not known.

        severity: Severity number; 0 where there is none.

        trace: The span it belongs to.

        body: Any value; one line of text for events.

    Raises:
        ValueError: No log record can have such a name, severity or time.
    """

    name: str = ""
    attributes: Mapping[str, Any] = field(default_factory=dict)
    time_unix_ns: int | None = None
    observed_unix_ns: int | None = None
    severity: int = 0
    trace: TraceRef | None = None
    body: Any = None

    def __post_init__(self) -> None:
        times = (self.time_unix_ns or 0, self.observed_unix_ns or 0)
        if not isinstance(self.name, str) or type(self.severity) is not int:
            raise ValueError("a name that is no text, or a severity that is no number")
        if not all(0 <= time < 2**64 for time in times):
            raise ValueError("a time out of range")


_SEVERITIES = ("TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL")


def severity_text(severity: int) -> str:
    """The name of a severity number: DEBUG, DEBUG2 and so on; "" where it has none."""
    if not 1 <= severity <= 24:
        return ""
    name, finer = _SEVERITIES[(severity - 1) // 4], (severity - 1) % 4
    return f"{name}{finer + 1}" if finer else name
