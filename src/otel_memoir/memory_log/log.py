"""``MemoryLog``: one object that wires the rooms together."""

from __future__ import annotations

import asyncio
import dataclasses
import difflib
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from opentelemetry._logs import LoggerProvider
from opentelemetry.sdk.resources import Resource
from opentelemetry.trace import TracerProvider
from typing_extensions import Unpack

from otel_memoir.diagnostics import complaints
from otel_memoir.errors import SettingsError
from otel_memoir.events import Capture, ContentHasher
from otel_memoir.locks import LockManager
from otel_memoir.memory_log.bound import BoundLog
from otel_memoir.memory_log.emitter import SCOPE, Emitter, OnFailure
from otel_memoir.memory_log.fields import EventFields, EventMaker, without_none
from otel_memoir.memory_log.receipt import Receipt
from otel_memoir.memory_log.wiring import Wiring, make_global, wire
from otel_memoir.observe import Health, watch_locks
from otel_memoir.retrieval.event import Page, RetainedEvent
from otel_memoir.retrieval.filters import FilterArguments
from otel_memoir.retrieval.retrieval import LIMIT, Retrieval
from otel_memoir.sdk.spool_place import spool_directory
from otel_memoir.settings import Settings
from otel_memoir.spool import SpoolStatus


class MemoryLog(BoundLog):
    """The memoir of an agent's memory, in one object.

        with MemoryLog(store_id="profile", agent_name="planner") as log:
            log.created("alice", content="likes tea")
            with log.change("profile/alice", reason="she said so") as change:
                ...
                change.made(content="likes coffee", version=2)

    Made from nothing it reads ``MEMOIR_*`` and ``OTEL_*`` from the environment, uses the global
    logger provider if that is durable already, and else has one of its own. Constructing it
    opens no file and starts no thread; the first event does. Nothing raises out of its
    methods but what is said there, unless ``on_failure="raise"``.

    Args:
        settings: All settings; else each can be given by name, as in ``docs/settings.md``.

        logger_provider, tracer_provider: The application's; by default the global ones.

        resource: Of the log's own logger provider, if it makes one.

        locks: What ``hold=True`` and ``reflect`` lock with; by default a manager of its own.

        on_failure: ``degrade``, or ``raise`` when an event cannot be stored: then a change
            does not begin whose intention is not on disk.

        spans: Whether each operation on memory is also an official span.

        capture: Where content may be told; by default as the environment says.

        content_hash_key: The key of content hashes; else ``MEMOIR_CONTENT_HASH_KEY``.

        environ: The environment; ``os.environ`` by default.

        on_health_change: Told of each verdict on health with another state or other causes
            than the one before, by the courier's thread.

        given: Settings by name, and fields of ``EventFields`` that every event says.

    Attributes:
        locks: The lock manager.

    Raises:
        SettingsError: A setting cannot be used, or is not known.
    """

    def __init__(
        self, *, settings: Settings | None = None, logger_provider: LoggerProvider | None = None,
        tracer_provider: TracerProvider | None = None, resource: Resource | None = None,
        locks: LockManager | None = None, on_failure: OnFailure = "degrade", spans: bool = True,
        capture: Capture | None = None, content_hash_key: str | bytes | None = None,
        environ: Mapping[str, str] | None = None, clock: Any = None, sender: Any = None,
        on_health_change: Any = None, **given: Any,
    ) -> None:  # fmt: skip
        fields = {key: given.pop(key) for key in list(given) if key in EventFields.__annotations__}
        if settings is not None and given:
            raise SettingsError(
                "make memory log", target=", ".join(given), cause="given beside settings=",
                hint="Give them in the Settings.",
            )
        _check_known(given)
        said = settings or Settings.load(environ=environ, **given)
        self._wiring: Wiring = wire(
            said, logger_provider=logger_provider, tracer_provider=tracer_provider,
            resource=resource, environ=environ,
            processor_given=without_none({
                "clock": clock, "sender": sender, "on_health_change": on_health_change,
            }),
        )
        hasher = (
            ContentHasher(content_hash_key) if content_hash_key is not None
            else ContentHasher.from_environment(environ)
        )
        emitter = Emitter(
            self._wiring.logger_provider.get_logger(SCOPE),
            self._wiring.tracer_provider if spans else None,
            on_failure, said.emit_timeout_s,
        )
        super().__init__(
            emitter, EventMaker(fields, hasher, capture),
            locks or LockManager(logger_provider=self._wiring.logger_provider),
        )
        watch_locks(self.locks)
        self._said = said
        self._retrieval: Retrieval | None = None
        # Taken by the one who closes, and never given back.
        self._end = threading.Lock()

    # -- asking ---------------------------------------------------------------

    @property
    def directory(self) -> Path:
        """Where the spool files are."""
        pipeline = self._wiring.pipeline
        known = pipeline.directory if pipeline is not None else None
        resource = getattr(self._wiring.logger_provider, "resource", None)
        return known or spool_directory(self.settings, resource)

    @property
    def settings(self) -> Settings:
        """The settings that count now."""
        pipeline = self._wiring.pipeline
        return self._said if pipeline is None else pipeline.settings

    def change_settings(self, **given: Any) -> None:
        """Change settings while all goes on: the whole change is done, or nothing.

        Args:
            given: Settings by name, of those that docs/settings.md calls live.

        Raises:
            SettingsError: One of them cannot be used, or not be changed in a running process.
        """
        if self._wiring.pipeline is not None:
            self._wiring.pipeline.change_settings(**given)

    def receipt(self, text: str) -> Receipt:
        """The receipt that ``str(receipt)`` stands for, of any process of this machine.

        Raises:
            MemoirError: It is none.
        """
        return Receipt.parse(text, spool_dir=self.directory)

    def events(
        self, *, limit: int = LIMIT, after: str | None = None, newest_first: bool = False,
        **filters: Unpack[FilterArguments],
    ) -> Page:
        """What the spools of the directory still hold, delivered events included: a page.

        It reads files: on an event loop, ``await asyncio.to_thread(log.events, ...)``.

        Args:
            limit: The most events.

            after: The cursor of the page before, to go on from there, also after a restart.

            newest_first: The order: by default the oldest is first.

            filters: ``event``, ``store``, ``record``, ``agent``, ``conversation``, ``trace``,
                ``since``, ``until``, ``stream``, ``first_sequence``, ``last_sequence``,
                ``state``, ``uid``: see ``FilterArguments``.

        Raises:
            SpoolError: A filter or cursor cannot be used, or the index cannot be made.
        """
        return self._ask().page(limit=limit, after=after, newest_first=newest_first, **filters)

    def history(self, record_id: str, *, store: str | None = None) -> tuple[RetainedEvent, ...]:
        """All events that name a memory record, in resolved order, the oldest first.

        Args:
            record_id: Its id.

            store: Its store; by default that of the log, if it has one.

        Raises:
            SpoolError: The index cannot be made, or a file cannot be read.
        """
        return self._ask().history(record_id, store=store or self._maker.fields.get("store_id"))

    def _ask(self) -> Retrieval:
        if self._retrieval is None:
            self._retrieval = Retrieval(self.directory)
        return self._retrieval

    def health(self) -> Health:
        """The verdict on what carries the events: its state, and each cause with its remedy."""
        pipeline = self._wiring.pipeline
        return Health() if pipeline is None else pipeline.health()

    def status(self) -> SpoolStatus:
        """The numbers of promise 2 for this process's spool file."""
        pipeline = self._wiring.pipeline
        if pipeline is None:
            return SpoolStatus(name="", path="", alive=False)
        return pipeline.status()

    def flush(self, timeout: float = 30.0) -> bool:
        """Fsync all that was accepted; return whether that was done in ``timeout`` seconds."""
        return self._wiring.pipeline is not None and self._wiring.pipeline.flush(timeout)

    def wait_delivered(self, timeout: float) -> bool:
        """Wait until all that was accepted so far is delivered; return whether it is.

        Args:
            timeout: The longest wait, in seconds.
        """
        return self._wiring.pipeline is not None and self._wiring.pipeline.wait_delivered(timeout)

    # -- the end --------------------------------------------------------------

    def close(self) -> None:
        """Deliver for at most ``shutdown_timeout_s``; the rest stays on disk. Idempotent.

        A provider of the application's is left to the application, which shuts it down;
        then what was accepted is on disk when this returns.
        """
        if not self._end.acquire(blocking=False):
            return
        try:
            if self._retrieval is not None:
                self._retrieval.close()
            if self._wiring.own is not None:
                self._wiring.own.shutdown()
            else:
                self.flush(self.settings.shutdown_timeout_s)
        except Exception as error:  # noqa: BLE001 - promise 6
            complaints.say("close memory log", f"closing failed: {error!r}")

    async def aclose(self) -> None:
        """As ``close``, without blocking the event loop."""
        await asyncio.to_thread(self.close)

    def __enter__(self) -> MemoryLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self.close()

    async def __aenter__(self) -> MemoryLog:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        await self.aclose()


def _check_known(given: Mapping[str, Any]) -> None:
    known = [*EventFields.__annotations__, *(field.name for field in dataclasses.fields(Settings))]
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
            raise SettingsError(
                "make memory log", target=key, cause="there is no such setting or field",
                hint=f"Did you mean {near[0]}?" if near else "See docs/settings.md.",
            )


_installing = threading.Lock()
_installed: list[MemoryLog] = []


def install(**given: Any) -> MemoryLog:
    """Make the process durable in one line: every OTel log record of it is kept on disk.

    The global logger provider becomes durable; where there is none, one is set. Called
    again, it returns the same log.

    Args:
        given: As for ``MemoryLog``.

    Raises:
        SettingsError: A setting cannot be used.
    """
    with _installing:
        if not _installed:
            _installed.append(_made_global(given))
        return _installed[0]


def _made_global(given: dict[str, Any]) -> MemoryLog:
    from opentelemetry._logs import get_logger_provider

    provider = get_logger_provider()
    if "logger_provider" not in given and hasattr(provider, "add_log_record_processor"):
        given = {**given, "logger_provider": provider}
    log = MemoryLog(**given)
    own = log._wiring.own
    if own is not None and not make_global(own):
        complaints.say("install", "another logger provider was set meanwhile; it is not durable")
    return log
