"""The demo, and the judge that decides whether it went well."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from otel_memoir.cli.demo_judge import Side, judge, row
from otel_memoir.spool import Totals

GOOD = Side(
    name="side", emitted=["0-1", "0-2", "1-1"], received=["0-1", "0-2", "0-2", "1-1"],
    totals=Totals(accepted=3, delivered=3),
)

BAD = {
    "an emitted record never arrived": replace(GOOD, received=["0-1", "0-2", "0-2"]),
    "an emitted record was not accepted": replace(
        GOOD, totals=Totals(accepted=2, delivered=2)),
    "an accepted record still waits": replace(
        GOOD, totals=Totals(accepted=3, delivered=2, pending=1)),
    "an accepted record is in no state": replace(
        GOOD, totals=Totals(accepted=4, delivered=3)),
    "a record counts as delivered that nobody got": replace(
        GOOD, totals=Totals(accepted=4, delivered=4)),
    "verify found something": replace(GOOD, findings=("row 1: its checksum does not match",)),
    "there are no numbers": replace(GOOD, totals=None),
}


def test_the_judge_finds_nothing_wrong_with_a_good_run() -> None:
    """The control, with a record that was seen twice: that is allowed."""
    assert judge(GOOD) == []


@pytest.mark.parametrize("case", BAD)
def test_the_judge_goes_red_when(case: str) -> None:
    """Each way to break the promise is a sentence."""
    assert judge(BAD[case])


def test_what_waits_is_not_lost_and_what_comes_again_is_seen_twice() -> None:
    """The columns of the table mean what they say."""
    assert row(GOOD) == ("side", 3, 3, 3, 0, 0, 1)
    lost = replace(GOOD, received=["0-1"], totals=None)
    assert row(lost) == ("side", 3, "-", 1, "-", 2, 0)
    waits = replace(
        GOOD, received=["0-1", "0-2"], totals=Totals(accepted=3, delivered=2, pending=1))
    assert row(waits) == ("side", 3, 3, 2, 1, 0, 0)


def test_without_a_receiver_of_its_own_nobody_can_say_what_arrived() -> None:
    """With a foreign collector those columns are empty."""
    assert row(replace(GOOD, received=None)) == ("side", 3, 3, 3, 0, "-", "-")


@pytest.mark.slow
def test_the_demo_keeps_every_promise_and_cleans_up(tmp_path: Path) -> None:
    """It exits with 0, a killed process loses nothing, and its directory is gone."""
    done = subprocess.run(
        [sys.executable, "-m", "otel_memoir.cli", "demo", "--json"], capture_output=True,
        timeout=60, check=False, env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr.decode()
    result = json.loads(done.stdout)
    ours = result["sides"][0]
    assert result["ok"] is True
    assert ours["accepted"] == ours["delivered"] > 900
    assert (ours["waiting"], ours["lost"]) == (0, 0)
    assert list(tmp_path.iterdir()) == []
