"""What ``otel-memoir doctor`` and ``diagnose`` can find, each with its remedy.

The table here is also the one in ``docs/operations.md``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from otel_memoir.observe.health import RANK, HealthState


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        id: Its name in ``docs/operations.md``.

        severity: ``degraded`` or ``failing``.

        message: What is wrong, in a sentence.

        remedy: What to do about it.
    """

    id: str
    severity: HealthState
    message: str
    remedy: str


class Check(NamedTuple):
    """What can be found.

    Attributes:
        id: Its name.

        severity: How bad it is.

        meaning: What it means.

        remedy: What to do about it, unless more is known in the case at hand.
    """

    id: str
    severity: HealthState
    meaning: str
    remedy: str


CHECKS = (
    Check("settings.unknown", "degraded",
          "A variable looks like a setting, and is none: it changes nothing.",
          "Correct its name; docs/settings.md has all of them."),
    Check("settings.unusable", "degraded",
          "A setting has a value that cannot be used: its default is used instead.",
          "Correct the value; docs/settings.md says what it can be."),
    Check("settings.contradiction", "degraded",
          "Two settings cannot both have the effect that somebody wanted.",
          "Change one of them."),
    Check("wiring.sdk_disabled", "failing",
          "The OpenTelemetry SDK is switched off: nothing is recorded.",
          "Unset OTEL_SDK_DISABLED."),
    Check("wiring.no_instrument", "failing",
          "OTEL_LOGS_EXPORTER=memoir is read by `opentelemetry-instrument` only, which is not "
          "installed.",
          "Install opentelemetry-distro and start the program with `opentelemetry-instrument`; "
          "or add otel_memoir.DurableLogRecordProcessor() to the provider in code."),
    Check("wiring.no_logging", "degraded",
          "Records of the logging module are not handed to OpenTelemetry.",
          "pip install 'otel-memoir[logging]'"),
    Check("wiring.batch_yaml", "degraded",
          "The configuration file wraps `memoir` in `batch`, which keeps records in memory; only "
          "`opentelemetry-instrument` mends that.",
          "Write `simple:` instead of `batch:` around `memoir:`."),
    Check("wiring.config_file", "failing",
          "The configuration file that OTEL_CONFIG_FILE names cannot be read.",
          "Correct the path or the file."),
    Check("wiring.no_provider", "failing",
          "No logger provider of the SDK is set: records go nowhere.",
          "Set one: opentelemetry._logs.set_logger_provider(provider)."),
    Check("wiring.no_processor", "failing",
          "No processor of the provider is otel-memoir's: nothing is stored.",
          "provider.add_log_record_processor(otel_memoir.DurableLogRecordProcessor())"),
    Check("wiring.batch_in_front", "degraded",
          "A BatchLogRecordProcessor keeps records in memory before they get to us, and loses "
          "them in a crash.",
          "Replace it by otel_memoir.DurableLogRecordProcessor(), which needs no exporter."),
    Check("wiring.redactor_behind", "degraded",
          "A processor stands behind ours: what it changes or removes is stored and sent all the "
          "same.",
          "Register it before otel_memoir.DurableLogRecordProcessor()."),
    Check("wiring.twice", "degraded",
          "Each record is stored and delivered more than once.",
          "Keep one of our processors, or share its pipeline: "
          "DurableLogExporter(pipeline=processor.pipeline)."),
    Check("wiring.root_level", "degraded",
          "The root logger lets only WARNING and above through, its default.",
          "logging.getLogger().setLevel(logging.INFO)"),
    Check("directory.unusable", "failing",
          "The spool directory cannot be used: records would be kept in memory only.",
          "Set MEMOIR_SPOOL_DIR to a writable directory of this user on a local disk."),
    Check("directory.network", "failing",
          "The spool directory is on a network file system, which SQLite's log cannot use.",
          "Set MEMOIR_SPOOL_DIR to a directory on a local disk."),
    Check("directory.container", "degraded",
          "The spool directory is on a container's own file system, which dies with it.",
          "Mount a volume, and set MEMOIR_SPOOL_DIR to a directory in it."),
    Check("directory.volatile", "degraded",
          "The spool directory is in memory: it is empty after a restart of the machine.",
          "Set MEMOIR_SPOOL_DIR to a directory on a disk."),
    Check("directory.open", "degraded",
          "Other users can read the memories in the spool.",
          "chmod go= the directory and its files."),
    Check("directory.disk_low", "failing",
          "The disk has less free room than the reserve: nothing is accepted.",
          "Free some space, or lower MEMOIR_DISK_FREE_BYTES_MIN; what waits is still delivered."),
    Check("spool.unreadable", "failing",
          "A spool file cannot be read.",
          "`otel-memoir verify` says more; keep the file."),
    Check("spool.broken", "degraded",
          "A broken spool file was moved aside.",
          "The next process that uses the directory salvages what can be read. Keep the file "
          "until it is called salvaged; then it may be removed."),
    Check("spool.unaccounted", "failing",
          "The counters of a spool file do not add up.",
          "Run `otel-memoir verify`, and report what it says."),
    Check("spool.hold", "failing",
          "Delivery is on hold: the destination gives an answer that only a person can change.",
          "Do what the answer says; delivery goes on by itself."),
    Check("spool.backlog", "degraded",
          "Records wait too long in the file of a living process.",
          "See that the destination is there and quick enough."),
    Check("spool.dead", "degraded",
          "Records wait in a file that no living process holds, and none is there to adopt it.",
          "Start the service, or run `otel-memoir drain`."),
    Check("spool.quarantine", "degraded",
          "Records are in quarantine: the destination refuses them for good.",
          "`otel-memoir quarantine list` says why; then replay or discard them."),
    Check("spool.copy", "degraded",
          "A spool file was copied or restored: what waits in it may be delivered twice.",
          "Remove it if the original is still there: `otel-memoir status FILE` shows it."),
    Check("endpoint.unusable", "failing",
          "The endpoint, its headers or its certificates cannot be used as they are.",
          "Correct OTEL_EXPORTER_OTLP_(LOGS_)ENDPOINT and its relatives."),
    Check("endpoint.unreachable", "failing",
          "Nobody answers at the endpoint.",
          "Check that the server runs, the host, the port, and the firewall."),
    Check("endpoint.tls", "failing",
          "The endpoint and we do not agree about TLS.",
          "Check https:// or http://, OTEL_EXPORTER_OTLP_CERTIFICATE, and the client's key."),
    Check("endpoint.protocol", "failing",
          "HTTP is spoken to a gRPC port, or gRPC to an HTTP port.",
          "Use the port of the protocol (4317 for gRPC, 4318 for HTTP), or set "
          "OTEL_EXPORTER_OTLP_PROTOCOL."),
    Check("endpoint.path", "failing",
          "The server takes no logs at this path.",
          "Check the path, and that the Collector has a logs pipeline."),
    Check("endpoint.credentials", "failing",
          "The server, or a proxy, does not accept the credentials.",
          "Check OTEL_EXPORTER_OTLP_(LOGS_)HEADERS."),
    Check("endpoint.not_otlp", "failing",
          "Something that is no OTLP receiver answered.",
          "Check host, port and path of OTEL_EXPORTER_OTLP_(LOGS_)ENDPOINT."),
    Check("endpoint.refuses", "failing",
          "The server does not take even an empty request.",
          "Look at the server's own log."),
    Check("endpoint.busy", "degraded",
          "The server says that it cannot take records just now.",
          "It goes on by itself; if it does not, look at the server's own log."),
    Check("clock.wrong", "degraded",
          "Nobody can say how right the time of the records is, or it is not right enough.",
          "Run chronyd on this host, or name NTP servers in MEMOIR_CLOCK_SOURCES (ntp://HOST); "
          "`otel-memoir clock` shows each source. MEMOIR_CLOCK_MODE=system stops asking."),
    Check("clock.falseticker", "degraded",
          "A time source contradicts the majority.",
          "`otel-memoir clock` shows which; remove it from MEMOIR_CLOCK_SOURCES or from chronyd."),
    Check("host.sqlite", "failing",
          "This Python's SQLite cannot keep a spool.",
          "Use a Python whose sqlite3 module has SQLite 3.37 or newer, built for threads."),
)

_BY_ID = {check.id: check for check in CHECKS}


def finding(id: str, message: str, *, remedy: str = "") -> Finding:  # noqa: A002 - its name
    """Make a finding of the table.

    Args:
        id: Its name there.

        message: What is wrong in this case.

        remedy: What to do in this case; else the table's.
    """
    check = _BY_ID[id]
    return Finding(
        id=id, severity=check.severity, message=message, remedy=remedy or check.remedy
    )


def worst(findings: Iterable[Finding]) -> HealthState:
    """How bad the worst of them is."""
    return max((one.severity for one in findings), key=RANK.__getitem__, default="ok")
