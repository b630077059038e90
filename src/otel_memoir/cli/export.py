"""``otel-memoir export``: retained events for other tools, or for a collector that lost them."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import click

from otel_memoir.cli.events import places
from otel_memoir.cli.filters import Reading, filters, taken_from
from otel_memoir.cli.places import as_json, spool_dir
from otel_memoir.cli.show import print_json
from otel_memoir.delivery.destination import resolve_destination
from otel_memoir.delivery.senders import make_sender
from otel_memoir.retrieval.export import (
    FORMATS,
    SQLITE,
    Exported,
    export_to_file,
    export_to_stream,
)
from otel_memoir.retrieval.query import FilterArguments, Retrieval
from otel_memoir.retrieval.redeliver import Redelivered, Redelivery
from otel_memoir.settings import Settings

_PROTOCOLS = ("http/protobuf", "grpc")


@click.command("export")
@click.argument(
    "directories", nargs=-1, type=click.Path(exists=True, file_okay=False, path_type=Path)
)
@click.option(
    "--format", "form", type=click.Choice(FORMATS), default="jsonl", show_default=True,
    help="What is written.",
)
@click.option(
    "--output", type=click.Path(dir_okay=False, allow_dash=True, path_type=Path), default="-",
    help="The file; by default what is written goes to stdout.",
)
@click.option("--without-content", is_flag=True, help="Leave out the content of memories.")
@click.option("--redeliver", is_flag=True, help="Send them again instead; needs --since.")
@click.option("--endpoint", help="Where to, with --redeliver; by default as the environment says.")
@click.option("--protocol", type=click.Choice(_PROTOCOLS), help="How, with --redeliver.")
@click.option(
    "--timeout", type=click.FloatRange(min=0), default=60.0, show_default=True,
    help="With --redeliver: give up once nothing was taken for so many seconds.",
)
@filters
@spool_dir
@as_json
@click.pass_context
def export_command(
    ctx: click.Context, /, directories: tuple[Path, ...], form: str, output: Path,
    without_content: bool, redeliver: bool, endpoint: str | None, protocol: str | None,
    timeout: float, spool_dir: Path | None, as_json: bool, **options: Any,
) -> None:
    """Write the events in DIRECTORIES to a file, or send them again.

    What is delivered is there while it is retained. otlp-json has a request a line, as a
    Collector's file exporter writes it; sqlite is for Datasette and sqlite-utils. A file
    gets its name when it is whole.

    With --redeliver the events of a time range go to a collector once more, with the same
    bytes and uids, whatever became of them: for one that lost them. No spool file is changed.

    The exit code is 1 if a record could not be read, or was not taken.
    """
    asked = taken_from(options)
    with Retrieval(places(directories, spool_dir), progress=Reading()) as retrieval:
        if redeliver:
            if "since" not in asked:
                raise click.UsageError("--redeliver sends a time range: give --since")
            sent = _redeliver(retrieval, asked, endpoint, protocol, timeout)
            _say_redelivered(sent, as_json)
            ctx.exit(0 if sent.is_complete else 1)
        done = _write(retrieval, asked, form, output, content=not without_content)
    _say_exported(done, output, as_json)
    ctx.exit(1 if done.damaged else 0)


def _write(
    retrieval: Retrieval, asked: FilterArguments, form: str, output: Path, *, content: bool
) -> Exported:
    problems: list[str] = []
    events = retrieval.every(problems=problems, **asked)
    if str(output) != "-":
        done = export_to_file(events, output, form=form, content=content)
    elif form == SQLITE:
        raise click.UsageError("--format sqlite needs a file: give --output")
    else:
        with click.open_file("-", "w", encoding="utf-8") as stdout:
            done = export_to_stream(events, stdout, form=form, content=content)
    return dataclasses.replace(done, damaged=(*problems, *done.damaged))


def _say_exported(done: Exported, output: Path, as_json: bool) -> None:
    for problem in done.damaged:
        click.echo(problem, err=True)
    if str(output) == "-":
        return
    if as_json:
        print_json({"output": str(output), **dataclasses.asdict(done)})
    else:
        click.echo(f"{output}: {done.events:,} event(s)")


def _redeliver(
    retrieval: Retrieval, asked: FilterArguments, endpoint: str | None, protocol: str | None,
    timeout: float,
) -> Redelivered:
    given: dict[str, Any] = {"endpoint": endpoint, "protocol": protocol}
    settings = Settings.load(**{name: value for name, value in given.items() if value})
    sender = make_sender(resolve_destination(settings, os.environ))
    redelivery = Redelivery(sender, settings, patience_s=timeout)
    result = redelivery.result
    try:
        redelivery.run(retrieval.every(problems=result.damaged, **asked))
    except KeyboardInterrupt:
        result.why = "interrupted"
    finally:
        sender.close()
    return result


def _say_redelivered(sent: Redelivered, as_json: bool) -> None:
    if as_json:
        print_json({**dataclasses.asdict(sent), "left": sent.left})
        return
    click.echo(
        f"{sent.read:,} read, {sent.taken:,} taken, {sent.rejected:,} rejected, "
        f"{sent.refused:,} refused, {sent.left:,} left; {sent.requests:,} request(s)"
    )
    if sent.ambiguous:
        click.echo(f"{sent.ambiguous:,} answer(s) leave a doubt: records may be there twice")
    for problem in sent.damaged:
        click.echo(f"not sent: {problem}")
    if sent.why:
        click.echo(f"stopped: {sent.why}")
