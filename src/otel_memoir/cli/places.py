"""Which spool directories a command looks at, and the options that all commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from otel_memoir.sdk.spool_place import spool_directory
from otel_memoir.settings import Settings
from otel_memoir.spool.directory import Slot, broken_files, slots

F = TypeVar("F", bound=Callable[..., Any])

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")


def spool_dir(function: F) -> F:
    """Give a command the option ``--spool-dir``."""
    return click.option(
        "--spool-dir", envvar="MEMOIR_SPOOL_DIR", show_envvar=True,
        type=click.Path(exists=True, file_okay=False, path_type=Path),
        help="Directory of the spool files; by default that of the settings file, else "
        "those of every service in the user's state directory.",
    )(function)


def directories(given: Path | None) -> list[Path]:
    """The given directory, else that of the settings file, else every service's default one."""
    given = given or _in_settings_file()
    if given is not None:
        return [given]
    # The default place of any service is beside that of all others.
    base = spool_directory(Settings()).parent
    if not base.is_dir():
        return []
    found = sorted(path for path in base.iterdir() if path.is_dir())
    return [path for path in found if slots(path) or broken_files(path)]


def _in_settings_file() -> Path | None:
    said = Settings.load(complain=lambda _: None).spool_dir
    path = spool_directory(Settings(spool_dir=said)) if said else None
    return path if path is not None and path.is_dir() else None


def all_slots(given: Path | None) -> list[Slot]:
    """The slots of all these directories that have a file."""
    return [slot for directory in directories(given) for slot in slots(directory)]
