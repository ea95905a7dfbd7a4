"""What container runtimes keep on disk, as they write it and as they should not."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.nodetree import CONTAINERD, NodeTree
from tracer.host.runtime import (
    _LAYOUTS,
    MAX_FILE_BYTES,
    RuntimeContainer,
    _container,
    find_container,
)

ID = "20b16a27f24c6f9fb2dbec4d7efe65a11fde2ed4cf410b9a3373b6d2fe4be146"
UID = "d3456794-3e99-4819-80bf-24f578359604"
STATIC_UID = "3b1f6c0d9e8a7b5c4d2e1f0a9b8c7d6e"

APP = RuntimeContainer("shop", "cart-0", UID, "app")
SANDBOX = RuntimeContainer("shop", "cart-0", UID)

KUBELET_LABELS = {
    "io.kubernetes.pod.namespace": "shop",
    "io.kubernetes.pod.name": "cart-0",
    "io.kubernetes.pod.uid": UID,
    "io.kubernetes.container.name": "app",
}


@pytest.fixture
def node(tmp_path: Path) -> NodeTree:
    return NodeTree(tmp_path)


def find(node: NodeTree, container_id: str = ID) -> RuntimeContainer | None:
    return find_container(container_id, str(node.root))


@pytest.mark.parametrize(
    "state",
    [
        CONTAINERD,
        "run/k3s/containerd/io.containerd.runtime.v2.task/k8s.io",
        "run/k0s/containerd/io.containerd.runtime.v2.task/k8s.io",
        "var/snap/microk8s/common/run/containerd/io.containerd.runtime.v2.task/k8s.io",
    ],
)
def test_container_of_containerd_is_named_wherever_its_state_folder_is(
    node: NodeTree, state: str
) -> None:
    node.add_containerd(
        ID,
        state=state,
        sandbox_namespace="shop",
        sandbox_name="cart-0",
        sandbox_uid=UID,
        container_name="app",
        container_type="container",
    )
    assert find(node) == APP


def test_sandbox_of_containerd_names_its_pod_and_no_container(node: NodeTree) -> None:
    node.add_containerd(
        ID,
        sandbox_namespace="shop",
        sandbox_name="cart-0",
        sandbox_uid=UID,
        container_type="sandbox",
    )
    assert find(node) == SANDBOX


def test_containerd_before_1_7_notes_no_uid(node: NodeTree) -> None:
    node.add_containerd(ID, sandbox_namespace="shop", sandbox_name="cart-0", container_name="app")
    assert find(node) == RuntimeContainer("shop", "cart-0", None, "app")


def test_containerd_1_4_notes_the_container_alone(node: NodeTree) -> None:
    node.add_containerd(ID, container_name="app", container_type="container")
    assert find(node) == RuntimeContainer(name="app")


def test_static_pod_has_the_kubelets_hash(node: NodeTree) -> None:
    node.add_containerd(
        ID, sandbox_namespace="kube-system", sandbox_name="etcd-node1", sandbox_uid=STATIC_UID
    )
    assert find(node) == RuntimeContainer("kube-system", "etcd-node1", STATIC_UID)


def test_container_of_cri_o_is_named_by_the_kubelets_labels(node: NodeTree) -> None:
    node.add_crio(ID, {**KUBELET_LABELS, "io.kubernetes.cri-o.ContainerType": "container"})
    assert find(node) == APP


def test_sandbox_of_cri_o_names_no_container_whatever_the_pods_labels_say(node: NodeTree) -> None:
    node.add_crio(ID, {**KUBELET_LABELS, "io.kubernetes.cri-o.ContainerType": "sandbox"})
    assert find(node) == SANDBOX


def test_annotation_that_a_pods_owner_chose_renames_nothing_under_another_runtime(
    node: NodeTree,
) -> None:
    forged = {
        "io.kubernetes.cri.sandbox-namespace": "kube-system",
        "io.kubernetes.cri.sandbox-name": "etcd-node1",
    }
    node.add_crio(ID, {**KUBELET_LABELS, **forged})
    assert find(node) == APP


def test_container_of_cri_dockerd_is_named_by_its_labels(node: NodeTree) -> None:
    node.add_docker(ID, {**KUBELET_LABELS, "io.kubernetes.docker.type": "container"})
    assert find(node) == APP


def test_sandbox_of_cri_dockerd_names_no_container(node: NodeTree) -> None:
    node.add_docker(ID, {**KUBELET_LABELS, "io.kubernetes.docker.type": "podsandbox"})
    assert find(node) == SANDBOX


def test_container_of_plain_docker_has_no_pod(node: NodeTree) -> None:
    node.add_docker(ID, {"com.docker.compose.service": "db"})
    assert find(node) == RuntimeContainer()


def test_container_that_no_runtime_keeps_is_unknown(node: NodeTree) -> None:
    assert find(node) is None


@pytest.mark.parametrize("wrong", ["", "..", "../../etc", ID[:-1], ID + "0", ID.upper(), f"{ID}\n"])
def test_what_is_no_container_id_becomes_no_path(
    node: NodeTree, wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(*_: object) -> int:
        raise AssertionError("opened")

    monkeypatch.setattr(os, "open", opened)
    assert find(node, wrong) is None


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("sandbox_namespace", "Shop"),
        ("sandbox_namespace", "a" * 64),
        ("sandbox_namespace", ""),
        ("sandbox_name", "cart_0"),
        ("sandbox_name", "cart\x1b[2J"),
        ("sandbox_name", "a." * 127),
        ("sandbox_name", "../cart"),
    ],
)
def test_name_that_the_api_would_not_take_is_no_name(node: NodeTree, key: str, value: str) -> None:
    names = {"sandbox_namespace": "shop", "sandbox_name": "cart-0", key: value}
    node.add_containerd(ID, sandbox_uid=UID, container_name="app", **names)
    assert find(node) == RuntimeContainer(pod_uid=UID, name="app")


def test_uid_and_container_name_are_checked_too(node: NodeTree) -> None:
    node.add_containerd(
        ID,
        sandbox_namespace="shop",
        sandbox_name="cart-0",
        sandbox_uid="d3456794 \n",
        container_name="a.b",
    )
    assert find(node) == RuntimeContainer("shop", "cart-0")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '"annotations"',
        "[" * 200_000,
        '{"annotations": "text"}',
        '{"annotations": ["io.kubernetes.cri.sandbox-name"]}',
        "{}",
        "\0\xff",
        '{"annotations": {"a": ' + "9" * 5_000 + "}}",
    ],
)
def test_file_that_is_no_specification_tells_nothing(node: NodeTree, text: str) -> None:
    node.add_containerd(ID).write_text(text, encoding="latin-1")
    assert find(node) is None


def test_values_that_are_no_text_are_left_out(node: NodeTree) -> None:
    keys = {f"io.kubernetes.cri.{key}": 7 for key in ("sandbox-name", "sandbox-uid")}
    node.write(f"{CONTAINERD}/{ID}/config.json", {"annotations": keys})
    assert find(node) == RuntimeContainer()


def test_file_beyond_the_bound_is_not_read(node: NodeTree) -> None:
    file = node.add_containerd(ID, sandbox_namespace="shop", sandbox_name="cart-0")
    content = file.read_text()
    file.write_text(content + " " * (MAX_FILE_BYTES - len(content)))
    assert find(node) is not None
    file.write_text(content + " " * (MAX_FILE_BYTES - len(content) + 1))
    assert find(node) is None


def test_link_in_place_of_the_file_is_not_followed(node: NodeTree) -> None:
    file = node.add_containerd(ID, sandbox_namespace="shop", sandbox_name="cart-0")
    file.rename(file.with_name("elsewhere"))
    file.symlink_to("elsewhere")
    assert find(node) is None


def test_pipe_or_folder_in_place_of_the_file_does_not_stop_the_trace(node: NodeTree) -> None:
    file = node.add_containerd(ID)
    file.unlink()
    os.mkfifo(file)
    assert find(node) is None
    file.unlink()
    file.mkdir()
    assert find(node) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(
    document=JSON
    | st.fixed_dictionaries({"annotations": JSON})
    | st.dictionaries(st.sampled_from(sorted(KUBELET_LABELS)), JSON).map(
        lambda keys: {"annotations": keys, "Config": {"Labels": keys}}
    ),
    layout=st.sampled_from(_LAYOUTS),
)
def test_any_document_gives_names_or_nothing(document: object, layout: object) -> None:
    found = _container(json.dumps(document).encode(), layout)  # type: ignore[arg-type]
    if found is not None:
        assert (found.namespace is None) == (found.pod is None)
        for text in (found.namespace, found.pod, found.pod_uid, found.name):
            assert text is None or (text.isascii() and text.isprintable())
