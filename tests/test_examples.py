"""The examples do what they say, each as a user would run it."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from host_programs.hosting import Host, hosted, listening, until
from otel_memoir.events import names
from otel_memoir.testing import ScriptedCollector

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
TIMEOUT_S = 60.0

pytestmark = [pytest.mark.newest, pytest.mark.timeout(120)]


@pytest.fixture
def collector() -> Iterator[ScriptedCollector]:
    with ScriptedCollector() as running:
        yield running


def run(name: str, tmp_path: Path, collector: ScriptedCollector) -> str:
    """Run an example to its end; return what it said."""
    command = [sys.executable, str(EXAMPLES / name)]
    with hosted(command, tmp_path, collector.endpoint) as host:
        assert host.end() == 0, host.complaints
        return "\n".join(host.told)


def told(collector: ScriptedCollector) -> list[str]:
    """The names of the events that arrived."""
    return [record.event_name for record in collector.delivered]


def test_every_example_has_a_test() -> None:
    """A file that nobody runs goes stale."""
    tested = Path(__file__).read_text()
    for path in EXAMPLES.iterdir():
        if path.suffix in (".py", ".yaml"):
            assert path.stem in tested, path.name
            assert path.name in (EXAMPLES / "README.md").read_text(), path.name


def test_quickstart(tmp_path: Path, collector: ScriptedCollector) -> None:
    """Five events, the intention before the change."""
    said = run("quickstart.py", tmp_path, collector)
    assert said.splitlines() == ["on disk: True", "delivered: True"]
    assert told(collector) == [
        names.EVENT_RECORD_CREATED, names.EVENT_RECALL_COMPLETED, names.EVENT_CHANGE_INTENDED,
        names.EVENT_RECORD_UPDATED,
    ]


def test_crash_in_a_change(tmp_path: Path, collector: ScriptedCollector) -> None:
    """What nobody knows is told once."""
    said = run("crash_in_a_change.py", tmp_path, collector)
    assert said.splitlines() == ["killed by signal 9", "delivered: True"]
    arrived = told(collector)
    assert arrived.count(names.EVENT_CHANGE_INTENDED) == 1
    assert arrived.count(names.EVENT_CHANGE_UNKNOWN) == 1


def test_reflections_in_deadlock(tmp_path: Path, collector: ScriptedCollector) -> None:
    """One is refused, with the circle; begun again it completes, and nothing is written twice."""
    said = run("reflections_in_deadlock.py", tmp_path, collector).splitlines()
    (refused,) = [line for line in said if line.startswith("refused: ")]
    assert refused.count(" waits for lock profile/") == 2
    assert all(f"thread:{name}/" in refused for name in ("alice", "bob"))
    assert sorted(line for line in said if line not in (refused, "delivered: True")) == [
        "completed: alice", "completed: bob",
    ]
    assert Counter(told(collector)) == {
        names.EVENT_REFLECTION_STARTED: 3, names.EVENT_REFLECTION_FAILED: 1,
        names.EVENT_REFLECTION_COMPLETED: 2, names.EVENT_LOCK_DEADLOCK: 2,
        names.EVENT_CHANGE_INTENDED: 2, names.EVENT_RECORD_UPDATED: 2,
    }


def test_hosts_in_order(tmp_path: Path, collector: ScriptedCollector) -> None:
    """The call lies inside the caller's two events, whatever the clocks say."""
    said = run("hosts_in_order.py", tmp_path, collector)
    rows = [line for line in said.splitlines() if "memoir.record" in line]
    assert [row.split("memoir.record.")[1].split()[0] for row in rows] == [
        "read", "read", "updated", "updated",
    ]
    streams = [row.split()[1] for row in rows]
    assert streams[0] == streams[3]
    assert streams[1] == streams[2] != streams[0]


def ask(port: int, method: str, path: str, body: Any = None) -> tuple[int, str]:
    """One request of a local server."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    try:
        data = None if body is None else json.dumps(body)
        connection.request(method, path, data, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


@contextmanager
def serving(
    program: list[str], tmp_path: Path, collector: ScriptedCollector, listener: socket.socket
) -> Iterator[Host]:
    """A server of ``examples`` on a socket that listens already."""
    command = [sys.executable, *program]
    with hosted(
        command, tmp_path, collector.endpoint, pass_fds=[listener.fileno()],
        PYTHONPATH=os.pathsep.join([str(EXAMPLES), str(ROOT / "tests")]),
    ) as host:
        yield host


UNDER_BLOCKBUSTER = """
import sys, uvicorn, web_service
from blockbuster import BlockBuster
BlockBuster().activate()
uvicorn.run(web_service.app, fd=int(sys.argv[1]))
"""


@pytest.mark.parametrize("guarded", [False, True], ids=["", "blockbuster"])
def test_web_service(tmp_path: Path, collector: ScriptedCollector, guarded: bool) -> None:
    """uvicorn; two writers with one version: one is refused, and its block never began.

    Under blockbuster, a call that blocks the loop raises: the answer would be 500.
    """
    with listening() as listener:
        port = listener.getsockname()[1]
        program = ["-m", "uvicorn", "--fd", str(listener.fileno()), "web_service:app"]
        if guarded:
            program = ["-c", UNDER_BLOCKBUSTER, str(listener.fileno())]
        with serving(program, tmp_path, collector, listener) as host:
            written = ask(port, "PUT", "/memories/alice", {"text": "tea"})
            stale = ask(port, "PUT", "/memories/alice", {"text": "water"})
            read = ask(port, "GET", "/memories/alice")
            assert host.end(signal.SIGTERM) in (0, -signal.SIGTERM), host.complaints
    assert (written[0], stale[0]) == (200, 409)
    assert json.loads(read[1]) == {"version": 1, "text": "tea", "stored": True}
    assert until(lambda: names.EVENT_WRITE_CONFLICT in told(collector))
    assert told(collector) == [
        names.EVENT_CHANGE_INTENDED, names.EVENT_RECORD_UPDATED, names.EVENT_WRITE_CONFLICT,
        names.EVENT_RECORD_READ,
    ]


def test_gunicorn_app(tmp_path: Path, collector: ScriptedCollector) -> None:
    """A receipt for each request, from whichever worker."""
    with listening() as listener:
        port = listener.getsockname()[1]
        program = ["-m", "gunicorn", "--preload", "--workers", "2", "--bind",
                   f"fd://{listener.fileno()}", "gunicorn_app:application"]
        with serving(program, tmp_path, collector, listener) as host:
            answers = [ask(port, "GET", f"/r{number}")[1] for number in range(6)]
            host.end(signal.SIGTERM)
    assert all(": memoir:" in answer for answer in answers)
    assert collector.wait_for(6, timeout=TIMEOUT_S)


def test_celery_app(tmp_path: Path, collector: ScriptedCollector) -> None:
    """The task, called in this process: its worker is tested in test_hosts."""
    program = "from celery_app import remember; print(remember('alice', 'likes tea'))"
    with hosted(
        [sys.executable, "-c", program], tmp_path, collector.endpoint, PYTHONPATH=str(EXAMPLES)
    ) as host:
        assert host.end() == 0, host.complaints
    assert host.told[0].startswith("memoir:")
    assert told(collector) == [names.EVENT_CHANGE_INTENDED, names.EVENT_RECORD_UPDATED]


def test_kubernetes() -> None:
    """kubernetes.yaml: the spool is on the volume, and its variables are ours."""
    found = yaml.safe_load((EXAMPLES / "kubernetes.yaml").read_text())
    pod = found["spec"]["template"]["spec"]
    [container] = pod["containers"]
    environ = {one["name"]: one["value"] for one in container["env"]}
    mounts = [one["mountPath"] for one in container["volumeMounts"]]
    assert any(Path(environ["MEMOIR_SPOOL_DIR"]).is_relative_to(mount) for mount in mounts)
    [claim] = found["spec"]["volumeClaimTemplates"]
    assert claim["metadata"]["name"] == container["volumeMounts"][0]["name"]
    _, *words = container["livenessProbe"]["exec"]["command"]
    done = subprocess.run(
        [sys.executable, "-m", "otel_memoir.cli", *words, "--help"],
        capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
    )
    assert done.returncode == 0, done.stderr
