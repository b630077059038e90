"""Sixteen threads that emit, `greenlets` or plain, and how many records each commit had."""

from __future__ import annotations

import re
import sys

if sys.argv[1] == "greenlets":
    from gevent import monkey

    monkey.patch_all()

import threading

from host_programs.emitting import processor, promise, tell

THREADS, COUNT = 16, 10
ACCEPTED = re.compile(r"accepted = accepted \+ (\d+)")


class Commits:
    """Counts the records of each commit, from what SQLite carries out."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self._records = 0

    def note(self, sql: str) -> None:
        if found := ACCEPTED.search(sql):
            self._records += int(found.group(1))
        elif sql == "COMMIT" and self._records:
            self.sizes.append(self._records)
            self._records = 0


def main() -> None:
    promise("first")
    commits = Commits()
    # There is no public way to see the commits.
    file = processor.pipeline._made["parts"].spool.file
    assert file is not None
    file.connection.set_trace_callback(commits.note)
    gate = threading.Barrier(THREADS)

    def work(thread: int) -> None:
        gate.wait()
        for number in range(COUNT):
            promise(f"{thread} {number}")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # The callback stays: to remove one waits for SQLite with the interpreter's lock held, and
    # a thread that is in SQLite then waits for that lock to call it.
    tell("commits", len(commits.sizes), sum(commits.sizes))


main()
