"""The tools that prove durability, proved themselves on programs whose faults are known."""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from crash import (
    CrashImages,
    CrashToolError,
    Fault,
    Image,
    Policy,
    Target,
    Trace,
    count_calls,
    judge,
    record,
    run_with_fault,
    sqlite_reader,
    sweep,
    table,
)
from crash import operations as ops
from crash.reader import Reader
from crash.trace import snapshot

WORKLOADS = Path(__file__).with_name("crash") / "workloads"
read_rows = sqlite_reader("rows.db", "SELECT id FROM rows")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """An empty directory for a workload."""
    path = tmp_path / "followed"
    path.mkdir()
    return path


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Target]:
    """Where images are written: memory where there is some, they are many."""
    memory = Path("/dev/shm")
    parent = memory if os.access(memory, os.W_OK) else tmp_path
    scratch = Path(tempfile.mkdtemp(prefix="images-", dir=parent))
    yield Target(scratch)
    shutil.rmtree(scratch)


def workload(name: str, directory: Path, *arguments: object) -> list[str]:
    """The command of one of the workloads."""
    return [sys.executable, str(WORKLOADS / name), str(directory), *map(str, arguments)]


def script(text: str) -> list[str]:
    """The command of a small program."""
    return [sys.executable, "-c", text]


def recorded(command: Sequence[str], directory: Path) -> Trace:
    """The trace of a command that must succeed."""
    trace = record(command, directory)
    assert trace.completed.returncode == 0, trace.completed.stderr.decode()
    return trace


def made(*operations: ops.Operation, files: dict[str, bytes] | None = None) -> Trace:
    """A trace of hand-made operations on the given durable files."""
    ended = subprocess.CompletedProcess([], 0, b"", b"")
    return Trace(Path(), files or {}, frozenset(), operations, frozenset(), 0, ended)


def last_image(trace: Trace, policy: Policy, **options: Any) -> Image:
    """The image of a power cut after the last operation, for a policy without dice."""
    # A last promise makes it differ from all before: equal images are yielded once only.
    end = ops.Ack("end", begin=sys.maxsize, end=sys.maxsize)
    trace = replace(trace, operations=(*trace.operations, end))
    image = list(CrashImages(trace, (policy,), **options))[-1]
    assert image.acked == trace.acked
    return image


def read_versions(directory: Path) -> set[str]:
    """Every version up to the one that ``replace_file`` left whole."""
    path = directory / "current"
    if not path.exists():
        return set()
    lines = path.read_text().splitlines()
    is_whole = len(lines) == 1000 and len(set(lines)) == 1
    return set(map(str, range(int(lines[0]) + 1))) if is_whole else set()


def read_lines(directory: Path) -> set[str]:
    """The whole lines that ``append_together`` left."""
    texts = [path.read_bytes() for path in directory.iterdir()]
    return {line.decode() for text in texts for line in text.split(b"\n")[:-1] if b"\0" not in line}


KEPT = Policy("kept", data="kept", names="kept")
DROPPED = Policy("dropped", data="dropped", names="dropped")
TORN = Policy("torn", data="torn", names="kept")


# What a program did is read right.


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("sqlite_rows.py", ("FULL", 30)),
        ("replace_file.py", (5,)),
        ("append_together.py", (20,)),
    ],
)
def test_an_image_that_keeps_everything_is_the_directory_the_program_left(
    directory: Path, name: str, arguments: tuple[object, ...]
) -> None:
    """The model and the kernel agree on the outcome, so no operation was missed or misread."""
    trace = recorded(workload(name, directory, *arguments), directory)
    image = last_image(trace, KEPT)
    assert (dict(image.files), image.directories) == snapshot(directory)
    assert len(trace.acked) == trace.completed.stdout.count(b"ACK ")


def test_moved_directories_links_and_sizes_are_followed(directory: Path) -> None:
    """Every way to change a name or a size that is modelled gives the kernel's result."""
    text = f"""
import os
os.chdir({str(directory)!r})
os.makedirs("a/b")
open("a/b/file", "wb", buffering=0).write(b"12345")
os.link("a/b/file", "second")
os.rename("a", "moved")
with open("moved/b/file", "ab", buffering=0) as file:
    file.write(b"67")
    file.truncate(6)
    os.posix_fallocate(file.fileno(), 0, 20)
os.mkdir("gone")
os.rmdir("gone")
os.truncate("second", 19)
"""
    trace = recorded(script(text), directory)
    image = last_image(trace, KEPT)
    assert (dict(image.files), image.directories) == snapshot(directory)
    assert image.files["second"] == b"123456" + bytes(13)


def test_a_position_shared_over_fork_is_followed(directory: Path) -> None:
    """A child's plain write moves the position of its parent."""
    text = f"""
import os
file = os.open({str(directory / "file")!r}, os.O_WRONLY | os.O_CREAT)
if os.fork() == 0:
    os.write(file, b"child")
    os._exit(0)
os.wait()
os.write(os.dup2(file, 40), b"parent")
"""
    trace = recorded(script(text), directory)
    writes = [op for op in trace.operations if isinstance(op, ops.Write)]
    assert [(op.offset, op.data) for op in writes] == [(0, b"child"), (5, b"parent")]


def test_a_position_shared_between_threads_is_followed(directory: Path) -> None:
    """A thread writes through what another opened after its birth; appending ignores offsets."""
    text = f"""
import os, threading
born, opened = threading.Event(), threading.Event()
def write():
    os.close(os.open(os.devnull, os.O_RDONLY))
    born.set()
    opened.wait(30)
    os.write(file, b"thread")
thread = threading.Thread(target=write, name="writer")
thread.start()
born.wait(30)
file = os.open({str(directory / "file")!r}, os.O_WRONLY | os.O_CREAT)
opened.set()
thread.join(30)
os.write(file, b"main")
os.pwrite(os.open({str(directory / "file")!r}, os.O_WRONLY | os.O_APPEND), b"end", 0)
"""
    trace = recorded(script(text), directory)
    assert last_image(trace, KEPT).files == snapshot(directory)[0] == {"file": b"threadmainend"}


def test_only_what_was_written_of_a_short_write_counts() -> None:
    """write(2) may take a part; the rest never reached the file."""
    reader = Reader(Path("/d"), frozenset(), (), reads=False)
    path = hexed("/d/f")
    reader.read(
        [
            f'7 openat(AT_FDCWD<{path}>, "{path}", O_WRONLY|O_CREAT, 0600) = 3<{path}>',
            f'7 pwrite64(3<{path}>, "{hexed("abc")}", 3, 0) = 2',
        ]
    )
    assert reader.operations()[-1] == ops.Write("f", 0, b"ab", begin=1, end=1)


def test_a_position_that_a_read_may_have_moved_is_refused_unless_reads_are_followed(
    directory: Path,
) -> None:
    """The tool says that it cannot know, and its remedy works."""
    (directory / "file").write_bytes(b"12345")
    text = f"""
import os
file = os.open({str(directory / "file")!r}, os.O_RDWR)
os.read(file, 3)
os.write(file, b"x")
"""
    with pytest.raises(CrashToolError, match="follow_reads=True"):
        record(script(text), directory)
    (directory / "file").write_bytes(b"12345")
    trace = record(script(text), directory, follow_reads=True)
    assert last_image(trace, KEPT).files == {"file": b"123x5"}


def test_a_file_written_through_a_memory_map_is_refused_unless_ignored(directory: Path) -> None:
    """What the trace cannot see must not look like nothing."""
    (directory / "map").write_bytes(b"12345")
    text = f"""
import mmap
with open({str(directory / "map")!r}, "r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
    memory[0] = 0
"""
    with pytest.raises(CrashToolError, match="cannot be seen"):
        record(script(text), directory)
    assert record(script(text), directory, ignore=("map",)).operations == ()


def test_half_a_promise_is_refused(directory: Path) -> None:
    """A promise split over two writes has no one moment."""
    with pytest.raises(CrashToolError, match="whole line"):
        record(script("import os; os.write(1, b'ACK 1')"), directory)


def test_a_promise_counts_from_its_entry_and_a_sync_from_its_return() -> None:
    """Of two calls that overlap, the order is taken that is hardest on the program."""
    lines = [
        f"7 fdatasync(3<{hexed('/d/f')}> <unfinished ...>",
        f'8 write(1<{hexed("pipe:[1]")}>, "{hexed("ACK 1" + chr(10))}", 6 <unfinished ...>',
        "7 <... fdatasync resumed>)               = 0",
        "8 <... write resumed>)                   = 6",
        f'9 write(1<{hexed("pipe:[1]")}>, "{hexed("ACK 2" + chr(10))}", 6 <unfinished ...>',
    ]
    reader = Reader(Path("/d"), frozenset(), (), reads=False)
    reader.read(lines)
    assert reader.operations() == (
        ops.Ack("1", begin=1, end=3),
        ops.Sync("f", begin=0, end=2),
        ops.Ack("2", begin=4, end=4),
    )


def test_a_write_through_a_synchronous_descriptor_needs_no_sync(directory: Path) -> None:
    """O_DSYNC makes each write durable when it returns (open(2)); a plain one is not."""
    text = f"""
import os
for name, flag in (("plain", 0), ("synchronous", os.O_DSYNC)):
    file = os.open({str(directory)!r} + "/" + name, os.O_WRONLY | os.O_CREAT | flag)
    os.write(file, b"1")
"""
    trace = recorded(script(text), directory)
    names_only = last_image(trace, Policy("empty", data="dropped", names="kept"))
    assert names_only.files == {"plain": b"", "synchronous": b"1"}


def test_promises_may_go_to_any_file_outside_the_directory(directory: Path) -> None:
    """A program whose stdout is taken promises elsewhere."""
    text = f"""
import os
file = os.open({str(directory.with_name("promises"))!r}, os.O_WRONLY | os.O_CREAT)
os.write(file, b"ACK a\\nACK b\\n")
"""
    assert recorded(script(text), directory).acked == {"a", "b"}


def test_a_missing_strace_is_said_with_its_remedy(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proof that could not run must not look like one that did."""
    monkeypatch.setenv("PATH", str(directory))
    with pytest.raises(CrashToolError, match="apt-get install strace"):
        record(script("pass"), directory)


def test_a_command_that_hangs_is_ended_with_its_children(directory: Path) -> None:
    """A deadline ends the traced program, not only strace."""
    text = "import os, signal; os.fork(); print(os.getpid(), flush=True); signal.pause()"
    mark = directory / "pids"
    hanging = ["/bin/sh", "-c", f"exec {sys.executable} -c '{text}' > {mark}"]
    with pytest.raises(CrashToolError, match="not done after"):
        record(hanging, directory, timeout=1.5)
    pids = mark.read_text().split()
    assert len(pids) == 2
    assert all(has_ended(int(pid)) for pid in pids)


# What a power cut leaves is modelled right.


def test_a_sync_covers_only_writes_that_returned_before_it_was_entered() -> None:
    """A write that raced with the sync may be lost."""
    early = ops.Write("f", 0, b"early", begin=0, end=1)
    late = ops.Write("f", 5, b"late", begin=2, end=4)
    trace = made(early, late, ops.Sync("f", begin=3, end=5), files={"f": b""})
    assert last_image(trace, DROPPED).files == {"f": b"early"}
    assert last_image(trace, KEPT).files == {"f": b"earlylate"}


def test_what_a_failed_sync_lost_is_not_brought_back_by_the_next() -> None:
    """The kernel marks pages clean after a failed sync (Rebello et al., ATC'20)."""
    trace = made(
        ops.Write("f", 0, b"one", begin=0, end=0),
        ops.SyncFailed("f", "EIO", begin=1, end=1),
        ops.Write("f", 3, b"two", begin=2, end=2),
        ops.Sync("f", begin=3, end=3),
        files={"f": b""},
    )
    assert last_image(trace, KEPT).files == {"f": bytes(3) + b"two"}
    assert last_image(trace, KEPT, failed_sync="retried").files == {"f": b"onetwo"}


def test_a_torn_write_is_cut_at_sectors_only() -> None:
    """Every torn image keeps the head or the tail of the write, up to a sector boundary."""
    old, new = b"o" * 2000, b"n" * 1500
    trace = made(ops.Write("f", 300, new, begin=0, end=0), files={"f": old})
    found = {image.files["f"] for image in CrashImages(trace, (TORN,), rounds=60)}
    heads = {old[:300] + b"n" * (at - 300) + old[at:] for at in (512, 1024, 1536)}
    tails = {old[:at] + b"n" * (1800 - at) + old[1800:] for at in (512, 1024, 1536)}
    assert found == heads | tails


def test_a_lost_rename_brings_back_the_file_it_replaced() -> None:
    """Names lead to files, so the old content is still there under the old name."""
    rename = ops.Rename("new", "old", begin=0, end=0)
    trace = made(rename, files={"old": b"1", "new": b"2"})
    assert last_image(trace, DROPPED).files == {"old": b"1", "new": b"2"}
    assert last_image(trace, KEPT).files == {"old": b"2"}
    synced = made(rename, ops.SyncDir("", begin=1, end=1), files={"old": b"1", "new": b"2"})
    assert last_image(synced, DROPPED).files == {"old": b"2"}


def test_a_move_between_directories_needs_both_synced_and_a_lost_directory_takes_its_files() -> (
    None
):
    """Strict reading of POSIX: a name is as durable as the directories above it."""
    steps: list[ops.Operation] = [
        ops.Mkdir("sub", begin=0, end=0),
        ops.Rename("f", "sub/f", begin=1, end=1),
        ops.SyncDir("sub", begin=2, end=2),
    ]
    half = last_image(made(*steps, files={"f": b"1"}), DROPPED)
    assert half.files == {"f": b"1"}
    steps.append(ops.SyncDir("", begin=3, end=3))
    whole = last_image(made(*steps, files={"f": b"1"}), DROPPED)
    assert (whole.files, whole.directories) == ({"sub/f": b"1"}, frozenset({"sub"}))


def test_a_half_synced_move_does_not_remove_a_newer_file_of_the_old_name() -> None:
    """Changes of names that become durable out of order leave each name its own file."""
    trace = made(
        ops.Mkdir("sub", begin=0, end=0),
        ops.SyncDir("", begin=1, end=1),
        ops.Rename("f", "sub/f", begin=2, end=2),
        ops.Create("f", begin=3, end=3),
        ops.SyncDir("", begin=4, end=4),
        files={"f": b"old"},
    )
    assert last_image(trace, DROPPED).files == {"f": b""}
    assert last_image(trace, KEPT).files == {"f": b"", "sub/f": b"old"}


def test_the_same_seed_gives_the_same_images_and_a_sample_is_a_part_of_them(
    directory: Path,
) -> None:
    """A failure can be had again, and the quick mode tests nothing else than the long one."""
    trace = recorded(workload("sqlite_rows.py", directory, "NORMAL", 20), directory)
    whole = list(CrashImages(trace, rounds=2))
    assert whole == list(CrashImages(trace, rounds=2))
    assert whole != list(CrashImages(trace, rounds=2, seed=1))
    sample = list(CrashImages(trace, rounds=2).sample(5))
    states = [(image.cut, image.policy, image.files) for image in whole]
    assert len(whole) / 8 < len(sample) < len(whole) / 3
    assert all(image.files in [state[2] for state in states] for image in sample)


def test_a_target_undoes_what_a_judge_did_to_the_image_before(tmp_path: Path) -> None:
    """Recovery changes files; the next image must not inherit that."""
    image = Image(0, "start", "kept", {"a": b"1", "s/b": b"2"}, frozenset({"s"}), frozenset())
    target = Target(tmp_path / "image")
    target.write(image)
    (target.directory / "a").write_bytes(b"x")
    (target.directory / "s" / "b").unlink()
    (target.directory / "s" / "more").mkdir()
    (target.directory / "s" / "more" / "c").touch()
    target.write(image)
    assert snapshot(target.directory) == ({"a": b"1", "s/b": b"2"}, frozenset({"s"}))


# Promises are judged right: kept ones pass, broken ones are found.


def test_sqlite_keeps_promised_rows_only_if_each_commit_is_synced(
    directory: Path, target: Target
) -> None:
    """FULL loses nothing in any image; NORMAL and OFF lose rows, so the images discriminate."""
    verdicts = {}
    for synchronous in ("FULL", "NORMAL", "OFF"):
        fresh(directory)
        trace = recorded(workload("sqlite_rows.py", directory, synchronous, 120), directory)
        assert len(trace.acked) == 120
        images = CrashImages(trace)
        verdicts[synchronous] = judge(synchronous, images, read_rows, target)
    report = table(list(verdicts.values()))
    assert verdicts["FULL"].holds, f"{report}\n{verdicts['FULL'].examples}"
    assert verdicts["FULL"].promising > 500, report
    assert verdicts["NORMAL"].missing > 100, report
    assert verdicts["NORMAL"].corrupt == 0, report
    assert verdicts["OFF"].missing > 100, report
    assert verdicts["OFF"].corrupt > 0, report


@pytest.mark.parametrize("left_out", ["no-file-sync", "no-directory-sync"])
def test_replacing_a_file_by_rename_loses_it_without_either_sync(
    directory: Path, target: Target, left_out: str
) -> None:
    """The file's bytes and its directory's names are two promises, each with its own sync."""
    careful = recorded(workload("replace_file.py", directory, 6), directory)
    assert judge("careful", CrashImages(careful), read_versions, target).holds
    fresh(directory)
    careless = recorded(workload("replace_file.py", directory, 6, left_out), directory)
    assert judge(left_out, CrashImages(careless), read_versions, target).missing > 0


def test_promises_of_threads_and_children_are_kept_in_order(
    directory: Path, target: Target
) -> None:
    """Syncs of several threads and processes overlap; no promise is charged too early."""
    trace = recorded(workload("append_together.py", directory, 25), directory)
    assert len(trace.acked) == 75
    verdict = judge("append", CrashImages(trace), read_lines, target)
    assert verdict.holds, verdict.examples


def test_a_run_without_promises_proves_nothing(target: Target) -> None:
    """An empty proof does not pass."""
    trace = made(ops.Create("f", begin=0, end=0))
    assert not judge("silent", CrashImages(trace), lambda _: set(), target).holds


# Faults are injected where asked, and their outcome is seen.


def touched(command: Sequence[str], directory: Path) -> list[Path]:
    """What a fault-free run of the command names, so that faults can name it too."""
    paths = [directory / name for name in recorded(command, directory).touched]
    fresh(directory)
    return paths


def test_each_counted_call_can_be_made_to_fail_and_no_promise_is_false(directory: Path) -> None:
    """A fault at the k-th call strikes, once or for good, and promised rows are there."""
    command = workload("sqlite_rows.py", directory, "FULL", 4)
    paths = touched(command, directory)
    assert {directory, directory / "rows.db", directory / "rows.db-wal"} <= set(paths)
    counts = count_calls(command, paths)
    assert counts["fdatasync"] >= 5
    assert counts["pwrite64"] > 10
    seen = []
    for fault in sweep(counts, every=3):
        fresh(directory)
        run = run_with_fault(command, fault, paths)
        assert run.injected >= 1, fault
        assert fault.sticky or run.injected == 1, fault
        assert run.acked <= set(read_rows(directory)), fault
        seen.append((fault.syscall, run.completed.returncode != 0))
    assert {("fdatasync", True), ("pwrite64", True), ("openat", True)} <= set(seen)


def test_a_program_that_promises_in_spite_of_an_error_is_found(directory: Path) -> None:
    """The sweep's negative control."""
    command = workload("sqlite_rows.py", directory, "FULL", 4, "careless")
    paths = touched(command, directory)
    counts = count_calls(command, paths)
    liars = []
    for fault in sweep(counts, errors={"pwrite64": ("ENOSPC",)}, sticky=(True,), every=2):
        fresh(directory)
        run = run_with_fault(command, fault, paths)
        liars.append(bool(run.acked - set(read_rows(directory))))
    assert any(liars)


def test_a_fault_strikes_only_the_given_paths(directory: Path) -> None:
    """The interpreter's own calls are neither counted nor failed."""
    command = workload("sqlite_rows.py", directory, "FULL", 1)
    wal = directory / "rows.db-wal"
    run = run_with_fault(command, Fault("openat", "EMFILE", when=1, sticky=True), [wal])
    assert run.injected >= 1
    assert b"unable to open database file" in run.completed.stderr
    assert count_calls(command, [directory / "nothing"]) == {}


@pytest.mark.parametrize("careless", [False, True])
def test_a_power_cut_after_a_failed_sync_is_tried_too(
    directory: Path, target: Target, careless: bool
) -> None:
    """A run with a fault is recorded; who goes on promising after a failed sync is found."""
    arguments = ("FULL", 8, "careless") if careless else ("FULL", 8)
    fault = Fault("fdatasync", "EIO", when=9)
    command = workload("sqlite_rows.py", directory, *arguments)
    trace = record(command, directory, inject=str(fault))
    assert trace.injected == 1
    assert any(isinstance(op, ops.SyncFailed) for op in trace.operations)
    assert trace.acked
    verdict = judge("failed sync", CrashImages(trace), read_rows, target)
    assert (verdict.missing > 0) == careless, verdict.examples


@pytest.mark.slow
@pytest.mark.parametrize("synchronous", ["FULL", "NORMAL", "OFF"])
def test_a_long_run_of_sqlite_agrees_with_the_short_one(
    directory: Path, target: Target, synchronous: str
) -> None:
    """Many thousands of images, past several checkpoints and a reset of the write-ahead log."""
    trace = recorded(workload("sqlite_rows.py", directory, synchronous, 600), directory)
    verdict = judge(synchronous, CrashImages(trace, rounds=6), read_rows, target)
    print(table([verdict]))
    assert verdict.images > 5_000
    assert verdict.holds == (synchronous == "FULL"), verdict.examples


def hexed(text: str) -> str:
    """Text as strace -xx prints it."""
    return "".join(f"\\x{byte:02x}" for byte in text.encode())


def fresh(directory: Path) -> None:
    """Empties a directory but keeps its path, which faults name."""
    shutil.rmtree(directory)
    directory.mkdir()


def has_ended(pid: int) -> bool:
    """Whether a process ends within five seconds; it need not be a child."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], 5.0)[0])
    finally:
        os.close(descriptor)
