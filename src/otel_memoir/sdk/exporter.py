"""The exporter, for wiring that only knows exporters."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from otel_memoir.clock import Clock
from otel_memoir.delivery.dispatch import Sender
from otel_memoir.diagnostics import complaints
from otel_memoir.sdk._compat import (
    BatchLogRecordProcessor,
    LogRecordExporter,
    LogRecordExportResult,
    ReadableLogRecord,
)
from otel_memoir.sdk.marks import is_stored
from otel_memoir.sdk.pipeline import Pipeline
from otel_memoir.settings import Settings
from otel_memoir.spool import Refused, SpoolStatus

BEHIND_BATCH = (
    "DurableLogExporter stands behind a BatchLogRecordProcessor, which keeps records in memory "
    "and loses them in a crash. Replace that processor: "
    "provider.add_log_record_processor(otel_memoir.DurableLogRecordProcessor())"
)


class DurableLogExporter(LogRecordExporter):
    """Stores what it is given and delivers it over OTLP until it is taken.

    Durable behind a ``SimpleLogRecordProcessor``: on disk before ``emit`` returns. Behind
    a ``BatchLogRecordProcessor`` it is durable only for what reaches it, and says so once.
    It never touches a provider. Same arguments as ``DurableLogRecordProcessor``.

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
        self._looked = False

    def export(self, batch: Sequence[ReadableLogRecord]) -> LogRecordExportResult:
        """Store a batch.

        Returns:
            SUCCESS if every record of it is stored; what the SDK does with a FAILURE
            is to drop the batch, so the refused ones are counted here.
        """
        fresh = [record for record in batch if not is_stored(record, self.pipeline)]
        if fresh and not self._looked:
            self._looked = True
            self._look_behind()
        results = [self._store(record) for record in fresh]
        return LogRecordExportResult.SUCCESS if all(results) else LogRecordExportResult.FAILURE

    def _store(self, record: ReadableLogRecord) -> bool:
        try:
            return not isinstance(self.pipeline.store(record), Refused)
        except Exception as error:  # promise 6: the host is never harmed
            complaints.say("export", f"a record could not be stored: {error!r}")
            return False

    def _look_behind(self) -> None:
        """Warn if the caller is a processor that had the batch in memory before."""
        frame = sys._getframe(2)
        while frame is not None:
            caller = frame.f_locals.get("self")
            if isinstance(caller, BatchLogRecordProcessor) or (
                type(caller).__name__ == "BatchProcessor"
            ):
                complaints.say("behind batch", BEHIND_BATCH)
                return
            frame = frame.f_back  # type: ignore[assignment]  # None ends the loop

    def wait_delivered(self, timeout: float) -> bool:
        """As ``DurableLogRecordProcessor.wait_delivered``."""
        return self.pipeline.wait_delivered(timeout)

    def status(self) -> SpoolStatus:
        """The numbers of promise 2 for this process's spool file."""
        return self.pipeline.status()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Fsync all that was accepted; return whether it is. It says nothing of delivery."""
        return self.pipeline.flush(timeout_millis / 1000)

    def shutdown(self, timeout_millis: int = 30000, **_: Any) -> None:
        """Deliver for at most ``shutdown_timeout_s``; the rest stays on disk. Idempotent."""
        if self._shut_down:
            return
        self._shut_down = True
        limit_s = self.pipeline.settings.shutdown_timeout_s
        try:
            self.pipeline.let_go(min(limit_s, timeout_millis / 1000))
        except Exception as error:  # promise 6
            complaints.say("shutdown", f"shutting down failed: {error!r}")
