"""Label selectors, as kubectl's -l takes them.

The grammar is that of k8s.io/apimachinery/pkg/labels (Parse):

    selector     requirement { "," requirement }, or nothing, which every object matches
    requirement  [ "!" ] KEY
               | KEY ( "=" | "==" | "!=" | ">" | "<" ) VALUE
               | KEY ( "in" | "notin" ) "(" VALUE { "," VALUE } ")"

A value may be empty. "!=" and "notin" hold for objects that lack the key, all others but "!" do
not. ">" and "<" compare integers. White space may stand between any two pieces.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final, NoReturn

from tracer.errors import UsageError
from tracer.text import safe

MAX_CHARACTERS: Final = 4_096
_EXAMPLE: Final = "write it as for kubectl -l: app=web,tier!=db,env in (a,b),!canary"

_PIECE: Final = re.compile(r"[ \t\r\n]*(?P<piece>==|!=|[=!<>(),]|[^ \t\r\n=!<>(),]+|$)")
# IsQualifiedName and IsValidLabelValue of k8s.io/apimachinery/pkg/util/validation.
_NAME: Final = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_PREFIX: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_MAX_PREFIX: Final = 253
_INTEGER: Final = re.compile(r"[+-]?[0-9]{1,63}")


class _Operator(Enum):
    EXISTS = "exists"
    ABSENT = "!"
    IN = "in"
    NOT_IN = "notin"
    GREATER = ">"
    LESS = "<"


_OPERATORS: Final = {
    "=": _Operator.IN,
    "==": _Operator.IN,
    "!=": _Operator.NOT_IN,
    ">": _Operator.GREATER,
    "<": _Operator.LESS,
    "in": _Operator.IN,
    "notin": _Operator.NOT_IN,
}


@dataclass(frozen=True, slots=True)
class _Requirement:
    key: str
    operator: _Operator
    values: frozenset[str] = frozenset()

    def holds(self, labels: Mapping[str, str]) -> bool:
        value = labels.get(self.key)
        if self.operator is _Operator.EXISTS:
            return value is not None
        if self.operator is _Operator.ABSENT:
            return value is None
        if self.operator is _Operator.NOT_IN:
            return value not in self.values
        if value is None:
            return False
        if self.operator is _Operator.IN:
            return value in self.values
        return self._compares(value)

    def _compares(self, value: str) -> bool:
        if not _INTEGER.fullmatch(value):
            return False
        (limit,) = self.values
        if self.operator is _Operator.GREATER:
            return int(value) > int(limit)
        return int(value) < int(limit)


@dataclass(frozen=True, slots=True)
class Selector:
    """What labels must be like; parse() makes it. No requirements: anything."""

    requirements: tuple[_Requirement, ...]

    def matches(self, labels: Mapping[str, str]) -> bool:
        return all(requirement.holds(labels) for requirement in self.requirements)


def parse(text: str, label: str = "label selector") -> Selector:
    """Raises UsageError, naming the piece that makes no sense; `label` is what `text` was given as.

    Text that is empty or blank is no mistake: it selects everything, as kubectl's does.
    """
    return _Parser(text, label).selector()


class _Parser:
    """Reads pieces from the left, one ahead."""

    def __init__(self, text: str, label: str) -> None:
        if len(text) > MAX_CHARACTERS:
            raise UsageError(f"{label}: {len(text)} characters are no selector")
        self._text = text
        self._label = label
        self._pieces = [found["piece"] for found in _PIECE.finditer(text)]
        self._pieces.append("")
        self._at = 0

    def selector(self) -> Selector:
        requirements: list[_Requirement] = []
        if self._next:
            requirements.append(self._requirement())
        while self._next:
            self._expect(",")
            requirements.append(self._requirement())
        return Selector(tuple(requirements))

    @property
    def _next(self) -> str:
        """The piece that was not taken yet; "" at the end."""
        return self._pieces[self._at]

    def _take(self) -> str:
        piece = self._next
        self._at += bool(piece)
        return piece

    def _expect(self, piece: str) -> None:
        if self._next != piece:
            self._fail(f'expected "{piece}" {self._where}')
        self._take()

    def _requirement(self) -> _Requirement:
        absent = self._next == "!"
        if absent:
            self._take()
        key = self._key()
        if absent:
            return _Requirement(key, _Operator.ABSENT)
        if self._next in {"", ","}:
            return _Requirement(key, _Operator.EXISTS)
        sign = self._next
        operator = _OPERATORS.get(sign)
        if operator is None:
            self._fail(f'expected "=", "!=", "in" or "notin" {self._where}')
        self._take()
        values = self._values() if sign in {"in", "notin"} else frozenset({self._value({"", ","})})
        if operator in {_Operator.GREATER, _Operator.LESS}:
            self._check_integer(key, values)
        return _Requirement(key, operator, values)

    def _key(self) -> str:
        if not _is_word(self._next):
            self._fail(f"expected a label's key {self._where}")
        key = self._take()
        prefix, slash, name = key.rpartition("/")
        if not _NAME.fullmatch(name):
            self._fail(f'"{key}" is no label\'s key')
        if slash and not (_PREFIX.fullmatch(prefix) and len(prefix) <= _MAX_PREFIX):
            self._fail(f'"{key}" is no label\'s key: "{prefix}" is no DNS name')
        return key

    def _values(self) -> frozenset[str]:
        self._expect("(")
        values = {self._value({",", ")"})}
        while self._next != ")":
            self._expect(",")
            values.add(self._value({",", ")"}))
        self._take()
        return frozenset(values)

    def _value(self, ends: set[str]) -> str:
        """A value, which may be empty where one of `ends` follows."""
        if self._next in ends:
            return ""
        if not _is_word(self._next):
            self._fail(f"expected a label's value {self._where}")
        value = self._take()
        if not _NAME.fullmatch(value):
            self._fail(f'"{value}" is no label\'s value')
        return value

    def _check_integer(self, key: str, values: frozenset[str]) -> None:
        for value in values:
            if not _INTEGER.fullmatch(value):
                self._fail(f'"{key}" can be compared with an integer only, not with "{value}"')

    @property
    def _where(self) -> str:
        after = f'after "{self._pieces[self._at - 1]}"' if self._at else "at its start"
        return f'{after}, not "{self._next}"' if self._next else f"{after}, not its end"

    def _fail(self, reason: str) -> NoReturn:
        raise UsageError(safe(f"{self._label}: in {self._text!r}: {reason}"), hint=_EXAMPLE)


def _is_word(piece: str) -> bool:
    return piece[:1] not in {"", *"=!<>(),"}
