"""Where a device of the node leads: out of it, to another namespace, or nobody can tell."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Final

_TUNNELS: Final = frozenset({"vxlan", "geneve", "wireguard", "gretap", "ip6gretap"})
"""DEVTYPE of devices whose packets leave in an envelope (rtnl_link_ops of the drivers)."""

_TUNNEL_TYPES: Final = frozenset({"768", "769", "776", "778", "823"})
"""ARPHRD_TUNNEL, TUNNEL6, SIT, IPGRE, IP6GRE of <linux/if_arp.h>: ipip and its kin."""

_STACKED: Final = frozenset({"vlan", "bond"})
"""Devices on top of others, which may be hardware."""


@lru_cache(maxsize=256)
def leads_out(device: str, sys_class_net: str = "/sys/class/net") -> bool | None:
    """Whether a device of this process's network namespace leads out of the node.

    True where hardware or a hypervisor is behind it, which sysfs links to (`device`); None where
    that does not tell: a tunnel, a device on top of others, or one that sysfs does not show, since
    it shows the namespace in which it was mounted.
    """
    folder = Path(sys_class_net, device)
    if "/" in device or not folder.is_dir():
        return None
    if os.path.lexists(folder / "device"):
        return True
    kind = _read(folder / "type")
    devtype = next(
        (
            line.removeprefix("DEVTYPE=")
            for line in _read(folder / "uevent").splitlines()
            if line.startswith("DEVTYPE=")
        ),
        "",
    )
    if devtype in _TUNNELS | _STACKED or kind in _TUNNEL_TYPES:
        return None
    return False


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
