"""Kill programs and servers at random, then say what became of each acknowledged record.

See README.md. Nothing here knows the package under test, but for `program.py`.
"""

from kill_loop.disturb import Disturbance, Server
from kill_loop.judge import Evidence, Verdict, judge, table
from kill_loop.payload import payload_of
from kill_loop.victim import Victim

__all__ = [
    "Disturbance", "Evidence", "Server", "Verdict", "Victim", "judge", "payload_of", "table",
]
