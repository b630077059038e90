"""The processor: on disk before ``emit`` returns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from opentelemetry.context import Context
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from otel_memoir.clock import Clock
from otel_memoir.delivery.dispatch import Sender
from otel_memoir.diagnostics import complaints
from otel_memoir.sdk._compat import LogRecordProcessor, ReadWriteLogRecord
from otel_memoir.sdk.marks import mark_stored
from otel_memoir.sdk.pipeline import Pipeline
from otel_memoir.settings import Settings
from otel_memoir.spool import Refused, SpoolStatus


class DurableLogRecordProcessor(LogRecordProcessor):
    """Stores every log record on disk and delivers it over OTLP until it is taken.

    When ``on_emit`` returns in ``power`` (the default), the record is fsynced; see
    ``docs/guarantees.md`` for what each durability can lose. It replaces a
    ``BatchLogRecordProcessor`` and its exporter. Register redacting processors before
    it: what a later one changes is not changed on disk.

    Nothing raises out of its methods. Constructing it opens no file and starts no thread.

    Args:
        pipeline: Share a pipeline; then no other argument is used.

        clock: What stamps are taken from.

        sender: How to send, instead of OTLP.

        environ: The environment, for variables; ``os.environ`` by default.

        given: Any setting of ``docs/settings.md``, by name.

    Raises:
        SettingsError: A setting cannot be used.
    """

    def __init__(
        self,
        *,
        pipeline: Pipeline | None = None,
        clock: Clock | None = None,
        sender: Sender | None = None,
        environ: Mapping[str, str] | None = None,
        **given: Any,
    ) -> None:
        self.pipeline = pipeline or Pipeline(
            Settings.load(environ=environ, **given), clock=clock, sender=sender, environ=environ
        )
        self.pipeline.hold()
        self._shut_down = False

    def on_emit(self, log_record: ReadWriteLogRecord) -> None:
        """Store a record. On return it is as durable as the settings say, or counted as refused."""
        try:
            stored = self.pipeline.store(log_record)
        except Exception as error:  # promise 6: the host is never harmed
            complaints.say("emit", f"a record could not be stored: {error!r}")
            return
        if not isinstance(stored, Refused):
            mark_stored(log_record, self.pipeline)

    def enabled(
        self,
        *,
        context: Context | None = None,
        instrumentation_scope: InstrumentationScope | None = None,
        severity_number: Any = None,
        event_name: str | None = None,
    ) -> bool:
        """Whether records are still accepted."""
        return not self._shut_down

    def wait_delivered(self, timeout: float) -> bool:
        """Wait until all that was accepted so far is delivered.

        Args:
            timeout: The longest wait, in seconds.

        Returns:
            Whether the first hop answered that it took every accepted record.
        """
        return self.pipeline.wait_delivered(timeout)

    def status(self) -> SpoolStatus:
        """The numbers of promise 2 for this process's spool file."""
        return self.pipeline.status()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Fsync all that was accepted; return whether it is. It says nothing of delivery."""
        return self.pipeline.flush(timeout_millis / 1000)

    def shutdown(self) -> None:
        """Deliver for at most ``shutdown_timeout_s``; the rest stays on disk. Idempotent."""
        if self._shut_down:
            return
        self._shut_down = True
        try:
            self.pipeline.let_go(self.pipeline.settings.shutdown_timeout_s)
        except Exception as error:  # promise 6
            complaints.say("shutdown", f"shutting down failed: {error!r}")
