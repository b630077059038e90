"""Real chronyd servers on loopback: unprivileged, never touching the clock, always stopped.

Two traps. A ``faketime`` below 1 s in magnitude gives half of it and a negative delay,
because chronyd then takes the kernel's receive stamp, which is not faked: ``Chained`` gives
small offsets. And with ``makestep`` a server without control of the clock serves offset 0.
"""

from __future__ import annotations

import csv
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import pytest

_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
CHRONYD = shutil.which("chronyd", path=_PATH)
CHRONYC = shutil.which("chronyc", path=_PATH)
SETPRIV = shutil.which("setpriv", path=_PATH)
FAKETIME = next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))), None)

needs_chronyd = pytest.mark.skipif(
    not (CHRONYD and CHRONYC and SETPRIV),
    reason="no chronyd: run `make system`, or apt-get install chrony util-linux",
)
needs_faketime = pytest.mark.skipif(
    FAKETIME is None, reason="no libfaketime: run `make system`, or apt-get install faketime"
)

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 10.0
COMMAND_TIMEOUT_S = 20.0
PAUSE_S = 0.02
PORT_ATTEMPTS = 3

TRACKING_FIELDS = (
    "refid", "address", "stratum", "ref_time", "correction", "last_offset", "rms_offset",
    "frequency", "residual_frequency", "skew", "root_delay", "root_dispersion",
    "update_interval", "leap",
)  # fmt: skip


class ChronydError(RuntimeError):
    """A chronyd did not do what was asked; the message ends with the end of its log."""


class Chronyd:
    """One chronyd on ports of its own, as an unprivileged user and without control of the clock.

    Args:
        directives: Lines of chrony.conf on top of ports and addresses. By default it takes
            its own clock for the truth, at stratum 3.
        address: The loopback address that it serves and follows from.
        allow: Whether it answers NTP questions.
        faketime: What libfaketime tells it, as the variable FAKETIME has it: ``+2.5s``,
            ``@2036-03-01 00:00:00``; the same words go to `step` later.
        keys: Lines of its key file.
    """

    def __init__(
        self,
        *directives: str,
        address: str = "127.0.0.1",
        allow: bool = True,
        faketime: str = "",
        keys: Sequence[str] = (),
    ) -> None:
        self.address = address
        self.port = 0
        self.command_port = 0
        self._directives = directives or ("local stratum 3",)
        self._allow = allow
        self._faketime = faketime
        self._keys = keys
        self._process: subprocess.Popen[bytes] | None = None
        self._directory = Path()

    def start(self) -> Chronyd:
        """Start it and wait until it answers commands.

        Raises:
            ChronydError: It ended, or did not answer in time.
        """
        for attempt in range(PORT_ATTEMPTS):
            self._launch()
            if self._until(lambda: self._chronyc("tracking") is not None):
                return self
            log = self.log
            self.stop()
            # Somebody else can take a free port before it does.
            if "in use" not in log or attempt == PORT_ATTEMPTS - 1:
                break
        raise ChronydError(f"chronyd did not start:\n{log}")

    def stop(self) -> None:
        """End it and remove its files."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_TIMEOUT_S)
        shutil.rmtree(self._directory, ignore_errors=True)
        # chronyd ends without libfaketime's clean-up, and a later process with the same
        # number, of another user, could then not start under libfaketime.
        for name in ("faketime_shm_", "sem.faketime_sem_"):
            Path(f"/dev/shm/{name}{process.pid}").unlink(missing_ok=True)

    def __enter__(self) -> Chronyd:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def log(self) -> str:
        """The end of what it has written."""
        path = self._directory / "log"
        return path.read_text(errors="replace")[-4000:] if path.exists() else "(no log)"

    def tracking(self) -> dict[str, str]:
        """What ``chronyc tracking`` says, by the names of ``TRACKING_FIELDS``."""
        said = self._chronyc("tracking")
        if said is None:
            raise ChronydError(f"no answer to a command:\n{self.log}")
        return dict(zip(TRACKING_FIELDS, next(csv.reader([said]))))

    def wait_synchronised(self) -> Chronyd:
        """Wait until it follows a server, with a root dispersion below a millisecond.

        Raises:
            ChronydError: It does not in time.
        """
        if self._until(self._synchronised):
            return self
        raise ChronydError(f"it does not follow its server: {self.tracking()}\n{self.log}")

    def step(self, faketime: str) -> None:
        """Set its clock while it runs; the new time is seen at once."""
        new = self._directory / "faketime.new"
        new.write_text(f"{faketime}\n")
        new.chmod(0o644)
        new.rename(self._directory / "faketime")

    def _synchronised(self) -> bool:
        said = self.tracking()
        return said["leap"] == "Normal" and float(said["root_dispersion"]) < 0.001

    def _launch(self) -> None:
        self._directory = _directory_of(_user())
        self.port, self.command_port = _free_port(self.address), _free_port("127.0.0.1")
        (self._directory / "keys").write_text("".join(f"{line}\n" for line in self._keys))
        assert SETPRIV is not None and CHRONYD is not None
        # It ends with the thread that started it, however that ends.
        command = [SETPRIV, "--pdeathsig", "TERM", *_as_nobody(), "--"]
        # libfaketime's semaphore must belong to the user that runs under it.
        command += ["env", *(f"{name}={value}" for name, value in self._environ().items())]
        command += [CHRONYD, "-d", "-x", "-U", "-u", _user().pw_name, *self._configuration()]
        with (self._directory / "log").open("wb") as log:
            self._process = subprocess.Popen(
                command, cwd=self._directory, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def _configuration(self) -> list[str]:
        lines = [
            *self._directives, f"port {self.port}", f"cmdport {self.command_port}",
            f"bindaddress {self.address}", "bindcmdaddress 127.0.0.1",
            f"pidfile {self._directory / 'pid'}",
        ]  # fmt: skip
        # Without any `allow` it would not even open its port.
        lines.append("allow" if self._allow else "allow 192.0.2.1")
        if self._keys:
            lines.append(f"keyfile {self._directory / 'keys'}")
        return lines

    def _environ(self) -> dict[str, str]:
        if not self._faketime:
            return {}
        self.step(self._faketime)
        return {
            "LD_PRELOAD": str(FAKETIME), "FAKETIME_NO_CACHE": "1",
            "FAKETIME_TIMESTAMP_FILE": str(self._directory / "faketime"),
        }  # fmt: skip

    def _chronyc(self, command: str) -> str | None:
        """The output of a command as CSV, or ``None`` where there is no answer."""
        assert CHRONYC is not None
        try:
            done = subprocess.run(
                [CHRONYC, "-n", "-c", "-h", "127.0.0.1", "-p", str(self.command_port), command],
                capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return None
        return done.stdout.strip() if done.returncode == 0 and done.stdout.strip() else None

    def _until(self, holds: object) -> bool:
        """Wait until something holds; false when the process ends or time is up."""
        assert callable(holds) and self._process is not None
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline_s:
            if holds():
                return True
            try:
                self._process.wait(PAUSE_S)
            except subprocess.TimeoutExpired:
                continue
            return False
        return False


class Chained(Chronyd):
    """A chronyd that follows another one with an exact offset, one stratum below it.

    Args:
        upstream: Whom it follows: at another address, or its answers name its client's own
            address as the one that it follows, which is a loop to whoever checks.
        offset_s: By how much its time is ahead.
        directives: Lines of chrony.conf.
    """

    def __init__(self, upstream: Chronyd, offset_s: float, *directives: str) -> None:
        follow = (
            f"server {upstream.address} port {upstream.port} offset {offset_s} "
            "iburst minpoll -6 maxpoll -6"
        )
        super().__init__(follow, *directives)

    def start(self) -> Chronyd:
        """Start it and wait until it follows."""
        try:
            return super().start().wait_synchronised()
        except ChronydError:
            self.stop()
            raise


def upstream() -> Chronyd:
    """A server for others to follow: its time is the system's, its address not 127.0.0.1."""
    return Chronyd(address="127.0.0.2")


def _user() -> pwd.struct_passwd:
    return pwd.getpwnam("nobody") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())


def _as_nobody() -> list[str]:
    if os.geteuid() != 0:
        return []
    user = _user()
    return [f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]


def _directory_of(user: pwd.struct_passwd) -> Path:
    """A directory that the user can write to and reach, which pytest's own is not."""
    path = Path(tempfile.mkdtemp(prefix="chronyd-"))
    path.chmod(0o755)
    if os.geteuid() == 0:
        os.chown(path, user.pw_uid, user.pw_gid)
    return path


def _free_port(address: str) -> int:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.bind((address, 0))
        return int(sock.getsockname()[1])
