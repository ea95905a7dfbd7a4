"""Which namespace has an address: what is kept, for how long, and how much of it."""

from __future__ import annotations

import pytest

from tracer.host.listeners import AddressOwners, Holdings, OwnerLimits
from tracer.host.netns import Namespace


class Node:
    """Namespaces whose addresses a test gives; `reads` notes each look into one."""

    def __init__(self) -> None:
        self.now = 100.0
        self.addresses: dict[int, list[str]] = {}
        self.virtual: list[str] = []
        self.reads: list[int] = []
        self.lists = 0

    def namespaces(self) -> dict[int, Namespace]:
        self.lists += 1
        return {inode: Namespace(inode, (), str(inode)) for inode in self.addresses}

    def look(self, path: str) -> Holdings:
        self.reads.append(int(path))
        inode = int(path)
        return Holdings(
            tuple(self.addresses[inode]), tuple(self.virtual), frozenset({f"02:00:{inode:02x}"})
        )

    def clock(self) -> float:
        return self.now


@pytest.fixture
def node() -> Node:
    return Node()


def owners_of(node: Node, limits: OwnerLimits | None = None) -> AddressOwners:
    return AddressOwners(limits, node.namespaces, node.clock, node.look)


def inode_of(owners: AddressOwners, address: str) -> int | None:
    found = owners.owner_of(address)
    return None if found is None else found.namespace.inode


def test_questions_in_quick_succession_are_answered_from_memory(node: Node) -> None:
    node.addresses = {1: ["10.0.0.1"], 2: ["10.0.0.2"]}
    owners = owners_of(node)
    for _ in range(100):
        assert inode_of(owners, "10.0.0.1") == 1
        assert inode_of(owners, "10.0.0.9") is None
    assert (node.lists, node.reads) == (1, [1, 2])


def test_only_new_namespaces_and_those_without_an_address_are_read_again(node: Node) -> None:
    node.addresses = {1: ["10.0.0.1"], 2: []}
    owners = owners_of(node)
    assert inode_of(owners, "10.0.0.2") is None
    node.addresses = {1: ["10.0.0.1"], 2: ["10.0.0.2"], 3: ["10.0.0.3"]}
    node.now += 10
    assert [inode_of(owners, f"10.0.0.{last}") for last in (1, 2, 3)] == [1, 2, 3]
    assert node.reads == [1, 2, 2, 3]


def test_addresses_are_read_again_after_a_while(node: Node) -> None:
    node.addresses = {1: ["10.0.0.1"]}
    owners = owners_of(node)
    assert inode_of(owners, "10.0.0.1") == 1
    node.addresses = {1: ["10.0.0.5"]}
    node.now += 59.9
    assert inode_of(owners, "10.0.0.1") == 1
    node.now += 10
    assert inode_of(owners, "10.0.0.1") is None
    assert inode_of(owners, "10.0.0.5") == 1


def test_a_namespace_that_goes_takes_its_addresses_along(node: Node) -> None:
    node.addresses = {1: ["10.0.0.1"], 2: ["10.0.0.1"]}
    owners = owners_of(node)
    assert inode_of(owners, "10.0.0.1") is None, "two have it"
    del node.addresses[1]
    node.now += 10
    assert inode_of(owners, "10.0.0.1") == 2


def test_three_that_have_an_address_are_no_better_than_two(node: Node) -> None:
    node.addresses = {inode: ["10.0.0.1"] for inode in (1, 2, 3)}
    assert inode_of(owners_of(node), "10.0.0.1") is None


def test_what_is_beyond_the_limits_is_counted(node: Node) -> None:
    node.addresses = {inode: [f"10.0.{inode}.{last}" for last in range(5)] for inode in range(4)}
    owners = owners_of(node, OwnerLimits(namespaces=3, addresses=2))
    assert inode_of(owners, "10.0.2.1") == 2
    assert inode_of(owners, "10.0.2.2") is None
    assert inode_of(owners, "10.0.3.1") is None
    assert node.reads == [0, 1, 2]
    assert owners.skipped == 1 + 3 * 3


def test_an_owner_is_told_by_its_devices_too_and_a_virtual_address_is_nobodys(node: Node) -> None:
    node.addresses = {1: ["10.0.0.1"], 2: []}
    node.virtual = ["10.96.0.1"]
    owners = owners_of(node)
    found = owners.owner_of("10.0.0.1")
    assert found is not None
    assert found.lladdrs == {"02:00:01"}
    assert owners.owner_of("10.96.0.1") is None
    assert owners.is_virtual("10.96.0.1")
    assert not owners.is_virtual("10.0.0.1")
