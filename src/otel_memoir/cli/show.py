"""What people and programs see: tables and JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import click

from otel_memoir.spool import SpoolStatus, Totals
from otel_memoir.spool.inspect import sum_totals
from otel_memoir.spool.model import OUTCOMES
from otel_memoir.spool.quarantine import trouble

COUNTS = ("accepted", "delivered", "pending", *OUTCOMES[1:])


def print_json(value: Any) -> None:
    """Print a value as JSON, indented."""
    click.echo(json.dumps(value, indent=2, default=str))


def print_table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table: numbers to the right, words to the left."""
    cells = [[_cell(value) for value in row] for row in rows]
    widths = [max(len(row[i]) for row in [list(heads), *cells]) for i in range(len(heads))]
    numeric = [all(not isinstance(row[i], str) or row[i] == "-" for row in rows)
               for i in range(len(heads))]
    for line in [list(heads), *cells]:
        padded = [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, numeric)
        ]
        click.echo("  ".join(padded).rstrip())


def _cell(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def when(unix_ns: int) -> str:
    """A time as ISO 8601, in UTC."""
    return datetime.fromtimestamp(unix_ns / 1e9, timezone.utc).isoformat(timespec="seconds")


def duration(seconds: float) -> str:
    """A duration in the unit in which a person would say it."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.1f} s" if seconds else "-"


def size(count: int) -> str:
    """An amount of bytes in the unit in which a person would say it."""
    amount, units = float(count), iter(("B", "KiB", "MiB", "GiB"))
    unit = next(units)
    while amount >= 1024 and unit != "GiB":
        amount, unit = amount / 1024, next(units)
    return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"


def totals_json(totals: Totals) -> dict[str, Any]:
    """The numbers of promise 2."""
    return {
        **{name: getattr(totals, name) for name in COUNTS},
        "refused": sum(totals.refused.values()),
        "refused_by_reason": dict(totals.refused),
        "unaccounted": totals.unaccounted,
        "ambiguous_attempts": totals.ambiguous_attempts,
    }


def status_json(statuses: list[SpoolStatus]) -> dict[str, Any]:
    """What ``status --json`` prints."""
    return {
        "spools": [_spool_json(status) for status in statuses],
        "total": {
            **totals_json(sum_totals(statuses)),
            "oldest_pending_age_s": max((s.oldest_pending_age_s for s in statuses), default=0.0),
            "spool_bytes": sum(s.spool_bytes for s in statuses),
        },
    }


def _spool_json(status: SpoolStatus) -> dict[str, Any]:
    hold = status.hold
    return {
        "name": status.name, "path": status.path, "alive": status.alive,
        **totals_json(status.totals),
        "oldest_pending_age_s": status.oldest_pending_age_s, "spool_bytes": status.spool_bytes,
        "problem": status.problem,
        "hold": hold and {
            "since": when(hold.since_unix_ns), "code": hold.code, "message": hold.message,
            "hint": hold.hint,
        },
    }


def print_status(statuses: list[SpoolStatus]) -> None:
    """Print the status for a person."""
    heads = ("spool", "alive", *COUNTS, "refused", "unaccounted", "oldest", "size")
    rows = [_status_row(s.name, "yes" if s.alive else "no", s.totals, s.oldest_pending_age_s,
                        s.spool_bytes) for s in statuses]
    if len(statuses) != 1:
        oldest = max((s.oldest_pending_age_s for s in statuses), default=0.0)
        rows.append(_status_row("total", "", sum_totals(statuses), oldest,
                                sum(s.spool_bytes for s in statuses)))
    print_table(heads, rows)
    for status in statuses:
        _print_remarks(status)


def _status_row(
    name: str, alive: str, totals: Totals, oldest_s: float, spool_bytes: int
) -> tuple[object, ...]:
    counts = (getattr(totals, column) for column in COUNTS)
    refused = sum(totals.refused.values())
    return (name, alive, *counts, refused, totals.unaccounted, duration(oldest_s),
            size(spool_bytes))


def _print_remarks(status: SpoolStatus) -> None:
    if status.problem:
        click.echo(f"{status.path}: {status.problem}")
    if status.hold:
        hold = status.hold
        click.echo(f"{status.path}: on hold since {when(hold.since_unix_ns)} ({hold.code}: "
                   f"{hold.message}). {hold.hint}")
    elif status.totals.pending and status.path and not status.problem:
        code, message = trouble(Path(status.path))
        if code:
            click.echo(f"{status.path}: not delivered so far; the last answer: {code}: {message}")
    for reason, records in status.totals.refused.items():
        click.echo(f"{status.path}: {records:,} refused ({reason})")
    if status.totals.unaccounted:
        click.echo(f"{status.path}: {status.totals.unaccounted:,} unaccounted for; "
                   "run `otel-memoir verify`")
