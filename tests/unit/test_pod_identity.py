"""Which pod attempts are given to: recorded objects and processes, and a node in a fake tree."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.nodetree import HOST, NodeTree
from tracer.enrich import pod as pod_module
from tracer.enrich.pod import Pods
from tracer.host.nodepods import NodePods
from tracer.kube.names import Names, Resource
from tracer.kube.pod import POD_ENI, ContainerInfo, PodInfo, read_pod
from tracer.model import (
    Endpoint,
    Flow,
    NameSource,
    PodEvidence,
    PodIdentity,
    Process,
    Workload,
)

FIXTURES = Path(__file__).parents[1] / "fixtures/kube"

# shop/db-0 as it was recorded.
DB_UID = "d3456794-3e99-4819-80bf-24f578359604"
DB = "20b16a27f24c6f9fb2dbec4d7efe65a11fde2ed4cf410b9a3373b6d2fe4be146"
DB_SANDBOX = "f239ac8c10fc3456650cf4b8c2193dafa9b76813cf022d86ebc6bf9f124d0ae3"
DB_NETNS, DB_ADDRESS = 4026532321, "10.88.64.4"
# shop/hostnet, and a pod that no recorded object has.
HOSTNET_UID, NODE_ADDRESS = "3b313be7-1153-48b0-968b-36a7d547fd94", "192.0.2.2"
HOSTNET = "f80f6820ec2e2f7cede23aaf30bb25c79941fcd661dea733a4741e54de5f6133"
OTHER_UID = "a06be635-826a-4601-bb45-e46426d86dba"
OTHER = "fc6a4c0de97a67aed64554f36225e77117253288197b6f345c6ba30b6e4588b6"
OTHER_NETNS = 4026532496


class Kube:
    """What stands for the API: names, and since when they are no longer kept up to date."""

    def __init__(self) -> None:
        self.names = Names()
        self.names_wall_ns: int | None = None

    def tell(self, *pods: PodInfo) -> None:
        self.names.replace(Resource.PODS, pods)

    def wall(self) -> int | None:
        return self.names_wall_ns


def recorded_pods() -> list[PodInfo]:
    items = json.loads((FIXTURES / "pods-on-node1.json").read_text())["items"]
    found = [pod for pod in map(read_pod, items) if pod is not None]
    assert len(found) == len(items)
    return found


@pytest.fixture
def node(tmp_path: Path) -> NodeTree:
    tree = NodeTree(tmp_path)
    tree.add_recorded(FIXTURES / "proc-cgroups-v1-hybrid.txt")
    return tree


@pytest.fixture
def kube() -> Kube:
    return Kube()


@pytest.fixture
def recorded(kube: Kube) -> Kube:
    kube.tell(*recorded_pods())
    return kube


def pods_of(node: NodeTree, kube: Kube | None = None) -> Pods:
    known = NodePods(root=str(node.root), proc=str(node.proc))
    if kube is None:
        return Pods("node1", known, None, lambda: None)
    return Pods("node1", known, kube.names, kube.wall)


def flow(netns: int | None = DB_NETNS, source: str = DB_ADDRESS) -> Flow:
    return Flow(netns, 4, Endpoint(source, 40_000), Endpoint("10.96.0.10", 5432))


def process(uid: str | None = DB_UID, container_id: str | None = DB) -> Process:
    return Process(pid=42, name="psql", container_id=container_id, pod_uid=uid)


def identified(pods: Pods, who: Process | None, where: Flow) -> PodIdentity:
    found = pods.identify(who, where)
    assert found is not None
    return found


def changed(pods: Iterable[PodInfo], uid: str, **fields: object) -> list[PodInfo]:
    return [replace(pod, **fields) if pod.uid == uid else pod for pod in pods]  # type: ignore[arg-type]


def test_process_in_a_container_names_pod_container_and_workload(
    node: NodeTree, recorded: Kube
) -> None:
    assert pods_of(node, recorded).identify(process(), flow()) == PodIdentity(
        namespace="shop",
        name="db-0",
        uid=DB_UID,
        node="node1",
        container="pg",
        workload=Workload("StatefulSet", "db"),
        host_network=False,
        evidence=PodEvidence.CGROUP,
        name_source=NameSource.API,
    )


@pytest.mark.parametrize("who", [None, Process(pid=42), Process(pid=42, unit="kubelet.service")])
def test_attempt_without_a_containers_process_is_told_by_its_namespace(
    node: NodeTree, recorded: Kube, who: Process | None
) -> None:
    found = identified(pods_of(node, recorded), who, flow(source="10.9.9.9"))
    assert (found.label, found.evidence, found.container) == ("shop/db-0", PodEvidence.NETNS, None)


def test_pod_whose_processes_cannot_be_seen_is_told_by_its_own_address(
    node: NodeTree, recorded: Kube
) -> None:
    pods = pods_of(node, recorded)
    for netns in (None, 4026539999):
        found = identified(pods, None, flow(netns))
        assert (found.label, found.evidence) == ("shop/db-0", PodEvidence.ADDRESS)


@pytest.mark.parametrize(
    "who",
    [
        Process(pid=42, unit="docker.service"),
        Process(pid=42, container_id=OTHER),
        Process(pid=42, executable="/bin/curl", command_line=("curl",)),
    ],
)
def test_process_that_was_read_and_is_in_no_pod_is_given_to_none_by_its_address(
    node: NodeTree, recorded: Kube, who: Process
) -> None:
    assert pods_of(node, recorded).identify(who, flow(4026539999)) is None


def test_address_of_a_pod_that_lives_in_another_namespace_is_somebody_elses(
    node: NodeTree, recorded: Kube
) -> None:
    pods = pods_of(node, recorded)
    identified(pods, None, flow(DB_NETNS))
    assert pods.identify(None, flow(4026539999)) is None


def test_attempt_of_a_pod_that_is_gone_keeps_its_name_and_a_later_one_has_none(
    node: NodeTree, recorded: Kube
) -> None:
    pods, begun_ns = pods_of(node, recorded), time.monotonic_ns()
    where = flow(source="10.9.9.9")
    identified(pods, None, where)
    for entry in node.proc.iterdir():
        if entry.name != "1":
            node.end_process(int(entry.name))
    assert pods.identify(None, where, time.monotonic_ns()) is None
    kept = pods.identify(None, where, begun_ns)
    assert kept is not None
    assert kept.label == "shop/db-0"


def test_cgroup_outweighs_namespace_and_address(node: NodeTree, recorded: Kube) -> None:
    found = identified(pods_of(node, recorded), process(HOSTNET_UID, HOSTNET), flow())
    assert (found.label, found.evidence) == ("shop/hostnet", PodEvidence.CGROUP)


def test_namespace_outweighs_address(node: NodeTree, recorded: Kube) -> None:
    found = identified(pods_of(node, recorded), None, flow(OTHER_NETNS, DB_ADDRESS))
    assert (found.uid, found.evidence) == (OTHER_UID, PodEvidence.NETNS)


def test_pod_in_the_nodes_network_is_told_by_its_cgroup(node: NodeTree, recorded: Kube) -> None:
    found = identified(
        pods_of(node, recorded), process(HOSTNET_UID, HOSTNET), flow(HOST, NODE_ADDRESS)
    )
    assert (found.label, found.container, found.host_network) == ("shop/hostnet", "c", True)


def test_nodes_own_namespace_and_address_are_no_pods(node: NodeTree, recorded: Kube) -> None:
    pods = pods_of(node, recorded)
    for where in (flow(HOST, NODE_ADDRESS), flow(HOST, DB_ADDRESS), flow(None, NODE_ADDRESS)):
        assert pods.identify(None, where) is None
        assert pods.identify(Process(pid=42, unit="kubelet.service"), where) is None


def test_container_outside_any_pod_is_no_pods(node: NodeTree, recorded: Kube) -> None:
    pods = pods_of(node, recorded)
    assert pods.identify(process(None, OTHER), flow(4026539999, "172.17.0.2")) is None


def test_sandbox_and_unlisted_containers_have_no_name(node: NodeTree, recorded: Kube) -> None:
    pods = pods_of(node, recorded)
    assert identified(pods, process(container_id=DB_SANDBOX), flow()).container is None
    assert identified(pods, process(container_id=None), flow()).container is None


def test_names_that_are_no_longer_kept_up_to_date_say_since_when(
    node: NodeTree, recorded: Kube
) -> None:
    pods = pods_of(node, recorded)
    current = identified(pods, process(), flow())
    recorded.names_wall_ns = 1_700_000_000_000_000_000
    assert identified(pods, process(), flow()) == replace(
        current, name_source=NameSource.CACHE, names_wall_ns=1_700_000_000_000_000_000
    )
    recorded.names_wall_ns = None
    assert identified(pods, process(), flow()) == current


def test_without_the_api_the_runtime_names_pod_and_container(node: NodeTree) -> None:
    node.add_containerd(
        DB,
        sandbox_namespace="shop",
        sandbox_name="db-0",
        sandbox_uid=DB_UID,
        container_name="pg",
        container_type="container",
    )
    assert pods_of(node).identify(process(), flow()) == PodIdentity(
        namespace="shop",
        name="db-0",
        uid=DB_UID,
        node="node1",
        container="pg",
        host_network=False,
        evidence=PodEvidence.CGROUP,
        name_source=NameSource.RUNTIME,
    )


def test_without_the_api_a_process_that_is_gone_is_named_through_its_pods_sandbox(
    node: NodeTree,
) -> None:
    node.add_containerd(DB_SANDBOX, sandbox_namespace="shop", sandbox_name="db-0")
    found = identified(pods_of(node), None, flow())
    assert (found.label, found.uid) == ("shop/db-0", DB_UID)
    assert (found.evidence, found.name_source) == (PodEvidence.NETNS, NameSource.RUNTIME)


def test_without_api_and_runtime_the_kubelets_logs_name_them(node: NodeTree) -> None:
    node.add_pod_logs(f"shop_db-0_{DB_UID}")
    node.add_container_log(f"db-0_shop_pg-{DB}.log")
    found = identified(pods_of(node), process(), flow())
    assert (found.label, found.container) == ("shop/db-0", "pg")
    assert found.name_source is NameSource.KUBELET


def test_pod_that_nobody_names_has_its_uid_alone(node: NodeTree, kube: Kube) -> None:
    for pods in (pods_of(node), pods_of(node, kube)):
        found = identified(pods, process(), flow())
        assert found == PodIdentity(
            uid=DB_UID, node="node1", host_network=False, evidence=PodEvidence.CGROUP
        )
        assert found.label == DB_UID


def test_names_complete_themselves_once_the_api_tells_them(node: NodeTree, kube: Kube) -> None:
    pods = pods_of(node, kube)
    assert identified(pods, process(), flow()).name is None
    node.add_pod_logs(f"shop_db-0_{DB_UID}")
    kube.tell(*recorded_pods())
    found = identified(pods, process(), flow())
    assert (found.label, found.container) == ("shop/db-0", "pg")
    assert found.name_source is NameSource.API


def test_container_started_after_the_pod_was_first_named_gets_its_name(
    node: NodeTree, kube: Kube
) -> None:
    kube.tell(*changed(recorded_pods(), DB_UID, containers=(ContainerInfo("pg", None),)))
    pods = pods_of(node, kube)
    assert identified(pods, process(), flow()).container is None
    kube.tell(*recorded_pods())
    assert identified(pods, process(), flow()).container == "pg"


def test_container_that_the_api_does_not_list_yet_is_named_by_the_node(
    node: NodeTree, kube: Kube
) -> None:
    kube.tell(*changed(recorded_pods(), DB_UID, containers=()))
    node.add_container_log(f"db-0_shop_pg-{DB}.log")
    found = identified(pods_of(node, kube), process(), flow())
    assert (found.container, found.name_source) == ("pg", NameSource.API)


def test_pod_that_is_deleted_keeps_its_name_for_the_attempts_that_still_end(
    node: NodeTree, recorded: Kube
) -> None:
    pods = pods_of(node, recorded)
    alive = identified(pods, process(), flow())
    by_namespace = identified(pods, None, flow())
    recorded.names.remove(Resource.PODS, "shop", "db-0")
    assert pods.identify(process(), flow()) == alive
    assert pods.identify(None, flow()) == by_namespace


def test_static_pod_is_known_to_the_api_by_the_kubelets_hash(node: NodeTree, kube: Kube) -> None:
    digest = "3b1f6c0d9e8a7b5c4d2e1f0a9b8c7d6e"
    mirror = next(pod for pod in recorded_pods() if pod.uid == DB_UID)
    kube.tell(replace(mirror, name="etcd-node1", config_hash=digest))
    found = identified(pods_of(node, kube), process(digest, DB), flow())
    assert (found.name, found.uid, found.container) == ("etcd-node1", DB_UID, "pg")


def test_own_network_interface_is_named(node: NodeTree, kube: Kube) -> None:
    note = json.dumps([{"eniId": "eni-0abc", "privateIp": DB_ADDRESS}])
    kube.tell(*changed(recorded_pods(), DB_UID, annotations={POD_ENI: note}))
    assert identified(pods_of(node, kube), process(), flow()).eni_id == "eni-0abc"


def test_network_of_a_process_in_another_pods_namespace_is_not_guessed(node: NodeTree) -> None:
    pods = pods_of(node)
    agent = process(HOSTNET_UID, HOSTNET)
    assert identified(pods, agent, flow(OTHER_NETNS)).host_network is None
    assert identified(pods, agent, flow(None)).host_network is None
    assert identified(pods, agent, flow(HOST)).host_network is True


def test_attempts_of_one_pod_share_one_identity(node: NodeTree, recorded: Kube) -> None:
    pods = pods_of(node, recorded)
    first = identified(pods, process(), flow())
    assert pods.identify(process(), flow()) is first
    recorded.tell(*recorded_pods()[1:], *recorded_pods()[:1])
    recorded.names.version += 1
    assert pods.identify(process(), flow()) is first, "made anew, and the same"


def test_identities_in_memory_are_bounded(
    node: NodeTree, recorded: Kube, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pod_module, "REMEMBERED", 4)
    pods = pods_of(node, recorded)
    for number in range(10):
        pods.identify(process(container_id=f"{DB[:-2]}{number:02}"), flow())
    assert len(pods._kept) == 4


def test_ten_thousand_attempts_of_one_pod_take_a_fraction_of_a_second(
    node: NodeTree, recorded: Kube
) -> None:
    pods, who, where = pods_of(node, recorded), process(), flow()
    began = time.thread_time()
    for _ in range(10_000):
        pods.identify(who, where)
        pods.identify(None, where)
    assert time.thread_time() - began < 0.5
