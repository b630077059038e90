"""Power cuts while a broken file is moved aside and salvaged: nothing of it is lost."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from crash import CrashImages, Target, Verdict, judge, record
from otel_memoir.delivery.sources import Adoption
from spool_helpers import names_in

WORKLOAD = Path(__file__).with_name("crash") / "workloads" / "salvaging.py"
RECORDS = 60

DIE_WITH_A_BROKEN_FILE = """
import os, sys
from pathlib import Path
from spool_helpers import open_spool, store
from test_salvage import wreck
directory = Path(sys.argv[1])
spool = open_spool(directory)
for number in range(40):
    store(spool, f"r{number}", size=600)
spool.file.truncate_log()
for number in range(40, 60):
    store(spool, f"r{number}", size=600)
ledger = "SELECT rootpage - 1 FROM sqlite_master WHERE name = 'batch'"
wreck(directory / "memoir-0001.db", *spool.file.connection.execute(ledger).fetchone())
os._exit(0)
"""


def salvaged_names(directory: Path) -> set[str]:
    """What a later process finds in the slots, once it has salvaged what is broken."""
    adoption = Adoption(directory, wall_ns=time.time_ns)
    for _ in range(2):
        for source in adoption.look(most=9):
            adoption.release(source)
    return names_in(directory)


@pytest.fixture
def broken(tmp_path: Path) -> tuple[Path, set[str]]:
    """A directory with a broken file, a third of it only in its log; and what is in it."""
    directory = tmp_path / "spool"
    subprocess.run(
        [sys.executable, "-c", DIE_WITH_A_BROKEN_FILE, str(directory)], check=True, timeout=60,
        cwd=Path(__file__).parent,
    )
    copy = shutil.copytree(directory, tmp_path / "copy")
    names = salvaged_names(copy)
    assert len(names) == RECORDS
    return directory, names


def judged(broken: tuple[Path, set[str]], scratch: Path, *mode: str) -> Verdict:
    directory, names = broken
    command = [sys.executable, str(WORKLOAD), str(directory), *mode, *sorted(names)]
    trace = record(command, directory)
    assert trace.completed.returncode == 0, trace.completed.stderr.decode()
    images = CrashImages(trace, rounds=1).sample(2)
    return judge("salvage", images, salvaged_names, Target(scratch))


@pytest.mark.timeout(300)
def test_no_power_cut_during_salvage_loses_what_could_be_read(
    broken: tuple[Path, set[str]], tmp_path: Path
) -> None:
    """Wherever it strikes, the next process finds it all."""
    verdict = judged(broken, tmp_path / "images")
    assert verdict.holds, verdict
    assert verdict.promising > 50


@pytest.mark.timeout(300)
def test_a_salvage_without_fsync_loses_records(
    broken: tuple[Path, set[str]], tmp_path: Path
) -> None:
    """The control: the broken file has its new name, and its records are nowhere."""
    assert judged(broken, tmp_path / "images", "careless").missing > 0
