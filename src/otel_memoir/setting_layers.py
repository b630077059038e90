"""What was said about settings, and by whom."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

_NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True)
class Layers:
    """Settings by name, from each place that said something; the first one wins.

    Attributes:
        code: What was given in code, or changed by it since.

        file: What the settings file says. It wins over the environment, which nobody can
            change in a running process.

        environment: What the variables ``MEMOIR_*`` said when the process began.
    """

    code: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)
    file: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)
    environment: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)

    def merged(self) -> dict[str, Any]:
        """The values that count; what nobody said is not there."""
        return {**self.environment, **self.file, **self.code}

    def origin(self, name: str) -> str:
        """Who said what counts: ``code``, ``file``, ``environment`` or ``default``."""
        for field_ in dataclasses.fields(self):
            if name in getattr(self, field_.name):
                return field_.name
        return "default"

    def with_code(self, given: Mapping[str, Any]) -> Layers:
        """These, with other values in code; ``None`` takes back what the code had said."""
        code = {**self.code, **given}
        return dataclasses.replace(
            self, code={name: value for name, value in code.items() if value is not None}
        )

    def with_file(self, said: Mapping[str, Any]) -> Layers:
        """These, with another file."""
        return dataclasses.replace(self, file=said)
