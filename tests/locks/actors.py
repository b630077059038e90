"""Units under a test's control: each does one thing after another, when it is told.

``Stage`` makes threads, tasks of one loop and tasks of other loops behave alike, so that one
suite serves them all. Nothing is timed: whether a unit sleeps is told by the manager's own
hook, and every wait has a generous deadline.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from otel_memoir.locks import Lease, LockManager
from otel_memoir.locks.parking import abandon

PATIENCE_S = 60.0

SHAPES = ("threads", "tasks", "loops", "mixed")


class Answer(Future[Any]):
    """What a step of an actor ends with."""

    def get(self) -> Any:
        """The result, or what was raised."""
        return self.result(PATIENCE_S)

    def error(self) -> BaseException | None:
        """What was raised."""
        return self.exception(PATIENCE_S)


class ThreadActor:
    """A thread."""

    def __init__(self, locks: LockManager) -> None:
        self.locks = locks
        self._todo: queue.SimpleQueue[tuple[Callable[[], Any], Answer] | None] = (
            queue.SimpleQueue()
        )
        self.thread = threading.Thread(target=self._live, daemon=True)
        self.thread.start()
        self.unit: str = self.do(locks.unit_id).get()

    def _live(self) -> None:
        while (job := self._todo.get()) is not None:
            call, answer = job
            try:
                answer.set_result(call())
            except BaseException as error:
                answer.set_exception(error)
            del job, call, answer

    def do(self, call: Callable[[], Any]) -> Answer:
        """Have something called by this unit."""
        answer = Answer()
        self._todo.put((call, answer))
        return answer

    def acquire(self, key: str, mode: str = "exclusive", **options: Any) -> Answer:
        """Ask for a lock."""
        return self.do(lambda: self.locks.acquire(key, mode, **options))

    def acquire_all(self, modes: dict[str, str], **options: Any) -> Answer:
        """Ask for several locks."""
        return self.do(lambda: self.locks.hold_all(modes, **options).__enter__())

    def upgrade(self, lease: Lease, **options: Any) -> Answer:
        """Ask for more."""
        return self.do(lambda: lease.upgrade(**options))

    def downgrade(self, lease: Lease) -> Answer:
        """Keep less."""
        return self.do(lease.downgrade)

    def release(self, lease: Lease) -> Answer:
        """Let go."""
        return self.do(lease.release)

    @property
    def alive(self) -> bool:
        """Whether it can be told something."""
        return self.thread.is_alive()

    def end(self) -> None:
        """Let the unit end, whatever it holds."""
        self._todo.put(None)
        self.thread.join(PATIENCE_S)
        assert not self.thread.is_alive()


class LoopThread:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()

    def stop(self) -> None:
        """Stop and close the loop."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(PATIENCE_S)


class TaskActor:
    """A task that lives until it is told to end."""

    def __init__(self, locks: LockManager, home: LoopThread) -> None:
        self.locks, self.home = locks, home
        self._todo: asyncio.Queue[Any]
        ready: Future[asyncio.Task[None]] = Future()
        home.loop.call_soon_threadsafe(
            lambda: ready.set_result(home.loop.create_task(self._live()))
        )
        self.task = ready.result(PATIENCE_S)
        self.unit: str = self.do(locks.unit_id).get()

    async def _live(self) -> None:
        self._todo = asyncio.Queue()
        self._begun.set()
        while (job := await self._todo.get()) is not None:
            call, answer = job
            try:
                result = call()
                answer.set_result(await result if asyncio.iscoroutine(result) else result)
            except asyncio.CancelledError as error:
                answer.set_exception(RuntimeError(repr(error)))
            except BaseException as error:
                answer.set_exception(error)
            del job, call, answer

    @property
    def _begun(self) -> threading.Event:
        return self.__dict__.setdefault("begun", threading.Event())  # type: ignore[no-any-return]

    def do(self, call: Callable[[], Any]) -> Answer:
        """Have something called, and awaited, by this unit."""
        answer = Answer()
        assert self._begun.wait(PATIENCE_S)
        self.home.loop.call_soon_threadsafe(self._todo.put_nowait, (call, answer))
        return answer

    def acquire(self, key: str, mode: str = "exclusive", **options: Any) -> Answer:
        """Ask for a lock."""

        async def ask() -> Lease:
            return await self.locks.acquire_async(key, mode, **options)

        return self.do(ask)

    def acquire_all(self, modes: dict[str, str], **options: Any) -> Answer:
        """Ask for several locks."""
        return self.do(lambda: _enter(self.locks.hold_all(modes, **options)))

    def upgrade(self, lease: Lease, **options: Any) -> Answer:
        """Ask for more."""
        return self.do(lambda: lease.upgrade_async(**options))

    def downgrade(self, lease: Lease) -> Answer:
        """Keep less."""
        return self.do(lease.downgrade)

    def release(self, lease: Lease) -> Answer:
        """Let go."""
        return self.do(lease.release)

    def cancel(self) -> None:
        """Cancel what it does now."""
        self.home.loop.call_soon_threadsafe(self.task.cancel)

    @property
    def alive(self) -> bool:
        """Whether it can be told something."""
        return not self.task.done()

    def end(self) -> None:
        """Let the unit end, whatever it holds."""
        done = threading.Event()

        def tell() -> None:
            self.task.add_done_callback(lambda _: done.set())
            self._todo.put_nowait(None)

        self.home.loop.call_soon_threadsafe(tell)
        assert done.wait(PATIENCE_S)


async def _enter(lease: Lease) -> Lease:
    return await lease.__aenter__()


Actor = ThreadActor | TaskActor


class Stage:
    """A lock manager, and units of one shape."""

    def __init__(self, shape: str = "threads", **options: Any) -> None:
        self.locks = LockManager(**options)
        self.shape = shape
        self._loops: list[LoopThread] = []
        self._actors: list[Actor] = []
        self._changed = threading.Condition()
        self._sleeping: dict[str, tuple[str, ...]] = {}
        self.locks.on_block(self._on_block)
        self.locks.on_unblock(self._on_unblock)

    def _on_block(self, unit: str, holders: tuple[str, ...]) -> None:
        with self._changed:
            self._sleeping[unit] = holders
            self._changed.notify_all()

    def _on_unblock(self, unit: str) -> None:
        with self._changed:
            self._sleeping.pop(unit, None)
            self._changed.notify_all()

    def sleeps(self, *actors: Actor) -> None:
        """Wait until units wait for locks."""
        with self._changed:
            assert self._changed.wait_for(
                lambda: all(actor.unit in self._sleeping for actor in actors), PATIENCE_S
            )

    def actor(self) -> Actor:
        """One more unit."""
        number = len(self._actors)
        if self.shape == "threads" or (self.shape == "mixed" and number % 2):
            made: Actor = ThreadActor(self.locks)
        else:
            if not self._loops or (self.shape != "tasks" and number > 1):
                self._loops.append(LoopThread())
            made = TaskActor(self.locks, self._loops[-1])
        self._actors.append(made)
        return made

    def actors(self, count: int) -> list[Actor]:
        """Several more."""
        return [self.actor() for _ in range(count)]

    def close(self) -> None:
        """End all units and loops; who still waits is told to give up."""
        engine = self.locks._engine
        while waits := engine.table.waits():
            abandon(engine, waits[0])
        for actor in self._actors:
            if actor.alive:
                actor.end()
        for loop in self._loops:
            loop.stop()

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


