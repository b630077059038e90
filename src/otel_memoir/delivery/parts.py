"""How a batch is cut: into halves, or around rows that are not what was written. Pure."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Container

from otel_memoir.spool import Batch

Run = list[tuple[int, int, int]]
"""Consecutive rows: the (id, sequence, bytes) of each."""


def halves(rows: Run) -> list[Run]:
    """Cut rows in two, so that both parts have a row and about the same bytes."""
    sums = list(itertools.accumulate(size for _, _, size in rows))
    cut = min(max(1, bisect.bisect_left(sums, sums[-1] / 2)), len(rows) - 1)
    return [rows[:cut], rows[cut:]]


def apart(batch: Batch, rows: Run, wrong: Container[int]) -> list[Run]:
    """Cut a batch so that each wrong row, be it damaged or missing, stands alone."""
    known = {id_: (sequence, size) for id_, sequence, size in rows}
    runs: list[Run] = []
    for offset in range(batch.records):
        id_ = batch.first_id + offset
        if not runs or id_ in wrong or runs[-1][-1][0] in wrong:
            runs.append([])
        runs[-1].append((id_, *known.get(id_, (batch.first_sequence + offset, 0))))
    return runs


def part_of(batch: Batch, number: int, run: Run) -> Batch:
    """The batch that a run of another one becomes."""
    return Batch(
        number=number, stream=batch.stream, first_id=run[0][0], last_id=run[-1][0],
        first_sequence=run[0][1], last_sequence=run[-1][1], records=len(run),
        bytes=sum(size for _, _, size in run), lane=batch.lane,
    )
