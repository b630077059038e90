"""How otel-memoir talks about itself without talking to itself.

Promises:

- The package's logger does not propagate. A handler on the root logger that
  feeds OpenTelemetry would otherwise put our own complaint into our own spool:
  one failing delivery made 40 records in 2 s that way (opentelemetry-python
  #2701, #4688).
- The same complaint is said at most once a minute; the next one says how many
  were kept back.
- Code that runs on our threads is invisible to instrumentation.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator

from opentelemetry.context import attach, create_key, detach, set_value

QUIET_PERIOD_S = 60.0

# The SDK's own key has a generated suffix and no public name before 1.41, so it
# is looked up where it is; contrib instrumentations read the plain string.
try:
    from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY as _SDK_KEY
except ImportError:  # pragma: no cover - only if a future API moves it
    _SDK_KEY = create_key("suppress_instrumentation")
CONTRIB_SUPPRESS_KEY = "suppress_instrumentation"

logger = logging.getLogger("otel_memoir")
logger.propagate = False


class _LastResort(logging.Handler):
    """Write to whatever ``sys.stderr`` is now, unless the application added a handler."""

    def emit(self, record: logging.LogRecord) -> None:
        if len(logger.handlers) > 1 or sys.stderr is None:
            return
        with contextlib.suppress(Exception):
            sys.stderr.write(f"otel-memoir: {record.getMessage()}\n")


logger.addHandler(_LastResort(level=logging.WARNING))


class Complaints:
    """Say each kind of complaint at most once per quiet period.

    Args:
        monotonic_s: Source of durations, in seconds.
    """

    def __init__(self, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        self._monotonic_s = monotonic_s
        self._said: dict[str, tuple[float, int]] = {}
        self._thread = threading.local()
        self.forget_lock()

    def forget_lock(self) -> None:
        """In a fork child: whoever held the lock is not there, and nothing would be said."""
        self._lock = threading.Lock()

    def hold_back(self) -> None:
        """Keep what this thread says until ``let_out``, while it holds a lock of ours.

        What is said goes to handlers of the application. One of them may be waiting for
        that lock: celery makes log records of stderr.
        """
        if getattr(self._thread, "held", None) is None:
            self._thread.held = []

    def let_out(self) -> None:
        """Say what this thread held back."""
        held: list[tuple[str, str]] | None = getattr(self._thread, "held", None)
        self._thread.held = None
        for kind, message in held or ():
            self.say(kind, message)

    def say(self, kind: str, message: str) -> bool:
        """Log ``message`` as a warning; return whether it was said, or held back, now."""
        held: list[tuple[str, str]] | None = getattr(self._thread, "held", None)
        if held is not None:
            held.append((kind, message))
            return True
        if not self._lock.acquire(blocking=False):
            return False
        try:
            now_s = self._monotonic_s()
            last_s, kept_back = self._said.get(kind, (None, 0))
            if last_s is not None and now_s - last_s < QUIET_PERIOD_S:
                self._said[kind] = (last_s, kept_back + 1)
                return False
            self._said[kind] = (now_s, 0)
        finally:
            self._lock.release()
        more = f" (and {kept_back} more like it since it was last said)" if kept_back else ""
        logger.warning("%s%s", message, more)
        return True


complaints = Complaints()
os.register_at_fork(after_in_child=complaints.forget_lock)


@contextlib.contextmanager
def unobserved() -> Iterator[None]:
    """Run a block so that no instrumentation traces, counts or logs it."""
    token = attach(set_value(_SDK_KEY, True, set_value(CONTRIB_SUPPRESS_KEY, True)))
    try:
        yield
    finally:
        detach(token)
