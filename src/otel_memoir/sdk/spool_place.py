"""Where a service keeps its spool."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from otel_memoir.settings import Settings
from otel_memoir.user_state import user_state_directory


def spool_directory(settings: Settings, resource: Any = None) -> Path:
    """Where the spool files are: the explicit directory, else one for the service.

    The default is the user's state directory, then the service name. Absolute: the process may
    change its working directory later.
    """
    if settings.spool_dir:
        return Path(os.path.expanduser(settings.spool_dir)).absolute()
    service = resource.attributes.get("service.name", "") if resource is not None else ""
    name = re.sub(r"[^\w.-]+", "_", str(service) or "unknown_service").strip(".") or "_"
    return user_state_directory() / name[:100]
