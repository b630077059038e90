"""``otel-memoir quarantine``: what the destination refuses for good, for a person to judge."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import click
from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from otel_memoir.cli.places import all_slots, as_json, spool_dir
from otel_memoir.cli.show import print_json, print_table, when
from otel_memoir.delivery.request import build_request
from otel_memoir.spool import quarantine as ward
from otel_memoir.spool.directory import Slot
from otel_memoir.spool.quarantine import Kept, Quarantined

F = TypeVar("F", bound=Callable[..., Any])

Found = tuple[Slot, Quarantined]

_HEADS = ("batch", "file", "stream", "sequences", "records", "code", "when", "message")


@click.group()
def quarantine() -> None:
    """List, show, replay or discard what the destination refuses for good."""


def _which(function: F) -> F:
    """Give a command the arguments that name batches."""
    function = click.option(
        "--file", "file", metavar="NAME", help="The file, such as memoir-0001; needed where "
        "several files have a batch of that number.",
    )(function)
    return click.argument("batches", nargs=-1, type=int, required=True)(function)


@quarantine.command("list")
@spool_dir
@as_json
def list_command(spool_dir: Path | None, as_json: bool) -> None:
    """List the batches in quarantine."""
    found = list(_all(spool_dir))
    if as_json:
        print_json([_summary(*each) for each in found])
    elif found:
        print_table(_HEADS, [_row(*each) for each in found])
    else:
        click.echo("nothing is in quarantine")


@quarantine.command()
@_which
@spool_dir
@as_json
def show(
    batches: tuple[int, ...], file: str | None, spool_dir: Path | None, as_json: bool
) -> None:
    """Show the records of BATCHES, decoded."""
    shown = [_shown(*each) for each in _chosen(batches, file, spool_dir)]
    if as_json:
        print_json(shown)
        return
    for batch in shown:
        click.echo(f"batch {batch['batch']} of {batch['file']}: {batch['code']} {batch['message']}")
        for record in batch["contents"]:
            click.echo(f"  {record['sequence']}: {record.get('record') or record['problem']}")


@quarantine.command()
@_which
@spool_dir
@as_json
def replay(
    batches: tuple[int, ...], file: str | None, spool_dir: Path | None, as_json: bool
) -> None:
    """Let BATCHES wait to be sent again, once the destination was mended."""
    _settle("replayed", as_json, [
        (slot, ward.replay(slot, found.batch.number))
        for slot, found in _chosen(batches, file, spool_dir)
    ])


@quarantine.command()
@_which
@spool_dir
@as_json
def discard(
    batches: tuple[int, ...], file: str | None, spool_dir: Path | None, as_json: bool
) -> None:
    """Give BATCHES up for good. They are counted, and an event tells of them."""
    _settle("discarded", as_json, [
        (slot, ward.discard(slot, found.batch.number, unix_ns=time.time_ns()))
        for slot, found in _chosen(batches, file, spool_dir)
    ])


def _settle(what: str, as_json: bool, done: list[Found]) -> None:
    if as_json:
        print_json([{**_summary(*each), "now": what} for each in done])
        return
    for slot, found in done:
        click.echo(
            f"batch {found.batch.number} of {slot.database}: {found.batch.records:,} {what}"
        )


# -- finding and describing ---------------------------------------------------


def _all(directory: Path | None) -> Iterator[Found]:
    for slot in all_slots(directory):
        for found in ward.quarantined(slot.database):
            yield slot, found


def _chosen(batches: tuple[int, ...], file: str | None, directory: Path | None) -> list[Found]:
    """The batches that were named; all of them, or none is touched."""
    there = [
        (slot, found) for slot, found in _all(directory)
        if file in (None, slot.name, slot.database.name, str(slot.database))
    ]
    chosen = []
    for number in batches:
        matches = [each for each in there if each[1].batch.number == number]
        if len(matches) != 1:
            raise _not_one(number, matches)
        chosen += matches
    return chosen


def _not_one(number: int, matches: list[Found]) -> click.ClickException:
    if not matches:
        return click.ClickException(
            f"batch {number} is not in quarantine; see `otel-memoir quarantine list`"
        )
    files = ", ".join(str(slot.database) for slot, _ in matches)
    return click.UsageError(f"batch {number} is in several files; name one with --file: {files}")


def _row(slot: Slot, found: Quarantined) -> tuple[object, ...]:
    batch = found.batch
    return (
        str(batch.number), slot.name, f"{found.stream.stream_id[:8]}/{found.stream.epoch}",
        f"{batch.first_sequence}..{batch.last_sequence}", batch.records, found.code,
        when(found.since_unix_ns), found.message,
    )


def _summary(slot: Slot, found: Quarantined) -> dict[str, Any]:
    batch = found.batch
    return {
        "batch": batch.number, "file": str(slot.database), "stream": found.stream.stream_id,
        "epoch": found.stream.epoch, "first_sequence": batch.first_sequence,
        "last_sequence": batch.last_sequence, "records": batch.records, "code": found.code,
        "message": found.message, "when": when(found.since_unix_ns),
    }


def _shown(slot: Slot, found: Quarantined) -> dict[str, Any]:
    rows = ward.kept_rows(slot.database, found.batch)
    return {**_summary(slot, found), "contents": [_decoded(row) for row in rows]}


def _decoded(row: Kept) -> dict[str, Any]:
    if row.problem:
        return {"sequence": row.sequence, "problem": row.problem}
    request = ExportLogsServiceRequest.FromString(build_request([(row.envelope, row.payload)]))
    resource = request.resource_logs[0]
    scope = resource.scope_logs[0]
    return {
        "sequence": row.sequence, "problem": "", "record": MessageToDict(scope.log_records[0]),
        "resource": MessageToDict(resource.resource), "scope": MessageToDict(scope.scope),
    }
