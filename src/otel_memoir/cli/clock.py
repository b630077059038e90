"""``otel-memoir clock``: how right this host's time is, and who says so."""

from __future__ import annotations

import click

from otel_memoir.cli.places import as_json
from otel_memoir.cli.show import print_json, print_table
from otel_memoir.clock.configured import plan
from otel_memoir.clock.inspect import Seen, look
from otel_memoir.clock.snapshot import ClockSnapshot, SourceView

WRONG = 1

_HEADS = ("source", "vote", "confidence", "offset", "distance", "delay", "jitter", "reach",
          "age", "remark")

_HINT = (
    "Hint:       run chronyd on this host, or name NTP servers in MEMOIR_CLOCK_SOURCES "
    "(ntp://HOST)."
)
_WHILE = ", while fewer than half of the sources lie"

_LEGEND = (
    "\noffset: the system clock, less what the source says. distance: how far true time can be "
    "from that\nunless the source lies. reach: answers to the last eight polls."
)

_MEANING = {
    "uncalibrated": "No source has said what time it is.",
    "holdover": "No source answers any more: the bound grows.",
    "no_majority": "The sources contradict each other and none has a majority.",
    "no_source": "No source can be used.",
    "too_few_sources": "Fewer sources agree than are wanted (MEMOIR_CLOCK_SOURCES_MIN).",
    "required_missing": "No source that is required agrees.",
    "wide": "The bound is wider than is wanted (MEMOIR_CLOCK_BOUND_MAX).",
}
_REMARKS = {
    "falseticker": "outvoted: the others agree on another time",
    "outlier": "agrees, but is furthest from the rest",
    "too_far": "too far from true time to vote",
    "jittery": "too unsteady to vote",
    "noselect": "has no vote",
}


@click.command()
@as_json
@click.pass_context
def clock(ctx: click.Context, as_json: bool) -> None:
    """Show how far true time can be from this host's clock, and who says so.

    It reads what the process found that calibrates for this host; if there is none it asks
    each source once. Whom: MEMOIR_CLOCK_SOURCES.
    """
    seen = look(plan())
    if as_json:
        print_json({**seen.snapshot.as_dict(), "polled_now": seen.polled})
    else:
        _print(seen)
    ctx.exit(WRONG if seen.snapshot.status else 0)


def _print(seen: Seen) -> None:
    snapshot = seen.snapshot
    for line in (_who(seen), *_how_right(snapshot)):
        click.echo(line)
    click.echo("")
    print_table(_HEADS, [_row(source, snapshot) for source in snapshot.sources])
    click.echo(_LEGEND if snapshot.sources else
               "No source is configured: set MEMOIR_CLOCK_SOURCES.")


def _who(seen: Seen) -> str:
    snapshot = seen.snapshot
    if seen.polled:
        return "No process calibrates for this host just now; each source was asked once."
    return f"Process {snapshot.leader_pid} calibrates for this host."


def _how_right(snapshot: ClockSnapshot) -> list[str]:
    if snapshot.status:
        said = [f"Status:     {snapshot.status}. {_MEANING.get(snapshot.status, '')}".rstrip()]
    else:
        said = ["Status:     synchronized"]
    if snapshot.offset_ns is None or snapshot.bound_ns is None:
        return [*said, _HINT]
    way = "ahead of" if snapshot.offset_ns > 0 else "behind"
    return [
        *said,
        f"Offset:     the system clock is {span(abs(snapshot.offset_ns))} {way} the estimate",
        f"Bound:      true time is within {span(snapshot.bound_ns)} of the estimate{_WHILE}",
        f"Drift:      {snapshot.drift_ppm:+.1f} ppm, known to {snapshot.drift_error_ppm:.1f} ppm",
        f"Confidence: {snapshot.confidence:.2f} ({_voters(snapshot)})",
        f"Mode:       {snapshot.mode}, epoch {snapshot.epoch}",
    ]


def _voters(snapshot: ClockSnapshot) -> str:
    voted = f"{snapshot.voters} voted" if snapshot.voters != 1 else "one source, unchecked"
    against = f", {snapshot.liars} outvoted" if snapshot.liars else ""
    contradicted = ", ".join(snapshot.contradicted_by)
    return f"{voted}{against}" + (f"; contradicted by {contradicted}" if contradicted else "")


def _row(source: SourceView, snapshot: ClockSnapshot) -> tuple[object, ...]:
    offset = "-" if source.offset_ns is None else signed(source.offset_ns)
    return (
        source.name, source.vote, f"{source.confidence:.2f}", offset,
        span(source.distance_ns), span(source.delay_ns), span(source.jitter_ns),
        f"{bin(source.reach).count('1')}/8", span(source.age_ns), _remark(source, snapshot),
    )


def _remark(source: SourceView, snapshot: ClockSnapshot) -> str:
    words = list(source.options)
    if source.name in snapshot.contradicted_by:
        words.append("contradicts the result")
    elif source.vote in _REMARKS:
        words.append(_REMARKS[source.vote])
    if source.authenticated:
        words.append("signed")
    if source.last_failure:
        words.append(f"last answer: {source.last_failure}")
    return ", ".join(words)


def span(ns: int | None) -> str:
    """A time in the unit in which a person would say it."""
    if ns is None:
        return "-"
    for size, unit in ((3600 * 10**9, "h"), (60 * 10**9, "min"), (10**9, "s"), (10**6, "ms"),
                       (10**3, "µs")):
        if abs(ns) >= size:
            return f"{ns / size:.3g} {unit}" if abs(ns) < 1000 * size else f"{ns / size:.0f} {unit}"
    return f"{ns} ns"


def signed(ns: int) -> str:
    """As ``span``, with its sign."""
    return f"{'+' if ns >= 0 else '-'}{span(abs(ns))}"
