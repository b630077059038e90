"""Emits that interrupt an emit on its own thread: none is lost, none comes too late."""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from otel_memoir.spool.nesting import Nesting

ITEMS = 20_000
ME = threading.get_ident()


class Handled:
    """Remembers what was handled, and can be told to fail after some items."""

    def __init__(self, fail_after: int | None = None) -> None:
        self.items: list[int] = []
        self.reminders = 0
        self._fail_after = fail_after

    def __call__(self, items: deque[int]) -> None:
        while items:
            if self._fail_after is not None and len(self.items) >= self._fail_after:
                self._fail_after = None
                raise KeyboardInterrupt
            self.items.append(items[0])
            items.popleft()

    def remind(self) -> None:
        self.reminders += 1


def nesting(handled: Handled) -> Nesting[int]:
    return Nesting(handled, handled.remind)


@contextmanager
def eager_switches() -> Iterator[None]:
    """Let threads take turns as often as the interpreter can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def test_what_interrupted_a_thread_is_handled_before_it_has_left() -> None:
    """In order, and the thread can be interrupted again afterwards."""
    handled = Handled()
    it = nesting(handled)
    with it.uninterrupted():
        it.keep(ME, 1)
        it.keep(ME, 2)
        assert handled.items == []
    assert handled.items == [1, 2]
    assert it.busy == set()
    assert handled.reminders == 0


def test_what_interrupts_the_handling_is_handled_too() -> None:
    """A timer's signal comes while what it kept before is being stored."""
    seen: list[int] = []

    def handle(items: deque[int]) -> None:
        seen.extend(items)
        if items[0] < 5:
            it.keep(ME, items[0] + 1)
        items.clear()

    it = Nesting(handle, lambda: None)
    with it.uninterrupted():
        it.keep(ME, 1)
    assert seen == [1, 2, 3, 4, 5]


def test_a_flood_of_interruptions_lets_its_thread_out_and_loses_nothing() -> None:
    """The rest is left to the writer, who is reminded of it."""
    handled: list[int] = []
    reminders: list[int] = []

    def handle(items: deque[int]) -> None:
        handled.extend(items)
        if len(handled) < 50:
            it.keep(ME, items[-1] + 1)
        items.clear()

    it = Nesting(handle, lambda: reminders.append(1))
    with it.uninterrupted():
        it.keep(ME, 0)
    assert 1 < len(handled) < 50
    assert reminders
    it.drain_left_over()
    assert handled[0:3] == [0, 1, 2]
    assert len(handled) == len(set(handled))


@pytest.mark.parametrize("after", [0, 1, 2])
def test_what_an_exception_from_outside_left_is_handled_by_the_writer(after: int) -> None:
    """Each item exactly once, whoever handles it."""
    handled = Handled(fail_after=after)
    it = nesting(handled)
    with pytest.raises(KeyboardInterrupt), it.uninterrupted():
        for number in range(3):
            it.keep(ME, number)
    assert it.busy == set()
    assert handled.reminders >= 1
    it.drain_left_over()
    assert handled.items == [0, 1, 2]


@pytest.mark.timeout(60)
def test_nothing_is_lost_while_the_writer_takes_what_was_left_over() -> None:
    """The writer took from the very queue that the thread kept to: some items were lost."""
    handled = Handled()
    it = nesting(handled)
    done = threading.Event()

    def write() -> None:
        while not done.is_set():
            it.drain_left_over()

    writer = threading.Thread(target=write, name="writer")
    with eager_switches():
        writer.start()
        for number in range(ITEMS):
            it.busy.add(ME)
            it.keep(ME, number)
            if number % 3:
                it.leave(ME)
            else:
                it.busy.discard(ME)
        done.set()
        writer.join(30.0)
    it.leave(ME)
    it.drain_left_over()
    assert sorted(handled.items) == list(range(ITEMS))
