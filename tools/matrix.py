"""Run the quick suite on every other interpreter and on the oldest SDK.

Every Python from 3.10 on that this machine has gets an environment of its own with
the newest SDK; the oldest interpreter also gets the oldest SDK that is supported.
"""

from __future__ import annotations

import glob
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VERSIONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
OLDEST_SDK = ("opentelemetry-sdk==1.40.0", "opentelemetry-api==1.40.0",
              "opentelemetry-exporter-otlp==1.40.0", "opentelemetry-proto==1.40.0")
TOOLS = ("blockbuster", "pytest", "pytest-timeout", "hypothesis", "cryptography", "detangle",
         "networkx", "interleave-test; python_version >= '3.12'")
# What a machine shows as its cores can be more than it may use.
_AT_ONCE = 2

QUICK = "not slow and not collector and not newest"
FILES = ("spool", "group_commit", "nesting", "salvage", "courier", "encoding", "request",
         "outcome", "backoff", "house", "events_model", "events_forms", "events_content",
         "events_versions", "events_lost_updates", "hlc", "order", "order_readers",
         "memory_log", "stamp_processor", "stamp_stream", "locks_suite", "locks_deadlocks",
         "reflection", "reflection_tasks",
         "locks_interleavings", "locks_interleavings_tasks", "health", "health_signs", "doctor")


def interpreter(version: str) -> str | None:
    """An interpreter of a version, from PATH or from pyenv."""
    found = shutil.which(f"python{version}")
    pyenv = os.environ.get("PYENV_ROOT", str(Path.home() / ".pyenv"))
    others = glob.glob(f"{pyenv}/versions/{version}.*/bin/python")
    for path in [*([found] if found else []), *others]:
        asked = subprocess.run(
            [path, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"],
            capture_output=True, text=True, check=False,
        )
        if asked.stdout.strip() == version:
            return path
    return None


def environment(python: str, name: str, extra: tuple[str, ...]) -> Path:
    """A virtual environment with the package, made once."""
    home = ROOT / f".venv-{name}"
    ready = home / ".ready"
    if not ready.exists() or ready.stat().st_mtime < (ROOT / "pyproject.toml").stat().st_mtime:
        subprocess.run([python, "-m", "venv", "--clear", str(home)], check=True)
        pip = [str(home / "bin" / "python"), "-m", "pip", "install", "-q",
               "--disable-pip-version-check"]
        subprocess.run([*pip, "-e", str(ROOT), *TOOLS, *extra], check=True)
        ready.touch()
    return home / "bin" / "python"


def suite(name: str, python: str, extra: tuple[str, ...]) -> bool:
    """Run the suite in one environment, say what came of it, and return whether it passed."""
    command = [str(environment(python, name, extra)), "-m", "pytest", "-q", "-m", QUICK,
               "-p", "no:cacheprovider", "--hypothesis-profile=matrix",
               *(f"tests/test_{name}.py" for name in FILES)]
    done = subprocess.run(
        command, cwd=ROOT, check=False, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    print(f"== Python {name}\n{done.stdout}", flush=True)
    return done.returncode == 0


def main() -> int:
    """Run the suite in each environment, some at once; return how many failed."""
    own = f"{sys.version_info[0]}.{sys.version_info[1]}"
    pythons = {version: path for version in VERSIONS if (path := interpreter(version))}
    runs = [(v, path, ()) for v, path in pythons.items() if v != own]
    if pythons:
        oldest = next(iter(pythons))
        runs.append((f"{oldest}-oldest-sdk", pythons[oldest], OLDEST_SDK))
    with ThreadPoolExecutor(max_workers=_AT_ONCE) as pool:
        passed = list(pool.map(lambda one: suite(*one), runs))
    names = [name for name, _, _ in runs]
    failed = [name for name, ok in zip(names, passed) if not ok]
    print(f"interpreters: {', '.join([own, *names])}; failed: {', '.join(failed) or 'none'}")
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())
