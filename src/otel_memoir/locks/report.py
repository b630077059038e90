"""What is said of a deadlock: frozen values, built from facts that were taken under the mutex."""

from __future__ import annotations

import dataclasses
import sys
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from opentelemetry import trace
from opentelemetry.context import Context

from otel_memoir.locks.modes import NAMES

REFUSED, REORDERED, REPORTED = "refused", "reordered", "reported"

Where = tuple[Any, int]
V = TypeVar("V")


@dataclass(frozen=True, kw_only=True)
class Holding:
    """A lock that a unit of the circle holds.

    Attributes:
        acquired_at: The line of code that took it.
    """

    key: str
    mode: str
    fencing_token: int
    acquired_at: str


@dataclass(frozen=True, kw_only=True)
class Participant:
    """One unit of the circle; it waits for the next, the last for the first.

    Attributes:
        unit: Its id. Stable, and of this process unless ``remote``.

        role: ``victim`` or ``survivor``.

        waits_for: ``lock`` (its holder), ``queue`` (one who is ahead of it), ``event loop``
            (its thread is blocked), or what was declared: ``join``, ``task``, ``executor``.

        key, mode: What it asked for; empty where it waits for something else than a lock.

        held: What it holds.

        trace_id, span_id: Its span when it began to wait, in hex; empty without one.

        waiting_at: The line of code that waits.

        resolves_by_timeout: Its wait has a timeout, so the circle would have ended by itself.
    """

    unit: str
    role: str
    waits_for: str
    key: str = ""
    mode: str = ""
    held: tuple[Holding, ...] = ()
    trace_id: str = ""
    span_id: str = ""
    waiting_at: str = ""
    priority: int = 0
    resolves_by_timeout: bool = False
    remote: bool = False


@dataclass(frozen=True, kw_only=True)
class DeadlockReport:
    """A deadlock.

    Attributes:
        id: The same on everything that is said of it.

        resolution: ``refused`` (one unit was), ``reordered`` (a queue was, and nobody is
            refused), or ``reported`` (nothing was done, as configured).

        reason: What found it: ``deadlock``, ``wait-die`` or ``wound-wait``; or who said so.

        behind: Units that are not in the circle but wait for one that is.
    """

    id: str
    resolution: str
    participants: tuple[Participant, ...]
    reason: str = "deadlock"
    behind: tuple[str, ...] = ()

    @property
    def victim(self) -> Participant | None:
        """The unit that was refused."""
        return next((one for one in self.participants if one.role == "victim"), None)

    @property
    def units(self) -> tuple[str, ...]:
        """Ids of the units, in the order of the circle."""
        return tuple(one.unit for one in self.participants)

    @property
    def keys(self) -> tuple[str, ...]:
        """What they wait for, in the same order."""
        return tuple(one.key for one in self.participants if one.key)

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> DeadlockReport:
        """What ``to_dict`` gave; what a newer version added is left out.

        Raises:
            ValueError: It is no report.
        """
        return built(cls, fields, {
            "participants": lambda one: built(Participant, one, {
                "held": lambda held: built(Holding, held)
            }),
            "behind": str,
        })  # fmt: skip

    def __str__(self) -> str:
        return " -> ".join(
            f"{one.unit} waits for {one.waits_for} {one.key} {one.mode}".rstrip()
            for one in self.participants
        )


class Fact(NamedTuple):
    """What was true of one edge of the circle, before anything was done about it.

    Attributes:
        unit: The id of the unit that waits.

        kind: What for, as in ``Participant``.

        context: Where it is told that it was part of this.

        held: Of each lock in its hands: key, mode, fence, and where it was taken.

        timed: Whether its wait has a timeout.
    """

    unit: str
    kind: str
    key: str
    mode: int
    priority: int
    timed: bool
    context: Context
    where: Where | None
    held: tuple[tuple[str, int, int, Where], ...]


class Verdict:
    """A deadlock as it was found. ``report`` makes the value of it, once, outside the mutex.

    Args:
        facts: One for each edge of the circle.

        victim: The id of the unit that is refused.

        behind: Ids of units that are not in the circle but wait for one that is.
    """

    __slots__ = ("_report", "behind", "facts", "id", "reason", "resolution", "victim")

    def __init__(
        self, facts: tuple[Fact, ...], resolution: str, victim: str | None,
        reason: str = "deadlock", behind: tuple[str, ...] = (),
    ) -> None:  # fmt: skip
        self.id = uuid.uuid4().hex
        self.facts, self.resolution, self.victim = facts, resolution, victim
        self.reason, self.behind = reason, behind
        self._report: DeadlockReport | None = None

    @classmethod
    def of(cls, report: DeadlockReport, fact: Fact) -> Verdict:
        """A verdict that was made elsewhere, on a unit of this process."""
        verdict = cls((fact,), report.resolution, fact.unit, report.reason)
        verdict.id, verdict._report = report.id, report
        return verdict

    def report(self) -> DeadlockReport:
        """The report; asked for twice, it is equal."""
        if self._report is None:
            self._report = DeadlockReport(
                id=self.id, resolution=self.resolution, reason=self.reason, behind=self.behind,
                participants=tuple(self._participant(fact) for fact in self.facts),
            )  # fmt: skip
        return self._report

    def _participant(self, fact: Fact) -> Participant:
        trace_id, span_id = span_ids(fact.context)
        return Participant(
            unit=fact.unit, role="victim" if fact.unit == self.victim else "survivor",
            waits_for=fact.kind, key=fact.key, mode=NAMES[fact.mode] if fact.key else "",
            held=tuple(
                Holding(key=key, mode=NAMES[mode], fencing_token=token, acquired_at=place(where))
                for key, mode, token, where in fact.held
            ),
            trace_id=trace_id, span_id=span_id,
            waiting_at=place(fact.where), priority=fact.priority, resolves_by_timeout=fact.timed,
        )  # fmt: skip


def span_ids(context: Context) -> tuple[str, str]:
    """Trace and span id in hex, of the span of an OpenTelemetry context; empty without one."""
    span = trace.get_current_span(context).get_span_context()
    if not span.is_valid:
        return "", ""
    return trace.format_trace_id(span.trace_id), trace.format_span_id(span.span_id)


def built(
    kind: type[V], fields: Mapping[str, Any],
    members: Mapping[str, Callable[[Any], object]] | None = None,
) -> V:  # fmt: skip
    """A frozen value from what JSON has of it.

    Args:
        members: For each field that is a tuple, what makes one of its members.

    Raises:
        ValueError: A field is missing, or is not what it should be.
    """
    members = members or {}
    try:
        known = {one.name: fields[one.name] for one in dataclasses.fields(kind)  # type: ignore[arg-type]
                 if one.name in fields}  # fmt: skip
        return kind(**{
            name: tuple(map(members[name], value)) if name in members else value
            for name, value in known.items()
        })  # fmt: skip
    except (TypeError, KeyError) as error:
        raise ValueError(f"this is no {kind.__name__}: {error}") from error


def caller() -> Where:
    """The line of code that called the function that asks."""
    frame = sys._getframe(2)
    return frame.f_code, frame.f_lasti


def place(where: Where | None) -> str:
    """A line of code as people write it: ``file.py:12 in function``."""
    if where is None:
        return ""
    code, at = where
    line = next(
        (line for start, end, line in code.co_lines() if start <= at < end), code.co_firstlineno
    )
    return f"{code.co_filename}:{line} in {code.co_name}"
