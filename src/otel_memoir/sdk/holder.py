"""What the processor and the exporter have in common: they hold a pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from otel_memoir.clock import Clock
from otel_memoir.delivery.dispatch import Sender
from otel_memoir.diagnostics import complaints
from otel_memoir.observe import Health, OnHealthChange
from otel_memoir.sdk.pipeline import Pipeline
from otel_memoir.settings import Settings
from otel_memoir.spool import SpoolStatus


class PipelineHolder:
    """Holds a pipeline, until it is shut down; the last holder closes it.

    Args:
        pipeline: Share a pipeline; then no other argument is used.

        clock: What stamps are taken from.

        sender: How to send, instead of OTLP.

        environ: The environment, for variables; ``os.environ`` by default.

        on_health_change: Told of each verdict on health with another state or other causes
            than the one before; in a thread of ours, with no lock held.

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
        on_health_change: OnHealthChange | None = None,
        **given: Any,
    ) -> None:
        self.pipeline = pipeline or Pipeline(
            Settings.load(environ=environ, **given), clock=clock, sender=sender, environ=environ,
            on_health_change=on_health_change,
        )
        self.pipeline.hold()
        self._shut_down = False

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

    def change_settings(self, **given: Any) -> None:
        """Change settings while all goes on; the whole change is done, or nothing.

        Args:
            given: Settings by name; ``None`` takes back what the code had said. It is for all
                who share the pipeline.

        Raises:
            SettingsError: A name or value cannot be used, or cannot be changed in a running
                process.
        """
        self.pipeline.change_settings(**given)

    def health(self) -> Health:
        """The verdict on this pipeline just now: its state, and each cause with its remedy."""
        return self.pipeline.health()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Fsync all that was accepted; return whether it is. It says nothing of delivery."""
        return self.pipeline.flush(timeout_millis / 1000)

    def _let_go(self, timeout: float) -> None:
        """Hold the pipeline no more; never raises an ``Exception``. Idempotent."""
        if self._shut_down:
            return
        self._shut_down = True
        try:
            self.pipeline.let_go(min(self.pipeline.settings.shutdown_timeout_s, timeout))
        except Exception as error:  # promise 6
            complaints.say("shutdown", f"shutting down failed: {error!r}")
