"""A WSGI application that emits one record for each request, and one when it is loaded.

A server that loads it before it forks (gunicorn's --preload, uWSGI's default) has then a
spool that is open, with its threads, in the master.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

from host_programs.emitting import emit

emit(f"loaded {os.getpid()}")


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Emit a record named as the path says; answer with the pid once it is emitted."""
    emit(environ["PATH_INFO"].lstrip("/"))
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]
