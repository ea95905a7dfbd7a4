"""Lines of text that are filled up to a width."""

from __future__ import annotations

from typing import Final

from rich.cells import cell_len, chop_cells
from rich.text import Text

from tracer.screen.glyphs import Glyphs


class Page:
    """Lines that are filled up to a width; what is longer goes on below."""

    def __init__(self, width: int, glyphs: Glyphs) -> None:
        self._width = max(20, width)
        self.glyphs = glyphs
        self.lines: list[Text] = []

    def section(self, title: str) -> None:
        self.lines.append(Text(end=""))
        text = self.glyphs.fit(f"{title} ", min(self._width, cell_len(title) + 1))
        rule = self.glyphs.rule * (self._width - cell_len(text))
        self.lines.append(Text.assemble((text, "bold"), (rule, "dim"), no_wrap=True, end=""))

    def line(self, text: Text) -> None:
        self.lines.append(text)

    def add(self, text: str, style: str = "", *, indent: int = 0, hang: int = 2) -> None:
        """A paragraph; lines after the first stand `hang` cells further in."""
        hang = min(hang, self._width // 3)
        lines = wrapped(self.glyphs.clean(text), self._width - indent, hang)
        for index, part in enumerate(lines):
            lead = indent if index == 0 else min(indent + hang, self._width // 2)
            room = self._width - lead
            for piece in [part] if cell_len(part) <= room else chop_cells(part, room):
                self.lines.append(Text(" " * lead + piece, style, no_wrap=True, end=""))


def wrapped(text: str, width: int, hang: int = 2) -> list[str]:
    """Broken at spaces; a word that is too long for a line is broken where the line ends.

    Lines after the first are `hang` cells shorter.
    """
    lines: list[str] = []
    line = ""
    for word in text.split(" "):
        room = width if not lines else width - hang
        if line and cell_len(line) + 1 + cell_len(word) > room:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}" if line else word
        room = max(4, width if not lines else width - hang)
        while cell_len(line) > room:
            first, *rest = chop_cells(line, room)
            lines.append(first)
            line = "".join(rest)
    lines.append(line)
    return lines


def continued(command: str, width: int) -> list[str]:
    r"""A shell command in lines that a shell takes as the same command.

    It goes on behind ` \` at spaces outside of quotes alone. What has none for longer than a line
    is broken where the line ends, which only the eye can mend.
    """
    lines: list[str] = []
    line = ""
    for word in _shell_words(command):
        if line and cell_len(line) + 1 + cell_len(word) + len(_GOES_ON) > width:
            lines.append(line + _GOES_ON)
            line = word
        else:
            line = f"{line} {word}" if line else word
    lines.append(line)
    return [piece for line in lines for piece in chop_cells(line, width)] or [""]


_GOES_ON: Final = " \\"


def _shell_words(command: str) -> list[str]:
    """The command at its spaces outside of quotes."""
    words = [""]
    quote, escaped = "", False
    for char in command:
        if char == " " and not quote and not escaped:
            words.append("")
            continue
        words[-1] += char
        if escaped:
            escaped = False
        elif char == "\\" and quote != "'":
            escaped = True
        elif quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
    return words
