"""What the trace and the log are told of reflections; and that all works without being told."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry._logs import NoOpLogger
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.trace import SpanKind, StatusCode

from locks.actors import Stage, ThreadActor
from otel_memoir import LockManager, Reflections, diagnostics
from otel_memoir.errors import (
    LockLostError,
    LockTimeoutError,
    ReflectionSkippedError,
    WriteConflictError,
)
from otel_memoir.events import from_log_record, names, undeclared
from otel_memoir.reflection.telling import type_of
from reflection_helpers import COMPLETED, FAILED, SKIPPED, STARTED, Told, enter, held, leave

ROOT = Path(__file__).resolve().parent.parent
KEY = "profile/u1"


@pytest.fixture(params=["with", "async with"])
def run(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Run a body in a block, with or async with; the block's own errors come out."""

    def with_(block: Any, body: Callable[[], Any] = lambda: None) -> Any:
        with block:
            return body()

    def async_with(block: Any, body: Callable[[], Any] = lambda: None) -> Any:
        async def main() -> Any:
            async with block:
                return body()

        return asyncio.run(main())

    return with_ if request.param == "with" else async_with


@pytest.fixture
def told() -> Told:
    """Reflections that a real SDK is told of."""
    return Told(LockManager(), agent_id="agent-7")


def declared_of_the_span() -> set[str]:
    """The attributes that the registry declares for the span."""
    yaml = pytest.importorskip("yaml", reason="needs PyYAML: install the development tools")
    registry = ROOT / "src/otel_memoir/events/registry/ops.yaml"
    spans = yaml.safe_load(registry.read_text())["spans"]
    (span,) = [one for one in spans if one["type"] == names.SPAN_REFLECT]
    return {attribute["ref"] for attribute in span["attributes"]}


def test_a_reflection_is_an_internal_span_with_its_events_in_it(told: Told, run: Any) -> None:
    """Below the caller's span; what the block does is below the reflection's."""
    outer = told.tracers.get_tracer("test").start_span("turn")
    with trace.use_span(outer):
        inner = run(
            told.reflect("consolidate", keys=KEY, trigger="idle", conversation_id="c1"),
            trace.get_current_span,
        )
        assert trace.get_current_span() is outer
    (span,) = told.spans()
    assert inner.get_span_context() == span.context
    assert (span.name, span.kind) == ("reflect planner", SpanKind.INTERNAL)
    assert span.parent == outer.get_span_context()
    assert span.status.status_code is StatusCode.UNSET
    started, completed = told.events()
    assert (started.name, completed.name) == (STARTED, COMPLETED)
    for event in (started, completed):
        assert event.trace is not None and span.context is not None
        assert (event.trace.trace_id, event.trace.span_id) == (
            span.context.trace_id, span.context.span_id)
        assert event.attributes[names.REFLECTION_NAME] == "consolidate"
        assert (event.agent_name, event.agent_id) == ("planner", "agent-7")
        assert event.conversation_id == "c1"
        assert event.time_unix_ns
    assert dict(span.attributes or {}) == {
        "gen_ai.operation.name": "reflect", "gen_ai.agent.name": "planner",
        "gen_ai.agent.id": "agent-7", "gen_ai.conversation.id": "c1",
        "memoir.reflection.id": started.attributes[names.REFLECTION_ID],
        "memoir.reflection.name": "consolidate", "memoir.reflection.trigger": "idle",
    }  # fmt: skip


def test_what_a_reflection_asks_for_says_its_id() -> None:
    """Its own locks, and others inside its block; and nothing that is asked for outside of it."""
    logs = InMemoryLogRecordExporter()
    loggers = LoggerProvider(shutdown_on_exit=False)
    loggers.add_log_record_processor(SimpleLogRecordProcessor(logs))
    locks = LockManager(logger_provider=loggers)
    told, rival = Told(locks), ThreadActor(locks)
    leases = [rival.acquire(key).get() for key in (KEY, "other")]
    refused, inside = told.reflect("consolidate", keys=KEY, timeout=0), told.reflect("consolidate")
    with pytest.raises(LockTimeoutError), refused:
        raise AssertionError
    with inside, pytest.raises(LockTimeoutError):
        locks.acquire("other", timeout=0)
    with pytest.raises(LockTimeoutError):
        locks.acquire("other", timeout=0)
    rival.do(lambda: [lease.release() for lease in leases]).get()
    rival.end()
    records = [one.log_record for one in logs.get_finished_logs()]
    assert [(record.event_name, (record.attributes or {}).get(names.REFLECTION_ID))
            for record in records] == [
        (names.EVENT_LOCK_TIMEOUT, refused.id), (names.EVENT_LOCK_TIMEOUT, inside.id),
        (names.EVENT_LOCK_TIMEOUT, None),
    ]  # fmt: skip
    assert [undeclared(from_log_record(record)) for record in records] == [()] * 3


def test_an_agent_without_a_name_has_a_span_without_one(run: Any) -> None:
    """Events too."""
    told = Told(LockManager(), agent_name=None)
    run(told.reflect("consolidate"))
    assert [span.name for span in told.spans()] == ["reflect"]


def boom() -> None:
    """A body that fails."""
    raise ZeroDivisionError("a secret")


def test_an_error_is_on_the_span_without_its_text(told: Told, run: Any) -> None:
    """It may hold a memory. All the span says is declared."""
    with pytest.raises(ZeroDivisionError):
        run(told.reflect("consolidate", keys=KEY, trigger="idle"), boom)
    (span,) = told.spans()
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes is not None
    assert span.attributes["error.type"] == "ZeroDivisionError"
    assert "secret" not in span.to_json()
    assert span.events == ()
    assert set(span.attributes) <= declared_of_the_span()


def test_an_error_of_ours_is_on_the_span_with_its_text(run: Any) -> None:
    """Who held the lock."""
    with Stage() as stage:
        told, holder = Told(stage.locks), stage.actor()
        holder.acquire(KEY).get()
        with pytest.raises(LockTimeoutError):
            run(told.reflect("consolidate", keys=KEY, timeout=0))
    (span,) = told.spans()
    assert f"held by {holder.unit}" in (span.status.description or "")
    (event,) = told.events(FAILED)
    assert event.reason == span.status.description


def test_a_skipped_one_is_a_span_that_has_ended_and_no_error(run: Any) -> None:
    """And the caller's span is the current one again."""
    with Stage() as stage:
        told, holder = Told(stage.locks), stage.actor()
        first = told.reflect("consolidate", keys=KEY)
        enter(holder, first).get()
        with pytest.raises(ReflectionSkippedError) as caught:
            run(told.reflect("consolidate", keys=KEY, if_busy="skip"), boom)
        assert trace.get_current_span() is trace.INVALID_SPAN
        (span,) = told.spans()
        assert span.status.status_code is StatusCode.UNSET
        (event,) = told.events(SKIPPED)
        assert span.context is not None and event.trace is not None
        assert event.trace.span_id == span.context.span_id
        assert first.id in str(caught.value)
        leave(holder, first).get()


def test_what_is_told_of_its_locks_is_told_in_its_span(run: Any) -> None:
    """It is there before they are asked for."""
    exporter, loggers = InMemoryLogRecordExporter(), LoggerProvider(shutdown_on_exit=False)
    loggers.add_log_record_processor(SimpleLogRecordProcessor(exporter))
    with Stage(logger_provider=loggers) as stage:
        told, holder = Told(stage.locks), stage.actor()
        holder.acquire(KEY).get()
        with pytest.raises(LockTimeoutError):
            run(told.reflect("consolidate", keys=KEY, timeout=0.01))
    (span,) = told.spans()
    (record,) = [one.log_record for one in exporter.get_finished_logs()]
    assert record.event_name == names.EVENT_LOCK_TIMEOUT
    assert span.context is not None and record.span_id == span.context.span_id


class Broken(SpanProcessor):
    """Raises wherever it is called."""

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        """A span begins."""
        raise RuntimeError("on_start")

    def on_end(self, span: ReadableSpan) -> None:
        """A span ends."""
        raise RuntimeError("on_end")


class BrokenLogger(NoOpLogger):
    """Raises."""

    def __init__(self) -> None:
        super().__init__("broken")

    def emit(self, *args: Any, **kwargs: Any) -> None:
        """A record."""
        raise RuntimeError("emit")


class BrokenProvider:
    """Raises, of tracers and of loggers."""

    def get_tracer(self, *args: Any, **kwargs: Any) -> Any:
        """A tracer."""
        raise RuntimeError("get_tracer")

    def get_logger(self, *args: Any, **kwargs: Any) -> Any:
        """A logger."""
        raise RuntimeError("get_logger")


def _with_a_broken_processor() -> dict[str, Any]:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(Broken())
    return {"tracer_provider": provider, "logger": BrokenLogger()}


@pytest.mark.parametrize("options", [
    _with_a_broken_processor, lambda: {"tracer_provider": BrokenProvider()},
    lambda: {"logger_provider": BrokenProvider()}, lambda: {"agent_name": 7},
])  # fmt: skip
def test_nothing_that_telemetry_raises_reaches_the_application(
    options: Any, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is said; locks, versions and the errors of the body are as ever."""
    said: list[str] = []
    monkeypatch.setattr(diagnostics.complaints, "say", lambda kind, text: said.append(text))
    with Stage() as stage:
        other = stage.actor()
        reflections = Reflections(stage.locks, **options())
        reflection = reflections.reflect("consolidate", keys=KEY)

        def think() -> None:
            with reflection.unlocked():
                other.release(other.acquire(KEY).get()).get()

        with pytest.raises(WriteConflictError):
            run(reflection, think)
        with pytest.raises(ZeroDivisionError):
            run(reflections.reflect("consolidate", keys=KEY), boom)
        assert not held(stage.locks)
    assert said


def test_a_scheduler_that_raises_is_said_and_harms_nobody(
    told: Told, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reflection has ended by then."""
    said: list[str] = []
    monkeypatch.setattr(diagnostics.complaints, "say", lambda kind, text: said.append(text))
    reflection = told.reflect("consolidate", keys=KEY, on_rerun=lambda _: boom())

    def ask() -> None:
        other = told.reflect("consolidate", keys=KEY, if_busy="skip")
        other.owner = "another"  # as another thread would be
        monkeypatch.setattr(other, "_claim", lambda: None)
        with pytest.raises(ReflectionSkippedError):
            other.__enter__()

    run(reflection, ask)
    assert told.names() == [STARTED, SKIPPED, COMPLETED]
    assert any("on_rerun" in text for text in said)


def test_without_the_sdk_all_works_and_nothing_is_told() -> None:
    """The room imports the API alone. Without any provider, with and async with."""
    program = (
        "import sys, asyncio\n"
        "from otel_memoir import LockManager, Reflections\n"
        "locks = LockManager()\n"
        "reflections = Reflections(locks)\n"
        "with reflections.reflect('c', keys='k') as reflection:\n"
        "    with reflection.unlocked(): pass\n"
        "    reflection.wrote('k')\n"
        "async def main():\n"
        "    async with reflections.reflect('c', keys='k') as reflection:\n"
        "        try:\n"
        "            async with reflection.unlocked():\n"
        "                await asyncio.to_thread(write)\n"
        "        except Exception as error: print(type(error).__name__)\n"
        "def write():\n"
        "    with locks.hold('k'): pass\n"
        "asyncio.run(main())\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry.sdk')])\n"
        "print('grpc' in sys.modules, 'sqlite3' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False
    )
    assert done.stdout.split("\n")[:3] == ["WriteConflictError", "[]", "False False"], done.stderr


def test_the_type_of_an_error_is_its_full_name() -> None:
    """As the semantic conventions have ``error.type``; those built in have no module."""
    assert type_of(KeyError()) == "KeyError"
    assert type_of(asyncio.CancelledError()) == "asyncio.exceptions.CancelledError"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork: run it on Linux or macOS")
def test_a_fork_child_does_not_end_the_reflection_of_its_parent(told: Told) -> None:
    """It has not its locks, tells nothing, and can reflect by itself."""
    reflection = told.reflect("consolidate", keys=KEY).__enter__()
    child = fork()
    if child == 0:
        code = 1
        try:
            with contextlib.suppress(LockLostError):
                reflection.__exit__(None, None, None)
                code = 2
            own = told.reflect("consolidate", keys=KEY, if_busy="skip", timeout=0)
            with own:
                pass
            code = 0 if told.names() == [STARTED, STARTED, COMPLETED] else 3
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    reflection.__exit__(None, None, None)
    assert told.names() == [STARTED, COMPLETED]


def fork() -> int:
    """Fork; from 3.12 on that warns where there are threads, as those of other tests."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()
