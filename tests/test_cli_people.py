"""What the command line does for people at a terminal: looking again, completing."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from host_programs.hosting import interruptible
from otel_memoir.cli import main
from spool_helpers import open_spool, store

TIMEOUT_S = 60.0
COMMAND = str(Path(sys.executable).with_name("otel-memoir"))


def test_a_status_is_looked_at_again_until_an_interrupt(tmp_path: Path) -> None:
    """The exit code is that of the last look."""
    spool = open_spool(tmp_path)
    store(spool, "a")
    command = [COMMAND, "status", "--watch", "0.1", "--spool-dir", str(tmp_path)]
    with subprocess.Popen(interruptible(command), stdout=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        looks = 0
        while looks < 3:
            line = watching.stdout.readline()
            assert line, "it ended by itself"
            looks += "memoir-0001" in line
        watching.send_signal(signal.SIGINT)
        assert watching.wait(TIMEOUT_S) == 0
    spool.close(5.0)


COMPLETE = """
source <(otel-memoir completion bash)
COMP_WORDS=(otel-memoir qu); COMP_CWORD=1
_otel_memoir_completion otel-memoir
printf '%s\\n' "${COMPREPLY[@]}"
"""


def test_bash_completes_a_command(tmp_path: Path) -> None:
    """As a user's shell does: what it printed is sourced, and asked."""
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("there is no bash; install one to run this test")
    done = subprocess.run(
        [bash, "-c", COMPLETE], capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
        env={"PATH": f"{Path(COMMAND).parent}:/usr/bin:/bin", "HOME": str(tmp_path)},
    )
    assert done.stdout.split() == ["quarantine"], done.stderr


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_get_a_script_of_their_own(shell: str) -> None:
    """Not run here: it is click's."""
    said = CliRunner().invoke(main, ["completion", shell]).output
    assert "_OTEL_MEMOIR_COMPLETE" in said


def test_the_help_of_every_command_teaches() -> None:
    """A sentence that is one, and an explanation of each option."""
    for name, command in main.commands.items():
        said = CliRunner().invoke(main, [name, "--help"]).output
        assert re.search(r"^  [A-Z][^\n]{15,}", said, re.MULTILINE), name
        for option in command.params:
            if isinstance(option, click.Option) and not option.hidden:
                assert option.help, f"{name}: --{option.name} is not explained"
