"""Writing retained events to a file or a stream, whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from otel_memoir.errors import SpoolError
from otel_memoir.retrieval.event import RetainedEvent
from otel_memoir.retrieval.forms import (
    TABLES,
    cloud_event_lines,
    csv_lines,
    json_lines,
    otlp_json_lines,
    table_rows,
)
from otel_memoir.spool.directory import sync_directory
from otel_memoir.spool.table_file import write_tables

SQLITE = "sqlite"

_LINES: dict[str, Callable[..., Iterator[str]]] = {
    "jsonl": json_lines,
    "otlp-json": otlp_json_lines,
    "csv": csv_lines,
    "cloudevents": cloud_event_lines,
}

FORMATS = (*_LINES, SQLITE)


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What an export did.

    Attributes:
        events: How many events were read for it.

        damaged: Records that cannot be read, and why; they are not in it.
    """

    events: int
    damaged: tuple[str, ...]


class _Readable:
    """Passes on the events that can be read, and takes note of the others."""

    def __init__(self, events: Iterable[RetainedEvent]) -> None:
        self._events = events
        self._count = 0
        self._damaged: list[str] = []

    def __iter__(self) -> Iterator[RetainedEvent]:
        for event in self._events:
            if event.problem or event.event is None:
                self._damaged.append(f"{event.file}: {event.problem or 'it is no OTLP record'}")
            else:
                self._count += 1
                yield event

    @property
    def exported(self) -> Exported:
        return Exported(events=self._count, damaged=tuple(self._damaged))


def export_to_stream(
    events: Iterable[RetainedEvent], stream: IO[str], *, form: str, content: bool = True
) -> Exported:
    """Write events to an open stream, as they are read.

    Args:
        events: The events.

        stream: Where to.

        form: One of ``FORMATS``, but for ``sqlite``, which needs a file.

        content: Whether what is content of memories stays in.

    Raises:
        SpoolError: There is no such form, or a spool file cannot be read.

        OSError: The stream takes no more.
    """
    readable = _Readable(events)
    for line in _lines_of(form)(readable, content=content):
        stream.write(line)
    return readable.exported


def export_to_file(
    events: Iterable[RetainedEvent], path: Path, *, form: str, content: bool = True
) -> Exported:
    """Write events to a file, readable by its owner alone.

    On return the whole file is on disk under its name; where anything fails, what stood
    there before still does.

    Args:
        events: The events.

        path: The file; one that is there is replaced.

        form: One of ``FORMATS``.

        content: Whether what is content of memories stays in.

    Raises:
        SpoolError: There is no such form, a spool file cannot be read, or the file cannot
            be written.
    """
    readable = _Readable(events)
    write = _write_tables if form == SQLITE else _line_writer(_lines_of(form))
    try:
        with _replaced(path) as part:
            write(part, readable, content)
    except OSError as error:
        raise SpoolError(
            "write export", target=path, cause=error, hint="Choose another file with --output."
        ) from error
    return readable.exported


def _lines_of(form: str) -> Callable[..., Iterator[str]]:
    if form not in _LINES:
        raise SpoolError(
            "export", target=form, cause="it is not written as lines",
            hint=f"Choose one of {', '.join(_LINES)}; sqlite goes to a file.",
        )
    return _LINES[form]


def _write_tables(part: Path, events: Iterable[RetainedEvent], content: bool) -> None:
    write_tables(part, TABLES, table_rows(events, content=content))


def _line_writer(
    lines: Callable[..., Iterator[str]]
) -> Callable[[Path, Iterable[RetainedEvent], bool], None]:
    def write(part: Path, events: Iterable[RetainedEvent], content: bool) -> None:
        with part.open("w", encoding="utf-8", newline="") as file:
            file.writelines(lines(events, content=content))

    return write


@contextlib.contextmanager
def _replaced(path: Path) -> Iterator[Path]:
    """A file beside ``path`` to write to; it takes that name once the block is done."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    os.close(descriptor)
    part = Path(name)
    try:
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(path)
        sync_directory(path.parent)
    finally:
        part.unlink(missing_ok=True)
