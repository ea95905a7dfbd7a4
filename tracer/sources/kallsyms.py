"""Which kernel function an address lies in, from /proc/kallsyms."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Final

KALLSYMS: Final = Path("/proc/kallsyms")
# No function is longer: beyond that lies what was unloaded since, or what has no symbol.
_LONGEST: Final = 64 << 10
# Of the first lines, some may be counted from the start of a CPU's own area: the first of it is 0.
_TRIED: Final = 1_000
_CODE: Final = frozenset(b"tTwW")


def functions(addresses: Iterable[int], file: Path = KALLSYMS) -> dict[int, str | None]:
    """The function of each address; None where it lies in none, or where they are kept secret.

    One pass over the file, of 120,000 lines and more; nothing of it is kept. What the compiler adds
    to a name (".constprop.0", ".cold") is left out. Addresses read as 0 without CAP_SYSLOG
    (Documentation/admin-guide/sysctl/kernel.rst, kptr_restrict).
    """
    wanted = sorted(set(addresses))
    try:
        return _nearest(wanted, file)
    except (OSError, ValueError, IndexError):
        return dict.fromkeys(wanted)


def addresses_shown(file: Path = KALLSYMS) -> bool:
    """Whether this process is told the addresses: the kernel writes zeros to others."""
    try:
        with file.open("rb") as lines:
            return any(int(line[:16], 16) for line in islice(lines, _TRIED))
    except (OSError, ValueError):
        return False


def _nearest(wanted: list[int], file: Path) -> dict[int, str | None]:
    # The nearest symbol before each wanted address, of those behind the wanted one before it.
    nearest: list[tuple[int, bytes]] = [(0, b"")] * len(wanted)
    with file.open("rb") as lines:
        for line in lines:
            if line[17] not in _CODE:
                continue
            start = int(line[:16], 16)
            index = bisect_left(wanted, start)
            if index < len(wanted) and start > nearest[index][0]:
                nearest[index] = (start, line)
    found: dict[int, str | None] = {}
    start, line = 0, b""
    for address, own in zip(wanted, nearest, strict=True):
        start, line = max((start, line), own)
        if start and address - start < _LONGEST:
            found[address] = line.split()[2].split(b".")[0].decode("ascii", "replace")
        else:
            found[address] = None
    return found
