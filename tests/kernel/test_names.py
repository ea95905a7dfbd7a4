"""What pods and destinations are called, as a user reads it in the events of the real program."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.support.client import CONNECT, Client
from tests.support.kube_api import KubeApi, slow
from tests.support.kube_server import make_certificates
from tests.support.kubepods import Driver, KubePod, kube_pod
from tests.support.netns import (
    CLIENT_V4,
    SERVER_V4,
    Namespace,
    PodPair,
    drop_forwarded,
    iptables,
    pod_pair,
)
from tests.support.tracer import Event, Tracer, get
from tests.support.wait import wait_until
from tracer.kube.cache import cache_file

PORT = 8443
SEEN_SECONDS = 20
NODE = "node-1"
BACKENDS = pytest.mark.parametrize("backend", ["bpf", "poll"])

# Connects, hands the socket to a child in another container's place, and is gone at once.
SHORT_LIVED = """
import os, socket, sys, time
os.read(0, 1)
s = socket.socket()
s.setblocking(False)
try:
    s.connect((sys.argv[1], int(sys.argv[2])))
except BlockingIOError:
    pass
if os.fork():
    os._exit(0)
time.sleep(60)
"""


@contextmanager
def silent_pods(count: int) -> Iterator[list[PodPair]]:
    """Pods whose SYNs are dropped on their way to the other side."""
    with ExitStack() as stack:
        pairs = [stack.enter_context(pod_pair()) for _ in range(count)]
        for pair in pairs:
            drop_forwarded(pair)
        yield pairs


@contextmanager
def deaf_listener() -> Iterator[int]:
    """A port of the loopback whose listener's backlog is full: what comes now is not answered."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        port: int = listener.getsockname()[1]
        stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=5))
        yield port


def stuck_client(netns: Namespace, pod: KubePod, container: str) -> Client:
    """An application of a pod's container, which waits for go() to connect."""
    client = Client(netns, SERVER_V4, PORT, "--wait", "--hold")
    client.wait_ready()
    pod.containers[container].add(client.pid)
    return client


def stuck_in(tracer: Tracer, netns: int, pid: int | None = None) -> Event:
    return tracer.wait_for(
        lambda event: (
            event["event"] == "attempt.stuck"
            and event["netns"] == netns
            and (pid is None or get(event, "process.pid") == pid)
        ),
        SEEN_SECONDS,
        f"a stuck attempt in {netns}",
    )


def pod_of(event: Event) -> tuple[str, str, str, str]:
    """Pod, container, evidence, and who told the name."""
    keys = ("k8s.pod.name", "k8s.container.name", "k8s.pod.evidence", "k8s.pod.name_source")
    name, container, evidence, source = (get(event, key) for key in keys)
    return name, container, evidence, source


@BACKENDS
def test_attempts_of_every_kind_of_pod_carry_its_name(tmp_path: Path, backend: str) -> None:
    with (
        silent_pods(3) as (own, other, late),
        kube_pod(
            own.client, runtime=True, containers=("app", "proxy"), driver=Driver.SYSTEMD
        ) as pod,
        kube_pod(other.client, logs=True) as short_lived,
        kube_pod(None, runtime=True) as on_the_node,
        deaf_listener() as deaf,
    ):
        clients = [stuck_client(own.client, pod, name) for name in ("app", "proxy")]
        brief = other.client.popen(
            [sys.executable, "-S", "-E", "-c", SHORT_LIVED, SERVER_V4, str(PORT)],
            stdin=subprocess.PIPE,
        )
        short_lived.containers["app"].add(brief.pid)
        node_client = subprocess.Popen(
            [
                *(sys.executable, "-S", "-E", str(CONNECT)),
                *("127.0.0.1", str(deaf), "--wait", "--hold"),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
        )
        on_the_node.containers["app"].add(node_client.pid)
        with Tracer(tmp_path, "--backend", backend) as tracer:
            for client in clients:
                client.go()
            for process in (brief, node_client):
                assert process.stdin is not None
                process.stdin.write(b"\n")
                process.stdin.flush()
            with kube_pod(late.client, logs=True) as later:
                newcomer = stuck_client(late.client, later, "app")
                newcomer.go()
                found = {
                    "app": stuck_in(tracer, own.client.inode, clients[0].pid),
                    "proxy": stuck_in(tracer, own.client.inode, clients[1].pid),
                    "short": stuck_in(tracer, other.client.inode),
                    "late": stuck_in(tracer, late.client.inode),
                }
                own_netns = Path("/proc/self/ns/net").stat().st_ino
                found["node"] = stuck_in(tracer, own_netns, node_client.pid)
                newcomer.kill()
            tracer.stop()
        for client in clients:
            client.kill()
        node_client.kill()
        node_client.communicate()
    assert pod_of(found["app"]) == (pod.name, "app", "cgroup", "runtime")
    assert pod_of(found["proxy"]) == (pod.name, "proxy", "cgroup", "runtime")
    assert get(found["short"], "k8s.pod.name") == short_lived.name
    assert get(found["short"], "k8s.pod.name_source") == "kubelet"
    if backend == "bpf":
        assert get(found["short"], "k8s.pod.evidence") == "netns", "the process is gone"
    assert pod_of(found["late"]) == (later.name, "app", "cgroup", "kubelet")
    assert pod_of(found["node"]) == (on_the_node.name, "app", "cgroup", "runtime")


def pod_document(pod: KubePod, address: str) -> dict[str, object]:
    """What the API server would say of a pod of a Deployment."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "namespace": pod.namespace,
            "name": pod.name,
            "uid": pod.uid,
            "labels": {"app": "web", "pod-template-hash": "7d4b9c6f5"},
            "ownerReferences": [
                {"kind": "ReplicaSet", "name": "web-7d4b9c6f5", "uid": "1", "controller": True}
            ],
        },
        "spec": {"nodeName": NODE, "containers": [{"name": "app", "image": "web"}]},
        "status": {
            "phase": "Running",
            "podIP": address,
            "podIPs": [{"ip": address}],
            "containerStatuses": [
                {"name": "app", "containerID": f"containerd://{pod.containers['app'].id}"}
            ],
        },
    }


def service_documents() -> tuple[dict[str, object], dict[str, object]]:
    """A service whose only endpoint is the other side, and is not ready."""
    service: dict[str, object] = {
        "metadata": {"namespace": "shop", "name": "db", "uid": "s"},
        "spec": {
            "clusterIP": "10.96.0.10",
            "clusterIPs": ["10.96.0.10"],
            "selector": {"app": "db"},
            "ports": [{"port": 5432, "protocol": "TCP", "targetPort": PORT}],
        },
    }
    endpoints: dict[str, object] = {
        "metadata": {
            "namespace": "shop",
            "name": "db-x",
            "uid": "e",
            "labels": {"kubernetes.io/service-name": "db"},
        },
        "addressType": "IPv4",
        "ports": [{"port": PORT, "protocol": "TCP"}],
        "endpoints": [
            {
                "addresses": [SERVER_V4],
                "conditions": {"ready": False},
                "targetRef": {"kind": "Pod", "name": "db-0", "namespace": "shop"},
            }
        ],
    }
    return service, endpoints


@pytest.fixture
def api(tmp_path_factory: pytest.TempPathFactory) -> KubeApi:
    """Not started yet."""
    return KubeApi(make_certificates(tmp_path_factory.mktemp("certificates")))


@pytest.fixture
def silent() -> Iterator[PodPair]:
    with silent_pods(1) as (pair,):
        yield pair


def fill(api: KubeApi, pod: KubePod) -> None:
    service, endpoints = service_documents()
    api.put("pods", pod_document(pod, CLIENT_V4))
    api.put("services", service)
    api.put("endpointslices", endpoints)
    api.put("nodes", {"metadata": {"name": NODE, "uid": "n"}, "status": {"addresses": []}})


def options(kubeconfig: Path, cache: Path) -> tuple[str, ...]:
    return (
        *("--kubeconfig", str(kubeconfig)),
        *("--cache-dir", str(cache)),
        *("--node-name", NODE),
    )


def only(netns: Namespace) -> tuple[str, str]:
    """What to trace: a storm of another test would keep this one's tracer busy."""
    return "--netns", str(netns.inode)


def health_of(tracer: Tracer, state: str) -> Event:
    return tracer.wait_for(
        lambda event: get(event, "tracer.kube.state") == state, SEEN_SECONDS, f"names {state}"
    )


@BACKENDS
def test_services_workloads_and_backends_are_named_by_the_cluster(
    tmp_path: Path, api: KubeApi, silent: PodPair, backend: str
) -> None:
    to_service = (silent.client, "-t", "nat", "-A", "OUTPUT", "-p", "tcp", "-d", "10.96.0.10")
    iptables(*to_service, "--dport", "5432", "-j", "DNAT", "--to", f"{SERVER_V4}:{PORT}")
    with api, kube_pod(silent.client, logs=True) as pod:
        fill(api, pod)
        kubeconfig = api.write_kubeconfig(tmp_path)
        with Tracer(
            tmp_path,
            *("--backend", backend),
            *options(kubeconfig, tmp_path / "cache"),
            what=only(silent.client),
        ) as tracer:
            health_of(tracer, "synced")
            client = Client(silent.client, "10.96.0.10", 5432, "--wait", "--hold")
            client.wait_ready()
            pod.containers["app"].add(client.pid)
            client.go()
            direct = Client(silent.client, SERVER_V4, PORT, "--hold")
            translated = tracer.wait_for(
                lambda event: (
                    get(event, "nat.destination.address") == SERVER_V4
                    and get(event, "destination.address") == "10.96.0.10"
                ),
                SEEN_SECONDS,
                "the backend",
            )
            to_pod = stuck_in(tracer, silent.client.inode, direct.pid)
            tracer.stop()
        client.kill()
        direct.kill()
    assert pod_of(translated) == (pod.name, "app", "cgroup", "api")
    assert get(translated, "k8s.workload.kind") == "Deployment"
    assert get(translated, "k8s.workload.name") == "web"
    assert get(translated, "k8s.pod.names_as_of") is None
    assert get(translated, "destination.kind") == "service"
    assert get(translated, "destination.name") == "shop/db:5432"
    assert get(translated, "destination.endpoints") == {"ready": 0, "total": 1}
    assert get(translated, "nat.destination.port") == PORT
    assert get(translated, "nat.state") == "SYN_SENT"
    assert get(translated, "nat.replied") is False
    assert get(to_pod, "destination.kind") == "pod"
    assert get(to_pod, "destination.name") == "shop/db-0"


def test_names_complete_themselves_when_the_api_server_comes_back_and_are_kept_for_its_outage(
    tmp_path: Path, api: KubeApi, silent: PodPair
) -> None:
    cache = tmp_path / "cache"
    with kube_pod(silent.client, logs=True) as pod, api:
        fill(api, pod)
        kubeconfig = api.write_kubeconfig(tmp_path)
        api.stop()
        client = stuck_client(silent.client, pod, "app")
        what = only(silent.client)
        with Tracer(tmp_path / "one", *options(kubeconfig, cache), what=what) as tracer:
            client.go()
            unheard = stuck_in(tracer, silent.client.inode)
            degraded = health_of(tracer, "degraded")
            api.start()
            health_of(tracer, "synced")
            named = tracer.wait_for(
                lambda event: get(event, "k8s.pod.name_source") == "api", SEEN_SECONDS, "the name"
            )
            wait_until(cache_file(cache, NODE).exists, SEEN_SECONDS, "the whole cache")
            tracer.kill()
        api.stop()
        client.kill()
        client = stuck_client(silent.client, pod, "app")
        with Tracer(tmp_path / "two", *options(kubeconfig, cache), what=what) as tracer:
            client.go()
            kept = tracer.wait_for(
                lambda event: get(event, "k8s.pod.name_source") == "cache",
                SEEN_SECONDS,
                "the name that was kept",
            )
            stale = health_of(tracer, "degraded")
            tracer.stop()
        client.kill()
    assert pod_of(unheard) == (pod.name, "app", "cgroup", "kubelet")
    assert "127.0.0.1" in get(degraded, "tracer.kube.message")
    assert get(degraded, "tracer.kube.names_as_of") is None
    assert get(named, "k8s.workload.name") == "web"
    assert get(kept, "k8s.workload.name") == "web"
    assert get(kept, "k8s.pod.names_as_of") is not None
    assert get(stale, "tracer.kube.names_as_of") is not None


@BACKENDS
def test_a_slow_api_server_delays_no_event(
    tmp_path: Path, api: KubeApi, silent: PodPair, backend: str
) -> None:
    with api, kube_pod(silent.client, logs=True) as pod:
        api.fault(slow(5.0))
        kubeconfig = api.write_kubeconfig(tmp_path)
        client = stuck_client(silent.client, pod, "app")
        with Tracer(
            tmp_path,
            *("--backend", backend),
            *options(kubeconfig, tmp_path / "cache"),
            what=only(silent.client),
        ) as tracer:
            client.go()
            stuck = stuck_in(tracer, silent.client.inode)
            states = {
                get(event, "tracer.kube.state")
                for event in tracer.events()
                if event["event"].startswith("tracer.")
            }
            tracer.stop()
        client.kill()
    assert states == {"connecting"}, "it was told before the API server had answered"
    assert pod_of(stuck) == (pod.name, "app", "cgroup", "kubelet")


@BACKENDS
def test_only_the_pods_in_scope_are_shown_and_those_that_come_later_join(
    tmp_path: Path, api: KubeApi, backend: str
) -> None:
    with (
        silent_pods(3) as (first, second, foreign),
        api,
        kube_pod(first.client, logs=True) as pod,
        kube_pod(foreign.client, logs=True, namespace="other") as stranger,
    ):
        fill(api, pod)
        kubeconfig = api.write_kubeconfig(tmp_path)
        clients = [
            stuck_client(first.client, pod, "app"),
            stuck_client(foreign.client, stranger, "app"),
        ]
        with Tracer(
            tmp_path,
            *("--backend", backend),
            *options(kubeconfig, tmp_path / "cache"),
            what=("--namespace", "shop", "--selector", "app=web"),
        ) as tracer:
            health_of(tracer, "synced")
            for client in clients:
                client.go()
            stuck_in(tracer, first.client.inode)
            with kube_pod(second.client, logs=True) as later:
                api.put("pods", pod_document(later, CLIENT_V4))
                clients.append(stuck_client(second.client, later, "app"))
                clients[-1].go()
                stuck_in(tracer, second.client.inode)
                wait_until(
                    lambda: foreign.client.counter("TCPSynRetrans"), SEEN_SECONDS, "the other's SYN"
                )
                events = tracer.stop()
                for client in clients:
                    client.kill()
    # Other tests use the same addresses, by which a pod of theirs may be taken for one of these.
    own = {pair.client.inode for pair in (first, second, foreign)}
    shown = {event["netns"] for event in events if event["event"].startswith("attempt.")} & own
    assert shown == {first.client.inode, second.client.inode}
    final = next(event for event in events if event["event"] == "tracer.stop")
    assert get(final, "tracer.became_stuck") >= 2


def test_selector_without_labels_and_the_programs_own_connects_are_said_and_not_shown(
    tmp_path: Path, api: KubeApi, silent: PodPair
) -> None:
    with kube_pod(silent.client, logs=True) as pod:
        with api:
            fill(api, pod)
            kubeconfig = api.write_kubeconfig(tmp_path)
        client = stuck_client(silent.client, pod, "app")
        with Tracer(
            tmp_path,
            *("--backend", "bpf"),
            *options(kubeconfig, tmp_path / "cache"),
            what=("--selector", "app=web"),
        ) as tracer:
            health_of(tracer, "degraded")
            client.go()
            wait_until(
                lambda: silent.client.counter("TCPSynRetrans"), SEEN_SECONDS, "the second SYN"
            )
            events = tracer.stop()
        client.kill()
        final = next(event for event in events if event["event"] == "tracer.stop")
        assert not [event for event in events if event["event"].startswith("attempt.")]
        assert any("--selector selects nothing" in one for one in get(final, "tracer.lacking"))
        assert get(final, "tracer.withheld") >= 1
        assert get(final, "tracer.own_connects") >= 1
        assert "its own connects to the API server: " in tracer.stdout
        assert "not shown, since their pod's name or labels are not known: " in tracer.stdout


def test_without_a_cluster_the_trace_says_where_names_come_from(tmp_path: Path) -> None:
    with Tracer(
        tmp_path, "--cache-dir", "none", what=("--node", "--kubeconfig", str(tmp_path / "none"))
    ) as tracer:
        degraded = health_of(tracer, "degraded")
        tracer.wait(lambda: "-- names: " in tracer.stdout, SEEN_SECONDS, "the line about names")
        tracer.stop()
    assert str(tmp_path / "none") in get(degraded, "tracer.kube.message")
