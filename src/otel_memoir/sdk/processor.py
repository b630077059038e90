"""The processor: on disk before ``emit`` returns."""

from __future__ import annotations

from typing import Any

from opentelemetry.context import Context
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from otel_memoir.diagnostics import complaints
from otel_memoir.sdk._compat import LogRecordProcessor, ReadWriteLogRecord
from otel_memoir.sdk.diagnosis import complain_of_wiring
from otel_memoir.sdk.holder import PipelineHolder
from otel_memoir.sdk.marks import mark_stored
from otel_memoir.spool import Refused


class DurableLogRecordProcessor(PipelineHolder, LogRecordProcessor):
    """Stores every log record on disk and delivers it over OTLP until it is taken.

    When ``on_emit`` returns in ``power`` (the default), the record is fsynced; see
    ``docs/guarantees.md`` for what each durability can lose. It replaces a
    ``BatchLogRecordProcessor`` and its exporter. Register redacting processors before
    it: what a later one changes is not changed on disk.

    Nothing raises out of its methods. Constructing it opens no file and starts no thread.

    Takes the arguments of ``PipelineHolder``: any setting of ``docs/settings.md`` by name, a
    ``clock``, a ``sender``, an ``environ``, or a ``pipeline`` to share.

    Raises:
        SettingsError: A setting cannot be used.
    """

    _has_looked = False

    def on_emit(self, log_record: ReadWriteLogRecord) -> None:
        """Store a record. On return it is as durable as the settings say, or counted as refused."""
        try:
            if not self._has_looked:
                self._has_looked = True
                complain_of_wiring(self)
            stored = self.pipeline.store(log_record)
        except Exception as error:  # promise 6: the host is never harmed
            complaints.say("emit", f"a record could not be stored: {error!r}")
            return
        if not isinstance(stored, Refused):
            mark_stored(log_record, self.pipeline.mark)

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

    def shutdown(self) -> None:
        """Deliver for at most ``shutdown_timeout_s``; the rest stays on disk. Idempotent."""
        self._let_go(float("inf"))
