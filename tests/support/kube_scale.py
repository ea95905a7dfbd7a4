"""What the names of a large cluster cost, in a process of their own: prints JSON.

Lists come in pages of 500 objects, as from the API server, with the fields that nobody keeps. Made
one at a time, so that no more than one is held; the time it takes to make them does not count.
"""

from __future__ import annotations

import gc
import json
import resource as limits
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tracer.kube.names import Names, Record, Resource
from tracer.kube.pod import read_pod
from tracer.kube.policy_records import read_namespace, read_policy
from tracer.kube.records import SliceRecord, read_node, read_service, read_slice

PAGE_OBJECTS = 500
NAMESPACES = 200
ENDPOINTS_PER_SLICE = 5

Document = dict[str, Any]

_FIELDS: Document = {
    f"f:{part}": {f"f:field{n}": {} for n in range(8)} for part in ("metadata", "spec")
}
_MANAGED = [
    {"manager": "kube-controller-manager", "operation": "Update", "fieldsV1": _FIELDS},
    {"manager": "kubectl-client-side-apply", "operation": "Update", "fieldsV1": _FIELDS},
]


def _metadata(name: str, number: int, **parts: object) -> Document:
    return {
        "name": name,
        "namespace": f"team-{number % NAMESPACES}",
        "uid": f"e79e6634-7189-4d0e-9a53-{number:012x}",
        "resourceVersion": str(number),
        "creationTimestamp": "2026-11-21T13:13:48Z",
        "managedFields": _MANAGED,
    } | parts


def _address(network: int, number: int) -> str:
    return f"{network}.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"


def _pod(number: int) -> Document:
    address = _address(10, number * ENDPOINTS_PER_SLICE)
    owner = {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "name": f"service-{number}-7d4b9c6f5",
        "controller": True,
    }
    return {
        "metadata": _metadata(
            f"service-{number}-7d4b9c6f5-x0k2p",
            number,
            labels={"app": f"service-{number}", "pod-template-hash": "7d4b9c6f5"},
            ownerReferences=[owner],
        ),
        "spec": {
            "nodeName": "node-0",
            "containers": [
                {"name": name, "env": [{"name": f"V{n}", "value": "x"} for n in range(30)]}
                for name in ("app", "proxy")
            ],
        },
        "status": {
            "phase": "Running",
            "podIP": address,
            "podIPs": [{"ip": address}],
            "containerStatuses": [
                {"name": "app", "containerID": f"containerd://{number:064x}"},
                {"name": "proxy", "containerID": f"containerd://{number + 1_000_000:064x}"},
            ],
        },
    }


def _service(number: int) -> Document:
    return {
        "metadata": _metadata(f"service-{number}", number, labels={"app": f"service-{number}"}),
        "spec": {
            "clusterIP": _address(172, number),
            "clusterIPs": [_address(172, number)],
            "ports": [
                {"name": "http", "protocol": "TCP", "port": 80, "targetPort": 8080},
                {"name": "metrics", "protocol": "TCP", "port": 9090, "targetPort": 9090},
            ],
            "selector": {"app": f"service-{number}"},
            "type": "ClusterIP",
        },
        "status": {"loadBalancer": {}},
    }


def _endpoint(number: int, position: int) -> Document:
    position += number * ENDPOINTS_PER_SLICE
    return {
        "addresses": [_address(10, position)],
        "conditions": {"ready": True, "serving": True, "terminating": False},
        "targetRef": {
            "kind": "Pod",
            "namespace": f"team-{number % NAMESPACES}",
            "name": f"service-{number}-7d4b9c6f5-x{position % ENDPOINTS_PER_SLICE}k2p",
            "uid": f"e79e6634-7189-4d0e-9a53-{position:012x}",
        },
        "nodeName": f"node-{position % 1_000}",
        "zone": "eu-central-1a",
    }


def _slice(number: int) -> Document:
    return {
        "metadata": _metadata(
            f"service-{number}-x7k2p",
            number,
            labels={"kubernetes.io/service-name": f"service-{number}"},
        ),
        "addressType": "IPv4",
        "ports": [
            {"name": "http", "protocol": "TCP", "port": 8080},
            {"name": "metrics", "protocol": "TCP", "port": 9090},
        ],
        "endpoints": [_endpoint(number, position) for position in range(ENDPOINTS_PER_SLICE)],
    }


def _node(number: int) -> Document:
    return {
        "metadata": _metadata(f"node-{number}", number),
        "status": {"addresses": [{"type": "InternalIP", "address": _address(192, number)}]},
    }


def _policy(number: int) -> Document:
    """Of a service: from an ingress controller and its own namespace, to DNS and a database."""
    dns = {"ports": [{"protocol": protocol, "port": 53} for protocol in ("UDP", "TCP")]}
    database = {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.9.0.0/16"]}}
    team = {"matchLabels": {"kubernetes.io/metadata.name": f"team-{number % NAMESPACES}"}}
    spec = {
        "podSelector": {"matchLabels": {"app": f"service-{number}"}},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [
            {
                "from": [{"namespaceSelector": team}, {"podSelector": {}}],
                "ports": [{"protocol": "TCP", "port": "http"}],
            }
        ],
        "egress": [dns, {"to": [database], "ports": [{"protocol": "TCP", "port": 5432}]}],
    }
    return {"metadata": _metadata(f"service-{number}", number), "spec": spec}


def _namespace(number: int) -> Document:
    name = f"team-{number}"
    labels = {"kubernetes.io/metadata.name": name, "team": name, "env": "prod"}
    return {"metadata": _metadata(name, number, labels=labels)}


Make = Callable[[int], Document]
Read = Callable[[object], Record | None]
CLUSTER: tuple[tuple[Resource, int, Make, Read], ...] = (
    (Resource.PODS, 500, _pod, read_pod),
    (Resource.NODES, 1_000, _node, read_node),
    (Resource.SERVICES, 10_000, _service, read_service),
    (Resource.ENDPOINT_SLICES, 10_000, _slice, read_slice),
    (Resource.NETWORK_POLICIES, 2_000, _policy, read_policy),
    (Resource.NAMESPACES, 500, _namespace, read_namespace),
)


def pages(make: Make, count: int) -> Iterator[str]:
    for start in range(0, count, PAGE_OBJECTS):
        yield json.dumps({"items": [make(n) for n in range(start, start + PAGE_OBJECTS)]})


def fill(names: Names) -> float:
    """Lists the cluster as the informer does; returns the seconds of CPU."""
    seconds = 0.0
    for resource, count, make, read in CLUSTER:
        records: list[Record] = []
        for page in pages(make, count):
            began = time.process_time()
            records += [
                names.same(resource, record)
                for item in json.loads(page)["items"]
                if (record := read(item)) is not None
            ]
            seconds += time.process_time() - began
        began = time.process_time()
        names.replace(resource, records)
        seconds += time.process_time() - began
    return seconds


def resident_megabytes() -> float:
    pages_resident = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages_resident * limits.getpagesize() / 1e6


def main() -> None:
    json.loads(next(pages(_slice, PAGE_OBJECTS)))  # what one page takes is no growth
    gc.collect()
    before = resident_megabytes()
    names = Names()
    turns = []
    for _ in range(2):
        seconds = fill(names)
        turns.append({"cpu_seconds": seconds, "megabytes": resident_megabytes() - before})
    slices = names.records(Resource.ENDPOINT_SLICES)
    cost = {
        "turns": turns,
        "records": {each: len(names.records(each)) for each in Resource},
        "endpoints": sum(len(one.endpoints) for one in slices if isinstance(one, SliceRecord)),
    }
    json.dump(cost, sys.stdout)


if __name__ == "__main__":
    main()
