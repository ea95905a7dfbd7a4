"""A hash map of a BPF program, read and written many entries at a time."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Collection, Iterator, Sequence
from typing import Final

# Entries that one system call moves; a bucket holds more only by collision.
_AT_ONCE: Final = 4096


class Table:
    """Entries as packed keys and values. `library` is libbcc, `descriptor` the map's.

    Its methods raise OSError, with what the map is called. Not for use by several threads at once.
    """

    def __init__(
        self,
        library: ctypes.CDLL,
        descriptor: int,
        key: struct.Struct,
        value: struct.Struct,
        name: str,
    ) -> None:
        self._library = library
        self._descriptor = descriptor
        self._key = key
        self._value = value
        self._name = name
        self._keys = ctypes.create_string_buffer(key.size * _AT_ONCE)
        self._values = ctypes.create_string_buffer(value.size * _AT_ONCE)

    def read(self) -> Iterator[tuple[bytes, bytes]]:
        """Every entry. Those that come meanwhile may be missed."""
        position = ctypes.c_uint32(0)
        first = True
        while True:
            count = ctypes.c_uint32(_AT_ONCE)
            failed = self._library.bpf_lookup_batch(
                self._descriptor,
                None if first else ctypes.byref(position),
                ctypes.byref(position),
                self._keys,
                self._values,
                ctypes.byref(count),
            )
            number = ctypes.get_errno() if failed else 0
            if number not in (0, errno.ENOENT):
                raise self._error(number)
            yield from zip(
                _pieces(self._keys, self._key.size, count.value),
                _pieces(self._values, self._value.size, count.value),
                strict=True,
            )
            if number == errno.ENOENT:
                return
            first = False

    def update(self, entries: Sequence[tuple[bytes, bytes]]) -> None:
        """Puts entries in, or replaces them."""
        for start in range(0, len(entries), _AT_ONCE):
            part = entries[start : start + _AT_ONCE]
            count = ctypes.c_uint32(len(part))
            keys = b"".join(key for key, _ in part)
            values = b"".join(value for _, value in part)
            if self._library.bpf_update_batch(self._descriptor, keys, values, ctypes.byref(count)):
                raise self._error(ctypes.get_errno())

    def delete(self, keys: Collection[bytes]) -> None:
        """Takes entries out; those that are not there are passed over."""
        remaining = list(keys)
        while remaining:
            part = remaining[:_AT_ONCE]
            count = ctypes.c_uint32(len(part))
            failed = self._library.bpf_delete_batch(
                self._descriptor, b"".join(part), ctypes.byref(count)
            )
            if not failed:
                del remaining[: len(part)]
                continue
            number = ctypes.get_errno()
            if number != errno.ENOENT:
                raise self._error(number)
            # It stopped at the one that is missing, and says how many went before.
            del remaining[: count.value + 1]

    def _error(self, number: int) -> OSError:
        return OSError(number, f"BPF table {self._name}: {os.strerror(number)}")


def _pieces(buffer: ctypes.Array[ctypes.c_char], size: int, count: int) -> Iterator[bytes]:
    raw = memoryview(buffer)[: size * count].tobytes()
    return (raw[at : at + size] for at in range(0, len(raw), size))
