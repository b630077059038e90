"""Print what a real Collector received of a deadlock of two tasks and a thread.

    python tools/proof_locks.py

One unit's span records, one's is not sampled, one's has ended. Table and drawing are made of
what the Collector's file exporter wrote.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from collector import Collector, ReceivedRecord, records_in  # noqa: E402
from otel_memoir import DurableLogRecordProcessor  # noqa: E402
from otel_memoir.events import names  # noqa: E402
from otel_memoir.locks.snapshot import Arrow, arrows_to_mermaid  # noqa: E402
from test_locks_trace import Observed, deadlock_of, spans_of  # noqa: E402

PATIENCE_S = 60.0
SPANS = ("recording", "not sampled", "ended")


def received(collector: Collector, spool: Path) -> tuple[list[ReceivedRecord], dict[str, str]]:
    """Make a deadlock; return what arrived, and what kind of span each span id has."""
    processor = DurableLogRecordProcessor(endpoint=collector.http_endpoint, spool_dir=str(spool))
    observed = Observed((processor,))
    with observed.stage:
        spans = spans_of(observed)
        deadlock_of(observed, spans)
        assert processor.wait_delivered(PATIENCE_S)
    observed.loggers.shutdown()
    collector.wait_received(3, PATIENCE_S)
    kinds = {f"{span.get_span_context().span_id:016x}": kind for span, kind in zip(spans, SPANS)}
    return list(records_in(collector.output)), kinds


def table(records: list[ReceivedRecord], kinds: dict[str, str]) -> str:
    """A line for each event, in the order of arrival."""
    rows = ["| unit | its span | span id | role | asked for | deadlock |", "|" + "---|" * 6]
    for one in records:
        said = one.attributes
        cells = (
            said[names.LOCK_UNIT], kinds[one.span_id], one.span_id, said[names.DEADLOCK_ROLE],
            f"{said[names.LOCK_KEY]} {said[names.LOCK_MODE]}", said[names.DEADLOCK_ID],
        )
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def drawing(record: ReceivedRecord) -> str:
    """The circle, as any one of the events has it."""
    units, keys = record.attributes[names.DEADLOCK_UNITS], record.attributes[names.DEADLOCK_KEYS]
    return arrows_to_mermaid(tuple(
        Arrow(unit=unit, target=target, kind="lock", key=key)
        for unit, target, key in zip(units, [*units[1:], units[0]], keys)
    ))


def main() -> None:
    """Print it."""
    found = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "collector.py")], check=True, capture_output=True,
        text=True,
    )
    otelcol = Path(found.stdout.splitlines()[-1])
    with tempfile.TemporaryDirectory() as place, Collector(otelcol, Path(place)) as collector:
        records, kinds = received(collector, Path(place) / "spool")
    print(f"{table(records, kinds)}\n\n```mermaid\n{drawing(records[0])}```")


if __name__ == "__main__":
    main()
