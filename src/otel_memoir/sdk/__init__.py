"""The SDK's sockets: where OpenTelemetry plugs us in.

What it is for: one line of code, one environment variable or one key of a YAML file
makes the logs of a program crash-durable.

Promises: nothing raises out of ``on_emit``, ``export``, ``force_flush`` and ``shutdown``,
nor out of what entry points call; constructing opens no file and starts no thread;
``shutdown`` takes at most ``shutdown_timeout_s`` and leaves the rest on disk.

What it refuses: to be a configurator (its mere presence would replace the
distribution's), to touch a provider from an exporter that user code made, and to import
the SDK before a name is asked for: the propagator is loaded where that would be a circle.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from otel_memoir.sdk.diagnosis import diagnose
    from otel_memoir.sdk.exporter import DurableLogExporter
    from otel_memoir.sdk.processor import DurableLogRecordProcessor
    from otel_memoir.sdk.propagator import MemoirPropagator
    from otel_memoir.sdk.stamp_processor import StampLogRecordProcessor
else:
    _HOMES = {
        "DurableLogExporter": "exporter",
        "DurableLogRecordProcessor": "processor",
        "MemoirPropagator": "propagator",
        "StampLogRecordProcessor": "stamp_processor",
        "diagnose": "diagnosis",
    }

    def __getattr__(name: str) -> Any:
        from importlib import import_module

        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


__all__ = [
    "DurableLogExporter",
    "DurableLogRecordProcessor",
    "MemoirPropagator",
    "StampLogRecordProcessor",
    "diagnose",
]
