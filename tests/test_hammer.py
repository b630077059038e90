"""Everything at once: threads, a signal handler, finalisers, exceptions from outside, forks."""

from __future__ import annotations

import ctypes
import gc
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from opentelemetry._logs import LogRecord
from opentelemetry.sdk._logs import LoggerProvider

from otel_memoir import DurableLogRecordProcessor
from otel_memoir.spool.verify import verify_directory
from otel_memoir.testing import ScriptedCollector

THREADS = 64
SECONDS = float(os.environ.get("MEMOIR_HAMMER_SECONDS", "8"))
CHILD_RECORDS = 5


class FromOutsideError(BaseException):
    """What is raised into emitters."""


class Hammer:
    """Emits by name and remembers which emits returned."""

    def __init__(self, provider: LoggerProvider) -> None:
        self._logger = provider.get_logger("hammer")
        self.returned: set[str] = set()
        self.stop = threading.Event()

    def emit(self, name: str) -> None:
        """Emit; only an emit that returned is a promise."""
        self._logger.emit(LogRecord(body=name, attributes={"name": name}))
        self.returned.add(name)

    def work(self, thread: int) -> None:
        """Emit until told to stop; some records come from a finaliser."""
        number = 0
        while not self.stop.is_set():
            number += 1
            try:
                self.emit(f"t{thread}.{number}")
                if number % 50 == 0:
                    Logs(self, f"f{thread}.{number}")
            except FromOutsideError:
                continue

    def fork(self) -> None:
        """Let a child emit and die; it must not hang."""
        child = os.fork()
        if child == 0:
            signal.setitimer(signal.ITIMER_REAL, 0)
            for number in range(CHILD_RECORDS):
                self.emit(f"c{os.getpid()}.{number}")
            os._exit(0)
        deadline_s = time.monotonic() + 20.0
        while os.waitpid(child, os.WNOHANG) == (0, 0):
            assert time.monotonic() < deadline_s, "a fork child hangs"
            self.stop.wait(0.01)
        self.returned |= {f"c{child}.{number}" for number in range(CHILD_RECORDS)}


class Logs:
    """Logs when it is collected, on whichever thread and inside whatever that is."""

    def __init__(self, hammer: Hammer, name: str) -> None:
        self._hammer, self._name, self._cycle = hammer, name, self

    def __del__(self) -> None:
        self._hammer.emit(self._name)


@contextmanager
def interrupting(hammer: Hammer) -> Iterator[None]:
    """A signal handler that emits every 10 ms on the main thread."""
    count = iter(range(1_000_000))
    before = signal.signal(signal.SIGALRM, lambda *_: hammer.emit(f"s{next(count)}"))
    signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def throw_into(thread: threading.Thread) -> None:
    """Raise an exception in another thread, wherever it is."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(thread.ident or 0), ctypes.py_object(FromOutsideError)
    )


# A child of a process with threads is what is tested; an exception may strike a finaliser,
# or a thread that is just ending.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.slow
@pytest.mark.timeout(180)
def test_nothing_hangs_and_nothing_that_returned_is_missing(tmp_path: Path) -> None:
    """64 threads, a signal handler, finalisers, exceptions and forks, while it delivers."""
    with ScriptedCollector() as collector:
        processor = DurableLogRecordProcessor(
            endpoint=collector.endpoint, spool_dir=str(tmp_path), adoption_interval_s=0.2
        )
        provider = LoggerProvider(shutdown_on_exit=False)
        provider.add_log_record_processor(processor)
        hammer = Hammer(provider)
        threads = [
            threading.Thread(target=hammer.work, args=(number,), daemon=True)
            for number in range(THREADS)
        ]
        for thread in threads:
            thread.start()
        end_s, rounds = time.monotonic() + SECONDS, 0
        with interrupting(hammer):
            while time.monotonic() < end_s:
                rounds += 1
                throw_into(random.choice(threads))
                hammer.emit(f"m{rounds}")
                if rounds % 4 == 0:
                    hammer.fork()
        hammer.stop.set()
        for thread in threads:
            thread.join(30.0)
        assert not [thread for thread in threads if thread.is_alive()]
        gc.collect()
        assert processor.wait_delivered(60.0)
        provider.shutdown()
        arrived = [record.attributes.get("name") for record in collector.delivered]
    assert rounds >= 4
    assert hammer.returned - set(arrived) == set()
    assert [v.findings for v in verify_directory(tmp_path) if not v.ok] == []
