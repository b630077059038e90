"""otel-memoir: OpenTelemetry logs that are on disk before ``emit`` returns.

Importing starts no thread, opens no file, and loads nothing until a name is asked for:
OpenTelemetry loads the propagator of this package while it is itself being imported.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from otel_memoir.clock import Clock, SystemClock
    from otel_memoir.events import MemoryEvent
    from otel_memoir.locks import Lease, LockManager
    from otel_memoir.memory_log import MemoryLog, Receipt, install
    from otel_memoir.reflection import Reflection, Reflections
    from otel_memoir.sdk import (
        DurableLogExporter,
        DurableLogRecordProcessor,
        StampLogRecordProcessor,
    )
    from otel_memoir.settings import Settings
    from otel_memoir.spool import SpoolStatus, Totals
else:
    _HOMES = {
        "Clock": "clock",
        "DurableLogExporter": "sdk",
        "DurableLogRecordProcessor": "sdk",
        "Lease": "locks",
        "LockManager": "locks",
        "MemoryEvent": "events",
        "MemoryLog": "memory_log",
        "Receipt": "memory_log",
        "Reflection": "reflection",
        "Reflections": "reflection",
        "Settings": "settings",
        "SpoolStatus": "spool",
        "StampLogRecordProcessor": "sdk",
        "SystemClock": "clock",
        "Totals": "spool",
        "install": "memory_log",
    }

    def __getattr__(name: str) -> Any:
        from importlib import import_module

        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


__all__ = [
    "Clock",
    "DurableLogExporter",
    "DurableLogRecordProcessor",
    "Lease",
    "LockManager",
    "MemoryEvent",
    "MemoryLog",
    "Receipt",
    "Reflection",
    "Reflections",
    "Settings",
    "SpoolStatus",
    "StampLogRecordProcessor",
    "SystemClock",
    "Totals",
    "install",
]
