"""Delete each line that a promise rests on, and see a named test go red.

    python tools/mutations.py [WORDS]

In a copy of the checkout, one line at a time; prints a table. With WORDS, only the mutations
whose name has them. Ends with 1 if a test stayed green: then the line is not tested.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT_S = 300.0

CRASH = "tests/test_crash_product.py -m not(slow) -k"
IMAGES = f"{CRASH} any_power_cut_and_weaker"
SENT = f"{CRASH} what_a_destination_got"


class Mutation(NamedTuple):
    """A line, what stands in its place, and the test that must notice."""

    name: str
    path: str
    old: str
    new: str
    test: str


MUTATIONS = (
    Mutation("fsync: every commit of `power`", "spool/connection.py",
             'connection.execute(f"PRAGMA synchronous = {level}")',
             'connection.execute("PRAGMA synchronous = OFF")', IMAGES),
    Mutation("fsync: the level is read back", "spool/connection.py",
             'if connection.execute("PRAGMA synchronous").fetchone() != (_SYNCHRONOUS[level],):',
             "if False:", "tests/test_spool.py -k another_level"),
    Mutation("fsync: chores of `process`", "spool/file.py",
             'set_synchronous(self.connection, "FULL")', "pass", SENT),
    Mutation("fsync: the directory of a new file", "spool/file.py",
             "sync_directory(self.lock.slot.directory)", "pass",
             "tests/test_spool.py -k cannot_be_fsynced"),
    Mutation("fsync: parents of the directory", "spool/directory.py",
             "        sync_directory(directory.parent)", "        pass",
             f"{CRASH} made_for_the_first_record"),
    Mutation("fsync: what is salvaged", "delivery/sources.py", 'synchronous="FULL"',
             'synchronous="OFF"', "tests/test_crash_salvage.py -k loses_what_could_be_read"),
    Mutation("COMMIT: a group of records", "spool/commit.py",
             '            connection.execute("COMMIT")\n', "", IMAGES),
    Mutation("COMMIT: an emit waits for it", "spool/intake.py",
             "self._commits.wait(ticket.group, leads, self._settings.emit_timeout_s)",
             "True", "tests/test_spool.py -k is_on_disk"),
    Mutation("BEGIN IMMEDIATE", "spool/commit.py",
             'connection.execute("BEGIN IMMEDIATE")', 'connection.execute("BEGIN")',
             "tests/test_spool.py -k stranger"),
    Mutation("send: the attempt is written first", "delivery/dispatch.py",
             "        if not self._note_attempt(source, batch):\n            return\n", "", SENT),
    Mutation("send: the attempt counts as ambiguous", "spool/ledger.py",
             "attempts = attempts + 1, ambiguous = ambiguous + 1 ",
             "attempts = attempts + 1 ", "tests/test_courier.py -k arrives_twice"),
    Mutation("send: a batch has a ledger row", "delivery/dispatch.py",
             "            self._enter(file, batch)\n            return ledger.note_attempt",
             "            return ledger.note_attempt", SENT),
    Mutation("send: rows are checked", "spool/checked.py",
             "if checksum(sequence, payload) != crc:", "if False:",
             "tests/test_spool.py -k damaged_row"),
    Mutation("settle: the counter", "spool/ledger.py",
             "    count(connection, batch.stream, state.value, batch.records - rejected, "
             "batch.bytes)\n", "", "tests/test_spool.py -k adopted"),
    Mutation("gap: a refusal at the door", "spool/admission.py",
             "self._home.committer.count_refused(reason)", "pass",
             "tests/test_spool.py -k too_large"),
    Mutation("failover: what no fsync covered is stored again", "spool/commit.py",
             "again = [*self._unsynced, *new]", "again = [*new]",
             "tests/test_spool_faults.py -k left_in_both"),
    Mutation("failover: the old file's rows are taken out", "spool/recovery.py",
             "        give_away_moved(file)\n", "        pass\n",
             "tests/test_spool_faults.py -k left_in_both"),
    Mutation("fsync: a checkpoint of `process` is ours", "spool/connection.py",
             'pages = 0 if synchronous == "NORMAL" else _CHECKPOINT_PAGES',
             "pages = _CHECKPOINT_PAGES", "tests/test_spool_faults.py -k checkpoint_that_fails"),
    Mutation("stamp: a life begins after those before it", "stamping/stamper.py",
             "    _begin_after(stream, read, latest)\n", "",
             "tests/test_stamping.py -k begins_after_those"),
    Mutation("stamp: a clock that goes back ends the stream", "spool/writer.py",
             "            self._begin_anew()\n", "",
             "tests/test_spool.py -k goes_back_ends"),
    Mutation("intent: written in its record's commit", "spool/commit.py",
             "self._intents.write(self.file.connection, entries)", "pass",
             "tests/test_examples.py -k crash_in_a_change"),
    Mutation("intent: those of the dead are told of", "delivery/teller.py",
             "        self._tell_orphans(source, timeout)\n", "",
             "tests/test_examples.py -k crash_in_a_change"),
    Mutation("intent: on disk before the block, on a loop", "memory_log/change.py",
             "stored = await intended.stored(self._emitter.timeout_s)", "stored = True",
             "tests/test_memory_log.py -k blocks_an_event_loop"),
    Mutation("fork: a child lets go of the parent's file", "spool/forks.py",
             ", after_in_child=_forget)", ")",
             "tests/test_spool.py -k fork_child_is_a_new_stream"),
    Mutation("fork: without hooks, the pid tells", "spool/store.py",
             "        self.check_pid()\n        return self._intake", "        return self._intake",
             "tests/test_hosts.py -k neither_freed"),
    Mutation("full: delivery gets the ballast", "spool/commit.py",
             "        self._make_room()\n", "", "tests/test_spool_faults.py -k full_disk"),
)


def mutate(copy: Path, mutation: Mutation) -> None:
    """Change the copy; the line must be there exactly once."""
    path = copy / "src" / "otel_memoir" / mutation.path
    text = path.read_text()
    if text.count(mutation.old) != 1:
        raise SystemExit(f"{mutation.name}: the line is there {text.count(mutation.old)} times")
    path.write_text(text.replace(mutation.old, mutation.new))


def failed_test(copy: Path, mutation: Mutation) -> str:
    """The first test that goes red, or nothing."""
    arguments = mutation.test.replace("not(slow)", "not\0slow").split(" ")
    command = [
        sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider",
        *(argument.replace("\0", " ") for argument in arguments),
    ]
    environ = {**os.environ, "PYTHONPATH": str(copy / "src")}
    try:
        done = subprocess.run(
            command, cwd=copy, env=environ, capture_output=True, text=True, timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return "(the run hung and was ended)"
    if done.returncode == 5:
        raise SystemExit(f"{mutation.name}: no test is chosen by {mutation.test}")
    lines = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return lines[0].split(" - ")[0].split(" ", 1)[1] if lines else ""


def main() -> int:
    """Try each mutation in a copy; return how many no test noticed."""
    words = " ".join(sys.argv[1:])
    unnoticed = 0
    print("| line deleted or weakened | test that went red |\n|---|---|", flush=True)
    for mutation in (m for m in MUTATIONS if words in m.name):
        with tempfile.TemporaryDirectory() as scratch:
            copy = Path(scratch) / "checkout"
            ignored = shutil.ignore_patterns(".venv*", ".git", ".*cache*", "__pycache__")
            shutil.copytree(ROOT, copy, ignore=ignored)
            mutate(copy, mutation)
            red = failed_test(copy, mutation)
        unnoticed += not red
        print(f"| {mutation.name} | {f'`{red}`' if red else '**none**'} |", flush=True)
    return unnoticed


if __name__ == "__main__":
    sys.exit(main())
