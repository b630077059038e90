"""Queries over local spools, without an object to keep."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from otel_memoir.retrieval.event import Page, RetainedEvent
from otel_memoir.retrieval.filters import FilterArguments
from otel_memoir.retrieval.retrieval import LIMIT, TIMEOUT_S, Directories, Retrieval

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["FilterArguments", "Page", "RetainedEvent", "Retrieval", "events", "history"]


def events(
    directories: Directories, *, limit: int = LIMIT, after: str | None = None,
    newest_first: bool = False, timeout: float = TIMEOUT_S, **filters: Unpack[FilterArguments],
) -> Page:
    """The events that spool directories still hold and that match: a page of them.

    Args:
        directories: The spool directory, or several.

        limit: The most events.

        after: The cursor of the page before, to go on from there, also after a restart.

        newest_first: The order: by default the oldest is first.

        timeout: How long, in seconds, to wait for another process that brings the index
            up to date.

        **filters: event, store, record, agent, conversation, trace, since, until,
            first_sequence, last_sequence, stream, state, uid: see ``FilterArguments``.

    Raises:
        SpoolError: A filter or cursor cannot be used, or the index cannot be made.
    """
    with Retrieval(directories, timeout=timeout) as retrieval:
        return retrieval.page(limit=limit, after=after, newest_first=newest_first, **filters)


def history(
    directories: Directories, memory_record: str, *, store: str | Iterable[str] | None = None,
    timeout: float = TIMEOUT_S,
) -> tuple[RetainedEvent, ...]:
    """All events that name a memory record, in resolved order, the oldest first.

    Args:
        directories: The spool directory, or several.

        memory_record: Its id.

        store: The stores whose record it is; by default any.

        timeout: As of ``events``.

    Raises:
        SpoolError: The index cannot be made, or a file cannot be read.
    """
    with Retrieval(directories, timeout=timeout) as retrieval:
        return retrieval.history(memory_record, store=store)
