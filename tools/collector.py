"""Print the path of an OpenTelemetry Collector that has every part our tests need.

Run ``python3 tools/collector.py``: the last line on stdout is the path; all
else goes to stderr. Looked for in this order:

1. ``$OTELCOL``, if set: it must do, or this fails.
2. A build of ``collector-config/builder.yaml`` in the user's cache directory.
3. ``otelcol-contrib`` or ``otelcol`` on ``PATH``, if it has the parts.
4. A new build with the Collector Builder: needs Go, takes one to three minutes
   the first time.

Refuses to guess: a Collector that lacks a part, or is older than the manifest,
is not used. Needs nothing but the standard library.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import NoReturn

MANIFEST = Path(__file__).resolve().parent.parent / "collector-config" / "builder.yaml"
BUILDER = "go.opentelemetry.io/collector/cmd/builder@v0.155.0"
REMEDY = (
    "Install Go 1.25 or newer (https://go.dev/dl) so that one can be built, "
    "or set OTELCOL to the path of an otelcol-contrib 0.155.0 or newer."
)
BUILD_TIMEOUT_S = 15 * 60
ASK_TIMEOUT_S = 60

# `go mod tidy`, which the builder would run, also resolves the test dependencies of our
# dependencies, and module proxies do not serve all of those. With these flags it goes on.
GO_ENVIRONMENT = {"GOFLAGS": "-e -mod=mod", "CGO_ENABLED": "0"}

Version = tuple[int, ...]


class UnavailableError(Exception):
    """No Collector can be had here; the message says why."""


def find_or_build(environ: Mapping[str, str], manifest: Path = MANIFEST) -> Path:
    """Return a Collector that has all parts of the manifest.

    Raises:
        UnavailableError: There is none and none can be built.
    """
    wanted = _modules(manifest.read_text())
    chosen = environ.get("OTELCOL", "")
    if chosen:
        return _checked(Path(chosen), wanted)
    cache = _cache_dir(environ)
    return (
        _cached(cache, manifest, environ)
        or _on_path(wanted, environ)
        or _build(cache, manifest, environ)
    )


def _modules(text: str) -> dict[str, Version]:
    """Find every ``module vX.Y.Z`` in a manifest or in the output of ``otelcol components``."""
    found = re.findall(r"^\W*(?:gomod|module):\s*(\S+)\s+v(\d+)\.(\d+)\.(\d+)", text, re.MULTILINE)
    return {name: tuple(int(part) for part in version) for name, *version in found}


def _checked(binary: Path, wanted: Mapping[str, Version]) -> Path:
    """Return ``binary`` if it has the wanted modules, each as new as wanted or newer."""
    try:
        text = _ask([str(binary), "components"])
    except (OSError, subprocess.SubprocessError) as error:
        raise UnavailableError(f"{binary} does not list its components: {error}") from error
    has = _modules(text)
    lacking = [name for name, version in wanted.items() if has.get(name, ()) < version]
    if lacking:
        raise UnavailableError(f"{binary} lacks, or has too old: {', '.join(lacking)}")
    return binary.absolute()


def _ask(command: list[str], environ: Mapping[str, str] | None = None) -> str:
    """Run a command that answers at once; return its stdout."""
    return subprocess.run(
        command, env=environ, check=True, text=True, timeout=ASK_TIMEOUT_S,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    ).stdout


def _cache_dir(environ: Mapping[str, str]) -> Path:
    return Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "otel-memoir"


def _manifest_hash(manifest: Path) -> str:
    """Hash what decides the build: the builder and the manifest without its comments."""
    lines = (line.partition("#")[0].rstrip() for line in manifest.read_text().splitlines())
    said = "\n".join([BUILDER, *filter(None, lines)])
    return hashlib.sha256(said.encode()).hexdigest()[:12]


def _go(environ: Mapping[str, str]) -> tuple[str, str] | None:
    """Return the go command and its version (``go1.26.8-linux-amd64``), if there is one."""
    go = shutil.which("go", path=environ.get("PATH"))
    if go is None:
        return None
    try:
        words = _ask([go, "version"], {**environ, **GO_ENVIRONMENT}).split()
    except (OSError, subprocess.SubprocessError) as error:
        raise UnavailableError(f"{go} does not work: {error}") from error
    return go, re.sub(r"[^\w.]+", "-", " ".join(words[2:]))


def _cached(cache: Path, manifest: Path, environ: Mapping[str, str]) -> Path | None:
    """Return a finished build of the manifest: by this Go, or by any when there is no Go."""
    go = _go(environ)
    pattern = f"otelcol-{_manifest_hash(manifest)}-{go[1] if go else '*'}"
    builds = (path for path in sorted(cache.glob(pattern)) if os.access(path, os.X_OK))
    return next(builds, None)


def _on_path(wanted: Mapping[str, Version], environ: Mapping[str, str]) -> Path | None:
    for name in ("otelcol-contrib", "otelcol"):
        found = shutil.which(name, path=environ.get("PATH"))
        if found is None:
            continue
        try:
            return _checked(Path(found), wanted)
        except UnavailableError as error:
            _say(f"not used: {error}")
    return None


def _build(cache: Path, manifest: Path, environ: Mapping[str, str]) -> Path:
    """Build the manifest once, however many runs ask for it at the same time."""
    go = _go(environ)
    if go is None:
        raise UnavailableError("no suitable Collector is installed, and no Go to build one")
    cache.mkdir(parents=True, exist_ok=True)
    with _deadline(BUILD_TIMEOUT_S), _locked(cache / "otelcol.lock"):
        finished = _cached(cache, manifest, environ)
        if finished is not None:
            return finished
        for leftover in cache.glob("otelcol-build-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix="otelcol-build-", dir=cache) as work:
            binary = _compile(Path(work), go[0], manifest, environ)
            target = cache / f"otelcol-{_manifest_hash(manifest)}-{go[1]}"
            # A rename within one directory: a run that was killed leaves no half a Collector.
            return binary.rename(target)


def _compile(work: Path, go: str, manifest: Path, environ: Mapping[str, str]) -> Path:
    _say(f"building a Collector from {manifest.name}: one to three minutes, once")
    env = {**environ, **GO_ENVIRONMENT, "GOBIN": str(work)}
    _run([go, "install", BUILDER], work, env)
    _run([str(work / "builder"), "--config", str(manifest)], work, env)
    return _checked(work / "dist" / "otelcol-memoir", _modules(manifest.read_text()))


def _run(command: list[str], work: Path, env: Mapping[str, str]) -> None:
    """Run a step of the build; what it starts ends with it."""
    _say(" ".join(command))
    process = subprocess.Popen(
        command, cwd=work, env=env, stdin=subprocess.DEVNULL, stdout=sys.stderr,
        start_new_session=True,
    )
    try:
        code = process.wait()
    except BaseException:
        # The builder starts `go build`, which would go on alone: the group is ended instead.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    if code != 0:
        raise UnavailableError(f"the build failed: `{command[0]}` ended with {code} (see above)")


@contextlib.contextmanager
def _deadline(timeout_s: int) -> Iterator[None]:
    """End whatever the block waits for: ``flock`` has no timeout of its own."""

    def end(_signal: int, _frame: FrameType | None) -> NoReturn:
        raise UnavailableError(f"the build was not done after {timeout_s} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(timeout_s)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the build lock; the kernel frees it when its holder dies."""
    with path.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _say(message: str) -> None:
    print(f"collector: {message}", file=sys.stderr, flush=True)


def main() -> int:
    """Print the path; return the exit code: 0, or 1 when there is no Collector."""
    try:
        print(find_or_build(os.environ))
    except (UnavailableError, OSError) as error:
        _say(f"NO COLLECTOR: {error}.\n{REMEDY}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
