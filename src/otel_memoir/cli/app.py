"""The commands of ``otel-memoir``, but for the quarantine's."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import click

from otel_memoir.cli.again import again_and_again, watch
from otel_memoir.cli.clock import clock
from otel_memoir.cli.completion import completion
from otel_memoir.cli.demo import run_demo
from otel_memoir.cli.doctor import doctor
from otel_memoir.cli.drain import Drained, drain
from otel_memoir.cli.events import events_command, history_command
from otel_memoir.cli.export import export_command
from otel_memoir.cli.locks import locks
from otel_memoir.cli.places import as_json, directories, spool_dir
from otel_memoir.cli.quarantine import quarantine
from otel_memoir.cli.settings import settings
from otel_memoir.cli.show import print_json, print_status, status_json, totals_json
from otel_memoir.errors import MemoirError
from otel_memoir.spool.inspect import (
    status_of_directory,
    status_of_file,
)
from otel_memoir.spool.verify import Verdict, verify_directory, verify_file

WRONG = 1
"""Exit code: something is wrong, and it was said."""

files = click.argument(
    "files", nargs=-1, type=click.Path(exists=True, dir_okay=False, path_type=Path)
)


class _Group(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except MemoirError as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=_Group)
@click.version_option(package_name="otel-memoir")
def main() -> None:
    """Look after OpenTelemetry logs that wait on disk.

    Exit code 0: all is well. 1: something is wrong. 2: wrong usage. 3: failing (doctor).
    """


@main.command()
@files
@spool_dir
@watch
@as_json
@click.pass_context
def status(
    ctx: click.Context, files: tuple[Path, ...], spool_dir: Path | None, watch: float | None,
    as_json: bool,
) -> None:
    """Show what was accepted and what became of it.

    FILES are spool files or copies of them, instead of directories.
    """

    def once() -> int:
        found = [status_of_file(path) for path in files]
        if not files:
            found = [s for place in directories(spool_dir) for s in status_of_directory(place)]
        if as_json:
            print_json(status_json(found))
        else:
            print_status(found)
        return WRONG if any(s.problem or s.totals.unaccounted for s in found) else 0

    ctx.exit(once() if watch is None else again_and_again(once, watch))


@main.command()
@files
@spool_dir
@as_json
@click.pass_context
def verify(
    ctx: click.Context, files: tuple[Path, ...], spool_dir: Path | None, as_json: bool
) -> None:
    """Check that every accepted record is accounted for; read all rows.

    FILES are spool files or copies of them, instead of directories.
    """
    verdicts = [verify_file(path) for path in files]
    if not files:
        verdicts = [v for place in directories(spool_dir) for v in verify_directory(place)]
    if as_json:
        print_json({"ok": all(v.ok for v in verdicts), "spools": [_verdict(v) for v in verdicts]})
    for verdict in () if as_json else verdicts:
        for finding in verdict.findings:
            click.echo(f"{verdict.path}: {finding}")
        if verdict.ok:
            click.echo(f"{verdict.path}: ok, {verdict.recomputed.accepted:,} records")
    ctx.exit(0 if all(v.ok for v in verdicts) else WRONG)


def _verdict(verdict: Verdict) -> dict[str, Any]:
    return {
        "path": verdict.path, "ok": verdict.ok, "findings": list(verdict.findings),
        "recomputed": totals_json(verdict.recomputed),
    }


@main.command("drain")
@click.option(
    "--timeout", type=click.FloatRange(min=0), default=60.0, show_default=True,
    help="Longest time, in seconds, for each directory.",
)
@spool_dir
@as_json
@click.pass_context
def drain_command(
    ctx: click.Context, timeout: float, spool_dir: Path | None, as_json: bool
) -> None:
    """Send what waits in files that no living process holds.

    Where to: OTEL_EXPORTER_OTLP_ENDPOINT and its relatives.
    """
    results = [drain(place, timeout=timeout) for place in directories(spool_dir)]
    if as_json:
        print_json([dataclasses.asdict(result) for result in results])
    else:
        for result in results:
            _print_drained(result)
    ctx.exit(WRONG if any(result.left or result.why for result in results) else 0)


def _print_drained(result: Drained) -> None:
    click.echo(f"{result.directory}: {result.delivered:,} delivered, {result.left:,} left")
    if result.held_by_others:
        click.echo(f"  {result.held_by_others:,} wait in files of living processes")
    if result.why:
        click.echo(f"  why: {result.why}")


@main.command()
@as_json
@click.pass_context
def demo(ctx: click.Context, as_json: bool) -> None:
    """Kill a process, take the receiver away, and count what arrives.

    With MEMOIR_DEMO_ENDPOINT it sends to that OTLP/HTTP endpoint instead of a
    receiver of its own. Takes less than half a minute and leaves nothing behind.
    """
    ctx.exit(run_demo(as_json=as_json))


main.add_command(events_command)
main.add_command(history_command)
main.add_command(export_command)
main.add_command(clock)
main.add_command(completion)
main.add_command(locks)
main.add_command(doctor)
main.add_command(quarantine)
main.add_command(settings)
