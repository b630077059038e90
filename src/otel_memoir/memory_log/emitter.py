"""From an event to a record in the spool, and the official span beside it."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from opentelemetry._logs import Logger
from opentelemetry.context import get_current
from opentelemetry.trace import Span, SpanKind, TracerProvider, get_current_span, use_span

from otel_memoir.diagnostics import complaints
from otel_memoir.errors import MemoirError, SettingsError, SpoolRefusedError
from otel_memoir.events import Capture, MemoryEvent, names, to_log_record
from otel_memoir.memory_log.receipt import Receipt
from otel_memoir.memory_log.versions import Versions
from otel_memoir.sdk.emission import Emission
from otel_memoir.spool.model import Intent

OnFailure = Literal["degrade", "raise"]

SCOPE = "otel_memoir"

_MEMORY_OPERATIONS = (
    "create_memory_store", "delete_memory_store", "search_memory", "create_memory",
    "update_memory", "upsert_memory", "delete_memory",
)
"""Those of ``gen_ai.memory.client``, semantic-conventions-genai v0.1.0, spans.yaml."""

_KINDS = 16

_ON_SPANS = (
    names.GEN_AI_MEMORY_STORE_ID, names.GEN_AI_MEMORY_RECORD_ID, names.GEN_AI_MEMORY_RECORD_COUNT,
    names.GEN_AI_PROVIDER_NAME, names.ERROR_TYPE,
)


@dataclass(frozen=True)
class Emitter:
    """Emits events, and says what became of them.

    Args:
        logger: Where the records go.

        tracer_provider: Where the spans come from; ``None``: there are none.

        on_failure: ``degrade``: what cannot be stored is counted and said. ``raise``: it
            raises, for those who rather stop than act without a record.

        timeout_s: The longest wait for the disk.

    Attributes:
        versions: The versions that were told of.

    Raises:
        SettingsError: There is no such ``on_failure``.
    """

    logger: Logger
    tracer_provider: TracerProvider | None
    on_failure: OnFailure
    timeout_s: float
    versions: Versions = field(default_factory=Versions)

    def __post_init__(self) -> None:
        if self.on_failure not in get_args(OnFailure):
            raise SettingsError(
                "make memory log", target=f"on_failure={self.on_failure!r:.60}",
                cause="there is no such choice", hint='Use "degrade" or "raise".',
            )

    def emit(
        self, event: MemoryEvent, *, capture: Capture, intent: Intent | None = None
    ) -> Receipt:
        """Emit an event.

        Args:
            event: The event; its uid, if it has one, becomes the record's.

            capture: Where content may be told.

            intent: An intent that it declares or ends.

        Raises:
            SpoolRefusedError: It was not accepted, with ``on_failure="raise"``.

            MemoirError: No durable processor got it, with ``on_failure="raise"``.
        """
        emission = Emission(intent, uid=event.uid or "")
        try:
            record = to_log_record(event, capture=capture, context=emission.within(get_current()))
            self.logger.emit(record)
        except Exception as error:  # noqa: BLE001 - promise 6: foreign processors may raise
            if emission.pipeline is None:
                return self.failed("emit", error)
            complain("emit", error)  # it was stored before that
        receipt = Receipt(emission)
        if emission.pipeline is not None:
            self.versions.note(event)
        self._check(emission, receipt)
        return receipt

    def failed(self, what: str, error: Exception) -> Receipt:
        """Say that something could not be done: raise, or complain.

        Raises:
            Exception: The error, with ``on_failure="raise"``.
        """
        if self.on_failure == "raise":
            raise error
        complain(what, error)
        return Receipt(refusal=_text(error))

    def _check(self, emission: Emission, receipt: Receipt) -> None:
        if emission.pipeline is None:
            self.failed("store event", MemoirError(
                "store event", cause="no durable processor got it",
                hint="The logger provider has none, or a sampler or processor dropped it.",
            ))  # fmt: skip
        elif emission.refusal is not None:
            self.failed("store event", SpoolRefusedError(
                str(emission.refusal), hint="See `otel-memoir status`.",
            ))  # fmt: skip

    def must_be_stored(self, receipt: Receipt, is_stored: bool) -> None:
        """Say that an event is not on disk that has to be before something else happens.

        Raises:
            MemoirError: With ``on_failure="raise"``.
        """
        if not is_stored:
            self.failed("store intention", MemoirError(
                "store intention", target=receipt.uid, cause=receipt.details(),
                hint="The change has not begun. See `otel-memoir status`.",
            ))  # fmt: skip

    @contextlib.contextmanager
    def span(self, operation: str | None, provider_name: str | None) -> Iterator[Span | None]:
        """The official span of an operation on memory, as the current one for a block.

        There is none for what is no such operation (``reflect`` has its own). A tracer that
        raises costs the span, and nothing else.
        """
        span = self._begun(operation, provider_name)
        if span is None:
            yield None
            return
        manager = use_span(span, end_on_exit=True)
        try:
            with _complaining("begin span"):
                manager.__enter__()
            yield span
        except BaseException as error:
            with _complaining("end span"):
                manager.__exit__(type(error), error, error.__traceback__)
            raise
        with _complaining("end span"):
            manager.__exit__(None, None, None)

    def _begun(self, operation: str | None, provider_name: str | None) -> Span | None:
        """A new span; ``None`` if there is none, or if nobody makes spans here."""
        if self.tracer_provider is None or operation not in _MEMORY_OPERATIONS:
            return None
        # The conventions: CLIENT, or INTERNAL where the memory is in this process.
        kind = SpanKind.CLIENT if provider_name else SpanKind.INTERNAL
        try:
            span = self.tracer_provider.get_tracer(SCOPE).start_span(
                str(operation), kind=kind, attributes={names.GEN_AI_OPERATION_NAME: str(operation)}
            )
            # Without an SDK it is the span that is current already.
            is_new = span.get_span_context() != get_current_span().get_span_context()
        except Exception as error:  # noqa: BLE001 - promise 6
            complain("begin span", error)
            return None
        return span if is_new else None


def describe(span: Span | None, event: MemoryEvent) -> None:
    """Say on a span what the conventions ask for of an event's facts."""
    if span is None:
        return
    with _complaining("describe span"):
        if span.is_recording():
            said: dict[str, Any] = event.to_attributes()
            span.set_attributes({key: said[key] for key in _ON_SPANS if key in said})


@contextlib.contextmanager
def _complaining(what: str) -> Iterator[None]:
    """Run a block of somebody else's, so that what it raises is said and goes no further."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - promise 6
        complain(what, error)


def complain(what: str, error: Exception) -> None:
    """Say that something could not be done, whatever the error has to say."""
    said = _text(error)
    # By what is said, so that the second mistake is seen beside the first, but in few kinds.
    kind = zlib.crc32(said.encode("utf-8", "replace")) % _KINDS
    complaints.say(f"memory log {what} {kind}", f"could not {what}: {said}")


def _text(error: Exception) -> str:
    try:
        return str(error) or type(error).__name__
    except Exception:  # noqa: BLE001 - promise 6: the text is the application's
        return type(error).__name__
