"""Attempts are given to their pods: processes in real cgroups and network namespaces.

Here up to the identity that a report gets; the program as a whole is tested elsewhere.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.support.client import STEP_SECONDS, Client
from tests.support.kubepods import Container, Driver, KubePod, kube_pod
from tests.support.netns import CLIENT_V4, SERVER_V4, Namespace, PodPair, lone_pod, pod_pair
from tests.support.wait import wait_until
from tracer.enrich.pod import Pods
from tracer.host.nodepods import NodePods
from tracer.host.process import ProcessTable
from tracer.model import Endpoint, Flow, NameSource, Owner, PodEvidence, PodIdentity

PORT = 8443
DRIVERS = pytest.mark.parametrize("driver", list(Driver))


@pytest.fixture
def pair() -> Iterator[PodPair]:
    with pod_pair() as made:
        yield made


class Attribution:
    """What names attempts, without an API server."""

    def __init__(self) -> None:
        self.node = NodePods()
        self._pods = Pods("node-1", self.node, None, lambda: None)
        self._processes = ProcessTable()

    def of(self, netns: int | None, pid: int | None = None) -> PodIdentity | None:
        """The pod of an attempt of a process in a namespace."""
        flow = Flow(netns, 4, Endpoint(CLIENT_V4, 40_000), Endpoint(SERVER_V4, PORT))
        process = None if pid is None else self._processes.describe(Owner(pid=pid))
        return self._pods.identify(process, flow, time.monotonic_ns())


def client_in(netns: Namespace, container: Container) -> Client:
    """An application that waits to connect, in its container."""
    client = Client(netns, SERVER_V4, PORT, "--wait", "--hold")
    client.wait_ready()
    container.add(client.pid)
    return client


def own_netns() -> int:
    return os.stat("/proc/self/ns/net").st_ino  # noqa: PTH116


def expected(pod: KubePod, evidence: PodEvidence, container: str | None = None) -> PodIdentity:
    return PodIdentity(
        namespace=pod.namespace,
        name=pod.name,
        uid=pod.uid,
        node="node-1",
        container=container,
        host_network=False,
        evidence=evidence,
        name_source=NameSource.RUNTIME,
    )


@DRIVERS
def test_process_in_a_container_belongs_to_its_pod(pair: PodPair, driver: Driver) -> None:
    with kube_pod(pair.client, driver=driver, runtime=True) as pod:
        client = client_in(pair.client, pod.containers["app"])
        found = Attribution().of(pair.client.inode, client.pid)
        client.kill()
    assert found == expected(pod, PodEvidence.CGROUP, "app")


@DRIVERS
def test_process_that_is_gone_belongs_to_the_pod_of_its_namespace(
    pair: PodPair, driver: Driver
) -> None:
    with kube_pod(pair.client, driver=driver, runtime=True) as pod:
        attribution = Attribution()
        client = client_in(pair.client, pod.containers["app"])
        client.kill()
        assert attribution.of(pair.client.inode, client.pid) == expected(pod, PodEvidence.NETNS)
        assert attribution.of(pair.server.inode) is None


def test_sidecar_is_told_from_the_application_in_the_same_namespace(pair: PodPair) -> None:
    with kube_pod(pair.client, containers=("app", "proxy"), runtime=True) as pod:
        attribution = Attribution()
        for name in ("app", "proxy"):
            client = client_in(pair.client, pod.containers[name])
            found = attribution.of(pair.client.inode, client.pid)
            client.kill()
            assert found == expected(pod, PodEvidence.CGROUP, name)


@DRIVERS
def test_pod_in_the_nodes_network_is_told_by_its_cgroup_and_others_there_are_not(
    driver: Driver,
) -> None:
    with (
        kube_pod(None, driver=driver, logs=True) as pod,
        subprocess.Popen(["sleep", "infinity"]) as application,
        subprocess.Popen(["sleep", "infinity"]) as bystander,
    ):
        pod.containers["app"].add(application.pid)
        attribution = Attribution()
        found = attribution.of(own_netns(), application.pid)
        others = (attribution.of(own_netns(), bystander.pid), attribution.of(own_netns()))
        for process in (application, bystander):
            process.kill()
            process.wait()
    assert found is not None
    assert (found.label, found.container) == (pod.label, "app")
    assert (found.host_network, found.evidence) == (True, PodEvidence.CGROUP)
    assert found.name_source is NameSource.KUBELET
    assert others == (None, None)


def test_pod_created_later_is_named_and_forgotten_when_it_is_gone(pair: PodPair) -> None:
    attribution = Attribution()
    inode = pair.client.inode
    assert attribution.of(inode) is None
    with kube_pod(pair.client, logs=True) as pod:
        wait_until(lambda: attribution.of(inode), STEP_SECONDS, "the pod")
        found = attribution.of(inode)
    assert found is not None
    assert (found.label, found.evidence) == (pod.label, PodEvidence.NETNS)
    assert attribution.of(inode) is None


def test_next_pod_that_gets_the_same_inode_number_gets_its_own_name() -> None:
    attribution = Attribution()
    names: dict[int, str] = {}
    for _ in range(40):
        with lone_pod() as netns, kube_pod(netns, logs=True) as pod:
            answers: list[PodIdentity] = []

            def named(inode: int = netns.inode, to: list[PodIdentity] = answers) -> bool:
                found = attribution.of(inode)
                if found is not None:
                    to.append(found)
                return found is not None

            wait_until(named, STEP_SECONDS, f"the name {pod.label}")
            assert answers[0].label == pod.label, "the first answer is right, or there is none"
            if netns.inode in names:
                return
            names[netns.inode] = pod.label
    pytest.fail("the kernel gave no inode number out anew")


def test_hosts_process_that_enters_a_pods_namespace_is_told_by_the_namespace(
    pair: PodPair,
) -> None:
    with kube_pod(pair.client, logs=True) as pod:
        intruder = Client(pair.client, SERVER_V4, PORT, "--wait", "--hold")
        intruder.wait_ready()
        found = Attribution().of(pair.client.inode, intruder.pid)
        intruder.kill()
    assert found is not None
    assert (found.label, found.evidence, found.container) == (pod.label, PodEvidence.NETNS, None)
