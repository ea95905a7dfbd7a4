"""Lines of text out of any bytes, in bounded memory."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator
from io import BufferedIOBase
from typing import Final

from tracer.errors import InputError
from tracer.sources.text.reader import MAX_LINE

Copy = Callable[[bytes], object]
"""Takes each piece of a text as it is read, unchanged: standard input cannot be read twice."""

_BLOCK: Final = 256 * 1024
_BOMS_UTF16: Final = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def file_lines(path: str, copy: Copy | None = None) -> Iterator[str]:
    """Lines of a file. Raises InputError where it cannot be opened or read."""
    try:
        with open(path, "rb") as stream:
            yield from text_lines(stream, path, copy)
    except OSError as error:
        raise _unreadable(path, error) from error


def text_lines(stream: BufferedIOBase, name: str, copy: Copy | None = None) -> Iterator[str]:
    r"""Lines of a stream, without their "\n". Bytes that are no UTF-8 become U+FFFD.

    Of a line longer than MAX_LINE bytes at least MAX_LINE + 1 characters are given: enough to see
    that it is too long. Raises InputError where the stream cannot be read, or is no UTF-8 at all.
    """
    rest = b""
    skipping = False
    for block in _blocks(stream, name, copy):
        if skipping:
            _, newline, block = block.partition(b"\n")  # noqa: PLW2901
            if not newline:
                continue
            skipping = False
        whole, newline, rest = (rest + block).rpartition(b"\n")
        if newline:
            yield from whole.decode(errors="replace").split("\n")
        if len(rest) > MAX_LINE:
            # Escapes keep every byte at least one character long.
            yield rest[: MAX_LINE + 1].decode("ascii", errors="backslashreplace")
            rest = b""
            skipping = True
    if rest:
        yield rest.decode(errors="replace")


def _blocks(stream: BufferedIOBase, name: str, copy: Copy | None) -> Iterator[bytes]:
    first = True
    while True:
        try:
            # read() would wait for a whole block, and not hear a signal that comes between two
            # pieces of it.
            block = stream.read1(_BLOCK)
        except OSError as error:
            raise _unreadable(name, error) from error
        if not block:
            return
        if copy is not None:
            copy(block)
        if first:
            if block.startswith(_BOMS_UTF16) and b"\0" in block:
                raise InputError(
                    f"{name} is UTF-16 text",
                    hint="convert it to UTF-8 (iconv -f UTF-16 -t UTF-8)",
                )
            block = block.removeprefix(codecs.BOM_UTF8)
            first = False
        yield block


def _unreadable(name: str, error: OSError) -> InputError:
    return InputError(
        f"cannot read {name}: {error.strerror or error}",
        hint="check the file's name and permissions",
    )
