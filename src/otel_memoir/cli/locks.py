"""``otel-memoir locks``: who holds what in living processes, and who waits for whom."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import click

from otel_memoir.cli.again import again_and_again, watch
from otel_memoir.cli.places import as_json
from otel_memoir.cli.show import duration, print_json, print_table, when
from otel_memoir.locks.inspect import ProcessLocks, Seen, look, standing
from otel_memoir.locks.report import DeadlockReport, Participant
from otel_memoir.locks.snapshot import (
    Arrow,
    Holder,
    KeyState,
    Snapshot,
    Waiter,
    arrows_of,
    arrows_to_dot,
    arrows_to_mermaid,
)
from otel_memoir.locks.sockets import socket_directory
from otel_memoir.settings import Settings

WRONG = 1

_HELD = ("key", "mode", "held by", "for", "span", "taken at")
_WAITING = ("key", "mode", "waits", "for", "priority", "span", "behind", "asked at")
_OTHER = ("waits", "for what", "behind")

_NOBODY = "No process of this user shows its locks."
_HINT = (
    "A process shows them from the first time that something in it had to wait for a lock\n"
    "(or from LockManager.publish() on), unless MEMOIR_LOCK_SOCKET=off. Look as the user that\n"
    "runs it, with its XDG_STATE_HOME, inside its container. Looked in {directory}."
)


@click.command()
@click.argument("pids", nargs=-1, type=click.IntRange(min=1), metavar="[PID]...")
@click.option("--deadlocks", is_flag=True, help="Show the last deadlocks instead.")
@click.option("--dot", is_flag=True, help="Draw who waits for whom, for Graphviz.")
@click.option("--mermaid", is_flag=True, help="Draw who waits for whom, as a Mermaid flowchart.")
@watch
@click.option(
    "--long-wait", type=click.FloatRange(min=0), envvar="MEMOIR_LOCK_LONG_WAIT", show_envvar=True,
    default=Settings().lock_long_wait_s, show_default=True, metavar="SECONDS",
    help="Who waits longer makes the exit code 1.",
)
@click.option(
    "--timeout", type=click.FloatRange(min=0.01), default=2.0, show_default=True,
    metavar="SECONDS", help="How long to wait for the answer of each process.",
)
@as_json
@click.pass_context
def locks(
    ctx: click.Context, pids: tuple[int, ...], deadlocks: bool, dot: bool, mermaid: bool,
    watch: float | None, long_wait: float, timeout: float, as_json: bool,
) -> None:
    """Show who holds which lock in living processes, and who waits for whom.

    All processes of this user that show their locks, or those with the given PIDs. A process
    shows them from the first wait for a lock on, and also while its threads all wait or its
    event loop stands still. Stacks of who hangs elsewhere it does not show: use py-spy for them.

    \b
      otel-memoir locks                  who holds, who waits, since when, and in which line
      otel-memoir locks --watch 1        the same, again and again
      otel-memoir locks 4711 --mermaid   the wait-for graph of one process
      otel-memoir locks --deadlocks      what was found and broken so far

    Intents on the keys above a lock are left out unless somebody waits for them; --json has
    everything.

    Exit code 0: all is well. 1: somebody waits for longer than --long-wait or in a circle that
    was only reported, or a process does not answer or is not there. 2: wrong usage.
    """
    form = _form(deadlocks, dot=dot, mermaid=mermaid, as_json=as_json)
    if watch is not None and (as_json or dot or mermaid):
        raise click.UsageError("--watch is for people: not with --json, --dot or --mermaid")

    def once() -> int:
        seen = look(pids, timeout=timeout)
        found = [*_findings(seen, long_wait), *_missing(seen, pids)]
        form(seen, found)
        return WRONG if found else 0

    ctx.exit(once() if watch is None else again_and_again(once, watch))


def _form(
    deadlocks: bool, *, dot: bool, mermaid: bool, as_json: bool
) -> Callable[[Seen, list[str]], None]:
    if dot + mermaid + as_json > 1:
        raise click.UsageError("choose one of --json, --dot and --mermaid")
    arrows = _circles if deadlocks else _arrows
    if dot:
        return lambda seen, found: _draw(arrows_to_dot(arrows(seen)), found)
    if mermaid:
        return lambda seen, found: _draw(arrows_to_mermaid(arrows(seen)), found)
    if as_json:
        return _print_json
    return _print_deadlocks if deadlocks else _print_tables


# -- what is wrong -------------------------------------------------------------


def _findings(seen: Seen, long_wait_s: float) -> Iterator[str]:
    for process in seen.processes:
        waits = [waiter.waited_s for _, waiter in _waiters(process)]
        long = sum(waited_s > long_wait_s for waited_s in waits)
        if long:
            yield (f"process {process.pid}: {long:,} waiting for more than {long_wait_s:g} s, "
                   f"the longest for {duration(max(waits))}")
        if circles := len(standing(process)):
            yield (f"process {process.pid}: {circles:,} deadlock(s) that nothing was done about; "
                   "see --deadlocks")
    for silent in seen.silent:
        yield f"process {silent.pid}: {silent.why}"


def _missing(seen: Seen, pids: tuple[int, ...]) -> Iterator[str]:
    there = {process.pid for process in seen.processes} | {one.pid for one in seen.silent}
    for pid in pids:
        if pid not in there:
            yield f"process {pid} does not show its locks.\n{_hint()}"


def _hint() -> str:
    return _HINT.format(directory=socket_directory())


def _waiters(process: ProcessLocks) -> Iterator[tuple[KeyState, Waiter]]:
    for manager in process.managers:
        for state in manager.keys:
            for waiter in state.waiters:
                yield state, waiter


# -- for programs --------------------------------------------------------------


def _print_json(seen: Seen, found: list[str]) -> None:
    print_json({
        "processes": [_process_json(process) for process in seen.processes],
        "silent": [dataclasses.asdict(silent) for silent in seen.silent],
        "findings": found,
    })  # fmt: skip


def _process_json(process: ProcessLocks) -> dict[str, Any]:
    return {
        "pid": process.pid, "program": process.program, "taken": when(process.taken_unix_ns),
        "taken_unix_ns": process.taken_unix_ns, "standing_deadlocks": sorted(standing(process)),
        "managers": [manager.to_dict() for manager in process.managers],
    }  # fmt: skip


def _arrows(seen: Seen) -> tuple[Arrow, ...]:
    return tuple(arrow for process in seen.processes for arrow in process.graph)


def _circles(seen: Seen) -> tuple[Arrow, ...]:
    return tuple(arrow for _, report in _reports(seen) for arrow in arrows_of(report))


def _draw(picture: str, found: list[str]) -> None:
    click.echo(picture, nl=False)
    for sentence in found:
        click.echo(sentence, err=True)


# -- for people ----------------------------------------------------------------


def _print_tables(seen: Seen, found: list[str]) -> None:
    for process in seen.processes:
        click.echo(_head(process))
        for number, manager in enumerate(process.managers, 1):
            if len(process.managers) > 1:
                click.echo(f"\nlock manager {number} of {len(process.managers)}")
            _print_manager(manager)
        click.echo()
    _print_end(seen, found)


def _head(process: ProcessLocks) -> str:
    named = f" ({_clean(process.program)})" if process.program else ""
    return f"Process {process.pid}{named} at {when(process.taken_unix_ns)}"


def _print_end(seen: Seen, found: list[str]) -> None:
    if not seen.processes and not found:
        click.echo(f"{_NOBODY}\n{_hint()}")
    for sentence in found:
        click.echo(sentence)


def _print_manager(manager: Snapshot) -> None:
    held = [
        _held_row(state, holder) for state in manager.keys for holder in state.holders
        if state.waiters or not holder.mode.startswith("intent_")
    ]
    waiting = [
        _waiting_row(manager, state, waiter) for state in manager.keys for waiter in state.waiters
    ]
    other: list[tuple[object, ...]] = [
        (_clean(one.unit), one.kind, _clean(one.target)) for one in manager.graph if not one.key
    ]
    for heads, rows in ((_HELD, held), (_WAITING, waiting), (_OTHER, other)):
        if rows:
            click.echo()
            _print_table(heads, rows)
    if not held and not waiting and not other:
        click.echo("\nnothing is held, nobody waits")
    if manager.deadlocks:
        click.echo(f"\n{len(manager.deadlocks):,} deadlock(s) so far; see --deadlocks")


def _print_table(heads: tuple[str, ...], rows: list[tuple[object, ...]]) -> None:
    """Without the columns in which nothing is said, as of spans where there are none."""
    said = [at for at in range(len(heads)) if any(row[at] != "-" for row in rows)]
    print_table([heads[at] for at in said], [[row[at] for at in said] for row in rows])


def _held_row(state: KeyState, holder: Holder) -> tuple[object, ...]:
    return (
        _clean(state.key), holder.mode, _clean(holder.unit), duration(holder.held_s),
        _span(holder), _clean(holder.acquired_at),
    )  # fmt: skip


def _waiting_row(manager: Snapshot, state: KeyState, waiter: Waiter) -> tuple[object, ...]:
    behind = dict.fromkeys(
        one.target for one in manager.graph if (one.unit, one.key) == (waiter.unit, state.key)
    )
    return (
        _clean(state.key), waiter.mode, _clean(waiter.unit), duration(waiter.waited_s),
        waiter.priority, _span(waiter), _clean(", ".join(behind)) or "-",
        _clean(waiter.waiting_at),
    )  # fmt: skip


def _span(one: Holder | Waiter | Participant) -> str:
    return f"{one.trace_id}/{one.span_id}" if one.trace_id else "-"


def _clean(text: str) -> str:
    """A name as it may be printed: it can hold what a terminal takes for orders."""
    return "".join(
        letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text
    )


# -- deadlocks -----------------------------------------------------------------


def _reports(seen: Seen) -> Iterator[tuple[ProcessLocks, DeadlockReport]]:
    for process in seen.processes:
        for manager in process.managers:
            for report in manager.deadlocks:
                yield process, report


def _print_deadlocks(seen: Seen, found: list[str]) -> None:
    for process, report in _reports(seen):
        stands = ", and it stands" if report.id in standing(process) else ""
        click.echo(f"Process {process.pid}: deadlock {report.id} ({report.resolution}{stands})")
        for one in report.participants:
            _print_participant(one)
        if report.behind:
            click.echo(f"  behind them: {_clean(', '.join(report.behind))}")
        click.echo()
    if seen.processes and not any(_reports(seen)):
        click.echo("no deadlock was found so far")
    _print_end(seen, found)


def _print_participant(one: Participant) -> None:
    wanted = f"{one.waits_for} {one.key} {one.mode}".rstrip()
    at = f" at {one.waiting_at}" if one.waiting_at else ""
    span = f", span {_span(one)}" if one.trace_id else ""
    click.echo(_clean(f"  {one.unit} ({one.role}{span}) waits for {wanted}{at}"))
    for held in one.held:
        click.echo(_clean(f"    holds {held.key} {held.mode}, taken at {held.acquired_at}"))
