"""A celery application with a broker that is a folder: `tasks.py COUNT CONCURRENCY`.

Run as a program it sends the tasks, and becomes a worker whose children live for one.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from celery import Celery

from host_programs.emitting import promise

FOLDERS = {"data_folder_in": "queue", "data_folder_out": "queue", "control_folder": "control"}

app = Celery("tasks", broker="filesystem://", set_as_current=False)
app.conf.update(
    broker_transport_options=FOLDERS, broker_connection_retry_on_startup=True,
    worker_hijack_root_logger=False,
)


@app.task(name="remember", ignore_result=True)
def remember(number: int) -> None:
    """Emit one record."""
    promise(f"task {number}")


def main(count: int, concurrency: str) -> None:
    for folder in set(FOLDERS.values()):
        Path(folder).mkdir(exist_ok=True)
    for number in range(count):
        remember.delay(number)
    celery = str(Path(sys.executable).with_name("celery"))
    os.execv(celery, [
        celery, "-A", "host_programs.tasks", "worker", "--pool", "prefork", "--concurrency",
        concurrency, "--max-tasks-per-child", "1", "--without-gossip", "--without-mingle",
        "--without-heartbeat",
    ])


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
