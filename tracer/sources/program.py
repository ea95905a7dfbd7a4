"""The text of the BPF programs and the macros they are compiled with."""

from __future__ import annotations

import re
import resource
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tracer.errors import NoSource

# Where the sources are: inside an installed package, else beside the package in a checkout.
_FOLDERS: Final = (
    Path(__file__).resolve().parent.parent / "_bpf",
    Path(__file__).resolve().parent.parent.parent / "bpf",
)
TRACE: Final = "synsent.bpf.c"
DROPS: Final = "drops.bpf.c"
_INCLUDE: Final = re.compile(r'#include "(?P<name>[\w.]+)"')

# Macro that the tracing program knows a member's offset by, and the member's path in BTF.
REQUIRED_MEMBERS: Final = {
    "OFF_SOCK_NET": "sock.__sk_common.skc_net.net",
    "OFF_SOCK_FAMILY": "sock.__sk_common.skc_family",
    "OFF_SOCK_STATE": "sock.__sk_common.skc_state",
    "OFF_SOCK_DPORT": "sock.__sk_common.skc_dport",
    "OFF_SOCK_DADDR": "sock.__sk_common.skc_daddr",
    "OFF_SOCK_V6_DADDR": "sock.__sk_common.skc_v6_daddr",
    "OFF_SOCK_V6_RCV_SADDR": "sock.__sk_common.skc_v6_rcv_saddr",
    "OFF_SOCK_PROTOCOL": "sock.sk_protocol",
    "OFF_SOCK_ERR": "sock.sk_err",
    "OFF_SOCK_ERR_SOFT": "sock.sk_err_soft",
    "OFF_INET_SADDR": "inet_sock.inet_saddr",
    "OFF_INET_SPORT": "inet_sock.inet_sport",
    "OFF_ICSK_BACKOFF": "inet_connection_sock.icsk_backoff",
    "OFF_TCP_SEGS_OUT": "tcp_sock.segs_out",
    "OFF_TCP_TOTAL_RETRANS": "tcp_sock.total_retrans",
    "OFF_TCP_RETRANS_STAMP": "tcp_sock.retrans_stamp",
    "OFF_TCP_SND_UNA": "tcp_sock.snd_una",
    "OFF_TCP_WRITE_SEQ": "tcp_sock.write_seq",
    "OFF_NET_INUM": "net.ns.inum",
}
# Absent in kernels that lack the feature itself: nothing is lost.
OPTIONAL_MEMBERS: Final = {
    "OFF_NET_SYN_LINEAR_TIMEOUTS": "net.ipv4.sysctl_tcp_syn_linear_timeouts",
}
# The same for the program that looks for drops.
DROPS_REQUIRED_MEMBERS: Final = {
    "OFF_SKB_HEAD": "sk_buff.head",
    "OFF_SKB_NETWORK_HEADER": "sk_buff.network_header",
    "OFF_SKB_INNER_NETWORK_HEADER": "sk_buff.inner_network_header",
    "OFF_SKB_DEV": "sk_buff.dev",
    "OFF_SKB_SK": "sk_buff.sk",
    "OFF_DEV_IFINDEX": "net_device.ifindex",
    "OFF_DEV_NAME": "net_device.name",
    "OFF_DEV_NET": "net_device.nd_net.net",
    "OFF_SOCK_NET": "sock.__sk_common.skc_net.net",
    "OFF_SOCK_FAMILY": "sock.__sk_common.skc_family",
    "OFF_SOCK_STATE": "sock.__sk_common.skc_state",
    "OFF_SOCK_DPORT": "sock.__sk_common.skc_dport",
    "OFF_SOCK_DADDR": "sock.__sk_common.skc_daddr",
    "OFF_SOCK_V6_DADDR": "sock.__sk_common.skc_v6_daddr",
    "OFF_SOCK_V6_RCV_SADDR": "sock.__sk_common.skc_v6_rcv_saddr",
    "OFF_INET_SADDR": "inet_sock.inet_saddr",
    "OFF_INET_SPORT": "inet_sock.inet_sport",
    "OFF_TCP_SND_UNA": "tcp_sock.snd_una",
    "OFF_NET_INUM": "net.ns.inum",
}
# Connection tracking, where the kernel has it: all of them or none, with the macro CONNTRACK.
DROPS_OPTIONAL_MEMBERS: Final = {
    "OFF_SKB_NFCT": "sk_buff._nfct",
    "OFF_CT_TUPLES": "nf_conn.tuplehash",
    "OFF_CT_TUPLE": "nf_conntrack_tuple_hash.tuple",
    "OFF_CT_SOURCE": "nf_conntrack_tuple.src.u3",
    "OFF_CT_SOURCE_PORT": "nf_conntrack_tuple.src.u",
    "OFF_CT_DESTINATION": "nf_conntrack_tuple.dst.u3",
    "OFF_CT_DESTINATION_PORT": "nf_conntrack_tuple.dst.u",
}


def source_folder() -> Path:
    """The folder that holds the programs and their headers. Raises NoSource if it is gone."""
    for folder in _FOLDERS:
        if (folder / TRACE).is_file():
            return folder
    raise NoSource(
        f"the BPF program {TRACE} is not in {' or '.join(map(str, _FOLDERS))}",
        hint="install synsent-trace again, or run with --backend poll",
    )


def source_text(folder: Path, main: str = TRACE) -> str:
    """A program with our own headers written out in place.

    BCC rewrites map accesses only in the main file, so all that touches a map must be in it.
    #line keeps file and line right in the compiler's messages.
    """
    return "\n".join(_expanded(folder, main))


def _expanded(folder: Path, name: str) -> list[str]:
    lines = [f'#line 1 "{name}"']
    for number, line in enumerate((folder / name).read_text("utf-8").splitlines(), start=1):
        include = _INCLUDE.match(line)
        if include is None:
            lines.append(line)
        else:
            lines += _expanded(folder, include["name"])
            lines.append(f'#line {number + 1} "{name}"')
    return lines


def define(macros: Mapping[str, int | None]) -> list[str]:
    """Compiler flags that define the macros; None defines one without a value."""
    return [f"-D{name}" if value is None else f"-D{name}={value}" for name, value in macros.items()]


def page_macros(ring_bytes: int) -> dict[str, int | None]:
    """The page size, which the stub headers leave open, and the ring's size in pages."""
    page = resource.getpagesize()
    return {"PAGE_SIZE": page, "RING_PAGES": max(1, ring_bytes // page)}
