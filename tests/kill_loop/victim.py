"""A program that acknowledges on its stdout, through as many lives as it is given."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import final

_END_TIMEOUT_S = 20.0


@final
class Victim:
    """A program that writes the line ``PREFIX.lane.number`` when it promises a record.

    Promises: a line that the program wrote whole counts, also when it was killed before
    anybody had read it.

    Args:
        name: Of all lives; the prefix of a life is ``name.life``, and unique.

        command: Gives the command of a life from its prefix.

        lanes: How many lanes a life has; each numbers its records from 0 without a hole
            and begins one only when it has acknowledged the one before.

        environ: The whole environment.
    """

    def __init__(
        self,
        name: str,
        command: Callable[[str], Sequence[str]],
        *,
        lanes: int,
        environ: Mapping[str, str],
    ) -> None:
        self.name = name
        self.kills = 0
        self._command = command
        self._lanes = lanes
        self._environ = environ
        self._lives = 0
        self._acked: dict[str, int] = {}
        self._changed = threading.Condition()
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None

    def start(self) -> None:
        """Begin the next life; at once, without waiting for it to be ready."""
        prefix = f"{self.name}.{self._lives}"
        self._lives += 1
        with self._changed:
            self._acked.update({f"{prefix}.{lane}": 0 for lane in range(self._lanes)})
        self._process = subprocess.Popen(
            self._command(prefix), env=dict(self._environ), text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )
        self._reader = threading.Thread(
            target=self._read, args=(self._process,), name=f"acks-{prefix}", daemon=True
        )
        self._reader.start()

    def wait_acked(self, count: int, timeout: float) -> bool:
        """Wait for so many more acknowledgements; false when it ended or time is up."""
        with self._changed:
            target = self._count() + count
            self._changed.wait_for(lambda: self._count() >= target or self._ended(), timeout)
            return self._count() >= target

    def kill(self) -> None:
        """SIGKILL; on return it is gone and all that it wrote was read.

        Raises:
            RuntimeError: It had already ended by itself.
        """
        process, reader = self._process, self._reader
        assert process is not None
        assert reader is not None
        if process.poll() is not None:
            raise RuntimeError(f"{self.name} ended by itself with {process.returncode}")
        process.kill()
        process.wait(_END_TIMEOUT_S)
        reader.join(_END_TIMEOUT_S)
        assert not reader.is_alive()
        if process.stdin is not None:
            process.stdin.close()
        self._process = None
        self.kills += 1

    @property
    def running(self) -> bool:
        return self._process is not None

    def acked(self) -> set[str]:
        """The names of all records that any life acknowledged."""
        with self._changed:
            lanes = dict(self._acked)
        return {f"{lane}.{number}" for lane, count in lanes.items() for number in range(count)}

    def in_flight(self) -> set[str]:
        """The names that a kill may have caught between storing and acknowledging."""
        with self._changed:
            return {f"{lane}.{count}" for lane, count in self._acked.items()}

    def _count(self) -> int:
        return sum(self._acked.values())

    def _ended(self) -> bool:
        return self._process is None or self._process.poll() is not None

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with process.stdout as lines:
            for line in lines:
                lane, _, number = line.strip().rpartition(".")
                with self._changed:
                    assert self._acked[lane] == int(number), f"{line!r} after {self._acked[lane]}"
                    self._acked[lane] += 1
                    self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()
