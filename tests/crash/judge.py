"""Whether a program's promises hold in every image, and the table that says so."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from .target import Image, Target

Read = Callable[[Path], Collection[str]]
_EXAMPLES = 5


@dataclass(frozen=True)
class Verdict:
    """What a judge found.

    Attributes:
        workload: The name it was given.
        images: How many images were opened.
        promising: How many of them had a promise to keep (0 proves nothing).
        missing: In how many a promised id was missing.
        worst: The most ids missing in one image.
        corrupt: How many could not be read.
        examples: The first few failures in words.
    """

    workload: str
    images: int = 0
    promising: int = 0
    missing: int = 0
    worst: int = 0
    corrupt: int = 0
    examples: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        """No promise broken, nothing corrupt, and there were promises."""
        return self.promising > 0 and self.missing == 0 and self.corrupt == 0


def judge(
    workload: str,
    images: Iterable[Image],
    read: Read,
    target: Target,
    *,
    corrupt: tuple[type[Exception], ...] = (sqlite3.DatabaseError,),
) -> Verdict:
    """Opens every image and compares what it holds with what was promised.

    Args:
        workload: Name in the table.
        images: The images.
        read: Gets the directory and returns the ids it holds. It may recover
            (and so change) the files, and runs in this process.
        target: Where images are written.
        corrupt: What ``read`` raises for an image it cannot read; anything else
            is a defect of ``read`` and comes out of here.
    """
    counts = {"images": 0, "promising": 0, "missing": 0, "worst": 0, "corrupt": 0}
    examples: list[str] = []
    for image in images:
        counts["images"] += 1
        counts["promising"] += bool(image.acked)
        try:
            lost = image.acked.difference(read(target.write(image)))
        except corrupt as error:
            counts["corrupt"] += 1
            examples.append(f"{image}: {error!r}")
            continue
        if lost:
            counts["missing"] += 1
            counts["worst"] = max(counts["worst"], len(lost))
            examples.append(f"{image}: {len(lost)} missing, such as {min(lost)}")
    return Verdict(workload, **counts, examples=tuple(examples[:_EXAMPLES]))


def sqlite_reader(filename: str, query: str) -> Read:
    """A reader that recovers a SQLite file, checks it and returns the first column of ``query``.

    A missing file and a missing table hold nothing. ``quick_check`` that finds
    damage raises ``sqlite3.DatabaseError``.
    """

    def read(directory: Path) -> set[str]:
        path = directory / filename
        if not path.exists():
            return set()
        with closing(sqlite3.connect(path)) as connection:
            problems = connection.execute("PRAGMA quick_check").fetchall()
            if problems != [("ok",)]:
                raise sqlite3.DatabaseError(f"quick_check: {problems[:3]}")
            return _first_column(connection, query)

    return read


def _first_column(connection: sqlite3.Connection, query: str) -> set[str]:
    try:
        return {str(row[0]) for row in connection.execute(query)}
    except sqlite3.OperationalError as error:
        if "no such table" in str(error):
            return set()
        raise


def table(verdicts: Sequence[Verdict]) -> str:
    """The verdicts as a Markdown table."""
    lines = [
        "| workload | images | with promises | images missing promised ids | worst | corrupt |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {v.workload} | {v.images} | {v.promising} | {v.missing} | {v.worst} | {v.corrupt} |"
        for v in verdicts
    ]
    return "\n".join(lines)
