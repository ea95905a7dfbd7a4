"""What the kernel's reverse path filter makes of what comes in at a device (RFC 3704, rp_filter).

A strict filter drops a packet whose sender the namespace would answer through another device, a
loose one a packet whose sender it would not answer at all. IPv6 has no such sysctl: there it is a
rule of netfilter (`-m rpfilter`), which shows as a drop.
"""

from __future__ import annotations

from pathlib import Path

from tracer.facts import Direction, ReversePath
from tracer.host import sysctl
from tracer.host.rtnetlink import Rtnetlink
from tracer.model import Flow


def reverse_path(
    path: str, flow: Flow, device: str, direction: Direction = Direction.REPLY
) -> ReversePath | None:
    """The filter of `device` in the namespace at `path`, for the flow's packets of `direction`.

    `symmetric` is None where there is no way back at all, which a loose filter drops too. None for
    IPv6. Raises OSError where the namespace cannot be entered or has no such device.
    """
    if flow.family != 4:
        return None
    with Rtnetlink(path) as kernel:
        kernel.index_of(device)
        symmetric = kernel.leads_through(flow, device, direction)
    # The kernel takes the higher of both (IN_DEV_RPFILTER, in_dev->cnf and net->ipv4.devconf_all).
    modes = sysctl.read(path, *(f"ipv4/conf/{scope}/rp_filter" for scope in ("all", device)))
    return ReversePath(Path(path).stat().st_ino, device, max(map(int, modes)), symmetric)
