"""What only a program itself can tell: how its logger provider is wired."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any

from opentelemetry._logs import get_logger_provider

from otel_memoir.diagnostics import complaints
from otel_memoir.observe.health_findings import Finding, finding
from otel_memoir.sdk._compat import (
    BatchLogRecordProcessor,
    LoggerProvider,
    exporter_behind,
    processors_of,
)
from otel_memoir.sdk.holder import PipelineHolder
from otel_memoir.sdk.stamp_processor import StampLogRecordProcessor

_ROOT_LEVEL = "wiring.root_level"


def diagnose(provider: Any = None) -> tuple[Finding, ...]:
    """Look at how a logger provider is wired; what ``otel-memoir doctor`` cannot see.

    Args:
        provider: By default the global one.

    Returns:
        What is wrong, each with its remedy; nothing where all is well.
    """
    provider = get_logger_provider() if provider is None else provider
    if not isinstance(provider, LoggerProvider):
        return (finding("wiring.no_provider", f"the logger provider is a {_name(provider)}"),)
    processors = processors_of(provider)
    if not any(map(_holder, processors)):
        names = ", ".join(map(_name, processors)) or "none"
        return (finding("wiring.no_processor", f"the provider's processors are: {names}"),)
    return (*_batches(processors), *_behind(processors), *_twice(processors), *_root_level())


def complain_of_wiring(processor: object) -> None:
    """Say what is wrong with the global provider, if a processor of ours is one of its own.

    Not of the root logger's level: it may be meant so. Never raises an ``Exception``.
    """
    try:
        provider = get_logger_provider()
        if not isinstance(provider, LoggerProvider):
            return
        if any(one is processor for one in processors_of(provider)):
            for found in diagnose(provider):
                if found.id != _ROOT_LEVEL:
                    complaints.say(found.id, f"{found.message} ({found.id}). {found.remedy}")
    except Exception as error:  # a record waits behind this (promise 6)
        complaints.say("wiring", f"the wiring cannot be looked at: {error!r}")


def _holder(processor: object) -> PipelineHolder | None:
    """What of ours a processor is, or wraps."""
    found = processor if isinstance(processor, PipelineHolder) else exporter_behind(processor)
    return found if isinstance(found, PipelineHolder) else None


def _batches(processors: Sequence[object]) -> Iterator[Finding]:
    stored = set()
    for processor in processors:
        holder = _holder(processor)
        if holder is None:
            continue
        if isinstance(processor, BatchLogRecordProcessor) and holder.pipeline not in stored:
            yield finding("wiring.batch_in_front", "a BatchLogRecordProcessor stands before "
                          f"{_name(holder)}, and keeps records in memory")
        stored.add(holder.pipeline)


def _behind(processors: Sequence[object]) -> Iterator[Finding]:
    first = next(number for number, one in enumerate(processors) if _holder(one))
    for processor in processors[first + 1:]:
        is_known = isinstance(processor, (PipelineHolder, StampLogRecordProcessor))
        if not is_known and exporter_behind(processor) is None:
            yield finding("wiring.redactor_behind", f"{_name(processor)} stands behind "
                          f"{_name(processors[first])}: what it changes is not changed on disk")


def _twice(processors: Sequence[object]) -> Iterator[Finding]:
    pipelines = {holder.pipeline for one in processors if (holder := _holder(one))}
    if len(pipelines) > 1:
        yield finding("wiring.twice", f"the provider has {len(pipelines)} pipelines of "
                      "otel-memoir")


def _root_level() -> Iterator[Finding]:
    root = logging.getLogger()
    bridged = any(
        type(handler).__name__ == "LoggingHandler" and "opentelemetry" in type(handler).__module__
        for handler in root.handlers
    )
    if bridged and root.level == logging.WARNING:
        yield finding(_ROOT_LEVEL, "the root logger is at its default level: INFO and "
                      "DEBUG records of the logging module do not arrive")


def _name(thing: object) -> str:
    return type(thing).__name__
