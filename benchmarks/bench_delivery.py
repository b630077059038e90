"""What storing and delivering costs, each against what one would use instead.

Each function measures one row of the targets and returns its lines. The stock side
gets the same records with the same stamps as attributes.
"""

from __future__ import annotations

import contextlib
import gc
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from common import (
    HERE,
    NOWHERE,
    PATIENCE_S,
    BareCommits,
    Row,
    Scale,
    Sink,
    StampingProcessor,
    cost,
    durable,
    each_us,
    fresh_records,
    in_threads,
    p,
    per_s,
    resident_bytes,
    row,
    scratch,
    stamp,
    us,
)
from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter as GrpcExporter
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.sdk._logs import LogRecordProcessor
from opentelemetry.sdk._logs.export import (
    BatchLogRecordProcessor,
    InMemoryLogRecordExporter,
    SimpleLogRecordProcessor,
)

from otel_memoir.delivery.encoding import encode_record
from otel_memoir.sdk import DurableLogRecordProcessor
from otel_memoir.stamping import new_uid

sys.path.insert(0, str(HERE.parent / "tests"))
from collector import Collector  # the tests' Collector is not a package

RECOVERY_ROUNDS = 2
GATEWAY = HERE.parent / "collector-config" / "gateway.yaml"
TOOL = HERE.parent / "tools" / "collector.py"


# -- 1: emit to delivered ---------------------------------------------------------


def batch(scale: Scale) -> list[Row]:
    """`batch` from the first emit until all is delivered, and the stock batch processor."""
    ours, stock, count = [], [], scale.records
    with Sink() as sink, scratch() as directory:
        exporter = OTLPLogExporter(f"{sink.endpoint}/v1/logs")
        batcher = BatchLogRecordProcessor(exporter, max_queue_size=10 * scale.records)
        stamped = StampingProcessor(batcher)
        with durable(directory, sink.endpoint, durability="batch") as processor:
            for _ in range(scale.rounds + 1):
                ours.append(_until(processor, processor.wait_delivered, sink, count))
                stock.append(_until(stamped, _flush_of(stamped), sink, count))
            # The first round opens files and connections.
            del ours[0], stock[0]
        stamped.shutdown()
    return [
        row("emit to delivered, `batch`: throughput", per_s(count, _wall(ours)),
            f"{per_s(count, _wall(stock))} stock batch processor, HTTP",
            [b.wall_s / a.wall_s for a, b in zip(ours, stock)], ">= 2.5"),
        row("emit to delivered, `batch`: CPU per record", _cpu(ours, count),
            f"{_cpu(stock, count)} stock batch processor, HTTP",
            [a.cpu_s / b.cpu_s for a, b in zip(ours, stock)], "<= 0.5"),
    ]


def _until(
    processor: LogRecordProcessor, wait: Callable[[float], object], sink: Sink, count: int
) -> Any:
    records = fresh_records(count)

    def work() -> None:
        for record in records:
            processor.on_emit(record)
        wait(PATIENCE_S)

    taken = cost(work)
    arrived = sink.count()[1]
    assert arrived == count, f"{arrived} of {count} records arrived"
    return taken


def _flush_of(processor: LogRecordProcessor) -> Callable[[float], object]:
    return lambda timeout: processor.force_flush(int(timeout * 1000))


def _wall(costs: Sequence[Any]) -> float:
    return statistics.median(c.wall_s for c in costs)


def _cpu(costs: Sequence[Any], count: int) -> str:
    return f"{statistics.median(c.cpu_s for c in costs) / count * 1e6:.0f} µs"


# -- 2: one durable emit ----------------------------------------------------------


def emit(scale: Scale) -> list[Row]:
    """`power` emit while the courier delivers, and a bare commit of a row as large."""
    ours, bare, ratios, warm_up = [], [], [], 1100
    size = len(encode_record(fresh_records(1)[0]).payload) + 180
    with Sink() as sink, scratch() as directory:
        commits = BareCommits(directory, b"x" * size)
        with contextlib.closing(commits), durable(directory / "s", sink.endpoint) as processor:
            # A commit that makes the write-ahead log longer costs twice one that does not,
            # and both sides write its 1,000 pages once before they begin again.
            each_us(processor.on_emit, fresh_records(warm_up))
            each_us(commits, range(warm_up))
            for _ in range(4 * scale.rounds):
                mine = each_us(processor.on_emit, fresh_records(scale.emits))
                processor.wait_delivered(PATIENCE_S)
                theirs = each_us(commits, range(scale.emits))
                ratios.append(p(mine, 50) / p(theirs, 50))
                ours += mine
                bare += theirs
    return [row("`power` emit p50, 1 thread, delivering", us(ours), f"{us(bare)} bare commit",
                ratios, "<= 1.25")]


# -- 3: the only durable way today ------------------------------------------------


@contextlib.contextmanager
def gateway(directory: Path, sink: Sink) -> Iterator[Collector]:
    """A Collector with a queue on disk, fsynced, in front of the sink."""
    environ = {"OTLP_NEXT_ENDPOINT": sink.endpoint, "OTELCOL_QUEUE_DIR": str(directory / "queue")}
    (directory / "gateway").mkdir()
    with Collector(otelcol(), directory / "gateway", GATEWAY, environ=environ) as running:
        yield running


def otelcol() -> Path:
    found = subprocess.run([sys.executable, str(TOOL)], capture_output=True, text=True, check=True)
    return Path(found.stdout.splitlines()[-1])


def gateway_emit(scale: Scale) -> list[Row]:
    """`power` emit against a simple processor that waits for the local Collector's disk."""
    rows = []
    with Sink() as sink, scratch() as directory, gateway(directory, sink) as collector:
        exporter = GrpcExporter(collector.grpc_endpoint, insecure=True)
        simple = StampingProcessor(SimpleLogRecordProcessor(exporter))
        with durable(directory / "s", sink.endpoint) as processor:
            for threads in (1, 16):
                rows += _gateway_rows(scale, sink, processor, simple, threads)
        simple.shutdown()
    return rows


def _gateway_rows(
    scale: Scale,
    sink: Sink,
    processor: DurableLogRecordProcessor,
    simple: LogRecordProcessor,
    threads: int,
) -> list[Row]:
    ours, theirs, medians, rates, count = [], [], [], [], scale.emits // 2
    for _ in range(scale.rounds):
        mine_s, mine = _emit_in_threads(processor, threads, count)
        processor.wait_delivered(PATIENCE_S)
        sink.count()
        other_s, other = _emit_in_threads(simple, threads, count)
        sink.wait(threads * count)
        arrived = sink.count()[1]
        assert arrived == threads * count, f"{arrived} of {threads * count} records arrived"
        medians.append(p(mine, 50) / p(other, 50))
        rates.append(other_s / mine_s)
        ours.append((mine_s, mine))
        theirs.append((other_s, other))
    return _gateway_lines(threads, count, ours, theirs, medians, rates)


def _gateway_lines(
    threads: int, count: int, ours: Any, theirs: Any, medians: list[float], rates: list[float]
) -> list[Row]:
    of = f"{threads} thread" + "s" * (threads > 1)
    every = [[t for _, times in side for t in times] for side in (ours, theirs)]
    wall_s = [statistics.median(s for s, _ in side) for side in (ours, theirs)]
    rate = [per_s(threads * count, s) for s in wall_s]
    way = "simple processor to Collector, fsync"
    return [
        row(f"`power` emit p50, {of}", us(every[0]), f"{us(every[1])} {way}", medians,
            "<= 0.4" if threads == 1 else ""),
        row(f"`power` throughput, {of}", rate[0], f"{rate[1]} {way}", rates,
            ">= 2.5" if threads == 1 else ">= 8"),
    ]


def _emit_in_threads(
    processor: LogRecordProcessor, threads: int, count: int
) -> tuple[float, list[float]]:
    shares = [fresh_records(count) for _ in range(threads)]
    times: list[float] = []
    taken = cost(lambda: times.extend(in_threads(processor.on_emit, shares)))
    return taken.wall_s, times


# -- 5: emit without fsync --------------------------------------------------------


def process(scale: Scale) -> list[Row]:
    """`process` emit, and the stock batch processor's emit, which is into memory."""
    ours, stock, ratios, count = [], [], [], scale.records // 4
    with Sink() as sink, scratch() as directory:
        batcher = BatchLogRecordProcessor(
            InMemoryLogRecordExporter(), schedule_delay_millis=3_600_000,
            max_queue_size=2**21, max_export_batch_size=2**20,
        )
        stamped = StampingProcessor(batcher)
        with durable(directory, sink.endpoint, durability="process") as processor:
            for _ in range(scale.rounds):
                mine = each_us(processor.on_emit, fresh_records(count))
                processor.wait_delivered(PATIENCE_S)
                theirs = each_us(stamped.on_emit, fresh_records(count))
                ratios.append(p(mine, 50) / p(theirs, 50))
                ours += mine
                stock += theirs
        stamped.shutdown()
    return [row("`process` emit p50", us(ours), f"{us(stock)} stock batch processor's emit",
                ratios, "<= 3")]


# -- 6: drain ---------------------------------------------------------------------


def drain(scale: Scale) -> list[Row]:
    """A backlog into a real Collector, and the stock exporter with the same records."""
    rows = []
    with receiver() as endpoint:
        for compression in ("none", "gzip"):
            pairs = [_drain_both(scale.drain, endpoint, compression) for _ in range(scale.rounds)]
            ours, stock = zip(*pairs)
            rows.append(row(
                f"drain {scale.drain:,} records, {compression}",
                f"{per_s(scale.drain, _wall(ours))}, {_cpu(ours, scale.drain)} CPU",
                f"{per_s(scale.drain, _wall(stock))}, {_cpu(stock, scale.drain)} CPU stock export",
                [b.wall_s / a.wall_s for a, b in pairs], ">= 5",
            ))
    return rows


def recovery(scale: Scale) -> list[Row]:
    """A large backlog into a real Collector that just came back, and into one that was there."""
    count, pairs = 25 * scale.drain, []
    with receiver() as endpoint:
        for number in range(RECOVERY_ROUNDS):
            sides = {
                after: _drain_ours(count, endpoint, "none", after_outage=after).wall_s
                for after in ((True, False) if number % 2 else (False, True))
            }
            pairs.append((sides[True], sides[False]))
    ramped, plain = (statistics.median(side) for side in zip(*pairs))
    return [row(f"drain {count:,} records after an outage, slow start", f"{ramped:.2f} s",
                f"{plain:.2f} s at full speed at once", [a / b for a, b in pairs], "<= 1.1")]


@contextlib.contextmanager
def receiver() -> Iterator[str]:
    """The endpoint of a real Collector that takes logs and keeps none."""
    config = {
        "receivers": {"otlp": {"protocols": {"http": {"endpoint": "${env:OTLP_HTTP_LISTEN}"}}}},
        "exporters": {"nop": {}},
        "service": {"pipelines": {"logs": {"receivers": ["otlp"], "exporters": ["nop"]}},
                    "telemetry": {"metrics": {"level": "none"}}},
    }
    with scratch() as directory, Collector(otelcol(), directory, config) as collector:
        yield collector.http_endpoint


def _drain_both(count: int, endpoint: str, compression: Any) -> tuple[Any, Any]:
    return _drain_ours(count, endpoint, compression), _drain_stock(count, endpoint, compression)


def _drain_ours(
    count: int, endpoint: str, compression: Any, *, after_outage: bool = False
) -> Any:
    given = {"durability": "batch", "compression": compression}
    with scratch() as directory, durable(directory, endpoint, **given) as processor:
        processor.on_emit(fresh_records(1)[0])  # opens the file and the connection
        assert processor.wait_delivered(PATIENCE_S)
        reading = processor.pipeline._made["parts"].spool.reading
        reading.acquire()  # the courier plans, reads and builds nothing before it has this
        for record in fresh_records(count):
            processor.on_emit(record)
        processor.force_flush()
        if after_outage:  # as if the attempt before had failed
            processor.pipeline.courier._dispatcher.pace._flow.failed()
        drained: list[bool] = []

        def work() -> None:
            reading.release()
            drained.append(processor.wait_delivered(PATIENCE_S))

        taken = cost(work)
    assert drained == [True], "the backlog was not delivered"
    return taken


def _drain_stock(count: int, endpoint: str, compression: Any) -> Any:
    exporter = OTLPLogExporter(f"{endpoint}/v1/logs", compression=Compression(compression))
    records, stream_id = fresh_records(count + 1), new_uid()
    for sequence, record in enumerate(records, 1):
        stamp(record, stream_id, sequence)
    exporter.export([records.pop()])  # opens the connection

    def work() -> None:
        for first in range(0, count, 512):  # the stock batch processor's batch
            exporter.export(records[first:first + 512])

    taken = cost(work)
    exporter.shutdown()
    return taken


# -- 7: a large backlog -----------------------------------------------------------


def backlog(scale: Scale) -> list[Row]:
    """`power` emit on top of a backlog and into an empty spool; memory, opening, WAL."""
    given = {"spool_bytes_max": 2**40, "retain_s": 0.0}
    with scratch() as directory:
        full, empty = directory / "full", directory / "empty"
        subprocess.run(
            [sys.executable, __file__, str(full), str(scale.backlog)], check=True,
            timeout=max(PATIENCE_S, scale.backlog / 2000),
        )
        with durable(full, NOWHERE, **given) as loaded, durable(empty, NOWHERE, **given) as bare:
            each_us(bare.on_emit, fresh_records(20))
            gc.collect()
            resident = resident_bytes()
            open_us = each_us(loaded.on_emit, fresh_records(1))[0]
            pending = loaded.status().totals.pending
            assert pending > scale.backlog * 0.99, f"only {pending} records wait"
            return _backlog_rows(scale, loaded, bare, full, open_us, resident)


def _backlog_rows(
    scale: Scale,
    loaded: DurableLogRecordProcessor,
    bare: DurableLogRecordProcessor,
    directory: Path,
    open_us: float,
    resident: int,
) -> list[Row]:
    pairs = []
    for number in range(scale.backlog_rounds):
        # Each begins every other round: what the first leaves to the disk, the second pays.
        sides = (loaded, bare) if number % 2 else (bare, loaded)
        times = {side: each_us(side.on_emit, fresh_records(4 * scale.emits)) for side in sides}
        pairs.append((times[loaded], times[bare]))
    on_top, into_empty = ([t for pair in pairs for t in pair[side]] for side in (0, 1))
    wal = max(path.stat().st_size for path in directory.rglob("*-wal"))
    of, mib = f"backlog of {scale.backlog:,}", 2**20
    p99s = [p(on_top, 99) / p(into_empty, 99)]
    return [
        row(f"{of}: emit p50", us(on_top), f"{us(into_empty)} empty spool",
            [p(a, 50) / p(b, 50) for a, b in pairs], "<= 1.2"),
        row(f"{of}: emit p99", us(on_top), f"{us(into_empty)} empty spool", p99s, "<= 1.5"),
        row(f"{of}: memory on top, MiB", "", "",
            [(resident_bytes() - resident) / mib], "<= 32"),
        row(f"{of}: opening and first emit, ms", "", "", [open_us / 1000], "<= 50"),
        row(f"{of}: write-ahead log, MiB", "", "", [wal / mib], "<= 16"),
    ]


def fill(directory: Path, count: int) -> None:
    """Leave a backlog; run in a process of its own, so that its memory is not ours."""
    with durable(directory, NOWHERE, durability="batch", spool_bytes_max=2**40) as processor:
        for first in range(0, count, 10_000):
            for record in fresh_records(min(10_000, count - first)):
                processor.on_emit(record)


BENCHES: dict[str, Callable[[Scale], list[Row]]] = {
    "batch": batch, "emit": emit, "gateway": gateway_emit, "process": process, "drain": drain,
    "recovery": recovery, "backlog": backlog,
}

if __name__ == "__main__":
    fill(Path(sys.argv[1]), int(sys.argv[2]))
