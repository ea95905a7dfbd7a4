"""What is said of the pods of a scope: whether they are on this node, and when that changes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.nodetree import NodeTree, kubepods
from tracer.enrich.presence import Presence
from tracer.enrich.scope import PodScope
from tracer.host.nodepods import NodePods
from tracer.kube.names import Names, Resource
from tracer.kube.pod import PodInfo, read_pod

RECORDED = Path(__file__).parents[1] / "fixtures/kube/pods-on-node1.json"
UID = "0f0e0d0c-3e99-4819-80bf-24f578359604"
APP = "20b16a27f24c6f9fb2dbec4d7efe65a11fde2ed4cf410b9a3373b6d2fe4be146"


@pytest.fixture
def node(tmp_path: Path) -> NodeTree:
    return NodeTree(tmp_path)


def presence(node: NodeTree, names: Names | None, **scope: object) -> Presence:
    wanted = PodScope(**scope)  # type: ignore[arg-type]
    return Presence(wanted, names, NodePods(root=str(node.root), proc=str(node.proc)))


def recorded() -> Sequence[PodInfo]:
    items = json.loads(RECORDED.read_text())["items"]
    return [pod for pod in map(read_pod, items) if pod is not None]


def start(node: NodeTree) -> None:
    node.add_pod_logs(f"web_cart-0_{UID}")
    node.add_process(50, 7, kubepods(UID, APP))


def test_named_pod_is_told_to_be_absent_to_come_and_to_go_once_each(node: NodeTree) -> None:
    told = presence(node, None, pods=[("web", "cart-0"), ("web", "cart-1")])
    assert told.news() == "not on this node yet: pod web/cart-0, web/cart-1"
    assert told.news() is None
    start(node)
    assert told.news() == "on this node now: pod web/cart-0"
    assert told.news() is None
    node.end_process(50)
    assert told.news() == "no longer on this node: pod web/cart-0"


def test_log_folder_of_a_pod_that_is_gone_is_no_pod(node: NodeTree) -> None:
    node.add_pod_logs(f"web_cart-0_{UID}")
    assert presence(node, None, pods=[("web", "cart-0")]).news() is not None


def test_pod_that_the_api_server_tells_is_there(node: NodeTree) -> None:
    names = Names()
    told = presence(node, names, pods=[("shop", "db-0")])
    assert told.news() == "not on this node yet: pod shop/db-0"
    names.replace(Resource.PODS, recorded())
    assert told.news() == "on this node now: pod shop/db-0"
    names.replace(Resource.PODS, [replace(pod, phase="Succeeded") for pod in recorded()])
    assert told.news() == "no longer on this node: pod shop/db-0"


def test_namespace_without_a_pod_is_said_once(node: NodeTree) -> None:
    told = presence(node, None, namespaces=["web"])
    assert told.news() == "no pod of the scope is on this node yet"
    assert told.news() is None
    start(node)
    assert told.news() == "a pod of the scope is on this node now"
    node.end_process(50)
    assert told.news() == "no pod of the scope is on this node any more"


def test_selector_says_nothing_before_labels_are_known(node: NodeTree) -> None:
    names = Names()
    told = presence(node, names, selector="app=none")
    assert told.news() is None
    names.replace(Resource.PODS, recorded())
    assert told.news() == "no pod of the scope is on this node yet"


def test_selector_that_waited_for_labels_says_that_there_is_a_pod(node: NodeTree) -> None:
    names = Names()
    told = presence(node, names, selector="app=db")
    assert told.news() is None
    names.replace(Resource.PODS, recorded())
    assert told.news() == "a pod of the scope is on this node now"


def test_scope_whose_pods_are_there_is_no_news(node: NodeTree) -> None:
    names = Names()
    names.replace(Resource.PODS, recorded())
    assert presence(node, names, namespaces=["shop"], selector="app=db").news() is None
    assert presence(node, names, pods=[("shop", "db-0")]).news() is None
