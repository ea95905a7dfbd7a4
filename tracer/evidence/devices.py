"""Where a device leads: out of this node, to another namespace of it, or nobody can tell."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tracer.host.ethtool import driver_of

_TUNNELS: Final = frozenset({"vxlan", "geneve", "wireguard", "gretap", "ip6gretap"})
"""DEVTYPE of devices whose packets leave in an envelope (rtnl_link_ops of the drivers)."""

_TUNNEL_TYPES: Final = frozenset({"768", "769", "776", "778", "823"})
"""ARPHRD_TUNNEL, TUNNEL6, SIT, IPGRE, IP6GRE of <linux/if_arp.h>: ipip and its kin."""

_STACKED: Final = frozenset({"vlan", "bond"})
"""Devices on top of others, which may be hardware."""

_INSIDE: Final = frozenset({"veth", "bridge", "tun", "openvswitch"})
"""Drivers, as they call themselves, behind which is another namespace or program of this node."""

_KEPT_SECONDS: Final = 10.0
_MAX_KEPT: Final = 4_096


class Devices:
    """Remembers for some seconds where devices lead: one of the same name may take their place."""

    def __init__(
        self,
        host_netns: int | None,
        path_of: Callable[[int], str | None],
        *,
        of_host: Callable[[str], bool | None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`path_of` gives the file of a namespace; `of_host` is leads_out(), for the node's."""
        self._host_netns = host_netns
        self._path_of = path_of
        self._of_host = of_host or leads_out
        self._clock = clock
        self._known: dict[tuple[str, int | None], tuple[float, bool | None]] = {}

    def leads_out(self, device: str, netns: int | None) -> bool | None:
        """Whether a device of that namespace leads out of this node; None: nobody can tell."""
        now = self._clock()
        at, known = self._known.get((device, netns), (None, None))
        if at is not None and now - at < _KEPT_SECONDS:
            return known
        if len(self._known) >= _MAX_KEPT:
            self._known.clear()
        if netns is None:
            found = None
        elif netns == self._host_netns:
            found = self._of_host(device)
        else:
            path = self._path_of(netns)
            found = None if path is None else leads_out_of(path, device)
        self._known[device, netns] = now, found
        return found

    def forget(self) -> None:
        self._known.clear()


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


def leads_out_of(path: str, device: str) -> bool | None:
    """The same of the namespace whose file is `path`, as the device's driver tells: a pod may have
    hardware of its own (SR-IOV), and no sysfs that is to be seen from here shows it.
    """
    if device == "lo":
        return False
    try:
        driver, bus = driver_of(path, device)
    except OSError as error:
        # A driver that says nothing of itself, as dummy's: no hardware's is like that.
        return False if error.errno == errno.EOPNOTSUPP else None
    if driver in _INSIDE:
        return False
    return True if bus else None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
