"""Makes text from outside harmless before a terminal sees it."""

from __future__ import annotations


def safe(text: str) -> str:
    r"""Returns `text` with everything that is not plainly visible written as an escape.

    A process chooses its own comm and command line: an escape sequence in them could repaint the
    screen, a newline forge a line of its own, a bidi override (Unicode TR 36) turn a name around.
    What `str.isprintable` refuses is escaped as in a Python literal: `\n`, `\x1b`, `\u202e`. That
    covers control and format characters, line and paragraph separators and lone surrogates; also
    spaces that are not U+0020, and code points this Python's Unicode does not know yet, since a
    newer terminal may well.

    The result is printable, so that `safe(safe(x)) == safe(x)`. It is for the eye: a backslash is
    left alone, so the original cannot be told from it. Nothing is done about markup; whoever
    writes through rich passes `rich.text.Text`, never a string.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _escape(char) for char in text)


def _escape(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")
