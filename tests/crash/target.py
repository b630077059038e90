"""Image values, and writing them into a directory fast enough for many thousands."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

# A time no running clock gives: a file that still has it was not written since we wrote it.
_UNTOUCHED_NS = 1_000_000_000


@dataclass(frozen=True)
class Image:
    """One state of the directory that a power cut could leave.

    Attributes:
        cut: How many operations of the trace came before the power cut.
        after: The last of them, in words.
        policy: The name of the policy.
        files: Content by relative path.
        directories: Subdirectories by relative path.
        acked: Ids promised before the power cut.
    """

    cut: int
    after: str
    policy: str
    files: Mapping[str, bytes]
    directories: frozenset[str]
    acked: frozenset[str]

    def __str__(self) -> str:
        return f"cut {self.cut} after {self.after}, unsynced {self.policy}"


class Target:
    """A directory that is made to hold one image after the other.

    A file is written only if it differs from what is there. That is seen from
    its modification time, so a judge must not change files through a memory map.

    Args:
        directory: Made if missing, and emptied. Best on a tmpfs (``/dev/shm``).
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._written: dict[str, bytes] = {}
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)

    def write(self, image: Image) -> Path:
        """Makes the directory hold exactly ``image``; returns it."""
        self._remove_others(image)
        for name in sorted(image.directories):
            (self.directory / name).mkdir(exist_ok=True)
        for name, content in image.files.items():
            if not self._holds(name, content):
                self._write_file(name, content)
        return self.directory

    def _holds(self, name: str, content: bytes) -> bool:
        if self._written.get(name) != content:
            return False
        try:
            return os.stat(self.directory / name).st_mtime_ns == _UNTOUCHED_NS
        except FileNotFoundError:
            return False

    def _write_file(self, name: str, content: bytes) -> None:
        path = self.directory / name
        path.write_bytes(content)
        os.utime(path, ns=(_UNTOUCHED_NS, _UNTOUCHED_NS))
        self._written[name] = content

    def _remove_others(self, image: Image) -> None:
        for parent, directories, files in os.walk(self.directory, topdown=False):
            for name in files:
                path = os.path.join(parent, name)
                if os.path.relpath(path, self.directory) not in image.files:
                    os.unlink(path)
            for name in directories:
                path = os.path.join(parent, name)
                if os.path.relpath(path, self.directory) not in image.directories:
                    os.rmdir(path)
