"""Keys: what can be locked, and in which order."""

from __future__ import annotations

from otel_memoir.errors import LockError


def paths(key: str) -> list[str]:
    """A key and its ancestors, root first; a malformed key is an error."""
    if not isinstance(key, str) or not all(key.split("/")):
        raise LockError(
            "lock", target=repr(key), cause="it is no key",
            hint="A key is a non-empty str, its parts separated by single slashes: "
            "store, store/collection, store/collection/record.",
        )  # fmt: skip
    parts = key.split("/")
    return ["/".join(parts[: end + 1]) for end in range(len(parts))]


def shape(key: str) -> str:
    """The class of a key unless the application says another: its store, and its depth.

    Keys without a slash are one class: their number grows with the data.
    """
    store, *below = key.split("/")
    return "/".join([store, *("*" for _ in below)]) if below else "*"


def canonical(key: str) -> list[str]:
    """What keys are sorted by: an ancestor comes before what is below it."""
    return key.split("/")


def related(key: str, other: str) -> bool:
    """Whether two keys are the same, or one is below the other."""
    return f"{key}/".startswith(f"{other}/") or f"{other}/".startswith(f"{key}/")


def store_and_record(key: str) -> tuple[str | None, str]:
    """What the vocabulary calls the two parts of a key: its store, and the record in it.

    Raises:
        LockError: It is no key.
    """
    paths(key)
    store, slash, record = key.partition("/")
    return (store, record) if slash else (None, store)
