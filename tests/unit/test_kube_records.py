"""What is kept of pods, services, endpoint slices and nodes: recorded answers, and broken ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracer.errors import KubeError
from tracer.kube.pod import PodInfo, PodOwner, eni_id, parse_pod, pod_document, read_pod
from tracer.kube.records import (
    EndpointRecord,
    NodeRecord,
    ServicePort,
    ServiceRecord,
    SliceRecord,
    canonical,
    node_document,
    read_node,
    read_service,
    read_slice,
    service_document,
    slice_document,
)
from tracer.model import Workload

RECORDED = Path(__file__).parents[1] / "fixtures/kube"

Document = dict[str, Any]
NODE: Document = json.loads((RECORDED / "node-node1.json").read_text())


def items(name: str) -> list[Document]:
    found: list[Document] = json.loads((RECORDED / name).read_text())["items"]
    return found


def watched() -> list[Document]:
    lines = (RECORDED / "pods-watch.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def pod(**parts: object) -> Document:
    """A pod's metadata with `parts`, and no more."""
    return {"metadata": {"namespace": "shop", "name": "web-0", "uid": "u-1"} | parts}


def mirrored(digest: str) -> dict[str, str]:
    """The annotations of a static pod's mirror."""
    return dict.fromkeys(("kubernetes.io/config.hash", "kubernetes.io/config.mirror"), digest)


def owned(kind: str, name: str, owner: Document | None = None, **parts: object) -> PodInfo:
    reference = {"kind": kind, "name": name, "controller": True} | (owner or {})
    found = read_pod(pod(ownerReferences=[reference], **parts))
    assert found is not None
    return found


# -- pods ------------------------------------------------------------------------------------------


def test_recorded_pods_belong_to_their_workloads() -> None:
    found = {
        one.name: one for document in items("pods-on-node1.json") if (one := read_pod(document))
    }
    assert {name: one.workload for name, one in found.items()} == {
        "checkout-cb5cf55df-9rn26": Workload("Deployment", "checkout"),
        "checkout-cb5cf55df-jc26l": Workload("Deployment", "checkout"),
        "db-0": Workload("StatefulSet", "db"),
        "hostnet": None,
        "nightly-29921139-4djv8": Workload("CronJob", "nightly"),
        "nightly-29921140-sd277": Workload("CronJob", "nightly"),
    }
    assert found["db-0"].labels["app"] == "db"
    assert found["db-0"].created == "2026-11-21T13:38:36Z"
    assert found["hostnet"].host_network
    assert [name for name, one in found.items() if one.gone] == ["nightly-29921139-4djv8"]


def test_a_bookmark_is_no_pod() -> None:
    bookmarks = [event["object"] for event in watched() if event["type"] == "BOOKMARK"]
    assert [read_pod(document) for document in bookmarks] == [None]


def test_every_recorded_event_but_the_bookmark_tells_of_a_pod() -> None:
    assert all(read_pod(event["object"]) for event in watched() if event["type"] != "BOOKMARK")


def test_a_deployment_is_told_by_the_hash_that_ends_its_replica_sets_name() -> None:
    labels = {"pod-template-hash": "7d4b9c6f5"}
    assert owned("ReplicaSet", "web-7d4b9c6f5", labels=labels).workload == Workload(
        "Deployment", "web"
    )
    assert owned("ReplicaSet", "my-web-7d4b9c6f5", labels=labels).workload == Workload(
        "Deployment", "my-web"
    )


def test_a_rollout_is_told_by_the_label_that_argo_gives_its_pods() -> None:
    labels = {"rollouts-pod-template-hash": "6bf8c5d5d"}
    found = owned("ReplicaSet", "web-6bf8c5d5d", labels=labels)
    assert found.workload == Workload("Rollout", "web")


@pytest.mark.parametrize(
    "labels",
    [
        {},
        {"pod-template-hash": "another"},
        {"pod-template-hash": ""},
        {"pod-template-hash": None},
        {"app": "7d4b9c6f5"},
    ],
)
def test_a_replica_set_without_its_hash_stands_for_itself(labels: Document) -> None:
    found = owned("ReplicaSet", "web-7d4b9c6f5", labels=labels)
    assert found.workload == Workload("ReplicaSet", "web-7d4b9c6f5")


def test_a_replica_set_whose_name_is_the_hash_alone_stands_for_itself() -> None:
    for name in ("-7d4b9c6f5", "7d4b9c6f5"):
        found = owned("ReplicaSet", name, labels={"pod-template-hash": "7d4b9c6f5"})
        assert found.workload == Workload("ReplicaSet", name)


@pytest.mark.parametrize(
    ("job", "created", "cron_job"),
    [
        ("backup-29012345", None, "backup"),
        ("backup-29012345", "2025-02-28T13:45:01Z", "backup"),
        ("nightly-backup-29012345", "2025-02-28T13:45:01Z", "nightly-backup"),
        # pods of a Job that runs for long, and clocks that differ
        ("backup-29012345", "2025-06-01T00:00:00Z", "backup"),
        ("backup-29012345", "2025-02-28T13:40:00Z", "backup"),
        # Kubernetes before 1.21
        ("backup-1740750300", "2025-02-28T13:45:01Z", "backup"),
        # a time that is not the pod's
        ("backup-29012345", "2025-02-27T00:00:00Z", None),
        ("backup-29012345", "2027-02-28T13:45:01Z", None),
        # numbers that are no such time: a date, a build, a count
        ("backup-20250228", "2025-02-28T13:45:01Z", None),
        ("backup-28022025", "2025-02-28T13:45:01Z", None),
        ("backup-20250228", None, None),
        ("backup-1234567890", None, None),
        ("backup-2901234", None, None),
        ("backup-290123456", None, None),
        ("backup-29012345-retry", None, None),
        ("backup29012345", None, None),
        ("29012345", None, None),
        ("-29012345", None, None),
        ("backup-٢٩٠١٢٣٤٥", None, None),
        ("backup", None, None),
        # times that are none
        ("backup-29012345", "yesterday", "backup"),
        ("backup-29012345", "2025-02-28T13:45:01", "backup"),
    ],
)
def test_a_cron_job_is_told_by_a_scheduled_time_that_ends_its_jobs_name(
    job: str, created: str | None, cron_job: str | None
) -> None:
    found = owned("Job", job, creationTimestamp=created).workload
    assert found == (Workload("CronJob", cron_job) if cron_job else Workload("Job", job))


@pytest.mark.parametrize("kind", ["StatefulSet", "DaemonSet", "Node", "ReplicationController"])
def test_other_owners_stand_for_themselves(kind: str) -> None:
    found = owned(kind, "web-7d4b9c6f5", labels={"pod-template-hash": "7d4b9c6f5"})
    assert found.workload == Workload(kind, "web-7d4b9c6f5")


def test_nothing_is_made_of_the_names_of_owners_of_another_api() -> None:
    job = owned("Job", "train-29012345", owner={"apiVersion": "batch.volcano.sh/v1alpha1"})
    assert job.workload == Workload("Job", "train-29012345")
    replica_set = owned(
        "ReplicaSet",
        "web-7d4b9c6f5",
        labels={"pod-template-hash": "7d4b9c6f5"},
        owner={"apiVersion": "apps.example.com/v1"},
    )
    assert replica_set.workload == Workload("ReplicaSet", "web-7d4b9c6f5")
    builtin = owned("Job", "backup-29012345", owner={"apiVersion": "batch/v1"})
    assert builtin.workload == Workload("CronJob", "backup")


def test_an_owner_that_does_not_control_the_pod_is_none() -> None:
    found = owned("ReplicaSet", "web-1", owner={"controller": False})
    assert (found.owner, found.workload) == (None, None)


def test_a_static_pod_has_the_hash_that_its_cgroup_carries() -> None:
    found = owned("Node", "node1", annotations=mirrored("3b1f6c0d9e8a7b5c"))
    assert found.config_hash == "3b1f6c0d9e8a7b5c"
    assert found.annotations == {}


def test_only_a_mirror_pod_of_its_node_has_such_a_hash() -> None:
    config, mirror = mirrored("3b1f")
    alone = owned("Node", "node1", annotations={config: "3b1f"})
    other = owned("Node", "node1", annotations={config: "3b1f", mirror: "3b20"})
    of_a_set = owned("ReplicaSet", "web", annotations=mirrored("3b1f"))
    of_nobody = read_pod(pod(annotations=mirrored("3b1f")))
    assert of_nobody is not None
    assert [one.config_hash for one in (alone, other, of_a_set, of_nobody)] == [None] * 4


ENI = "vpc.amazonaws.com/pod-eni"


@pytest.mark.parametrize(
    ("note", "kept"),
    [
        (
            [{"eniId": "eni-0123456789abcdef0", "subnetCidr": "x" * 250_000}],
            "eni-0123456789abcdef0",
        ),
        ([{"eniId": "eni-01234567"}], "eni-01234567"),
        ([{"eniId": "eni-0123456"}], None),
        ([{"eniId": "eni-" + "0" * 250_000}], None),
        ([{"eniId": "eni-01234567; rm -rf /"}], None),
        ([], None),
    ],
)
def test_nothing_is_kept_of_a_note_of_interfaces_but_an_id(note: object, kept: str | None) -> None:
    found = read_pod(pod(annotations={ENI: json.dumps(note)}))
    assert found is not None
    assert eni_id(found.annotations) == kept
    assert sum(map(len, found.annotations.values())) < 50
    assert bool(found.annotations) == (kept is not None)


def test_what_pods_have_in_common_is_kept_once() -> None:
    first, second = (read_pod(one) for one in deepcopy(items("pods-on-node1.json")[:2]))
    assert first is not None
    assert second is not None
    assert first.node is second.node
    assert first.labels["app"] is second.labels["app"]
    assert first.containers[0].name is second.containers[0].name


@pytest.mark.parametrize("missing", ["namespace", "name", "uid"])
@pytest.mark.parametrize("value", [None, "", 7, ["web"]])
def test_a_pod_without_namespace_name_or_uid_is_none(missing: str, value: object) -> None:
    document = pod(**{missing: value})
    assert read_pod(document) is None
    with pytest.raises(KubeError):
        parse_pod(document, "shop", "web-0")


# -- services --------------------------------------------------------------------------------------


def test_recorded_services_are_kept_with_what_names_follow_from() -> None:
    http = ServicePort("http", "TCP", 80)
    assert [read_service(document) for document in items("services.json")] == [
        ServiceRecord(
            "default", "kubernetes", ("10.96.0.1",), (ServicePort("https", "TCP", 443),), False
        ),
        ServiceRecord("shop", "checkout", ("10.96.162.209",), (http,)),
        ServiceRecord("shop", "headless", (), (ServicePort("http", "TCP", 8080),)),
        ServiceRecord("shop", "noendpoints", ("10.96.168.46",), (ServicePort("", "TCP", 5432),)),
    ]


def test_a_service_answers_at_cluster_external_and_load_balancer_addresses() -> None:
    found = read_service(
        {
            "metadata": {"namespace": "shop", "name": "web"},
            "spec": {
                "clusterIP": "10.96.0.7",
                "clusterIPs": ["10.96.0.7", "FD00:0:0::7"],
                "externalIPs": ["203.0.113.7"],
                "ports": [
                    {"name": "dns", "protocol": "UDP", "port": 53},
                    {"name": "http", "port": 80, "nodePort": 30080},
                ],
            },
            "status": {
                "loadBalancer": {
                    "ingress": [{"ip": "198.51.100.7"}, {"hostname": "lb.example.com"}]
                }
            },
        }
    )
    assert found == ServiceRecord(
        "shop",
        "web",
        ("10.96.0.7", "fd00::7", "203.0.113.7", "198.51.100.7"),
        (ServicePort("dns", "UDP", 53), ServicePort("http", "TCP", 80, 30080)),
        has_selector=False,
    )


@pytest.mark.parametrize("number", [0, -1, 65_536, True, "80", 80.0, None, [80]])
def test_a_port_that_is_none_is_left_out(number: object) -> None:
    found = read_service(
        {
            "metadata": {"namespace": "shop", "name": "web"},
            "spec": {"ports": [{"port": number}, "80", {"port": 81, "nodePort": number}]},
        }
    )
    assert found is not None
    assert found.ports == (ServicePort("", "TCP", 81),)


# -- endpoint slices -------------------------------------------------------------------------------


def test_recorded_slices_are_kept_with_their_endpoints() -> None:
    ready = tuple(
        EndpointRecord(address, True, f"shop/checkout-cb5cf55df-{name}", "node1")
        for address, name in (("10.88.64.3", "9rn26"), ("10.88.64.2", "jc26l"))
    )
    http = (("http", 8080),)
    assert [read_slice(document) for document in items("endpointslices.json")][-3:] == [
        SliceRecord("shop", "checkout-pmg8m", "checkout", 4, http, ready),
        SliceRecord("shop", "headless-7nwl2", "headless", 4, http, ready),
        SliceRecord("shop", "noendpoints-ddj57", "noendpoints", 4, (), ()),
    ]


def endpoint_slice(**parts: object) -> Document:
    return {
        "metadata": {
            "namespace": "shop",
            "name": "web-1",
            "labels": {"kubernetes.io/service-name": "web"},
        },
        "addressType": "IPv4",
    } | parts


@pytest.mark.parametrize(
    ("conditions", "ready"),
    [
        ({"ready": True}, True),
        ({"ready": False}, False),
        ({"ready": None}, True),
        ({}, True),
        (None, True),
        ({"ready": False, "serving": True, "terminating": True}, False),
    ],
)
def test_an_endpoint_is_ready_unless_the_api_says_otherwise(
    conditions: Document | None, ready: bool
) -> None:
    document = endpoint_slice(endpoints=[{"addresses": ["10.0.0.1"], "conditions": conditions}])
    found = read_slice(document)
    assert found is not None
    assert [one.ready for one in found.endpoints] == [ready]


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ({"kind": "Pod", "name": "web-0", "namespace": "shop"}, "shop/web-0"),
        ({"kind": "Pod", "name": "web-0"}, "shop/web-0"),
        ({"kind": "Pod", "name": "etcd-0", "namespace": "kube-system"}, None),  # nobody's to say
        ({"kind": "Pod"}, None),
        ({"kind": "Node", "name": "node1"}, None),
        (None, None),
    ],
)
def test_an_endpoint_names_its_pod_where_it_is_one(
    target: Document | None, expected: str | None
) -> None:
    document = endpoint_slice(endpoints=[{"addresses": ["10.0.0.1"], "targetRef": target}])
    found = read_slice(document)
    assert found is not None
    assert [one.pod for one in found.endpoints] == [expected]


def test_an_endpoints_first_address_counts_as_it_does_for_kube_proxy() -> None:
    document = endpoint_slice(
        addressType="IPv6",
        endpoints=[
            {"addresses": ["FD00::1", "fd00::2"]},
            {"addresses": []},
            {"addresses": None},
            {"addresses": ["web.example.com"]},
            {},
        ],
        ports=[{"name": "http", "port": None}, {"name": "dns", "port": 53, "protocol": "UDP"}],
    )
    found = read_slice(document)
    assert found is not None
    assert [one.address for one in found.endpoints] == ["fd00::1"]
    assert (found.family, found.ports) == (6, (("http", None),))


@pytest.mark.parametrize(
    "document",
    [
        endpoint_slice(addressType="FQDN"),
        endpoint_slice(addressType=None),
        endpoint_slice(addressType=["IPv4"]),
        endpoint_slice(metadata={"namespace": "shop", "name": "web-1"}),
        endpoint_slice(metadata={"namespace": "shop", "name": "web-1", "labels": {}}),
        endpoint_slice(metadata=None),
    ],
)
def test_a_slice_of_no_service_or_without_addresses_is_none(document: Document) -> None:
    assert read_slice(document) is None


# -- nodes -----------------------------------------------------------------------------------------


def test_the_recorded_node_is_kept_with_its_addresses() -> None:
    assert read_node(NODE) == NodeRecord("node1", ("192.0.2.2",))


def test_a_node_has_internal_and_external_addresses_and_no_host_names() -> None:
    document = {
        "metadata": {"name": "node1"},
        "status": {
            "addresses": [
                {"type": "InternalIP", "address": "192.0.2.2"},
                {"type": "ExternalIP", "address": "2001:DB8::2"},
                {"type": "Hostname", "address": "192.0.2.9"},
                {"type": ["InternalIP"], "address": "192.0.2.8"},
                {"type": "InternalIP", "address": None},
            ]
        },
    }
    assert read_node(document) == NodeRecord("node1", ("192.0.2.2", "2001:db8::2"))


# -- all -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("FD00:0:0:0:0:0:0:1", "fd00::1"),
        ("2001:db8:0:1:1:1:1:1", "2001:db8:0:1:1:1:1:1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("010.0.0.1", None),
        ("10.0.0", None),
        ("fe80::1%eth0", None),
        ("None", None),
        ("", None),
        ("10.0.0.1\0", None),
        ("10.0.0.\ud800", None),
        (None, None),
        (167772161, None),
    ],
)
def test_addresses_are_kept_as_the_kernel_writes_them(
    address: object, expected: str | None
) -> None:
    assert canonical(address) == expected


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=5), inner)
)
READERS: tuple[Callable[[object], object], ...] = (read_pod, read_service, read_slice, read_node)


@pytest.mark.parametrize("read", READERS)
@given(document=JSON)
def test_any_document_is_read_or_is_none(
    read: Callable[[object], object], document: object
) -> None:
    assert read(document) is None


def leaves(document: object, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = (
        document.items()
        if isinstance(document, dict)
        else enumerate(document)
        if isinstance(document, list)
        else ()
    )
    return [path, *(leaf for key, one in inner for leaf in leaves(one, (*path, key)))]


def damaged(document: Document, path: tuple[Any, ...], value: object) -> object:
    if not path:
        return value
    copied = deepcopy(document)
    inner: Any = copied
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return copied


@pytest.mark.parametrize("value", [None, [], {}, "", 7, [None], {"": None}, [[]]])
@pytest.mark.parametrize(
    ("read", "document"),
    [
        (read_pod, items("pods-on-node1.json")[0]),
        (read_service, items("services.json")[1]),
        (read_slice, items("endpointslices.json")[-2]),
        (read_node, NODE),
    ],
)
def test_nothing_in_a_document_is_taken_for_granted(
    read: Callable[[object], object], document: Document, value: object
) -> None:
    trimmed = deepcopy(document)
    trimmed["metadata"].pop("managedFields", None)
    for path in leaves(trimmed):
        read(damaged(trimmed, path, value))


@pytest.mark.parametrize(
    ("name", "read", "write"),
    [
        ("services.json", read_service, service_document),
        ("endpointslices.json", read_slice, slice_document),
        ("pods-on-node1.json", read_pod, pod_document),
    ],
)
def test_what_is_written_of_a_record_reads_as_the_same_again(
    name: str, read: Callable[[object], Any], write: Callable[[Any], object]
) -> None:
    for document in items(name):
        record = read(document)
        assert read(json.loads(json.dumps(write(record)))) == record
    node = read_node(NODE)
    assert node is not None
    assert read_node(node_document(node)) == node


def test_a_pods_owner_reads_as_the_same_again_whatever_was_made_of_it() -> None:
    found = [
        owned("Job", "train-29012345", owner={"apiVersion": "batch.volcano.sh/v1alpha1"}),
        owned("Job", "backup-29012345"),
        owned("ReplicaSet", "web-1"),
        owned("ReplicaSet", "web-7d4b9", labels={"rollouts-pod-template-hash": "7d4b9"}),
        owned("Node", "node1", annotations=mirrored("3b1f")),
    ]
    assert [read_pod(pod_document(one)) for one in found] == found
    assert found[0].owner == PodOwner("Job", "train-29012345")


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({}, None),
        ({"containers": None, "initContainers": [{"name": "init"}]}, None),
        ({"containers": []}, {}),
        ({"containers": [{"name": "app"}, {"name": "proxy"}]}, {}),
        (
            {"containers": [{"name": "app", "ports": [{"name": "http", "containerPort": 80}]}]},
            {"http": 80},
        ),
        (
            {
                "containers": [{"name": "app"}],
                "initContainers": [
                    {
                        "name": "proxy",
                        "restartPolicy": "Always",
                        "ports": [
                            {"name": "http", "containerPort": 8080},
                            {"name": "dns", "containerPort": 53, "protocol": "UDP"},
                        ],
                    }
                ],
            },
            {"http": 8080},
        ),
    ],
)
def test_a_pods_named_ports_read_as_the_same_again(
    spec: Document, expected: dict[str, int] | None
) -> None:
    found = read_pod(pod() | {"spec": spec})
    assert found is not None
    assert found.named_ports == expected
    assert read_pod(json.loads(json.dumps(pod_document(found)))) == found


def test_what_is_written_of_a_pod_holds_none_of_its_secrets() -> None:
    document = pod(
        annotations={"example.com/token": "hunter2", "vpc.amazonaws.com/pod-eni": "[]"}
    ) | {"spec": {"containers": [{"name": "app", "env": [{"name": "P", "value": "hunter2"}]}]}}
    found = read_pod(document)
    assert found is not None
    assert "hunter2" not in json.dumps(pod_document(found))
