"""What the tests of a Collector in trouble share: configurations, waiting, and the table.

A test tells a story in two steps. `met` looks at the answers and at what became of the
records while the trouble lasts; `repaired` waits for every record and adds the numbers
after the repair. Nobody restarts our process in between.
"""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from collector import Collector, file_sink_config
from otel_memoir.spool import Hold
from otel_memoir.testing import ScriptedCollector
from socket_programs.wiring import Agent, numbers

COUNT = 1000
TIMEOUT_S = 60.0
HTTP, GRPC = "http/protobuf", "grpc"
POISON = COUNT // 2
both_protocols = pytest.mark.parametrize("protocol", [HTTP, GRPC])

AGENT = Path(__file__).resolve().parent.parent / "collector-config" / "agent.yaml"
OVER_HTTP: Mapping[str, Any] = {
    "exporters": {"otlp_http": {
        "endpoint": "${env:OTLP_NEXT_URL}", "sending_queue": {"enabled": False},
        "retry_on_failure": {"enabled": False},
    }},
    "service": {"pipelines": {"logs": {"exporters": ["otlp_http"]}}},
}
"""On top of `AGENT`: to the later hop over OTLP/HTTP instead of gRPC."""

_ANYONE_WAITS = threading.Event()
_HEAD = (
    "trouble", "protocol", "answers", "outcome", "accepted", "delivered", "unaccounted", "missing",
    "quarantined",
)


@dataclass
class Story:
    """A row of the table."""

    trouble: str
    protocol: str
    answers: str
    outcome: str
    after: tuple[int, ...] = ()
    """Accepted, delivered, unaccounted, missing, quarantined, once it was repaired."""

    @property
    def missing(self) -> int:
        return self.after[3]

    def row(self) -> str:
        cells = (self.trouble, self.protocol, self.answers, self.outcome, *self.after)
        return f"| {' | '.join(str(cell) for cell in cells)} |"


STORIES: list[Story] = []


@pytest.fixture(scope="session", autouse=True)
def print_the_table() -> Iterator[None]:
    """Print all stories once, after the last of the modules that import this."""
    yield
    if STORIES:
        print(f"\n{_table()}")
        STORIES.clear()


def _table() -> str:
    lines = [f"| {' | '.join(_HEAD)} |", f"|{'---|' * len(_HEAD)}"]
    return "\n".join([*lines, *(story.row() for story in STORIES)])


# -- Collectors ---------------------------------------------------------------


def good(sink: Collector, **changes: Any) -> dict[str, Any]:
    """The configuration of a working sink, with changes merged in."""
    return merged(file_sink_config(sink.output), changes)


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """A deep copy of ``base`` in which ``over`` wins."""
    result = copy.deepcopy(dict(base))
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = merged(result[key], value) if both else value
    return result


def receiver(protocol: str, **options: Any) -> dict[str, Any]:
    """An option of one of the receiver's protocols, as a configuration to merge in."""
    name = "http" if protocol == HTTP else "grpc"
    return {"receivers": {"otlp": {"protocols": {name: options}}}}


def endpoint(collector: Collector, protocol: str) -> str:
    return collector.http_endpoint if protocol == HTTP else collector.grpc_endpoint


def passing_on(
    otelcol: Path, directory: Path, later: ScriptedCollector, *, over: str = GRPC
) -> Collector:
    """The shipped agent, which answers what the later hop answered it."""
    directory.mkdir()
    environ = {
        "OTLP_NEXT_ENDPOINT": later.grpc_endpoint.removeprefix("http://"),
        "OTLP_NEXT_URL": later.endpoint,
    }
    config = [AGENT] if over == GRPC else [AGENT, OVER_HTTP]
    return Collector(otelcol, directory, config, environ=environ)


# -- the story ----------------------------------------------------------------


def until(condition: Callable[[], Any], timeout: float = TIMEOUT_S) -> bool:
    """Wait for what no event tells; return whether it came within ``timeout`` seconds."""
    deadline_s = time.monotonic() + timeout
    while not condition():
        if time.monotonic() >= deadline_s:
            return False
        _ANYONE_WAITS.wait(0.02)
    return True


def attempts(it: Agent) -> dict[str, int]:
    """How often each answer was given."""
    courier = it.processor.pipeline.courier
    return courier.tally.attempts() if courier else {}


def was_refused(it: Agent, times: int = 4) -> bool:
    """Whether so many attempts got something else than a plain OK."""
    failed = [n for code, n in attempts(it).items() if code not in ("http 200", "grpc OK")]
    return sum(failed) >= times


def emit_with_poison(it: Agent, **poison: Any) -> None:
    """A thousand records, one in the middle with these attributes."""
    it.emit(POISON)
    it.emit(1, **poison)
    it.emit(COUNT - POISON - 1)


def hold_of(it: Agent) -> Hold:
    """Why delivery stands still; it must."""
    hold = it.processor.status().hold
    assert hold is not None
    return hold


def all_pending(it: Agent, **attributes: Any) -> None:
    """Emit the records, and wait until the trouble was met several times; all must wait."""
    it.emit(COUNT, **attributes)
    assert until(lambda: was_refused(it)), attempts(it)
    totals = it.totals
    assert totals.accepted == totals.pending == COUNT
    assert totals.unaccounted == 0


def met(trouble: str, protocol: str, it: Agent) -> Story:
    """Begin a story: what was answered until now, and what became of the records."""
    codes = sorted(attempts(it).items(), key=lambda pair: -pair[1])
    answers = ", ".join(f"`{code}` x{count}" for code, count in codes)
    story = Story(trouble, protocol, answers, _outcome(it))
    STORIES.append(story)
    return story


def _outcome(it: Agent) -> str:
    """Hold with its hint, or what the ledger says was done with batches."""
    hold = it.processor.status().hold
    if hold is not None:
        return f"hold: {hold.message[:80].replace('|', '/')} → {hold.hint}"
    ((split, aside),) = it.rows("SELECT sum(state = 'split'), sum(lane = 'side') FROM batch")
    seen = {"halved": split, "side lane": aside, "quarantined": it.totals.quarantined}
    waiting = "backoff" if was_refused(it, 1) else "delivered"
    return ", ".join(what for what, count in seen.items() if count) or waiting


def repaired(
    story: Story,
    it: Agent,
    arrived: Callable[[], Iterable[Any]],
    *,
    poison: Sequence[int] = (),
    timeout: float = TIMEOUT_S,
) -> None:
    """End a story: everything arrives but the poison, which is in quarantine.

    Args:
        story: What ``met`` began.

        it: The emitting side, which was not restarted.

        arrived: Gives the records that the last hop took.

        poison: The numbers of the records that must be quarantined, and no other.

        timeout: Longest wait for each of the two, in seconds.
    """
    drained = until(lambda: it.processor.wait_delivered(1.0) or not it.totals.pending, timeout)
    expected = set(it.emitted) - set(poison)
    until(lambda: set(numbers(arrived())) >= expected, timeout)
    totals, found = it.totals, list(arrived())
    missing = expected - set(numbers(found))
    story.after = (
        totals.accepted, totals.delivered, totals.unaccounted, len(missing), totals.quarantined
    )
    assert drained, (totals, attempts(it))
    assert missing == set()
    assert set(numbers(found)) == expected
    assert (totals.unaccounted, totals.rejected, totals.pending) == (0, 0, 0)
    assert totals.quarantined == len(poison)
    assert totals.delivered == totals.accepted - totals.quarantined
    assert len({r.uid for r in found if "number" in r.attributes}) == len(expected)
    assert until(lambda: it.processor.status().hold is None)
