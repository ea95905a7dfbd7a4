"""Offsets of kernel struct members, and other facts of the kernel's types, read from the kernel's
own type information.

The format is that of Documentation/bpf/btf.rst in the Linux tree. Members of anonymous structs and
unions count as members of what holds them, as in C.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

from tracer.errors import InputError

KERNEL: Final = Path("/sys/kernel/btf")
VMLINUX: Final = KERNEL / "vmlinux"

_MAGIC: Final = 0xEB9F
_HEADER: Final = struct.Struct("=HBBIIIII")
_KIND_POINTER: Final = 2
_KIND_STRUCT: Final = 4
_KIND_UNION: Final = 5
_KIND_ENUM: Final = 6
_KIND_TYPEDEF: Final = 8
_KIND_FUNCTION: Final = 13
_TRANSPARENT: Final = frozenset({8, 9, 10, 11, 18})  # typedef, volatile, const, restrict, type tag
# Words (4 bytes) that follow the three of every type: a fixed number, or so many per element.
_FIXED: Final = {1: 1, 3: 3, 14: 1, 17: 1}
_PER_ELEMENT: Final = {
    _KIND_STRUCT: 3,
    _KIND_UNION: 3,
    _KIND_ENUM: 2,
    _KIND_FUNCTION: 2,
    15: 3,
    19: 3,
}
_LAST_KIND: Final = 19
_DAMAGE: Final = (struct.error, IndexError, RecursionError, TypeError, ValueError)


class Btf:
    """The types of the kernel, and of one module if it is given.

    A module's numbers of types and places of strings go on where the kernel's end.
    Raises InputError where the data is no BTF of this machine's byte order, or is cut short.
    """

    def __init__(self, data: bytes, module: bytes | None = None) -> None:
        try:
            types, self._strings = _sections(data)
            if module is not None:
                more_types, more_strings = _sections(module)
                types, self._strings = types + more_types, self._strings + more_strings
            self._words = memoryview(types).cast("I")
            self._positions, self._structs = self._index()
        except _DAMAGE as error:
            raise _damaged(error) from None

    def _index(self) -> tuple[list[int], dict[int, int]]:
        """Word position of each type id, and of each struct by the offset of its name."""
        words, end = self._words, len(self._words)
        positions = [0]  # id 0 is void
        structs: dict[int, int] = {}
        fixed, per_element = _FIXED, _PER_ELEMENT
        position = 0
        while position < end:
            positions.append(position)
            info = words[position + 1]
            kind = info >> 24 & 0x1F
            if kind in per_element:
                if kind == _KIND_STRUCT:
                    structs[words[position]] = position
                position += 3 + per_element[kind] * (info & 0xFFFF)
            elif kind <= _LAST_KIND:
                position += 3 + fixed.get(kind, 0)
            else:
                raise ValueError(f"type {len(positions) - 1} is of the unknown kind {kind}")
        if position != end:
            raise ValueError("the last type is cut short")
        return positions, structs

    def _name_at(self, offset: int) -> bytes:
        return self._strings[offset : self._strings.index(b"\0", offset)]

    def _struct_named(self, name: str) -> int | None:
        needle = b"\0" + name.encode() + b"\0"
        found = self._strings.find(needle)
        return None if found < 0 else self._structs.get(found + 1)

    def _resolve(self, type_id: int) -> int:
        """Position of a type, past typedefs and qualifiers."""
        position = self._positions[type_id]
        for _ in self._positions:
            if self._words[position + 1] >> 24 & 0x1F not in _TRANSPARENT:
                return position
            position = self._positions[self._words[position + 2]]
        raise ValueError(f"type {type_id} stands for itself")

    def _member(self, position: int, name: bytes) -> tuple[int, int] | None:
        """Bit offset and type id of a member of the struct or union at `position`."""
        words = self._words
        info = words[position + 1]
        if info >> 24 & 0x1F not in (_KIND_STRUCT, _KIND_UNION):
            return None
        for member in range(position + 3, position + 3 + 3 * (info & 0xFFFF), 3):
            # With the kind flag, the upper byte is a bit field's width.
            offset = words[member + 2] & (0xFFFFFF if info >> 31 else 0xFFFFFFFF)
            if words[member] and self._name_at(words[member]) == name:
                if info >> 31 and words[member + 2] >> 24:
                    return None
                return offset, words[member + 1]
            if not words[member]:
                inner = self._member(self._resolve(words[member + 1]), name)
                if inner is not None:
                    return offset + inner[0], inner[1]
        return None

    def offset(self, path: str) -> int | None:
        """Bytes from the start of a struct to a member ("sock.__sk_common.skc_num").

        None where the kernel has no such struct or member, or where it is a bit field.
        Raises InputError where the types contradict one another.
        """
        try:
            return self._offset(path)
        except _DAMAGE as error:
            raise _damaged(error) from None

    def parameters(self, typedef: str) -> int | None:
        """How many parameters a function has of the pointer type that `typedef` names.

        None where there is no such name, or where it names something else. Raises InputError where
        the types contradict one another.
        """
        try:
            position = self._named(typedef, _KIND_TYPEDEF)
            if position is None:
                return None
            position = self._resolve(self._words[position + 2])
            if self._kind(position) != _KIND_POINTER:
                return None
            position = self._resolve(self._words[position + 2])
            if self._kind(position) != _KIND_FUNCTION:
                return None
            return self._words[position + 1] & 0xFFFF
        except _DAMAGE as error:
            raise _damaged(error) from None

    def enumerators(self, name: str) -> dict[str, int]:
        """Names and unsigned values of an enum; empty where there is none of that name.

        Raises InputError where the types contradict one another.
        """
        try:
            position = self._named(name, _KIND_ENUM)
            if position is None:
                return {}
            words = self._words
            start, count = position + 3, words[position + 1] & 0xFFFF
            return {
                self._name_at(words[at]).decode(): words[at + 1]
                for at in range(start, start + 2 * count, 2)
            }
        except _DAMAGE as error:
            raise _damaged(error) from None

    def _kind(self, position: int) -> int:
        return self._words[position + 1] >> 24 & 0x1F

    def _named(self, name: str, kind: int) -> int | None:
        """Position of the type of that name and kind."""
        at = self._strings.find(b"\0" + name.encode() + b"\0") + 1
        if not at:
            return None
        words = self._words
        for position in self._positions[1:]:
            if words[position] == at and self._kind(position) == kind:
                return position
        return None

    def _offset(self, path: str) -> int | None:
        name, *members = path.split(".")
        position = self._struct_named(name)
        bits = 0
        for member in members:
            found = None if position is None else self._member(position, member.encode())
            if found is None:
                return None
            bits += found[0]
            position = self._resolve(found[1])
        return None if position is None or bits % 8 else bits // 8


def _sections(data: bytes) -> tuple[bytes, bytes]:
    """The types and the strings of a BTF file."""
    if len(data) < _HEADER.size:
        raise ValueError("it is cut short")
    header = _HEADER.unpack_from(data)
    magic, _version, _flags, header_size, type_offset, type_size, string_offset, size = header
    if magic != _MAGIC:
        raise ValueError(f"magic number is {magic:#06x}, not {_MAGIC:#06x}")
    strings = header_size + string_offset
    start = header_size + type_offset
    if max(strings + size, start + type_size) > len(data):
        raise ValueError("it is cut short")
    return data[start : start + type_size], data[strings : strings + size]


def _damaged(error: Exception) -> InputError:
    return InputError(f"kernel type information (BTF) cannot be read: {error}")


def kernel(module: str | None = None) -> Btf:
    """The types of the kernel that runs, and of a module where it is one.

    What is built in, or not there, has no file of its own. Raises OSError where the kernel offers
    no BTF, InputError where it is damaged.
    """
    more: bytes | None = None
    if module is not None:
        with suppress(FileNotFoundError):
            more = (KERNEL / module).read_bytes()
    return Btf(VMLINUX.read_bytes(), more)


def offsets(paths: Iterable[str], file: Path = VMLINUX) -> dict[str, int]:
    """Offsets in bytes of the members that this kernel has; what it lacks is left out.

    Raises OSError where the kernel offers no BTF, InputError where it is damaged.
    """
    btf = Btf(file.read_bytes())
    found = ((path, btf.offset(path)) for path in paths)
    return {path: offset for path, offset in found if offset is not None}
