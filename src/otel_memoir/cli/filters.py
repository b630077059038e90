"""The options by which commands choose events."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from otel_memoir.retrieval.filters import STATES, FilterArguments

F = TypeVar("F", bound=Callable[..., Any])

if TYPE_CHECKING:
    _Type = click.ParamType[int]
else:
    _Type = click.ParamType  # generic only in newer versions

_AGE = re.compile(r"(\d+(?:\.\d+)?)(s|m|min|h|d)")
_UNITS_S = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}
_NS = re.compile(r"\d{16,20}")

_SEVERAL = {
    "event": "Name of the event, such as memoir.record.updated.",
    "store": "Id of the store.",
    "record": "Id of a memory record: events that name it, be it among others.",
    "agent": "Id or name of the agent.",
    "conversation": "Id of the conversation.",
    "trace": "Trace id, in hexadecimal.",
    "stream": "Id of the stream.",
    "uid": "Id of the emission.",
}
NAMES = (*_SEVERAL, "state", "since", "until", "first_sequence", "last_sequence")


class MomentType(_Type):
    """A time: ISO 8601 (UTC unless it says a zone), unix ns, or an age such as 15m, 2h, 7d."""

    name = "time"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """The time in unix ns."""
        if isinstance(value, int):
            return value
        if age := _AGE.fullmatch(value):
            return time.time_ns() - int(float(age.group(1)) * _UNITS_S[age.group(2)] * 1e9)
        if _NS.fullmatch(value):
            return int(value)
        try:
            found = datetime.fromisoformat(value.replace("Z", "+00:00"))
        except ValueError:
            self.fail(
                f"{value!r} is no time; write 2026-11-27T20:00, 2026-11-27T20:00+01:00, unix "
                "time in nanoseconds, or an age such as 15m, 2h or 7d", param, ctx,
            )
        zoned = found if found.tzinfo else found.replace(tzinfo=timezone.utc)
        whole = int(zoned.replace(microsecond=0).timestamp())
        return whole * 10**9 + zoned.microsecond * 1000


MOMENT = MomentType()


def filters(function: F) -> F:
    """Give a command the options that choose events; each may be given more than once."""
    sequence = click.IntRange(min=0)
    options = [
        *(click.option(f"--{name}", multiple=True, metavar="TEXT", help=text)
          for name, text in _SEVERAL.items()),
        click.option("--state", multiple=True, type=click.Choice(STATES),
                     help="What became of it so far."),
        click.option("--since", type=MOMENT,
                     help="From this time of its stamp on: 2026-11-27T20:00 (UTC), or an age: 2h."),
        click.option("--until", type=MOMENT, help="Before this time of its stamp."),
        click.option("--first-sequence", type=sequence, help="From this number on."),
        click.option("--last-sequence", type=sequence, help="Up to this number."),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def taken_from(options: dict[str, Any]) -> FilterArguments:
    """Take the filters out of a command's options; what was not given is left out."""
    given: Mapping[str, Any] = {name: options.pop(name) for name in NAMES}
    return cast(
        FilterArguments,
        {name: value for name, value in given.items() if value is not None and value != ()},
    )


class Reading:
    """Says on stderr how far the reading of new records is, once it takes a second."""

    def __init__(self, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        self._monotonic_s = monotonic_s
        self._next_s: float | None = None
        self._spoke = False

    def __call__(self, done: int, of: int) -> None:
        """Tell of some records of all that are new."""
        now_s = self._monotonic_s()
        if self._next_s is None:
            self._next_s = now_s + 1.0
        if now_s < self._next_s and not (self._spoke and done == of):
            return
        self._next_s, self._spoke = now_s + 1.0, True
        is_shown = sys.stderr.isatty()
        click.echo(
            f"{chr(13) if is_shown else ''}reading what is new: {done:,} of {of:,} records",
            err=True, nl=not is_shown or done == of,
        )
