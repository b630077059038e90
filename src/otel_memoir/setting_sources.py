"""How settings are read: what the code gives, a file, and the environment."""

from __future__ import annotations

import os
import typing
from collections.abc import Callable, Container, Iterable, Mapping
from functools import partial
from typing import Any

from otel_memoir.errors import SettingsError
from otel_memoir.setting_layers import Layers
from otel_memoir.setting_values import parse_value
from otel_memoir.settings_file import read_toml

Complain = Callable[[str], object]
_Readers = dict[str, Callable[[], Any]]


_HINTS: dict[type[Any], dict[str, Any]] = {}


def hints_of(table: type[Any]) -> dict[str, Any]:
    """The type of each setting."""
    if table not in _HINTS:
        _HINTS[table] = typing.get_type_hints(table)
    return _HINTS[table]


class Sources:
    """Reads settings and checks each value.

    Args:
        table: The dataclass that is the table of settings; to make one checks its values.
    """

    def __init__(self, table: type[Any]) -> None:
        self._table = table
        self._fields = table.__dataclass_fields__

    def layers(
        self, given: Mapping[str, Any], environ: Mapping[str, str], complain: Complain | None
    ) -> Layers:
        """Read all; arguments and errors as those of ``Settings.load``."""
        code = self._usable(self._given(given), complain)
        # What the code hides counts again once that is taken back, and until then need not be good.
        hidden = self._usable(self._in_environment(environ, of=code), lambda _: None)
        environment = self._usable(self._in_environment(environ, but=code), complain)
        path = code.get("settings_file") or environment.get("settings_file")
        return Layers(
            code=code, file=self._in_first_file(path, complain) if path else {},
            environment={**hidden, **environment},
        )

    def in_file(self, path: str) -> dict[str, Any]:
        """As ``settings_in``."""
        said = read_toml(path)
        for name, value in said.values.items():
            try:
                self._check_in_file(name, value)
            except SettingsError as error:
                raise said.wrong(name, error) from error
        return dict(said.values)

    def _in_first_file(self, path: str, complain: Complain | None) -> dict[str, Any]:
        if not os.path.exists(os.path.expanduser(path)):
            return {}
        try:
            return self.in_file(path)
        except SettingsError as error:
            if complain is None:
                raise
            complain(str(error))
            return {}

    def _check_in_file(self, name: str, value: Any) -> None:
        refuse_unknown([name], self._table)
        if name == "settings_file":
            raise SettingsError("use setting", target=name, cause="a file cannot name another one")
        self._table(**{name: value})

    def _usable(self, readers: _Readers, complain: Complain | None) -> dict[str, Any]:
        chosen: dict[str, Any] = {}
        for name, read in readers.items():
            try:
                value = read()
                self._table(**{name: value})
            except SettingsError as error:
                if complain is None:
                    raise
                complain(str(error))
            else:
                chosen[name] = value
        return chosen

    def _given(self, given: Mapping[str, Any]) -> _Readers:
        unknown: _Readers = {
            name: partial(refuse_unknown, [name], self._table)
            for name in given if name not in self._fields
        }
        return unknown | {
            name: partial(given.__getitem__, name) for name in self._fields
            if given.get(name) is not None
        }

    def _in_environment(
        self, environ: Mapping[str, str], *, of: Container[str] | None = None,
        but: Container[str] = (),
    ) -> _Readers:
        """How to read each variable that is there, by its setting."""
        variables = {name: field.metadata["env"] for name, field in self._fields.items()}
        return {
            name: partial(self._parse, name, env, environ) for name, env in variables.items()
            if env and environ.get(env, "").strip()
            and name not in but and (of is None or name in of)
        }

    def _parse(self, name: str, env: str, environ: Mapping[str, str]) -> Any:
        return parse_value(environ[env], name, env, hints_of(self._table)[name])


def refuse_unknown(names: Iterable[str], table: type[Any]) -> None:
    """Refuse the first name that is none of a setting.

    Raises:
        SettingsError: There is one.
    """
    for name in names:
        if name not in table.__dataclass_fields__:
            raise SettingsError(
                "use setting", target=name, cause="there is no such setting",
                hint=f"Known settings: {', '.join(table.__dataclass_fields__)}.",
            )
