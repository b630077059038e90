"""``otel-memoir events``: the records that spools or an export hold, and their order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import click
from google.protobuf.json_format import MessageToDict, MessageToJson
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord

from otel_memoir.cli.places import all_slots, as_json, spool_dir
from otel_memoir.cli.show import print_json, print_table
from otel_memoir.sdk.gap_event import GAP_EVENT
from otel_memoir.spool.rows import StoredRecord, absences, stored_records
from otel_memoir.stamping.event import StampedEvent
from otel_memoir.stamping.readers import event_of, records_of_file
from otel_memoir.stamping.resolution import Policy, Resolution, resolve
from otel_memoir.stamping.validation import Gap, explain

_HEADS = ("state", "stream", "epoch", "sequence", "time", "bound", "event", "body")
_EXPORTED = "exported"
_BODY_LENGTH_MAX = 80


@dataclass
class Found:
    """What was read.

    Attributes:
        events: The stamped records; the payload of each is its state and the record.

        told: Ranges of numbers that are missing, and why.

        unstamped: How many records have no stamps.

        damaged: Records that cannot be read, and why.
    """

    events: list[StampedEvent] = field(default_factory=list)
    told: list[tuple[Gap, str]] = field(default_factory=list)
    unstamped: int = 0
    damaged: list[str] = field(default_factory=list)


@click.command("events")
@click.argument(
    "directories", nargs=-1, type=click.Path(exists=True, file_okay=False, path_type=Path)
)
@click.option("--order", is_flag=True, help="Bring them into one order, and say what is wrong.")
@click.option(
    "--from-file", "exports", multiple=True, metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Read what a Collector's file exporter wrote, beside the DIRECTORIES or instead.",
)
@click.option(
    "--policy", type=click.Choice([policy.value for policy in Policy]), default="keep_all",
    show_default=True, help="Which of several records with one number stays, with --order.",
)
@spool_dir
@as_json
@click.pass_context
def events_command(
    ctx: click.Context, directories: tuple[Path, ...], order: bool, exports: tuple[Path, ...],
    policy: str, spool_dir: Path | None, as_json: bool,
) -> None:
    """List the records in DIRECTORIES: what waits, and what is delivered and kept.

    With --order the exit code is 1 if a number is missing and nobody told why, if two
    records have one number, or if a record is damaged.
    """
    found = _read(directories, exports, spool_dir)
    resolution = resolve(found.events, policy=Policy(policy)) if order else None
    events = resolution.events if resolution else tuple(found.events)
    missing = explain(resolution.gaps, found.told) if resolution else ()
    if as_json:
        print_json(_as_json(found, events, resolution, missing))
    else:
        _print(found, events, resolution, missing)
    unexplained = any(not cause for _, cause in missing)
    conflicts = bool(resolution and resolution.conflicts)
    ctx.exit(1 if unexplained or conflicts or found.damaged else 0)


# -- reading ------------------------------------------------------------------


def _read(
    directories: tuple[Path, ...], exports: tuple[Path, ...], spool_dir: Path | None
) -> Found:
    found = Found()
    places = directories or (() if exports else (spool_dir,))
    for slot in [slot for place in places for slot in all_slots(place)]:
        found.told += [
            (Gap(a.stream.stream_id, a.stream.epoch, a.first_sequence, a.last_sequence), a.cause)
            for a in absences(slot.database)
        ]
        for row in stored_records(slot.database):
            _take_row(found, slot.database, row)
    for path in exports:
        for record in records_of_file(path):
            _take(found, record.event, _EXPORTED)
    return found


def _take_row(found: Found, path: Path, row: StoredRecord) -> None:
    if row.problem:
        found.damaged.append(f"{path}: {row.problem}")
        return
    event = event_of(row.payload)
    # The row knows the stamp's time also of a record that has a time of its own.
    stamped = event and replace(event, unix_ns=row.stamped_unix_ns)
    _take(found, stamped, row.state.value)


def _take(found: Found, event: StampedEvent | None, state: str) -> None:
    if event is None:
        found.unstamped += 1
        return
    log = event.payload
    if log.event_name == GAP_EVENT:
        found.told += _told_by(log)
    found.events.append(replace(event, payload=(state, log)))


def _told_by(log: LogRecord) -> Iterator[tuple[Gap, str]]:
    """What a gap event says is missing."""
    said = {entry.key.removeprefix("memoir.gap."): entry.value for entry in log.attributes}
    if {"stream.id", "stream.epoch", "first_sequence", "last_sequence"} <= said.keys():
        yield Gap(
            said["stream.id"].string_value, said["stream.epoch"].int_value,
            said["first_sequence"].int_value, said["last_sequence"].int_value,
        ), said["cause"].string_value


# -- showing ------------------------------------------------------------------


def moment(unix_ns: int) -> str:
    """A time in UTC, to the nanosecond: between records of one stream that can be all there is."""
    seconds, ns = divmod(unix_ns, 10**9)
    try:
        whole = datetime.fromtimestamp(seconds, timezone.utc)
    except (ValueError, OverflowError, OSError):
        return f"{unix_ns} ns"
    return f"{whole:%Y-%m-%dT%H:%M:%S}.{ns:09d}Z"


def bound_in_words(bound_ns: int | None) -> str:
    """An error bound in the unit in which a person would say it."""
    if bound_ns is None:
        return "-"
    for size, unit in ((10**9, "s"), (10**6, "ms"), (10**3, "µs")):
        if bound_ns >= size:
            return f"±{bound_ns / size:.1f} {unit}"
    return f"±{bound_ns} ns"


def _print(
    found: Found, events: tuple[StampedEvent, ...], resolution: Resolution | None,
    missing: Iterable[tuple[Gap, str]],
) -> None:
    if events:
        print_table(_HEADS, [_row(event) for event in events])
    else:
        click.echo("there are no records")
    if found.unstamped:
        click.echo(f"{found.unstamped:,} record(s) without stamps are not shown")
    for sentence in (*found.damaged, *_verdicts(resolution, missing)):
        click.echo(sentence)


def _row(event: StampedEvent) -> tuple[object, ...]:
    state, log = event.payload
    body = " ".join(_text(log.body).split())
    return (
        state, event.stream[:8], str(event.epoch), str(event.sequence), moment(event.unix_ns),
        bound_in_words(event.error_bound_ns), log.event_name or "-",
        body if len(body) <= _BODY_LENGTH_MAX else f"{body[: _BODY_LENGTH_MAX - 1]}…",
    )


def _text(value: AnyValue) -> str:
    if value.WhichOneof("value") in ("string_value", None):
        return value.string_value
    return MessageToJson(value, indent=None)


def _name(event: StampedEvent) -> str:
    return f"{event.stream} epoch {event.epoch} sequence {event.sequence}"


def _verdicts(
    resolution: Resolution | None, missing: Iterable[tuple[Gap, str]]
) -> Iterator[str]:
    if resolution is None:
        return
    for gap, cause in missing:
        numbers = str(gap.first) if gap.missing == 1 else f"{gap.first} to {gap.last}"
        yield (
            f"gap: {gap.stream} epoch {gap.epoch} sequence {numbers} is not here: "
            f"{cause or 'nobody told why'}"
        )
    for group in resolution.conflicts:
        yield f"conflict: {_name(group[0])} is {', '.join(event.uid for event in group)}"
    for event in resolution.regressions:
        yield f"time regression: {_name(event)} is not later than what comes before it"
    for effect, cause_ in resolution.dismissed:
        yield f"cause dismissed: {_name(effect)} cannot have come of {_name(cause_)}"


def _as_json(
    found: Found, events: tuple[StampedEvent, ...], resolution: Resolution | None,
    missing: Iterable[tuple[Gap, str]],
) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "events": [_event_json(event) for event in events], "unstamped": found.unstamped,
        "damaged": found.damaged,
    }
    if resolution is not None:
        shown |= {
            "gaps": [{**gap._asdict(), "cause": cause} for gap, cause in missing],
            "conflicts": [[_event_json(e) for e in group] for group in resolution.conflicts],
            "regressions": [event.uid for event in resolution.regressions],
            "dismissed": [{"effect": e.uid, "cause": c.uid} for e, c in resolution.dismissed],
        }
    return shown


def _event_json(event: StampedEvent) -> dict[str, Any]:
    state, log = event.payload
    return {
        "state": state, "uid": event.uid, "stream": event.stream, "epoch": event.epoch,
        "sequence": event.sequence, "time": moment(event.unix_ns), "unix_ns": event.unix_ns,
        "error_bound_ns": event.error_bound_ns, "event": log.event_name,
        "body": _text(log.body), "record": MessageToDict(log),
    }
