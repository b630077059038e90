"""Run the benchmarks of delivery, the clock, locks and queries, and write ``RESULTS.md``.

    python benchmarks/run.py [--quick | --full] [--only NAME]

Everything is on loopback. ``--only`` prints and does not write the file; with ``--full`` it
writes ``RESULTS-NAME.md``.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import sqlite3
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import bench_clock
import bench_delivery
import bench_emit
import bench_locks
import bench_query
from common import FULL, HERE, NORMAL, QUICK, Row, Scale, bare_commit_us, p

RESULTS = HERE / "RESULTS.md"
BENCHES = {
    **bench_delivery.BENCHES, **bench_emit.BENCHES, **bench_clock.BENCHES, **bench_locks.BENCHES,
    **bench_query.BENCHES,
}  # fmt: skip


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="under four minutes")
    size.add_argument("--full", action="store_true", help="with a backlog of ten million")
    parser.add_argument("--only", choices=list(BENCHES), help="run one benchmark")
    asked = parser.parse_args()
    scale = QUICK if asked.quick else FULL if asked.full else NORMAL
    names = [asked.only] if asked.only else list(BENCHES)
    before = bare_commit_us()
    rows = [row for name in names for row in _run(name, scale)]
    text = report(rows, scale, before, bare_commit_us())
    print(text)
    if not asked.only:
        RESULTS.write_text(text)
    elif asked.full:
        RESULTS.with_name(f"RESULTS-{asked.only}.md").write_text(text)


def _run(name: str, scale: Scale) -> list[Row]:
    begin_s = time.monotonic()
    rows = BENCHES[name](scale)
    print(f"{name}: {time.monotonic() - begin_s:.1f} s", file=sys.stderr)
    return rows


def report(
    rows: Sequence[Row], scale: Scale, before: Sequence[float], after: Sequence[float]
) -> str:
    """The results as Markdown."""
    head = [
        "# Results", "",
        "Written by `python benchmarks/run.py`. Ratios are ours to theirs within one run:",
        "rounds are interleaved, each round gives a ratio, and the median counts (in brackets",
        "the least and the greatest). What is measured is told in `bench_delivery.py`,",
        "`bench_emit.py`, `bench_clock.py`, `bench_locks.py` and `bench_query.py`.", "",
        f"- {datetime.datetime.now(datetime.timezone.utc):%Y-%m-%d}, scale `{scale.name}`",
        f"- {_machine()}",
        f"- CPython {platform.python_version()}, SQLite {sqlite3.sqlite_version}",
        f"- load average (1 min) at the end: {os.getloadavg()[0]:.1f}",
        f"- bare commit before: p50 {p(before, 50):.0f} µs, p99 {p(before, 99):.0f} µs",
        f"- bare commit after: p50 {p(after, 50):.0f} µs, p99 {p(after, 99):.0f} µs", "",
        "| what | ours | against | ratio or figure | target | met |",
        "|---|---|---|---|---|---|",
    ]
    return "\n".join([*head, *map(_line, rows), ""])


def _line(row: Row) -> str:
    spread = f" ({min(row.ratios):.3g} to {max(row.ratios):.3g})" if len(row.ratios) > 1 else ""
    met = {True: "yes", False: "**no**", None: ""}[row.met]
    cells = (row.what, row.ours, row.against, f"{row.median:.3g}{spread}", row.target, met)
    return f"| {' | '.join(cells)} |"


def _machine() -> str:
    cpu = "unknown processor"
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.partition(":")[2].strip() for line in lines if "model name" in line), cpu)
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, {cpu}, shared"


if __name__ == "__main__":
    main()
