"""Sysctls of a network namespace.

/proc/sys/net shows the namespace of the thread that opens the file, whoever's /proc it is looked at
through (net_ctl_header_lookup() asks `current`): so one has to be inside. 100 µs for the entering
and one file.
"""

from __future__ import annotations

from pathlib import Path

from tracer.host.netns import enter

FOLDER = "/proc/sys/net"


def read(path: str, *keys: str) -> tuple[str, ...]:
    """The text of each of `keys` ("ipv4/ip_local_port_range") in the namespace at `path`.

    Raises OSError where the namespace cannot be entered, FileNotFoundError where it has no such
    sysctl or hides it from its own user namespace.
    """
    with enter(path):
        return tuple(Path(FOLDER, key).read_text("ascii").strip() for key in keys)
