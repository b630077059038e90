"""``otel-memoir settings``: what counts, who said it, and whether a file is good."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from otel_memoir.cli.places import as_json
from otel_memoir.cli.show import print_json, print_table
from otel_memoir.clock.configured import check_sources
from otel_memoir.delivery.destination import (
    DESTINATION_SETTINGS,
    check_destination,
    resolve_destination,
)
from otel_memoir.errors import SettingsError
from otel_memoir.setting_layers import Layers
from otel_memoir.settings import Settings, settings_in

WRONG = 1

_OTLP = {
    "endpoint": "ENDPOINT", "protocol": "PROTOCOL", "headers": "HEADERS",
    "compression": "COMPRESSION", "request_timeout_s": "TIMEOUT", "insecure": "INSECURE",
    "certificate_file": "CERTIFICATE", "client_key_file": "CLIENT_KEY",
    "client_certificate_file": "CLIENT_CERTIFICATE",
}


@click.group()
def settings() -> None:
    """Show which settings count, or check a file with settings."""


@settings.command()
@click.option(
    "--file", "file", envvar="MEMOIR_SETTINGS_FILE", show_envvar=True,
    type=click.Path(dir_okay=False), help="The settings file.",
)
@as_json
@click.pass_context
def show(ctx: click.Context, file: str | None, as_json: bool) -> None:
    """Show each setting as a process would have it that began here and now, and who says so.

    What an application gives in code is not known here, and wins. The values of headers are
    not shown.
    """
    problems: list[str] = []
    environ = {**os.environ, "MEMOIR_SETTINGS_FILE": file or ""}
    found = Settings.load(environ=environ, complain=problems.append)
    rows = rows_of(found, environ, problems)
    if as_json:
        print_json({"settings": {row.pop("name"): row for row in rows}, "problems": problems})
    else:
        print_table(
            ("setting", "value", "from", "live"),
            [(r["name"], _text(r["value"]), r["variable"] or r["origin"],
              "yes" if r["live"] else "no") for r in rows],
        )
        for problem in problems:
            click.echo(problem)
    ctx.exit(WRONG if problems else 0)


@settings.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@as_json
@click.pass_context
def check(ctx: click.Context, file: Path, as_json: bool) -> None:
    """Check a settings file before it is put in place."""
    problem, said = "", dict[str, Any]()
    try:
        said = settings_in(str(file))
        found = Settings.of(Layers(file=said))
        check_destination(found, os.environ)
        check_sources(found)
    except SettingsError as error:
        problem = str(error)
    fields = Settings.__dataclass_fields__
    fixed = sorted(name for name in said if not fields[name].metadata["live"])
    if as_json:
        print_json({
            "path": str(file), "ok": not problem, "problem": problem,
            "settings": sorted(said), "take_a_restart": fixed,
        })
    else:
        click.echo(problem or f"{file}: ok, {len(said)} settings")
        if fixed:
            click.echo(f"{file}: taken at the next start only: {', '.join(fixed)}")
    ctx.exit(WRONG if problem else 0)


def rows_of(
    settings: Settings, environ: Mapping[str, str], problems: list[str]
) -> list[dict[str, Any]]:
    """Each setting: its name, value, origin, the variable that said it, and whether it is live.

    Args:
        settings: As they were loaded.

        environ: The environment.

        problems: What is wrong with the destination is added to it.
    """
    layers = settings.all_layers()
    destination = resolve_destination(settings, environ, complain=problems.append)
    rows = []
    for name, field in Settings.__dataclass_fields__.items():
        value, origin = getattr(settings, name), layers.origin(name)
        variable = field.metadata["env"] if origin == "environment" else ""
        if name in DESTINATION_SETTINGS:
            value = getattr(destination, "timeout_s" if name == "request_timeout_s" else name)
            if origin == "default" and (variable := _otlp_variable(name, environ)):
                origin = "environment"
        rows.append({
            "name": name, "value": _masked(name, value), "origin": origin, "variable": variable,
            "live": field.metadata["live"],
        })
    return rows


def _otlp_variable(name: str, environ: Mapping[str, str]) -> str:
    ends = _OTLP[name]
    names = (f"OTEL_EXPORTER_OTLP_LOGS_{ends}", f"OTEL_EXPORTER_OTLP_{ends}")
    return next((variable for variable in names if environ.get(variable)), "")


def _masked(name: str, value: Any) -> Any:
    """Headers carry tokens."""
    return {key: "***" for key, _ in value} if name == "headers" else value


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(value) or "-"
    return "-" if value is None else str(value)
