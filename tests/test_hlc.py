"""The hybrid logical clock and the propagator: a caller's time never lies after its callee's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import example, given
from hypothesis import strategies as st
from opentelemetry.context import Context, get_value, set_value
from opentelemetry.propagators.textmap import Getter, Setter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from otel_memoir.cli import main
from otel_memoir.clock import Reading, Source
from otel_memoir.clock.sources.parse import parse_sources
from otel_memoir.clock.sources.peer import process_peers
from otel_memoir.errors import ClockError
from otel_memoir.observe import observe_hybrid
from otel_memoir.sdk.propagator import HEADER, MemoirPropagator, Peer, peer_of
from otel_memoir.sdk.stamp_processor import LiveStream
from otel_memoir.stamping.hlc import MALFORMED, OFFSET_MAX_NS, TOO_FAR, HybridClock

MS = 10**6
NOON = 1_764_000_000 * 10**9
PROGRAM = Path(__file__).resolve().parent / "socket_programs" / "caller.py"


class Shifted:
    """A clock that is off from a common time, and can be set."""

    status, epoch = "", 0

    def __init__(self, offset_ns: int = 0, bound_ns: int | None = None) -> None:
        self.true_ns, self.offset_ns, self.bound_ns = NOON, offset_ns, bound_ns

    def read(self) -> Reading:
        """Look at it."""
        return self.true_ns + self.offset_ns, self.bound_ns


# -- the clock ----------------------------------------------------------------


def test_a_time_given_out_is_the_clocks_while_the_clock_goes_on() -> None:
    """The logical part is there only when it is needed."""
    hybrid = HybridClock()
    assert [hybrid.send(now, 5) for now in (100, 200, 300)] == [(100, 5), (200, 5), (300, 5)]


def test_a_clock_that_stands_still_is_overruled_by_a_nanosecond_which_the_bound_contains() -> None:
    """The bound is that of the clock, and the lead on top."""
    hybrid = HybridClock()
    assert [hybrid.send(now, 5) for now in (100, 100, 50)] == [(100, 5), (101, 6), (102, 57)]
    assert hybrid.send(50, None) == (103, None)


def test_what_is_given_out_after_a_merge_is_later_and_the_clock_itself_is_left_alone() -> None:
    """Only ``last`` is raised."""
    hybrid = HybridClock()
    assert hybrid.merge(1000, 3, now_ns=600)
    assert hybrid.send(700, 10) == (1001, 10 + 301)
    assert hybrid.send(2000, 10) == (2000, 10)


def test_merging_the_past_changes_nothing() -> None:
    """A peer that is behind is told by our answer, not by our clock."""
    hybrid = HybridClock()
    hybrid.send(1000, None)
    assert hybrid.merge(10, None, now_ns=1000)
    assert hybrid.send(1001, None) == (1001, None)


@pytest.mark.parametrize(("ahead_ns", "taken"), [(OFFSET_MAX_NS, True), (OFFSET_MAX_NS + 1, False)])
def test_a_peer_too_far_ahead_is_refused_and_counted(ahead_ns: int, taken: bool) -> None:
    """Whatever it says of its own error."""
    hybrid = HybridClock()
    assert hybrid.merge(NOON + ahead_ns, 2**62, NOON) is taken
    assert hybrid.status().refused == {TOO_FAR: int(not taken), MALFORMED: 0}
    assert hybrid.send(NOON, None) == (NOON + (ahead_ns + 1 if taken else 0), None)


@given(st.lists(st.tuples(st.integers(-(2**70), 2**70), st.integers(-(2**70), 2**70))))
@example([(NOON + 1, -1), (0, 0), (-5, None)])
def test_whatever_peers_say_the_lead_stays_within_the_limit(
    told: list[tuple[int, int | None]]
) -> None:
    """One peer in the year 2100 does not take everybody there."""
    hybrid = HybridClock()
    for remote_ns, error_ns in told:
        hybrid.merge(remote_ns, error_ns, NOON)
    assert NOON <= hybrid.send(NOON, None)[0] <= NOON + OFFSET_MAX_NS + 1


def test_a_merge_of_two_intervals_that_exclude_each_other_is_counted() -> None:
    """One of the two bounds is false then."""
    hybrid = HybridClock()
    hybrid.merge(NOON + 100, 40, NOON, 60)
    assert hybrid.status().disagreed == 0
    hybrid.merge(NOON + 100, 39, NOON, 60)
    assert (hybrid.status().disagreed, hybrid.status().merged) == (1, 2)


def test_the_lead_is_reported() -> None:
    """As a duration in ns, of the clock that the process follows."""
    clock = Shifted()
    hybrid = HybridClock(clock=clock)
    hybrid.merge(NOON + 7, None, NOON)
    assert hybrid.status().lead_ns == 8
    clock.offset_ns = 100
    assert hybrid.status().lead_ns == 0


def taken_by_threads(hybrid: Any, threads: int = 8, each: int = 3000) -> list[list[int]]:
    """The times that threads get from a clock that stands still."""
    taken: list[list[int]] = [[] for _ in range(threads)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        running = [
            threading.Thread(target=lambda mine=mine: mine.extend(
                hybrid.send(NOON, None)[0] for _ in range(each)
            )) for mine in taken
        ]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join(60.0)
    finally:
        sys.setswitchinterval(interval)
    return taken


def test_no_two_threads_ever_get_the_same_time() -> None:
    """Without a lock: storing the greater of two is one step."""
    taken = taken_by_threads(HybridClock())
    assert all(mine == sorted(set(mine)) for mine in taken)
    assert sorted(time for mine in taken for time in mine) == list(range(NOON, NOON + 24_000))


class Torn:
    """Looks at the latest time and stores a later one, in two steps with room between."""

    def __init__(self) -> None:
        self._latest, self._both = 0, threading.Barrier(2, timeout=30.0)

    def send(self, now_ns: int, bound_ns: int | None) -> tuple[int, None]:
        """As ``HybridClock.send``, torn."""
        found = self._latest
        self._both.wait()
        self._latest = max(now_ns, found + 1)
        return self._latest, None


def test_storing_in_two_steps_gives_a_time_twice() -> None:
    """Negative control of the test above."""
    assert taken_by_threads(Torn(), threads=2, each=1) == [[NOON], [NOON]]


def test_a_fork_child_stamps_later_than_what_its_parent_had() -> None:
    """What it does comes after; and nothing is held by a thread that is not there."""
    hybrid = HybridClock()
    hybrid.merge(NOON + 10, None, NOON)
    read, write = os.pipe()
    if os.fork() == 0:
        os.write(write, str(hybrid.send(NOON, None)[0]).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        assert int(pipe.read()) == NOON + 11


def test_a_stream_that_enters_after_the_clock_went_back_follows_it_and_older_ones_do_not() -> None:
    """Within an epoch nothing goes back."""
    hybrid = HybridClock()
    old = hybrid.enter(0)
    hybrid.send(NOON, None)
    assert hybrid.enter(0) is old
    new = hybrid.enter(1)
    assert new is hybrid.enter(1) is not old
    assert hybrid.send(5, None) == (5, None)
    assert old == [NOON]


# -- processes that call each other -------------------------------------------


class Process:
    """A simulated process: its clock, its stream, and what its events must come after."""

    def __init__(self, offset_ns: int, *, merges: bool = True) -> None:
        self.clock, hybrid = Shifted(offset_ns), HybridClock()
        self.propagator = MemoirPropagator(hybrid=hybrid, environ={})
        self.stream = LiveStream(self.clock, hybrid)
        self.merges = merges
        self.past_ns = 0

    def stamp(self) -> None:
        """An event: later than all that it can know of."""
        unix_ns = self.stream.take().unix_ns
        assert unix_ns > self.past_ns, f"{self.past_ns - unix_ns} ns before its cause"
        self.past_ns = unix_ns

    def call(self, callee: Process) -> None:
        """Send a request, whose handling is an event of the callee."""
        self.stamp()
        carrier: dict[str, str] = {}
        self.propagator.inject(carrier)
        if callee.merges and peer_of(callee.propagator.extract(carrier, Context())) is None:
            return  # refused: nothing is promised
        callee.past_ns = max(callee.past_ns, self.past_ns)
        callee.stamp()


STEPS = st.lists(st.tuples(
    st.sampled_from(["stamp", "call", "call", "set"]), st.integers(0, 4), st.integers(0, 4),
    st.integers(0, 20 * MS),
), max_size=60)
OFFSETS = st.lists(st.integers(-400 * MS, 400 * MS), min_size=5, max_size=5)


def play(processes: list[Process], steps: list[tuple[str, int, int, int]]) -> None:
    """Let time pass and processes stamp, call each other, and have their clocks set."""
    for kind, one, other, ns in steps:
        for process in processes:
            process.clock.true_ns += ns
        if kind == "stamp":
            processes[one].stamp()
        elif kind == "set":
            processes[one].clock.offset_ns -= ns * 10
        elif one != other:
            processes[one].call(processes[other])


@given(OFFSETS, STEPS)
def test_no_event_is_stamped_before_one_that_it_can_know_of(
    offsets: list[int], steps: list[tuple[str, int, int, int]]
) -> None:
    """Five processes with clocks of their own, over every chain of accepted calls."""
    play([Process(offset) for offset in offsets], steps)


def test_without_the_propagator_an_event_is_stamped_before_its_cause() -> None:
    """Negative control: the same play, without the merge."""
    processes = [Process(offset * MS, merges=False) for offset in (400, 0, -400)]
    with pytest.raises(AssertionError, match="before its cause"):
        play(processes, [("call", 0, 1, MS), ("call", 1, 2, MS)])


@dataclass(frozen=True)
class Chain:
    """A request that was passed on through processes with clocks of their own.

    Attributes:
        uids: The events of handling it, in the order in which they happened.

        stamps: Their times.

        spools: Where they are stored.
    """

    uids: list[str]
    stamps: list[int]
    spools: list[Path]

    def listed(self) -> list[str]:
        """The uids as ``otel-memoir events --order`` lists them."""
        found = CliRunner().invoke(main, ["events", "--order", "--json", *map(str, self.spools)])
        return [event["uid"] for event in json.loads(found.stdout)["events"]]


def through_real_processes(mode: str, directory: Path, rounds: int = 8) -> Chain:
    """Pass a request on through four processes, one after the other."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("OTEL_", "MEMOIR_"))}
    chain = Chain([], [], [directory / f"spool{n}" for n in range(4)])
    running = [
        subprocess.Popen(
            [sys.executable, str(PROGRAM), str(offset), mode, str(spool)], env=environ, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        ) for offset, spool in zip((0, 400, -450, 30), chain.spools)
    ]
    header = "-"
    try:
        for process in running * rounds:
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write(f"{header}\n")
            process.stdin.flush()
            stamp, uid, header = process.stdout.readline().split()
            chain.stamps.append(int(stamp))
            chain.uids.append(uid)
    finally:
        for process in running:
            process.communicate(timeout=60)
    return chain


def test_real_processes_with_wrong_clocks_stamp_a_chain_of_requests_in_its_order(
    tmp_path: Path
) -> None:
    """Four, 850 ms apart at most: live stamps, and those in four spools."""
    chain = through_real_processes("merge", tmp_path)
    assert len(chain.stamps) == 32
    assert chain.stamps == sorted(set(chain.stamps))
    assert chain.listed() == chain.uids


def test_the_same_processes_without_the_propagator_do_not(tmp_path: Path) -> None:
    """Negative control."""
    chain = through_real_processes("ignore", tmp_path)
    assert chain.stamps != sorted(set(chain.stamps))
    assert chain.listed() != chain.uids
    assert sorted(chain.listed()) == sorted(chain.uids)


# -- the propagator -----------------------------------------------------------


def propagator(clock: Any = None, **given: Any) -> MemoirPropagator:
    """One with a clock of its own, that no other test shares."""
    return MemoirPropagator(hybrid=HybridClock(clock=clock or Shifted()), environ={}, **given)


def test_a_request_carries_time_bound_and_the_last_number_of_the_stream() -> None:
    """And the callee reads all of it."""
    clock = Shifted(bound_ns=1_250_000)
    sender = propagator(clock)
    stream = LiveStream(clock, sender.hybrid)
    stamps = [stream.take() for _ in range(3)]
    carrier: dict[str, str] = {}
    sender.inject(carrier)
    peer = peer_of(propagator().extract(carrier))
    assert peer is not None and set(carrier) == sender.fields == {HEADER}
    assert peer.unix_ns > stamps[-1].unix_ns
    assert peer.error_bound_ns == 1_250_000 + peer.unix_ns - NOON
    assert (peer.stream_id, peer.epoch, peer.sequence) == (
        stamps[0].stream.stream_id, stamps[0].stream.epoch, 3
    )


def test_what_was_in_the_context_stays_in_it() -> None:
    """Propagators are composed: each adds to what the one before found."""
    context = set_value("theirs", 1, Context())
    carrier = {HEADER: f"t={NOON}"}
    found = propagator().extract(carrier, context)
    assert get_value("theirs", found) == 1
    assert peer_of(found) == Peer(NOON)
    assert peer_of(context) is None


def test_no_header_is_no_peer_and_no_refusal() -> None:
    """The usual case of a caller that does not have us."""
    it = propagator()
    assert peer_of(it.extract({})) is None
    assert not any(it.hybrid.status().refused.values())


@pytest.mark.parametrize("text", [
    "", "t=", "t=-1", "t=1e9", "t=0", "t=99999999999999999999", "t=9999999999999999999", "1",
    f"t={NOON};e=-1", f" t={NOON}", f"t={NOON} ", f"t={NOON};s=a", f"t={NOON};s=;p=1;q=1",
    "t=١٢٣", f"t={NOON};" + "x" * 600, f"t={NOON}\n", f"t={NOON};\x00", "t=" + "9" * 10**6,
])
def test_garbage_is_refused_and_counted(text: str) -> None:
    """Nothing is merged and nothing is put into the context."""
    it = propagator()
    before = it.hybrid.latest[0]
    found = it.extract({HEADER: text})
    refused = it.hybrid.status().refused
    assert peer_of(found) is None
    assert sum(refused.values()) == 1
    assert it.hybrid.latest[0] == before


def test_a_header_of_a_later_version_is_read_as_far_as_it_is_known() -> None:
    """Fields may be added at the end."""
    text = f"t={NOON};e=5;s=ab;p=1;q=2;z=new"
    assert peer_of(propagator().extract({HEADER: text})) == Peer(NOON, 5, "ab", 1, 2)


def test_two_different_times_are_none() -> None:
    """Nobody knows which one the caller meant; the same twice is one."""
    it = propagator()
    assert peer_of(it.extract({HEADER: [f"t={NOON}", f"t={NOON + 1}"]})) is None
    assert peer_of(it.extract({HEADER: [f"t={NOON}", f"t={NOON}"]})) == Peer(NOON)
    assert it.hybrid.status().refused[MALFORMED] == 1


@given(st.one_of(
    st.text(), st.lists(st.text()), st.integers(), st.none(), st.binary(), st.lists(st.integers()),
    st.from_regex(r"t=\d{0,25};e=-?\d{0,25};s=[\w.:-]{0,70};p=\d{0,22};q=\d{0,22}"),
))
def test_extract_never_raises_whatever_is_in_the_carrier(value: Any) -> None:
    """Of any type, and any text."""
    it = propagator()
    found = it.extract({HEADER: value}, Context())
    assert isinstance(found, Context)
    assert it.hybrid.latest[0] <= NOON + OFFSET_MAX_NS


@given(
    st.builds(Peer, st.integers(1, NOON), st.none() | st.integers(0, 2**63 - 1)),
    st.sampled_from(["", "ab01", "a.b:c_d-e"]), st.integers(0, 2**63 - 1),
    st.integers(0, 2**63 - 1),
)
def test_what_is_written_is_what_is_read(
    peer: Peer, stream_id: str, epoch: int, sequence: int
) -> None:
    """Each header that we write is one that we read."""
    numbers = (epoch, sequence) if stream_id else (0, 0)
    full = Peer(peer.unix_ns, peer.error_bound_ns, stream_id, *numbers)
    assert Peer.parse(str(full)) == full


class Breaking(Getter[Any], Setter[Any]):
    """A getter and setter that raise."""

    def get(self, carrier: Any, key: str) -> list[str] | None:
        raise RuntimeError("a getter of the application")

    def keys(self, carrier: Any) -> list[str]:
        raise RuntimeError("a getter of the application")

    def set(self, carrier: Any, key: str, value: str) -> None:
        raise RuntimeError("a setter of the application")


class Stopped:
    """A clock that raises."""

    status, epoch = "", 0

    def read(self) -> Reading:
        raise RuntimeError("a clock of the application")


@pytest.mark.parametrize("carrier", [None, 5, object(), {}, {HEADER: f"t={NOON}"}])
@pytest.mark.parametrize("clock", [Shifted(), Stopped()])
def test_nothing_raises_whatever_is_foreign(carrier: Any, clock: Any) -> None:
    """Carrier, getter, setter, clock and settings are not ours."""
    it = MemoirPropagator(
        hybrid=HybridClock(clock=clock), environ={"MEMOIR_PEER_OFFSET_MAX": "soon"}
    )
    it.inject(carrier)
    it.inject(carrier, setter=Breaking())
    assert isinstance(it.extract(carrier), Context)
    assert isinstance(it.extract(carrier, getter=Breaking()), Context)
    assert it.hybrid.offset_max_ns == OFFSET_MAX_NS


@pytest.mark.parametrize(("given_s", "environ", "expected_ms"), [
    (None, {}, 500), (None, {"MEMOIR_PEER_OFFSET_MAX": "0.1"}, 100), (2.0, {}, 2000),
])
def test_the_limit_is_a_setting(
    given_s: float | None, environ: Mapping[str, str], expected_ms: int
) -> None:
    """In code, in the environment, or half a second."""
    it = MemoirPropagator(hybrid=HybridClock(), environ=environ, peer_offset_max_s=given_s)
    assert it.hybrid.offset_max_ns == expected_ms * MS


def in_python(code: str, **environ: str) -> list[str]:
    """What a program prints."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, **environ},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_the_propagator_imports_neither_the_sdk_nor_grpc_nor_a_database() -> None:
    """OpenTelemetry loads it while the SDK is being imported."""
    assert in_python(
        "import sys, otel_memoir.sdk.propagator as it; it.MemoirPropagator().inject({}); "
        "print(*[m for m in sys.modules if m.startswith(('opentelemetry.sdk', 'grpc', 'sqlite3', "
        "'requests', 'opentelemetry.exporter'))])"
    ) == []


@pytest.fixture
def entry_point(tmp_path: Path) -> Iterator[str]:
    """A directory that gives OpenTelemetry our entry point."""
    info = tmp_path / "memoir_propagator-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: memoir-propagator\nVersion: 1\n")
    (info / "entry_points.txt").write_text(
        "[opentelemetry_propagator]\nmemoir = otel_memoir.sdk.propagator:MemoirPropagator\n"
    )
    yield str(tmp_path)


@pytest.mark.parametrize("first", ["opentelemetry.propagate", "opentelemetry.sdk._logs",
                                   "otel_memoir", "otel_memoir.sdk.processor"])
def test_opentelemetry_finds_it_by_name_whatever_is_imported_first(
    first: str, entry_point: str
) -> None:
    """No circle of imports, and the three propagators are composed."""
    assert in_python(
        f"import {first}; from opentelemetry import propagate; carrier = {{}}; "
        "propagate.inject(carrier); print(*carrier); "
        "import otel_memoir.sdk.processor; propagate.extract(carrier); "
        "from otel_memoir.stamping import process_clock; print(process_clock.status().merged)",
        PYTHONPATH=os.pathsep.join([entry_point, os.environ.get("PYTHONPATH", "")]),
        OTEL_PROPAGATORS="tracecontext,baggage,memoir",
    ) == [HEADER, "1"]


def test_metrics_say_what_peers_did() -> None:
    """The lead, and how many of their times were taken and refused, by reason."""
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    hybrid = HybridClock(clock=Shifted())
    observe_hybrid(hybrid, provider)
    observe_hybrid(hybrid, provider)  # twice is once
    hybrid.merge(NOON + 400 * MS, 0, NOON)
    hybrid.merge(2 * NOON, 0, NOON)
    data = reader.get_metrics_data()
    provider.shutdown()
    assert data is not None
    found = {
        metric.name: [(dict(p.attributes), p.value) for p in metric.data.data_points]
        for resource in data.resource_metrics for scope in resource.scope_metrics
        for metric in scope.metrics
    }
    assert found["memoir.stamp.lead"] == [({}, pytest.approx(0.4))]
    assert found["memoir.peer.merged"] == [({}, 1)]
    assert sorted((a["error.type"], n) for a, n in found["memoir.peer.refused"]) == [
        ("malformed", 0), ("too_far", 1),
    ]


def test_what_a_caller_says_of_the_time_is_a_source_that_never_counts() -> None:
    """A stream is one peer; who names none, or is refused, says nothing."""
    (made,) = parse_sources(["peers"])
    process_peers._words.clear()
    assert made.options.noselect
    propagator = MemoirPropagator(hybrid=HybridClock(clock=Shifted()))
    for header in (f"t={NOON + MS};e=5", f"t={2 * NOON};e=5;s=far;p=1;q=2"):
        propagator.extract({HEADER: header})
    assert refused_by(made.source) == "no_peers"
    propagator.extract({HEADER: f"t={NOON + MS};e=5;s=near;p=1;q=2"})
    sample = made.source.poll(1.0)
    assert sample.unix_ns - sample.distance_ns > NOON


def refused_by(source: Source) -> str:
    """Why a source gives no sample."""
    with pytest.raises(ClockError) as caught:
        source.poll(1.0)
    return caught.value.reason
