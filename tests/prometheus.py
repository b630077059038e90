"""A real Prometheus that a test can start and ask. Loopback only; ended with the block."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest
import yaml

from clock_helpers import until

CONFIG = Path(__file__).resolve().parent.parent / "collector-config"
INTERVAL = "500ms"
TIMEOUT_S = 20.0


def free_port() -> int:
    """A port of loopback at which nobody listens just now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def binary(name: str) -> str:
    """The program's path; a test that needs it is skipped where it is not."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if found is None:
        pytest.skip(f"there is no {name}: tools/system_packages.sh installs Debian's prometheus")
    return found


class Prometheus:
    """One Prometheus with the configuration that we ship, in a hurry.

    Args:
        directory: Where its data goes.

        target: host:port of what it scrapes.

        rules: What it watches over, instead of ``alerts.yaml``.
    """

    def __init__(self, directory: Path, target: str, rules: Mapping[str, Any]) -> None:
        config = yaml.safe_load((CONFIG / "prometheus.yaml").read_text())
        config["global"] = {"scrape_interval": INTERVAL, "evaluation_interval": INTERVAL}
        config["scrape_configs"][0]["static_configs"] = [{"targets": [target]}]
        directory.mkdir()
        (directory / "alerts.yaml").write_text(yaml.safe_dump(rules))
        (directory / "prometheus.yaml").write_text(yaml.safe_dump(config))
        self._directory = directory
        self._url = f"http://127.0.0.1:{free_port()}"

    def __enter__(self) -> Prometheus:
        command = [
            binary("prometheus"), f"--config.file={self._directory / 'prometheus.yaml'}",
            f"--storage.tsdb.path={self._directory / 'data'}",
            f"--web.listen-address={self._url.removeprefix('http://')}",
        ]
        with (self._directory / "log").open("wb") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        if not until(self._is_ready, TIMEOUT_S):
            self._end()
            raise RuntimeError((self._directory / "log").read_text()[-2000:])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end()

    def _end(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(TIMEOUT_S)

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self._url}/-/ready", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def _get(self, path: str, **given: str) -> Any:
        url = f"{self._url}/api/v1/{path}?{urllib.parse.urlencode(given)}"
        try:
            with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{given}: {error.read().decode()}") from error

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The samples that an expression gives now."""
        found: list[dict[str, Any]] = self._get("query", query=expression)["result"]
        return found

    def names(self) -> list[str]:
        """The names of all metrics."""
        found: list[str] = self._get("label/__name__/values", start=str(time.time() - 3600))
        return found

    def firing(self) -> set[tuple[str, str]]:
        """Which alerts fire, and for which job."""
        return {
            (one["labels"]["alertname"], one["labels"].get("job", ""))
            for one in self._get("alerts")["alerts"] if one["state"] == "firing"
        }
