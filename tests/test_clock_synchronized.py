"""The clock that programs read: cheap, never back, and never in their way."""

from __future__ import annotations

import asyncio
import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from blockbuster import blockbuster_ctx
from hypothesis import given
from hypothesis import strategies as st

from clock_host import MS, NOW_NS, Host, S, Told
from otel_memoir.clock import SynchronizedClock, SystemClock, calibrator, shared_clock, synchronized
from otel_memoir.clock.calibration import CalibrationOptions
from otel_memoir.clock.host_state import Leadership, is_led, read_state
from otel_memoir.clock.options import ConfiguredSource, SourceOptions
from otel_memoir.settings import Settings
from otel_memoir.spool import Draft, Stream
from otel_memoir.stamping import stream_stamper

PATIENCE_S = 30.0
DRAFT = Draft(b"", b"", 9, "uid", False)
OFTEN = SourceOptions(poll_min_s=0.01, poll_max_s=0.01)


@pytest.fixture
def make() -> Iterator[Callable[..., SynchronizedClock]]:
    """Makes clocks and closes them."""
    made: list[SynchronizedClock] = []

    def build(*sources: Any, **given: Any) -> SynchronizedClock:
        told = [ConfiguredSource(s, OFTEN) if isinstance(s, Told) else s for s in sources]
        made.append(SynchronizedClock(sources=told, **given))
        return made[-1]

    yield build
    for clock in made:
        clock.close(PATIENCE_S)


def wait_until(clock: SynchronizedClock, is_so: Callable[[], bool]) -> None:
    """Wait for what a turn of the calibrator brings about."""
    deadline_s = time.monotonic() + PATIENCE_S
    clock.start()
    with clock._changed:
        while not is_so():
            assert time.monotonic() < deadline_s, clock.snapshot()
            clock._changed.wait(0.1)


# -- in the host's way -----------------------------------------------------------


def test_constructing_starts_no_thread_and_opens_no_file(tmp_path: Path, make: Any) -> None:
    """What an application pays for a clock that it never reads."""
    threads = threading.active_count()
    clock = make("system", directory=tmp_path / "clock")
    assert (clock.status, clock.epoch, clock.snapshot().role) == ("uncalibrated", 0, "")
    assert threading.active_count() == threads
    assert not (tmp_path / "clock").exists()


def clock_threads() -> int:
    """How many clocks calibrate in this process; other tests may have left the shared one."""
    return [thread.name for thread in threading.enumerate()].count("memoir-clock")


def test_the_first_reading_waits_for_nobody(make: Any) -> None:
    """A source that hangs hangs only the thread of the clock."""
    source, release = Told(), threading.Event()
    source.before = lambda: release.wait(PATIENCE_S)
    clock, others = make(source), clock_threads()
    unix_ns, bound_ns = clock.read()
    assert abs(unix_ns - time.time_ns()) < 60 * S
    assert (bound_ns, clock.status) == (None, "uncalibrated")
    assert clock_threads() == others + 1
    assert not clock.wait_synced(0.01)
    release.set()
    assert clock.wait_synced(PATIENCE_S)


def test_closing_waits_no_longer_than_it_is_told(make: Any) -> None:
    """The thread is a daemon: it does not keep the process either."""
    source, release = Told(), threading.Event()
    source.before = lambda: release.wait(PATIENCE_S)
    clock = make(source)
    clock.read()
    began_s = time.monotonic()
    clock.close(0.05)
    assert time.monotonic() - began_s < PATIENCE_S / 2
    assert clock._thread.daemon
    release.set()
    assert not clock.wait_synced(0.0)


def test_the_first_reading_on_an_event_loop_blocks_nothing(tmp_path: Path) -> None:
    """blockbuster, which ``langgraph dev`` runs, raises where a loop's thread blocks."""

    async def read() -> SynchronizedClock:
        clock = SynchronizedClock(sources=["system?unknown_ms=5"], directory=tmp_path)
        with blockbuster_ctx():
            clock.read()
            clock.snapshot()
            clock._look_after_ns = 0
            clock.read()
        return clock

    clock = asyncio.run(read())
    assert clock.wait_synced(PATIENCE_S)
    clock.close(PATIENCE_S)


@pytest.mark.parametrize("wrong", [RuntimeError("broken"), KeyError("x"), ValueError()])
def test_nothing_raises_out_of_a_clock_whose_sources_do(wrong: Exception, make: Any) -> None:
    """The other source is believed; the failure is counted."""
    broken, told = Told("broken"), Told()

    def fail() -> None:
        raise wrong

    broken.before = fail
    clock = make(broken, told)
    assert clock.wait_synced(PATIENCE_S)
    assert clock.snapshot().sources[0].failures["error"] >= 1
    assert clock.snapshot().selected == "told"


def test_a_source_that_nobody_can_read_is_left_out(
    make: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """A wrong word in the environment must not end the application."""
    clock = make("nonsense://x", Told())
    assert clock.wait_synced(PATIENCE_S)
    assert [s.name for s in clock.snapshot().sources] == ["told"]


def test_the_settings_say_whom_to_ask_and_no_public_server_is_asked_by_default(
    tmp_path: Path,
) -> None:
    """By default only this host: its kernel and its chronyd."""
    assert Settings().clock_sources == "system,chronyd"
    environ = {"MEMOIR_CLOCK_MODE": "correct", "MEMOIR_CLOCK_SOURCES": "system?unknown_ms=5",
               "MEMOIR_CLOCK_DIR": str(tmp_path)}
    clock = SynchronizedClock(settings=Settings.load(environ=environ))
    try:
        assert clock.wait_synced(PATIENCE_S)
        assert (clock.mode, clock.snapshot().selected) == ("correct", "system")
        assert is_led(tmp_path)
    finally:
        clock.close(PATIENCE_S)
    assert not is_led(tmp_path)


# -- what a reading is -----------------------------------------------------------


def in_virtual_time(host: Host, mode: str, *sources: Told) -> SynchronizedClock:
    """A clock without a thread: it turns when it is told to."""
    clock = SynchronizedClock(
        sources=[ConfiguredSource(s, SourceOptions(poll_min_s=1, poll_max_s=1)) for s in sources],
        mode=mode, ruler=host.ruler, wall=host.wall,  # type: ignore[arg-type]
    )
    clock.start = lambda: None  # type: ignore[method-assign]
    return clock


def test_observed_the_reading_is_the_system_clocks_and_its_offset_is_in_the_bound() -> None:
    """Whatever it is off."""
    host = Host(rate=-30e-6)
    host.wall_off_ns = -70 * MS
    clock = in_virtual_time(host, "observe", Told(host=host))
    clock._turn()
    unix_ns, bound_ns = clock.read()
    assert unix_ns == host.wall()
    assert 70 * MS < bound_ns < 73 * MS
    assert clock.snapshot().offset_ns == -70 * MS


@pytest.mark.parametrize("mode", ["observe", "correct"])
def test_before_anybody_has_said_what_time_it_is_it_is_the_system_clocks(mode: str) -> None:
    """Without a bound; also after it was set, and seldom looking after the thread."""
    host, source, starts = Host(), Told(), []
    source.refuses = "timeout"
    clock = in_virtual_time(host, mode, source)
    clock.start = lambda: starts.append(1)  # type: ignore[method-assign]
    clock._turn()
    for _ in range(100):
        assert clock.read() == (host.wall(), None)
        host.advance(MS)
        host.wall_off_ns -= 7 * MS
    assert len(starts) == 1
    assert clock.status == "uncalibrated"


@pytest.mark.parametrize("mode", ["observe", "correct"])
@pytest.mark.parametrize("step_ns", [-3 * S, 3 * S, 900 * MS])
def test_a_step_of_the_wall_clock_is_in_the_bound_of_the_very_next_reading(
    mode: str, step_ns: int
) -> None:
    """Before anybody has noticed."""
    host = Host()
    clock = in_virtual_time(host, mode, Told(host=host))
    clock._turn()
    clock.read()
    host.advance(MS)
    host.wall_off_ns += step_ns
    unix_ns, bound_ns = clock.read()
    assert abs(unix_ns - host.true_ns) <= bound_ns
    clock._turn()
    kind = "wall_forward" if step_ns > 0 else "wall_back"
    assert clock.snapshot().steps[kind] == 1


@pytest.mark.parametrize("mode", ["observe", "correct"])
def test_a_suspend_is_in_the_bound_before_the_thread_has_run(mode: str) -> None:
    """The ruler stood still; the wall clock did not."""
    host = Host()
    clock = in_virtual_time(host, mode, Told(host=host))
    clock._turn()
    clock.read()
    host.suspend(3600 * S)
    unix_ns, bound_ns = clock.read()
    assert abs(unix_ns - host.true_ns) <= bound_ns


moves = st.lists(st.one_of(
    st.tuples(st.just("advance"), st.integers(0, 5 * S)),
    st.tuples(st.just("step"), st.integers(-100 * S, 100 * S)),
    st.tuples(st.just("source"), st.integers(-5 * S, 5 * S)),
    st.tuples(st.just("turn"), st.just(0)),
), max_size=40)


@given(st.sampled_from(["observe", "correct"]), moves)
def test_times_of_a_stream_strictly_increase_over_any_schedule(
    mode: str, schedule: list[tuple[str, int]]
) -> None:
    """Of steps of the wall clock and of all sources, read after each."""
    host = Host(rate=70e-6)
    sources = [Told(name, host) for name in "abc"]
    clock = in_virtual_time(host, mode, *sources)
    stamp = stream_stamper(Stream("s", 1), clock=clock, make_suffix=lambda _: lambda *_: b"")
    times, served = [], [(0, 0)]
    for sequence, (what, ns) in enumerate(schedule):
        if what == "advance":
            host.advance(ns)
        elif what == "step":
            host.wall_off_ns += ns
        elif what == "source":
            for source in sources:
                source.off_ns = ns
        else:
            clock._turn()
        times.append(stamp(DRAFT, sequence)[1])
        if mode == "correct" and clock._line is not None:
            served.append((clock.epoch, clock.read()[0]))
    assert all(a < b for a, b in itertools.pairwise(times))
    assert served == sorted(served)


def test_without_the_rule_of_the_stamper_observed_times_go_back() -> None:
    """Negative control: the system clock itself steps."""
    host = Host()
    clock = in_virtual_time(host, "observe", Told(host=host))
    clock._turn()
    first = clock.read()[0]
    host.wall_off_ns -= S
    assert clock.read()[0] < first


def test_served_time_is_true_within_its_bound_while_a_minority_lies() -> None:
    """Through a calibration of an hour, with an oscillator that is off by 90 ppm."""
    host = Host(rate=90e-6)
    host.wall_off_ns = 5 * S
    liar, honest = Told("liar", host), [Told(name, host) for name in "abc"]
    liar.off_ns = 300 * MS
    clock = in_virtual_time(host, "correct", liar, *honest)
    for _ in range(3600):
        clock._turn()
        host.advance(S)
        unix_ns, bound_ns = clock.read()
        assert abs(unix_ns - host.true_ns) <= bound_ns
    assert bound_ns < 2 * MS
    assert {s.name: s.vote for s in clock.snapshot().sources}["liar"] == "falseticker"


def test_a_jump_back_that_a_majority_confirms_is_a_new_epoch_that_readers_see() -> None:
    """The sources had all been wrong."""
    host = Host()
    sources = [Told(name, host) for name in "abc"]
    for source in sources:
        source.off_ns = 30 * S
    clock = in_virtual_time(host, "correct", *sources)
    clock._turn()
    assert clock.read()[0] > NOW_NS + 29 * S
    for source in sources:
        source.off_ns = 0
    for _ in range(4):
        host.advance(3 * S)
        clock._turn()
    assert clock.epoch == 1
    assert abs(clock.read()[0] - host.true_ns) < 10 * MS
    assert clock.snapshot().steps["served_back"] == 1


def test_holdover_is_said_and_its_bound_grows() -> None:
    """After all sources fell silent."""
    host = Host()
    source = Told(host=host)
    clock = in_virtual_time(host, "observe", source)
    clock._turn()
    assert clock.status == ""
    source.refuses = "timeout"
    first = clock.read()[1]
    for _ in range(20):
        host.advance(2 * S)
        clock._turn()
    assert clock.status == "holdover"
    assert clock.read()[1] > first
    host.advance(5000 * S)
    assert clock.read()[1] > S


def test_a_bound_wider_than_wanted_is_said() -> None:
    """So that consumers can leave such records out."""
    host = Host()
    clock = in_virtual_time(host, "observe", Told(host=host))
    clock._calibrator._plan = synchronized.plan(
        [Told(host=host)], options=CalibrationOptions(bound_max_ns=MS // 2)
    )
    clock._turn()
    assert clock.status == "wide"
    assert not clock.wait_synced(0.0)


def test_waiting_for_a_bound_waits_for_that(make: Any) -> None:
    """1 ms away, a source cannot give a tenth of it."""
    clock = make(Told())
    assert clock.wait_synced(PATIENCE_S, bound_ns=20 * MS)
    assert not clock.wait_synced(0.05, bound_ns=MS // 10)


def test_one_clock_serves_all_who_stamp_with_the_same_settings(tmp_path: Path) -> None:
    """And `system` needs none."""
    settings = Settings(clock_dir=str(tmp_path))
    assert shared_clock(settings) is shared_clock(Settings(clock_dir=str(tmp_path)))
    other = shared_clock(Settings(clock_dir=str(tmp_path), clock_mode="correct"))
    assert other is not shared_clock(settings)
    assert isinstance(shared_clock(Settings(clock_mode="system")), SystemClock)
    assert list(tmp_path.iterdir()) == []


def test_a_system_clock_says_the_same_of_itself() -> None:
    """Stampers ask any clock."""
    clock = SystemClock()
    assert (clock.status, clock.epoch, clock.read()[1]) == ("", 0, None)


# -- threads and processes --------------------------------------------------------


@pytest.mark.parametrize("mode", ["observe", "correct"])
def test_many_threads_read_times_that_never_go_back(mode: str, make: Any) -> None:
    """While the calibrator swaps lines a hundred times a second."""
    source = Told()
    clock = make(source, mode=mode)
    assert clock.wait_synced(PATIENCE_S)
    kept: list[list[tuple[int, int]]] = []

    def read_often() -> None:
        readings = [clock.read() for _ in range(20_000)]
        source.off_ns += MS // 10
        kept.append(readings)

    threads = [threading.Thread(target=read_often) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert len(kept) == 4
    for readings in kept:
        assert all(bound_ns > 0 for _, bound_ns in readings)
        if mode == "correct":
            assert all(a[0] <= b[0] for a, b in itertools.pairwise(readings))


def in_child(work: Callable[[], object]) -> str:
    """What a fork child says."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(write, repr(work()).encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    return said


@pytest.mark.parametrize("hooked", [True, False])
def test_a_fork_child_reads_on_and_calibrates_by_itself(hooked: bool, make: Any) -> None:
    """Also where no hook ran: the pid tells, once the segment is over."""
    clock = make(Told())
    assert clock.wait_synced(PATIENCE_S)
    if not hooked:
        synchronized._clocks.discard(clock)

    def work() -> object:
        if not hooked:
            clock._segment, clock._look_after_ns = clock._nothing, 0
        bound_ns = clock.read()[1]
        alive = clock._thread is not None and clock._thread.is_alive()
        return bound_ns is not None, alive, clock.wait_synced(PATIENCE_S)

    assert in_child(work) == "(True, True, True)"


def test_a_fork_child_follows_its_parent_which_goes_on_leading(
    tmp_path: Path, make: Any
) -> None:
    """The child has closed the lock, not released it."""
    clock = make(Told(), directory=tmp_path)
    assert clock.wait_synced(PATIENCE_S)
    assert clock.snapshot().role == "leader"

    def work() -> object:
        clock.read()
        wait_until(clock, lambda: clock.snapshot().role == "follower")
        return clock.snapshot().leader_pid == os.getppid(), clock.read()[1] is not None

    assert in_child(work) == "(True, True)"
    assert is_led(tmp_path)
    assert not Leadership(tmp_path).take()


def test_processes_of_a_host_share_one_line(tmp_path: Path, make: Any) -> None:
    """Whatever the followers' sources say: they are not asked."""
    theirs = Told("theirs")
    leader, follower = make(Told(), directory=tmp_path), make(theirs, directory=tmp_path)
    assert leader.wait_synced(PATIENCE_S)
    assert follower.wait_synced(PATIENCE_S)
    assert theirs.asked == 0
    assert follower.snapshot().role == "follower"
    assert follower.snapshot().sources[0].name == "told"
    leader.close(PATIENCE_S)
    wait_until(follower, lambda: follower.snapshot().role == "leader")
    wait_until(follower, lambda: theirs.asked > 0)


def test_who_takes_over_goes_on_with_the_line_and_the_drift(tmp_path: Path) -> None:
    """As if nothing had happened: no step, and the bound is as good as before."""
    host = Host(rate=50e-6)
    first = in_virtual_time(host, "correct", Told(host=host))
    again = in_virtual_time(host, "correct", Told(host=host))
    for clock in (first, again):
        clock._calibrator._directory = tmp_path
    for _ in range(600):
        first._turn()
        host.advance(S)
    drift, reading = first.snapshot().drift_error_ppm, first.read()
    assert drift < 30
    first.close()
    state = read_state(tmp_path)
    assert state is not None
    again._turn()
    assert again.snapshot().drift_error_ppm <= drift + 0.1
    assert again.read()[0] >= reading[0]
    assert abs(again.read()[0] - reading[0]) < MS


def test_after_a_reboot_the_drift_is_a_hint_and_no_time_is_below_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ruler is another one: its readings mean nothing any more."""
    host = Host(rate=50e-6)
    clock = in_virtual_time(host, "correct", Told(host=host))
    clock._calibrator._directory = tmp_path
    for _ in range(600):
        clock._turn()
        host.advance(S)
    last_ns = clock.read()[0]
    clock.close()
    rebooted = in_virtual_time(host, "correct", Told(host=host))
    rebooted._calibrator._directory = tmp_path
    monkeypatch.setattr(calibrator, "ruler_identity", lambda: "another boot")
    host.true_ns -= 300 * MS
    rebooted._turn()
    assert rebooted.snapshot().drift_error_ppm == pytest.approx(500)
    assert rebooted.snapshot().drift_ppm == pytest.approx(-50, abs=2)
    assert rebooted.read()[0] >= last_ns


def test_a_leader_that_has_stopped_is_in_holdover_to_its_followers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It holds the lock and says nothing: the line of long ago is all there is."""
    host = Host()
    leader = in_virtual_time(host, "observe", Told(host=host))
    leader._calibrator._directory = tmp_path
    leader._turn()
    follower = in_virtual_time(host, "observe", Told(host=host))
    follower._calibrator._directory = tmp_path
    monkeypatch.setattr(follower._calibrator, "_leads", lambda: False)
    follower._turn()
    assert (follower.status, follower.snapshot().role) == ("", "follower")
    host.advance(5000 * S)
    follower._turn()
    assert follower.status == "holdover"
    assert follower.read()[1] > S


def test_where_nobody_tells_boots_apart_nothing_is_shared(
    tmp_path: Path, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """macOS has no boot id in a file: readings of an earlier boot would be believed."""
    monkeypatch.setattr(calibrator, "ruler_identity", lambda: "")
    clock = make(Told(), directory=tmp_path)
    assert clock.wait_synced(PATIENCE_S)
    assert clock.snapshot().role == "alone"
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_state_costs_only_what_was_in_it(tmp_path: Path, make: Any) -> None:
    """It is written anew."""
    (tmp_path / "clock.state").write_bytes(b"memoir-clock 1 00000000\n{}\n")
    clock = make(Told(), directory=tmp_path)
    assert clock.wait_synced(PATIENCE_S)
    wait_until(clock, lambda: read_state(tmp_path) is not None)


def test_a_directory_that_cannot_be_used_means_calibrating_alone(
    tmp_path: Path, make: Any
) -> None:
    """Said once; the time is known all the same."""
    (tmp_path / "file").write_text("")
    clock = make(Told(), directory=tmp_path / "file" / "clock")
    assert clock.wait_synced(PATIENCE_S)
    assert clock.snapshot().role == "alone"
