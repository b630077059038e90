"""Where a user's processes keep what outlives them, and whether that place is of this machine."""

from __future__ import annotations

import os
from pathlib import Path

# They give neither the shared memory of SQLite's write-ahead log nor sockets that mean a process
# of this machine.
NETWORK_FILE_SYSTEMS = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "fuse.sshfs", "9p", "ceph", "glusterfs", "afs"}
)


def user_state_directory() -> Path:
    """``$XDG_STATE_HOME`` or ``~/.local/state`` (XDG Base Directory Specification), then our name.

    Absolute: the process may change its working directory later. A place that cannot be made
    where a container's user has no home.
    """
    base = os.environ.get("XDG_STATE_HOME")
    return (Path(base) if base else _home() / ".local" / "state").absolute() / "otel-memoir"


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError:
        return Path(os.devnull)


def file_system(path: Path) -> str:
    """The type of the file system of ``path``, or an empty text where nobody can tell."""
    try:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return ""
    best, kind = "", ""
    resolved = str(path.resolve())
    for line in lines:
        left, _, right = line.partition(" - ")
        point = left.split()[4].replace("\\040", " ")
        inside = point == "/" or resolved == point or resolved.startswith(point + "/")
        if inside and len(point) >= len(best):
            best, kind = point, right.split()[0]
    return kind
