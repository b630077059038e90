"""Several lives in one file: how one ends and the next begins, and what a failover makes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from otel_memoir.settings import Settings
from otel_memoir.spool import Spool
from otel_memoir.spool.directory import Slot, try_lock
from otel_memoir.spool.file import SpoolFile
from otel_memoir.spool.recovery import open_held
from spool_helpers import (
    io_error,
    make_faulty,
    make_stamper,
    own_draft,
    problems_of,
    put,
    totals_of,
)
from test_spool_corners import QUICK, deliver_all


class Lived:
    """A spool whose clock goes back when it is told to, and whose writer is driven by hand."""

    def __init__(self, directory: Path, **given: Any) -> None:
        self.epoch = 0
        self.spool = Spool(
            Settings(**{"disk_free_bytes_min": 0, "emit_timeout_s": 3.0, **QUICK, **given}),
            directory=directory, make_stamper=make_stamper, clock_epoch=lambda: self.epoch,
        )
        self.spool._writer.start = lambda: None  # type: ignore[method-assign]  # driven by hand

    @property
    def file(self) -> SpoolFile:
        """The file that it writes."""
        assert self.spool.file is not None
        return self.spool.file

    def go_back(self) -> None:
        """Let the clock go back, and the writer see it."""
        self.epoch += 1
        self.spool._writer._write_once()


def copies(directory: Path, *names: str) -> list[int]:
    """How often each record arrives, once all that lies in a directory is delivered."""
    taker = deliver_all(directory)
    return [taker.copies(f"<{name}>".encode()) for name in names]


def test_unsynced_rows_of_two_lives_count_once_after_a_failover(tmp_path: Path) -> None:
    """Those of the older one lie under the other's, and were not looked for there."""
    lived = Lived(tmp_path, durability="process")
    put(lived.spool, "a")
    lived.spool._chores.sync = lambda **_: None  # type: ignore[method-assign]  # not yet
    lived.go_back()
    put(lived.spool, "b")
    lived.spool.leave_file(io_error())
    lived.spool.close(5.0)
    assert copies(tmp_path, "a", "b") == [1, 1]
    assert totals_of(tmp_path).accepted == 3
    assert problems_of(tmp_path) == []


def test_a_file_that_is_left_too_goes_on_listing_what_it_took_over(tmp_path: Path) -> None:
    """Else the rows in the first of three files counted again, if the second was opened before."""
    lived = Lived(tmp_path, durability="process")
    put(lived.spool, "a")
    first = lived.spool.life
    assert first is not None
    lived.spool.leave_file(io_error())
    lived.spool.flush(5.0)
    with lived.spool._commits.append_lock:  # it came between the failing commit and its end
        late = own_draft("late")
        lived.spool._intake._add_locked(first, late, late.payload, False)
    lived.spool._commits.commit_queued(1.0)
    lived.spool.leave_file(io_error())
    assert lived.file.name == "memoir-0003"
    lived.spool.close(5.0)
    lock = try_lock(Slot(tmp_path, 2))
    assert lock is not None
    second = open_held(lock)
    second.end_lost_streams(1)
    second.close()
    assert copies(tmp_path, "a", "late") == [1, 1]
    assert problems_of(tmp_path) == []
