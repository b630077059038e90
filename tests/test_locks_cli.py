"""What `otel-memoir locks` shows of living processes, and what it takes to be seen by it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from host_programs.hosting import Host, hosted, interruptible, listening, request, until
from otel_memoir.cli import main
from otel_memoir.locks.sockets import Place, connect, places

PROGRAMS = Path(__file__).resolve().parent / "lock_programs"
BIN = Path(sys.executable).parent
TIMEOUT_S = 60.0
LONG = ("--long-wait", "1000")


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's state directory, for the programs and for who looks."""
    home = tmp_path / "state"
    monkeypatch.setenv("XDG_STATE_HOME", str(home))
    return home / "otel-memoir" / ".locks"


def sockets(state: Path) -> list[Place]:
    """The sockets that are there, dead or alive."""
    return places(state)


@contextmanager
def running(
    kind: str, tmp_path: Path, *, ready: int = 1, seen: int | None = None, **environ: str
) -> Iterator[Host]:
    """A program in its situation, seen as soon as it told so and its sockets are there."""
    command = [sys.executable, "-W", "always::ResourceWarning", str(PROGRAMS / "waiting.py"), kind]
    with hosted(command, tmp_path, "http://127.0.0.1:9", **environ) as host:
        host.wait_told("ready", times=ready)
        state = tmp_path / "state" / "otel-memoir" / ".locks"
        wanted = ready if seen is None else seen
        assert until(lambda: len(sockets(state)) >= wanted), host.complaints
        yield host


def pids(host: Host) -> list[int]:
    """The processes that told that they are ready."""
    return [int(line.split()[1]) for line in host.told if line.startswith("ready ")]


def run(*arguments: object) -> Result:
    """``otel-memoir locks``, in this process."""
    return CliRunner().invoke(main, ["locks", *(str(one) for one in arguments)])


def looked(*arguments: object) -> dict[str, Any]:
    """What it prints as JSON."""
    found = json.loads(run("--json", *arguments).stdout)
    assert isinstance(found, dict)
    return found


def keys(process: dict[str, Any]) -> set[str]:
    """The keys that a process shows."""
    return {key["key"] for manager in process["managers"] for key in manager["keys"]}


# -- what is shown -------------------------------------------------------------


def test_another_process_sees_who_holds_who_waits_and_where(tmp_path: Path) -> None:
    """The real command and a real process with two managers, side by side."""
    with running("wait", tmp_path) as host:
        (pid,) = pids(host)
        done = subprocess.run(
            [str(BIN / "otel-memoir"), "locks", *LONG], capture_output=True, text=True,
            timeout=TIMEOUT_S, check=False,
        )
        assert done.returncode == 0, done.stderr
        lines = done.stdout.splitlines()
        assert lines[0].startswith(f"Process {pid} (waiting.py) at ")
        (holder,) = (line for line in lines if "taken" not in line and "in hold" in line)
        assert re.match(rf"notes/a +exclusive +thread:holder/{pid}\.\d+ +[\d.]+ s", holder)
        assert re.search(r" [0-9a-f]{32}/[0-9a-f]{16} .*waiting\.py:\d+ in hold$", holder)
        (waiter,) = (line for line in lines if "in want" in line)
        assert re.match(rf"notes/a +exclusive +thread:waiter/{pid}\.\d+ +[\d.]+ s +3 ", waiter)
        assert re.search(rf"thread:holder/{pid}\.\d+ +\S+waiting\.py:\d+ in want$", waiter)
        assert any("other/b" in line and "shared" in line for line in lines)
        assert "lock manager 2 of 2" in lines
        assert not any("intent" in line for line in lines)


def test_what_programs_read_keeps_its_names(tmp_path: Path) -> None:
    """Fields may be added; these stay."""
    with running("wait", tmp_path) as host:
        found = looked(*LONG)
    assert set(found) == {"processes", "silent", "findings"}
    (process,) = found["processes"]
    assert process["pid"] in pids(host)
    assert {"pid", "program", "taken", "taken_unix_ns", "standing_deadlocks", "managers"} == set(
        process
    )
    one, two = process["managers"]
    assert set(one) == {"keys", "graph", "classes", "deadlocks"}
    (key,) = (key for key in one["keys"] if key["key"] == "notes/a")
    assert set(key) == {"key", "holders", "waiters"}
    assert set(key["holders"][0]) == {
        "unit", "mode", "held_s", "fencing_token", "acquired_at", "trace_id", "span_id",
    }
    assert set(key["waiters"][0]) == {
        "unit", "mode", "waited_s", "priority", "waiting_at", "trace_id", "span_id",
    }
    assert set(one["graph"][0]) == {"unit", "target", "kind", "key"}
    assert "other/b" in {key["key"] for key in two["keys"]}


def test_the_graph_is_drawn(tmp_path: Path) -> None:
    """For Graphviz and as Mermaid."""
    with running("wait", tmp_path):
        dot, mermaid = run("--dot", *LONG).stdout, run("--mermaid", *LONG).stdout
    assert re.search(r'"thread:waiter/[\d.]+" -> "thread:holder/[\d.]+" \[label="lock notes/a"\]',
                     dot)  # fmt: skip
    assert mermaid.startswith("flowchart LR\n")
    assert '-->|"lock notes/a"|' in mermaid


def test_the_exit_code_tells_of_a_long_wait(tmp_path: Path) -> None:
    """What is long is an option and a setting."""
    with running("wait", tmp_path):
        assert run(*LONG).exit_code == 0
        late = run("--long-wait", "0")
        assert late.exit_code == 1
        assert "1 waiting for more than 0 s" in late.stdout
        environ = {"MEMOIR_LOCK_LONG_WAIT": "0.001"}
        assert CliRunner().invoke(main, ["locks"], env=environ).exit_code == 1


def test_a_deadlock_that_is_only_reported_is_seen_to_stand(tmp_path: Path) -> None:
    """However short it has lasted."""
    with running("circle", tmp_path) as host:
        result = run("--deadlocks", *LONG)
        assert result.exit_code == 1
        assert "(reported, and it stands)" in result.stdout
        for unit, wanted, held in (("one", "b", "a"), ("two", "a", "b")):
            assert re.search(
                rf"thread:{unit}/\S+ \(survivor\) waits for lock notes/{wanted} exclusive at \S+ "
                rf"in take\n +holds notes/{held} exclusive, taken at \S+ in take\n", result.stdout
            )  # fmt: skip
        assert "1 deadlock(s) that nothing was done about" in run(*LONG).stdout
        assert run("--deadlocks", "--mermaid", *LONG).stdout.count("-->") == 2
        (process,) = looked(*LONG)["processes"]
        assert len(process["standing_deadlocks"]) == 1
        assert process["pid"] in pids(host)


def test_it_looks_again_and_again_until_interrupted(tmp_path: Path) -> None:
    """An interrupt is no error."""
    with running("wait", tmp_path) as host:
        command = [str(BIN / "otel-memoir"), "locks", "--watch", "0.1", *LONG]
        with subprocess.Popen(
            interruptible(command), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as watching:
            assert watching.stdout is not None and watching.stderr is not None
            looks = 0
            while looks < 3:
                looks += watching.stdout.readline().startswith(f"Process {pids(host)[0]} ")
            watching.send_signal(signal.SIGINT)
            watching.stdout.read()
            assert watching.stderr.read() == ""
            assert watching.wait(TIMEOUT_S) == 0


@pytest.mark.parametrize(
    "options",
    [("--json", "--dot"), ("--dot", "--mermaid"), ("--watch", "1", "--json"), ("0",), ("x",)],
)
def test_wrong_usage_is_told_apart(options: tuple[str, ...]) -> None:
    """Exit code 2, as for the other commands."""
    assert run(*options).exit_code == 2


# -- who is seen ---------------------------------------------------------------


def test_what_is_free_opens_no_file_and_starts_no_thread(tmp_path: Path, state: Path) -> None:
    """And who looks is told when a process can be seen."""
    with running("free", tmp_path, seen=0) as host:
        assert host.told[0].split()[1:] == ["MainThread"]
        assert not state.exists()
        nobody = run()
        assert nobody.exit_code == 0
        assert "No process of this user shows its locks" in nobody.stdout
        named = run(pids(host)[0])
        assert named.exit_code == 1
        for result in (nobody, named):
            assert "first time that something in it had to wait" in result.stdout
            assert "LockManager.publish()" in result.stdout
            assert "MEMOIR_LOCK_SOCKET" in result.stdout
            assert str(state) in result.stdout


def test_a_process_is_seen_from_the_start_if_it_publishes(tmp_path: Path, state: Path) -> None:
    """Its socket is there when ``publish`` returns, and gone when the process has ended."""
    with running("publish", tmp_path, seen=0) as host:
        assert host.told[0] == "published True"
        (process,) = looked()["processes"]
        assert keys(process) == {"notes", "notes/a"}
        assert len(sockets(state)) == 1
        assert host.process.stdin is not None
        host.process.stdin.close()
        assert host.process.wait(TIMEOUT_S) == 0
        assert list(state.iterdir()) == []


@pytest.mark.parametrize("kind", ["publish", "wait"])
def test_a_process_can_be_told_not_to_show_anything(
    kind: str, tmp_path: Path, state: Path
) -> None:
    """MEMOIR_LOCK_SOCKET=off is stronger than ``publish``."""
    with running(kind, tmp_path, seen=0, MEMOIR_LOCK_SOCKET="off") as host:
        assert looked()["processes"] == []
        assert not state.exists()
        assert "published True" not in host.told


@pytest.mark.parametrize(("kind", "who"), [("blocked", "MainThread"), ("hung_loop", "waiter")])
def test_a_process_that_hangs_still_answers(kind: str, who: str, tmp_path: Path) -> None:
    """All its threads wait, or its event loop stands still: that is when one looks."""
    with running(kind, tmp_path):
        (process,) = looked(*LONG)["processes"]
        waiting = [
            waiter["unit"] for manager in process["managers"] for key in manager["keys"]
            for waiter in key["waiters"]
        ]
        assert any(f":{who}/" in unit for unit in waiting), waiting


def test_a_process_that_is_stopped_does_not_hang_who_looks(tmp_path: Path) -> None:
    """Negative control: it is the process that answers. The others are shown all the same."""
    with running("forks", tmp_path, ready=2) as host:
        parent = host.process.pid
        os.kill(parent, signal.SIGSTOP)
        try:
            os.waitpid(parent, os.WUNTRACED)  # until then its other threads may still answer
            found = looked("--timeout", "0.2", *LONG)
            assert [silent["pid"] for silent in found["silent"]] == [parent]
            assert [one["pid"] for one in found["processes"]] == [
                pid for pid in pids(host) if pid != parent
            ]
            result = run("--timeout", "0.2", *LONG)
            assert result.exit_code == 1
            assert f"process {parent}: it did not answer within 0.2 s" in result.stdout
        finally:
            os.kill(parent, signal.SIGCONT)


def test_a_fork_child_shows_its_own_locks_and_not_its_parents(
    tmp_path: Path, state: Path
) -> None:
    """And its parent's socket is closed in it: when the parent dies, it is dead."""
    with running("forks", tmp_path, ready=2) as host:
        parent = host.process.pid
        (child,) = (pid for pid in pids(host) if pid != parent)
        shown = {one["pid"]: keys(one) for one in looked(*LONG)["processes"]}
        assert shown == {parent: {"notes", "notes/a"}, child: {"notes", "notes/child"}}
        assert {one["pid"] for one in looked(child, *LONG)["processes"]} == {child}
        host.process.kill()
        host.process.wait(TIMEOUT_S)
        (dead,) = (place for place in sockets(state) if place.pid == parent)
        with pytest.raises(ConnectionRefusedError):
            connect(dead, TIMEOUT_S)
        found = looked(*LONG)
        assert [one["pid"] for one in found["processes"]] == [child]
        assert found["silent"] == []
        assert "ResourceWarning" not in host.complaints


def test_what_a_killed_process_leaves_is_removed_by_the_next_look(
    tmp_path: Path, state: Path
) -> None:
    """kill -9 leaves the socket: nobody was there to remove it."""
    with running("wait", tmp_path) as host:
        host.process.kill()
        host.process.wait(TIMEOUT_S)
        assert len(sockets(state)) == 1
        assert run().exit_code == 0
        assert sockets(state) == []


def test_it_is_removed_too_by_the_next_process_that_shows_itself(
    tmp_path: Path, state: Path
) -> None:
    """A service that is killed again and again leaves no litter where nobody looks."""
    with running("wait", tmp_path) as host:
        host.process.kill()
        host.process.wait(TIMEOUT_S)
        (dead,) = sockets(state)
    with running("publish", tmp_path) as host:
        (living,) = sockets(state)
        assert (living.pid, dead.pid == living.pid) == (host.process.pid, False)


def test_a_dead_process_is_recognised_though_its_child_keeps_the_socket_open(
    tmp_path: Path, state: Path
) -> None:
    """A fork that Python did not see, as a server written in C makes: connecting works."""
    with running("forks_unseen", tmp_path) as host:
        host.process.kill()
        host.process.wait(TIMEOUT_S)
        found = looked("--timeout", "0.2")
        assert (found["processes"], found["silent"], sockets(state)) == ([], [], [])


@pytest.mark.newest
def test_each_worker_of_a_server_is_seen(tmp_path: Path, state: Path) -> None:
    """gunicorn, which forks them after it has loaded the application and its lock manager."""
    with listening() as listener:
        port = listener.getsockname()[1]
        command = [
            str(BIN / "gunicorn"), "--no-control-socket", "--preload", "--workers", "2",
            "--bind", f"fd://{listener.fileno()}", "lock_programs.wsgi:application",
        ]
        with hosted(
            command, tmp_path, "http://127.0.0.1:9", pass_fds=[listener.fileno()]
        ) as host:
            asked: set[int | None] = set()
            assert until(lambda: len(asked.add(request(port, "x")) or asked) == 2), host.complaints
            assert until(lambda: len(sockets(state)) == 2)
            found = looked(*LONG)
            assert {one["pid"] for one in found["processes"]} == asked
            assert all("profiles/u1" in keys(one) for one in found["processes"])
