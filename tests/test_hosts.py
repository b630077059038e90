"""What hosts do to processes: servers that fork, task queues, greenlets, forks of every kind."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from socket import socket

import pytest

from collector import Collector
from host_programs.hosting import (
    TIMEOUT_S,
    Host,
    assert_accounted,
    assert_copies_are_equal,
    assert_each_process_has_its_own_stream,
    assert_no_copies,
    count_of_slots,
    drain,
    hosted,
    listening,
    names,
    program,
    request,
    streams_by_pid,
    until,
    wait_for_names,
    wait_settled,
)
from otel_memoir.spool.directory import Slot, is_held
from otel_memoir.testing import ScriptedCollector

WORKERS = 3
BIN = Path(sys.executable).parent
UWSGI = shutil.which("uwsgi", path=f"{BIN}{os.pathsep}{os.environ['PATH']}")


@pytest.fixture
def collector() -> Iterator[ScriptedCollector]:
    with ScriptedCollector() as running:
        yield running


def judge(host: Host, collector: ScriptedCollector) -> None:
    """Every record arrived, every process has its stream, every file is in order."""
    assert set(host.emitted) - set(names(collector.delivered)) == set()
    assert_each_process_has_its_own_stream(collector.delivered)
    assert_copies_are_equal(collector.delivered)
    assert_accounted(host.spool)
    assert "Traceback" not in host.complaints
    assert "locked" not in host.complaints


# -- servers that fork --------------------------------------------------------


def gunicorn(listener: int, kind: str) -> list[str]:
    """gunicorn, with the application loaded before the fork.

    Not for gevent: its worker patches after the fork, which is too late for what is loaded.
    """
    return [
        str(BIN / "gunicorn"), "--no-control-socket",
        *(["--preload"] if kind != "gevent" else []), "--workers", str(WORKERS),
        "--worker-class", kind,
        "--threads", "4" if kind == "gthread" else "1", "--bind", f"fd://{listener}",
        "host_programs.wsgi:application",
    ]


class Clients:
    """Threads that ask a server to emit, and know which requests were answered."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.answered: dict[str, int] = {}

    def ask(self, label: str, *, threads: int = 4, count: int = 10) -> None:
        """Each thread asks until so many of its requests were answered."""
        running = [
            threading.Thread(target=self._ask, args=(f"{label}-{number}", count), daemon=True)
            for number in range(threads)
        ]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join(TIMEOUT_S)
        assert not any(thread.is_alive() for thread in running)

    def _ask(self, label: str, count: int) -> None:
        answered = 0
        for tried in range(count * 100):
            if answered == count:
                return
            name = f"{label}-{tried}"
            pid = request(self._port, name)
            if pid is not None:
                self.answered[name] = pid
                answered += 1

    @property
    def pids(self) -> set[int]:
        return set(self.answered.values())


def serve_and_kill(clients: Clients, *, kills: int) -> None:
    """Requests, while one worker after the other is killed and replaced."""
    for round_ in range(kills):
        asking = threading.Thread(target=clients.ask, args=(f"round{round_}",), daemon=True)
        before = len(clients.answered)
        asking.start()
        while len(clients.answered) == before:
            asking.join(0.005)
        os.kill([*clients.answered.values()][-1], signal.SIGKILL)
        asking.join(TIMEOUT_S)
        assert not asking.is_alive()
    clients.ask("after")


def serve(
    command: Sequence[str], listener: socket, collector: ScriptedCollector, tmp_path: Path
) -> None:
    """Requests, kills, and a destination that is away until the last kill.

    So no attempt is ambiguous, and each record arrives once. A request that was not
    answered may have stored its record or not.
    """
    collector.down()
    with hosted(command, tmp_path, collector.endpoint, pass_fds=[listener.fileno()]) as host:
        clients = Clients(listener.getsockname()[1])
        serve_and_kill(clients, kills=WORKERS)
        collector.up()
        by_master = [f"loaded {host.process.pid}"] if is_preloaded(command) else []
        wait_for_names(collector, [*by_master, *clients.answered])
        wait_settled(host.spool)
        assert host.end(signal.SIGTERM) == 0, host.complaints
    drain(host.spool, collector.endpoint)
    judge(host, collector)
    assert_no_copies(collector.delivered)
    assert len(clients.pids) > WORKERS, "no worker was replaced"


def is_preloaded(command: Sequence[str]) -> bool:
    """Whether the master has the application too."""
    return "--preload" in command or "--py-call-uwsgi-fork-hooks" in command


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "kind", ["sync", pytest.param("gthread", marks=SLOW), pytest.param("gevent", marks=SLOW)]
)
def test_no_answered_request_of_killed_gunicorn_workers_is_missing_or_seen_twice(
    kind: str, collector: ScriptedCollector, tmp_path: Path
) -> None:
    """The provider was made and used in the master; workers are killed and replaced."""
    with listening() as listener:
        serve(gunicorn(listener.fileno(), kind), listener, collector, tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(UWSGI is None, reason="no uWSGI: pip install uwsgi (needs a C compiler)")
@pytest.mark.parametrize("hooks", ["--py-call-uwsgi-fork-hooks", "--lazy-apps"])
def test_no_answered_request_of_killed_uwsgi_workers_is_missing_or_seen_twice(
    hooks: str, collector: ScriptedCollector, tmp_path: Path
) -> None:
    """uWSGI calls Python's fork hooks if told; without them nothing may be open in its master.

    With neither, a worker hangs if the master's courier is in SQLite at the fork.
    """
    with listening() as listener:
        # A worker that is told to end while it loads the application forgets that (seen); its
        # master then waits for a minute, unless told for how long.
        command = [
            str(UWSGI), "--master", "--need-app", "--enable-threads", "--die-on-term", hooks,
            "--worker-reload-mercy", "5", "--processes", str(WORKERS), "--http-socket", f"fd://{listener.fileno()}",
            "--virtualenv", sys.prefix, "--module", "host_programs.wsgi:application",
        ]
        serve(command, listener, collector, tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(UWSGI is None, reason="no uWSGI: pip install uwsgi (needs a C compiler)")
@pytest.mark.parametrize("lacking", ["enable-threads", "py-call-uwsgi-fork-hooks"])
def test_uwsgi_without_what_we_need_is_told_of(
    lacking: str, collector: ScriptedCollector, tmp_path: Path
) -> None:
    """Nothing delivered, or a worker that hangs: neither explains itself."""
    options = {"enable-threads", "py-call-uwsgi-fork-hooks"}
    with listening() as listener:
        command = [
            str(UWSGI), "--master", "--need-app", "--die-on-term",
            *(f"--{option}" for option in options - {lacking}),
            "--http-socket", f"fd://{listener.fileno()}", "--virtualenv", sys.prefix,
            "--module", "host_programs.wsgi:application",
        ]
        with hosted(command, tmp_path, collector.endpoint, pass_fds=[listener.fileno()]) as host:
            assert until(lambda: "spawned uWSGI worker" in host.complaints)
            assert [option for option in options if f"with --{option}" in host.complaints] == [
                lacking
            ]


@pytest.mark.slow
@pytest.mark.collector
def test_a_real_collector_has_every_answered_request_of_killed_gunicorn_workers(
    otelcol: Path, tmp_path: Path
) -> None:
    """Killed while it delivers, a worker may leave an attempt open: then copies are equal."""
    (tmp_path / "collector").mkdir()
    with Collector(otelcol, tmp_path / "collector") as real, listening() as listener:
        command = gunicorn(listener.fileno(), "sync")
        with hosted(command, tmp_path, real.http_endpoint, pass_fds=[listener.fileno()]) as host:
            clients = Clients(listener.getsockname()[1])
            serve_and_kill(clients, kills=WORKERS)
            # A worker that is told to end before it listens to signals does not hear it, and
            # gunicorn then waits for it for 30 s (seen).
            assert until(lambda: host.complaints.count("Booting worker") == 2 * WORKERS)
            assert host.end(signal.SIGTERM) == 0, host.complaints
        drain(host.spool, real.http_endpoint)
        received = real.received()
    assert set(clients.answered) - set(names(received)) == set()
    assert_copies_are_equal(received)
    assert_accounted(host.spool)


# -- a task queue -------------------------------------------------------------


def end_celery(host: Host) -> None:
    """Warm, else cold: a warm shutdown beside the change of a child took over 30 s once in 12 runs.

    Every task has told that its emit returned by then, so nothing hangs on how it ends.
    """
    host.process.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        host.process.wait(TIMEOUT_S / 2)
    host.end(signal.SIGQUIT if host.process.poll() is None else None)


@pytest.mark.slow
@pytest.mark.parametrize("destination", ["up", "down"])
def test_each_celery_child_lives_for_one_task_whose_record_is_delivered(
    destination: str, collector: ScriptedCollector, tmp_path: Path
) -> None:
    """What a child could not send before it ended, a later one does, or a later process."""
    tasks, concurrency = 12, 2
    if destination == "down":
        collector.down()
    command = program("tasks.py", str(tasks), str(concurrency))
    with hosted(command, tmp_path, collector.endpoint) as host:
        host.wait_told("emitted", times=tasks)
        end_celery(host)
    collector.up()
    drain(host.spool, collector.endpoint)
    assert sorted(host.emitted) == sorted(f"task {number}" for number in range(tasks))
    judge(host, collector)
    if destination == "down":  # no attempt was cut off by the end of a child
        assert_no_copies(collector.delivered)
    assert len(streams_by_pid(collector.delivered)) == tasks
    print(f"{count_of_slots(host.spool)} files for {tasks} children")
    assert count_of_slots(host.spool) < tasks, "files were not taken again"


# -- greenlets ----------------------------------------------------------------


def commits_and_records(
    kind: str, collector: ScriptedCollector, tmp_path: Path
) -> tuple[int, int]:
    """Run 16 threads that emit; how many commits they made, for how many records."""
    with hosted(program("greenlets.py", kind), tmp_path, collector.endpoint) as host:
        assert host.end() == 0, host.complaints
    drain(host.spool, collector.endpoint)
    assert len(host.emitted) == 161
    judge(host, collector)
    _, commits, records = host.told[-1].split()
    return int(commits), int(records)


def test_under_gevent_every_record_has_its_own_commit_and_arrives(
    collector: ScriptedCollector, tmp_path: Path
) -> None:
    """As docs/guarantees.md says; and the interpreter ends by itself."""
    assert commits_and_records("greenlets", collector, tmp_path) == (160, 160)


def test_threads_share_commits(collector: ScriptedCollector, tmp_path: Path) -> None:
    """The negative control: the count above does not count records."""
    commits, records = commits_and_records("plain", collector, tmp_path)
    assert commits < records == 160


# -- forks --------------------------------------------------------------------


def run_fork(scenario: str, *flags: str, collector: ScriptedCollector, tmp_path: Path) -> Host:
    """Run a scenario to its end, and deliver what it left."""
    with hosted(program("forks.py", scenario, *flags), tmp_path, collector.endpoint) as host:
        assert host.end() == 0, host.complaints
    drain(host.spool, collector.endpoint)
    return host


@pytest.mark.parametrize(("scenario", "records"), [("nesting", 6), ("threading", 104)])
def test_forks_of_forks_and_forks_among_emitting_threads_are_streams_of_their_own(
    scenario: str, records: int, collector: ScriptedCollector, tmp_path: Path
) -> None:
    """A grandchild outlives its parent; eight threads fork while the others emit."""
    host = run_fork(scenario, collector=collector, tmp_path=tmp_path)
    assert len(host.emitted) == records
    assert set(host.emitted) <= set(names(collector.delivered))
    assert_each_process_has_its_own_stream(collector.delivered)
    assert len(streams_by_pid(collector.delivered)) == (3 if scenario == "nesting" else 9)
    assert_accounted(host.spool)


def test_a_fork_child_that_emitted_nothing_does_not_count_its_parents_records_as_its_own(
    collector: ScriptedCollector, tmp_path: Path
) -> None:
    """It has no file yet, and must not look into that of its parent."""
    host = run_fork("counting", collector=collector, tmp_path=tmp_path)
    assert host.told[-1] == "accepted 0"


def test_what_a_zombie_left_is_delivered_before_it_is_reaped(
    collector: ScriptedCollector, tmp_path: Path
) -> None:
    """Dead is who holds no lock, not who has no pid."""
    with hosted(program("forks.py", "dying"), tmp_path, collector.endpoint) as host:
        host.wait_told("zombie")
        wait_for_names(collector, ["parent", "child"])
        status = Path(f"/proc/{host.told[-1].split()[1]}/stat")
        assert not status.parent.parent.exists() or " Z " in status.read_text()
        assert host.end() == 0
    assert_accounted(host.spool)


def test_a_fork_in_the_middle_of_the_couriers_imports_leaves_the_child_able_to_deliver(
    collector: ScriptedCollector, tmp_path: Path
) -> None:
    """A fork waits for them: the child would have the lock of a module that nobody releases."""
    host = run_fork("importing", collector=collector, tmp_path=tmp_path)
    assert host.told[-1] == "delivered True"
    assert set(host.emitted) == {"parent", "child"} == set(names(collector.delivered))


def test_a_fork_that_waits_for_no_import_leaves_a_child_that_cannot_deliver(
    collector: ScriptedCollector, tmp_path: Path
) -> None:
    """The negative control."""
    host = run_fork("importing", "weaken", collector=collector, tmp_path=tmp_path)
    assert host.told[-1] == "delivered False"


def test_a_fork_child_never_opens_a_file_that_its_parent_had_open(
    collector: ScriptedCollector, tmp_path: Path
) -> None:
    """Meanwhile another process wrote to it; the child's SQLite knows an older log of it."""
    host = run_fork("inheriting", collector=collector, tmp_path=tmp_path)
    assert len(host.emitted) == 41
    assert set(host.emitted) <= set(names(collector.delivered))
    assert_each_process_has_its_own_stream(collector.delivered)
    assert_accounted(host.spool)


def test_a_fork_child_that_opens_its_parents_file_destroys_what_others_wrote_to_it(
    collector: ScriptedCollector, tmp_path: Path
) -> None:
    """The negative control: 20 fsynced records were gone."""
    host = run_fork("inheriting", "weaken", collector=collector, tmp_path=tmp_path)
    lost = set(host.emitted) - set(names(collector.delivered))
    assert any(name.startswith("stranger") for name in lost)


@pytest.mark.parametrize(("flags", "files"), [((), 18), (("weaken",), 25)])
def test_short_lived_workers_leave_no_litter_while_nothing_can_be_delivered(
    flags: tuple[str, ...], files: int, collector: ScriptedCollector, tmp_path: Path
) -> None:
    """The parent holds 16 files of dead children and leaves the rest to the next child.

    Without that bound, as the control shows, each child needs a new file.
    """
    collector.down()
    with hosted(program("forks.py", "littering", *flags), tmp_path, collector.endpoint) as host:
        assert host.end() == 0, host.complaints
    assert count_of_slots(host.spool) == files
    collector.up()
    drain(host.spool, collector.endpoint)
    judge(host, collector)
    assert_no_copies(collector.delivered)


def outlive(
    *flags: str, collector: ScriptedCollector, tmp_path: Path
) -> tuple[Host, list[bool], list[bool]]:
    """A child outlives its killed parent.

    Returns:
        The program; which of the slots 1 and 2 were held while both lived; and which
        once the parent was dead.
    """
    with hosted(program("forks.py", "outliving", *flags), tmp_path, collector.endpoint) as host:
        host.wait_told("ready")
        slots = [Slot(host.spool, number) for number in (1, 2)]
        both = [is_held(slot) for slot in slots]
        host.process.kill()
        host.process.wait(TIMEOUT_S)
        after = [is_held(slot) for slot in slots]
        if not after[0]:
            drain(host.spool, collector.endpoint)
            wait_for_names(collector, host.emitted)
    drain(host.spool, collector.endpoint)
    return host, both, after


@pytest.mark.parametrize("hooks", ["hooked", "unhooked"])
def test_a_fork_child_is_a_new_stream_and_its_parents_lock_is_neither_freed_nor_kept(
    hooks: str, collector: ScriptedCollector, tmp_path: Path
) -> None:
    """With Python's fork hooks, and without them, as under uWSGI."""
    host, both, after = outlive(hooks, collector=collector, tmp_path=tmp_path)
    assert (both, after) == ([True, True], [False, True])
    assert len(host.emitted) == 5
    judge(host, collector)
    assert len(streams_by_pid(collector.delivered)) == 2


def test_without_hooks_and_without_the_look_at_the_pid_a_child_writes_into_its_parents_stream(
    collector: ScriptedCollector, tmp_path: Path
) -> None:
    """The negative control: it begins in the parent's file, until a number is taken there."""
    host, _, _ = outlive("unhooked", "weaken", collector=collector, tmp_path=tmp_path)
    with pytest.raises(AssertionError):
        judge(host, collector)


def test_a_fork_child_that_idles_does_not_keep_a_dead_parents_records_from_adoption(
    collector: ScriptedCollector, tmp_path: Path
) -> None:
    """Python's hook closes the inherited lock at once."""
    host, both, after = outlive("idle", collector=collector, tmp_path=tmp_path)
    assert (both, after) == ([True, False], [False, False])
    judge(host, collector)


def test_a_fork_child_that_keeps_what_it_inherited_keeps_a_dead_parents_slot(
    collector: ScriptedCollector, tmp_path: Path
) -> None:
    """The negative control."""
    _, _, after = outlive("idle", "weaken", collector=collector, tmp_path=tmp_path)
    assert after == [True, False]
