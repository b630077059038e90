"""One method for each thing that can happen to an agent's memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from typing import Any

from typing_extensions import Unpack

from otel_memoir.events import MemoryEvent, names
from otel_memoir.events.tables import EVENTS
from otel_memoir.memory_log.emitter import Emitter, describe
from otel_memoir.memory_log.fields import NOTHING, EventFields, EventMaker
from otel_memoir.memory_log.receipt import Receipt


class Recorder:
    """Tells what happened, after it happened; each method returns a ``Receipt``.

    All of them take any field of ``EventFields`` besides. None raises, unless the log was
    made with ``on_failure="raise"``: what cannot be made or stored is said on the package's
    logger, and its receipt is ``refused``. Content leaves the process only as a keyed hash
    and a size, unless the user opted in.
    """

    def __init__(self, emitter: Emitter, maker: EventMaker) -> None:
        self._emitter, self._maker = emitter, maker

    def __copy__(self) -> Recorder:
        return self

    def __deepcopy__(self, _: object) -> Recorder:
        # Agents are copied with all they hold; there is one spool, whoever tells of it.
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError(
            f"a {type(self).__name__} stays in its process: make one in the other process, with "
            "the same settings (after a fork, nothing is needed)"
        )

    # -- one memory record ----------------------------------------------------

    def created(
        self, record_id: str, *, content: Any = NOTHING, record_type: str | None = None,
        importance: float | None = None, ttl: float | None = None,
        derived_from: Sequence[str] | None = None, **fields: Unpack[EventFields],
    ) -> Receipt:  # fmt: skip
        """A memory record was made. ``ttl`` is in seconds."""
        return self._tell(
            names.EVENT_RECORD_CREATED, fields, record_id=record_id, content=content,
            attributes={
                names.RECORD_TYPE: record_type, names.RECORD_IMPORTANCE: importance,
                names.RECORD_TTL: ttl, names.RECORD_DERIVED_FROM: derived_from,
            },
        )  # fmt: skip

    def updated(
        self, record_id: str, *, content: Any = NOTHING, before: Any = NOTHING,
        changed_fields: Sequence[str] | None = None, importance: float | None = None,
        **fields: Unpack[EventFields],
    ) -> Receipt:  # fmt: skip
        """A memory record was changed. ``changed_fields`` are names, never values."""
        return self._tell(
            names.EVENT_RECORD_UPDATED, fields, record_id=record_id, content=content,
            before=before, attributes={
                names.RECORD_CHANGED_FIELDS: changed_fields, names.RECORD_IMPORTANCE: importance,
            },
        )  # fmt: skip

    def deleted(
        self, record_id: str | None = None, *, count: int | None = None, before: Any = NOTHING,
        record_ids: Sequence[str] | None = None, **fields: Unpack[EventFields],
    ) -> Receipt:  # fmt: skip
        """A memory record was removed, or ``count`` of them."""
        return self._tell(
            names.EVENT_RECORD_DELETED, fields, record_id=record_id, before=before,
            attributes=_some(count, record_ids),
        )

    def superseded(
        self, record_id: str, *, by: str, valid_until: int | None = None,
        **fields: Unpack[EventFields],
    ) -> Receipt:  # fmt: skip
        """A memory record was replaced by another and is kept as history."""
        return self._tell(
            names.EVENT_RECORD_SUPERSEDED, fields, record_id=record_id, attributes={
                names.RECORD_SUPERSEDED_BY: by, names.RECORD_VALID_UNTIL: valid_until,
            },
        )  # fmt: skip

    def expired(
        self, record_id: str | None = None, *, count: int | None = None, ttl: float | None = None,
        record_ids: Sequence[str] | None = None, **fields: Unpack[EventFields],
    ) -> Receipt:  # fmt: skip
        """A memory record, or ``count`` of them, was removed because its time was over."""
        return self._tell(
            names.EVENT_RECORD_EXPIRED, fields, record_id=record_id,
            attributes={**_some(count, record_ids), names.RECORD_TTL: ttl},
        )

    def moved(
        self, record_id: str, *, to: str, origin: str | None = None, **fields: Unpack[EventFields]
    ) -> Receipt:
        """A memory record was moved to another tier or path, with the same content."""
        return self._tell(
            names.EVENT_RECORD_MOVED, fields, record_id=record_id,
            attributes={names.RECORD_TO: to, names.RECORD_FROM: origin},
        )

    def promoted(
        self, record_id: str, *, to: str | None = None, origin: str | None = None,
        **fields: Unpack[EventFields],
    ) -> Receipt:  # fmt: skip
        """A memory record came to a higher standing."""
        return self._tell(
            names.EVENT_RECORD_PROMOTED, fields, record_id=record_id,
            attributes={names.RECORD_TO: to, names.RECORD_FROM: origin},
        )

    def rejected(
        self, reason: str, /, record_id: str | None = None, *, content: Any = NOTHING,
        **fields: Unpack[EventFields],
    ) -> Receipt:  # fmt: skip
        """A memory record was not written, by a decision. The reason never holds content."""
        return self._tell(
            names.EVENT_RECORD_REJECTED, {**fields, "reason": reason}, record_id=record_id,
            content=content,
        )

    def erased(
        self, record_id: str | None = None, *, count: int | None = None, basis: str | None = None,
        record_ids: Sequence[str] | None = None, **fields: Unpack[EventFields],
    ) -> Receipt:  # fmt: skip
        """Memory records were erased for good, with their history; ``basis``: on what ground."""
        return self._tell(
            names.EVENT_RECORD_ERASED, fields, record_id=record_id,
            attributes={**_some(count, record_ids), names.ERASURE_BASIS: basis},
        )

    def conflicted(
        self, record_id: str, *, expected_version: int | None = None,
        actual_version: int | None = None, action: str | None = None,
        **fields: Unpack[EventFields],
    ) -> Receipt:  # fmt: skip
        """A change met a version that it was not based on; ``action``: what became of it."""
        return self._tell(
            names.EVENT_WRITE_CONFLICT, fields, record_id=record_id, attributes={
                names.CONFLICT_EXPECTED_VERSION: expected_version,
                names.CONFLICT_ACTUAL_VERSION: actual_version, names.CONFLICT_ACTION: action,
            },
        )  # fmt: skip

    # -- reading and using ----------------------------------------------------

    def read(
        self, record_id: str | None = None, *, count: int | None = None,
        record_ids: Sequence[str] | None = None, hit: bool | None = None,
        **fields: Unpack[EventFields],
    ) -> Receipt:  # fmt: skip
        """Memory records were read by their ids, or listed."""
        return self._tell(
            names.EVENT_RECORD_READ, fields, record_id=record_id,
            attributes={**_some(count, record_ids), names.READ_HIT: hit},
        )

    def recalled(
        self, record_ids: Sequence[str], *, query: Any = NOTHING,
        scores: Sequence[float] | None = None, top_k: int | None = None,
        threshold: float | None = None, method: str | None = None, dropped: int | None = None,
        **fields: Unpack[EventFields],
    ) -> Receipt:  # fmt: skip
        """Memory was searched, and these were found, best first."""
        return self._tell(
            names.EVENT_RECALL_COMPLETED, fields, query=query, attributes={
                **_some(_number_of(record_ids), record_ids), names.RECALL_SCORES: scores,
                names.RECALL_TOP_K: top_k, names.RECALL_THRESHOLD: threshold,
                names.RECALL_METHOD: method, names.RECALL_DROPPED: dropped,
            },
        )  # fmt: skip

    def injected(
        self, record_ids: Sequence[str], *, tokens: int | None = None,
        response_id: str | None = None, **fields: Unpack[EventFields],
    ) -> Receipt:  # fmt: skip
        """Memory records were put into the context of a model."""
        return self._tell(
            names.EVENT_CONTEXT_INJECTED, fields, attributes={
                **_some(_number_of(record_ids), record_ids), names.CONTEXT_TOKENS: tokens,
                names.GEN_AI_RESPONSE_ID: response_id,
            },
        )  # fmt: skip

    # -- thinking -------------------------------------------------------------

    def extracted(
        self, *, candidates: int, accepted: int, record_ids: Sequence[str] | None = None,
        **fields: Unpack[EventFields],
    ) -> Receipt:  # fmt: skip
        """Candidates for memory records were drawn from a source."""
        return self._tell(
            names.EVENT_EXTRACTION_COMPLETED, fields, attributes={
                names.EXTRACTION_CANDIDATES: candidates, names.EXTRACTION_ACCEPTED: accepted,
                names.OUTPUT_RECORD_IDS: record_ids,
            },
        )  # fmt: skip

    def consolidated(
        self, *, inputs: Sequence[str], outputs: Sequence[str], **fields: Unpack[EventFields]
    ) -> Receipt:
        """Memory records were merged, rewritten or pruned: these into those."""
        return self._tell(
            names.EVENT_CONSOLIDATION_COMPLETED, fields, attributes={
                names.CONSOLIDATION_INPUTS: _number_of(inputs), names.INPUT_RECORD_IDS: inputs,
                names.CONSOLIDATION_OUTPUTS: _number_of(outputs), names.OUTPUT_RECORD_IDS: outputs,
            },
        )  # fmt: skip

    # -- stores ---------------------------------------------------------------

    def store_created(self, store_id: str, /, **fields: Unpack[EventFields]) -> Receipt:
        """A memory store was made."""
        return self._tell(names.EVENT_STORE_CREATED, {**fields, "store_id": store_id})

    def store_deleted(
        self, store_id: str, /, *, count: int | None = None, **fields: Unpack[EventFields]
    ) -> Receipt:
        """A memory store was removed, with ``count`` memory records in it."""
        return self._tell(
            names.EVENT_STORE_DELETED, {**fields, "store_id": store_id},
            attributes=_some(count, None),
        )

    def store_cleared(
        self, store_id: str, /, *, count: int | None = None, **fields: Unpack[EventFields]
    ) -> Receipt:
        """All memory records of a store were removed."""
        return self._tell(
            names.EVENT_STORE_CLEARED, {**fields, "store_id": store_id},
            attributes=_some(count, None),
        )

    # -- how --------------------------------------------------------------------

    def _tell(self, name: str, fields: Mapping[str, Any], **own: Any) -> Receipt:
        maker, emitter = self._maker, self._emitter
        known = {**maker.fields, **fields}
        operation = known.get("operation") or EVENTS[name].operation
        with emitter.span(operation, known.get("provider_name")) as span:
            try:
                event = maker.make(name, fields, **own)
            except Exception as error:  # noqa: BLE001 - promise 6: content is the application's
                refused = emitter.failed(f"make event {name}", error)
                least = self._least(name, known, own)
                if least is None:
                    return refused
                event = least
            describe(span, event)
            return emitter.emit(event, capture=maker.captures())

    def _least(
        self, name: str, known: Mapping[str, Any], own: Mapping[str, Any]
    ) -> MemoryEvent | None:
        """That it happened, and to which memory, where something else of it cannot be told."""
        said = {key: known[key] for key in _LEAST if isinstance(known.get(key), str)}
        attributes: dict[str, Any] = {names.REPAIRED: True}
        if isinstance(own.get("record_id"), str):
            said["record_id"] = own["record_id"]
        count = own.get("attributes", {}).get(names.GEN_AI_MEMORY_RECORD_COUNT)
        if type(count) is int:
            attributes[names.GEN_AI_MEMORY_RECORD_COUNT] = count
        try:
            return self._maker.only(said).make(
                name, {}, attributes=attributes, reason="what was said cannot be told"
            )
        except Exception:  # noqa: BLE001 - the mistake itself was said before
            return None


_LEAST = ("store_id", "agent_id", "agent_name", "conversation_id", "tenant_id")


def _some(count: int | None, record_ids: Sequence[str] | None) -> dict[str, Any]:
    return {names.GEN_AI_MEMORY_RECORD_COUNT: count, names.RECORD_IDS: record_ids}


def _number_of(found: object) -> int | None:
    """How many there are; ``None`` for what has no length, which the event then refuses."""
    return len(found) if isinstance(found, Sized) else None
