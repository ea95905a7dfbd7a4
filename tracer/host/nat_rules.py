"""Whether a namespace has rules that may send what comes in for one address to another.

Connection tracking tells where a connection is led, but only of packets that got through: one that
was dropped after its translation leaves no entry. So that there is none says nothing where such
rules are. Which addresses they are about is not read: a node's tens of thousands of rules, in three
formats, for one question. BPF programs that translate (Cilium) are not seen here.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Final

from tracer.host.netlink import Netlink, attributes, unpack
from tracer.host.netns import enter

# <linux/netlink.h>, <linux/netfilter/nfnetlink.h>, <linux/netfilter/nf_tables.h>
_NETFILTER: Final = 12
_GET_CHAIN: Final = 10 << 8 | 4
_CHAIN_HOOK, _CHAIN_USE, _CHAIN_TYPE, _HOOK_NUMBER = 4, 6, 7, 1
_PREROUTING: Final = 0
_EVERY_FAMILY: Final = bytes(4)
_BE32: Final = struct.Struct("!I")


def may_translate(path: str) -> bool:
    """Whether rules of iptables, nftables or IPVS may translate what comes into the namespace whose
    file is `path`; true where nobody may know. Raises OSError where it is gone.
    """
    try:
        return _by_nftables(path) or _by_files(path)
    except PermissionError:
        return True


def _by_nftables(path: str) -> bool:
    """Whether a chain of type nat at prerouting has rules; those of iptables-nft are such."""
    with Netlink(path, _NETFILTER) as kernel:
        try:
            return any(map(_translates, kernel.dump(_GET_CHAIN, _EVERY_FAMILY)))
        except PermissionError:
            raise
        except OSError:  # this kernel has no nf_tables
            return False


def _translates(message: memoryview) -> bool:
    chain = attributes(message[len(_EVERY_FAMILY) :])
    if _CHAIN_HOOK not in chain or bytes(chain.get(_CHAIN_TYPE, b"")) != b"nat\0":
        return False
    hook = attributes(chain[_CHAIN_HOOK])
    rules = unpack(_BE32, chain[_CHAIN_USE])[0] if _CHAIN_USE in chain else 1
    return rules > 0 and unpack(_BE32, hook[_HOOK_NUMBER])[0] == _PREROUTING


def _by_files(path: str) -> bool:
    """The tables that iptables-legacy has made, and the services of IPVS."""
    with enter(path):
        names = [*_lines("ip_tables_names"), *_lines("ip6_tables_names")]
        services = _lines("ip_vs")
    return "nat" in names or any(line.startswith(("TCP ", "FWM ")) for line in services)


def _lines(name: str) -> list[str]:
    try:
        return Path("/proc/thread-self/net", name).read_text("ascii", "replace").splitlines()
    except FileNotFoundError:
        return []
