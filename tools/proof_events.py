"""Print `docs/proof-events.md`: one event in each form, and what a real Collector got of stamps.

    python tools/proof_events.py

Everything below the headings is read back: from the event's own forms, and from what the
Collector's file exporter wrote.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from opentelemetry._logs import LogRecord  # noqa: E402
from opentelemetry.sdk._logs import LoggerProvider  # noqa: E402

from collector import Collector, records_in  # noqa: E402
from host_programs.hosting import environment, program  # noqa: E402
from otel_memoir import DurableLogRecordProcessor, MemoryEvent  # noqa: E402
from otel_memoir.events import (  # noqa: E402
    ContentHasher,
    TraceRef,
    to_cloud_event,
    to_otlp,
    to_otlp_json,
)

PATIENCE_S = 60.0
LIFE_S = 1.0
STAMPS = ("log.record.uid", "memoir.stream.id", "memoir.stream.epoch", "memoir.sequence",
          "memoir.clock.error_bound", "memoir.clock.status")


def event() -> MemoryEvent:
    """One event, as it is after its delivery."""
    hasher = ContentHasher("0123456789abcdef")
    return MemoryEvent(
        "memoir.record.updated", uid="01890a5d-ac96-774b-bcce-b302099a8057",
        stream_id="9f86d081884c7d659a2feaa0c55ad015", stream_epoch=1, sequence=4711,
        time_unix_ns=1_700_000_000_123_456_789, clock_error_bound_ns=250_000,
        trace=TraceRef(0x4BF92F3577B34DA6A3CE929D0E0E4736, 0x00F067AA0BA902B7, 1),
        store_id="prefs", record_id="mem_42", record_version=4, agent_name="planner",
        actor_type="agent", reason="user_request", before_hash=hasher.hash("tea"),
        after_hash=hasher.hash("coffee"),
    )


def forms() -> str:
    """The event in each of its forms."""
    one = event()
    raw = to_otlp(one)
    return "\n".join([
        f"Body: `{one.body}`", "", "OTLP JSON:", "", block("json", pretty(to_otlp_json(one))), "",
        "CloudEvents 1.0:", "", block("json", pretty(to_cloud_event(one))), "",
        f"OTLP, {len(raw)} bytes:", "", block("", "\n".join(
            raw[at:at + 48].hex() for at in range(0, len(raw), 48)
        )),
    ])


def emitted(collector: Collector, spool: Path) -> str:
    """A record with as many attributes as the SDK allows, and one record twice."""
    processor = DurableLogRecordProcessor(endpoint=collector.http_endpoint, spool_dir=str(spool))
    provider = LoggerProvider()
    provider.add_log_record_processor(processor)
    logger = provider.get_logger("proof")
    full = LogRecord(
        body="hello", event_name="full", attributes={f"key.{n}": n for n in range(128)}
    )
    twice = LogRecord(body="hello", event_name="twice")
    for record in (full, twice, twice):
        logger.emit(record)
    assert processor.wait_delivered(PATIENCE_S)
    provider.shutdown()
    collector.wait_received(3, PATIENCE_S)
    rows = ["| record | attributes of the user | stamps |", "|---|---:|---|"]
    for record in records_in(collector.output):
        own = [key for key in record.attributes if key.startswith("key.")]
        rows.append(f"| {record.event_name} | {len(own)} | {stamps(record.attributes)} |")
    return "\n".join(rows)


def gap(collector: Collector, spool: Path) -> str:
    """What is told after SIGKILL in `batch`, by the process that comes next."""
    environ = environment(spool, collector.http_endpoint, MEMOIR_DURABILITY="batch")
    victim = subprocess.Popen(
        program("stamping.py", "victim", "0"), env={**os.environ, **environ},
        stdout=subprocess.PIPE,
    )
    collector.wait_received(lambda found: any("name" in r.attributes for r in found), PATIENCE_S)
    victim.send_signal(signal.SIGKILL)
    said, _ = victim.communicate(timeout=PATIENCE_S)
    drained = subprocess.run(
        [sys.executable, "-m", "otel_memoir.cli", "drain"], env={**os.environ, **environ},
        check=True, capture_output=True, text=True,
    )
    assert drained.returncode == 0
    collector.wait_received(
        lambda found: any(r.event_name == "memoir.delivery.gap" for r in found), PATIENCE_S
    )
    records = list(records_in(collector.output))
    (told,) = (r for r in records if r.event_name == "memoir.delivery.gap")
    arrived = sum("name" in r.attributes for r in records)
    return (
        f"{said.count(b'emitted')} emits had returned, {arrived} records arrived, and this:\n\n"
        + block("json", pretty({"body": told.body, "attributes": dict(told.attributes)}))
    )


def stamps(attributes: Mapping[str, Any]) -> str:
    """The stamps of a record, the uid shortened."""
    found = {key: str(attributes[key]) for key in STAMPS if key in attributes}
    return ", ".join(f"{key.rpartition('.')[2]} {value[:18]}" for key, value in found.items())


def block(language: str, text: str) -> str:
    """A fenced block."""
    return f"```{language}\n{text}\n```"


def pretty(value: Mapping[str, Any]) -> str:
    """JSON with a line for each field, and for each attribute."""
    lines = ",\n".join(f" {json.dumps(key)}: {_lines(field)}" for key, field in value.items())
    return f"{{\n{lines}\n}}"


def _lines(field: Any) -> str:
    if isinstance(field, list):
        return "[\n" + ",\n".join(f"  {json.dumps(item)}" for item in field) + "\n ]"
    if isinstance(field, Mapping):
        inner = (f"  {json.dumps(key)}: {json.dumps(item)}" for key, item in field.items())
        return "{\n" + ",\n".join(inner) + "\n }"
    return json.dumps(field)


def main() -> None:
    """Print the page."""
    found = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "collector.py")], check=True, capture_output=True,
        text=True,
    )
    otelcol = Path(found.stdout.splitlines()[-1])
    print("# Proof: events and stamps\n\nPrinted by `python tools/proof_events.py`.\n")
    print(f"## One event, in its forms\n\n{forms()}\n")
    for title, show in (
        ("A full record, and one emitted twice, as a real Collector got them", emitted),
        ("After SIGKILL in `batch`, as a real Collector got it", gap),
    ):
        with tempfile.TemporaryDirectory() as place, Collector(otelcol, Path(place)) as collector:
            print(f"## {title}\n\n{show(collector, Path(place) / 'spool')}\n")


if __name__ == "__main__":
    main()
