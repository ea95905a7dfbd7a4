"""What the kernel allows this process to do."""

from __future__ import annotations

from pathlib import Path
from typing import Final

# <linux/capability.h>
CAP_SYS_PTRACE: Final = 19
CAP_SYS_ADMIN: Final = 21
CAP_PERFMON: Final = 38
CAP_BPF: Final = 39


def has_capability(number: int) -> bool:
    """Whether the capability is in this process's effective set (capabilities(7))."""
    for line in Path("/proc/self/status").read_text("ascii", "replace").splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> number & 1)
    return False
