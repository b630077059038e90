"""A WSGI application under gunicorn: each worker is a stream of its own, killed or not.

    pip install gunicorn
    gunicorn --chdir examples --workers 4 gunicorn_app:application

Also with ``--preload``: nothing is opened before the first event, and what was opened
before a fork is not used after it.
"""

import os
from collections.abc import Callable, Iterable
from typing import Any

from otel_memoir import MemoryLog

log = MemoryLog(store_id="profile", agent_name="wsgi")


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Remember the path; answer once that is on disk."""
    receipt = log.created(environ["PATH_INFO"].strip("/") or "nothing")
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"worker {os.getpid()}: {receipt}\n".encode()]
