"""A file with settings: how it is read, and when it is read again.

It knows no settings, only TOML and files.
"""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from otel_memoir.errors import SettingsError

BYTES_MAX = 2**20

Mark = tuple[int, ...]


@dataclass(frozen=True)
class Said:
    """What a file says.

    Attributes:
        path: The file.

        text: All of it.

        values: Its keys and values.
    """

    path: str
    text: str
    values: Mapping[str, Any]

    def wrong(self, name: str, error: SettingsError) -> SettingsError:
        """The error of one key, with the line on which it stands."""
        key = rf"""["']?{re.escape(name)}["']?"""
        found = re.search(rf"^[ \t]*(?:{key}[ \t]*[=.]|\[[ \t]*{key}[ \t]*\])", self.text, re.M)
        line = self.text.count("\n", 0, found.start()) + 1 if found else 0
        place = f"{self.path}, line {line}" if line else self.path
        return SettingsError(
            "use settings file", target=place, cause=f"{error.target}: {error.cause}",
            hint=error.hint,
        )


def read_toml(path: str) -> Said:
    """Read a file.

    Raises:
        SettingsError: It is not there, cannot be read, or is no TOML; the cause says on
            which line.
    """
    try:
        text = _bytes_of(path).decode()
        return Said(path, text, _toml(text))
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise _unusable(path, f"it is not UTF-8 (at line {line})") from error
    except OSError as error:
        raise _unusable(path, error.strerror or error) from error
    except ValueError as error:
        raise _unusable(path, error) from error


def _toml(text: str) -> dict[str, Any]:
    # Here, because most processes have no such file.
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib

    values: dict[str, Any] = tomllib.loads(text)
    return values


def _bytes_of(path: str) -> bytes:
    # A pipe without a writer would hold up who opens it.
    descriptor = os.open(os.path.expanduser(path), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("it is no file")
        data = file.read(BYTES_MAX + 1)
    if len(data) > BYTES_MAX:
        raise ValueError(f"it is larger than {BYTES_MAX} bytes")
    return data


def _unusable(path: str, cause: object) -> SettingsError:
    return SettingsError(
        "read settings file", target=path, cause=cause,
        hint="`otel-memoir settings check FILE` checks a file before it is put in place.",
    )


class FileWatch:
    """Tells when a file is to be read: it is another one, and nobody is writing it any more.

    Replaced by a rename, or by a symbolic link that is swapped (as Kubernetes does it), a file
    is whole at once. One that is written in place is not: so it has to look the same twice.

    Args:
        path: The file.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._seen: Mark | None = None
        self._taken: Mark | None = None

    def look(self) -> bool:
        """Whether it is to be read now. A file that is gone is one, too."""
        mark = _mark(self.path)
        is_still = mark == self._seen
        self._seen = mark
        return is_still and mark != self._taken

    def is_unchanged(self) -> bool:
        """Whether it still is what the last look saw."""
        return _mark(self.path) == self._seen

    def take(self) -> None:
        """Take note that what the last look saw was read."""
        self._taken = self._seen


def _mark(path: str) -> Mark:
    try:
        found = Path(path).expanduser().stat()
    except (OSError, RuntimeError):
        return ()
    return (found.st_mtime_ns, found.st_size, found.st_ino)
