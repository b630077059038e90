"""Services whose clocks disagree, one of which calls the other: the order is kept.

    python examples/hosts_in_order.py

The caller's time travels in a header (propagator ``memoir``), so that the callee stamps
nothing earlier, however wrong its own clock is. What both spools hold is then one order.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from opentelemetry import context
from opentelemetry.sdk.resources import Resource

from otel_memoir import MemoryLog
from otel_memoir.sdk.propagator import MemoirPropagator


def serve(name: str, spool: str, calls: list[str]) -> None:
    """Tell of something; call the next service; tell of something again."""
    propagator = MemoirPropagator()
    context.attach(propagator.extract(dict(os.environ)))
    with MemoryLog(
        spool_dir=spool, store_id="profile", agent_name=name,
        resource=Resource({"service.name": name}), shutdown_timeout_s=0.1,
    ) as log:
        log.read("alice", hit=True)
        if calls:
            header: dict[str, str] = {}
            propagator.inject(header)
            command = [sys.executable, __file__, *calls]
            subprocess.run(command, check=True, env={**os.environ, **header}, timeout=60)
        log.updated("alice", record_version=len(calls) + 1)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        serve(sys.argv[1], sys.argv[2], sys.argv[3:])
    else:
        os.environ.pop("MEMOIR_SPOOL_DIR", None)  # each has one of its own
        spools = [str(Path(tempfile.mkdtemp(prefix="memoir-")) / name) for name in ("a", "b")]
        serve("front", spools[0], ["back", spools[1]])
        order = [sys.executable, "-m", "otel_memoir.cli", "events", "--order", *spools]
        subprocess.run(order, check=True, timeout=60)
