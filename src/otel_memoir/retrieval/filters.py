"""What is asked for: filters as people give them, checked, as a question to an index."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TypedDict

from otel_memoir.errors import SpoolError
from otel_memoir.retrieval.terms import KEYS, describe
from otel_memoir.spool import State
from otel_memoir.spool.index import Place, Question
from otel_memoir.stamping.event import StampedEvent

STATES = tuple(state.value for state in State if state is not State.SPLIT)

_TIME_MAX = 2**63 - 1


class FilterArguments(TypedDict, total=False):
    """The filters of a query; each takes one value or several, of which one has to match.

    Keys:
        event: Event names.

        store: Ids of stores.

        record: Ids of memory records: events that name one, be it among others.

        agent: Ids or names of agents.

        conversation: Ids of conversations.

        trace: Trace ids in hexadecimal.

        since, until: Bounds of the stamp's time: from, and before. Unix time in ns, or a
            ``datetime`` (without a zone: UTC).

        first_sequence, last_sequence: Bounds of the number, both included.

        stream: Ids of streams.

        state: What became of it: names of ``State``.

        uid: Ids of emissions.
    """

    event: str | Iterable[str] | None
    store: str | Iterable[str] | None
    record: str | Iterable[str] | None
    agent: str | Iterable[str] | None
    conversation: str | Iterable[str] | None
    trace: str | Iterable[str] | None
    since: int | datetime | None
    until: int | datetime | None
    first_sequence: int | None
    last_sequence: int | None
    stream: str | Iterable[str] | None
    state: str | Iterable[str] | None
    uid: str | Iterable[str] | None


@dataclass(frozen=True, kw_only=True)
class Filters:
    """Filters, checked. An empty tuple asks for nothing in particular."""

    terms: tuple[tuple[int, tuple[str, ...]], ...] = ()
    uids: tuple[str, ...] = ()
    streams: tuple[str, ...] = ()
    states: tuple[str, ...] = ()
    since_ns: int = 0
    until_ns: int = _TIME_MAX
    first_sequence: int | None = None
    last_sequence: int | None = None
    is_empty: bool = False
    """Some filter was given without a value: nothing can match."""

    def question(self, *, after: Place | None, newest_first: bool) -> Question:
        """The question to an index; what became of a record it does not know."""
        return Question(
            terms=self.terms, uids=self.uids, streams=self.streams, since_ns=self.since_ns,
            until_ns=self.until_ns, first_sequence=self.first_sequence,
            last_sequence=self.last_sequence, after=after, newest_first=newest_first,
        )


def matches(asked: Filters, event: StampedEvent, state: str) -> bool:
    """Whether an event that no index knows is among those that are asked for.

    Args:
        asked: The filters.

        event: The event; its payload is the record.

        state: What became of it.
    """
    words = describe(event.payload.SerializeToString())
    first, last = asked.first_sequence or 0, asked.last_sequence
    return (
        not asked.is_empty
        and (not asked.states or state in asked.states)
        and (not asked.uids or event.uid in asked.uids)
        and (not asked.streams or event.stream in asked.streams)
        and asked.since_ns <= event.unix_ns < asked.until_ns
        and first <= event.sequence and (last is None or event.sequence <= last)
        and all(
            any(words.terms[kind] == text or (kind, text) in words.also for text in texts)
            for kind, texts in asked.terms
        )
    )


def filters_of(given: FilterArguments) -> Filters:
    """Check filters.

    Raises:
        SpoolError: A value cannot be asked for.
    """
    words = {
        name: _several(name, given.get(name))
        for name in (*KEYS, "uid", "stream", "state")
    }
    if words["trace"]:
        words["trace"] = tuple(text.lower() for text in words["trace"])
    unknown = set(words["state"] or ()) - set(STATES)
    if unknown:
        raise _wrong("state", min(unknown), f"Give one of: {', '.join(STATES)}.")
    return Filters(
        terms=tuple((kind, words[key] or ()) for kind, key in enumerate(KEYS) if words[key]),
        uids=words["uid"] or (), streams=words["stream"] or (), states=words["state"] or (),
        since_ns=_moment("since", given.get("since"), 0),
        until_ns=_moment("until", given.get("until"), _TIME_MAX),
        first_sequence=_number("first_sequence", given.get("first_sequence")),
        last_sequence=_number("last_sequence", given.get("last_sequence")),
        is_empty=() in words.values(),
    )


def _several(name: str, given: object) -> tuple[str, ...] | None:
    """The values that were given; ``None`` where no filter was."""
    if given is None:
        return None
    alone = isinstance(given, str) or not isinstance(given, Iterable)
    found: tuple[object, ...] = (given,) if alone else tuple(given)  # type: ignore[arg-type]
    for value in found:
        if not isinstance(value, str):
            raise _wrong(name, value, "Give text, or several texts in a list.")
    return tuple(value.value if isinstance(value, State) else str(value) for value in found)


def _moment(name: str, given: object, otherwise: int) -> int:
    if given is None:
        return otherwise
    if isinstance(given, datetime):
        zoned = given if given.tzinfo else given.replace(tzinfo=timezone.utc)
        whole = int(zoned.replace(microsecond=0).timestamp())
        return max(0, whole * 10**9 + zoned.microsecond * 1000)
    if isinstance(given, int) and not isinstance(given, bool):
        return min(max(0, given), _TIME_MAX)
    raise _wrong(name, given, "Give unix time in nanoseconds, or a datetime.")


def _number(name: str, given: object) -> int | None:
    if given is None or (isinstance(given, int) and 0 <= given <= _TIME_MAX):
        return given
    raise _wrong(name, given, "Give an integer of 0 or more.")


def _wrong(name: str, value: object, hint: str) -> SpoolError:
    return SpoolError(
        "ask for events", target=name, cause=f"{value!r:.60} cannot be asked for", hint=hint
    )
