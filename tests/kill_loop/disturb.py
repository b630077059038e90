"""Who is killed when: seeded, until the time is up and enough has happened."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, final

from kill_loop.victim import Victim

_FIRST_ACK_TIMEOUT_S = 60.0


class Server(Protocol):
    """What can be killed and started again on the same ports and files."""

    @property
    def running(self) -> bool: ...

    def start(self) -> object:
        """Start, and wait until it takes requests."""

    def kill(self) -> None:
        """SIGKILL."""


@final
class Disturbance:
    """Kills programs and servers, each on its own thread and at its own random times.

    Args:
        seed: The same seed gives the same waits; what is hit by them is up to the machine.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._over = threading.Event()
        self.server_kills: dict[str, int] = {}

    def run(
        self,
        victims: Sequence[Victim],
        servers: Sequence[tuple[str, Server]],
        *,
        seconds: float,
        enough: Callable[[], bool],
        at_most_s: float,
    ) -> None:
        """Kill for ``seconds``, and on until ``enough`` says so, at most ``at_most_s``.

        On return the programs are dead and the servers run.

        Raises:
            Exception: What went wrong on any of the threads, the first of it.
        """
        began_s = time.monotonic()
        with ThreadPoolExecutor(len(victims) + len(servers)) as pool:
            jobs = [pool.submit(self._haunt, victim) for victim in victims]
            jobs += [pool.submit(self._topple, name, server) for name, server in servers]
            try:
                self._wait(jobs, began_s + seconds, began_s + at_most_s, enough)
            finally:
                self._over.set()
        for job in jobs:
            job.result()

    def _wait(
        self,
        jobs: Iterable[Future[None]],
        until_s: float,
        at_most_s: float,
        enough: Callable[[], bool],
    ) -> None:
        def goes_on() -> bool:
            now_s = time.monotonic()
            return now_s < until_s or (now_s < at_most_s and not enough())

        # A thread that fails ends the disturbance.
        while goes_on() and not any(job.done() for job in jobs):
            self._over.wait(0.1)

    def _haunt(self, victim: Victim) -> None:
        """Start a program and kill it, over and over: at work, or while it begins."""
        chance = random.Random(f"{self._seed}-{victim.name}")
        while not self._over.is_set():
            victim.start()
            try:
                if chance.random() < 0.75:
                    victim.wait_acked(1, _FIRST_ACK_TIMEOUT_S)
                self._over.wait(chance.uniform(0.0, 1.5))
            finally:
                victim.kill()

    def _topple(self, name: str, server: Server) -> None:
        """Kill a server that takes requests, leave it down for a moment, start it."""
        chance = random.Random(f"{self._seed}-{name}")
        self.server_kills[name] = 0
        while not self._over.wait(chance.uniform(0.05, 2.5)):
            server.kill()
            self.server_kills[name] += 1
            self._over.wait(chance.uniform(0.0, 0.6))
            server.start()
