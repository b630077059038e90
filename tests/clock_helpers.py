"""What the tests of time sources share."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from otel_memoir.clock.sample import Sample, Source, ruler_ns
from otel_memoir.clock.sources.bracket import read_bracket
from otel_memoir.errors import ClockError

PATIENCE_S = 20.0
SHORT_S = 0.3
_PAUSE_S = 0.02


def offset_ns(sample: Sample) -> int:
    """By how much a sample's time is ahead of the system clock."""
    now = read_bracket(ruler_ns, time.time_ns)
    return (sample.unix_ns - sample.ruler_ns) - (now.wall_ns - now.ruler_ns)


def best_of(source: Source, polls: int = 10) -> Sample:
    """The sample with the least distance: a loaded machine delays a packet now and then."""
    samples = [source.poll(PATIENCE_S) for _ in range(polls)]
    return min(samples, key=lambda sample: sample.distance_ns)


def refused(source: Source, timeout: float = SHORT_S) -> ClockError:
    """Poll a source that must not give a sample; return why."""
    with pytest.raises(ClockError) as caught:
        source.poll(timeout)
    return caught.value


def until(holds: Callable[[], bool], timeout: float = PATIENCE_S) -> bool:
    """Look again and again until something holds, or time is up."""
    never = threading.Event()
    deadline_s = time.monotonic() + timeout
    while not holds():
        if time.monotonic() >= deadline_s:
            return False
        never.wait(_PAUSE_S)
    return True


@contextlib.contextmanager
def busy(count: int = 4) -> Iterator[None]:
    """Threads of pure Python that never let go of the interpreter by themselves."""
    stop = threading.Event()

    def run() -> None:
        total = 0
        while not stop.is_set():
            for number in range(1000):
                total += number

    threads = [threading.Thread(target=run, name=f"busy-{n}") for n in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(PATIENCE_S)


class Stepping:
    """A wall clock that is set when it has been read a number of times."""

    def __init__(self, reads: int, step_ns: int) -> None:
        self._reads = reads
        self._step_ns = step_ns

    def __call__(self) -> int:
        self._reads -= 1
        return time.time_ns() + (self._step_ns if self._reads < 0 else 0)
