"""Sending what dead processes left, without a service that runs."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from opentelemetry.sdk.resources import Resource

from otel_memoir.errors import MemoirError
from otel_memoir.sdk.pipeline import Pipeline
from otel_memoir.settings import Settings
from otel_memoir.spool import SpoolStatus, Totals
from otel_memoir.spool.inspect import status_of_directory, sum_totals
from otel_memoir.spool.quarantine import trouble

_LOOK_INTERVAL_S = 0.1


@dataclass(frozen=True, kw_only=True)
class Drained:
    """What a drain did.

    Attributes:
        directory: Where.

        delivered: Records that the destination took meanwhile.

        left: Records that still wait in files that no other process holds.

        held_by_others: Records that wait in files of living processes, which send them.

        why: Why something is left; empty if nothing is.
    """

    directory: str
    delivered: int
    left: int
    held_by_others: int
    why: str = ""


def drain(
    directory: Path, *, timeout: float, environ: Mapping[str, str] | None = None
) -> Drained:
    """Send what waits in the files that no living process holds.

    Args:
        directory: The spool directory.

        timeout: The longest time, in seconds.

        environ: The environment that says where to send; ``os.environ`` by default.

    Raises:
        MemoirError: A setting, the destination or the directory cannot be used.
    """
    before = status_of_directory(directory)
    if not any(_is_free(status) for status in before):
        return _result(directory, before, before, frozenset())
    others = frozenset(status.name for status in before if status.alive)
    settings = Settings.load(
        environ=environ, spool_dir=str(directory), durability="power",
        adoption_interval_s=_LOOK_INTERVAL_S,
    )
    pipeline = Pipeline(settings, environ=environ)
    try:
        _send_all(pipeline, directory, others, time.monotonic() + timeout)
    finally:
        pipeline.close(0.5)
    return _result(directory, before, status_of_directory(directory), others)


def _send_all(
    pipeline: Pipeline, directory: Path, others: frozenset[str], deadline_s: float
) -> None:
    parts = pipeline._make(Resource.get_empty())
    parts.spool.open()
    never = threading.Event()
    while (left_s := deadline_s - time.monotonic()) > 0:
        # The files are asked too: the courier alone cannot tell of a file that it has
        # not looked at yet.
        drained = parts.courier.wait_drained(left_s)
        statuses = status_of_directory(directory)
        if drained and not sum_totals(_not_of(statuses, others)).pending:
            return
        never.wait(min(_LOOK_INTERVAL_S, left_s))


def _is_free(status: SpoolStatus) -> bool:
    return not status.alive and not status.problem


def _not_of(statuses: list[SpoolStatus], others: frozenset[str]) -> list[SpoolStatus]:
    return [status for status in statuses if not (status.alive and status.name in others)]


def _result(
    directory: Path, before: list[SpoolStatus], after: list[SpoolStatus], others: frozenset[str]
) -> Drained:
    mine = _not_of(after, others)
    free = [status for status in mine if not status.alive]
    left = sum_totals(free).pending
    return Drained(
        directory=str(directory),
        delivered=sum_totals(mine).delivered - _totals_of(before, mine).delivered,
        left=left,
        held_by_others=sum_totals(after).pending - left,
        why=_why(free) if left or any(status.problem for status in free) else "",
    )


def _totals_of(statuses: list[SpoolStatus], like: list[SpoolStatus]) -> Totals:
    names = {status.name for status in like}
    return sum_totals([status for status in statuses if status.name in names])


def _why(statuses: list[SpoolStatus]) -> str:
    """The hold, the problem or the last answer, whichever explains most."""
    for status in statuses:
        if status.problem:
            return f"{status.path}: {status.problem}"
        if status.hold:
            return f"{status.hold.code}: {status.hold.message}. {status.hold.hint}"
    for status in (status for status in statuses if status.totals.pending):
        try:
            code, message = trouble(Path(status.path))
        except MemoirError as error:
            return str(error)
        if code:
            return f"{code}: {message}"
    return "the time was over; run it again, or give it a longer --timeout"
