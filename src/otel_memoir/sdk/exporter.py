"""The exporter, for wiring that only knows exporters."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from otel_memoir.diagnostics import complaints
from otel_memoir.sdk._compat import (
    BatchLogRecordProcessor,
    LogRecordExporter,
    LogRecordExportResult,
    ReadableLogRecord,
)
from otel_memoir.sdk.holder import PipelineHolder
from otel_memoir.sdk.marks import is_stored
from otel_memoir.spool import Refused

BEHIND_BATCH = (
    "DurableLogExporter stands behind a BatchLogRecordProcessor, which keeps records in memory "
    "and loses them in a crash. Replace that processor: "
    "provider.add_log_record_processor(otel_memoir.DurableLogRecordProcessor())"
)


class DurableLogExporter(PipelineHolder, LogRecordExporter):
    """Stores what it is given and delivers it over OTLP until it is taken.

    Durable behind a ``SimpleLogRecordProcessor``: on disk before ``emit`` returns. Behind
    a ``BatchLogRecordProcessor`` it is durable only for what reaches it, and says so once.
    It never touches a provider. Same arguments as ``DurableLogRecordProcessor``.

    Raises:
        SettingsError: A setting cannot be used.
    """

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self._looked = False

    def export(self, batch: Sequence[ReadableLogRecord]) -> LogRecordExportResult:
        """Store a batch.

        Returns:
            SUCCESS if every record of it is stored; what the SDK does with a FAILURE
            is to drop the batch, so the refused ones are counted here.
        """
        fresh = [record for record in batch if not is_stored(record, self.pipeline.mark)]
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

    def shutdown(self, timeout_millis: int = 30000, **_: Any) -> None:
        """Deliver for at most ``shutdown_timeout_s``; the rest stays on disk. Idempotent."""
        self._let_go(timeout_millis / 1000)
