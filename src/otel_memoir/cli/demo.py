"""``otel-memoir demo``: one process is killed, the receiver fails, and all is counted.

The same four workers run twice side by side, with otel-memoir and with the SDK's own
batch processor and exporter, both with their defaults, each against a receiver that
goes through the same script.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import click

from otel_memoir.cli.demo_judge import HEADS, Side, judge, row
from otel_memoir.cli.demo_worker import ID
from otel_memoir.cli.drain import drain
from otel_memoir.cli.show import print_json, print_table
from otel_memoir.spool.inspect import status_of_directory, sum_totals
from otel_memoir.spool.verify import verify_directory
from otel_memoir.testing import Answer, ScriptedCollector

WORKERS = 4
RECORDS = 300
_KILLED = 1
_STEP_S = 15.0
_LOOK_S = 0.02
_DOWN_S = 1.0
_OVERLOADED_S = 2.0
_MODULE = "otel_memoir.cli.demo_worker"
_NAMES = {"memoir": "otel-memoir", "stock": "stock exporter"}


@dataclass
class _Team:
    """One side's workers, their notes, and the receiver they talk to."""

    kind: str
    home: Path
    collector: ScriptedCollector | None
    environ: dict[str, str]
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self) -> None:
        with (self.home / "workers.log").open("wb") as log:
            for number in range(WORKERS):
                self.workers.append(
                    subprocess.Popen(
                        [sys.executable, "-m", _MODULE, self.kind, str(number), str(RECORDS),
                         str(self._notes(number))],
                        env=self.environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                    )
                )

    def _notes(self, number: int) -> Path:
        return self.home / f"emitted-{number}"

    def emitted(self) -> list[str]:
        """The ids whose emit had returned. A line that a kill cut off does not count."""
        found: list[str] = []
        for number in range(WORKERS):
            with contextlib.suppress(FileNotFoundError):
                found += self._notes(number).read_text().split("\n")[:-1]
        return found

    def received(self) -> list[str] | None:
        if self.collector is None:
            return None
        return [str(record.attributes.get(ID, record.uid)) for record in self.collector.taken]

    def join(self, deadline_s: float) -> None:
        for worker in self.workers:
            try:
                worker.wait(max(0.1, deadline_s - time.monotonic()))
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait(_STEP_S)

    def failed(self) -> list[int]:
        """The workers that ended in another way than by the script."""
        return [n for n, worker in enumerate(self.workers) if n != _KILLED and worker.returncode]


def run_demo(*, as_json: bool = False) -> int:
    """Run the demo; return the exit code: 0 if every promise was kept."""
    began_s = time.monotonic()

    def say(sentence: str) -> None:
        click.echo(f"[{time.monotonic() - began_s:5.1f} s] {sentence}", err=as_json)

    endpoint = os.environ.get("MEMOIR_DEMO_ENDPOINT", "")
    home = Path(tempfile.mkdtemp(prefix="memoir-demo-"))
    try:
        with _teams(home, endpoint) as teams:
            _play(teams, say)
            return _report(teams, as_json, say)
    finally:
        shutil.rmtree(home, ignore_errors=True)


@contextlib.contextmanager
def _teams(home: Path, endpoint: str) -> Iterator[list[_Team]]:
    with contextlib.ExitStack() as stack:
        teams = []
        for kind in _NAMES:
            place = home / kind
            place.mkdir()
            collector = None if endpoint else stack.enter_context(ScriptedCollector())
            target = endpoint or (collector.endpoint if collector else "")
            teams.append(_Team(kind, place, collector, _environ(place, target)))
        try:
            yield teams
        finally:
            for team in teams:
                for worker in team.workers:
                    worker.kill()
                team.join(time.monotonic() + _STEP_S)


def _environ(place: Path, endpoint: str) -> dict[str, str]:
    """The environment of a worker: whatever else is set here must not change the demo."""
    foreign = ("OTEL_", "MEMOIR_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return {
        **kept, "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "MEMOIR_SPOOL_DIR": str(place / "spool"),
        "MEMOIR_DURABILITY": "power",
    }


# -- the script ---------------------------------------------------------------


def _play(teams: list[_Team], say: Callable[[str], None]) -> None:
    every = WORKERS * RECORDS
    say(f"{WORKERS} workers a side emit {RECORDS} records each, with otel-memoir "
        "and with the stock exporter")
    for team in teams:
        team.start()
    _reach(teams, every // 5)
    _lose_an_answer(teams, say)
    _reach(teams, every * 2 // 5)
    _take_receivers_down(teams, say)
    _refuse_for_a_while(teams, say)
    deadline_s = time.monotonic() + _STEP_S
    for team in teams:
        team.join(deadline_s)
    place = teams[0].home / "spool"
    left = sum_totals(status_of_directory(place)).pending
    say(f"all workers have ended; {left:,} records wait in otel-memoir's files; "
        "`otel-memoir drain` sends them")
    drain(place, timeout=_STEP_S, environ=teams[0].environ)


def _reach(teams: list[_Team], records: int) -> None:
    """Wait until each side has emitted so many, or its workers have ended."""
    never = threading.Event()
    deadline_s = time.monotonic() + _STEP_S
    for team in teams:
        while len(team.emitted()) < records and time.monotonic() < deadline_s:
            if all(worker.poll() is not None for worker in team.workers):
                break
            never.wait(_LOOK_S)


def _receivers(teams: list[_Team]) -> list[ScriptedCollector]:
    return [team.collector for team in teams if team.collector is not None]


def _lose_an_answer(teams: list[_Team], say: Callable[[str], None]) -> None:
    for receiver in _receivers(teams):
        receiver.script([Answer.drop(taken=True)])
    if _receivers(teams):
        say("the receivers take one request each, but the answer gets lost on the way")


def _take_receivers_down(teams: list[_Team], say: Callable[[str], None]) -> None:
    receivers = _receivers(teams)
    for receiver in receivers:
        receiver.down()
    if receivers:
        say("the receivers go down")
        threading.Event().wait(_DOWN_S)
    for receiver in receivers:
        receiver.up()


def _refuse_for_a_while(teams: list[_Team], say: Callable[[str], None]) -> None:
    receivers = _receivers(teams)
    for receiver in receivers:
        receiver.respond = lambda request: Answer(status=503, message="overloaded")
    if receivers:
        say("the receivers are up again, but answer 503")
    _reach(teams, WORKERS * RECORDS * 7 // 10)
    for team in teams:
        team.workers[_KILLED].kill()
    say(f"worker {_KILLED} of each side is killed with SIGKILL")
    if receivers:
        threading.Event().wait(_OVERLOADED_S)
        say("the receivers are well again")
    for receiver in receivers:
        receiver.respond = lambda request: Answer()


# -- the end ------------------------------------------------------------------


def _report(teams: list[_Team], as_json: bool, say: Callable[[str], None]) -> int:
    sides = [_side(team) for team in teams]
    wrong = judge(sides[0])
    wrong += [f"worker {n} failed: {_last_words(teams[0])}" for n in teams[0].failed()]
    if as_json:
        rows = [dict(zip(("side", *HEADS[1:]), row(side))) for side in sides]
        print_json({"ok": not wrong, "wrong": wrong, "sides": rows})
    else:
        click.echo()
        print_table(HEADS, [row(side) for side in sides])
        click.echo()
    for sentence in wrong:
        say(f"WRONG: {sentence}")
    if not wrong:
        say("kept: every record that otel-memoir accepted was delivered and is accounted for")
    return 1 if wrong else 0


def _side(team: _Team) -> Side:
    emitted, received = team.emitted(), team.received()
    if team.kind == "stock":
        return Side(name=_NAMES[team.kind], emitted=emitted, received=received)
    place = team.home / "spool"
    return Side(
        name=_NAMES[team.kind], emitted=emitted, received=received,
        totals=sum_totals(status_of_directory(place)),
        findings=tuple(f for verdict in verify_directory(place) for f in verdict.findings),
    )


def _last_words(team: _Team) -> str:
    return (team.home / "workers.log").read_text(errors="replace")[-2000:]
