"""What the environment says, as far as it cannot be meant so."""

from __future__ import annotations

import difflib
import importlib.metadata
import importlib.util
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from otel_memoir.observe.health_findings import Finding, finding
from otel_memoir.settings import Settings

Environ = Mapping[str, str]

_NO_SETTINGS = ("MEMOIR_CONTENT_HASH_KEY", "MEMOIR_DEMO_ENDPOINT")
_TESTS = "MEMOIR_TEST_"
_GRPC_MOST = 4 * 2**20


def look_at_settings(environ: Environ) -> Iterator[Finding]:
    """Variables that are no settings, values that cannot be used, and pairs that contradict."""
    yield from _unknown(environ)
    said: list[str] = []
    settings = Settings.load(environ=environ, complain=said.append)
    for sentence in said:
        yield finding("settings.unusable", sentence)
    for holds, message, remedy in _CONTRADICTIONS:
        if holds(settings, environ):
            yield finding("settings.contradiction", message, remedy=remedy)


def _unknown(environ: Environ) -> Iterator[Finding]:
    known = [f.metadata["env"] for f in Settings.__dataclass_fields__.values()]
    known = [*filter(None, known), *_NO_SETTINGS]
    for name in sorted(environ):
        if "MEMOIR_" not in name or name in known or name.startswith(_TESTS):
            continue
        close = difflib.get_close_matches(name.removeprefix("OTEL_"), known, 1, 0.7)
        meant = f"Did you mean {close[0]}?" if close else ""
        yield finding("settings.unknown", f"{name} is no setting", remedy=meant)


def _says(environ: Environ, name: str) -> str:
    return environ.get(name, "").strip().lower()


def _otlp(environ: Environ, name: str) -> str:
    return _says(environ, f"OTEL_EXPORTER_OTLP_LOGS_{name}") or _says(
        environ, f"OTEL_EXPORTER_OTLP_{name}"
    )


_CONTRADICTIONS: tuple[tuple[Callable[[Settings, Environ], Any], str, str], ...] = (
    (lambda s, _: s.backoff_initial_s > s.backoff_max_s,
     "the first wait after a failure is longer than the longest",
     "Lower MEMOIR_BACKOFF_INITIAL or raise MEMOIR_BACKOFF_MAX."),
    (lambda s, e: s.record_bytes_max > s.spool_bytes_max * 4 // 5
     and _says(e, "MEMOIR_RECORD_BYTES_MAX"),
     "a record may be larger than all the room for records below WARN",
     "Raise MEMOIR_SPOOL_BYTES_MAX or lower MEMOIR_RECORD_BYTES_MAX."),
    (lambda s, e: s.record_bytes_max > _GRPC_MOST and _otlp(e, "PROTOCOL") == "grpc",
     "a record may be larger than the 4 MiB that a gRPC server takes by default",
     "Lower MEMOIR_RECORD_BYTES_MAX, or raise the server's max_recv_msg_size_mib."),
    (lambda s, _: s.expire_after_s is not None and s.expire_after_s <= s.backoff_max_s,
     "records expire within one wait between attempts: a short outage loses them",
     "Raise MEMOIR_EXPIRE_AFTER or unset it."),
    (lambda s, e: s.durability != "process" and _says(e, "MEMOIR_FSYNC_INTERVAL"),
     "MEMOIR_FSYNC_INTERVAL has an effect with MEMOIR_DURABILITY=process only",
     "Unset one of them."),
    (lambda s, e: s.durability == "batch" and _says(e, "MEMOIR_ON_EVENT_LOOP") == "block",
     "MEMOIR_ON_EVENT_LOOP=block has no effect with MEMOIR_DURABILITY=batch",
     "Unset MEMOIR_ON_EVENT_LOOP, or choose another durability."),
    (lambda s, e: s.clock_mode == "system" and _says(e, "MEMOIR_CLOCK_SOURCES"),
     "MEMOIR_CLOCK_SOURCES has no effect with MEMOIR_CLOCK_MODE=system",
     "Unset one of them."),
    (lambda _, e: _otlp(e, "INSECURE") == "true" and _otlp(e, "ENDPOINT").startswith("https:"),
     "OTEL_EXPORTER_OTLP_INSECURE=true has no effect with an https:// endpoint",
     "Write http:// to speak without TLS, or unset OTEL_EXPORTER_OTLP_INSECURE."),
)


# -- wiring -------------------------------------------------------------------------------------


def look_at_wiring(environ: Environ) -> Iterator[Finding]:
    """What can be seen of the wiring from outside; ``diagnose`` sees the rest from inside."""
    if _says(environ, "OTEL_SDK_DISABLED") == "true":
        yield finding("wiring.sdk_disabled", "OTEL_SDK_DISABLED is true")
    if file := environ.get("OTEL_CONFIG_FILE", ""):
        yield from _config_file(Path(file))
    elif "memoir" in _says(environ, "OTEL_LOGS_EXPORTER").split(","):
        yield from _by_exporter(environ)


def _by_exporter(environ: Environ) -> Iterator[Finding]:
    if not has_distribution("opentelemetry-distro"):
        yield finding("wiring.no_instrument", "OTEL_LOGS_EXPORTER=memoir is set, and "
                      "opentelemetry-distro is not installed here")
    by_sdk = _says(environ, "OTEL_PYTHON_LOGGING_AUTO_INSTRUMENTATION_ENABLED") == "true"
    off = _says(environ, "OTEL_PYTHON_LOG_AUTO_INSTRUMENTATION") == "false"
    if not by_sdk and (off or not has_distribution("opentelemetry-instrumentation-logging")):
        why = "is switched off" if off else "is not installed here"
        yield finding("wiring.no_logging", f"opentelemetry-instrumentation-logging {why}",
                      remedy="Unset OTEL_PYTHON_LOG_AUTO_INSTRUMENTATION." if off else "")


def has_distribution(name: str) -> bool:
    """Whether a distribution is installed in this Python."""
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _config_file(path: Path) -> Iterator[Finding]:
    if importlib.util.find_spec("yaml") is None:
        yield finding("wiring.config_file", "OTEL_CONFIG_FILE is set, and pyyaml, which reads it, "
                      "is not installed here", remedy="pip install 'opentelemetry-sdk[file-"
                      "configuration]'")
        return
    import yaml

    try:
        processors = yaml.safe_load(path.read_text())["logger_provider"]["processors"]
        wraps = any("memoir" in (one.get("batch") or {}).get("exporter", {}) for one in processors)
    except (OSError, ValueError, yaml.YAMLError) as error:
        yield finding("wiring.config_file", f"{path} cannot be read: {error}")
        return
    except (KeyError, TypeError, AttributeError):
        return  # it says nothing about logs, or not in a form that we know
    if wraps:
        yield finding("wiring.batch_yaml", f"{path} has `memoir` inside a `batch` processor")
