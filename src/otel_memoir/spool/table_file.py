"""A SQLite file of plain tables, for other tools to read: Datasette, sqlite-utils, the shell.

It is no spool file, and nothing of a spool is in it but what the caller hands over. It stands
here because only this room knows SQLite.
"""

from __future__ import annotations

import contextlib
import itertools
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from otel_memoir.errors import SpoolError
from otel_memoir.spool.connection import is_disk_full

Row = tuple[str, Sequence[Any]]
"""The table, and the values of its columns, in order."""

_ROWS_AT_ONCE = 1000


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table to make.

    Attributes:
        name: Its name.

        columns: The SQL type of each column, by its name, constraints included.

        indexed: The columns that get an index each.
    """

    name: str
    columns: Mapping[str, str]
    indexed: Sequence[str] = field(default=())


def write_tables(path: Path, tables: Sequence[Table], rows: Iterable[Row]) -> None:
    """Write a new SQLite file; on return all of it is in the one file.

    Args:
        path: The file; it is empty, or does not exist.

        tables: The tables.

        rows: The rows, of any table in any order.

    Raises:
        SpoolError: It cannot be written.
    """
    try:
        with contextlib.closing(sqlite3.Connection(str(path), isolation_level=None)) as connection:
            # Nobody misses half a file: it gets its name when it is whole.
            connection.execute("PRAGMA journal_mode = OFF").fetchone()
            connection.execute("PRAGMA synchronous = OFF")
            _write(connection, tables, rows)
    except sqlite3.Error as error:
        hint = "Make room on the disk." if is_disk_full(error) else "Choose another file."
        raise SpoolError("write", target=path, cause=error, hint=hint) from error


def _write(connection: sqlite3.Connection, tables: Sequence[Table], rows: Iterable[Row]) -> None:
    inserts = {}
    connection.execute("BEGIN")
    for table in tables:
        columns = ", ".join(f'"{name}" {kind}' for name, kind in table.columns.items())
        connection.execute(f'CREATE TABLE "{table.name}" ({columns})')
        marks = ", ".join("?" * len(table.columns))
        inserts[table.name] = f'INSERT INTO "{table.name}" VALUES ({marks})'
    remaining = iter(rows)
    while some := list(itertools.islice(remaining, _ROWS_AT_ONCE)):
        for name, insert in inserts.items():
            connection.executemany(insert, [values for of, values in some if of == name])
    for table in tables:
        for column in table.indexed:
            connection.execute(
                f'CREATE INDEX "{table.name}_{column}" ON "{table.name}" ("{column}")'
            )
    connection.execute("COMMIT")
