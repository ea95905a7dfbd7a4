"""What the terminal can show: characters, and text from outside made fit for a column."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from rich.cells import cell_len, get_character_cell_size, set_cell_size

from tracer.text import safe

_PLAIN_TERMS: Final = ("linux", "vt", "ansi", "cons", "sun", "wyse", "dumb")


@dataclass(frozen=True, slots=True)
class Glyphs:
    """The characters the screen is drawn with. `bars` are the levels of a sparkline."""

    unicode: bool = True

    @property
    def bars(self) -> str:
        return "▁▂▃▄▅▆▇█" if self.unicode else "_.:-=+*#"

    @property
    def rule(self) -> str:
        return "─" if self.unicode else "-"

    @property
    def cut(self) -> str:
        return "…" if self.unicode else "~"

    @property
    def up(self) -> str:
        return "▲" if self.unicode else "+"

    @property
    def down(self) -> str:
        return "▼" if self.unicode else "-"

    @property
    def arrow(self) -> str:
        return "→" if self.unicode else "->"

    @property
    def upwards(self) -> str:
        return "▲" if self.unicode else "^"

    @property
    def downwards(self) -> str:
        return "▼" if self.unicode else "v"

    @property
    def line(self) -> str:
        return "·" if self.unicode else "."

    def clean(self, text: str) -> str:
        """Text from outside, as this terminal can show it: what takes no cell is written out."""
        text = safe(text)
        if text.isascii():
            return text
        if not self.unicode:
            return text.encode("ascii", "backslashreplace").decode("ascii")
        return "".join(
            char if get_character_cell_size(char) else char.encode("unicode_escape").decode()
            for char in text
        )

    def fit(self, text: str, width: int, *, right: bool = False) -> str:
        """Text in exactly `width` cells; what is too long loses its end."""
        length = cell_len(text)
        if length > width:
            return set_cell_size(text, max(0, width - 1)) + self.cut if width > 0 else ""
        pad = " " * (width - length)
        return pad + text if right else text + pad

    def squeeze(self, text: str, width: int) -> str:
        """A name in at most `width` cells: its middle goes, since pods differ at their ends."""
        if cell_len(text) <= width:
            return text
        if width < 8 or not text.isascii():
            return self.fit(text, width)
        tail = min(12, (width - 1) // 2)
        return text[: width - 1 - tail] + self.cut + text[-tail:]


def glyphs_for(environment: Mapping[str, str], *, ascii_only: bool = False) -> Glyphs:
    """By TERM, whose consoles have few characters, and by what the locale says of its own.

    No locale at all is what `kubectl exec` gives: the terminal at its end is nearly always UTF-8.
    """
    locale = (
        environment.get("LC_ALL") or environment.get("LC_CTYPE") or environment.get("LANG") or ""
    )
    charset = locale.partition(".")[2].partition("@")[0].lower().replace("-", "")
    other = bool(charset) and charset != "utf8"
    plain = environment.get("TERM", "").startswith(_PLAIN_TERMS)
    return Glyphs(unicode=not (ascii_only or plain or other))
