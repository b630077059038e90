"""otel-memoir: OpenTelemetry logs that are on disk before ``emit`` returns.

Importing starts no thread, opens no file, and loads nothing until a name is asked for:
OpenTelemetry loads the propagator of this package while it is itself being imported.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from otel_memoir.clock import Clock, SystemClock
    from otel_memoir.errors import (
        DeadlockError,
        LockLostError,
        LockTimeoutError,
        MemoirError,
        OwnerDiedError,
        ReflectionSkippedError,
        SettingsError,
        SpoolRefusedError,
        WriteConflictError,
    )
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
        "DeadlockError": "errors",
        "DurableLogExporter": "sdk",
        "DurableLogRecordProcessor": "sdk",
        "Lease": "locks",
        "LockLostError": "errors",
        "LockManager": "locks",
        "LockTimeoutError": "errors",
        "MemoirError": "errors",
        "MemoryEvent": "events",
        "MemoryLog": "memory_log",
        "OwnerDiedError": "errors",
        "Receipt": "memory_log",
        "Reflection": "reflection",
        "ReflectionSkippedError": "errors",
        "Reflections": "reflection",
        "Settings": "settings",
        "SettingsError": "errors",
        "SpoolRefusedError": "errors",
        "SpoolStatus": "spool",
        "StampLogRecordProcessor": "sdk",
        "SystemClock": "clock",
        "Totals": "spool",
        "WriteConflictError": "errors",
        "install": "memory_log",
    }

    def __getattr__(name: str) -> Any:
        from importlib import import_module

        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


__all__ = [
    "Clock",
    "DeadlockError",
    "DurableLogExporter",
    "DurableLogRecordProcessor",
    "Lease",
    "LockLostError",
    "LockManager",
    "LockTimeoutError",
    "MemoirError",
    "MemoryEvent",
    "MemoryLog",
    "OwnerDiedError",
    "Receipt",
    "Reflection",
    "ReflectionSkippedError",
    "Reflections",
    "Settings",
    "SettingsError",
    "SpoolRefusedError",
    "SpoolStatus",
    "StampLogRecordProcessor",
    "SystemClock",
    "Totals",
    "WriteConflictError",
    "install",
]
