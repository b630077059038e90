"""Emits for ever, for somebody who kills it: `stamping.py NAME [forgetful]`.

A forgetful one does not care what the lives before it had stamped.
"""

from __future__ import annotations

import itertools
import sys

from host_programs.emitting import promise
from otel_memoir.stamping import stamper

if "forgetful" in sys.argv:
    stamper.LIVES_OVERLAP_MAX_NS = -(2**62)

for number in itertools.count():
    promise(f"{sys.argv[1]}.{number}")
