"""The world of the model: processes, a destination, a clock, a disk; and the actions."""

from __future__ import annotations

import dataclasses
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from unittest import mock

from model.destination import Attempt, Destination, Key, Killed
from model.disk import Disk
from model.intents import Intents, Undertaking, declaring, ending, unknown_draft
from model.process import ENVELOPE, Process, TickingClock, calm_down, strike
from model.reference import Reference
from otel_memoir.settings import Settings
from otel_memoir.spool import Draft, Totals, chores
from otel_memoir.spool.directory import Slot, is_held, slots
from otel_memoir.spool.inspect import status_of_directory, sum_totals
from otel_memoir.spool.quarantine import Quarantined, discard, quarantined, replay
from otel_memoir.spool.verify import verify_directory
from spool_helpers import disk_full, io_error

SETTINGS = {
    "disk_free_bytes_min": 0, "emit_timeout_s": 3.0, "compress_above_bytes": 300,
    "record_bytes_max": 12_000, "request_records_max": 4, "request_bytes_max": 20_000,
    "spool_bytes_max": 2**16, "backoff_initial_s": 0.5, "backoff_max_s": 8.0,
    "hold_probe_interval_s": 5.0, "adoption_interval_s": 2.0, "linger_s": 0.2,
}

SIZES = {"small": 0, "compressed": 400, "big": 9000, "too large": 13_000}

ERRORS: dict[str, Callable[[], BaseException]] = {
    "disk full": disk_full, "io error": io_error, "killed": Killed,
}

_CALM_ROUNDS = 400


def _memory_directory() -> str | None:
    """A file system in memory, if there is one: nothing here is about power cuts."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


class World:
    """Everything that a machine acts upon."""

    def __init__(self, **given: object) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="memoir-model-", dir=_memory_directory()))
        self.settings = Settings(**{**SETTINGS, **given})  # type: ignore[arg-type]  # a table
        self.clock = TickingClock()
        self.reference = Reference(self.settings)
        self.destination = Destination(
            monotonic_s=lambda: self.clock.now_s, on_attempt=self._attempted
        )
        self.intents = Intents(self.reference.stored)
        self.living: list[Process] = []
        # Nobody else commits here: to wait for somebody's commit is to wait for nothing.
        self._no_ride = mock.patch.object(chores, "RIDE_S", 0.0)
        self._no_ride.start()
        self._wrong: list[AssertionError] = []
        self._born = 0
        self._emitted = 0
        self._touched = 0

    def _attempted(self, attempt: Attempt) -> None:
        """Check a request. The courier survives what a sender raises, so it is kept for later."""
        try:
            self.reference.attempted(attempt)
        except AssertionError as error:
            self._wrong.append(error)

    # -- processes ------------------------------------------------------------

    def start(self) -> None:
        """Start a process; its file opens with its first record."""
        self._born += 1
        self.living.append(
            Process(
                self._born, self.directory, self.settings, clock=self.clock,
                destination=self.destination, journal=self.reference,
                make_orphan_draft=unknown_draft,
            )
        )

    def act(self, process: Process, action: Callable[[], object]) -> None:
        """Let a process do something, which it may not survive."""
        self.reference.now_s = self.clock.now_s
        try:
            action()
        except Killed:
            self.kill(process)
        self.reference.now_s = self.clock.now_s

    def kill(self, process: Process) -> None:
        """SIGKILL."""
        self.reference.unwritten.add(process.number)
        self.reference.killed.add(process.number)
        self.living.remove(process)
        self.reference.died(process.number, process.unwritten_refusals())
        held = [file.path for file in process.files() if file.lock is not None]
        process.kill()
        self._touch(held)

    def shut_down(self, process: Process, timeout: float) -> None:
        """End a process; it delivers for so many seconds first."""
        held = [file.path for file in process.files() if file.lock is not None]
        self.act(process, lambda: process.shut_down(timeout))
        if process in self.living:
            self.living.remove(process)
            self.reference.died(process.number, process.unwritten_refusals())
        self._touch(held)

    def _touch(self, paths: list[Path | str]) -> None:
        """Let the files look changed: in a model, all happens in one tick of the kernel."""
        for path in paths:
            self._touched += 1
            if os.path.exists(path):
                os.utime(path, ns=(self._touched, self._touched))

    # -- actions --------------------------------------------------------------

    def emit(self, process: Process, kind: str, severity: int, *, on_loop: bool) -> None:
        """Emit one record."""
        self._emitted += 1
        name = f"{'poison' if kind == 'poison' else 'e'}{self._emitted}"
        payload = f"<{name}>".encode() + bytes(SIZES.get(kind, 0))
        draft = Draft(ENVELOPE, payload, severity, f"uid-{name}")
        self.act(process, lambda: process.emit(draft, on_loop=on_loop))

    def intend(self, process: Process, *, on_loop: bool) -> str:
        """Declare an intent; return its id."""
        id_ = f"intent-{len(self.intents.all)}"
        self.intents.all[id_] = Undertaking(process.number)
        self.act(process, lambda: process.emit(declaring(id_), on_loop=on_loop))
        return id_

    def conclude(self, process: Process, id_: str, *, on_loop: bool) -> None:
        """Tell of the outcome of an intent."""
        self.intents.all[id_].is_over = True
        self.act(process, lambda: process.emit(ending(id_), on_loop=on_loop))

    def deliver(self, process: Process, reply: str, *, answers_probe: bool) -> None:
        """One step of a courier, answered so."""
        self.destination.reply, self.destination.answers_probe = reply, answers_probe
        self.act(process, process.deliver_once)
        self.destination.reply, self.destination.answers_probe = "ok", True

    def change(self, process: Process, *, moves: bool, **given: int) -> None:
        """Change settings of a process; another destination need not wait as the last one asked."""
        if moves:
            self.reference.not_before_s.pop(process.number, None)
        settings = dataclasses.replace(process.spool.settings, **given)
        process.change(settings, moves=moves)

    def break_disk(
        self, process: Process, which: int, statement: str, error: str, times: int, after: bool
    ) -> None:
        """Make the next statements on one of a process's files fail."""
        files = [file for file in process.files() if file.lock is not None]
        if files:
            self.reference.unwritten.add(process.number)
            if error == "io error":
                self.reference.a_commit_raised |= after
                self.reference.unordered |= {key[:2] for key in self.reference.by_key}
            strike(
                files[which % len(files)], statement, ERRORS[error](), times=times, after=after
            )

    def free_quarantined(self) -> list[tuple[Slot, Quarantined]]:
        """The batches in quarantine in files that nobody holds."""
        free = [slot for slot in slots(self.directory) if not is_held(slot)]
        return [(slot, one) for slot in free for one in quarantined(slot.database)]

    def jump(self, seconds: float) -> None:
        """Set the wall clock, and let each courier look at its clocks, as any step does."""
        self.clock.jump(seconds)
        for process in self.living:
            process.courier._planner.tried_s()

    def go_back(self, process: Process) -> None:
        """The clock finds out that it is ahead; one process sees it at once, the others later."""
        self.clock.epoch += 1
        self.jump(-3600.0)
        self.act(process, process.write_once)

    def operate(self, choice: int, *, discards: bool) -> None:
        """An operator replays or discards a batch of a file that nobody holds."""
        found = self.free_quarantined()
        slot, one = found[choice % len(found)]
        batch, stream = one.batch, one.stream
        keys = {
            Key(stream.stream_id, stream.epoch, sequence)
            for sequence in range(batch.first_sequence, batch.last_sequence + 1)
        }
        if discards:
            discard(slot, batch.number, unix_ns=self.clock.wall_ns())
            self.reference.discarded |= keys
        else:
            replay(slot, batch.number)
            self.reference.replayed |= keys
        self._touch([slot.database])

    # -- invariants -----------------------------------------------------------

    def check(self) -> Disk:
        """All that must be true after every action."""
        if self._wrong:
            raise self._wrong[0]
        disk = Disk(self.directory)
        self.reference.check(disk)
        statuses = status_of_directory(self.directory, wall_ns=self.clock.wall_ns)
        verdicts = verify_directory(self.directory)
        for status, verdict in zip(statuses, verdicts):
            assert not status.problem, status.problem
            assert verdict.findings == (), (status.name, verdict.findings)
            self._check_totals(status.totals, verdict.recomputed)
        totals = sum_totals(statuses)
        assert totals.accepted - disk.doubled == self.reference.accepted, totals
        self.reference.check_refused(
            Counter(totals.refused),
            sum((process.unwritten_refusals() for process in self.living), Counter()),
        )
        self._check_room(disk)
        self.intents.check({process.number for process in self.living})
        return disk

    def _check_totals(self, counted: Totals, recomputed: Totals) -> None:
        assert counted.unaccounted == 0, counted
        for name in ("accepted", "pending", "delivered", "rejected", "quarantined", "expired",
                     "evicted", "discarded"):
            assert getattr(counted, name) == getattr(recomputed, name), (name, counted, recomputed)
        assert dict(counted.refused) == dict(recomputed.refused)

    def _check_room(self, disk: Disk) -> None:
        """What a spool believes to be waiting is what waits."""
        for process in self.living:
            file, upkeep = process.spool.file, process.spool._home.upkeep
            if file is not None and upkeep is not None and file.lock is not None:
                waits = disk.pending_bytes[file.name]
                assert upkeep._waiting_bytes == waits, (upkeep._waiting_bytes, waits)
                kept = disk.retained_bytes[file.name]
                assert upkeep._retained_bytes == kept, (upkeep._retained_bytes, kept)

    # -- the end --------------------------------------------------------------

    def calm(self) -> None:
        """Let all be well: what lives delivers all it can reach; then a new process the rest."""
        for process in self.living:
            for file in process.files():
                calm_down(file)
        for process in list(self.living):
            self._settle_down(process)
        for process in list(self.living):
            self.shut_down(process, 1.0)
        self.start()
        self._settle_down(self.living[0])
        disk = self.check()
        self.reference.check_end(disk)
        self.intents.check_end()
        self.shut_down(self.living[0], 1.0)
        self.check()

    def _settle_down(self, process: Process) -> None:
        process.spool.open()
        for number in range(_CALM_ROUNDS):
            if number % 20 == 19:
                # What the server refuses is only known to be poison once it takes others.
                self.emit(process, "small", 9, on_loop=False)
            self.act(process, process.write_once)
            wait_s = process.deliver_once()
            self.reference.now_s = self.clock.now_s
            if wait_s > 0:
                if process.courier.is_drained():
                    return
                self.clock.advance(wait_s)
        raise AssertionError(f"process {process.number} never delivers all it holds")

    def summary(self) -> Counter[str]:
        """How many records came to each state, and how many requests got each answer."""
        found = Counter(self.reference.states.values())
        for attempt in self.destination.attempts:
            found[attempt.outcome.code if attempt.outcome else "died"] += 1
        return found

    def end(self) -> None:
        """Leave nothing behind."""
        for process in list(self.living):
            for file in process.files():
                calm_down(file)
            self.living.remove(process)
            process.kill()
        self._no_ride.stop()
        shutil.rmtree(self.directory, ignore_errors=True)
