"""What an adversary found: each test failed once, or pins what held by a thread."""

from __future__ import annotations

from pathlib import Path

import pytest

from otel_memoir.errors import SpoolError
from otel_memoir.spool.directory import prepare_directory


def mode_of(path: Path) -> int:
    return path.stat().st_mode & 0o7777


def test_a_shared_temporary_directory_is_refused_and_stays_open_to_others(tmp_path: Path) -> None:
    shared = tmp_path / "tmp"
    shared.mkdir()
    shared.chmod(0o1777)
    with pytest.raises(SpoolError, match="shared"):
        prepare_directory(shared)
    assert mode_of(shared) == 0o1777


def test_a_directory_that_holds_other_things_is_not_closed_to_others(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    home.chmod(0o755)
    (home / "other").touch()
    prepare_directory(home)
    assert mode_of(home) == 0o755


def test_a_directory_with_nothing_but_our_files_is_closed_to_others(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    own.chmod(0o755)
    (own / "memoir-0001.db").touch()
    prepare_directory(own)
    assert mode_of(own) == 0o700
