"""The command ``otel-memoir``: a thin skin over the public classes, for people and scripts.

Promises:

- Looking (``status``, ``verify``, ``quarantine list`` and ``show``) opens files
  read-only and briefly: it works beside a living writer, on dead files and on copies.
- Every command has ``--json``, with the same numbers.
- Exit code 0: all is well. 1: something is wrong, and it was said. 2: wrong usage.
  3: it is so wrong that records are lost or stand still (``doctor`` only).

Refuses: to write to a file that a living process holds, and to know any SQL.
"""

from otel_memoir.cli.app import main

__all__ = ["main"]
