"""What OpenTelemetry's own configuration finds: ``OTEL_LOGS_EXPORTER=memoir`` and YAML.

The environment's configuration wraps every exporter in a ``BatchLogRecordProcessor``,
which loses records in a crash. So the exporter that the entry point makes registers our
processor on the provider that is being configured, in front of it; the records then
reach the exporter a second time and are recognised by their mark.

Nothing here raises: an exception would take down the whole configuration of the host.
"""

from __future__ import annotations

from typing import Any

from opentelemetry._logs import get_logger_provider

from otel_memoir.diagnostics import complaints
from otel_memoir.sdk._compat import (
    BatchLogRecordProcessor,
    LoggerProvider,
    exporter_behind,
    processors_of,
    put_in_front,
)
from otel_memoir.sdk.exporter import DurableLogExporter
from otel_memoir.sdk.pipeline import Pipeline
from otel_memoir.sdk.processor import DurableLogRecordProcessor
from otel_memoir.settings import Settings

_made: list[EntryPointLogExporter] = []


class EntryPointLogExporter(DurableLogExporter):
    """The exporter called ``memoir``. Only configuration should make one."""

    def __init__(self, **given: Any) -> None:
        settings = Settings.load(complain=_complain, **given)
        super().__init__(pipeline=Pipeline(settings))
        _made.append(self)
        try:
            self.is_in_front = self._register()
        except Exception as error:  # promise 6: a host must start
            self.is_in_front = False
            complaints.say("entry point", f"could not register the durable processor: {error!r}")

    def _register(self) -> bool:
        """Put our processor on the provider that is being configured, if there is one.

        Under declarative configuration the provider does not exist yet.
        """
        provider = get_logger_provider()
        if not isinstance(provider, LoggerProvider):
            return False
        provider.add_log_record_processor(DurableLogRecordProcessor(pipeline=self.pipeline))
        return True


def rescue_batch_wiring() -> None:
    """Put our processor before a ``batch`` that wraps ``memoir`` in a YAML file.

    Runs after the provider is set and before the application
    (``opentelemetry_pre_instrument``); does nothing unless ``memoir`` is configured.
    """
    try:
        for exporter in _made:
            if not exporter.is_in_front:
                exporter.is_in_front = _put_in_front(exporter)
    except Exception as error:  # promise 6: a host must start
        complaints.say("pre-instrument", f"could not register the durable processor: {error!r}")


def _put_in_front(exporter: EntryPointLogExporter) -> bool:
    provider = get_logger_provider()
    if not isinstance(provider, LoggerProvider):
        return False
    if not any(_wraps(processor, exporter) for processor in processors_of(provider)):
        return False
    put_in_front(provider, DurableLogRecordProcessor(pipeline=exporter.pipeline))
    return True


def _wraps(processor: object, exporter: object) -> bool:
    is_batch = isinstance(processor, BatchLogRecordProcessor)
    return is_batch and exporter_behind(processor) is exporter


def _complain(sentence: str) -> None:
    complaints.say(f"settings {sentence}", sentence)
