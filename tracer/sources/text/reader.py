"""What the readers of all formats have in common: one line in, values and problems out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, Protocol, TypeVar

from tracer.sources.text.connection import Problem

Row_co = TypeVar("Row_co", covariant=True)

NOTHING: Final = ()
MAX_LINE: Final = 64 * 1024
"""Characters. The longest line that a program prints is a few kilobytes."""

_BANNERS: Final = (
    # netstat of net-tools and busybox
    "Active Internet connections",
    "Active UNIX domain sockets",
    "(Not all processes could be identified",
    "(No info could be read for",
    "will not be shown, you would have to be root",
    "netstat:",
    "warning, got bogus",
    # conntrack
    "conntrack v",
    # what stands in such files besides: shells, kubectl, ss
    "cat:",
    "sh:",
    "bash:",
    "ss:",
    "ss command failed",
    "Cannot open netlink socket",
    "Failed to ",
    "Note: ",
    "Defaulted container ",
    "command terminated with exit code",
    "error: ",
)
_HEADING: Final = re.compile(
    r"[#$>]|={2}|-{2}|\*{2}|\+ |//"
    # A prompt: USER@HOST:PATH$ COMMAND, [USER@HOST PATH]# COMMAND, NAME$ COMMAND, PATH # COMMAND.
    r"|\[?[\w.-]+@[\w.-]+[: ][^\s#$%]*[#$%]"
    r"|\S{0,200}[#$%](?: |$)"
    r"|[~/]\S{0,200} [#$%](?: |$)"
    # A title that ends in a colon.
    r"|[^\d]{0,200}:$"
)


class Reader(Protocol[Row_co]):
    """Reads one format, line by line.

    `format` is its name. `rows` counts the lines of TCP that were understood, wanted or not,
    `skipped` those of other protocols; `headed` says whether a header of the format was seen.
    """

    format: str
    rows: int
    skipped: int
    headed: bool

    def feed(self, number: int, line: str) -> Sequence[Row_co | Problem] | None:
        """Takes the next line. None: it is no line of this format.

        What is given out may belong to earlier lines: some are complete only when the next comes.
        """

    def finish(self) -> Sequence[Row_co | Problem]:
        """Gives out what is still held. More lines may follow all the same."""


def run(reader: Reader[Row_co], lines: Iterable[str], name: str) -> Iterator[Row_co | Problem]:
    """Reads text of one format from its first line to its last. `name` is the file's."""
    for number, line in enumerate(lines, 1):
        if len(line) > MAX_LINE:
            yield too_long(name, number, line)
            continue
        items = reader.feed(number, line)
        if items is not None:
            yield from items
        elif not is_aside(line):
            yield Problem(name, number, line, f"not a line of {reader.format}")
    yield from reader.finish()


def too_long(name: str, number: int, line: str) -> Problem:
    return Problem(name, number, line, f"longer than {MAX_LINE} characters")


def is_aside(line: str) -> bool:
    """Whether a line is known to carry no connection: blank, a heading, a prompt, a message."""
    text = line.strip()
    return not text or text.startswith(_BANNERS) or _HEADING.match(text) is not None


def is_number(text: str) -> bool:
    """Decimal digits of ASCII alone: int() takes signs, underscores and other scripts' digits."""
    return text.isascii() and text.isdigit() and len(text) <= 20
