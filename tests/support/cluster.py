"""A cluster around a client pod: an API server inside a node's network namespace, and the objects
that it holds, as short as they may be.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.support.kube_api import NODES, PODS, POLICIES, SERVICES, SLICES, KubeApi
from tests.support.kube_server import Document
from tests.support.kubepods import KubePod, kube_pod
from tests.support.netns import CLIENT_V4, CLIENT_V6, Namespace
from tests.support.sockets import path_of
from tracer.host.netns import enter

NODE: Final = "node-1"
SERVICE: Final = "db"
LABELS: Final = {"app": "web"}
"""Of the client's pod."""


@dataclass(frozen=True)
class Cluster:
    """What a test may change while it is traced. `pod` is the client's."""

    api: KubeApi
    pod: KubePod

    def service(self, address: str, at: int, *backends: tuple[str, bool], port: int) -> None:
        """A service of the client's namespace at `address` and port `at`; see endpoints()."""
        self.endpoints(*backends, port=port)
        self.api.put(SERVICES, service_document(self.pod.namespace, address, at))

    def endpoints(self, *backends: tuple[str, bool], port: int) -> None:
        """The service's endpoints from now on: address, and whether it is ready."""
        self.api.put(SLICES, slice_document(self.pod.namespace, backends, port))

    def policy(self, name: str, direction: str, *, selects: Document) -> None:
        """A policy that allows nothing to the pods with these labels."""
        self.api.put(POLICIES, policy_document(self.pod.namespace, name, direction, selects))


@contextmanager
def cluster(node: Namespace, client: Namespace) -> Iterator[Cluster]:
    """An API server on the loopback of `node`, which knows the pod that lives in `client`."""
    node.run(["ip", "link", "set", "lo", "up"])
    api = KubeApi(None)
    with enter(path_of(node)):
        api.start()
    try:
        with kube_pod(client, logs=True) as pod:
            api.put(NODES, {"metadata": {"name": NODE, "uid": "n"}, "status": {"addresses": []}})
            api.put(PODS, pod_document(pod))
            yield Cluster(api, pod)
    finally:
        api.stop()


def options(known: Cluster, folder: Path) -> tuple[str, ...]:
    """What makes the program ask this API server; its files are in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    return (
        *("--kubeconfig", str(known.api.write_kubeconfig(folder))),
        *("--cache-dir", "none"),
        *("--node-name", NODE),
    )


def pod_document(pod: KubePod) -> Document:
    return {
        "metadata": {
            "namespace": pod.namespace,
            "name": pod.name,
            "uid": pod.uid,
            "labels": LABELS,
        },
        "spec": {"nodeName": NODE, "containers": [{"name": "app", "image": "web"}]},
        "status": {
            "phase": "Running",
            "podIP": CLIENT_V4,
            "podIPs": [{"ip": CLIENT_V4}, {"ip": CLIENT_V6}],
        },
    }


def service_document(namespace: str, address: str, port: int) -> Document:
    return {
        "metadata": {"namespace": namespace, "name": SERVICE, "uid": "s"},
        "spec": {
            "clusterIP": address,
            "clusterIPs": [address],
            "selector": {"app": SERVICE},
            "ports": [{"port": port, "protocol": "TCP"}],
        },
    }


def slice_document(namespace: str, backends: Sequence[tuple[str, bool]], port: int) -> Document:
    return {
        "metadata": {
            "namespace": namespace,
            "name": f"{SERVICE}-x",
            "uid": "e",
            "labels": {"kubernetes.io/service-name": SERVICE},
        },
        "addressType": "IPv4",
        "ports": [{"port": port, "protocol": "TCP"}],
        "endpoints": [
            {
                "addresses": [address],
                "conditions": {"ready": ready},
                "targetRef": {"kind": "Pod", "name": f"db-{number}", "namespace": namespace},
            }
            for number, (address, ready) in enumerate(backends)
        ],
    }


def policy_document(namespace: str, name: str, direction: str, selects: Document) -> Document:
    return {
        "metadata": {"namespace": namespace, "name": name, "uid": f"p-{name}"},
        "spec": {"podSelector": {"matchLabels": selects}, "policyTypes": [direction.capitalize()]},
    }
