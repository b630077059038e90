"""What a record says, computed from its name alone: the judge knows it without being told."""

from __future__ import annotations

import random
from typing import Any

_ALPHABET = "abc xyz 0189 \"quoted\" \\ \n\t {json: [1]} äöü € 記憶 🧠 <html>"
_LONG_EVERY = 40
_LONG_CHARACTERS = 8000


def payload_of(name: str) -> tuple[str, dict[str, Any]]:
    """The body and the attributes of a record.

    Every kind of attribute value occurs, and one body in forty is long enough to be
    compressed at rest.
    """
    # Seeded by a text, ``random`` gives the same in every process (it hashes with SHA-512).
    chance = random.Random(name)
    length = _LONG_CHARACTERS if chance.randrange(_LONG_EVERY) == 0 else chance.randrange(1, 200)
    body = "".join(chance.choices(_ALPHABET, k=length))
    return body, {
        "kill.name": name,
        "kill.int": chance.randrange(-(2**63), 2**63),
        "kill.float": chance.uniform(-1e9, 1e9),
        "kill.bool": chance.random() < 0.5,
        "kill.list": [body[:7], name],
        "kill.bytes": chance.randbytes(chance.randrange(1, 40)),
    }
