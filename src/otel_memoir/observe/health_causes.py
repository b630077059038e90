"""Each cause for which health is not ok: how it is found, what it means, what to do.

The table here is also the one in ``docs/operations.md``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from otel_memoir.observe.health import RANK, Cause, Health, HealthState, Signs, verdict
from otel_memoir.settings import Settings

EASE = 0.8
"""A number that is over its threshold has to fall below this part of it to be under it."""

FAILING_AT = 10.0
"""So many times the threshold of ``degraded`` is that of ``failing``, where there are two."""

_FULL = 0.8  # above it only records of WARN and above are accepted
_CLOCK_HINT = (
    "Run chronyd on this host, or name NTP servers in MEMOIR_CLOCK_SOURCES (ntp://HOST); "
    "`otel-memoir clock` shows each source. MEMOIR_CLOCK_MODE=system stops asking."
)


class Found(NamedTuple):
    """A cause that is there.

    Attributes:
        state: How bad it is.

        value: The number that was judged.

        threshold: What it was judged by.

        message: What is the matter.

        hint: What to do about it, where that is known better than in general.
    """

    state: HealthState
    value: float
    threshold: float
    message: str
    hint: str = ""


class Rule(NamedTuple):
    """A cause that can be there.

    Attributes:
        id: Its name.

        component: What it is about.

        look: Finds it: in the signs, by the settings, knowing which state it had before.

        meaning: What it means.

        hint: What a person can do about it.
    """

    id: str
    component: str
    look: Callable[[Signs, Settings, HealthState], Found | None]
    meaning: str
    hint: str


def judge(signs: Signs, settings: Settings, before: Health | None = None) -> Health:
    """The verdict on some signs.

    Args:
        signs: What was observed.

        settings: The thresholds.

        before: The verdict before, for what stands since then.
    """
    stood = {cause.id: cause for cause in (before or Health()).causes}
    causes = [_cause(rule, signs, settings, stood.get(rule.id)) for rule in RULES]
    return verdict([cause for cause in causes if cause is not None], signs)


def _cause(rule: Rule, signs: Signs, settings: Settings, stood: Cause | None) -> Cause | None:
    was: HealthState = stood.state if stood else "ok"
    found = rule.look(signs, settings, was)
    is_better = RANK[found.state if found else "ok"] < RANK[was]
    if stood and is_better and signs.monotonic_s - stood.seen_s < settings.health_recover_s:
        return stood
    if found is None:
        return None
    return Cause(
        id=rule.id, component=rule.component, state=found.state, message=found.message,
        hint=found.hint or rule.hint, value=found.value, threshold=found.threshold,
        since_unix_ns=stood.since_unix_ns if stood else signs.taken_unix_ns,
        seen_s=signs.monotonic_s,
    )


def _level(
    value: float, at: float, was: HealthState, *, failing_at: float = float("inf")
) -> tuple[HealthState, float] | None:
    """Which state a number is in, and the threshold that it is over."""
    if value >= failing_at * (EASE if was == "failing" else 1.0):
        return "failing", failing_at
    if value >= at * (EASE if was != "ok" else 1.0):
        return "degraded", at
    return None


# -- how each is found --------------------------------------------------------------------------


def _backlog(signs: Signs, settings: Settings, was: HealthState) -> Found | None:
    at, age_s = settings.health_backlog_age_s, signs.oldest_pending_age_s
    level = _level(age_s, at, was, failing_at=FAILING_AT * at) if signs.pending else None
    if level is None:
        return None
    return Found(level[0], age_s, level[1], f"{signs.pending:,} records wait, the oldest for "
                 f"{age_s:.0f} s; {_progress(signs)}")


def _progress(signs: Signs) -> str:
    if not signs.delivered_per_s:
        return "none was delivered in the last minute"
    eta_s, rate = signs.drain_eta_s, f"{signs.delivered_per_s:.3g} a second are delivered"
    return f"{rate}, {eta_s:.0f} s to go" if eta_s is not None else f"{rate}, and more come in"


def _fill(signs: Signs, settings: Settings, was: HealthState) -> Found | None:
    ratio = signs.fill_ratio
    level = _level(ratio, settings.health_fill_ratio, was, failing_at=_FULL)
    if level is None:
        return None
    return Found(level[0], ratio, level[1], f"the spool is {ratio:.0%} full: "
                 f"{signs.waiting_bytes:,} of {signs.waiting_bytes_max:,} bytes wait")


def _disk_low(signs: Signs, settings: Settings, was: HealthState) -> Found | None:
    free, least = signs.disk_free_bytes, settings.disk_free_bytes_min
    if free is None or not least:
        return None
    at = 2 * least / (EASE if was != "ok" else 1.0)
    if free < least:
        return Found("failing", free, least, f"{free:,} bytes of the disk are free: nothing is "
                     "accepted, delivery goes on")
    if free < at:
        return Found("degraded", free, 2 * least, f"{free:,} bytes of the disk are free; below "
                     f"{least:,} nothing is accepted")
    return None


def _memory(signs: Signs, _: Settings, __: HealthState) -> Found | None:
    if signs.is_on_disk:
        return None
    return Found("failing", 0.0, 1.0, "records are kept in memory only and die with the process")


def _unreadable(signs: Signs, _: Settings, __: HealthState) -> Found | None:
    if not signs.problem:
        return None
    return Found("failing", 1.0, 1.0, f"the spool file cannot be looked at: {signs.problem}")


def _left(signs: Signs, _: Settings, __: HealthState) -> Found | None:
    if not signs.new_files_left:
        return None
    return Found("degraded", signs.new_files_left, 1.0, f"{signs.new_files_left} spool file(s) "
                 "failed and were left for a new one")


def _broken(signs: Signs, _: Settings, __: HealthState) -> Found | None:
    if not signs.broken_files:
        return None
    return Found("degraded", len(signs.broken_files), 1.0, "broken spool file(s) moved aside: "
                 + ", ".join(signs.broken_files))


def _slow(signs: Signs, settings: Settings, was: HealthState) -> Found | None:
    at = settings.health_fsync_s
    level = _level(signs.commit_s, at, was, failing_at=FAILING_AT * at)
    return level and Found(level[0], signs.commit_s, level[1],
                           f"a commit to the disk takes {signs.commit_s:.3g} s")


def _late(signs: Signs, settings: Settings, _: HealthState) -> Found | None:
    if not signs.new_late:
        return None
    return Found("failing", signs.new_late, 1.0, f"{signs.new_late} emit(s) gave up waiting for "
                 f"the disk after {settings.emit_timeout_s:g} s; their records wait in memory")


def _retrying(signs: Signs, settings: Settings, was: HealthState) -> Found | None:
    waits = signs.pending and signs.attempts and signs.hold is None
    level = _level(signs.failing_for_s, settings.health_retry_s, was) if waits else None
    if level is None:
        return None
    code, message, hint = signs.answer
    said = f"{code}: {message}" if message else code
    return Found(level[0], signs.failing_for_s, level[1], f"{signs.attempts} attempts have failed "
                 f"for {signs.failing_for_s:.0f} s ({said}); next in {signs.next_try_s:.0f} s",
                 hint)


def _hold(signs: Signs, _: Settings, __: HealthState) -> Found | None:
    hold = signs.hold
    if hold is None:
        return None
    held_s = max(0.0, (signs.taken_unix_ns - hold.since_unix_ns) / 1e9)
    return Found("failing", held_s, 0.0, f"delivery has been on hold for {held_s:.0f} s "
                 f"({hold.code}: {hold.message}); nothing is dropped", hold.hint)


def _quarantine(signs: Signs, _: Settings, __: HealthState) -> Found | None:
    new = signs.new_gaps.get("quarantined", 0)
    if not new:
        return None
    return Found("degraded", new, 1.0, f"{new:,} records were quarantined lately, "
                 f"{signs.quarantined:,} are there")


def _gaps(signs: Signs, _: Settings, __: HealthState) -> Found | None:
    lost = {cause: n for cause, n in signs.new_gaps.items()
            if cause != "quarantined" and not cause.startswith("refused:")}
    if not lost:
        return None
    said = ", ".join(f"{n:,} {cause}" for cause, n in sorted(lost.items()))
    return Found("degraded", sum(lost.values()), 1.0, f"accepted records were lost: {said}")


def _refused(signs: Signs, _: Settings, __: HealthState) -> Found | None:
    refused = {cause.removeprefix("refused:"): n for cause, n in signs.new_gaps.items()
               if cause.startswith("refused:")}
    if not refused:
        return None
    said = ", ".join(f"{n:,} {reason}" for reason, n in sorted(refused.items()))
    return Found("failing", sum(refused.values()), 1.0, f"records were refused: {said}")


def _clock(signs: Signs, settings: Settings, was: HealthState) -> Found | None:
    if signs.clock_status in ("", "wide"):
        return None
    level = _level(signs.clock_wrong_for_s, settings.health_clock_s, was)
    return level and Found(level[0], signs.clock_wrong_for_s, level[1], "the clock is "
                           f"{signs.clock_status} for {signs.clock_wrong_for_s:.0f} s")


def _wide(signs: Signs, settings: Settings, was: HealthState) -> Found | None:
    if signs.clock_status != "wide" or signs.clock_bound_s is None:
        return None
    level = _level(signs.clock_wrong_for_s, settings.health_clock_s, was)
    return level and Found(level[0], signs.clock_bound_s, settings.clock_bound_max_s,
                           f"true time can be {signs.clock_bound_s:.3g} s from the clock")


def _liars(signs: Signs, _: Settings, __: HealthState) -> Found | None:
    if not signs.falsetickers:
        return None
    return Found("degraded", len(signs.falsetickers), 1.0, "time source(s) were outvoted: "
                 + ", ".join(signs.falsetickers))


def _locks(signs: Signs, settings: Settings, was: HealthState) -> Found | None:
    wait_s = signs.lock_oldest_wait_s
    level = _level(wait_s, settings.health_lock_wait_s, was)
    return level and Found(level[0], wait_s, level[1],
                           f"a unit has waited {wait_s:.0f} s for a lock")


RULES: tuple[Rule, ...] = (
    Rule("delivery.hold", "delivery", _hold,
         "The destination gives an answer that only a person can change.",
         "See `otel-memoir doctor` for what the endpoint says."),
    Rule("disk.memory", "disk", _memory,
         "There is no usable spool directory.",
         "Set MEMOIR_SPOOL_DIR to a writable directory of this user on a local disk, and restart."),
    Rule("disk.unreadable", "disk", _unreadable,
         "The spool file of this process cannot be read, or was removed while in use.",
         "Restart the process: what a removed file holds is delivered only while it lives."),
    Rule("disk.low", "disk", _disk_low,
         "The disk under the spool is nearly full.",
         "Free some space; waiting records are still delivered. MEMOIR_DISK_FREE_BYTES_MIN is "
         "the reserve."),
    Rule("room.fill", "room", _fill,
         "The spool is filling up.",
         "See that the destination takes records, or raise MEMOIR_SPOOL_BYTES_MAX."),
    Rule("refused.new", "refused", _refused,
         "Records were not accepted; each is counted and named in a gap.",
         "`otel-memoir status` counts them by reason: full and disk_full want room, too_large a "
         "larger MEMOIR_RECORD_BYTES_MAX or smaller records, after_shutdown an earlier last emit."),
    Rule("fsync.late", "fsync", _late,
         "The disk did not answer an emit in time.",
         "Look for a hanging disk; MEMOIR_EMIT_TIMEOUT is how long an emit waits."),
    Rule("fsync.slow", "fsync", _slow,
         "The disk is slow, so each emit is.",
         "Move the spool to a faster disk, or choose MEMOIR_DURABILITY=process or batch (see "
         "what each can lose in docs/guarantees.md)."),
    Rule("backlog.age", "backlog", _backlog,
         "Records wait too long.",
         "See that the destination is there and quick enough; nothing is lost until the spool "
         "is full."),
    Rule("delivery.retrying", "delivery", _retrying,
         "No attempt has succeeded for a while.",
         "See that the destination runs and can be reached; it goes on by itself."),
    Rule("disk.file_left", "disk", _left,
         "A spool file could not be written or read any more, and a new one took its place.",
         "Look at the disk's own log (dmesg, SMART); run `otel-memoir verify`."),
    Rule("disk.file_broken", "disk", _broken,
         "A spool file was broken and moved aside.",
         "The next process that opens this directory salvages what can be read; keep the file "
         "until `otel-memoir status` says that it was."),
    Rule("quarantine.grew", "quarantine", _quarantine,
         "The destination refuses certain records for good.",
         "`otel-memoir quarantine list` says why; then replay or discard them."),
    Rule("gaps.new", "gaps", _gaps,
         "Accepted records were lost: evicted, expired, rejected, or by an unclean end.",
         "The event memoir.delivery.gap tells of each, at the destination and in the spool."),
    Rule("clock.wrong", "clock", _clock,
         "Nobody can say how right the time of the records is.", _CLOCK_HINT),
    Rule("clock.wide", "clock", _wide,
         "True time can be further from the clock than is wanted (MEMOIR_CLOCK_BOUND_MAX).",
         _CLOCK_HINT),
    Rule("clock.falseticker", "clock", _liars,
         "A time source contradicts the majority.",
         "Find out which one is wrong (`otel-memoir clock`), and remove it from "
         "MEMOIR_CLOCK_SOURCES or from chronyd."),
    Rule("locks.wait", "locks", _locks,
         "A unit waits very long for a lock on a memory.",
         "`LockManager.snapshot()` shows who holds it; give `hold` a timeout."),
)

COMPONENTS = tuple(dict.fromkeys(rule.component for rule in RULES))
"""What health is told about, one by one."""


def without_numbers(health: Health) -> tuple[tuple[str, HealthState], ...]:
    """What makes two verdicts differ for whoever is told of changes."""
    return tuple(sorted((cause.id, cause.state) for cause in health.causes))


def changed(before: Health, after: Health) -> bool:
    """Whether another state, or another cause, is there."""
    return without_numbers(before) != without_numbers(after)
