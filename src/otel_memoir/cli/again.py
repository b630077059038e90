"""Looking again and again, for people who watch."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable

import click

watch = click.option(
    "--watch", type=click.FloatRange(min=0.1), metavar="SECONDS",
    help="Look again so often, until interrupted.",
)


def again_and_again(once: Callable[[], int], every_s: float) -> int:
    """Look until an interrupt, which is no error; return the exit code of the last look."""
    code, interrupt = 0, threading.Event()
    try:
        while True:
            if sys.stdout.isatty():
                click.clear()
            code = once()
            interrupt.wait(every_s)
    except KeyboardInterrupt:
        return code
