"""When the destination may be tried next, and why not now."""

from __future__ import annotations

from collections.abc import Callable

from otel_memoir.delivery.backoff import UNIFORM, Backoff
from otel_memoir.delivery.flow import Flow
from otel_memoir.delivery.outcome import Outcome
from otel_memoir.diagnostics import complaints
from otel_memoir.settings import Settings
from otel_memoir.spool import Hold


class Pace:
    """Waits between attempts. Only the courier's thread changes it.

    Args:
        settings: The settings.

        wall_ns: The wall clock, for times on disk.

        monotonic_s: The clock for durations.

        uniform: Gives a random number between its arguments, for jitter.

        fit: Told of the size that requests should have from now on, in payload bytes.

    Attributes:
        failures: Attempts in a row that failed for the destination's sake.

        not_before_s: When the next one may be, in monotonic seconds.

        hold: Why a person has to do something, if so.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        wall_ns: Callable[[], int],
        monotonic_s: Callable[[], float],
        uniform: Callable[[float, float], float] = UNIFORM,
        fit: Callable[[int], object] = lambda size: None,
    ) -> None:
        self._wall_ns = wall_ns
        self._monotonic_s = monotonic_s
        self._uniform = uniform
        self._fit = fit
        self._flow = Flow(
            backoff_initial_s=settings.backoff_initial_s, bytes_max=settings.request_bytes_max
        )
        self.go_at_once()
        self.use(settings)

    def use(self, settings: Settings) -> None:
        """Wait by other settings from the next attempt on."""
        self._settings = settings
        self._backoff = Backoff(
            initial_s=settings.backoff_initial_s, maximum_s=settings.backoff_max_s,
            uniform=self._uniform,
        )
        self._flow.use(
            backoff_initial_s=settings.backoff_initial_s, bytes_max=settings.request_bytes_max
        )
        self._fit(self._flow.bytes_max)

    def go_at_once(self) -> None:
        """Wait for nothing: what the next attempt meets is another destination."""
        self.failures = 0
        self.not_before_s = float("-inf")
        self.hold: Hold | None = None
        self._is_in_trouble = False

    @property
    def is_blocked(self) -> bool:
        """Whether the next attempt has to wait because the last one failed."""
        return self._is_in_trouble and self.left_s > 0

    @property
    def left_s(self) -> float:
        """How long to wait yet, in seconds; none or less: not at all."""
        return self.not_before_s - self._monotonic_s()

    def restore(self, hold: Hold | None, not_before_unix_ns: int) -> None:
        """After a restart, wait as long as the server had asked, but at most our maximum."""
        wait_s = (not_before_unix_ns - self._wall_ns()) / 1e9
        if wait_s > 0:
            self._is_in_trouble, self.hold = True, hold
            self.not_before_s = self._monotonic_s() + min(wait_s, self._settings.backoff_max_s)

    def delay_s(self, outcome: Outcome, *, failures: int) -> float:
        """How long a batch waits that failed so many times in a row, in seconds."""
        return self._backoff.next_delay_s(failures, at_least_s=outcome.retry_after_s)

    def delivered(self, size: int) -> None:
        """Take note of a yes to a request of ``size`` payload bytes."""
        self.go_at_once()
        before = self._flow.bytes_max
        if gap_s := self._flow.delivered(size):
            self.not_before_s = self._monotonic_s() + gap_s
        if self._flow.bytes_max != before:
            self._fit(self._flow.bytes_max)

    def too_large(self, size: int) -> None:
        """Take note that a request of ``size`` payload bytes was too large."""
        self._flow.too_large(size)
        self._fit(self._flow.bytes_max)

    def failed(self, outcome: Outcome, *, held: bool) -> None:
        """Take note of an attempt that failed for the destination's sake: wait.

        Args:
            outcome: What it said.

            held: Whether only a person can change that.
        """
        self._flow.failed()
        self._is_in_trouble = True
        self.failures += 1
        wait_s = self.delay_s(outcome, failures=self.failures)
        if held:
            wait_s = self._settings.hold_probe_interval_s
            self._begin_hold(outcome)
        self.not_before_s = self._monotonic_s() + wait_s

    def _begin_hold(self, outcome: Outcome) -> None:
        since = self.hold.since_unix_ns if self.hold else self._wall_ns()
        self.hold = Hold(
            since_unix_ns=since, code=outcome.code, message=outcome.message, hint=outcome.hint
        )
        complaints.say(
            f"hold {outcome.code}",
            f"delivery is on hold ({outcome.code}: {outcome.message}). {outcome.hint} "
            "Nothing is dropped; it goes on by itself once the answer changes.",
        )
