"""Settings in a file: who wins, what is wrong with it, and when it is read again."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from otel_memoir import DurableLogRecordProcessor, settings_file
from otel_memoir.cli import main
from otel_memoir.errors import SettingsError
from otel_memoir.sdk import live_settings
from otel_memoir.sdk.live_settings import LiveSettings
from otel_memoir.settings import Settings, settings_in
from otel_memoir.settings_file import FileWatch
from otel_memoir.testing import FakeClock, ScriptedCollector
from socket_programs.wiring import agent, numbers

TIMEOUT_S = 15.0
ANYONE_WAITS = threading.Event()


def until(condition: Callable[[], Any]) -> bool:
    """Wait for what no event tells; return whether it came."""
    deadline_s = time.monotonic() + TIMEOUT_S
    while not condition():
        if time.monotonic() >= deadline_s:
            return False
        ANYONE_WAITS.wait(0.01)
    return True


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "memoir.toml"


def replace(file: Path, text: str) -> None:
    """As it should be done: written beside, then renamed."""
    beside = file.with_suffix(".new")
    beside.write_text(text)
    beside.replace(file)


# -- who wins -----------------------------------------------------------------------


def test_code_wins_over_the_file_that_over_the_environment_that_over_the_default(
    file: Path,
) -> None:
    """And the settings know who said what."""
    file.write_text('linger_s = 0.3\nretain_s = 30\n[headers]\ntoken = "t"\n')
    environ = {
        "MEMOIR_SETTINGS_FILE": str(file), "MEMOIR_LINGER": "0.4", "MEMOIR_RETAIN": "40",
        "MEMOIR_BACKOFF_MAX": "44",
    }
    made = Settings.load(environ=environ, linger_s=0.2)
    layers = made.all_layers()
    assert (made.linger_s, made.retain_s, made.backoff_max_s) == (0.2, 30, 44.0)
    assert made.headers == {"token": "t"}
    names = ("linger_s", "retain_s", "backoff_max_s", "backoff_initial_s")
    origins = [layers.origin(name) for name in names]
    assert origins == ["code", "file", "environment", "default"]


def test_settings_that_say_the_same_are_equal_whoever_said_it(file: Path) -> None:
    """Who said it is no setting."""
    file.write_text("linger_s = 0.3\n")
    one = Settings.load(environ={}, settings_file=str(file))
    assert one == Settings(linger_s=0.3, settings_file=str(file))


def test_a_variable_that_the_code_hides_need_not_be_good() -> None:
    """It was never looked at; who takes the code's word back gets the default."""
    made = Settings.load(environ={"MEMOIR_LINGER": "soon"}, linger_s=0.2)
    assert made.all_layers().with_code({"linger_s": None}).merged() == {}


def test_a_file_that_is_not_there_yet_is_no_error(file: Path) -> None:
    """It may be mounted later; whoever watches it says so."""
    assert Settings.load(environ={}, settings_file=str(file)).linger_s == Settings().linger_s


def test_a_bad_file_raises_at_the_start_or_is_said_and_left_out(file: Path) -> None:
    """As a bad variable: in code it raises; what an entry point makes only complains."""
    file.write_text("linger_s = 0.3\nretain_s = -1\n")
    with pytest.raises(SettingsError, match="line 2"):
        DurableLogRecordProcessor(settings_file=str(file), environ={})
    said: list[str] = []
    made = Settings.load(environ={}, settings_file=str(file), complain=said.append)
    assert made.linger_s == Settings().linger_s
    assert len(said) == 1


# -- what is wrong with it ------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"linger_s = 0.1\nretain_s =\n", "at line 2"),
        (b"linger_s = 0.1\n\nno_such = 1\n", "line 3: no_such: there is no such setting"),
        (b'# linger_s\nlinger_s = "soon"\n', "line 2: linger_s: 'soon' is not a number"),
        (b"[headers]\na = 1\n", "line 1: headers: what it says of 'a' is no text"),
        (b'linger_s = 1\n"retain_s" = true\n', "line 2: retain_s: True is not a number"),
        (b"retain_s = inf\n", "line 1: retain_s: inf is not a number of at most"),
        (b"retain_s = nan\n", "line 1: retain_s: nan is not a number"),
        (b"request_records_max = 1.5\n", "line 1: request_records_max: 1.5 is not of type int"),
        (b'settings_file = "other.toml"\n', "line 1: settings_file: a file cannot name another"),
        (b"linger_s = 1\n\nspool_dir = '\xff'\n", "not UTF-8 (at line 3)"),
        (b"#" * (2**20 + 1), "larger than 1048576 bytes"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_with_its_line(
    file: Path, text: bytes, says: str
) -> None:
    """A person has to find the place."""
    file.write_bytes(text)
    with pytest.raises(SettingsError) as raised:
        settings_in(str(file))
    assert says in str(raised.value)
    assert str(file) in str(raised.value)


def test_a_pipe_in_the_place_of_a_file_holds_nobody_up(file: Path) -> None:
    """To open one waits until somebody writes to it."""
    os.mkfifo(file)
    with pytest.raises(SettingsError, match="it is no file"):
        settings_in(str(file))


# -- when it is read again --------------------------------------------------------------


class Watched:
    """Live settings over a file, looked at whenever the test says so."""

    def __init__(self, file: Path, **given: Any) -> None:
        self.clock = FakeClock()
        self.used: list[Settings] = []
        self.live = LiveSettings(
            Settings.load(environ={}, settings_file=str(file), **given), check=lambda *_: None,
            use=lambda settings, _: self.used.append(settings),
            monotonic_s=self.clock.monotonic_s,
        )

    def look(self, times: int = 2) -> Settings:
        """Let so many seconds pass, with a look in each; return what counts then."""
        for _ in range(times):
            self.clock.advance(1.0)
            self.live.look_at_file()
        return self.live.settings


def test_a_file_that_was_replaced_counts_once_it_looked_the_same_twice(file: Path) -> None:
    """A rename makes another inode; the size may be the same."""
    file.write_text("linger_s = 0.1\n")
    it = Watched(file)
    it.look()
    replace(file, "linger_s = 0.2\n")
    assert it.look(1).linger_s == 0.1
    assert it.look(1).linger_s == 0.2


def test_a_symbolic_link_that_is_swapped_counts_as_kubernetes_does_it(tmp_path: Path) -> None:
    """memoir.toml -> ..data/memoir.toml, and ..data -> the directory of the version."""
    for version in ("1", "2"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "memoir.toml").write_text(f"linger_s = 0.{version}\n")
    (tmp_path / "..data").symlink_to("1")
    (tmp_path / "memoir.toml").symlink_to("..data/memoir.toml")
    it = Watched(tmp_path / "memoir.toml")
    assert it.look().linger_s == 0.1
    (tmp_path / "..data_tmp").symlink_to("2")
    (tmp_path / "..data_tmp").replace(tmp_path / "..data")
    assert it.look().linger_s == 0.2


def half_written(file: Path) -> list[float]:
    """What counts while a file is written in place, a line in each second."""
    file.write_text("linger_s = 0.1\nretain_s = 10\n")
    it = Watched(file)
    it.look()
    seen = []
    for rest in ("", "\n", "\nretain_", "\nretain_s = 20\n"):
        file.write_text("linger_s = 0.2" + rest)
        seen.append(it.look(1).retain_s)
    return [*seen, it.look(1).retain_s]


def test_a_file_that_is_being_written_is_let_be(file: Path) -> None:
    """Half of a file can be good TOML, and say that the other settings are taken back."""
    assert half_written(file) == [10, 10, 10, 10, 20]


def test_without_a_second_look_half_of_a_file_counts(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control."""

    def look(self: FileWatch) -> bool:
        self._seen = settings_file._mark(self.path)
        return self._seen != self._taken

    monkeypatch.setattr(FileWatch, "look", look)
    monkeypatch.setattr(FileWatch, "is_unchanged", lambda _: True)
    assert Settings().retain_s in half_written(file)


def test_a_bad_file_changes_nothing_and_is_said_once_until_a_good_one_comes(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Not even what is good in it."""
    file.write_text("linger_s = 0.1\n")
    it = Watched(file)
    replace(file, f"linger_s = 0.2\nretain_s = -{time.time_ns()}\n")
    assert it.look(10).linger_s == 0.1
    assert "line 2" in it.live.problem
    assert len([r for r in caplog.records if str(file) in r.getMessage()]) <= 1
    replace(file, "linger_s = 0.2\n")
    assert it.look().linger_s == 0.2
    assert it.live.problem == ""


def test_a_file_that_would_change_what_is_not_live_changes_nothing(file: Path) -> None:
    """Part of a change is what nobody asked for."""
    file.write_text("linger_s = 0.1\n")
    it = Watched(file)
    replace(file, 'linger_s = 0.2\ndurability = "batch"\n')
    assert it.look().linger_s == 0.1
    assert "durability: it cannot be changed in a running process" in it.live.problem


def test_a_file_that_is_gone_changes_nothing_and_is_read_when_it_is_back(file: Path) -> None:
    """Whoever deletes and writes anew does not mean the defaults in between."""
    file.write_text("linger_s = 0.1\n")
    it = Watched(file)
    it.look()
    file.unlink()
    assert it.look(3).linger_s == 0.1
    assert "No such file" in it.live.problem
    file.write_text("linger_s = 0.2\n")
    assert it.look().linger_s == 0.2
    assert it.live.problem == ""


def test_what_the_code_says_a_file_cannot_change_until_the_code_takes_it_back(file: Path) -> None:
    """One order of who wins, also while it runs."""
    file.write_text("linger_s = 0.1\nretain_s = 10\n")
    it = Watched(file, linger_s=0.5)
    replace(file, "linger_s = 0.2\nretain_s = 20\n")
    found = it.look()
    assert (found.linger_s, found.retain_s) == (0.5, 20)
    it.live.change({"linger_s": None, "retain_s": 5.0})
    assert (it.live.settings.linger_s, it.live.settings.retain_s) == (0.2, 5.0)


def test_a_file_that_does_not_change_is_read_once_more_and_never_again(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once more, since it may have been written between its first reading and the first look."""
    file.write_text("linger_s = 0.1\n")
    it = Watched(file)
    read: list[str] = []
    monkeypatch.setattr(
        live_settings, "settings_in", lambda path: (read.append(path), settings_in(path))[1]
    )
    it.look(20)
    assert len(read) == 1


def test_it_is_looked_at_no_more_than_once_a_second(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A busy courier asks hundreds of times a second."""
    it = Watched(file)
    looks: list[int] = []
    monkeypatch.setattr(FileWatch, "look", lambda _: looks.append(1))
    for _ in range(1000):
        it.clock.advance(0.01)
        it.live.look_at_file()
    assert 9 <= len(looks) <= 12


# -- in a running process -----------------------------------------------------------------


@pytest.fixture
def collectors() -> Iterator[tuple[ScriptedCollector, ScriptedCollector]]:
    with ScriptedCollector() as one, ScriptedCollector() as other:
        yield one, other


def test_a_running_process_follows_its_file(
    collectors: tuple[ScriptedCollector, ScriptedCollector], tmp_path: Path, file: Path
) -> None:
    """The courier's thread watches it, also while there is nothing to send."""
    one, other = collectors
    replace(file, f'endpoint = "{one.endpoint}"\n')
    with agent(tmp_path / "spool", None, settings_file=str(file)) as it:  # type: ignore[arg-type]
        it.emit(3)
        assert it.processor.wait_delivered(TIMEOUT_S)
        replace(file, f'endpoint = "{other.endpoint}"\nrequest_records_max = 0\n')
        pipeline = it.processor.pipeline
        assert until(lambda: "line 2: request_records_max" in pipeline.settings_problem)
        it.emit(3)
        assert it.processor.wait_delivered(TIMEOUT_S)
        replace(file, f'endpoint = "{other.endpoint}"\nrequest_records_max = 2\n')
        assert until(lambda: pipeline.settings.request_records_max == 2)
        assert pipeline.settings_problem == ""
        it.emit(3)
        assert it.processor.wait_delivered(TIMEOUT_S)
    assert numbers(one.delivered) == [0, 1, 2, 3, 4, 5]
    assert numbers(other.delivered) == [6, 7, 8]


# -- the command ------------------------------------------------------------------------


def run(*args: str, **environ: str) -> Any:
    return CliRunner().invoke(main, ["settings", *args], env=environ)


def test_check_says_whether_a_file_is_good_and_what_takes_a_restart(file: Path) -> None:
    """Exit code 0, and 1 with the line of what is wrong."""
    file.write_text('linger_s = 0.1\nspool_dir = "/var/lib/agent"\n')
    good = run("check", str(file))
    assert good.exit_code == 0
    assert "ok, 2 settings" in good.output
    assert "taken at the next start only: spool_dir" in good.output
    file.write_text('linger_s = 0.1\nendpoint = "collector"\n')
    bad = run("check", "--json", str(file))
    assert bad.exit_code == 1
    found = json.loads(bad.output)
    assert not found["ok"]
    assert "collector" in found["problem"]


def test_show_tells_each_value_and_who_said_it_but_no_secrets(file: Path) -> None:
    """Also what the variables of OpenTelemetry say."""
    file.write_text('retain_s = 30\n[headers]\nauthorization = "secret"\n')
    environ = {
        "MEMOIR_LINGER": "0.4", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318",
        "MEMOIR_SETTINGS_FILE": str(file),
    }
    shown = run("show", "--json", **environ)
    assert shown.exit_code == 0
    found = json.loads(shown.output)["settings"]
    assert found["retain_s"] == {"value": 30, "origin": "file", "variable": "", "live": True}
    assert found["linger_s"]["variable"] == "MEMOIR_LINGER"
    assert found["endpoint"] == {
        "value": "http://collector:4318/v1/logs", "origin": "environment",
        "variable": "OTEL_EXPORTER_OTLP_ENDPOINT", "live": True,
    }
    assert found["headers"]["value"] == {"authorization": "***"}
    assert found["durability"] == {
        "value": "power", "origin": "default", "variable": "", "live": False,
    }
    assert "secret" not in shown.output + run("show", **environ).output


def test_show_says_what_is_wrong_and_goes_on(file: Path) -> None:
    """What could not be used is not what counts."""
    file.write_text("retain_s = -1\n")
    shown = run("show", "--file", str(file), MEMOIR_LINGER="soon")
    assert shown.exit_code == 1
    assert "line 1: retain_s" in shown.output
    assert "MEMOIR_LINGER" in shown.output


def test_commands_look_into_the_directory_that_the_file_names(tmp_path: Path, file: Path) -> None:
    """Where the service keeps its spool, it is looked for."""
    (tmp_path / "spool").mkdir()
    file.write_text(f'spool_dir = "{tmp_path}/spool"\n')
    with agent(tmp_path / "spool", "http://127.0.0.1:1") as it:
        it.emit(1)
    shown = CliRunner().invoke(main, ["status", "--json"], env={"MEMOIR_SETTINGS_FILE": str(file)})
    assert json.loads(shown.output)["total"]["pending"] == 1
