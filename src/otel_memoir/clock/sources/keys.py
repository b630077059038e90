"""Symmetric keys: questions and answers signed with a secret that both sides know."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field
from pathlib import Path

from otel_memoir.clock.sources.packet import PACKET_BYTES
from otel_memoir.errors import SettingsError

DIGEST_BYTES = 20
"""NTP has no room for more: a longer digest is cut (as chronyd does, ntp_auth.c)."""
MAC_BYTES = 4 + DIGEST_BYTES
_HASHES = {"SHA1": "sha1", "SHA256": "sha256", "SHA384": "sha384", "SHA512": "sha512"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A secret and its number.

    Attributes:
        number: What both sides call it, from 1 to 2³² less 1.

        kind: SHA1, SHA256, SHA384 or SHA512.

        secret: The secret itself.
    """

    number: int
    kind: str
    secret: bytes = field(repr=False)

    def sign(self, packet: bytes) -> bytes:
        """The packet with its MAC."""
        return packet + self._mac(packet)

    def signed(self, data: bytes) -> bool:
        """Whether a packet ends in the MAC of this key."""
        if len(data) != PACKET_BYTES + MAC_BYTES:
            return False
        return hmac.compare_digest(data[PACKET_BYTES:], self._mac(data[:PACKET_BYTES]))

    def _mac(self, packet: bytes) -> bytes:
        digest = hashlib.new(_HASHES[self.kind], self.secret + packet).digest()
        return self.number.to_bytes(4, "big") + digest[:DIGEST_BYTES]


def read_key(path: str | Path, number: int) -> Key:
    """One key of a key file as chronyd has it: lines of ``number kind secret``.

    Raises:
        SettingsError: There is no such file or key, or it is of a kind that is not usable.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise _unusable(path, error) from error
    for line in lines:
        words = line.split()
        if words and words[0] == str(number):
            return _key_of(path, number, words)
    raise _unusable(path, f"no key {number} in it")


def _key_of(path: str | Path, number: int, words: list[str]) -> Key:
    if len(words) != 3 or words[1].upper() not in _HASHES:
        raise _unusable(
            path, f"key {number} is not of the kind {', '.join(_HASHES)}",
            "Make one with: chronyc keygen 1 SHA256 256",
        )
    prefix, _, secret = words[2].partition(":")
    try:
        if prefix.upper() == "HEX":
            raw = bytes.fromhex(secret)
        else:
            raw = (secret if prefix.upper() == "ASCII" else words[2]).encode()
    except ValueError as error:
        raise _unusable(path, f"key {number} is not hexadecimal") from error
    if not raw or not 0 < number < 1 << 32:
        raise _unusable(path, f"key {number} is empty or has no usable number")
    return Key(number=number, kind=words[1].upper(), secret=raw)


def _unusable(path: str | Path, cause: object, hint: str = "") -> SettingsError:
    return SettingsError("read key file", target=path, cause=cause, hint=hint)
