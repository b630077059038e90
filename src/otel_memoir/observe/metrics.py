"""The instruments, after the semantic conventions for SDK self-metrics (development)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation, get_meter_provider

from otel_memoir.diagnostics import complaints
from otel_memoir.spool import SpoolStatus, State, Totals

SCOPE = "otel_memoir"
COMPONENT_TYPE = "otel_memoir.DurableLogRecordProcessor"

COMPONENT = {"otel.component.type": COMPONENT_TYPE, "otel.component.name": f"{COMPONENT_TYPE}/0"}

Observations = Iterable[Observation]


class Observed(Protocol):
    """What can be observed."""

    def status(self) -> SpoolStatus:
        """The numbers of promise 2."""
        ...

    def outcomes(self) -> dict[State, int]:
        """Records by final outcome, since the process began."""
        ...

    def attempts(self) -> dict[str, int]:
        """Requests by answer, since the process began."""
        ...


def observe(observed: Observed, provider: MeterProvider | None = None) -> None:
    """Register the instruments. Called once for each pipeline; costs nothing without an SDK.

    Never raises: the provider is the application's, and a record waits behind this.
    """
    try:
        _register(observed, provider)
    except Exception as error:  # noqa: BLE001 - promise 6
        complaints.say("metrics", f"cannot register self-metrics: {error!r}")


def _register(observed: Observed, provider: MeterProvider | None) -> None:
    meter = (provider or get_meter_provider()).get_meter(SCOPE)
    meter.create_observable_up_down_counter(
        "otel.sdk.processor.log.queue.size", unit="{log_record}",
        description="Records that wait on disk.",
        callbacks=[guarded("spool", lambda: [_one(observed.status().totals.pending)])],
    )
    meter.create_observable_counter(
        "otel.sdk.processor.log.processed", unit="{log_record}",
        description="Records that were accepted, or refused (error.type).",
        callbacks=[guarded("spool", lambda: _processed(observed.status().totals))],
    )
    meter.create_observable_counter(
        "otel.sdk.exporter.log.exported", unit="{log_record}",
        description="Records whose final outcome is known.",
        callbacks=[guarded("spool", lambda: _exported(observed))],
    )
    meter.create_observable_counter(
        "memoir.delivery.attempts", unit="{request}", description="Requests by answer.",
        callbacks=[guarded("spool", lambda: [_one(n, {"memoir.answer": code})
                                     for code, n in observed.attempts().items()])],
    )
    meter.create_observable_counter(
        "memoir.spool.refused", unit="{log_record}", description="Records that were not accepted.",
        callbacks=[guarded("spool", lambda: [_one(n, {"error.type": reason})
                                     for reason, n in observed.status().totals.refused.items()])],
    )
    meter.create_observable_gauge(
        "memoir.spool.oldest_pending_age", unit="s", description="Age of the oldest that waits.",
        callbacks=[guarded("spool", lambda: [_one(observed.status().oldest_pending_age_s)])],
    )
    meter.create_observable_gauge(
        "memoir.spool.size", unit="By", description="What the spool file takes on disk.",
        callbacks=[guarded("spool", lambda: [_one(observed.status().spool_bytes)])],
    )


def _one(value: float, attributes: dict[str, str] | None = None) -> Observation:
    return Observation(value, {**COMPONENT, **(attributes or {})})


def _processed(totals: Totals) -> list[Observation]:
    refused = [_one(n, {"error.type": reason}) for reason, n in totals.refused.items()]
    return [_one(totals.accepted), *refused]


def _exported(observed: Observed) -> list[Observation]:
    return [
        _one(records, {} if state is State.DELIVERED else {"error.type": state.value})
        for state, records in observed.outcomes().items()
    ]


def guarded(
    what: str, look: Callable[[], list[Observation]]
) -> Callable[[CallbackOptions], Observations]:
    """A callback that observes nothing where looking fails: no metric harms the host (promise 6).

    Args:
        what: What is observed, in words.

        look: Observes it.
    """

    def callback(_: CallbackOptions) -> Observations:
        try:
            return look()
        except Exception as error:  # noqa: BLE001 - as said
            complaints.say(f"{what} metrics", f"cannot observe the {what}: {error!r}")
            return []

    return callback
