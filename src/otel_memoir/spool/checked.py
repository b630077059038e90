"""What was read is what was written: the checks of payloads and envelopes."""

from __future__ import annotations

import hashlib
import sqlite3
import zlib

from otel_memoir.errors import SpoolCorruptError


def digest_of(envelope: bytes) -> bytes:
    """What an envelope is found by, and checked against."""
    return hashlib.blake2b(envelope, digest_size=16).digest()


def envelope_of(connection: sqlite3.Connection, id_: int) -> bytes:
    """Read an envelope, checked against its digest.

    Raises:
        SpoolCorruptError: It is not what was written.
    """
    row = connection.execute("SELECT digest, bytes FROM envelope WHERE id = ?", (id_,)).fetchone()
    if row is None or digest_of(row[1]) != row[0]:
        raise SpoolCorruptError("read envelope", target=id_, cause="it is damaged")
    return bytes(row[1])


def checksum(sequence: int, payload: bytes) -> int:
    """CRC32 of a payload as stored, seeded with its sequence number."""
    return zlib.crc32(payload, sequence & 0xFFFFFFFF)


def unpack(sequence: int, packed: int, crc: int, payload: bytes) -> bytes:
    """Give back a payload as it was accepted.

    A packed payload is a zlib stream followed by the stamps as they are: the
    record is compressed before the append lock, the stamps are known only under it.

    Raises:
        SpoolCorruptError: It is not what was written.
    """
    try:
        if checksum(sequence, payload) != crc:
            raise SpoolCorruptError("read row", target=sequence, cause="its checksum is wrong")
    except TypeError as error:  # SQLite checks the types of a STRICT table when it writes only
        raise SpoolCorruptError("read row", target=sequence, cause=error) from error
    if not packed:
        return payload
    stream = zlib.decompressobj()
    try:
        return stream.decompress(payload) + stream.unused_data
    except zlib.error as error:
        raise SpoolCorruptError("unpack row", target=sequence, cause=error) from error
