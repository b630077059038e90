"""A parent that emits, and multiprocessing children that emit: `children.py METHOD COUNT`.

Run under `opentelemetry-instrument`. All of them end without any clean-up.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from typing import Any

from opentelemetry import _logs as logs
from opentelemetry._logs import LogRecord


def work(first: int, count: int) -> None:
    logger = logs.get_logger("program")
    for number in range(first, first + count):
        logger.emit(LogRecord(body="hello", attributes={"number": number}))
        os.write(1, f"{number}\n".encode())


def main(method: str, count: int) -> None:
    work(0, count)
    context: Any = multiprocessing.get_context(method)
    children = [
        context.Process(target=work, args=(first, count), name=f"child-{first}")
        for first in (1000, 2000)
    ]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
