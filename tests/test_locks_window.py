"""The window of a process: who may look, what a reader can do to it, and what it leaves."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import json
import os
import resource
import select
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from host_programs.hosting import until
from locks.actors import Stage
from otel_memoir.cli import main
from otel_memoir.errors import LockError
from otel_memoir.locks import LockManager, serving, sockets
from otel_memoir.locks import window as window_module
from otel_memoir.locks.inspect import look
from otel_memoir.locks.serving import Server
from otel_memoir.locks.snapshot import Snapshot
from otel_memoir.locks.sockets import Place
from otel_memoir.locks.window import window

PATIENCE_S = 30.0
NOBODY = 65534


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A state directory of its own; the window is closed at the end."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    yield tmp_path / "otel-memoir" / ".locks"
    assert window.close(PATIENCE_S)


def published(**options: Any) -> LockManager:
    """A manager that is shown."""
    locks = LockManager(socket="contended", **options)
    assert locks.publish(PATIENCE_S)
    return locks


def shown() -> tuple[Snapshot, ...]:
    """The managers of this process, as another one sees them."""
    seen = look([os.getpid()], timeout=PATIENCE_S)
    assert seen.silent == ()
    return tuple(manager for process in seen.processes for manager in process.managers)


def keys() -> list[str]:
    """The keys in them."""
    return [key.key for manager in shown() for key in manager.keys]


# -- when it opens and closes --------------------------------------------------


def test_the_first_wait_opens_it_and_later_ones_pay_nothing(state: Path) -> None:
    """Nothing of it is left on the way of a wait."""
    with Stage("mixed", socket="contended") as stage:
        hooks = len(stage.locks._engine.on_block)
        one, two = stage.actors(2)
        lease = one.acquire("k").get()
        assert not state.exists()
        asked = two.acquire("k")
        stage.sleeps(two)
        assert until(lambda: bool(sockets.places(state)))
        assert len(stage.locks._engine.on_block) == hooks - 1
        assert "k" in keys()
        one.release(lease).get()
        asked.get()


def test_its_thread_has_a_name_and_its_end_leaves_nothing(state: Path) -> None:
    """And it can be opened again."""
    locks = published()
    (thread,) = (one for one in threading.enumerate() if one.name == "memoir-locks")
    assert thread.daemon
    assert window.close(PATIENCE_S)
    assert not thread.is_alive()
    assert list(state.iterdir()) == []
    assert locks.publish(PATIENCE_S)
    assert len(shown()) >= 1


def test_a_manager_that_is_gone_is_not_shown() -> None:
    """The window keeps none alive; those that are left keep their order."""
    gc.collect()
    before = len(shown())
    one, two, three = published(), published(), published()
    leases = [locks.acquire(key) for locks, key in ((one, "a"), (two, "b"), (three, "c"))]
    assert keys()[-3:] == ["a", "b", "c"]
    for lease in leases:
        lease.release()
    del two, leases, lease
    gc.collect()
    assert len(shown()) == before + 2


def test_who_cannot_make_a_socket_says_so_and_locks_all_the_same(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read-only home is no reason to do without locks."""
    said: list[str] = []
    monkeypatch.setattr(
        window_module.complaints, "say", lambda kind, text: said.append(text)
    )
    state.parent.write_text("no directory")
    locks = LockManager(socket="contended")
    assert not locks.publish(PATIENCE_S)
    with locks.hold("k"):
        pass
    assert "cannot see this process" in said[0]


# -- who may look --------------------------------------------------------------


@contextlib.contextmanager
def served(
    directory: Path, answer: Callable[[], bytes], kind: type[Server] = Server
) -> Iterator[Place]:
    """A server that gives an answer of the test's."""
    server, stopping = kind(directory, answer), threading.Event()
    thread = threading.Thread(target=server.serve, args=(stopping,))
    thread.start()
    try:
        (place,) = sockets.places(directory)
        yield place
    finally:
        stopping.set()
        server.wake()
        thread.join(PATIENCE_S)
        server.close()
        assert not thread.is_alive()


def read(place: Place) -> bytes:
    """All that one who connects is told."""
    with sockets.connect(place, PATIENCE_S) as connection:
        return b"".join(iter(lambda: connection.recv(2**16), b""))


@pytest.mark.parametrize(("uid", "told"), [(os.geteuid(), b"x"), (0, b"x"), (NOBODY, b"")])
def test_another_user_is_told_nothing(
    uid: int, told: bytes, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor would one be that got past the mode of the directory; root can look anyway."""
    monkeypatch.setattr(sockets, "_peer", lambda connection: (1, uid))
    with served(state, lambda: b"x") as place:
        assert read(place) == told


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user: run it as root")
def test_a_process_of_another_user_is_told_nothing(tmp_path: Path) -> None:
    """A real one, for which every door but the last was opened."""
    directory = Path("/tmp") / f"memoir-{os.getpid()}"
    code = (
        "import os, socket, sys; os.setuid(int(sys.argv[2])); s = socket.socket(socket.AF_UNIX); "
        "s.connect(sys.argv[1]); print(s.recv(9))"
    )
    try:
        with served(directory, lambda: b"x") as place:
            directory.chmod(0o755)
            place.path.chmod(0o666)
            told = [
                subprocess.run(
                    [sys.executable, "-c", code, str(place.path), str(user)], check=False,
                    capture_output=True, text=True, timeout=PATIENCE_S,
                ).stdout.strip()
                for user in (0, NOBODY)
            ]
            assert told == ["b'x'", "b''"]
    finally:
        directory.rmdir()


def test_the_directory_is_the_users_alone(state: Path) -> None:
    """And so is the socket."""
    with served(state, lambda: b"x") as place:
        assert state.stat().st_mode & 0o777 == 0o700
        assert place.path.stat().st_mode & 0o777 == 0o600


def opened(state: Path) -> None:
    """Others can get in."""
    state.mkdir(parents=True)
    state.chmod(0o755)


def linked(state: Path) -> None:
    """It leads somewhere else."""
    state.parent.mkdir(parents=True)
    (state.parent / "elsewhere").mkdir(mode=0o700)
    state.symlink_to(state.parent / "elsewhere")


@pytest.mark.parametrize("spoil", [opened, linked])
def test_a_directory_that_others_can_write_to_is_not_used(
    spoil: Callable[[Path], None], state: Path
) -> None:
    """Neither to show nor to look: what is found there may be a lie."""
    spoil(state)
    with pytest.raises(LockError, match="lock sockets"):
        Server(state, lambda: b"x")
    result = CliRunner().invoke(main, ["locks"])
    assert result.exit_code == 1
    assert "XDG_STATE_HOME" in result.output


def test_no_socket_is_made_on_a_network_file_system(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There another machine would take it for dead, and remove it."""
    monkeypatch.setattr(sockets, "file_system", lambda path: "nfs4")
    with pytest.raises(LockError, match="network file system"):
        Server(state, lambda: b"x")


def test_a_long_path_is_no_obstacle(state: Path) -> None:
    """The kernel takes a hundred bytes."""
    directory = state.parent.joinpath(*["a long name of a directory"] * 8)
    directory.parent.mkdir(parents=True)
    with served(directory, lambda: b"x") as place:
        assert len(str(place.path)) > 200
        assert read(place) == b"x"


# -- bad readers ---------------------------------------------------------------


def test_readers_that_never_read_keep_nobody_waiting() -> None:
    """Neither who locks nor who reads, though each answer is more than a socket takes."""
    locks = published()
    leases = [locks.acquire(f"notes/{number:02000}") for number in range(200)]
    place = next(one for one in sockets.places(sockets.socket_directory()))
    with contextlib.ExitStack() as hostile:
        for _ in range(serving.READERS_MAX + 4):
            hostile.enter_context(sockets.connect(place, PATIENCE_S))
        assert len(keys()) == 201
        for lease in leases:
            lease.release()
        assert keys() == []


def test_a_reader_that_never_reads_is_left_in_the_end(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has got what fitted, and not the rest."""
    monkeypatch.setattr(serving, "PATIENCE_S", 0.1)
    answer = b"x" * 2**24
    with served(state, lambda: answer) as place, sockets.connect(place, PATIENCE_S) as slow:
        assert until(lambda: hung_up(slow))
        assert 0 < len(b"".join(iter(lambda: slow.recv(2**16), b""))) < len(answer)


def hung_up(connection: socket.socket) -> bool:
    """Whether the other end is closed, without reading."""
    poll = select.poll()
    poll.register(connection, select.POLLRDHUP)
    return bool(poll.poll(0))


def test_a_slow_reader_gets_all_of_it(state: Path) -> None:
    """Negative control."""
    answer = b"x" * 2**24
    with served(state, lambda: answer) as place:
        assert read(place) == answer


def test_a_reader_that_hangs_up_breaks_nothing(state: Path) -> None:
    """Nor does an answer that cannot be made."""
    answers = [b"x" * 2**24]

    def answer() -> bytes:
        return answers.pop()

    with served(state, answer) as place:
        sockets.connect(place, PATIENCE_S).close()
        assert read(place) == b""
        answers.append(b"y")
        assert read(place) == b"y"


class Counting(Server):
    """Notes when it tries to take a connection."""

    def _take(self) -> None:
        tries_s.append(time.monotonic())
        super()._take()


tries_s: list[float] = []


@contextlib.contextmanager
def no_descriptors() -> Iterator[None]:
    """The process has none left."""
    held: list[int] = []
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (128, hard))
    try:
        with contextlib.suppress(OSError):
            while True:
                held.append(os.open(os.devnull, os.O_RDONLY))
        yield
    finally:
        for descriptor in held:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def near() -> Iterator[Path]:
    """A state directory whose sockets have short names: plain ``connect`` takes 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="m") as place:
        yield Path(place)


def test_without_descriptors_it_waits_for_some(
    near: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Instead of turning round; who connected is answered later."""
    monkeypatch.setattr(serving, "_PAUSE_S", 0.05)
    tries_s.clear()
    with served(near, lambda: b"x", Counting) as place:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as late:
            late.settimeout(PATIENCE_S)
            with no_descriptors():
                late.connect(str(place.path))
                assert until(lambda: len(tries_s) >= 4)
            assert late.recv(9) == b"x"
        assert tries_s[3] - tries_s[0] >= 3 * 0.05


def test_who_lives_is_not_asked_by_those_who_clear_up(state: Path) -> None:
    """Or a hundred workers would each ask all the others."""
    asked: list[int] = []

    def answer() -> bytes:
        asked.append(1)
        return b"x"

    with served(state, answer) as place:
        sockets.clear(state)
        read(place)
    assert len(asked) == 1


def test_who_looks_waits_for_its_turn(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where more come at once than the kernel queues; not for longer than it was told to."""
    monkeypatch.setattr(sockets, "BACKLOG", 0)
    sockets.prepare(state)
    listener, place = sockets.listen(state)
    with listener, contextlib.ExitStack() as others:
        with contextlib.suppress(BlockingIOError):
            while True:
                others.enter_context(sockets.connect(place, 0.01))
        began_s = time.monotonic()
        (silent,) = look(timeout=0.05).silent
        assert "too many look at it" in silent.why
        assert time.monotonic() - began_s >= 0.05
        come: list[socket.socket] = []
        thread = threading.Thread(target=lambda: come.append(sockets.connect(place, PATIENCE_S)))
        thread.start()
        listener.accept()[0].close()
        thread.join(PATIENCE_S)
        come.pop().close()


# -- what is read --------------------------------------------------------------


def deadlocked() -> Snapshot:
    """One of everything."""
    with Stage("threads", on_deadlock="report") as stage:
        one, two, three = stage.actors(3)
        one.acquire("a").get()
        two.acquire("b").get()
        for actor, key in ((one, "b"), (two, "a"), (three, "a")):
            actor.acquire(key)
            stage.sleeps(actor)
        return stage.locks.snapshot()


def test_a_snapshot_is_the_same_after_its_way_through_json() -> None:
    """Keys, graph, classes and deadlocks."""
    snapshot = deadlocked()
    assert snapshot.graph and snapshot.deadlocks[0].participants[0].held
    assert Snapshot.from_dict(json.loads(json.dumps(snapshot.to_dict()))) == snapshot


def test_what_a_newer_version_adds_is_left_out() -> None:
    """On every level; what is missing is an error."""
    told = json.loads(json.dumps(deadlocked().to_dict()))
    whole = Snapshot.from_dict(told)
    for one in (told, told["keys"][0], told["keys"][0]["holders"][0], told["graph"][0],
                told["deadlocks"][0], told["deadlocks"][0]["participants"][0]):  # fmt: skip
        one["of a newer version"] = 1
    assert Snapshot.from_dict(told) == whole
    del told["graph"][0]["unit"]
    with pytest.raises(ValueError, match="no Arrow"):
        Snapshot.from_dict(told)


@pytest.mark.parametrize(
    ("answer", "why"),
    [(b"", "without an answer"), (b"{", "cannot read"), (b"[]", "cannot read"),
     (b'{"format": 2}', "format 2"), (b'{"format": 1}', "cannot read"),
     (b'{"format": 1, "pid": 1, "program": "", "taken_unix_ns": 1, "managers": [{}]}',
      "cannot read")],
)
def test_an_answer_that_cannot_be_read_is_said_to_be_one(
    answer: bytes, why: str, state: Path
) -> None:
    """It ends neither the look nor the table of the others."""
    with served(state, lambda: answer):
        (silent,) = look(timeout=PATIENCE_S).silent
    assert why in silent.why
    assert dataclasses.asdict(silent)["pid"] == os.getpid()


def test_names_give_no_orders_to_a_terminal() -> None:
    """A key and a thread can be called anything."""
    locks = published()
    with locks.hold("notes/\x1b[2Ja\ud800b é"):
        result = CliRunner().invoke(main, ["locks"])
    assert "notes/\\x1b[2Ja\\ud800b é" in result.stdout
    assert "\x1b" not in result.stdout
