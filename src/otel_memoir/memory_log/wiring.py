"""Which providers and which pipeline a memory log uses: the application's, or its own."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from opentelemetry import trace
from opentelemetry._logs import LoggerProvider, get_logger_provider, set_logger_provider
from opentelemetry.sdk.resources import Resource

from otel_memoir.diagnostics import complaints
from otel_memoir.sdk import DurableLogRecordProcessor
from otel_memoir.sdk._compat import BatchLogRecordProcessor
from otel_memoir.sdk._compat import LoggerProvider as SdkLoggerProvider
from otel_memoir.sdk.pipeline import Pipeline
from otel_memoir.settings import Settings

_joining = threading.Lock()


@dataclass(frozen=True)
class Wiring:
    """Where records and spans go.

    Attributes:
        logger_provider: Makes the loggers.

        tracer_provider: Makes the tracers.

        pipeline: What stores the records; ``None``: it is not known what does.

        own: The provider that was made here, and has to be shut down here.
    """

    logger_provider: LoggerProvider
    tracer_provider: trace.TracerProvider
    pipeline: Pipeline | None
    own: SdkLoggerProvider | None


def wire(
    settings: Settings, *, logger_provider: LoggerProvider | None,
    tracer_provider: trace.TracerProvider | None, resource: Resource | None,
    environ: Mapping[str, str] | None, processor_given: Mapping[str, Any],
) -> Wiring:  # fmt: skip
    """Use what the application has, and make what it lacks.

    With a provider of the SDK that has a durable processor, that one is used; one that has
    none gets one. Without a provider the global one is used if it is durable already; else
    the log has a provider of its own, and nothing global changes.
    """
    tracers = tracer_provider or trace.get_tracer_provider()
    found = logger_provider or _durable_global()
    if found is None:
        own = SdkLoggerProvider(resource=resource)
        pipeline = _joined(own, settings, environ, processor_given)
        return Wiring(own, tracers, pipeline, own)
    if not isinstance(found, SdkLoggerProvider):
        complaints.say(
            "memory log provider", f"{type(found).__name__} is no logger provider of the SDK: "
            "whether its events are durable is not known",
        )
        return Wiring(found, tracers, None, None)
    with _joining:
        pipeline = pipeline_of(found) or _joined(found, settings, environ, processor_given)
    return Wiring(found, tracers, pipeline, None)


def _durable_global() -> LoggerProvider | None:
    provider = get_logger_provider()
    return provider if isinstance(provider, SdkLoggerProvider) and pipeline_of(provider) else None


def _joined(
    provider: SdkLoggerProvider, settings: Settings, environ: Mapping[str, str] | None,
    given: Mapping[str, Any],
) -> Pipeline:  # fmt: skip
    _warn_of_batches(provider)
    pipeline = Pipeline(settings, environ=environ, **given)
    provider.add_log_record_processor(DurableLogRecordProcessor(pipeline=pipeline))
    return pipeline


def _warn_of_batches(provider: SdkLoggerProvider) -> None:
    """Say that what two processors send to one destination arrives there twice."""
    if any(isinstance(one, BatchLogRecordProcessor) for one in _processors_of(provider)):
        complaints.say(
            "memory log beside batches", "the logger provider has a BatchLogRecordProcessor too: "
            "if both send to one destination, each record arrives twice. Leave one of them out.",
        )


def _processors_of(provider: SdkLoggerProvider) -> Sequence[Any]:
    # As in ``entry_points``: there is no public way to ask a provider for its processors.
    multi = getattr(provider, "_multi_log_record_processor", None)
    return getattr(multi, "_log_record_processors", ())


def pipeline_of(provider: SdkLoggerProvider) -> Pipeline | None:
    """The pipeline of the first durable processor of a provider, if it has one."""
    for processor in _processors_of(provider):
        if isinstance(processor, DurableLogRecordProcessor):
            return processor.pipeline
    return None


def make_global(provider: SdkLoggerProvider) -> bool:
    """Make a provider the global one, if there is none yet; return whether it is."""
    if not isinstance(get_logger_provider(), SdkLoggerProvider):
        set_logger_provider(provider)
    return get_logger_provider() is provider
