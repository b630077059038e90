"""Two threads and a fork child append to files, each with plain write(2), and promise each line.

Usage: append_together.py DIRECTORY LINES
"""

import os
import sys
import threading

directory, lines = sys.argv[1], int(sys.argv[2])


def append(name: str) -> None:
    """Appends lines to one file and promises each once it is synced."""
    descriptor = os.open(f"{directory}/{name}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for number in range(lines):
        os.write(descriptor, f"{name}-{number}\n".encode())
        os.fdatasync(descriptor)
        os.write(1, f"ACK {name}-{number}\n".encode())
    os.close(descriptor)


for made in ("left", "right", "child"):
    os.close(os.open(f"{directory}/{made}", os.O_WRONLY | os.O_CREAT, 0o600))
parent = os.open(directory, os.O_RDONLY)
os.fsync(parent)
os.close(parent)

child = os.fork()
if child == 0:
    append("child")
    os._exit(0)
threads = [threading.Thread(target=append, args=(name,), name=name) for name in ("left", "right")]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join(30)
os.waitpid(child, 0)
