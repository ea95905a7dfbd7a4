"""Who has an address on this node, and what listens there.

A destination may be a pod of the same node, or the node itself: then the kernel here knows why it
does not answer. Addresses of services are nobody's, even where kube-proxy gives them to a device of
its own (mode ipvs): what is looked for is the backend.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import Final

from tracer.host.inet_diag import InetDiag, ListenSocket
from tracer.host.netns import Namespace, list_namespaces
from tracer.host.rtnetlink import Rtnetlink
from tracer.model import Endpoint

IPVS_DEVICE: Final = "kube-ipvs0"
"""Holds every ClusterIP, so that packets for them come in; is down and receives nothing."""


@dataclass(frozen=True, slots=True)
class OwnerLimits:
    """How often is looked, and how much is kept.

    again_seconds  at most so often is looked for new namespaces, and into those without an address:
                   CNI plugins give it after making them (8 µs per process, 0.2 ms per namespace)
    stale_seconds  after which a namespace's addresses are read again
    namespaces     that are looked into
    addresses      that are kept of one namespace
    """

    again_seconds: float = 10.0
    stale_seconds: float = 60.0
    namespaces: int = 4_096
    addresses: int = 1_024


@dataclass(frozen=True, slots=True)
class Owner:
    """A namespace that has an address. `lladdrs` are the hardware addresses of its devices: whoever
    sends to one of them, sends to it.
    """

    namespace: Namespace
    lladdrs: frozenset[str]


@dataclass(frozen=True, slots=True)
class Holdings:
    """By what a namespace can be told from others.

    `virtual` are addresses that it has only so that packets for them come in (IPVS_DEVICE).
    """

    addresses: tuple[str, ...]
    virtual: tuple[str, ...] = ()
    lladdrs: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class _Read:
    """What was read of one namespace, and when."""

    namespace: Namespace
    holdings: Holdings
    at: float


class AddressOwners:
    """Which namespace of this node has an address. For one thread at a time."""

    def __init__(
        self,
        limits: OwnerLimits | None = None,
        namespaces: Callable[[], Mapping[int, Namespace]] = list_namespaces,
        clock: Callable[[], float] = time.monotonic,
        look: Callable[[str], Holdings] | None = None,
    ) -> None:
        self._limits = limits or OwnerLimits()
        self._look_into = look or holdings
        self._namespaces = namespaces
        self._clock = clock
        self._looked: float | None = None
        self._read: dict[int, _Read] = {}
        self._owners: dict[str, Owner | None] = {}
        self._virtual: frozenset[str] = frozenset()
        self.skipped = 0
        """Namespaces and addresses beyond the limits, and namespaces that could not be read."""

    def owner_of(self, address: str) -> Owner | None:
        """The namespace that has `address`; None where none of this node has it, where several do,
        or where it is loopback or link-local. Up to `again_seconds` old. Raises OSError where /proc
        cannot be listed.
        """
        self._keep_up()
        return self._owners.get(address)

    def is_virtual(self, address: str) -> bool:
        """Whether a namespace has it only so that packets for it come in (mode ipvs of kube-proxy):
        where they are led is another question. Raises OSError as owner_of() does.
        """
        self._keep_up()
        return address in self._virtual

    def _keep_up(self) -> None:
        now = self._clock()
        if self._looked is None or now - self._looked >= self._limits.again_seconds:
            self._looked = now
            self._look(now)

    def _look(self, now: float) -> None:
        listed = self._namespaces()
        limits = self._limits
        self.skipped = max(0, len(listed) - limits.namespaces)
        read: dict[int, _Read] = {}
        for inode, namespace in list(listed.items())[: limits.namespaces]:
            known = self._read.get(inode)
            has_some = known is not None and known.holdings.addresses
            if known is not None and has_some and now - known.at < limits.stale_seconds:
                read[inode] = _Read(namespace, known.holdings, known.at)
                continue
            try:
                found = self._look_into(namespace.path)
            except OSError:  # gone since it was listed, or may not be entered
                self.skipped += 1
                continue
            most = limits.addresses
            for addresses in (found.addresses, found.virtual):
                self.skipped += max(0, len(addresses) - most)
            kept = replace(found, addresses=found.addresses[:most], virtual=found.virtual[:most])
            read[inode] = _Read(namespace, kept, now)
        self._read = read
        self._owners = _by_address(read.values())
        self._virtual = frozenset(
            address for one in read.values() for address in one.holdings.virtual
        )


def listener(path: str, local: Endpoint, remote: Endpoint | None = None) -> ListenSocket | None:
    """What takes a SYN from `remote` for `local` in the namespace whose file is `path`; None:
    nothing listens there. See InetDiag.listener(). Raises OSError where the namespace cannot be
    entered or the kernel refuses.
    """
    with InetDiag(path) as kernel:
        return kernel.listener(local, remote)


def holdings(path: str) -> Holdings:
    """Those of the namespace whose file is `path`. Raises OSError where it cannot be entered."""
    with Rtnetlink(path) as kernel:
        held = [(address, index) for address, index in kernel.addresses() if _telling(address)]
        try:
            virtual: int | None = kernel.index_of(IPVS_DEVICE)
        except OSError:
            virtual = None
        lladdrs = {kernel.lladdr_of(index) for index in {index for _, index in held} - {virtual}}
    return Holdings(
        addresses=tuple(dict.fromkeys(address for address, index in held if index != virtual)),
        virtual=tuple(address for address, index in held if index == virtual),
        lladdrs=frozenset(one for one in lladdrs if one is not None),
    )


def _telling(address: str) -> bool:
    parsed = ip_address(address)
    return not (parsed.is_loopback or parsed.is_link_local)


def _by_address(read: Iterable[_Read]) -> dict[str, Owner | None]:
    owners: dict[str, Owner | None] = {}
    for one in read:
        owner = Owner(one.namespace, one.holdings.lladdrs)
        for address in one.holdings.addresses:
            owners[address] = None if address in owners else owner
    return owners
