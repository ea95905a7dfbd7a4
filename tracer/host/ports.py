"""Whether a namespace has ports left for one more connection to the same destination.

connect() picks a port of the ephemeral range that no socket uses from the same address towards the
same destination, and fails with EADDRNOTAVAIL where there is none. Sockets in TIME_WAIT count as
used, though the kernel takes one over that has been there for a second (net.ipv4.tcp_tw_reuse).
"""

from __future__ import annotations

import time
from typing import Final

from tracer.facts import LocalPorts
from tracer.host import sysctl
from tracer.host.inet_diag import InetDiag
from tracer.model import Flow

_HIGHEST: Final = 65_535


def local_ports(path: str, flow: Flow) -> LocalPorts:
    """How many ports connect() may pick in the namespace whose file is `path`, and how many of them
    are in use towards the flow's destination; from its source address, where that is known.

    A list of the sockets, 2 ms and 5 µs for each that matches: not for every attempt. A range of
    the socket's own (IP_LOCAL_PORT_RANGE) is not seen. Raises OSError where the namespace cannot be
    entered or the kernel refuses, ValueError where the destination has no port or the sysctls make
    no sense.
    """
    if flow.destination.port is None:
        raise ValueError(f"a destination is an address and a port: {flow}")
    # For IPv6 too, whatever the folder's name.
    span, reserved = sysctl.read(path, "ipv4/ip_local_port_range", "ipv4/ip_local_reserved_ports")
    lowest, highest = map(int, span.split())
    allowed = set(range(lowest, highest + 1)) - parse_ports(reserved)
    known = flow.source.address not in {"0.0.0.0", "::"}  # noqa: S104 - nothing is bound
    with InetDiag(path) as kernel:
        source = flow.source.address if known else None
        used = allowed.intersection(kernel.local_ports(flow.destination, source))
    return LocalPorts(len(used), len(allowed), time.monotonic_ns())


def parse_ports(text: str) -> set[int]:
    """A list of ports and ranges as sysctls have it: "8080,9148,30000-32767".

    Raises ValueError where it is none.
    """
    ports: set[int] = set()
    for part in text.split(","):
        if part:
            first, _, last = part.partition("-")
            lowest, highest = int(first), int(last or first)
            if not 0 <= lowest <= highest <= _HIGHEST:
                raise ValueError(f"no range of ports: {part!r}")
            ports.update(range(lowest, highest + 1))
    return ports
