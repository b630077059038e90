"""Sources as text: ``system``, ``chronyd``, ``ntp://host?key=1``, ``http-date``, ``peers``."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, parse_qsl, urlsplit

from otel_memoir.clock.options import DEFAULT_OPTIONS, ConfiguredSource, SourceOptions
from otel_memoir.clock.sources import chronyd, http_date, ntp, peer
from otel_memoir.clock.sources.kernel import SystemClockSource
from otel_memoir.clock.sources.keys import read_key
from otel_memoir.errors import SettingsError

_FLAGS = ("prefer", "require", "trust", "noselect")
_OF_ALL = (*_FLAGS, "minpoll", "maxpoll")
_OWN = {
    "system": ("unknown_ms",),
    "chronyd": (),
    "ntp": ("key", "keyfile", "burst"),
    "http-date": ("url", "cafile"),
    "peers": (),
}
_LOCAL = ("system", "http-date", "peers")
_NATURAL = {"http-date": http_date.OPTIONS, "peers": peer.OPTIONS}
_HINT = (
    "Write system, chronyd, chronyd://host:port, ntp://host:port?key=1&keyfile=FILE, "
    "http-date?url=http://host:port, or peers; options follow a question mark: prefer, require, "
    "trust, noselect, minpoll=4, maxpoll=10 (powers of two, in seconds), burst=4."
)


def parse_sources(
    texts: Iterable[str], *, key_file: str | Path | None = None, endpoint: str | None = None
) -> tuple[ConfiguredSource, ...]:
    """Make the sources that a list of texts describes, in its order.

    Args:
        texts: One source each; see `parse_source`.

        key_file: Where the keys of sources are that name no ``keyfile`` of their own.

        endpoint: What ``http-date`` without a ``url`` asks: the OTLP endpoint.

    Raises:
        SettingsError: A text does not describe a source, or two describe the same.
    """
    made = tuple(parse_source(text, key_file=key_file, endpoint=endpoint) for text in texts)
    names = [one.source.name for one in made]
    for name in names:
        if names.count(name) > 1:
            raise SettingsError("use source", target=name, cause="it is given twice")
    return made


def parse_source(
    text: str, *, key_file: str | Path | None = None, endpoint: str | None = None
) -> ConfiguredSource:
    """Make one source.

    Raises:
        SettingsError: The text does not describe a source.
    """
    try:
        url = urlsplit(text.strip())
        kind = url.scheme or url.path
        given = _given(text, kind, url)
        options = _options(given, _NATURAL.get(kind, DEFAULT_OPTIONS))
        source = _source(kind, url, given, options, key_file, endpoint)
    except (ValueError, OSError) as error:
        if isinstance(error, SettingsError):
            raise
        raise _bad(text, error) from error
    return ConfiguredSource(source, options)


def _given(text: str, kind: str, url: SplitResult) -> dict[str, str]:
    placed = url.hostname and not url.path.strip("/") and kind not in _LOCAL
    if kind not in _OWN or (url.scheme and not placed):
        raise _bad(text, "it is no source")
    pairs = parse_qsl(url.query, keep_blank_values=True)
    for name, value in pairs:
        if name not in (*_OF_ALL, *_OWN[kind]) or (name in _FLAGS) != (value == ""):
            raise _bad(text, f"{kind} has no option {name}={value}")
    return dict(pairs)


def _options(given: Mapping[str, str], natural: SourceOptions) -> SourceOptions:
    flags: dict[str, Any] = {name: True for name in _FLAGS if name in given}
    least_s = _power_s(given["minpoll"]) if "minpoll" in given else natural.poll_min_s
    most_s = _power_s(given["maxpoll"]) if "maxpoll" in given else natural.poll_max_s
    if "maxpoll" not in given:
        most_s = max(most_s, least_s)
    return dataclasses.replace(natural, **flags, poll_min_s=least_s, poll_max_s=most_s)


def _power_s(exponent: str) -> float:
    """Seconds as chrony.conf and NTP have them, 2 to the power of -7 to 24."""
    if not -7 <= int(exponent) <= 24:
        raise ValueError(f"a poll interval of 2^{exponent} s is not usable")
    return float(2.0 ** int(exponent))


def _source(
    kind: str, url: SplitResult, given: Mapping[str, str], options: SourceOptions,
    key_file: str | Path | None, endpoint: str | None,
) -> Any:
    if kind == "system":
        unknown_ms = int(given["unknown_ms"]) if "unknown_ms" in given else None
        unknown_ns = None if unknown_ms is None else unknown_ms * 10**6
        return SystemClockSource(unknown_ns=unknown_ns, options=options)
    if kind == "chronyd":
        host, port = url.hostname or "127.0.0.1", url.port or chronyd.PORT
        return chronyd.ChronydSource(host, port=port, options=options)
    if kind == "peers":
        return peer.process_peers
    if kind == "http-date":
        tls = http_date.tls_context(given["cafile"]) if "cafile" in given else None
        url_asked = given.get("url") or endpoint or ""
        return http_date.HttpDateSource(url_asked, tls=tls, options=options)
    return _ntp(url, given, options, key_file)


def _ntp(
    url: SplitResult, given: Mapping[str, str], options: SourceOptions,
    key_file: str | Path | None,
) -> ntp.NtpSource:
    if not url.hostname:
        raise ValueError("a host is missing")
    key = None
    if "key" in given:
        path = given.get("keyfile") or key_file
        if path is None:
            raise ValueError("a key needs a keyfile")
        key = read_key(path, int(given["key"]))
    return ntp.NtpSource(
        url.hostname, port=url.port or ntp.PORT, key=key,
        burst=int(given.get("burst", "1")), options=options,
    )


def _bad(text: str, cause: object) -> SettingsError:
    return SettingsError("use source", target=repr(text), cause=cause, hint=_HINT)
