"""The books of the intents: each whose outcome is not on disk is told of once, no other ever."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from model.process import ENVELOPE
from otel_memoir.spool import Draft
from otel_memoir.spool.intents import Orphan
from otel_memoir.spool.model import Intent


@dataclass
class Undertaking:
    """An intent that a process declared.

    Attributes:
        process: The process.

        is_over: Its outcome was emitted.
    """

    process: int
    is_over: bool = False


def declaring(id_: str) -> Draft:
    """The record that declares an intent."""
    return Draft(
        ENVELOPE, f"<intends {id_}>".encode(), 9, f"uid-i-{id_}", intent=Intent(id_, id_.encode())
    )


def ending(id_: str) -> Draft:
    """The record that tells of its outcome."""
    return Draft(ENVELOPE, f"<did {id_}>".encode(), 9, f"uid-d-{id_}", intent=Intent(id_, None))


def unknown_draft(orphan: Orphan, _: bytes | None) -> Draft:
    """The record that tells that nobody knows."""
    assert orphan.note == orphan.id.encode()
    return Draft(
        ENVELOPE, f"<unknown {orphan.id}>".encode(), 13, f"uid-u-{orphan.id}",
        intent=Intent(orphan.id, None),
    )


class Intents:
    """What was declared and ended.

    Args:
        stored: How many records with a payload were ever on disk.
    """

    def __init__(self, stored: Callable[[bytes], int]) -> None:
        self._stored = stored
        self.all: dict[str, Undertaking] = {}

    def open_of(self, process: int) -> list[str]:
        """The intents of a process whose outcome it did not emit."""
        return [id_ for id_, one in self.all.items() if one.process == process and not one.is_over]

    def check(self, living: set[int]) -> None:
        """Nobody tells of the intent of a process that lives."""
        for id_, one in self.all.items():
            if one.process in living:
                assert not self._told(id_), f"{id_} was told of while its process lives"
            assert self._told(id_) <= 1, f"{id_} was told of twice"

    def check_end(self) -> None:
        """In the end, exactly those are told of that were declared and have no outcome."""
        for id_ in self.all:
            is_orphan = self._stored(declaring(id_).payload) and not self._stored(
                ending(id_).payload
            )
            assert self._told(id_) == bool(is_orphan), f"{id_}: told {self._told(id_)} times"

    def _told(self, id_: str) -> int:
        return self._stored(f"<unknown {id_}>".encode())
