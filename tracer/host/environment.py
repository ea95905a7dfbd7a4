"""What a colleague needs to know of a node to judge a report from it: the kernel and its settings.

Nothing here is secret or names the machine: no host name, no address, no environment variable.
What is told of the network (sysctls of net, counters, conntrack) is that of this process's own
network namespace, and the distribution is that of its own files: a container's, in a container.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Final

UNKNOWN: Final = "unknown"

MAX_VALUE_CHARACTERS: Final = 400
"""The longest that is expected are the names of twenty capabilities."""

_ELLIPSIS: Final = "…"
_MAX_FILE_CHARACTERS: Final = 1 << 20
"""A node with thousands of pods has a mountinfo of this order."""

_BTF: Final = Path("/sys/kernel/btf/vmlinux")
_SYSCTLS: Final = (
    "net.ipv4.tcp_syn_retries",
    "net.ipv4.tcp_syn_linear_timeouts",  # since Linux 6.5
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_tw_reuse",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.conf.all.rp_filter",
    "net.netfilter.nf_conntrack_count",
    "net.netfilter.nf_conntrack_max",
)
_COUNTERS: Final = (
    ("snmp", "Tcp", "ActiveOpens"),
    ("snmp", "Tcp", "AttemptFails"),
    ("netstat", "TcpExt", "TCPSynRetrans"),
    ("netstat", "TcpExt", "TCPTimeouts"),
    ("netstat", "TcpExt", "ListenOverflows"),
    ("netstat", "TcpExt", "ListenDrops"),
)
# <linux/capability.h>, from bit 0 on.
_CAPABILITIES: Final = (
    *("chown", "dac_override", "dac_read_search", "fowner", "fsetid", "kill", "setgid", "setuid"),
    *("setpcap", "linux_immutable", "net_bind_service", "net_broadcast", "net_admin", "net_raw"),
    *("ipc_lock", "ipc_owner", "sys_module", "sys_rawio", "sys_chroot", "sys_ptrace", "sys_pacct"),
    *("sys_admin", "sys_boot", "sys_nice", "sys_resource", "sys_time", "sys_tty_config", "mknod"),
    *("lease", "audit_write", "audit_control", "setfcap", "mac_override", "mac_admin", "syslog"),
    *("wake_alarm", "block_suspend", "audit_read", "perfmon", "bpf", "checkpoint_restore"),
)


def describe(proc: str = "/proc") -> list[tuple[str, str]]:
    """Names and values, always the same names in the same order; `proc` is where procfs is.

    What cannot be told is "unknown"; nothing is raised. Values are of bounded length, and as the
    system wrote them: whoever prints them passes them through tracer.text.safe.
    """
    questions: list[tuple[str, Callable[[], str]]] = [
        ("kernel", _kernel),
        ("distribution", lambda: platform.freedesktop_os_release()["PRETTY_NAME"]),
        ("python", platform.python_version),
        ("effective uid", lambda: str(os.geteuid())),
        ("effective capabilities", lambda: _capabilities(proc)),
        ("uptime", lambda: f"{float(_read(proc, 'uptime').split()[0]):.0f} s"),
        ("cpus", _cpus),
        ("load average", lambda: _load_average(proc)),
        ("memory total", lambda: _field(_read(proc, "meminfo"), "MemTotal:")),
        ("memory available", lambda: _field(_read(proc, "meminfo"), "MemAvailable:")),
        ("btf", lambda: "yes" if _BTF.exists() else "no"),
        ("cgroup version", lambda: _cgroup_version(_read(proc, "self/mountinfo"))),
    ]
    known = [(name, _answer(question)) for name, question in questions]
    known += [(name, _answer(partial(_sysctl, proc, name))) for name in _SYSCTLS]
    known += [
        (f"{group}.{name}", _answer(partial(_counter, proc, file, group, name)))
        for file, group, name in _COUNTERS
    ]
    return known


def _answer(question: Callable[[], str]) -> str:
    """The answer on one line; UNKNOWN where the file is missing, denied or in another format."""
    try:
        answer = " ".join(question().split())
    except (OSError, ValueError, LookupError):
        return UNKNOWN
    if len(answer) > MAX_VALUE_CHARACTERS:
        answer = answer[: MAX_VALUE_CHARACTERS - 1] + _ELLIPSIS
    return answer or UNKNOWN


def _read(proc: str, path: str) -> str:
    """Raises OSError where it cannot be read, ValueError where `proc` has a NUL in it."""
    with open(f"{proc}/{path}", encoding="ascii", errors="replace") as file:
        return file.read(_MAX_FILE_CHARACTERS)


def _field(text: str, name: str) -> str:
    """What follows the name at the beginning of a line. Raises LookupError where there is none."""
    for line in text.splitlines():
        if line.startswith(name):
            return line.removeprefix(name)
    raise LookupError(name)


def _kernel() -> str:
    """Release, machine and build; never the node's name, which uname(2) has as well."""
    name = os.uname()
    return f"{name.sysname} {name.release} {name.machine} {name.version}"


def _cpus() -> str:
    """Those of the node, and those that this process may run on (sched_getaffinity(2))."""
    online, allowed = os.cpu_count(), len(os.sched_getaffinity(0))
    return f"{online or UNKNOWN}, this process may use {allowed}"


def _load_average(proc: str) -> str:
    """Over 1, 5 and 15 minutes (proc_loadavg(5)); the last process's id is left out."""
    return " ".join(_read(proc, "loadavg").split()[:3])


def _capabilities(proc: str) -> str:
    """CapEff of proc_pid_status(5) and its names; those that are missing, if most are there."""
    held = int(_field(_read(proc, "self/status"), "CapEff:"), 16)
    last = int(_read(proc, "sys/kernel/cap_last_cap"))  # since Linux 3.2
    if not 0 <= last < 64:  # bits of the mask
        raise ValueError(f"cap_last_cap is {last}")
    there = [_capability(bit) for bit in range(last + 1) if held >> bit & 1]
    missing = [_capability(bit) for bit in range(last + 1) if not held >> bit & 1]
    if not missing:
        names = "all"
    elif len(missing) < len(there):
        names = f"all but {' '.join(missing)}"
    else:
        names = " ".join(there) or "none"
    return f"{held:016x} ({names})"


def _capability(bit: int) -> str:
    return _CAPABILITIES[bit] if bit < len(_CAPABILITIES) else f"cap_{bit}"


def _sysctl(proc: str, name: str) -> str:
    return _read(proc, f"sys/{name.replace('.', '/')}")


def _cgroup_version(mountinfo: str) -> str:
    """Which cgroup filesystems are mounted: the type follows the dash of proc_pid_mountinfo(5)."""
    types = set()
    for line in mountinfo.splitlines():
        _, dash, after = line.partition(" - ")
        if dash:
            types.add(after.partition(" ")[0])
    if {"cgroup", "cgroup2"} <= types:
        return "1 and 2 (hybrid)"
    if "cgroup2" in types:
        return "2"
    return "1" if "cgroup" in types else UNKNOWN


def _counter(proc: str, file: str, group: str, name: str) -> str:
    """A counter since the namespace was made, of /proc/net/snmp or netstat (proc_pid_net(5)).

    Each group has a line of names and one of values after it. Raises LookupError where this kernel
    has no such counter, ValueError where it is no number.
    """
    for names, values in pairwise(_read(proc, f"net/{file}").splitlines()):
        if names.startswith(f"{group}: ") and values.startswith(f"{group}: "):
            counters = dict(zip(names.split()[1:], values.split()[1:], strict=False))
            return str(int(counters[name]))
    raise LookupError(group)
