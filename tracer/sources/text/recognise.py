"""Tells by its content what a text is, and reads it: any of the formats, one after another.

    for row in (parsed := read(file_lines(path), path)):
        ...
    parsed.lines, parsed.problem_count, parsed.problems

A text may hold several sections: `cat /proc/net/tcp /proc/net/tcp6`, the output of one command
after that of another, under headings or a shell's prompts. Every line goes to the format of the
line before it, and to the others where it is none of that.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from typing import Final

from tracer.errors import InputError
from tracer.sources.text.connection import Connection, ConntrackEntry, Problem
from tracer.sources.text.conntrack import ConntrackReader
from tracer.sources.text.netstat import NetstatReader
from tracer.sources.text.procnet import ByteOrder, ProcNetReader
from tracer.sources.text.reader import MAX_LINE, Reader, is_aside, too_long
from tracer.sources.text.ss import NO_STATE, SsReader

Row = Connection | ConntrackEntry

KEPT_PROBLEMS: Final = 20

_EXPECTED: Final = (
    "expected is the output of ss, netstat or conntrack -L, or the text of /proc/net/tcp"
)
_WITH_STATE: Final = f"{_EXPECTED}; which state ss was asked for is told by --state syn-sent"
# An address with a port, or a TCP state: what makes a line one that should have been understood.
_TELLTALE: Final = re.compile(
    r"[0-9A-Fa-f.\]*]:(?:[0-9]{1,5}|\*)\b|\b[0-9A-F]{8}:[0-9A-F]{4}\b|\bsrc=|\bSYN[-_]SENT\b"
)


def read(
    lines: Iterable[str],
    name: str,
    *,
    states: Collection[str] | None = None,
    assume_state: str | None = None,
    byteorder: ByteOrder | None = None,
) -> Parsed:
    """Reads text, whatever it is. `name` is the file's, for problems and errors.

    Only rows in `states` are given, where that is not None: sockets and conntrack entries alike.
    `assume_state` is the state of ss rows that show none; `byteorder` is that of the machine that
    wrote text of /proc (None: see procnet).

    The result is read as it is iterated. InputError is raised at its end where the text held
    nothing that could be used.
    """
    return Parsed(
        lines,
        name,
        (
            ProcNetReader(name, states=states, byteorder=byteorder),
            SsReader(name, states=states, assume_state=assume_state),
            NetstatReader(name, states=states),
            ConntrackReader(name, states=states),
        ),
    )


class Parsed(Iterator[Row]):
    """The rows of a text, and what is known of it so far; complete once it is exhausted.

    `lines` counts all lines, `given` the rows that were given out, `problem_count` the lines that
    could not be used, of which `problems` holds the first KEPT_PROBLEMS. `formats` are the formats
    met, in their order.
    """

    def __init__(self, lines: Iterable[str], name: str, readers: tuple[Reader[Row], ...]) -> None:
        self.name = name
        self.lines = 0
        self.given = 0
        self.problem_count = 0
        self.problems: list[Problem] = []
        self.formats: list[str] = []
        self._source = lines
        self._readers = readers
        self._rows = self._read()

    def __next__(self) -> Row:
        return next(self._rows)

    @property
    def rows(self) -> int:
        """TCP sockets and entries that were understood, those that were not asked for too."""
        return sum(reader.rows for reader in self._readers)

    @property
    def lists_sockets(self) -> bool:
        """Whether it is a list of TCP sockets, be it an empty one; conntrack's is none."""
        return any(
            reader.rows or reader.headed
            for reader in self._readers
            if not isinstance(reader, ConntrackReader)
        )

    @property
    def skipped(self) -> int:
        """Rows of other protocols."""
        return sum(reader.skipped for reader in self._readers)

    def _read(self) -> Iterator[Row]:
        current: Reader[Row] | None = None
        for number, line in enumerate(self._source, 1):
            self.lines = number
            if len(line) > MAX_LINE:
                self._note(too_long(self.name, number, line))
                continue
            items = current.feed(number, line) if current is not None else None
            if items is None:
                for reader in self._readers:
                    if reader is not current and (items := reader.feed(number, line)) is not None:
                        if current is not None:
                            yield from self._sorted(current.finish())
                        current = reader
                        self._met(reader.format)
                        break
                else:
                    self._not_understood(number, line, current)
                    continue
            if items:
                yield from self._sorted(items)
        if current is not None:
            yield from self._sorted(current.finish())
        self._check()

    def _sorted(self, items: Iterable[Row | Problem]) -> Iterator[Row]:
        """Passes rows on, and notes problems."""
        for item in items:
            if isinstance(item, Problem):
                self._note(item)
            else:
                self.given += 1
                yield item

    def _met(self, format_name: str) -> None:
        if format_name not in self.formats:
            self.formats.append(format_name)

    def _not_understood(self, number: int, line: str, current: Reader[Row] | None) -> None:
        """Before the first section there may be prose; within one, only what is known to be."""
        if is_aside(line):
            return
        if current is not None:
            self._note(Problem(self.name, number, line, f"not a line of {current.format}"))
        elif _TELLTALE.search(line):
            self._note(Problem(self.name, number, line, "of no format that is known"))

    def _note(self, problem: Problem) -> None:
        self.problem_count += 1
        if len(self.problems) < KEPT_PROBLEMS:
            self.problems.append(problem)

    def _state_is_missing(self) -> bool:
        return any(problem.reason == NO_STATE for problem in self.problems)

    def _check(self) -> None:
        """Raises InputError where nothing could be used. No socket at all is an answer, though."""
        understood = self.skipped or any(reader.headed for reader in self._readers)
        if self.rows or (understood and not self.problem_count):
            return
        if not self.lines:
            raise InputError(f"{self.name} is empty", hint=_EXPECTED)
        first = f"; first problem: {self.problems[0]}" if self.problems else ""
        raise InputError(
            f"{self.name}: nothing could be used of its {self.lines} lines{first}",
            hint=_WITH_STATE if self._state_is_missing() else _EXPECTED,
        )
