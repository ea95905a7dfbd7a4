"""Pods found through log folders, cgroups and namespaces of fake trees."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tracer.errors import NotPermitted, UsageError
from tracer.host.pods import PodOnNode, find_pod

RECORDED = Path(__file__).parents[1] / "fixtures/kube/proc-cgroups-v1-hybrid.txt"

DB_UID = "d3456794-3e99-4819-80bf-24f578359604"
OLD_UID = "a06be635-826a-4601-bb45-e46426d86dba"
STATIC_UID = "3b1f6c0d9e8a7b5c4d2e1f0a9b8c7d6e"
ID = "20b16a27f24c6f9fb2dbec4d7efe65a11fde2ed4cf410b9a3373b6d2fe4be146"
HOST, POD, NESTED = 4026531840, 4026532321, 4026532999


class Node:
    """A node's /proc and /var/log/pods below one folder."""

    def __init__(self, root: Path) -> None:
        self.proc = root / "proc"
        self.logs = root / "pods"
        self.proc.mkdir()
        self.logs.mkdir()
        self.add_process(1, HOST, "0::/init.scope\n")

    def add_process(self, pid: int, netns: int | None, cgroup: str) -> None:
        folder = self.proc / str(pid)
        (folder / "ns").mkdir(parents=True)
        (folder / "cgroup").write_text(cgroup)
        if netns is not None:
            (folder / "ns/net").symlink_to(f"net:[{netns}]")

    def add_logs(self, name: str, modified: int = 1_000) -> None:
        (self.logs / name).mkdir()
        os.utime(self.logs / name, (modified, modified))

    def find(self, spec: str) -> PodOnNode:
        return find_pod(spec, log_root=str(self.logs), proc=str(self.proc))


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


@pytest.fixture
def recorded(node: Node) -> Node:
    """The node of the recording, where shop/db-0 has this uid."""
    for record in RECORDED.read_text().split("pid=")[1:]:
        head, cgroup = record.split("\n", 1)
        pid, _, netns = head.split(" ")
        node.add_process(int(pid), int(netns.removeprefix("netns=net:[").rstrip("]")), cgroup)
    node.add_logs(f"shop_db-0_{DB_UID}")
    node.add_logs(f"shop_web-0_{OLD_UID}")
    return node


def deny_namespaces(monkeypatch: pytest.MonkeyPatch, *pids: int) -> None:
    readlink = os.readlink

    def denying(path: str) -> str:
        if any(f"/{pid}/ns/" in path for pid in pids):
            raise PermissionError(13, "Permission denied", path)
        return readlink(path)

    monkeypatch.setattr(os, "readlink", denying)


def container(uid: str) -> str:
    return f"0::/kubepods/burstable/pod{uid}/{ID}\n"


def test_recorded_pod_is_found_by_its_name(recorded: Node) -> None:
    assert recorded.find("shop/db-0") == PodOnNode(
        namespace="shop",
        name="db-0",
        uid=DB_UID,
        netns=frozenset({POD}),
        host_network=False,
    )


def test_static_pod_is_found_by_the_kubelets_hash(node: Node) -> None:
    node.add_logs(f"kube-system_etcd-node1.example_{STATIC_UID}")
    node.add_process(50, POD, container(STATIC_UID))
    assert node.find("kube-system/etcd-node1.example").uid == STATIC_UID


def test_pod_of_the_systemd_driver_is_found(node: Node) -> None:
    node.add_logs(f"shop_db-0_{DB_UID}")
    uid = DB_UID.replace("-", "_")
    path = f"/kubepods.slice/kubepods-pod{uid}.slice/cri-containerd-{ID}.scope"
    node.add_process(50, POD, f"0::{path}\n")
    assert node.find("shop/db-0").netns == {POD}


def test_pod_in_the_nodes_own_namespace_uses_the_host_network(node: Node) -> None:
    node.add_logs(f"shop_hostnet_{DB_UID}")
    node.add_process(50, HOST, container(DB_UID))
    found = node.find("shop/hostnet")
    assert found.host_network is True
    assert found.netns == {HOST}


def test_host_network_is_told_by_this_process_where_pid_1_is_denied(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.add_logs(f"shop_hostnet_{DB_UID}")
    node.add_logs(f"shop_db-0_{OLD_UID}")
    node.add_process(50, HOST, container(DB_UID))
    node.add_process(51, POD, container(OLD_UID))
    (node.proc / "self/ns").mkdir(parents=True)
    (node.proc / "self/ns/net").symlink_to(f"net:[{HOST}]")
    deny_namespaces(monkeypatch, 1)
    assert node.find("shop/hostnet").host_network is True
    assert node.find("shop/db-0").host_network is False


def test_every_namespace_of_the_pods_containers_is_given(node: Node) -> None:
    node.add_logs(f"shop_db-0_{DB_UID}")
    node.add_process(50, POD, container(DB_UID))
    node.add_process(51, NESTED, container(DB_UID))
    assert node.find("shop/db-0").netns == {POD, NESTED}


def test_monitor_in_the_pods_slice_does_not_lend_it_the_nodes_namespace(node: Node) -> None:
    node.add_logs(f"shop_db-0_{DB_UID}")
    node.add_process(49, HOST, f"0::/kubepods/pod{DB_UID}/crio-conmon-{ID}.scope\n")
    node.add_process(50, POD, container(DB_UID))
    found = node.find("shop/db-0")
    assert found.netns == {POD}
    assert found.host_network is False


def test_pod_without_known_containers_is_judged_by_what_runs_in_its_cgroup(node: Node) -> None:
    node.add_logs(f"shop_db-0_{DB_UID}")
    node.add_process(50, POD, f"0::/kubepods/pod{DB_UID}/kata_{ID}\n")
    assert node.find("shop/db-0").netns == {POD}


def test_newest_folder_wins_among_those_with_live_processes(node: Node) -> None:
    node.add_logs(f"shop_db-0_{STATIC_UID}", modified=3_000)
    node.add_logs(f"shop_db-0_{OLD_UID}", modified=1_000)
    node.add_logs(f"shop_db-0_{DB_UID}", modified=2_000)
    node.add_process(50, NESTED, container(OLD_UID))
    node.add_process(51, POD, container(DB_UID))
    found = node.find("shop/db-0")
    assert (found.uid, found.netns) == (DB_UID, frozenset({POD}))


def test_folder_without_live_processes_gives_way_to_an_older_one(node: Node) -> None:
    node.add_logs(f"shop_db-0_{OLD_UID}", modified=1_000)
    node.add_logs(f"shop_db-0_{DB_UID}", modified=2_000)
    node.add_process(50, POD, container(OLD_UID))
    assert node.find("shop/db-0").uid == OLD_UID


@pytest.mark.parametrize("spec", ["shop/db", "sho/db-0", "shop/db-0-1", "hop/db-0"])
def test_pod_with_a_similar_name_is_not_taken(recorded: Node, spec: str) -> None:
    with pytest.raises(UsageError, match=f"no pod {spec} "):
        recorded.find(spec)


def test_processes_that_vanish_are_skipped(recorded: Node) -> None:
    (recorded.proc / "40").mkdir()
    recorded.add_process(41, None, container(DB_UID))
    assert recorded.find("shop/db-0").netns == {POD}


def test_pod_of_which_only_a_vanishing_process_is_left_does_not_run(node: Node) -> None:
    node.add_logs(f"shop_db-0_{DB_UID}")
    node.add_process(41, None, container(DB_UID))
    with pytest.raises(UsageError, match="no pod shop/db-0 runs"):
        node.find("shop/db-0")


def test_pod_that_is_not_on_this_node_is_a_usage_error_that_says_where_it_looked(
    recorded: Node,
) -> None:
    with pytest.raises(UsageError) as raised:
        recorded.find("shop/db-1")
    assert f"{recorded.logs} has no folder shop_db-1_*" in str(raised.value)
    assert "kubectl get pod -n shop db-1" in raised.value.hint
    assert raised.value.exit_code == 2


def test_pod_that_no_longer_runs_is_a_usage_error_that_says_where_it_looked(node: Node) -> None:
    node.add_logs(f"shop_db-0_{DB_UID}")
    with pytest.raises(UsageError) as raised:
        node.find("shop/db-0")
    for looked_at in (str(node.logs), str(node.proc), DB_UID):
        assert looked_at in str(raised.value)
    assert raised.value.exit_code == 2


def test_machine_without_a_kubelet_is_a_usage_error_that_names_the_folder(node: Node) -> None:
    node.logs.rmdir()
    with pytest.raises(UsageError) as raised:
        node.find("shop/db-0")
    assert f"{node.logs}: No such file or directory" in str(raised.value)
    assert raised.value.exit_code == 2


def test_pod_whose_namespaces_are_denied_is_not_permitted(
    recorded: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    deny_namespaces(monkeypatch, 5587, 5734)
    with pytest.raises(NotPermitted, match="2 processes") as raised:
        recorded.find("shop/db-0")
    assert raised.value.exit_code == 3


def test_pod_of_which_one_namespace_is_denied_is_found_by_the_others(
    recorded: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    deny_namespaces(monkeypatch, 5587)
    assert recorded.find("shop/db-0").netns == {POD}


@pytest.mark.parametrize(
    "spec",
    [
        "",
        "db-0",
        "/db-0",
        "shop/",
        "shop/db-0/x",
        "Shop/db-0",
        "shop/db_0",
        "shop/-db",
        "shop/db-",
        "shop/db..0",
        "../db-0",
        "shop/..",
        "shop/*",
        "shop/db-0\n",
        "a" * 64 + "/db-0",
        "shop/" + ".".join(["a" * 60] * 5),
    ],
)
def test_malformed_name_is_a_usage_error(recorded: Node, spec: str) -> None:
    with pytest.raises(UsageError, match="does not name a pod") as raised:
        recorded.find(spec)
    assert repr(spec) in str(raised.value)
    assert "NAMESPACE/NAME" in raised.value.hint


def test_longest_allowed_names_are_looked_for(node: Node) -> None:
    with pytest.raises(UsageError, match="has no folder"):
        node.find("a" * 63 + "/" + ".".join(["b" * 63, "c" * 63, "d" * 63, "e" * 61]))
