"""What the kernel allows this process to do."""

from __future__ import annotations

from pathlib import Path
from typing import Final

# <linux/capability.h>
CAP_SYS_PTRACE: Final = 19
CAP_SYS_ADMIN: Final = 21
CAP_PERFMON: Final = 38
CAP_BPF: Final = 39

# PROC_PID_INIT_INO of <linux/proc_ns.h>, since Linux 3.8.
_HOST_PID_NAMESPACE: Final = 0xEFFFFFFC


def has_capability(number: int) -> bool:
    """Whether the capability is in this process's effective set (capabilities(7))."""
    for line in Path("/proc/self/status").read_text("ascii", "replace").splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> number & 1)
    return False


def in_host_pid_namespace(proc: str = "/proc") -> bool:
    """Whether this process counts processes as the kernel itself does (pid_namespaces(7))."""
    try:
        return Path(proc, "self/ns/pid").stat().st_ino == _HOST_PID_NAMESPACE
    except FileNotFoundError:  # a kernel without PID namespaces (CONFIG_PID_NS)
        return True
