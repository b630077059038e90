"""One frozen object with every setting of otel-memoir, from one table.

The fields below are that table: name, type, default, environment variable,
unit, meaning and danger. The reference in ``docs/settings.md`` is generated
from it. A value given in code wins over one in the settings file, that over
``MEMOIR_*`` in the environment, and that over the default. What says *where* and
*how* to send follows the ``OTEL_EXPORTER_OTLP_*`` variables when neither code nor
file say it. What is not ``live`` cannot be changed in a running process.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from otel_memoir.setting_layers import Layers
from otel_memoir.setting_sources import Sources, hints_of, refuse_unknown
from otel_memoir.setting_values import check_value

Durability = Literal["power", "process", "batch"]
Protocol = Literal["http/protobuf", "grpc"]


def _setting(
    default: Any,
    doc: str,
    *,
    env: str = "",
    unit: str = "",
    danger: str = "",
    least: float | None = None,
    live: bool = True,
) -> Any:
    return dataclasses.field(
        default=default,
        metadata={
            "doc": doc, "env": env, "unit": unit, "danger": danger, "least": least, "live": live,
        },
    )


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Every setting. ``None`` means: follow the environment, or no limit where so said."""

    spool_dir: str | None = _setting(
        None,
        "Directory of the spool files. Used as it is; the default is the user's state directory "
        "with the service name below it.",
        env="MEMOIR_SPOOL_DIR", live=False,
        danger="On a container's own file system the records die with the container.",
    )
    durability: Durability = _setting(
        "power",
        "`power`: fsynced before `emit` returns. `process`: committed before `emit` returns, "
        "fsynced every `fsync_interval_s`. `batch`: returns at once, on disk within "
        "`batch_delay_s`.",
        env="MEMOIR_DURABILITY", live=False,
        danger="`process` can lose the last `fsync_interval_s` in a power cut; `batch` loses "
        "what is still in memory when the process dies.",
    )
    on_event_loop: Literal["handover", "block"] = _setting(
        "handover",
        "What `emit` does on a thread that runs an asyncio event loop: hand over as in `batch`, "
        "or block the loop until the record is on disk.",
        env="MEMOIR_ON_EVENT_LOOP", live=False,
        danger="`block` stalls every task of the loop for the time of an fsync.",
    )
    fsync_interval_s: float = _setting(
        1.0, "Longest time between fsyncs in `process`.", env="MEMOIR_FSYNC_INTERVAL", unit="s",
        least=0.001,
    )
    batch_delay_s: float = _setting(
        0.005, "Longest time in memory in `batch`.", env="MEMOIR_BATCH_DELAY", unit="s", least=0.0
    )
    memory_bytes_max: int = _setting(
        16 * 2**20,
        "Most payload bytes that wait in memory in `batch`, on an event loop, or when there is "
        "no usable directory. Above it `emit` waits (threads) or refuses (event loops, and where "
        "there is no directory).",
        env="MEMOIR_MEMORY_BYTES_MAX", unit="bytes", least=2**16,
    )
    emit_timeout_s: float = _setting(
        30.0,
        "Longest time that `emit` waits for the disk. After it the record stays queued and is "
        "counted as late.",
        env="MEMOIR_EMIT_TIMEOUT", unit="s", least=0.01,
    )

    settings_file: str | None = _setting(
        None,
        "A TOML file with any of these settings by their names, read at the start and watched: "
        "see below.",
        env="MEMOIR_SETTINGS_FILE", live=False,
    )

    endpoint: str | None = _setting(
        None, "Where to send: a base URL. Else `OTEL_EXPORTER_OTLP_(LOGS_)ENDPOINT`.",
    )
    protocol: Protocol | None = _setting(
        None, "`http/protobuf` or `grpc`. Else `OTEL_EXPORTER_OTLP_(LOGS_)PROTOCOL`, else HTTP.",
    )
    headers: Mapping[str, str] | None = _setting(
        None, "Headers sent with each request. Else `OTEL_EXPORTER_OTLP_(LOGS_)HEADERS`.",
    )
    compression: Literal["none", "gzip"] | None = _setting(
        None, "`none` or `gzip`. Else `OTEL_EXPORTER_OTLP_(LOGS_)COMPRESSION`, else none.",
    )
    request_timeout_s: float | None = _setting(
        None, "Longest time for one request. Else `OTEL_EXPORTER_OTLP_(LOGS_)TIMEOUT`, else 10.",
        unit="s", least=0.001,
    )
    certificate_file: str | None = _setting(
        None, "CA file that the server's certificate is checked against. "
        "Else `OTEL_EXPORTER_OTLP_(LOGS_)CERTIFICATE`.",
    )
    client_key_file: str | None = _setting(
        None, "Private key for mutual TLS. Else `OTEL_EXPORTER_OTLP_(LOGS_)CLIENT_KEY`.",
    )
    client_certificate_file: str | None = _setting(
        None, "Certificate for mutual TLS. Else `OTEL_EXPORTER_OTLP_(LOGS_)CLIENT_CERTIFICATE`.",
    )
    insecure: bool | None = _setting(
        None, "gRPC without TLS. Else `OTEL_EXPORTER_OTLP_(LOGS_)INSECURE`, else by the scheme.",
    )

    request_bytes_max: int = _setting(
        1_000_000,
        "Most payload bytes in one request, before compression. Where they are too large for a "
        "destination, smaller ones are batched, down to a sixteenth of this.",
        env="MEMOIR_REQUEST_BYTES_MAX", unit="bytes", least=1024,
    )
    request_records_max: int = _setting(
        4096, "Most records in one request.", env="MEMOIR_REQUEST_RECORDS_MAX", least=1
    )
    record_bytes_max: int = _setting(
        3_500_000,
        "Largest record that is accepted, encoded. Larger ones are refused, counted and named "
        "in a gap.",
        env="MEMOIR_RECORD_BYTES_MAX", unit="bytes", least=256,
        danger="A gRPC server takes 4 MiB a message by default.",
    )
    compress_above_bytes: int = _setting(
        4096, "Records above this size are compressed at rest.",
        env="MEMOIR_COMPRESS_ABOVE_BYTES", unit="bytes", least=0,
    )

    spool_bytes_max: int = _setting(
        2**30, "Most payload bytes that wait in one spool file.",
        env="MEMOIR_SPOOL_BYTES_MAX", unit="bytes", least=2**16,
    )
    disk_free_bytes_min: int = _setting(
        64 * 2**20, "Free disk below which nothing is accepted; delivery goes on.",
        env="MEMOIR_DISK_FREE_BYTES_MIN", unit="bytes", least=0,
    )
    when_full: Literal["refuse", "evict"] = _setting(
        "refuse", "When the spool is full: refuse the new, or evict the oldest never-sent batch.",
        env="MEMOIR_WHEN_FULL",
    )
    retain_s: float = _setting(
        30 * 86400.0, "How long delivered records stay on disk for queries.",
        env="MEMOIR_RETAIN", unit="s", least=0.0,
    )
    retain_bytes_max: int = _setting(
        256 * 2**20, "Most payload bytes of delivered records that stay on disk.",
        env="MEMOIR_RETAIN_BYTES_MAX", unit="bytes", least=0,
    )
    expire_after_s: float | None = _setting(
        None, "Give up on records that waited this long. Off by default.",
        env="MEMOIR_EXPIRE_AFTER", unit="s", least=1.0,
        danger="Expired records are lost; they are counted and named in a gap.",
    )

    peer_offset_max_s: float = _setting(
        0.5,
        "How far ahead of ours the clock of a peer may be whose time the propagator `memoir` "
        "brings. Beyond it the time is refused and counted.",
        env="MEMOIR_PEER_OFFSET_MAX", unit="s", least=0.001,
        danger="A peer can push our timestamps ahead of our clock by as much.",
    )

    backoff_initial_s: float = _setting(
        1.0,
        "First wait after a failed attempt; doubled each time, with full jitter. After an outage "
        "requests are a tenth of it apart at first, and half as far with each yes.",
        env="MEMOIR_BACKOFF_INITIAL", unit="s", least=0.001,
    )
    backoff_max_s: float = _setting(
        60.0, "Longest wait between attempts.", env="MEMOIR_BACKOFF_MAX", unit="s", least=0.001
    )
    hold_probe_interval_s: float = _setting(
        30.0, "While delivery is on hold, one batch is tried this often.",
        env="MEMOIR_HOLD_PROBE_INTERVAL", unit="s", least=0.001,
    )
    adoption_interval_s: float = _setting(
        5.0, "How often to look for waiting records of processes that died.",
        env="MEMOIR_ADOPTION_INTERVAL", unit="s", least=0.01,
    )
    linger_s: float = _setting(
        0.2, "How long a courier waits for a batch to fill before it sends what there is.",
        env="MEMOIR_LINGER", unit="s", least=0.0,
    )
    shutdown_timeout_s: float = _setting(
        5.0, "How long `shutdown` goes on delivering. The rest stays on disk.",
        env="MEMOIR_SHUTDOWN_TIMEOUT", unit="s", least=0.0,
    )

    clock_mode: Literal["observe", "correct", "system"] = _setting(
        "observe",
        "`observe`: records carry the system clock's time and how far true time can be from it. "
        "`correct`: they carry the estimate of true time. `system`: the system clock alone.",
        env="MEMOIR_CLOCK_MODE", live=False,
        danger="`correct` on some processes of a host only puts their records in another order.",
    )
    clock_sources: str = _setting(
        "system,chronyd",
        "Whom to ask for the time, separated by commas: `system`, `chronyd`, `ntp://HOST`, "
        "`http-date`, `peers` (what the propagator hears; never counts); options follow a "
        "question mark, as in `ntp://HOST?prefer`.",
        env="MEMOIR_CLOCK_SOURCES",
        danger="Fewer than four NTP servers cannot outvote one that lies.",
    )
    clock_dir: str | None = _setting(
        None,
        "Where the processes of a host share one calibration and keep its drift; the default is "
        "the user's state directory.",
        env="MEMOIR_CLOCK_DIR", live=False,
    )
    clock_sources_min: int = _setting(
        1, "Least sources that must agree.", env="MEMOIR_CLOCK_SOURCES_MIN", least=1
    )
    clock_distance_min_s: float = _setting(
        0.001, "Least distance from true time that a source is taken to have.",
        env="MEMOIR_CLOCK_DISTANCE_MIN", unit="s", least=0.0,
        danger="Near 0, honest servers on a fast network contradict each other.",
    )
    clock_distance_max_s: float = _setting(
        1.0, "A source that is further from true time has no vote.",
        env="MEMOIR_CLOCK_DISTANCE_MAX", unit="s", least=0.0,
    )
    clock_bound_max_s: float = _setting(
        1.0, "A wider bound than this is marked on the record (`wide`).",
        env="MEMOIR_CLOCK_BOUND_MAX", unit="s", least=0.0,
    )

    lock_events: Literal["both", "span_event", "log"] = _setting(
        "both",
        "How a deadlock and other contention for locks is told: by an event in the log, by an "
        "event on the spans that still record, or by both.",
        env="MEMOIR_LOCK_EVENTS", live=False,
    )
    lock_long_wait_s: float = _setting(
        1.0,
        "A unit that waited longer for a lock is told of, and its span linked to that of the "
        "unit that was in its way.",
        env="MEMOIR_LOCK_LONG_WAIT", unit="s", least=0.0, live=False,
    )
    lock_order: Literal["off", "warn", "raise"] = _setting(
        "off",
        "What is done when locks are asked for in an order that could deadlock with another one "
        "that was seen before: nothing, a warning, or an error.",
        env="MEMOIR_LOCK_ORDER", live=False,
        danger="`raise` refuses what may never have deadlocked.",
    )
    lock_socket: Literal["contended", "off"] = _setting(
        "contended",
        "From when on `otel-memoir locks` can look into the process, through a socket in the "
        "user's state directory: its first wait for a lock (a thread starts then), or never.",
        env="MEMOIR_LOCK_SOCKET", live=False,
        danger="Its user and root see keys and the names of units.",
    )

    health_backlog_age_s: float = _setting(
        300.0, "Health is degraded when the oldest waiting record has waited this long, and "
        "failing at ten times that.", env="MEMOIR_HEALTH_BACKLOG_AGE", unit="s", least=0.001,
    )
    health_fill_ratio: float = _setting(
        0.5, "Health is degraded when the spool is this full; at 0.8 records below WARN are "
        "refused, and it is failing.", env="MEMOIR_HEALTH_FILL_RATIO", least=0.0,
    )
    health_fsync_s: float = _setting(
        0.5, "Health is degraded when commits take this long (three quarters of the last ones "
        "were quicker), and failing at ten times that.",
        env="MEMOIR_HEALTH_FSYNC", unit="s", least=0.0001,
    )
    health_retry_s: float = _setting(
        60.0, "Health is degraded when no attempt has succeeded for this long.",
        env="MEMOIR_HEALTH_RETRY", unit="s", least=0.001,
    )
    health_clock_s: float = _setting(
        60.0, "Health is degraded when the clock has not been right for this long.",
        env="MEMOIR_HEALTH_CLOCK", unit="s", least=0.001,
    )
    health_lock_wait_s: float = _setting(
        30.0, "Health is degraded when a unit has waited this long for a lock.",
        env="MEMOIR_HEALTH_LOCK_WAIT", unit="s", least=0.001,
    )
    health_window_s: float = _setting(
        600.0, "How long a loss, a refusal or a broken file counts as new.",
        env="MEMOIR_HEALTH_WINDOW", unit="s", least=0.01,
    )
    health_recover_s: float = _setting(
        10.0, "How long a cause has to be gone before health is better: it does not flap.",
        env="MEMOIR_HEALTH_RECOVER", unit="s", least=0.0,
    )
    health_interval_s: float = _setting(
        5.0, "How often health is looked at. With a very large number nobody is told of changes, "
        "and no event of them is emitted.", env="MEMOIR_HEALTH_INTERVAL", unit="s", least=0.01,
    )
    health_event_interval_s: float = _setting(
        60.0, "Least time between two events `memoir.health.changed`.",
        env="MEMOIR_HEALTH_EVENT_INTERVAL", unit="s", least=0.0,
    )

    # Without an annotation, which would make a field of it: it is no setting.
    layers = cast("Layers | None", None)
    """Who said what, where that is known."""

    def __post_init__(self) -> None:
        hints = hints_of(type(self))
        for name, field in self.__dataclass_fields__.items():
            check_value(name, getattr(self, name), field.metadata, hints[name])

    @classmethod
    def load(
        cls,
        *,
        environ: Mapping[str, str] | None = None,
        complain: Callable[[str], object] | None = None,
        **given: Any,
    ) -> Settings:
        """Build settings from what is given and, for the rest, a file and the environment.

        Args:
            environ: The environment; ``os.environ`` by default.

            complain: If given, a value that cannot be used is passed to it in
                words and its default used. Else it raises. Of a file that is not
                good nothing is used; one that is not there may come later.

            given: Settings by name; ``None`` counts as not given.

        Raises:
            SettingsError: A name or value cannot be used and ``complain`` is not given.
        """
        environ = os.environ if environ is None else environ
        return cls.of(Sources(cls).layers(given, environ, complain))

    @classmethod
    def of(cls, layers: Layers) -> Settings:
        """What counts of all that was said.

        Raises:
            SettingsError: There is no such setting, or a value cannot be used.
        """
        refuse_unknown(layers.merged(), cls)
        made = cls(**layers.merged())
        object.__setattr__(made, "layers", layers)
        return made

    def all_layers(self) -> Layers:
        """Who said what; of settings that were made by hand, what differs from the defaults."""
        if self.layers is not None:
            return self.layers
        fields = self.__dataclass_fields__.items()
        return Layers(code={
            name: getattr(self, name) for name, field in fields
            if getattr(self, name) != field.default
        })

    def changed(self, other: Settings) -> frozenset[str]:
        """The names of the settings in which another value differs."""
        names = self.__dataclass_fields__
        return frozenset(name for name in names if getattr(self, name) != getattr(other, name))


def settings_in(path: str) -> dict[str, Any]:
    """All settings that a file says, each of them good.

    Raises:
        SettingsError: The file cannot be read, or one of them cannot be used: on which line,
            and why.
    """
    return Sources(Settings).in_file(path)
