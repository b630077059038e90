"""An interrupt may strike at any line: it leaves no lock behind."""

from __future__ import annotations

import contextvars
import linecache
import sys
from typing import Any

import pytest

from otel_memoir import LockManager
from otel_memoir.reflection import Reflection
from reflection_helpers import ENDS, STARTED, Told, held

Place = tuple[str, int]


class OutsideError(BaseException):
    """Comes from outside, between two lines, as KeyboardInterrupt does."""


def operation(told: Told) -> None:
    """All that a reflection does."""
    with told.reflect("c", keys=["a", "b"]) as reflection:
        with reflection.unlocked():
            pass
        reflection.wrote("a")


def lines_of() -> list[Place]:
    """Every line of the room that it runs; a tracer comes to a ``with`` again as its block ends,
    where no signal handler does."""
    seen: dict[Place, None] = {}

    def note(frame: Any, event: str, arg: Any) -> Any:
        name, number = frame.f_code.co_filename, frame.f_lineno
        if event == "line" and "otel_memoir/reflection" in name:
            seen[name, number] = None
        return note

    told = Told(LockManager())
    operation(told)
    sys.settrace(note)
    try:
        operation(told)
    finally:
        sys.settrace(None)
    return [place for place in seen if not linecache.getline(*place).strip().startswith("with ")]


def interrupted(place: Place) -> Told:
    """What is told, and left, by a reflection that is interrupted at a line."""
    told = Told(LockManager())
    # Struck in the telling, it may leave its span the current one: not that of other tests.
    context = contextvars.copy_context()

    def strike(frame: Any, event: str, arg: Any) -> Any:
        if event == "line" and (frame.f_code.co_filename, frame.f_lineno) == place:
            sys.settrace(None)
            raise OutsideError
        return strike

    sys.settrace(strike)
    try:
        context.run(operation, told)
    except OutsideError:
        pass
    finally:
        sys.settrace(None)
    return told


def harmed() -> set[Place]:
    """Lines at which an interrupt leaves something held or watched."""
    return {place for place in lines_of() if held(interrupted(place).locks)}


def first_line_of_exit() -> int:
    """Where the code that lets go begins."""
    code = Reflection.__exit__.__code__
    return min(number for *_, number in code.co_lines() if number and number > code.co_firstlineno)


def test_an_interrupt_at_any_line_leaves_nothing_held() -> None:
    """One place remains, as for a lease: before the first line of ``__exit__``."""
    assert len(lines_of()) > 100
    assert {number for _, number in harmed()} <= {first_line_of_exit()}


def test_no_interrupt_makes_two_ends_or_an_end_without_a_beginning() -> None:
    """An interrupt in the telling itself may leave one untold."""
    for place in lines_of():
        told = interrupted(place)
        ends, starts = told.events(*ENDS), told.events(STARTED)
        assert len(ends) <= 1 and len(starts) <= 1, place


def test_without_the_end_on_interrupts_something_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control."""
    real = Reflection._end

    def end(self: Reflection, error: BaseException | None) -> None:
        if not isinstance(error, OutsideError):
            real(self, error)

    monkeypatch.setattr(Reflection, "_end", end)
    assert len(harmed()) > 3
