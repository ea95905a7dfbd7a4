"""Values of options, from the command line or from environment variables named after them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeVar

from tracer.errors import UsageError

_ENVIRONMENT: Final = "SYNSENT_"
_TRUE: Final = ("1", "true", "yes", "on")
_FALSE: Final = ("", "0", "false", "no", "off")

_Value = TypeVar("_Value")


class Options:
    """Values by option name: from the command line, else from the environment."""

    def __init__(
        self,
        given: Mapping[str, object],
        environment: Mapping[str, str],
        *,
        exclusive: Sequence[str] = (),
    ) -> None:
        """Of the `exclusive` options, one on the command line replaces all in the environment."""
        self._given = given
        self._environment = dict(environment)
        if not given.keys().isdisjoint(exclusive):
            for name in exclusive:
                self._environment.pop(_variable(name), None)

    def _source(self, name: str) -> tuple[str, object] | None:
        """How the user would name the option, and its value; None where it was not given."""
        if name in self._given:
            return f"--{name.replace('_', '-')}", self._given[name]
        variable = _variable(name)
        value = self._environment.get(variable)
        return None if value is None or value == "" else (variable, value)

    def on_command_line(self, name: str) -> bool:
        return name in self._given

    def label(self, name: str) -> str:
        """How the user named an option that was given."""
        found = self._source(name)
        return name if found is None else found[0]

    def flag(self, name: str) -> bool:
        found = self._source(name)
        if found is None or isinstance(found[1], bool):
            return found is not None
        text = str(found[1]).lower()
        if text not in _TRUE + _FALSE:
            raise UsageError(f"{found[0]}: {found[1]!r} is neither yes nor no")
        return text in _TRUE

    def text(self, name: str) -> str | None:
        found = self._source(name)
        return None if found is None else str(found[1])

    def several(self, name: str) -> list[str]:
        found = self._source(name)
        if found is None:
            return []
        if isinstance(found[1], list):
            return found[1]
        return [part.strip() for part in str(found[1]).split(",") if part.strip()]

    def parsed(
        self, name: str, parse: Callable[[str], _Value], what: str, default: _Value
    ) -> _Value:
        found = self._source(name)
        if found is None:
            return default
        try:
            return parse(str(found[1]))
        except ValueError:
            raise UsageError(f"{found[0]}: {found[1]!r} is not {what}") from None


def _variable(name: str) -> str:
    return _ENVIRONMENT + name.upper()


def wants_debug(environment: Mapping[str, str]) -> bool:
    """Whether a defect is to be shown with its traceback."""
    return environment.get(_variable("debug"), "").lower() not in _FALSE
