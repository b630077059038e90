"""How much a source may say in the vote, and how often it is asked."""

from __future__ import annotations

from dataclasses import dataclass, replace

from otel_memoir.clock.sample import Source
from otel_memoir.errors import SettingsError

POLL_MIN_S = 16.0
POLL_MAX_S = 1024.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceOptions:
    """What a person says about one source; the words are those of chrony.conf(5).

    Attributes:
        prefer: Among sources that agree, this one is taken first.

        require: Nothing is selected unless this source (or another required one) agrees.

        trust: It is assumed to be right: sources that disagree with it are outvoted.

        noselect: It is asked and shown, and may contradict, but never sets the time.

        poll_min_s: Least seconds between two polls.

        poll_max_s: Most seconds between two polls.
    """

    prefer: bool = False
    require: bool = False
    trust: bool = False
    noselect: bool = False
    poll_min_s: float = POLL_MIN_S
    poll_max_s: float = POLL_MAX_S

    def __post_init__(self) -> None:
        if not 0 < self.poll_min_s <= self.poll_max_s:
            raise SettingsError(
                "set poll interval", target=f"{self.poll_min_s} s to {self.poll_max_s} s",
                cause="the least must be above 0 and not above the most",
            )


DEFAULT_OPTIONS = SourceOptions()


@dataclass(frozen=True, slots=True)
class ConfiguredSource:
    """A source and what was said about it."""

    source: Source
    options: SourceOptions = DEFAULT_OPTIONS


def configured(source: Source | ConfiguredSource) -> ConfiguredSource:
    """A source with options: those given, else those that its kind has by nature.

    A source tells the latter in an attribute ``options``: HTTP ``Date`` has a resolution
    of a second and peers are no reference, so both are ``noselect`` whoever forgets to say so.
    """
    if not isinstance(source, ConfiguredSource):
        return ConfiguredSource(source, getattr(source, "options", DEFAULT_OPTIONS))
    by_nature = getattr(source.source, "options", DEFAULT_OPTIONS)
    if by_nature.noselect and not source.options.noselect:
        return replace(source, options=replace(source.options, noselect=True))
    return source
