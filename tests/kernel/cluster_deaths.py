"""How handshakes die in a cluster: behind services that lead nowhere, and under policies."""

from __future__ import annotations

import time
from typing import Final

from tests.kernel.deaths import (
    IN_NODE,
    PORT,
    TOLD_SECONDS,
    Death,
    Scene,
    Step,
    drop_forwarded,
    retry,
    service_of,
)
from tests.support.cluster import LABELS
from tests.support.netns import SERVER_V4, iptables
from tests.support.node import UPLINK, own_address
from tests.support.wait import wait_until

BACKEND_PORT: Final = 80
OTHERS: Final = {"app": "others"}
"""Labels of pods of which the client is none."""

# --- services ------------------------------------------------------------------------------------


def service_elsewhere(scene: Scene) -> None:
    """A service whose only endpoint is beyond the node, where it is silent."""
    scene.uplink(hardware=True)
    backend = scene.address
    service_of(scene, backend)
    scene.cluster.service(scene.address, PORT, (backend, True), port=BACKEND_PORT)


def replace_the_backend(scene: Scene) -> None:
    """The pod behind the service goes and another one comes: rules and endpoints follow, the entry
    of connection tracking that the first SYN has made does not.
    """
    scene.connect().wait_opened()
    entries = ["cat", "/proc/net/nf_conntrack"]
    wait_until(
        lambda: scene.address in scene.node.run(entries), TOLD_SECONDS, "the connection's entry"
    )
    successor = own_address(4)
    iptables(scene.node, "-t", "nat", "-F", "PREROUTING")
    service_of_at(scene, successor)
    scene.cluster.endpoints((successor, True), port=BACKEND_PORT)


def service_of_at(scene: Scene, backend: str) -> None:
    match = ("-d", scene.address, "-p", "tcp", "--dport", str(PORT))
    to = f"{backend}:{BACKEND_PORT}"
    iptables(scene.node, "-t", "nat", "-A", "PREROUTING", *match, "-j", "DNAT", "--to", to)


def service_without_endpoints(*backends: tuple[str, bool], then: tuple[str, ...]) -> Step:
    """What a kube-proxy does for the address of a service that nobody serves is `then`."""

    def put(scene: Scene) -> None:
        scene.address = own_address(4)
        scene.ip(scene.node, "route", "add", scene.address, "via", SERVER_V4)
        match = ("FORWARD", "-d", scene.address, "-p", "tcp", "--dport", str(PORT))
        iptables(scene.node, "-A", *match, "-j", *then)
        scene.cluster.service(scene.address, PORT, *backends, port=BACKEND_PORT)

    return put


# --- policies ------------------------------------------------------------------------------------


def denied(prepare: Step) -> Step:
    def deny(scene: Scene) -> None:
        prepare(scene)
        scene.cluster.policy("deny-egress", "egress", selects=LABELS)

    return deny


def silence(*, hardware: bool) -> Step:
    def put(scene: Scene) -> None:
        scene.uplink(hardware=hardware)

    return put


def deny_during_the_outage(scene: Scene) -> None:
    scene.wait_told("dropped-here")
    scene.changed_at = time.time()
    scene.cluster.policy("deny-egress", "egress", selects=LABELS)


def lose_the_endpoints(scene: Scene) -> None:
    """A rollout goes wrong: the service's only endpoint is ready no more."""
    scene.wait_told("dropped-here")
    scene.changed_at = time.time()
    scene.cluster.endpoints((SERVER_V4, False), port=BACKEND_PORT)


def not_selected(scene: Scene) -> None:
    drop_forwarded(scene)
    scene.cluster.policy("deny-others", "egress", selects=OTHERS)


DENIED: Final = ("policy", "deny its egress", "shop/deny-egress")

CLUSTER_DEATHS: Final = (
    Death(
        "connection tracking that leads to a backend that is gone",
        service_elsewhere,
        "stale-nat",
        "high",
        ("backend", "is no endpoint of the service any more"),
        beside=(
            ("nat", "connection tracking sends it to", f":{BACKEND_PORT}", "no answer was seen"),
            ("service", "has 1 endpoint, 1 of them ready"),
        ),
        act=replace_the_backend,
    ),
    Death(
        "a service without endpoints, whose SYNs are dropped",
        service_without_endpoints(then=("DROP",)),
        "service-without-endpoints",
        "high",
        ("service", "service shop/db", "has 0 endpoints"),
        beside=(("drop", "NETFILTER_DROP", IN_NODE),),
    ),
    Death(
        "a service without ready endpoints, whose SYNs are rejected",
        service_without_endpoints((SERVER_V4, False), then=("REJECT",)),
        "service-without-endpoints",
        "high",
        ("service", "service shop/db", "has 1 endpoint, 0 of them ready"),
        beside=(("icmp", "type 3 code 3", "10.77.1.1"),),
        act=retry,
        ended=True,
    ),
    Death(
        "a policy that denies, and a drop that enforces it",
        denied(drop_forwarded),
        "network-policy",
        "high",
        DENIED,
        beside=(("drop", "NETFILTER_DROP", IN_NODE, "to-client"),),
    ),
    Death(
        "a policy that denies, where nobody sees drops",
        denied(drop_forwarded),
        "network-policy",
        "medium",
        DENIED,
        backend="poll",
    ),
    Death(
        "a policy that denies, and no drop",
        denied(silence(hardware=False)),
        "network-policy",
        "low",
        DENIED,
        beside=(("watch", "no drop of its packets"),),
        also=frozenset({"no-reply"}),
    ),
    Death(
        "a policy that denies, and SYNs that leave the node all the same",
        denied(silence(hardware=True)),
        "no-reply",
        "high",
        ("handed", UPLINK, "which leads out of this node"),
        beside=(DENIED,),
        also=frozenset({"network-policy"}),
    ),
    Death(
        "a drop, and no policy that selects the pod",
        not_selected,
        "dropped-here",
        "high",
        ("drop", "NETFILTER_DROP", IN_NODE, "to-client"),
        beside=(("policy", "no NetworkPolicy selects the pod for egress"),),
    ),
    Death(
        "a policy that comes while it is stuck",
        not_selected,
        "network-policy",
        "high",
        DENIED,
        act=deny_during_the_outage,
        before="dropped-here",
    ),
    Death(
        "a service that loses its endpoints while it is stuck",
        service_without_endpoints((SERVER_V4, True), then=("DROP",)),
        "service-without-endpoints",
        "high",
        ("service", "service shop/db", "has 1 endpoint, 0 of them ready"),
        act=lose_the_endpoints,
        before="dropped-here",
    ),
)
