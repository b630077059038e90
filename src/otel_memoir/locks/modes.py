"""Lock modes: who may hold what beside whom.

Three are asked for: shared, update, exclusive. The intents are taken on ancestors by
themselves: a unit that locks ``store/collection/record`` says so on ``store/collection`` and
``store``, so that a lock on an ancestor needs to look at nothing below it. Update is the
mode of one who reads and will write: readers go on beside it, a second one of its kind does
not, so two of them never wait for each other to leave.

An update lock says *intent exclusive* above itself, not a mode of its own: its upgrade then
waits for one key only.

The holders of a key are counted in one integer, a field of ``FIELD_BITS`` for each mode:
taking a lock is an addition, and asking whether somebody is in the way is one ``&``.
"""

from __future__ import annotations

from typing import Final, Literal

from otel_memoir.errors import LockError

ModeName = Literal["shared", "update", "exclusive"]

X, S, IX, IS, U, SIX = range(6)

NAMES: Final = (
    "exclusive", "shared", "intent_exclusive", "intent_shared", "update",
    "shared_intent_exclusive",
)  # fmt: skip
_ASKED: Final[dict[str, int]] = {"exclusive": X, "shared": S, "update": U}

FIELD_BITS = 24
ONE: Final = tuple(1 << FIELD_BITS * mode for mode in range(6))
_FIELD: Final = tuple(one * (2**FIELD_BITS - 1) for one in ONE)
BIT: Final = tuple(1 << mode for mode in range(6))

CONFLICTS: Final[dict[int, tuple[int, ...]]] = {
    IS: (X,),
    IX: (S, U, SIX, X),
    S: (IX, SIX, X),
    U: (IX, U, SIX, X),
    SIX: (IX, S, U, SIX, X),
    X: (IS, IX, S, U, SIX, X),
}
CONFLICT_BITS: Final = tuple(sum(BIT[other] for other in CONFLICTS[mode]) for mode in range(6))
CONFLICT_FIELDS: Final = tuple(sum(_FIELD[other] for other in CONFLICTS[mode]) for mode in range(6))

INTENT: Final = tuple(IS if mode in (S, IS) else IX for mode in range(6))

# What a mode includes: who holds it need not ask for these.
_INCLUDES: Final[dict[int, tuple[int, ...]]] = {
    IS: (IS,),
    IX: (IX, IS),
    S: (S, IS),
    U: (U, S, IS),
    SIX: (SIX, U, S, IX, IS),
    X: (X, SIX, U, S, IX, IS),
}
_BY_STRENGTH: Final = (IS, IX, S, U, SIX, X)


def mode_of(name: str) -> int:
    """The mode of a name; an unknown name is an error that lists those there are."""
    try:
        return _ASKED[name]
    except KeyError:
        raise LockError(
            "choose lock mode", target=name, cause="there is no such mode",
            hint=f"Use one of {', '.join(_ASKED)}.",
        ) from None  # fmt: skip


def includes(held: int, wanted: int) -> bool:
    """Whether one who holds ``held`` has all that ``wanted`` gives."""
    return wanted in _INCLUDES[held]


def join(one: int, other: int) -> int:
    """The weakest mode that gives all that both give."""
    return next(
        mode for mode in _BY_STRENGTH if includes(mode, one) and includes(mode, other)
    )


def held_mode(counts: int) -> int | None:
    """The one mode that a unit's counts on a key amount to; None if it holds nothing."""
    held: int | None = None
    for mode in range(6):
        if counts & _FIELD[mode]:
            held = mode if held is None else join(held, mode)
    return held


def writes(mode: int) -> bool:
    """Whether the holder of a mode may have left something half written."""
    return mode in (X, SIX, IX)
