"""The informer against an API server on loopback that fails in every way that servers do."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import pytest

from tests.support.kube_api import (
    NAMESPACES,
    NODES,
    PODS,
    POLICIES,
    SERVICES,
    SLICES,
    TOKEN,
    USER,
    KubeApi,
    answers,
    cuts,
    drips,
    expired,
    forbids,
    hangs,
    selected,
    slow,
    too_large,
)
from tests.support.kube_scale_served import load
from tests.support.kube_server import Certificates, Document, kubeconfig, make_certificates, status
from tests.support.wait import stays_true, wait_until
from tracer.kube.client import KubeClient, connect
from tracer.kube.informer import STOP_SECONDS, Informer
from tracer.kube.names import Names, Record, Resource, key_of
from tracer.kube.watch import COLLECTIONS
from tracer.model import KubeHealth, KubeState

FIXTURES: Final = Path(__file__).parents[1] / "fixtures" / "kube"
NODE: Final = "node1"
SECONDS: Final = 20.0
"""For what takes milliseconds on an idle machine."""


def recorded(name: str) -> Document:
    document: Document = json.loads((FIXTURES / name).read_text())
    return document


def recorded_watch() -> list[Document]:
    return [json.loads(line) for line in (FIXTURES / "pods-watch.jsonl").read_text().splitlines()]


def sockets() -> set[str]:
    found = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # that of the listing itself
            found.add(str(descriptor.readlink()))
    return {target for target in found if target.startswith("socket:")}


@pytest.fixture(autouse=True)
def _nothing_left_over() -> Iterator[None]:
    """No test may leave a thread or a socket behind. Set up before everything else."""
    threads, before = set(threading.enumerate()), sockets()
    yield
    assert set(threading.enumerate()) - threads == set()
    assert sockets() - before == set()


@pytest.fixture(autouse=True)
def _nothing_of_this_machine(
    _nothing_left_over: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """This machine's own cluster and proxies do not matter."""
    for name in tuple(os.environ):
        if name.lower().endswith("_proxy") or name.startswith("KUBE"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def api(_nothing_left_over: None, certificates: Certificates) -> Iterator[KubeApi]:
    """A server with the recorded cluster, running."""
    api = KubeApi(certificates)
    api.load(PODS, recorded("pods-on-node1.json"))
    api.load(SERVICES, recorded("services.json"))
    api.load(SLICES, recorded("endpointslices.json"))
    node = recorded("node-node1.json")
    api.load(NODES, {"items": [node], "metadata": {"resourceVersion": "2342"}})
    api.load(POLICIES, recorded("networkpolicies.json"))
    api.load(NAMESPACES, recorded("namespaces.json"))
    with api:
        yield api


class Watched:
    """An informer of one server, and what it knows."""

    def __init__(
        self,
        api: KubeApi,
        config: Path,
        *,
        node_name: str = NODE,
        cache_dir: Path | None = None,
    ) -> None:
        self.api = api
        self.names = Names()
        self.node_name = node_name
        self.informer = Informer(
            self.names, node_name=node_name, kubeconfig=str(config), cache_dir=cache_dir
        )

    @property
    def health(self) -> KubeHealth:
        return self.informer.health

    @property
    def state(self) -> KubeState:
        return self.health.state

    @property
    def message(self) -> str:
        return self.health.message or ""

    def known(self) -> dict[Resource, dict[tuple[str, str], Record]]:
        return {
            resource: {key_of(each): each for each in self.names.records(resource)}
            for resource in Resource
        }

    def there(self) -> dict[Resource, dict[tuple[str, str], Record]]:
        """What the server holds, as the informer should know it."""
        return {
            collection.resource: {
                key: record
                for key, each in self.api.objects[collection.resource].items()
                if (collection.resource != PODS or selected(each, f"spec.nodeName={NODE}"))
                and (record := collection.read(each)) is not None
            }
            for collection in COLLECTIONS
        }

    def agrees(self) -> bool:
        return self.known() == self.there()

    def wait_agreed(self, seconds: float = SECONDS) -> None:
        """Until the names are those of the server, and the informer says so."""
        self.wait(
            lambda: self.agrees() and self.health == KubeHealth(KubeState.SYNCED),
            "the names to be the server's",
            seconds,
        )

    def wait_degraded(self, message: str, seconds: float = SECONDS) -> None:
        self.wait(
            lambda: self.state is KubeState.DEGRADED and message in self.message,
            repr(message),
            seconds,
        )

    def wait(self, predicate: Callable[[], object], what: str, seconds: float = SECONDS) -> None:
        """wait_until() that tells the health where it was in vain."""
        try:
            wait_until(predicate, seconds, what)
        except AssertionError as error:
            raise AssertionError(f"{error}; {self.health}") from None

    def asked(self, verb: str, resource: str = PODS) -> list[Mapping[str, str]]:
        """What was asked of the server, but for looks at its version."""
        return [
            each.query
            for each in self.api.asked
            if each.verb == verb and each.resource == resource and each.query.get("limit") != "1"
        ]


@contextmanager
def watching(
    api: KubeApi, folder: Path, *, config: Path | None = None, **options: object
) -> Iterator[Watched]:
    """An informer, started; its end is timed and leaves nothing behind."""
    threads, before = set(threading.enumerate()), sockets()
    watched = Watched(api, config or api.write_kubeconfig(folder), **options)  # type: ignore[arg-type]
    watched.informer.start()
    try:
        yield watched
    finally:
        began = time.monotonic()
        watched.informer.stop()
        took = time.monotonic() - began
    assert took < STOP_SECONDS
    left = {each for each in threading.enumerate() if each.name in {"kube", *THREADS}}
    assert left - threads == set()
    if not api.running.is_set():
        assert sockets() - before == set()
    wait_until(lambda: api.connections == 0, SECONDS, "the informer's connections to end")
    assert api.streams == []


THREADS: Final = {f"kube-{resource}" for resource in Resource}


@pytest.fixture
def watched(api: KubeApi, tmp_path: Path) -> Iterator[Watched]:
    """An informer that knows the recorded cluster."""
    with watching(api, tmp_path) as watched:
        watched.wait_agreed()
        yield watched


def pod(name: str, *, node: str = NODE, ip: str = "10.4.7.99") -> Document:
    return {
        "metadata": {"name": name, "namespace": "shop", "uid": f"uid-of-{name}"},
        "spec": {"nodeName": node, "containers": [{"name": "app"}]},
        "status": {"phase": "Running", "podIP": ip},
    }


def service(name: str, ip: str = "10.43.0.77") -> Document:
    return {
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"clusterIP": ip, "ports": [{"port": 5432, "protocol": "TCP"}]},
    }


def policy(name: str, namespace: str = "shop") -> Document:
    return {
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"podSelector": {}, "policyTypes": ["Egress"]},
    }


def make_some_changes(api: KubeApi) -> None:
    """Of every resource, and of every kind."""
    api.put(PODS, pod("new-0"))
    api.put(PODS, pod("of-another-node", node="node2"))
    api.delete(PODS, "shop", "db-0")
    api.put(SERVICES, service("db"))
    api.delete(SERVICES, "shop", "noendpoints")
    endpoint_slice = next(iter(api.objects[SLICES].values()))
    api.put(SLICES, endpoint_slice | {"endpoints": []})
    node = json.loads(json.dumps(api.objects[NODES]["", "node1"]))
    node["metadata"]["name"] = "node2"
    node["status"]["addresses"] = [{"type": "InternalIP", "address": "192.0.2.2"}]
    api.put(NODES, node)
    api.put(POLICIES, policy("deny-all"))
    api.delete(POLICIES, "shop", "deny-egress-but-dns")
    api.put(NAMESPACES, {"metadata": {"name": "shop", "labels": {"team": "other"}}})
    api.delete(NAMESPACES, "", "demo")


# -- lists and watches -----------------------------------------------------------------------------


def test_the_recorded_cluster_is_known(watched: Watched) -> None:
    assert len(watched.names.records(Resource.PODS)) == 6
    found = watched.names.pod("a-uid-of-no-pod")
    assert found is None
    assert watched.asked("list")[0]["fieldSelector"] == "spec.nodeName=node1"
    assert watched.asked("list", SERVICES)[0].keys() == {"limit"}


def test_a_list_is_read_page_by_page(api: KubeApi, tmp_path: Path) -> None:
    api.page_objects = 2
    for number in range(9):
        api.put(SERVICES, service(f"s{number}", f"10.43.0.{number}"))
    with watching(api, tmp_path) as watched:
        watched.wait_agreed()
        assert len(watched.asked("list", SERVICES)) == 7
        # On one connection per resource, where the watch follows too.
        assert api.connections == len(Resource)


def test_only_pods_of_this_node_are_known(watched: Watched) -> None:
    watched.api.put(PODS, pod("elsewhere", node="node2"))
    watched.api.put(PODS, pod("here"))
    wait_until(watched.agrees, SECONDS, "the pod of this node")
    names = {record.name for record in watched.names.records(Resource.PODS)}
    assert "here" in names
    assert "elsewhere" not in names


def test_changes_of_every_resource_are_followed(watched: Watched) -> None:
    make_some_changes(watched.api)
    watched.wait_agreed()
    assert watched.names.destination("10.43.0.77", 5432) is not None
    assert len(watched.asked("list")) == 1


def test_the_recorded_watch_is_followed_through_a_rolling_restart(watched: Watched) -> None:
    for event in recorded_watch():
        watched.api.replay(PODS, event)
    watched.wait_agreed()
    names = {record.name for record in watched.names.records(Resource.PODS)}
    assert {"checkout-b795d4969-8nqt6", "checkout-b795d4969-qns2q"} <= names
    assert not {"checkout-cb5cf55df-9rn26", "checkout-cb5cf55df-jc26l", "hostnet"} & names
    # The bookmark has neither a name nor containers: it says from where to go on, and no more.
    watched.api.cut_watches(PODS)
    wait_until(lambda: len(watched.asked("watch")) == 2, SECONDS, "the watch to go on")
    assert watched.asked("watch")[1]["resourceVersion"] == "2500"
    assert len(watched.asked("list")) == 1


def test_a_bookmark_moves_the_place_from_which_a_watch_goes_on(watched: Watched) -> None:
    watched.api.put(SERVICES, service("db"))  # of no pod
    watched.api.bookmark(PODS)
    watched.api.cut_watches(PODS)
    wait_until(lambda: len(watched.asked("watch")) == 2, SECONDS, "the watch to go on")
    assert watched.asked("watch")[1]["resourceVersion"] == str(watched.api.version)


def test_a_watch_whose_time_is_over_is_begun_anew_without_a_list(watched: Watched) -> None:
    watched.api.end_watches()
    wait_until(lambda: len(watched.asked("watch", NODES)) == 2, SECONDS, "another watch")
    make_some_changes(watched.api)
    watched.wait_agreed()
    assert len(watched.asked("list")) == 1


def test_the_server_is_asked_to_end_a_watch_and_to_send_bookmarks(watched: Watched) -> None:
    query = watched.asked("watch")[0]
    assert query["allowWatchBookmarks"] == "true"
    assert 240 <= int(query["timeoutSeconds"]) <= 300


def test_an_object_from_which_no_name_follows_any_longer_is_forgotten(watched: Watched) -> None:
    key, endpoint_slice = next(iter(watched.api.objects[SLICES].items()))
    without = json.loads(json.dumps(endpoint_slice))
    del without["metadata"]["labels"]
    watched.api.put(SLICES, without)
    watched.wait_agreed()
    assert key not in watched.known()[Resource.ENDPOINT_SLICES]


def test_an_object_from_which_no_name_follows_is_passed_over(watched: Watched) -> None:
    watched.api.put(SLICES, {"metadata": {"namespace": "shop", "name": "of-no-service"}})
    make_some_changes(watched.api)
    watched.wait_agreed()


@pytest.mark.parametrize("secure", [True, False], ids=["https", "http"])
def test_a_server_may_be_behind_a_gateway(
    certificates: Certificates, tmp_path: Path, secure: bool
) -> None:
    api = KubeApi(certificates if secure else None, prefix="/k8s/clusters/c-1")
    api.put(PODS, pod("web-0"))
    with api, watching(api, tmp_path) as watched:
        wait_until(watched.agrees, SECONDS, "the names to be the server's")


# -- what a server does to a watch -----------------------------------------------------------------


def test_a_watch_that_is_cut_inside_an_object_goes_on_before_it(watched: Watched) -> None:
    for resource in Resource:
        watched.api.cut_next_event(resource)
    make_some_changes(watched.api)
    watched.wait_agreed()
    assert len(watched.asked("list")) == 1
    assert len(watched.asked("watch")) == 2
    assert watched.asked("watch")[1]["resourceVersion"] == "2342"


@pytest.mark.parametrize("as_event", [True, False], ids=["as an event", "as a status"])
def test_a_version_that_is_too_old_has_everything_listed_again(
    watched: Watched, as_event: bool
) -> None:
    watched.api.gone_as_event = as_event
    with watched.api.lock:
        watched.api.cut_watches()  # first: no watch hears of the changes
        make_some_changes(watched.api)
        watched.api.compact()
    watched.wait_agreed()
    assert len(watched.asked("list")) == 2


def test_a_running_watch_may_be_told_that_its_version_is_too_old(watched: Watched) -> None:
    watched.api.fail_watches(expired())
    wait_until(lambda: len(watched.asked("list")) == 2, SECONDS, "another list")
    make_some_changes(watched.api)
    watched.wait_agreed()


def test_a_running_watch_may_be_told_of_an_error_of_the_server(watched: Watched) -> None:
    watched.api.fail_watches(status(500, "InternalError", "etcdserver: leader changed"))
    make_some_changes(watched.api)
    watched.wait_agreed()
    assert len(watched.asked("list")) == 1


def test_a_list_that_expires_between_two_pages_is_begun_anew(api: KubeApi, tmp_path: Path) -> None:
    api.page_objects = 2

    def expires(_: object) -> bool:
        api.compact()
        return False

    # The third request for pods is the first list's last page.
    api.fault(lambda _: False, resource=PODS, verb="list", times=2)
    fault = api.fault(expires, resource=PODS, verb="list", times=1)
    with watching(api, tmp_path) as watched:
        watched.wait_agreed()
        assert fault.hits == 1
        assert [("continue" in query) for query in watched.asked("list")] == [
            *(False, True, True),
            *(False, True, True),
        ]


def test_what_is_no_event_has_the_watch_go_on_from_before_it(watched: Watched) -> None:
    watched.api.mutter(b"<html>login</html>\n", PODS)
    make_some_changes(watched.api)
    watched.wait_agreed()
    assert len(watched.asked("watch")) == 2


def test_an_event_that_is_too_large_has_everything_listed_again(
    api: KubeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tracer.kube.line.MAX_ANSWER_BYTES", 100_000)
    with watching(api, tmp_path) as watched:
        watched.wait_agreed()
        api.mutter(b"x" * 200_000, PODS)
        wait_until(lambda: len(watched.asked("list")) == 2, SECONDS, "another list")
        watched.wait_agreed()


def test_pages_that_are_too_large_are_asked_for_with_fewer_objects(
    api: KubeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tracer.kube.line.MAX_ANSWER_BYTES", 20_000)
    with watching(api, tmp_path) as watched:
        watched.wait_agreed()
        assert [query["limit"] for query in watched.asked("list")[:4]] == ["500", "62", "7"]


def test_an_object_that_is_too_large_is_told(
    api: KubeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tracer.kube.line.MAX_ANSWER_BYTES", 9_000)
    api.put(PODS, pod("huge") | {"padding": "x" * 10_000})
    with watching(api, tmp_path) as watched:
        watched.wait_degraded("one of the pods is too large")


# -- refusals --------------------------------------------------------------------------------------


def test_a_token_that_was_rotated_is_read_again(api: KubeApi, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(TOKEN)
    config = api.write_kubeconfig(tmp_path, {"tokenFile": str(token)})
    with watching(api, tmp_path, config=config) as watched:
        watched.wait_agreed()
        token.write_text("the-next-token")
        api.tokens = {"the-next-token"}
        api.cut_watches()
        make_some_changes(api)
        watched.wait_agreed()
        assert len(watched.asked("list")) == 1


def test_a_rotated_token_of_this_pod_is_read_again(
    api: KubeApi, certificates: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text(TOKEN)
    (tmp_path / "ca.crt").write_bytes(certificates.authority.read_bytes())
    monkeypatch.setattr("tracer.kube.config.SERVICE_ACCOUNT", str(tmp_path))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(api.port))
    watched = Watched(api, tmp_path)
    watched.informer = Informer(watched.names, node_name=NODE)
    watched.informer.start()
    try:
        watched.wait_agreed()
        (tmp_path / "token").write_text("the-next-token")
        api.tokens = {"the-next-token"}
        api.cut_watches()
        make_some_changes(api)
        watched.wait_agreed()
    finally:
        watched.informer.stop()


def test_credentials_that_are_not_accepted_are_told_until_they_are(
    api: KubeApi, tmp_path: Path
) -> None:
    api.tokens = {"another"}
    with watching(api, tmp_path) as watched:
        watched.wait_degraded(f"{api.url} does not accept the credentials")
        assert TOKEN not in watched.message
        assert watched.health.names_wall_ns is None
        api.tokens = {TOKEN}
        watched.wait_agreed()


def test_what_is_not_permitted_is_named_and_the_rest_goes_on(
    api: KubeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tracer.kube.trouble.DENIED_PAUSE_SECONDS", (0.2, 0.4))
    fault = api.fault(forbids("list", NODES), resource=NODES)
    with watching(api, tmp_path) as watched:
        message = f"not permitted: nodes: list, to {USER}"
        wait_until(
            lambda: len(api.streams) == len(Resource) - 1 and message in watched.message,
            SECONDS,
            "all the rest",
        )
        watched.wait(
            lambda: watched.health == KubeHealth(KubeState.DEGRADED, message), "the rest to go on"
        )
        make_some_changes(api)
        for resource in (Resource.PODS, Resource.SERVICES, Resource.ENDPOINT_SLICES):
            wait_until(
                lambda each=resource: watched.known()[each] == watched.there()[each],  # type: ignore[misc]
                SECONDS,
                resource,
            )
        assert watched.names.records(Resource.NODES) == []
        fault.lift()
        watched.wait_agreed()


def test_every_permission_that_is_missing_is_named(api: KubeApi, tmp_path: Path) -> None:
    for resource in (PODS, NODES):
        api.fault(forbids("list", resource), resource=resource)
    with watching(api, tmp_path) as watched:
        watched.wait_degraded("not permitted: nodes: list")
        watched.wait_degraded("not permitted: pods: list")


@pytest.mark.parametrize("resource", [POLICIES, NAMESPACES])
def test_what_is_evidence_alone_is_named_where_it_is_not_permitted_and_no_name_suffers(
    api: KubeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resource: str
) -> None:
    monkeypatch.setattr("tracer.kube.trouble.DENIED_PAUSE_SECONDS", (0.2, 0.4))
    fault = api.fault(forbids("list", resource), resource=resource)
    what = "NetworkPolicies" if resource == POLICIES else "the labels of namespaces"
    message = f"no evidence from {what}: not permitted: {resource}: list, to {USER}"
    with watching(api, tmp_path) as watched:
        watched.wait(lambda: watched.health == KubeHealth(KubeState.SYNCED, message), "the message")
        assert not watched.names.listed(Resource(resource))
        watched.wait(
            lambda: watched.names.current == set(Resource) - {Resource(resource)}, "all the rest"
        )
        make_some_changes(api)
        fault.lift()
        watched.wait_agreed()
        assert watched.names.current == set(Resource)


def test_a_cluster_without_network_policies_is_named_and_its_names_are_kept(
    api: KubeApi, tmp_path: Path
) -> None:
    api.fault(answers(404, "404 page not found\n"), resource=POLICIES)
    kept = tmp_path / "cache"
    with watching(api, tmp_path, cache_dir=kept) as watched:
        lacks = f"{api.url} has no networkpolicies (networking.k8s.io/v1)"
        message = f"no evidence from NetworkPolicies: {lacks}"
        watched.wait(lambda: watched.health == KubeHealth(KubeState.SYNCED, message), "the message")
    assert list(kept.iterdir())


def test_policies_of_which_the_watch_is_withdrawn_are_known_and_not_current(
    watched: Watched,
) -> None:
    watched.api.fault(forbids("watch", POLICIES), resource=POLICIES, verb="watch")
    watched.api.cut_watches(POLICIES)
    watched.wait(lambda: "not permitted: networkpolicies: watch" in watched.message, "the message")
    assert (watched.state, watched.health.names_wall_ns) == (KubeState.SYNCED, None)
    assert watched.names.current == set(Resource) - {Resource.NETWORK_POLICIES}
    assert watched.names.policies("shop") != ()


def test_lists_go_on_where_watches_are_not_permitted(
    api: KubeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tracer.kube.trouble.MAX_PAUSE_SECONDS", 0.4)
    api.fault(forbids("watch", PODS), resource=PODS, verb="watch")
    with watching(api, tmp_path) as watched:
        watched.wait_degraded("not permitted: pods: watch")
        make_some_changes(api)
        wait_until(watched.agrees, SECONDS, "the names to be the server's")
        assert watched.state is KubeState.DEGRADED
        assert watched.health.names_wall_ns is not None


def test_a_resource_that_the_server_lacks_is_named(api: KubeApi, tmp_path: Path) -> None:
    api.fault(answers(404, "404 page not found\n"), resource=SLICES)
    with watching(api, tmp_path) as watched:
        watched.wait_degraded(f"{api.url} has no endpointslices (discovery.k8s.io/v1)")


def test_a_server_that_asks_for_time_is_given_it(api: KubeApi, tmp_path: Path) -> None:
    times: list[float] = []

    def busy(handler: object) -> bool:
        times.append(time.monotonic())
        return answers(
            429, status(429, "TooManyRequests", "too many requests"), {"Retry-After": "1"}
        )(handler)  # type: ignore[arg-type]

    api.fault(busy, resource=PODS, times=2)
    with watching(api, tmp_path) as watched:
        watched.wait_degraded("answered 429 (TooManyRequests)")
        watched.wait_agreed()
    assert times[1] - times[0] >= 1


def test_a_server_that_fails_is_asked_again(api: KubeApi, tmp_path: Path) -> None:
    body = status(500, "InternalError", f"panic: secret={TOKEN}")
    api.fault(answers(500, body), resource=SERVICES, times=3)
    with watching(api, tmp_path) as watched:
        watched.wait_degraded(f"services: list: {api.url} answered 500 (InternalError)")
        assert TOKEN not in watched.message
        watched.wait_agreed()


def test_pods_are_as_true_as_their_own_watch(api: KubeApi, tmp_path: Path) -> None:
    fault = api.fault(
        answers(500, status(500, "InternalError", "")), resource=SERVICES, verb="watch"
    )
    with watching(api, tmp_path) as watched:
        watched.wait_degraded(f"services: watch: {api.url} answered 500 (InternalError)")
        rest = {"pods", "endpointslices", "nodes"}
        watched.wait(lambda: rest <= {each.resource for each in api.streams}, "all the rest")
        informer = watched.informer
        watched.wait(lambda: informer.pods_wall_ns is None, "pods that are followed")
        assert informer.destinations_wall_ns is not None
        assert watched.health.names_wall_ns == informer.destinations_wall_ns
        fault.lift()
        watched.wait_agreed()
        assert informer.destinations_wall_ns is None


def test_what_fails_for_every_resource_is_told_once(api: KubeApi, tmp_path: Path) -> None:
    api.fault(answers(503, "busy"))
    message = f"{api.url} answered 503 (Service Unavailable)"
    with watching(api, tmp_path) as watched:
        watched.wait(lambda: watched.message == message, message)


def test_what_is_not_watched_while_credentials_are_renewed_is_told(
    api: KubeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    renewing, done = threading.Event(), threading.Event()

    def run_a_plugin(kubeconfig: str | None) -> KubeClient:
        renewing.set()
        assert done.wait(SECONDS)
        api.tokens = {TOKEN}
        return connect(kubeconfig)

    with watching(api, tmp_path) as watched:
        watched.wait_agreed()
        monkeypatch.setattr("tracer.kube.access.connect", run_a_plugin)
        api.tokens = {"another"}
        api.cut_watches()
        try:
            assert renewing.wait(SECONDS)
            watched.wait_degraded(f"{api.url} does not accept the credentials")
            assert watched.health.names_wall_ns is not None
        finally:
            done.set()
        watched.wait_agreed()


def test_an_answer_that_is_no_list_is_told(api: KubeApi, tmp_path: Path) -> None:
    api.fault(answers(200, "<html>login</html>"), times=2 * len(Resource))
    with watching(api, tmp_path) as watched:
        watched.wait_degraded("is it an API server, or a login page in front of one?")
        watched.wait_agreed()


def test_a_list_that_is_cut_is_read_again(api: KubeApi, tmp_path: Path) -> None:
    api.fault(cuts, verb="list", times=4)
    with watching(api, tmp_path) as watched:
        watched.wait_agreed()


# -- servers that take their time ------------------------------------------------------------------


@pytest.mark.parametrize("how", [hangs, drips], ids=["hangs", "drips"])
def test_an_answer_that_does_not_come_is_given_up(
    api: KubeApi,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    how: Callable[..., bool],
) -> None:
    monkeypatch.setattr("tracer.kube.watch.READ_SECONDS", 0.5)
    fault = api.fault(how)
    with watching(api, tmp_path) as watched:
        watched.wait_degraded("no answer in time")
        fault.lift()
        watched.wait_agreed()


def test_a_watch_that_hangs_past_its_time_is_begun_anew(
    api: KubeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tracer.kube.watch.SLACK_SECONDS", 0.2)
    monkeypatch.setattr("tracer.kube.watch.WATCH_SECONDS", (1.0, 1.0))
    with watching(api, tmp_path) as watched:
        watched.wait_agreed()
        for stream in tuple(api.streams):
            stream.mute()
        wait_until(lambda: len(watched.asked("watch")) > 1, SECONDS, "another watch")
        make_some_changes(api)
        watched.wait_agreed()


def test_a_slow_server_is_waited_for(api: KubeApi, tmp_path: Path) -> None:
    api.fault(slow(0.3))
    with watching(api, tmp_path) as watched:
        assert watched.health == KubeHealth(KubeState.CONNECTING)
        watched.wait_agreed()
        make_some_changes(api)
        watched.wait_agreed()


# -- outages ---------------------------------------------------------------------------------------


def test_names_outlive_an_outage_and_are_dated(watched: Watched) -> None:
    known, before = watched.known(), time.time_ns()
    watched.api.stop()
    watched.wait_degraded(f"cannot reach the API server {watched.api.url}: Connection refused")
    assert watched.known() == known
    watched.wait(lambda: watched.names.current == set(), "all to be known as it was")
    dated = watched.health.names_wall_ns
    assert dated is not None
    assert dated <= time.time_ns()
    assert dated > before - SECONDS * 1e9
    stays_true(lambda: watched.health.names_wall_ns == dated, 0.5, "the names' time")
    make_some_changes(watched.api)
    watched.api.start()
    watched.wait_agreed()
    assert len(watched.asked("list")) == 1


@pytest.mark.parametrize("young_seconds", [600.0, 0.0], ids=["a young", "an old"])
def test_names_are_complete_within_two_seconds_of_the_servers_return(
    api: KubeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, young_seconds: float
) -> None:
    monkeypatch.setattr("tracer.kube.access.YOUNG_SECONDS", young_seconds)
    config = api.write_kubeconfig(tmp_path)
    api.stop()
    with watching(api, tmp_path, config=config) as watched:
        watched.wait_degraded("Connection refused")
        assert watched.health.names_wall_ns is None
        stays_true(lambda: watched.state is KubeState.DEGRADED, 3, "the outage")
        api.start()
        watched.wait_agreed(2)


def test_one_connect_at_a_time_is_tried_before_the_first_that_works(
    tmp_path: Path, api: KubeApi
) -> None:
    config = api.write_kubeconfig(tmp_path)
    api.stop()
    with (
        socket.create_server(("127.0.0.1", api.port), backlog=64) as listening,
        watching(api, tmp_path, config=config) as watched,
    ):
        listening.settimeout(SECONDS)
        with listening.accept()[0]:
            listening.settimeout(0.3)
            with pytest.raises(TimeoutError):
                listening.accept()
        watched.wait_degraded("cannot reach the API server")
        listening.settimeout(0.1)
        deadline, knocks = time.monotonic() + 2, 0
        while time.monotonic() < deadline:
            with suppress(TimeoutError), listening.accept()[0]:
                knocks += 1
        assert 1 <= knocks <= 10


def test_a_server_that_comes_back_older_is_listed_again(watched: Watched) -> None:
    kept = list(watched.api.objects[SERVICES].values())
    make_some_changes(watched.api)
    watched.wait_agreed()
    watched.api.stop()
    watched.wait_degraded("cannot reach")
    watched.api.restore(1_500, {SERVICES: kept, PODS: [pod("restored")]})
    watched.api.put(NODES, recorded("node-node1.json"))
    watched.api.start()
    watched.wait_agreed()
    watched.api.put(PODS, pod("since-then"))  # older than what was known before
    watched.wait_agreed()
    assert len(watched.asked("list")) == 2


@pytest.mark.parametrize("as_event", [True, False], ids=["as an event", "as a status"])
def test_a_version_that_is_yet_to_come_has_everything_listed_again(
    watched: Watched, as_event: bool
) -> None:
    refusal = too_large(9_000, 1_500)
    if as_event:
        watched.api.fail_watches(refusal)
    else:
        watched.api.fault(answers(504, refusal), resource=PODS, verb="watch", times=1)
        watched.api.cut_watches()
    wait_until(lambda: len(watched.asked("list")) == 2, SECONDS, "another list")
    assert all("resourceVersion" not in query for query in watched.asked("list"))
    make_some_changes(watched.api)
    watched.wait_agreed()


def test_a_certificate_that_is_not_trusted_is_told_until_the_kubeconfig_knows_better(
    api: KubeApi, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    others = make_certificates(tmp_path_factory.mktemp("others"))
    config = tmp_path / "kubeconfig"
    config.write_text(kubeconfig(api.url, {"token": TOKEN}, others.authority))
    with watching(api, tmp_path, config=config) as watched:
        watched.wait_degraded("its certificate is not trusted")
        api.write_kubeconfig(tmp_path)
        watched.wait_agreed()


# -- start and stop --------------------------------------------------------------------------------


@contextmanager
def silent_server(*, full: bool) -> Iterator[int]:
    """A port where nobody accepts; with `full` not even the kernel does: a SYN gets no answer."""
    with socket.create_server(("127.0.0.1", 0), backlog=0 if full else 64) as listening:
        waiting = []
        for _ in range(3 if full else 0):
            one = socket.socket()
            one.setblocking(False)
            one.connect_ex(listening.getsockname())
            waiting.append(one)
        yield int(listening.getsockname()[1])
        for one in waiting:
            one.close()


@pytest.mark.parametrize("full", [False, True], ids=["in the handshake", "in the connect"])
def test_an_informer_stops_while_a_server_gives_no_answer(
    api: KubeApi, tmp_path: Path, full: bool
) -> None:
    with silent_server(full=full) as port:
        config = tmp_path / "silent"
        config.write_text(kubeconfig(f"https://127.0.0.1:{port}", {"token": TOKEN}))
        before, began = sockets(), time.monotonic()
        with watching(api, tmp_path, config=config) as watched:
            assert time.monotonic() - began < 0.2
            line = watched.informer._knocking
            wait_until(lambda: line._socket is not None, SECONDS, "the informer to connect")
            assert watched.health == KubeHealth(KubeState.CONNECTING)
            stays_true(lambda: len(sockets() - before) <= 1, 0.3, "one connect for all")


@pytest.mark.parametrize("how", [hangs, drips, slow(60)], ids=["hangs", "drips", "slow"])
def test_an_informer_stops_inside_an_answer(
    api: KubeApi, tmp_path: Path, how: Callable[..., bool]
) -> None:
    fault = api.fault(how)
    with watching(api, tmp_path) as watched:
        wait_until(lambda: fault.hits == len(Resource), SECONDS, "all requests")
        assert watched.health == KubeHealth(KubeState.CONNECTING)


def test_an_informer_stops_inside_an_event(watched: Watched) -> None:
    watched.api.mutter(b'{"type":"ADDED","object":{"kind":')
    wait_until(
        lambda: all(each.waiting.empty() for each in watched.api.streams), SECONDS, "half a line"
    )


def test_an_informer_stops_during_an_outage(watched: Watched) -> None:
    watched.api.stop()
    watched.wait_degraded("Connection refused")


def test_an_informer_stops_before_it_has_begun(api: KubeApi, tmp_path: Path) -> None:
    with watching(api, tmp_path):
        pass
    Informer(Names(), node_name=NODE).stop()


def test_start_does_not_wait_for_the_client_library() -> None:
    program = (
        "import sys, time\n"
        "from tracer.kube.informer import Informer\n"
        "from tracer.kube.names import Names\n"
        "informer = Informer(Names(), node_name='n', kubeconfig='/no/such/file')\n"
        "assert not {'kubernetes', 'urllib3', 'requests', 'yaml'} & sys.modules.keys()\n"
        "began = time.thread_time()\n"
        "informer.start()\n"
        "print(time.thread_time() - began)\n"
        "informer.stop()\n"
        "assert 'kubernetes' in sys.modules\n"
    )
    took = [
        float(subprocess.check_output([sys.executable, "-c", program], text=True)) for _ in range(3)
    ]
    assert min(took) < 0.05  # the library takes ten times as long


def test_without_a_configuration_the_sentence_is_told_and_every_thread_ends(
    api: KubeApi, tmp_path: Path
) -> None:
    with watching(api, tmp_path, config=tmp_path / "none") as watched:
        message = f"cannot read kubeconfig {tmp_path}/none: No such file or directory"
        watched.wait_degraded(message)
        wait_until(
            lambda: not any(each.name in THREADS | {"kube"} for each in threading.enumerate()),
            SECONDS,
            "the threads to end",
        )
        assert watched.health == KubeHealth(KubeState.DEGRADED, message)


def test_a_credential_plugin_that_fails_is_run_again(
    api: KubeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tracer.kube.informer._CREDENTIALS_PAUSE_SECONDS", (0.1, 0.2))
    credential = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "kind": "ExecCredential",
        "status": {"token": TOKEN},
    }
    answer = tmp_path / "credential"
    plugin = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": "cat",
        "args": [str(answer)],
        "interactiveMode": "Never",
    }
    config = api.write_kubeconfig(tmp_path, {"exec": plugin})
    with watching(api, tmp_path, config=config) as watched:
        watched.wait_degraded("the credential plugin of kubeconfig")
        answer.write_text(json.dumps(credential))
        watched.wait_agreed()


def test_a_node_that_the_cluster_does_not_know_is_named(api: KubeApi, tmp_path: Path) -> None:
    with watching(api, tmp_path, node_name="ip-10-0-0-1") as watched:
        watched.wait_degraded("the cluster has no node called ip-10-0-0-1: give --node-name")


def test_health_waits_for_no_writer(tmp_path: Path) -> None:
    names = Names()
    informer = Informer(names, node_name=NODE, kubeconfig=str(tmp_path))
    for watcher in informer._watchers.values():
        watcher.feed.current()
    found: list[KubeHealth] = []
    asking = threading.Thread(target=lambda: found.append(informer.health), daemon=True)
    with names._writing:
        asking.start()
        asking.join(SECONDS)
        assert [each.state for each in found] == [KubeState.DEGRADED]  # no such node
    asking.join(SECONDS)


def test_a_large_cluster_is_followed_within_its_budget(
    certificates: Certificates, tmp_path: Path
) -> None:
    api = KubeApi(certificates)
    load(api)
    with api:
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "tests.support.kube_scale_served",
                api.write_kubeconfig(tmp_path),
            ],
            cwd=Path(__file__).parents[2],
            capture_output=True,
            check=True,
            timeout=90,
        )
    cost = json.loads(done.stdout)
    assert cost["records"] == {
        "pods": 500,
        "services": 10_000,
        "endpointslices": 10_000,
        "nodes": 1_000,
        "networkpolicies": 2_000,
        "namespaces": 500,
    }
    # The names have 60 MB; the client library has some 25 MB of its own: see README.
    assert cost["megabytes"] < 60 + 30
    assert cost["cpu_seconds"] < 3 + 1.5


# -- the cache -------------------------------------------------------------------------------------


def test_names_come_from_the_cache_while_the_server_is_out_of_reach(
    api: KubeApi, tmp_path: Path
) -> None:
    config, kept = api.write_kubeconfig(tmp_path), tmp_path / "cache"
    with watching(api, tmp_path, config=config, cache_dir=kept) as first:
        first.wait_agreed()
    saved_before = time.time_ns()
    api.stop()
    with watching(api, tmp_path, config=config, cache_dir=kept) as second:
        second.wait_degraded("Connection refused")
        known, there = second.known(), second.there()
        assert {each for each in Resource if known[each] != there[each]} == {
            Resource.NETWORK_POLICIES,
            Resource.NAMESPACES,
        }
        assert not second.names.listed(Resource.NETWORK_POLICIES)
        assert second.names.current == set()
        dated = second.health.names_wall_ns
        assert dated is not None
        assert dated < saved_before
        make_some_changes(api)
        api.start()
        second.wait_agreed()


def test_names_are_kept_some_seconds_after_they_are_complete(
    api: KubeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tracer.kube.informer.SAVE_DELAY_SECONDS", 0.1)
    monkeypatch.setattr("tracer.kube.informer.SAVE_SECONDS", 0.3)
    kept = tmp_path / "cache"
    with watching(api, tmp_path, cache_dir=kept) as watched:
        watched.wait_agreed()
        wait_until(lambda: list(kept.glob("*.gz")), SECONDS, "the cache")
        (first,) = kept.glob("*.gz")
        before = first.stat().st_ino
        make_some_changes(api)
        wait_until(lambda: first.stat().st_ino != before, SECONDS, "the cache to be renewed")


def test_a_cache_that_cannot_be_written_is_told_and_is_no_harm(
    api: KubeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tracer.kube.informer.SAVE_DELAY_SECONDS", 0.0)
    (tmp_path / "file").write_text("")
    with watching(api, tmp_path, cache_dir=tmp_path / "file" / "cache") as watched:
        wait_until(lambda: watched.message, SECONDS, "the message")
        assert watched.health == KubeHealth(
            KubeState.SYNCED, f"names cannot be kept in {tmp_path}/file/cache: Not a directory"
        )
        assert watched.agrees()
