"""Names of the kernel's reasons for dropping packets (enum skb_drop_reason), as this kernel numbers
them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

_PREFIX: Final = "SKB_DROP_REASON_"
_UNSPECIFIED: Final = "NOT_SPECIFIED"
# Limits of the enum, no reasons.
_MARKS: Final = frozenset({"MAX", "SUBSYS_MASK"})
# The upper half numbers the subsystem whose own reason it is (Linux 6.4, 071c0fc6fb91).
_SUBSYSTEM_SHIFT: Final = 16


def reasons(enumerators: Mapping[str, int]) -> dict[int, str]:
    """Names by number, without their prefix; none on a kernel before 5.17."""
    named = {
        value: name.removeprefix(_PREFIX)
        for name, value in enumerators.items()
        if name.startswith(_PREFIX)
    }
    return {value: name for value, name in named.items() if name not in _MARKS}


def reason_name(number: int, names: Mapping[int, str]) -> str | None:
    """The name, such as NETFILTER_DROP; None where the kernel gave no reason.

    A subsystem's own reasons are in its module and may change with it: they are "subsystem 2".
    """
    name = names.get(number)
    if name is not None:
        return None if name == _UNSPECIFIED else name
    if number >> _SUBSYSTEM_SHIFT:
        return f"subsystem {number >> _SUBSYSTEM_SHIFT}"
    return f"reason {number}" if number else None
