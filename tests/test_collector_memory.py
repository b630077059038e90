"""``collector-config/memory.yaml``: memory events apart from other logs, each with its name."""

from __future__ import annotations

from pathlib import Path

import pytest
from opentelemetry.sdk._logs import LoggerProvider

from collector import Collector
from otel_memoir import MemoryLog
from otel_memoir.events import names
from otel_memoir.testing import ScriptedCollector
from socket_programs.wiring import FAST

CONFIG = Path(__file__).resolve().parent.parent / "collector-config" / "memory.yaml"
TIMEOUT_S = 30.0

pytestmark = [pytest.mark.collector, pytest.mark.timeout(120)]


def split(otelcol: Path, tmp_path: Path, *over: object) -> tuple[list[str], list[str], list[str]]:
    """Send one event and one other log through the gateway.

    Returns:
        The event names that the memory backend and the logs backend got, and the names that
        the first found in attributes.
    """
    (tmp_path / "gateway").mkdir()
    with ScriptedCollector() as memory, ScriptedCollector() as logs:
        environ = {
            "MEMORY_ENDPOINT": memory.endpoint, "LOGS_ENDPOINT": logs.endpoint,
            "OTELCOL_QUEUE_DIR": str(tmp_path / "queue"),
        }
        with Collector(otelcol, tmp_path / "gateway", [CONFIG, *over], environ=environ) as gateway:
            provider = LoggerProvider()
            log = MemoryLog(
                logger_provider=provider, spool_dir=str(tmp_path / "spool"), environ={},
                endpoint=gateway.http_endpoint, **FAST,
            )
            log.created("alice")
            provider.get_logger("app").emit(body="any other log", event_name="app.started")
            assert log.wait_delivered(TIMEOUT_S)
            assert memory.wait_for(1, timeout=TIMEOUT_S)
            assert logs.wait_for(1, timeout=TIMEOUT_S)
            provider.shutdown()
        said = [str(record.attributes.get("otel.event.name")) for record in memory.delivered]
        return (
            [record.event_name for record in memory.delivered],
            [record.event_name for record in logs.delivered], said,
        )


def test_memory_events_go_one_way_with_their_name_and_all_else_the_other(
    otelcol: Path, tmp_path: Path
) -> None:
    """Nothing arrives twice, nothing is left out."""
    name = names.EVENT_RECORD_CREATED
    assert split(otelcol, tmp_path) == ([name], ["app.started"], [name])


def test_without_its_filters_both_get_everything(otelcol: Path, tmp_path: Path) -> None:
    """Negative control: it is the filters that part them, and the transform that names them."""
    without = {"service": {"pipelines": {
        "logs/memory": {"processors": ["memory_limiter"]},
        "logs/others": {"processors": ["memory_limiter"]},
    }}}
    memory, logs, said = split(otelcol, tmp_path, without)
    assert sorted(memory) == sorted(logs) == ["app.started", names.EVENT_RECORD_CREATED]
    assert set(said) == {"None"}
