"""``otel-memoir doctor``: what is wrong around here, and what to do about it."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from otel_memoir.cli.doctor_endpoint import look_at_endpoint
from otel_memoir.cli.doctor_settings import look_at_settings, look_at_wiring
from otel_memoir.cli.doctor_spools import look_at_directory, look_at_spool, look_at_spools
from otel_memoir.cli.places import as_json, directories
from otel_memoir.cli.show import print_json
from otel_memoir.clock.configured import plan
from otel_memoir.clock.inspect import look
from otel_memoir.delivery.destination import Destination, resolve_destination
from otel_memoir.errors import SettingsError, SpoolError
from otel_memoir.observe.health import RANK, HealthState
from otel_memoir.observe.health_findings import Finding, finding, worst
from otel_memoir.sdk.spool_place import spool_directory
from otel_memoir.settings import Settings
from otel_memoir.spool import SpoolStatus
from otel_memoir.spool.connection import SQLITE_VERSION, sqlite_lacks
from otel_memoir.spool.inspect import status_of_file

EXIT_CODES: Mapping[HealthState, int] = {"ok": 0, "degraded": 1, "failing": 3}
"""2 is wrong usage, as with every command."""

_INSIDE = (
    "Only the program itself can tell whether a BatchLogRecordProcessor stands in front, or a "
    "redactor\nbehind, and at which level the root logger is: "
    "otel_memoir.sdk.diagnose(provider) does."
)


@click.command()
@click.argument(
    "files", nargs=-1, type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
@click.option(
    "--spool-dir", envvar="MEMOIR_SPOOL_DIR", show_envvar=True,
    type=click.Path(file_okay=True, path_type=Path),
    help="Directory of the spool files, be it there yet or not; by default those of every "
    "service in the user's state directory.",
)
@click.option("--offline", is_flag=True, help="Ask neither the endpoint nor the time sources.")
@as_json
@click.pass_context
def doctor(
    ctx: click.Context, files: tuple[Path, ...], spool_dir: Path | None, offline: bool,
    as_json: bool,
) -> None:
    """Look for what is wrong, and say what to do.

    Run it as the user, and with the environment, of the service. It looks at the settings,
    the wiring, the spool directories and their files, sends the endpoint an empty request, and
    asks the time sources. It changes nothing. FILES are spool files or copies of them, instead
    of directories.

    Exit code 0: ok. 1: degraded. 3: failing. 2: wrong usage.
    """
    environ = _without_empty(os.environ)
    settings = Settings.load(environ=environ, complain=lambda _: None)
    places = [] if files else _places(spool_dir, settings)
    findings = [
        *look_at_settings(environ), *look_at_wiring(environ), *_host(),
        *_spools(files, places, settings), *([] if offline else _asked(settings, environ)),
    ]
    state = worst(findings)
    about = _about(settings, environ, [*places, *files])
    if as_json:
        print_json({"state": state, "findings": [dataclasses.asdict(one) for one in findings],
                    **about})
    else:
        _print(state, findings, about)
    ctx.exit(EXIT_CODES[state])


def _without_empty(environ: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environ.items() if value.strip()}


def _places(given: Path | None, settings: Settings) -> list[Path]:
    """The directories there are; where there is none yet, the one that would be made."""
    if given is not None:
        return [given.absolute()]
    return directories(None) or [spool_directory(settings)]


def _spools(
    files: Sequence[Path], places: Sequence[Path], settings: Settings
) -> Iterator[Finding]:
    for file in files:
        try:
            status = status_of_file(file)
        except SpoolError as error:
            status = SpoolStatus(name=file.stem, path=str(file), alive=False, problem=str(error))
        yield from look_at_spool(status, settings, adopted=False)
    for place in places:
        yield from look_at_directory(place, settings)
        yield from look_at_spools(place, settings)


def _asked(settings: Settings, environ: Mapping[str, str]) -> Iterator[Finding]:
    yield from look_at_endpoint(settings, environ)
    if settings.clock_mode != "system":
        yield from look_at_clock(settings)


def look_at_clock(settings: Settings) -> Iterator[Finding]:
    """What is wrong with the time: as ``otel-memoir clock`` says."""
    snapshot = look(plan(settings=settings)).snapshot
    if snapshot.status:
        yield finding("clock.wrong", f"the clock is {snapshot.status}")
    liars = [source.name for source in snapshot.sources if source.vote == "falseticker"]
    if liars:
        yield finding("clock.falseticker", f"outvoted: {', '.join(liars)}")


def _host() -> Iterator[Finding]:
    if lacks := sqlite_lacks():
        yield finding("host.sqlite", lacks)


# -- what is shown ------------------------------------------------------------------------------


def _about(
    settings: Settings, environ: Mapping[str, str], places: Sequence[Path]
) -> dict[str, Any]:
    return {
        "otel_memoir": importlib.metadata.version("otel-memoir"),
        "python": platform.python_version(), "sqlite": SQLITE_VERSION,
        "opentelemetry_sdk": importlib.metadata.version("opentelemetry-sdk"),
        "endpoint": _endpoint(settings, environ), "looked_at": [str(place) for place in places],
    }


def _endpoint(settings: Settings, environ: Mapping[str, str]) -> str:
    try:
        found: Destination = resolve_destination(settings, environ)
    except SettingsError:
        return ""
    return f"{found.endpoint} ({found.protocol})"


def _print(state: HealthState, findings: Sequence[Finding], about: Mapping[str, Any]) -> None:
    click.echo(f"otel-memoir {about['otel_memoir']}, Python {about['python']}, SQLite "
               f"{about['sqlite']}, OpenTelemetry SDK {about['opentelemetry_sdk']}")
    click.echo(f"Endpoint:   {about['endpoint'] or 'unusable'}")
    for place in about["looked_at"]:
        click.echo(f"Looked at:  {place}")
    for one in sorted(findings, key=lambda found: -RANK[found.severity]):
        click.echo(f"\n{one.severity.upper()}  {one.id}\n  {one.message}\n  Remedy: {one.remedy}")
    count = len(findings) or "nothing"
    click.echo(f"\n{state}: {count} found\n{_INSIDE}")
