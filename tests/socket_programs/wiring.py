"""A provider with our processor on it, and settings under which a test is quick."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from opentelemetry._logs import LogRecord
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk.resources import Resource

from otel_memoir import DurableLogRecordProcessor
from otel_memoir.spool.inspect import looking_at

FAST: dict[str, Any] = {
    "backoff_initial_s": 0.01,
    "backoff_max_s": 0.05,
    "hold_probe_interval_s": 0.05,
    "linger_s": 0.01,
    "adoption_interval_s": 0.05,
    "shutdown_timeout_s": 1.0,
    "health_interval_s": 1e6,  # who counts records wants none about health among them
}


class Agent:
    """One process's wiring: emits numbered records and knows which it emitted."""

    def __init__(self, processor: DurableLogRecordProcessor) -> None:
        self.processor = processor
        self.provider = LoggerProvider(
            Resource({"service.name": "agent"}), shutdown_on_exit=False
        )
        self.provider.add_log_record_processor(processor)
        self.logger = self.provider.get_logger("agent")
        self.emitted: list[int] = []

    def emit(self, count: int, **attributes: Any) -> None:
        """Emit so many records, numbered on from the last, with these attributes too."""
        for number in range(len(self.emitted), len(self.emitted) + count):
            self.logger.emit(LogRecord(body="hello", attributes={"number": number, **attributes}))
            self.emitted.append(number)

    @property
    def totals(self) -> Any:
        return self.processor.status().totals

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """What the spool file says."""
        with looking_at(Path(self.processor.status().path)) as connection:
            return connection.execute(query).fetchall()


@contextmanager
def agent(spool_dir: Path, endpoint: str, **given: Any) -> Iterator[Agent]:
    """An agent with fast settings; shut down at the end."""
    settings = {"spool_dir": str(spool_dir), "endpoint": endpoint, "environ": {}, **FAST, **given}
    made = Agent(DurableLogRecordProcessor(**settings))
    try:
        yield made
    finally:
        made.provider.shutdown()


def numbers(records: Iterable[Any]) -> list[int]:
    """The numbers of received records, events about ourselves left out, sorted."""
    return sorted(r.attributes["number"] for r in records if "number" in r.attributes)
