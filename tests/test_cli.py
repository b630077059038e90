"""The command line: what it says, what it exits with, and what it leaves alone."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from otel_memoir.cli import main
from otel_memoir.sdk.pipeline import Pipeline
from otel_memoir.settings import Settings
from otel_memoir.spool.directory import slots
from otel_memoir.testing import Answer, RecordedRequest, ScriptedCollector

TOTAL_FIELDS = {
    "accepted", "delivered", "pending", "rejected", "quarantined", "expired", "evicted",
    "discarded", "refused", "refused_by_reason", "unaccounted", "oldest_pending_age_s",
    "spool_bytes",
}
NOWHERE = "http://127.0.0.1:9"


def run(*arguments: object, endpoint: str = NOWHERE) -> Result:
    """Run ``otel-memoir`` in this process."""
    return CliRunner().invoke(
        main, [str(argument) for argument in arguments],
        env={"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "MEMOIR_SPOOL_DIR": ""},
    )


def printed(result: Result) -> Any:
    """What a command printed with ``--json``."""
    return json.loads(result.stdout)


def total(directory: Path) -> dict[str, Any]:
    """The total of ``status --json``."""
    found: dict[str, Any] = printed(run("status", "--json", "--spool-dir", directory))["total"]
    return found


def record(number: int, body: str = "") -> SimpleNamespace:
    """A log record as the SDK gives it to a processor."""
    return SimpleNamespace(
        log_record=LogRecord(
            severity_number=SeverityNumber.INFO, body=body or f"record {number}",
            attributes={"demo.id": str(number)},
        ),
        resource=Resource({"service.name": "cli-test"}), dropped_attributes=0,
        instrumentation_scope=InstrumentationScope("cli.test"),
    )


def pipeline(directory: Path, endpoint: str = NOWHERE, **given: Any) -> Pipeline:
    """A pipeline over a directory."""
    settings = Settings.load(
        environ={}, spool_dir=str(directory), endpoint=endpoint, backoff_initial_s=0.01,
        backoff_max_s=0.05, **given,
    )
    return Pipeline(settings, environ={})


def fill(directory: Path, records: int = 20, endpoint: str = NOWHERE, **given: Any) -> None:
    """Store records; deliver them if there is somebody to take them; close."""
    made = pipeline(directory, endpoint, **given)
    for number in range(records):
        made.store(record(number))
    if endpoint != NOWHERE:
        assert made.wait_delivered(10)
    made.close(0.0 if endpoint == NOWHERE else 5.0)


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    """A dead spool: ten delivered records, then ten that wait."""
    directory = tmp_path / "spool"
    with ScriptedCollector() as collector:
        fill(directory, 10, collector.endpoint)
    made = pipeline(directory)
    for number in range(10):
        made.store(record(number))
    assert made.courier is not None
    # Nobody listens: the batch is tried, gets its ledger row, and waits.
    assert not made.courier.wait_drained(0.5)
    made.close(0.0)
    return directory


# -- status -------------------------------------------------------------------


def test_the_status_as_json_has_every_number_of_the_promise(spool: Path) -> None:
    """The fields are there, add up, and are those of the file."""
    found = printed(run("status", "--json", "--spool-dir", spool))
    assert found["total"].keys() >= TOTAL_FIELDS
    assert found["spools"][0].keys() >= TOTAL_FIELDS
    assert (found["total"]["accepted"], found["total"]["delivered"]) == (20, 10)
    assert (found["total"]["pending"], found["total"]["unaccounted"]) == (10, 0)
    assert found["total"]["oldest_pending_age_s"] > 0
    assert found["total"]["spool_bytes"] > 0


def test_the_status_of_a_living_spool_says_that_it_lives(tmp_path: Path) -> None:
    """Looking works while the owner writes, and does not stop it."""
    made = pipeline(tmp_path)
    made.store(record(1))
    found = printed(run("status", "--json", "--spool-dir", tmp_path))
    made.store(record(2))
    assert found["spools"][0]["alive"] is True
    assert found["total"]["accepted"] == 1
    assert total(tmp_path)["accepted"] == 2
    made.close(0.0)


def test_a_person_gets_a_table(spool: Path) -> None:
    """Without --json there are heads and the name of the file."""
    result = run("status", "--spool-dir", spool)
    assert result.exit_code == 0
    assert "accepted" in result.stdout.splitlines()[0]
    assert "memoir-0001" in result.stdout


def test_a_status_that_does_not_add_up_exits_with_one(spool: Path) -> None:
    """An altered counter shows as unaccounted records."""
    alter(spool, "UPDATE stream SET accepted = accepted + 3 WHERE id = 1")
    result = run("status", "--json", "--spool-dir", spool)
    assert printed(result)["total"]["unaccounted"] == 3
    assert result.exit_code == 1


def test_a_directory_that_is_not_there_is_wrong_usage(tmp_path: Path) -> None:
    """It must not look like a spool in which all is well."""
    assert run("status", "--spool-dir", tmp_path / "missing").exit_code == 2


def test_without_a_directory_every_service_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The default is the state directory with one directory for each service."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    for service in ("one", "two"):
        fill(tmp_path / "otel-memoir" / service, 3)
    found = printed(run("status", "--json"))
    assert len(found["spools"]) == 2
    assert found["total"]["accepted"] == 6


# -- verify -------------------------------------------------------------------


def alter(directory: Path, *statements: str) -> None:
    """Change a file behind its back."""
    connection = sqlite3.connect(slots(directory)[0].database)
    for statement in statements:
        assert connection.execute(statement).rowcount > 0, "the case changes nothing"
    connection.commit()
    connection.close()


def flip_a_bit(directory: Path, table: str = "record", column: str = "payload") -> None:
    """Change one bit of one payload, or of what several share."""
    connection = sqlite3.connect(slots(directory)[0].database)
    id_, found = connection.execute(f"SELECT max(id), {column} FROM {table}").fetchone()
    wrong = bytes([found[0] ^ 1]) + found[1:]
    connection.execute(f"UPDATE {table} SET {column} = ? WHERE id = ?", (wrong, id_))
    connection.commit()
    connection.close()


CASES: dict[str, tuple[Callable[[Path], None], str]] = {
    "a deleted row that was never sent": (
        lambda d: alter(d, "DELETE FROM batch WHERE state = 'pending'",
                        "DELETE FROM record WHERE id = 15"), "nowhere"),
    "a deleted row that was tried": (
        lambda d: alter(d, "UPDATE batch SET attempts = 1 WHERE state = 'pending'",
                        "DELETE FROM record WHERE id = 15"), "rows are there"),
    "a deleted row of a delivered batch": (
        lambda d: alter(d, "DELETE FROM record WHERE id = 5"), "rows are there"),
    "a flipped bit": (flip_a_bit, "checksum"),
    "an altered counter of accepted records": (
        lambda d: alter(d, "UPDATE stream SET accepted = accepted + 1 WHERE id = 1"),
        "counter says"),
    "an altered counter of delivered records": (
        lambda d: alter(d, "UPDATE tally SET records = records + 1 WHERE name = 'delivered'"),
        "counter says"),
    "a deleted last row": (
        lambda d: alter(d, "DELETE FROM batch WHERE state = 'pending'",
                        "DELETE FROM record WHERE id = (SELECT max(id) FROM record)"), "nowhere"),
    "a deleted last row that was tried": (
        lambda d: alter(d, "DELETE FROM record WHERE id = (SELECT max(id) FROM record)"),
        "rows are there"),
    "a removed counter": (
        lambda d: alter(d, "DELETE FROM tally WHERE name = 'delivered'"), "counter says"),
    "a removed stream": (
        lambda d: alter(d, "DELETE FROM stream WHERE id = 1"), "which is nowhere"),
    "a row that was given to another stream": (
        lambda d: alter(d, "UPDATE record SET stream = 2 WHERE id = 3"), "another stream"),
    "a removed envelope": (lambda d: alter(d, "DELETE FROM envelope WHERE id = 1"), "envelope 1"),
    "a flipped bit in an envelope": (
        lambda d: flip_a_bit(d, "envelope", "bytes"), "envelope 1"),
    "a removed ledger row": (
        lambda d: alter(d, "DELETE FROM batch WHERE number = "
                        "(SELECT min(number) FROM batch)"), "the ledger"),
}


@pytest.mark.parametrize("case", CASES)
def test_verify_finds(spool: Path, case: str) -> None:
    """Each way to alter a file is a finding that names the file, and exit code 1."""
    break_it, words = CASES[case]
    break_it(spool)
    result = run("verify", "--spool-dir", spool)
    assert result.exit_code == 1, result.output
    assert words in result.stdout
    assert "memoir-0001.db" in result.stdout
    assert printed(run("verify", "--json", "--spool-dir", spool))["ok"] is False


LOSSES = {
    "a removed gap of a refused record": ("DELETE FROM gap WHERE cause LIKE 'refused:%'", "gaps"),
    "a removed gap of a quarantined record": (
        "DELETE FROM gap WHERE cause = 'quarantined'", "gaps name 0"),
    "a removed counter of refused records": (
        "DELETE FROM tally WHERE name LIKE 'refused:%'", "counter says 0 refused:too_large"),
    "an altered counter of refused records": (
        "UPDATE tally SET records = 7 WHERE name LIKE 'refused:%'", "counter says 7 refused"),
    "a removed counter of quarantined records": (
        "DELETE FROM tally WHERE name = 'quarantined'", "counter says 0 quarantined"),
    "a removed ledger row of quarantined records": (
        "DELETE FROM batch WHERE state = 'quarantined'", "nowhere"),
    "a quarantined batch that is said to be delivered": (
        "UPDATE batch SET state = 'delivered' WHERE state = 'quarantined'", "counter says"),
}


@pytest.mark.parametrize("case", LOSSES)
def test_verify_finds_after_losses(ward: tuple[Path, int], case: str) -> None:
    """What was refused or set aside must stay counted and named as well."""
    directory, _ = ward
    made = pipeline(directory, record_bytes_max=1000)
    made.store(record(1, "x" * 2000))
    made.store(record(2))
    made.flush(5)
    made.close(0.0)
    assert run("verify", "--spool-dir", directory).exit_code == 0
    statement, words = LOSSES[case]
    alter(directory, statement)
    result = run("verify", "--spool-dir", directory)
    assert result.exit_code == 1, result.output
    assert words in result.stdout


def test_verify_finds_nothing_in_an_untouched_spool(spool: Path) -> None:
    """The control: the very file that the cases alter is green."""
    result = run("verify", "--spool-dir", spool)
    assert result.exit_code == 0, result.output
    assert "ok, 20 records" in result.stdout


def test_a_copied_file_can_be_looked_at(spool: Path, tmp_path: Path) -> None:
    """Under any name, as a file and not as a directory."""
    copy = tmp_path / "copy.db"
    shutil.copy(slots(spool)[0].database, copy)
    assert run("verify", copy).exit_code == 0
    assert printed(run("status", "--json", copy))["total"]["accepted"] == 20


def test_a_file_that_is_no_spool_exits_with_one(tmp_path: Path) -> None:
    """It is said in words, without a traceback."""
    (tmp_path / "other.db").write_text("this is not a database" * 100)
    for command in ("status", "verify"):
        result = run(command, tmp_path / "other.db")
        assert result.exit_code == 1
        assert "Traceback" not in result.output


# -- drain --------------------------------------------------------------------

KILLED = """
import os, sys
from test_cli import pipeline, record
from pathlib import Path
made = pipeline(Path(sys.argv[1]))
for number in range(40):
    made.store(record(number))
print("stored", flush=True)
sys.stdin.read()
"""


def test_what_a_killed_process_left_is_drained(tmp_path: Path) -> None:
    """All of it is delivered, once each, and nothing waits."""
    directory = tmp_path / "spool"
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(directory)], stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, cwd=Path(__file__).parent, env=dict(os.environ),
    )
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"stored\n"
        child.send_signal(signal.SIGKILL)
        child.wait(10)
    with ScriptedCollector() as collector:
        result = run("drain", "--json", "--spool-dir", directory, endpoint=collector.endpoint)
    assert result.exit_code == 0, result.output
    assert printed(result)[0]["delivered"] == 40
    ids = [taken.attributes["demo.id"] for taken in collector.taken]
    assert sorted(ids, key=int) == [str(number) for number in range(40)]
    assert total(directory)["pending"] == 0


def test_every_dead_file_of_a_directory_is_drained(tmp_path: Path) -> None:
    """Even when the file that the drain itself takes holds nothing."""
    first, second = pipeline(tmp_path), pipeline(tmp_path)
    with ScriptedCollector() as collector:
        first._make(Resource.get_empty()).spool.open()
        second.store(record(1))
        first.close(0.0)
        second.close(0.0)
        assert len(slots(tmp_path)) == 2
        result = run("drain", "--json", "--spool-dir", tmp_path, endpoint=collector.endpoint)
    assert printed(result)[0]["delivered"] == 1
    assert total(tmp_path)["pending"] == 0


def test_a_drain_that_is_refused_says_why_and_exits_with_one(spool: Path) -> None:
    """What is left is counted, and the hold is explained."""
    with ScriptedCollector(lambda request: Answer(status=401, message="who?")) as collector:
        result = run("drain", "--timeout", 1, "--json", "--spool-dir", spool,
                     endpoint=collector.endpoint)
    assert result.exit_code == 1
    assert printed(result)[0]["left"] == 10
    assert "401" in printed(result)[0]["why"]


def test_a_drain_leaves_the_files_of_living_processes_alone(tmp_path: Path) -> None:
    """Their records are counted apart, and it is no failure that they wait."""
    made = pipeline(tmp_path)
    made.store(record(1))
    with ScriptedCollector() as collector:
        result = run("drain", "--json", "--spool-dir", tmp_path, endpoint=collector.endpoint)
    assert result.exit_code == 0
    assert printed(result)[0]["held_by_others"] == 1
    assert not collector.requests
    made.close(0.0)


# -- quarantine ---------------------------------------------------------------


def refuse_poison(request: RecordedRequest) -> Answer:
    """Refuse every request that holds the poisonous record."""
    poison = any(taken.proto.body.string_value == "poison" for taken in request.records)
    return Answer(status=400, message="bad record") if poison else Answer()


@pytest.fixture
def ward(tmp_path: Path) -> tuple[Path, int]:
    """A dead spool with one record in quarantine and three delivered, and its batch's number."""
    directory = tmp_path / "spool"
    with ScriptedCollector(refuse_poison) as collector:
        made = pipeline(directory, collector.endpoint)
        for number in range(4):
            made.store(record(number, "poison" if number == 2 else ""))
        made.flush(5)
        assert made.courier is not None
        assert made.courier.wait_drained(10)
        made.close(5.0)
    found = printed(run("quarantine", "list", "--json", "--spool-dir", directory))
    assert len(found) == 1
    return directory, found[0]["batch"]


def test_the_list_says_what_is_in_quarantine_and_why(ward: tuple[Path, int]) -> None:
    """File, sequences, records, code and message, as a table and as JSON."""
    directory, number = ward
    found = printed(run("quarantine", "list", "--json", "--spool-dir", directory))[0]
    assert (found["first_sequence"], found["last_sequence"], found["records"]) == (3, 3, 1)
    assert "400" in found["code"]
    table = run("quarantine", "list", "--spool-dir", directory).stdout
    assert "memoir-0001" in table
    assert str(number) in table


def test_showing_a_batch_decodes_its_records(ward: tuple[Path, int]) -> None:
    """A person sees what the destination refused, with resource and scope."""
    directory, number = ward
    shown = printed(run("quarantine", "show", number, "--json", "--spool-dir", directory))
    content = shown[0]["contents"][0]
    assert content["record"]["body"] == {"stringValue": "poison"}
    assert content["scope"]["name"] == "cli.test"


def test_a_replayed_batch_waits_again_and_can_be_delivered(ward: tuple[Path, int]) -> None:
    """The equation holds at each step, and a mended destination gets the record."""
    directory, number = ward
    assert run("quarantine", "replay", number, "--spool-dir", directory).exit_code == 0
    assert (total(directory)["quarantined"], total(directory)["pending"]) == (0, 1)
    assert run("verify", "--spool-dir", directory).exit_code == 0
    with ScriptedCollector() as collector:
        result = run("drain", "--spool-dir", directory, endpoint=collector.endpoint)
    assert result.exit_code == 0, result.output
    assert "poison" in [taken.proto.body.string_value for taken in collector.taken]
    after = total(directory)
    assert (after["delivered"], after["unaccounted"]) == (after["accepted"], 0)
    assert run("verify", "--spool-dir", directory).exit_code == 0


def test_a_discarded_batch_is_counted_and_told(ward: tuple[Path, int]) -> None:
    """The equation holds, the payload is gone, and a gap event arrives."""
    directory, number = ward
    assert run("quarantine", "discard", number, "--spool-dir", directory).exit_code == 0
    after = total(directory)
    assert (after["quarantined"], after["discarded"], after["unaccounted"]) == (0, 1, 0)
    assert run("verify", "--spool-dir", directory).exit_code == 0
    with ScriptedCollector() as collector:
        run("drain", "--spool-dir", directory, endpoint=collector.endpoint)
    causes = [taken.attributes.get("memoir.gap.cause") for taken in collector.taken]
    assert "discarded" in causes
    assert run("verify", "--spool-dir", directory).exit_code == 0


@pytest.mark.parametrize("command", ["replay", "discard"])
def test_a_batch_of_a_living_process_is_not_touched(
    ward: tuple[Path, int], command: str
) -> None:
    """The remedy is said, and nothing has changed."""
    directory, number = ward
    made = pipeline(directory)
    made.store(record(9))
    result = run("quarantine", command, number, "--spool-dir", directory)
    assert result.exit_code == 1
    assert "living process" in result.output
    assert "Stop that process" in result.output
    assert total(directory)["quarantined"] == 1
    made.close(0.0)


def test_a_batch_that_is_not_in_quarantine_is_not_found(ward: tuple[Path, int]) -> None:
    """Neither is any other batch of the same command touched."""
    directory, number = ward
    result = run("quarantine", "discard", number, 9999, "--spool-dir", directory)
    assert result.exit_code == 1
    assert total(directory)["discarded"] == 0
