"""What the node tells of its pods, from fake trees, and by a clock of the test's."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support.nodetree import CONTAINERD, HOST, NodeTree, kubepods
from tracer.host import nodepods
from tracer.host.nodepods import KnownPod, NodePods
from tracer.model import NameSource

UID = "d3456794-3e99-4819-80bf-24f578359604"
OTHER_UID = "a06be635-826a-4601-bb45-e46426d86dba"
SANDBOX = "f239ac8c10fc3456650cf4b8c2193dafa9b76813cf022d86ebc6bf9f124d0ae3"
APP = "20b16a27f24c6f9fb2dbec4d7efe65a11fde2ed4cf410b9a3373b6d2fe4be146"
NETNS = 4026532321

NAMED_BY_RUNTIME = KnownPod(UID, "shop", "cart-0", NameSource.RUNTIME)
NAMED_BY_KUBELET = KnownPod(UID, "shop", "cart-0", NameSource.KUBELET)


class Clock:
    def __init__(self) -> None:
        self.ns = 10**12

    def __call__(self) -> int:
        return self.ns

    def advance(self, seconds: float) -> None:
        self.ns += round(seconds * 1e9)


@pytest.fixture
def node(tmp_path: Path) -> NodeTree:
    return NodeTree(tmp_path)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def pods(node: NodeTree, clock: Clock) -> NodePods:
    return NodePods(root=str(node.root), proc=str(node.proc), clock_ns=clock)


def add_container(
    node: NodeTree, container_id: str = APP, uid: str = UID, name: str = "cart-0"
) -> None:
    node.add_containerd(
        container_id,
        sandbox_namespace="shop",
        sandbox_name=name,
        sandbox_uid=uid,
        container_name="app",
        container_type="container",
    )


def test_pod_is_named_by_what_the_runtime_noted_of_its_container(
    node: NodeTree, pods: NodePods
) -> None:
    add_container(node)
    node.add_pod_logs(f"shop_cart-0_{UID}")
    assert pods.pod(UID, APP) == NAMED_BY_RUNTIME
    assert pods.container(APP) == "app"


def test_pod_is_named_by_a_sandbox_that_was_met_in_its_namespace(
    node: NodeTree, pods: NodePods
) -> None:
    node.add_containerd(
        SANDBOX, sandbox_namespace="shop", sandbox_name="cart-0", container_type="sandbox"
    )
    node.add_process(50, NETNS, kubepods(UID, SANDBOX))
    assert pods.pod_in(NETNS) == UID
    assert pods.pod(UID) == NAMED_BY_RUNTIME
    assert pods.pod(OTHER_UID) is None


def test_pod_met_in_its_namespace_gets_its_name_a_moment_later(
    node: NodeTree, pods: NodePods, clock: Clock
) -> None:
    node.add_process(50, NETNS, kubepods(UID, SANDBOX))
    assert pods.pod_in(NETNS) == UID
    assert pods.pod(UID) == KnownPod(UID)
    node.add_containerd(SANDBOX, sandbox_namespace="shop", sandbox_name="cart-0")
    assert pods.pod(UID) == KnownPod(UID)
    clock.advance(0.25)
    assert pods.pod(UID) == NAMED_BY_RUNTIME


def test_container_that_the_runtime_noted_for_another_pod_names_none(
    node: NodeTree, pods: NodePods
) -> None:
    add_container(node, uid=OTHER_UID, name="db-0")
    assert pods.pod(UID, APP) is None


def test_pod_without_a_runtimes_note_is_named_by_the_kubelets_logs(
    node: NodeTree, pods: NodePods
) -> None:
    node.add_pod_logs(f"shop_cart-0_{UID}")
    node.add_container_log(f"cart-0_shop_app-{APP}.log")
    assert pods.pod(UID, APP) == NAMED_BY_KUBELET
    assert pods.pod(UID) == NAMED_BY_KUBELET
    assert pods.container(APP) == "app"


def test_release_that_notes_the_container_alone_leaves_the_pods_name_to_the_logs(
    node: NodeTree, pods: NodePods
) -> None:
    node.add_containerd(APP, container_name="app")
    node.add_pod_logs(f"shop_cart-0_{UID}")
    assert pods.pod(UID, APP) == NAMED_BY_KUBELET
    assert pods.container(APP) == "app"


def test_node_that_knows_nothing_says_nothing(pods: NodePods) -> None:
    assert pods.pod(UID, APP) is None
    assert pods.container(APP) is None
    assert pods.pod_in(NETNS) is None
    assert pods.host_netns == HOST


def test_pods_that_run_are_those_of_processes_not_of_folders(
    node: NodeTree, pods: NodePods
) -> None:
    add_container(node)
    node.add_process(50, NETNS, kubepods(UID, APP))
    node.add_pod_logs(f"shop_db-0_{OTHER_UID}")
    assert pods.running() == {("shop", "cart-0")}
    node.add_process(51, HOST, kubepods(OTHER_UID, SANDBOX))
    assert pods.running() == {("shop", "cart-0"), ("shop", "db-0")}


def test_sandbox_has_no_containers_name(node: NodeTree, pods: NodePods) -> None:
    node.add_containerd(SANDBOX, sandbox_namespace="shop", sandbox_name="cart-0")
    assert pods.container(SANDBOX) is None


def test_names_are_kept_when_the_pod_is_gone(node: NodeTree, pods: NodePods, clock: Clock) -> None:
    add_container(node)
    node.add_pod_logs(f"shop_db-0_{OTHER_UID}")
    pods.pod(UID, APP)
    pods.pod(OTHER_UID)
    shutil.rmtree(node.root / CONTAINERD)
    shutil.rmtree(node.root / "var")
    clock.advance(3_600)
    assert pods.pod(UID) == NAMED_BY_RUNTIME
    assert pods.container(APP) == "app"
    assert pods.pod(OTHER_UID) == KnownPod(OTHER_UID, "shop", "db-0", NameSource.KUBELET)


def test_log_folder_made_later_is_found_without_listing_for_each_question(
    node: NodeTree, pods: NodePods, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed: list[str] = []
    read = pods._pod_logs._read

    def counting(folder: str) -> dict[str, tuple[str, str]]:
        listed.append(folder)
        return read(folder)

    monkeypatch.setattr(pods._pod_logs, "_read", counting)
    node.add_pod_logs(f"shop_db-0_{OTHER_UID}")
    for _ in range(10):
        assert pods.pod(UID) is None
        clock.advance(0.1)
    assert len(listed) == 1, "the folder did not change"
    node.add_pod_logs(f"shop_cart-0_{UID}")
    clock.advance(0.25)
    assert pods.pod(UID) == NAMED_BY_KUBELET
    assert len(listed) == 2


def test_folder_is_listed_anew_in_time_even_if_it_seems_unchanged(
    node: NodeTree, pods: NodePods, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.add_pod_logs(f"shop_db-0_{OTHER_UID}")
    assert pods.pod(UID) is None
    monkeypatch.setattr(pods._pod_logs, "_read", lambda _: {UID: ("shop", "cart-0")})
    clock.advance(1.9)
    assert pods.pod(UID) is None
    clock.advance(0.25)
    assert pods.pod(UID) == NAMED_BY_KUBELET


def test_what_is_remembered_is_bounded(
    node: NodeTree, pods: NodePods, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nodepods, "REMEMBERED", 3)
    node.add_process(50, NETNS, kubepods(UID, SANDBOX))
    pods.pod_in(NETNS)
    for number in range(10):
        pods.pod(f"{UID[:-2]}{number:02}", f"{APP[:-2]}{number:02}")
    assert len(pods._pods._answers) == 3
    assert len(pods._containers._answers) == 3
    assert len(pods._containers_of) == 1
