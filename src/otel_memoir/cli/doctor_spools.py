"""The spool directories and their files, living, dead and copied."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from otel_memoir.cli.show import duration, size
from otel_memoir.errors import SpoolError
from otel_memoir.observe.health_findings import Finding, finding
from otel_memoir.settings import Settings
from otel_memoir.spool import SpoolStatus
from otel_memoir.spool.directory import broken_files, check_owner
from otel_memoir.spool.inspect import status_of_directory
from otel_memoir.user_state import NETWORK_FILE_SYSTEMS, file_system

_CONTAINER = frozenset({"overlay", "overlayfs", "aufs"})
_VOLATILE = frozenset({"tmpfs", "ramfs"})
_OURS = ("memoir-", "broken-", "salvaged-")
_SHOWN = 3


def look_at_directory(path: Path, settings: Settings) -> Iterator[Finding]:
    """Whether records can be kept in a directory, be it there already or not. Makes nothing."""
    there = path if path.exists() else _nearest(path)
    try:
        if there == path:
            check_owner(path, path.stat())
        elif not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
            raise SpoolError("make", target=path, cause=f"{there} is no writable directory")
    except (SpoolError, OSError) as error:
        yield finding("directory.unusable", str(error))
        return
    yield from _on_file_system(path, there)
    yield from _open_to_others(path)
    found = os.statvfs(there)
    free = found.f_bavail * found.f_frsize
    if free < settings.disk_free_bytes_min:
        yield finding("directory.disk_low", f"{size(free)} are free under {path}, and "
                      f"{size(settings.disk_free_bytes_min)} are the reserve")


def _nearest(path: Path) -> Path:
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def _on_file_system(path: Path, there: Path) -> Iterator[Finding]:
    kind = file_system(there)
    for kinds, id_ in ((NETWORK_FILE_SYSTEMS, "directory.network"),
                       (_CONTAINER, "directory.container"), (_VOLATILE, "directory.volatile")):
        if kind in kinds:
            yield finding(id_, f"{path} is on {kind}")


def _open_to_others(path: Path) -> Iterator[Finding]:
    if not path.is_dir():
        return
    mine = [one for one in path.iterdir() if one.name.startswith(_OURS)]
    wide = [one for one in (path, *mine) if one.stat().st_mode & 0o077]
    if wide:
        names = ", ".join(str(one) for one in wide[:_SHOWN])
        more = f" and {len(wide) - _SHOWN} more" if len(wide) > _SHOWN else ""
        yield finding("directory.open", f"other users can get at {names}{more}",
                      remedy=f"chmod -R go= {path}")


def look_at_spools(path: Path, settings: Settings) -> Iterator[Finding]:
    """What is wrong with the spool files of a directory."""
    statuses = status_of_directory(path)
    alive = any(status.alive for status in statuses)
    broken = {str(one): one for one in broken_files(path)}
    for status in statuses:
        if status.path in broken:
            if status.name.startswith("broken"):
                yield finding("spool.broken", f"{status.path}: {status.problem}")
        else:
            yield from look_at_spool(status, settings, adopted=alive)


def look_at_spool(
    status: SpoolStatus, settings: Settings, *, adopted: bool
) -> Iterator[Finding]:
    """What is wrong with one spool file.

    Args:
        status: Its status.

        settings: The thresholds.

        adopted: A living process of the same directory delivers what dead ones left.
    """
    path, totals = status.path, status.totals
    if status.problem:
        yield finding("spool.unreadable", f"{path}: {status.problem}")
        return
    if totals.unaccounted:
        yield finding("spool.unaccounted", f"{path}: {totals.unaccounted:,} records are "
                      "unaccounted for")
    if status.hold and totals.pending:
        hold = status.hold
        yield finding("spool.hold", f"{path} is on hold ({hold.code}: {hold.message})",
                      remedy=hold.hint)
    waits = f"{totals.pending:,} records wait in {path}, the oldest for " + (
        duration(status.oldest_pending_age_s)
    )
    if status.alive and status.oldest_pending_age_s >= settings.health_backlog_age_s:
        yield finding("spool.backlog", waits)
    if not status.alive and totals.pending and not adopted:
        yield finding("spool.dead", f"{waits}; no living process holds it")
    if totals.quarantined:
        yield finding("spool.quarantine", f"{path}: {totals.quarantined:,} records are in "
                      "quarantine")
    if status.is_copy and totals.pending:
        yield finding("spool.copy", f"{path} was copied or restored, and {totals.pending:,} "
                      "records wait in it")
