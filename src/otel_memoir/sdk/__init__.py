"""The SDK's sockets: where OpenTelemetry plugs us in.

What it is for: one line of code, one environment variable or one key of a YAML file
makes the logs of a program crash-durable.

Promises: nothing raises out of ``on_emit``, ``export``, ``force_flush`` and ``shutdown``,
nor out of what entry points call; constructing opens no file and starts no thread;
``shutdown`` takes at most ``shutdown_timeout_s`` and leaves the rest on disk.

What it refuses: to be a configurator (its mere presence would replace the
distribution's), and to touch a provider from an exporter that user code made.
"""

from otel_memoir.sdk.exporter import DurableLogExporter
from otel_memoir.sdk.processor import DurableLogRecordProcessor

__all__ = ["DurableLogExporter", "DurableLogRecordProcessor"]
