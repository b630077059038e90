"""What a clock is told: by its arguments, else by the settings."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from otel_memoir.clock.calibration import CalibrationOptions
from otel_memoir.clock.host_state import state_directory
from otel_memoir.clock.options import ConfiguredSource, configured
from otel_memoir.clock.sample import Source
from otel_memoir.clock.selection import SelectionOptions
from otel_memoir.diagnostics import complaints
from otel_memoir.errors import SettingsError
from otel_memoir.settings import Settings

ClockMode = Literal["observe", "correct"]
Given = str | Source | ConfiguredSource


@dataclass(frozen=True, slots=True)
class Plan:
    """What to calibrate with.

    Attributes:
        mode: What a reading is.

        make_sources: Makes the sources, on the thread that asks them.

        directory: Where the host's processes share a calibration; ``None``: they do not.

        options: How to judge.

        told: The sources in words.
    """

    mode: ClockMode
    make_sources: Callable[[], Sequence[ConfiguredSource]]
    directory: Path | None
    options: CalibrationOptions
    told: str


def plan(
    sources: Sequence[Given] | None = None,
    *,
    settings: Settings | None = None,
    mode: ClockMode | None = None,
    directory: str | Path | None = None,
    options: CalibrationOptions | None = None,
) -> Plan:
    """Join arguments and settings. Opens nothing and never raises for what the environment says."""
    settings = settings or Settings.load(complain=_complain)
    given = list(sources) if sources is not None else _texts(settings.clock_sources)
    own = directory or settings.clock_dir
    # Objects may be anything; other processes know nothing of them unless told where.
    shared = own is not None or all(isinstance(one, str) for one in given)
    place = Path(os.path.expanduser(own)).absolute() if own else state_directory()
    return Plan(
        mode=mode or ("correct" if settings.clock_mode == "correct" else "observe"),
        make_sources=lambda: make_sources(given, settings),
        directory=place if shared else None,
        options=options or from_settings(settings),
        told=", ".join(_name(one) for one in given),
    )


def from_settings(settings: Settings) -> CalibrationOptions:
    """How the settings say to judge."""
    return CalibrationOptions(
        selection=SelectionOptions(
            distance_min_ns=round(settings.clock_distance_min_s * 1e9),
            distance_max_ns=round(settings.clock_distance_max_s * 1e9),
            sources_min=settings.clock_sources_min,
        ),
        bound_max_ns=round(settings.clock_bound_max_s * 1e9),
    )


def make_sources(given: Sequence[Given], settings: Settings) -> list[ConfiguredSource]:
    """The sources; a text that describes none is said once and left out."""
    # Not for a process that only follows: it costs ntplib and sockets.
    from otel_memoir.clock.sources.parse import parse_source

    made: dict[str, ConfiguredSource] = {}
    for one in given:
        try:
            found = (
                parse_source(one, endpoint=settings.endpoint or _endpoint())
                if isinstance(one, str) else configured(one)
            )
        except (ValueError, OSError) as error:
            complaints.say(f"clock source {one}", str(error))
        else:
            made.setdefault(found.source.name, found)
    return list(made.values())


def check_sources(settings: Settings) -> None:
    """Refuse sources that cannot be used. Asks none of them.

    Raises:
        SettingsError: A text describes none.
    """
    from otel_memoir.clock.sources.parse import parse_sources

    texts = [part.strip() for part in settings.clock_sources.split(",") if part.strip()]
    try:
        parse_sources(texts, endpoint=settings.endpoint or _endpoint())
    except OSError as error:
        raise SettingsError("use setting", target="clock_sources", cause=error) from error


def _texts(text: str) -> list[Given]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _name(given: Given) -> str:
    return given if isinstance(given, str) else configured(given).source.name


def _endpoint() -> str | None:
    return os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")


def _complain(sentence: str) -> None:
    complaints.say(f"settings {sentence}", sentence)
