"""Inserts rows into a SQLite file in WAL mode and promises each after its COMMIT.

Usage: sqlite_rows.py DIRECTORY SYNCHRONOUS ROWS [careless]
A careless run promises rows whose COMMIT failed as well.
"""

import os
import sqlite3
import sys
from contextlib import closing

directory, synchronous, rows, *careless = sys.argv[1:]

with closing(sqlite3.connect(os.path.join(directory, "rows.db"), isolation_level=None)) as db:
    db.execute("PRAGMA journal_mode=WAL")
    db.execute(f"PRAGMA synchronous={synchronous}")
    db.execute("PRAGMA wal_autocheckpoint=40")
    db.execute("CREATE TABLE IF NOT EXISTS rows (id INTEGER PRIMARY KEY, body BLOB) STRICT")
    for number in range(int(rows)):
        try:
            db.execute("INSERT INTO rows VALUES (?, ?)", (number, number.to_bytes(4, "big") * 200))
        except sqlite3.Error:
            if not careless:
                raise
        os.write(1, b"ACK %d\n" % number)
