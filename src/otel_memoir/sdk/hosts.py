"""What a host must be told for our promises to hold, said once to whoever did not know."""

from __future__ import annotations

import sys
from typing import Any

from otel_memoir.diagnostics import complaints


def warn_of_host() -> None:
    """Say what this process's host is not told. Called when the first record is accepted."""
    uwsgi: Any = sys.modules.get("uwsgi")  # there only inside uWSGI, as a built-in module
    if uwsgi is not None:
        for option, sentence in _uwsgi_lacks(uwsgi):
            complaints.say(f"uwsgi {option}", f"{sentence}: run uWSGI with --{option}")


def _uwsgi_lacks(uwsgi: Any) -> list[tuple[str, str]]:
    told = {name if isinstance(name, str) else name.decode() for name in uwsgi.opt}
    lacks = []
    if not told & {"enable-threads", "threads"}:
        lacks.append(("enable-threads", "uWSGI runs no threads, so nothing would be delivered"))
    # In a worker nothing of ours was open at its fork.
    in_master = uwsgi.masterpid() and not uwsgi.worker_id()
    if in_master and "py-call-uwsgi-fork-hooks" not in told:
        lacks.append((
            "py-call-uwsgi-fork-hooks",
            "records were emitted before uWSGI's workers are forked, and one of them may hang",
        ))
    return lacks
