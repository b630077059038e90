"""Content: when it may be told, and what can be said instead.

The content of a memory leaves the process only where the user opted in. Ids, counts, sizes
and keyed hashes always may: a hash without a key is no protection, since a short fact can
be guessed and hashed. So without a key there is no hash at all.
"""

from __future__ import annotations

import enum
import hashlib
import hmac
import json
import os
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from otel_memoir.diagnostics import complaints
from otel_memoir.errors import EventError

CAPTURE_VARIABLE = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
KEY_VARIABLE = "MEMOIR_CONTENT_HASH_KEY"

KEY_BYTES_MIN = 16
# RFC 2104, section 5: not less than half of the hash.
_DIGEST_BYTES = 16
_ALGORITHM = "hmac-sha256"


class Capture(enum.Enum):
    """Where content may be told. The modes are those of opentelemetry-util-genai."""

    NO_CONTENT = "NO_CONTENT"
    SPAN_ONLY = "SPAN_ONLY"
    EVENT_ONLY = "EVENT_ONLY"
    SPAN_AND_EVENT = "SPAN_AND_EVENT"

    @property
    def on_events(self) -> bool:
        """Whether events may carry content."""
        return self in (Capture.EVENT_ONLY, Capture.SPAN_AND_EVENT)

    @property
    def on_spans(self) -> bool:
        """Whether spans may carry content."""
        return self in (Capture.SPAN_ONLY, Capture.SPAN_AND_EVENT)


# Instrumentations from before the modes took true or false, and put content on events.
_OLDER = {"": Capture.NO_CONTENT, "FALSE": Capture.NO_CONTENT, "TRUE": Capture.EVENT_ONLY}


def capture_mode(environ: Mapping[str, str] | None = None) -> Capture:
    """What the user opted in to.

    Args:
        environ: The environment; by default that of the process, as it is now.

    Returns:
        The mode; ``NO_CONTENT`` for a value that is none, which is said once.
    """
    found = os.environ if environ is None else environ
    return _mode(found.get(CAPTURE_VARIABLE, "").strip())


@lru_cache(maxsize=16)
def _mode(value: str) -> Capture:
    name = value.upper()
    if name in _OLDER:
        return _OLDER[name]
    if name in Capture.__members__:
        return Capture[name]
    known = ", ".join(Capture.__members__)
    complaints.say(
        "capture", f"{CAPTURE_VARIABLE}={value!r:.60} is none of {known}: no content is captured"
    )
    return Capture.NO_CONTENT


class ContentHasher:
    """Keyed hashes of content: equal content has equal hashes, and nobody can guess back.

    Args:
        key: The secret, at least ``KEY_BYTES_MIN`` bytes; text is taken as UTF-8. Every
            process whose hashes shall be compared needs the same. ``None``: there are no
            hashes, which is what the methods then return.

    Raises:
        EventError: The key is too short.
    """

    def __init__(self, key: bytes | str | None) -> None:
        secret = key.encode() if isinstance(key, str) else key
        if secret is not None and len(secret) < KEY_BYTES_MIN:
            raise EventError(
                "use content hash key", cause=f"it has {len(secret)} bytes",
                hint=f"Give at least {KEY_BYTES_MIN} random bytes: `openssl rand -hex 32`.",
            )
        self._key = secret
        # Tells hashes of different keys apart, so that nobody takes a new key for a change.
        self._name = self._digest(b"key", b"")[:8] if secret else ""

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> ContentHasher:
        """A hasher with the key in ``MEMOIR_CONTENT_HASH_KEY``, or one without a key.

        Never raises: a key that cannot be used is said, and there are no hashes.
        """
        found = os.environ if environ is None else environ
        try:
            return cls(found.get(KEY_VARIABLE) or None)
        except EventError as error:
            complaints.say("content hash key", f"{KEY_VARIABLE}: {error}")
            return cls(None)

    def hash(self, content: Any) -> str | None:
        """The hash of content: ``hmac-sha256:<key's name>:<128 bits in hex>``.

        Raises:
            EventError: The content is not JSON.
        """
        return self._told(b"content", canonical(content))

    def user(self, user_id: str) -> str | None:
        """The hash of a user's id, for ``user.hash``; never equal to that of content."""
        return self._told(b"user", user_id.encode("utf-8", "backslashreplace"))

    def _told(self, purpose: bytes, data: bytes) -> str | None:
        if self._key is None:
            return None
        return f"{_ALGORITHM}:{self._name}:{self._digest(purpose, data)}"

    def _digest(self, purpose: bytes, data: bytes) -> str:
        found = hmac.new(self._key or b"", purpose + b"\0" + data, hashlib.sha256).digest()
        return found[:_DIGEST_BYTES].hex()


def canonical(content: Any) -> bytes:
    """Content as JSON in ASCII, its keys sorted: the same bytes for the same content.

    Raises:
        EventError: The content is not JSON.
    """
    try:
        return json.dumps(
            content, sort_keys=True, separators=(",", ":"), default=_as_dictionary
        ).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise EventError(
            "hash content", target=type(content).__name__, cause=error,
            hint="Give text, numbers, lists and dictionaries with text as keys.",
        ) from error


def _as_dictionary(value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise TypeError(f"{type(value).__name__} is not JSON")
    return dict(value)


def content_size(content: Any) -> int:
    """Size of content in bytes, as its hash sees it.

    Raises:
        EventError: The content is not JSON.
    """
    return len(canonical(content))
