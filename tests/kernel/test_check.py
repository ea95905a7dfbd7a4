"""`synsent-trace check`, through every way of collecting: the same two lines each time."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support import without_sock_diag
from tests.support.client import Client
from tests.support.kube_exec import (
    KubeServer,
    cuts,
    fails,
    forbidden,
    missing_in_containerd,
    missing_in_docker,
    pod_document,
    prints,
    refuses,
)
from tests.support.kube_server import status
from tests.support.kubepods import kube_pod
from tests.support.netns import NOBODY_V4, Namespace, iptables, lone_pod
from tests.support.nobody import as_nobody
from tests.support.node import Deep, as_node, beyond, deep_pair, own_address
from tests.support.sockets import listening, opened
from tests.support.tracer import check_event, run_program
from tests.support.wait import wait_until
from tracer.check.context import Context
from tracer.check.node import check_node
from tracer.enrich.destination import Destinations
from tracer.errors import InputError

INSIDE, OUTSIDE = "10.4.100.50", "52.94.10.112"
HEADLINE = (
    "[ISSUE] Found 3 connection(s) in SYN_SENT state "
    "(pod sending SYN but waiting for ACK - potential connectivity issue)\n"
    "[INFO] Destinations: 10.4.100.50:443 (VPC/internal), 52.94.10.112:443 (external)\n"
)

SS, NETSTAT = ("ss", "-tanpo"), ("netstat", "-tanp")
PROC, PROC6 = ("cat", "/proc/net/tcp"), ("cat", "/proc/net/tcp6")


@contextmanager
def three_stuck(*, tracked: bool = False) -> Iterator[tuple[Namespace, Client]]:
    """A pod with two connects to a VPC address, which one process makes, and one to the outside.

    `tracked`: conntrack follows them. It does so in a namespace that has a rule which asks for it.
    """
    with lone_pod() as pod:
        for address in (INSIDE, OUTSIDE):
            pod.run(["ip", "address", "add", f"{address}/32", "dev", "lo"])
        if tracked:
            iptables(pod, "-A", "OUTPUT", "-m", "conntrack", "--ctstate", "NEW", "-j", "ACCEPT")
        iptables(pod, "-A", "INPUT", "-p", "tcp", "--dport", "443", "-j", "DROP")
        clients = [Client(pod, INSIDE, 443, "--hold", "--count", "2")]
        clients.append(Client(pod, OUTSIDE, 443, "--hold"))
        clients[0].wait_opened(2)
        clients[1].wait_opened()
        yield pod, clients[0]


def texts(pod: Namespace, folder: Path) -> dict[str, list[Path]]:
    """What each tool prints in the pod, as files."""
    commands = {
        "ss": [SS],
        "netstat": [NETSTAT],
        "proc": [PROC, PROC6],
    }
    made: dict[str, list[Path]] = {}
    for name, argvs in commands.items():
        for number, argv in enumerate(argvs):
            file = folder / f"{name}-{number}.txt"
            file.write_text(pod.run(argv))
            made.setdefault(name, []).append(file)
    return made


def test_the_lines_are_the_same_from_the_node_and_from_every_kind_of_text(tmp_path: Path) -> None:
    assert shutil.which("netstat"), "net-tools are not installed: run make install"
    with three_stuck() as (pod, client):
        files = texts(pod, tmp_path)
        whole_node = run_program("check", "--node", "--format", "json")
        one_process = run_program("check", "--pid", str(client.pid))
    for name, paths in files.items():
        options = [part for path in paths for part in ("--file", str(path))]
        done = run_program("check", *options)
        assert done.stdout.startswith(HEADLINE), f"{name}: {done.stdout}{done.stderr}"
        assert done.returncode == 1
    found = json.loads(whole_node.stdout)
    own = [one for one in found["connections"] if one["netns"] == pod.inode]
    assert len(own) == 3
    assert all(one["attempt"]["syns_sent"] >= 1 for one in own)
    assert whole_node.returncode == 1
    assert one_process.stdout.startswith("[ISSUE] Found 2 connection(s) in SYN_SENT state ")


@pytest.mark.parametrize("rung", ["ss", "netstat", "/proc/net/tcp"])
def test_the_lines_are_the_same_through_each_rung_inside_a_container(
    tmp_path: Path, rung: str
) -> None:
    missing = {"ss": 0, "netstat": 1, "/proc/net/tcp": 2}[rung]
    with three_stuck() as (pod, _), KubeServer() as server:
        server.pods["shop", "web-0"] = pod_document()
        for argv in [SS, NETSTAT, PROC, PROC6][missing:]:
            server.when(*argv, does=prints(pod.run(argv).encode()))
        config = tmp_path / "config"
        config.write_text(server.kubeconfig())
        done = run_program(
            *("check", "--pod", "shop/web-0", "--via", "exec", "--kubeconfig", str(config))
        )
    assert done.stdout.startswith(HEADLINE), done.stdout + done.stderr
    assert f"through {rung}." in done.stdout
    assert done.stdout.count("Not through ") == missing
    assert "kubectl exec web-0 -n shop -- telnet 10.4.100.50 443" in done.stdout
    assert done.returncode == 1


REFUSED_SOCK_DIAG = (sys.executable, "-S", "-E", str(without_sock_diag.__file__))


def test_the_lines_are_the_same_on_the_node_without_sock_diag() -> None:
    with three_stuck() as (pod, _), on_this_node(pod) as (name, _):
        options = ("check", "--pod", f"shop/{name}", "--via", "node")
        done = run_program(*options, prefix=REFUSED_SOCK_DIAG)
    assert done.stdout.startswith(HEADLINE), done.stdout + done.stderr
    assert "through procfs." in done.stdout
    assert re.search("^Not through sock_diag: .*Operation not permitted", done.stdout, re.MULTILINE)
    assert done.returncode == 1


def test_the_lines_are_the_same_from_sections_and_from_a_state_filter(tmp_path: Path) -> None:
    with three_stuck() as (pod, _):
        sections = "".join(
            f"--- {' '.join(argv)} ---\n{pod.run(argv)}\n"
            for argv in (("ss", "-tuanp"), ("ss", "-tn"), NETSTAT, PROC, PROC6)
        )
        filtered = {
            options: pod.run(["ss", options, "state", "syn-sent"])
            for options in ("-tn", "-Htn", "-an", "-Htnpoei")
        }
    file = tmp_path / "all.txt"
    for text in (sections, "".join(f"    {line}\n" for line in sections.splitlines())):
        file.write_text(text)
        done = run_program("check", "--file", str(file))
        assert done.stdout.startswith(HEADLINE), done.stdout + done.stderr
    for options, text in filtered.items():
        file.write_text(text)
        done = run_program("check", "--file", str(file), "--state", "syn-sent")
        assert done.stdout.startswith(HEADLINE), f"{options}: {done.stdout}{done.stderr}"


def test_a_pod_without_stuck_connections_is_ok(tmp_path: Path) -> None:
    with lone_pod() as pod:
        file = tmp_path / "ss.txt"
        file.write_text(pod.run(SS))
    done = run_program("check", "--file", str(file))
    assert done.stdout.startswith("[OK]")
    assert done.returncode == 0


# --- what could not be looked at -----------------------------------------------------------------


def test_in_a_container_it_does_not_claim_to_have_seen_the_node() -> None:
    with three_stuck():
        container = ("unshare", "--pid", "--fork", "--mount-proc", "--")
        done = run_program("check", "--node", prefix=container)
    assert "Not seen: processes outside this container, " in done.stdout
    assert "hostPID: true" in done.stdout
    assert "every network namespace" not in done.stdout


def test_a_process_that_is_a_zombie_is_not_ok() -> None:
    with subprocess.Popen(["true"]) as process:
        stat = Path(f"/proc/{process.pid}/stat")
        wait_until(lambda: ") Z " in stat.read_text(), 10, "the process's end")
        done = run_program("check", "--pid", str(process.pid))
    assert (done.returncode, done.stdout) == (5, "")
    assert f"process {process.pid} has ended meanwhile" in done.stderr


def test_a_process_that_this_user_may_not_look_at_is_not_ok(tmp_path: Path) -> None:
    with three_stuck() as (_, client):
        done = run_program("check", "--pid", str(client.pid), prefix=as_nobody(tmp_path))
    assert (done.returncode, done.stdout) == (3, "")
    assert f"this user may not see the sockets of process {client.pid}" in done.stderr


def test_one_s_own_process_needs_no_root(tmp_path: Path) -> None:
    with three_stuck() as (pod, _):
        process = pod.popen(
            [*as_nobody(tmp_path / "client"), sys.executable, "-c", CONNECT_AND_WAIT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == b"\n"
        options = ("check", "--pid", str(process.pid))
        done = run_program(*options, prefix=as_nobody(tmp_path / "check"))
    assert done.stdout.startswith("[ISSUE] Found 1 connection(s)"), done.stdout + done.stderr
    assert f"[{process.pid}]" in done.stdout


def test_a_namespace_that_ended_before_it_was_looked_into_is_not_ok() -> None:
    context = Context("node-1", Destinations(()))
    with pytest.raises(InputError, match="network namespace 1 has ended meanwhile"):
        check_node(context, netns=frozenset({1}))
    with lone_pod() as pod:
        found = check_node(context, netns=frozenset({1, pod.inode}))
    assert found.target == f"node node-1, network namespace 1, {pod.inode}"
    assert "network namespace 1, which is gone" in found.notes


def test_what_an_ordinary_user_may_not_look_up_is_said(tmp_path: Path) -> None:
    with three_stuck() as (pod, _):
        wait_until(lambda: pod.counter("TCPSynRetrans") >= 3, TCP_SECONDS, "a retransmission")
        process = pod.popen(
            [*as_nobody(tmp_path / "client"), sys.executable, "-c", CONNECT_AND_WAIT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == b"\n"
        before = pod.counter("TCPSynRetrans")
        wait_until(lambda: pod.counter("TCPSynRetrans") >= before + 4, TCP_SECONDS, "another")
        options = ("check", "--pid", str(process.pid))
        done = run_program(*options, prefix=as_nobody(tmp_path / "check"))
    assert "Why 1 of them does not answer is not known from one look" in done.stdout
    assert "Not seen: routes, next hops and counters of namespaces: " in done.stdout
    assert "Not seen: what connection tracking knows of them: " in done.stdout
    assert done.returncode == 1


# --- why, as far as one look tells ---------------------------------------------------------------

TCP_SECONDS = 15
PORT = 8443


@pytest.fixture
def resources() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def deep(resources: ExitStack) -> Deep:
    """A node between two pods. Its kernel sends no ICMP, which would end an attempt at once."""
    deep = resources.enter_context(deep_pair())
    iptables(deep.node, "-A", "OUTPUT", "-p", "icmp", "-j", "DROP")
    return deep


def stuck(namespace: Namespace, address: str) -> Client:
    """A connect that waits, of which a SYN was sent again."""
    client = Client(namespace, address, PORT, "--hold")
    client.wait_opened()
    retransmitted(namespace)
    return client


def retransmitted(namespace: Namespace) -> None:
    wait_until(lambda: namespace.counter("TCPSynRetrans") >= 1, TCP_SECONDS, "a SYN sent again")


def check_on(deep: Deep, client: Client, *options: str) -> subprocess.CompletedProcess[str]:
    prefix = as_node(deep.node, "to-client", "to-server")
    done = run_program("check", "--pid", str(client.pid), *options, prefix=prefix)
    assert done.returncode == 1, done.stdout + done.stderr
    return done


def verdict_on(deep: Deep, client: Client) -> dict[str, Any]:
    return verdict_in(check_on(deep, client, "--format", "json").stdout)


def verdict_in(output: str) -> dict[str, Any]:
    (found,) = json.loads(output)["verdicts"]
    told: dict[str, Any] = found
    return told


def test_a_dead_neighbour_is_found_while_the_connect_waits_and_told_by_its_report(
    tmp_path: Path,
) -> None:
    report = tmp_path / "report"
    with lone_pod() as pod:
        iptables(pod, "-A", "OUTPUT", "-p", "icmp", "-j", "DROP")
        client = Client(pod, NOBODY_V4, PORT, "--hold")
        client.wait_opened()
        wait_until(
            lambda: "FAILED" in pod.run(["ip", "neigh", "show", NOBODY_V4]),
            TCP_SECONDS,
            "the neighbour to fail",
        )
        done = run_program("check", "--pid", str(client.pid), "--report", str(report))
    assert done.stdout.startswith("[ISSUE] Found 1 connection(s) in SYN_SENT state ")
    # Every SYN that is sent again asks for the neighbour again.
    assert re.search(
        r"^Why \(as far as one look tells\):\n"
        rf"  \? -> {NOBODY_V4}:{PORT}: no-neighbour \((high|medium)\): The SYN .*\n"
        rf"    next hop {NOBODY_V4} on eth0, .*: (FAILED|INCOMPLETE)$",
        done.stdout,
        re.MULTILINE,
    ), done.stdout
    assert f"ip neigh show {NOBODY_V4}" in done.stdout
    told = verdict_in((report / "report.json").read_text())
    assert told["evidence"][0]["kind"] == "neighbour"
    assert told["evidence"][0]["time"] is not None
    again = run_program("check", "--bundle", str(report)).stdout
    assert why_in(again) == why_in(done.stdout)


def why_in(output: str) -> str:
    return output[output.index("Why (as far as") : output.index("\nLooked at ")]


def test_a_full_backlog_of_a_listener_on_this_node_is_told(
    deep: Deep, resources: ExitStack
) -> None:
    listening(deep.server, resources, deep.address, PORT, backlog=0)
    opened(deep.client, resources, deep.address, PORT)
    told = verdict_on(deep, stuck(deep.client, deep.address))
    assert told["cause"] == "listener-overloaded", told
    assert told["confidence"] in {"high", "medium"}
    assert told["evidence"][0]["kind"] == "listener"
    assert "accept queue 1 of 0" in told["evidence"][0]["summary"]


@pytest.mark.parametrize("kind", ["blackhole", "unreachable", "prohibit"])
def test_a_route_of_the_node_that_refuses_is_told(deep: Deep, kind: str) -> None:
    address = own_address(4)
    deep.node.run(["ip", "route", "add", kind, address])
    told = verdict_on(deep, stuck(deep.client, address))
    assert (told["cause"], told["confidence"]) == ("dropped-here", "medium"), told
    assert told["evidence"][0]["kind"] == "route"
    assert told["evidence"][0]["summary"].startswith("in the node's network namespace: ")


def test_a_services_address_that_is_dropped_once_translated_is_not_said_to_lack_a_route(
    deep: Deep,
) -> None:
    address = own_address(4)
    rule = ("-d", address, "-p", "tcp", "--dport", str(PORT), "-j", "DNAT")
    iptables(deep.node, "-A", "FORWARD", "-p", "tcp", "-j", "DROP")
    client = stuck(deep.client, address)
    told = verdict_on(deep, client)
    assert (told["cause"], told["evidence"][0]["kind"]) == ("dropped-here", "route"), told
    to = f"{deep.address}:80"
    iptables(deep.node, "-t", "nat", "-A", "PREROUTING", *rule, "--to-destination", to)
    told = verdict_on(deep, client)
    assert (told["cause"], told["confidence"]) == ("unknown", "low"), told


def test_a_backend_that_is_dead_is_looked_at_behind_the_address_that_was_asked_for(
    deep: Deep,
) -> None:
    address, backend = own_address(4), "10.77.2.99"
    rule = ("-d", address, "-p", "tcp", "--dport", str(PORT), "-j", "DNAT")
    iptables(deep.node, "-t", "nat", "-A", "PREROUTING", *rule, "--to-destination", f"{backend}:80")
    told = verdict_on(deep, stuck(deep.client, address))
    assert told["cause"] == "no-neighbour", told
    assert f"{backend}:80, behind {address}:{PORT}," in told["summary"]
    assert told["evidence"][0]["summary"].startswith(f"next hop {backend} on to-server, ")


def test_a_silent_drop_is_not_claimed_to_be_anywhere(deep: Deep) -> None:
    iptables(deep.node, "-A", "FORWARD", "-o", "to-server", "-j", "DROP")
    done = check_on(deep, stuck(deep.client, deep.address))
    assert "Why 1 of them does not answer is not known from one look" in done.stdout
    for cause in ("dropped-here", "no-reply"):
        assert cause not in done.stdout


@pytest.mark.parametrize("tracked", [False, True])
def test_what_is_swallowed_beyond_the_node_is_a_guess_at_most(
    deep: Deep, resources: ExitStack, tracked: bool
) -> None:
    address = own_address(4)
    resources.enter_context(beyond(deep.node, address))
    if tracked:
        iptables(deep.node, "-A", "FORWARD", "-m", "conntrack", "--ctstate", "NEW", "-j", "ACCEPT")
    told = verdict_on(deep, stuck(deep.client, address))
    expected = ("no-reply", "low") if tracked else ("unknown", "low")
    assert (told["cause"], told["confidence"]) == expected, told


# --- inside a container, where it fails ----------------------------------------------------------


@contextmanager
def cluster(
    folder: Path, name: str = "web-0", uid: str | None = None
) -> Iterator[tuple[KubeServer, tuple[str, ...]]]:
    """A cluster with one pod, and the options to check it from inside."""
    with KubeServer() as server:
        document = pod_document(name=name)
        document["metadata"]["uid"] = uid or document["metadata"]["uid"]
        server.pods["shop", name] = document
        config = folder / "config"
        config.write_text(server.kubeconfig())
        yield (
            server,
            ("check", "--pod", f"shop/{name}", "--via", "exec", "--kubeconfig", str(config)),
        )


def refused_role(server: KubeServer) -> None:
    server.instead_of_pods = (403, {"kind": "Status", "code": 403, "message": "no"})


def refused_exec(server: KubeServer) -> None:
    server.otherwise = refuses(403, forbidden("create", "pods/exec", "web-0", "shop", "dev"))


def gone(server: KubeServer) -> None:
    server.pods.clear()


def gone_since_it_was_looked_up(server: KubeServer) -> None:
    server.otherwise = refuses(404, status(404, "NotFound", 'pods "web-0" not found'))


def container_gone(server: KubeServer) -> None:
    server.otherwise = fails('container not found ("app")')


def nothing_in_it(server: KubeServer) -> None:
    server.otherwise = missing_in_containerd


def nothing_in_it_under_docker(server: KubeServer) -> None:
    server.otherwise = missing_in_docker


def cut(server: KubeServer) -> None:
    server.otherwise = cuts(b"State Recv-Q Send-Q\nSYN-SENT 0 1 10.4.7.21:40000 10.4.100.50:443\n")


def cut_by_a_reset(server: KubeServer) -> None:
    server.otherwise = cuts(b"State", reset=True)


@pytest.mark.parametrize(
    ("arrange", "exit_status", "named"),
    [
        (refused_role, 3, "shop"),
        (refused_exec, 3, "not permitted: pods/exec: create in namespace shop"),
        (gone, 5, "no pod shop/web-0"),
        (gone_since_it_was_looked_up, 5, "no pod shop/web-0"),
        (container_gone, 5, "container app of pod shop/web-0 is not running"),
        (nothing_in_it, 5, "has neither ss nor netstat nor cat"),
        (nothing_in_it_under_docker, 5, "has neither ss nor netstat nor cat"),
        (cut, 5, "the connection was cut while `ss -tanpo` in container app"),
        (cut_by_a_reset, 5, "the connection was cut while `ss -tanpo` in container app"),
    ],
)
def test_what_keeps_a_container_from_being_looked_into_is_a_message_and_a_status(
    tmp_path: Path, arrange: Callable[[KubeServer], None], exit_status: int, named: str
) -> None:
    with cluster(tmp_path) as (server, options):
        arrange(server)
        done = run_program(*options, "--report", str(tmp_path / "report"))
    assert done.returncode == exit_status, done.stderr
    assert named in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert [one.name for one in tmp_path.iterdir()] == ["config"], "a report, or a part of one"


def test_a_container_without_anything_names_the_node_that_sees_it(tmp_path: Path) -> None:
    with cluster(tmp_path) as (_, options):
        done = run_program(*options)
    assert "on node-a run `synsent-trace check --pod shop/web-0 --via node`" in done.stderr


@contextmanager
def on_this_node(pod: Namespace) -> Iterator[tuple[str, str]]:
    """Makes the namespace that of a pod which kubelet runs here; gives the pod's name and uid."""
    with kube_pod(pod, logs=True) as made:
        yield made.name, made.uid


@pytest.mark.parametrize("via", ["auto", "exec"])
def test_a_pod_of_this_node_without_any_tool_is_looked_at_from_the_node(
    tmp_path: Path, via: str
) -> None:
    with (
        three_stuck() as (pod, _),
        on_this_node(pod) as (name, uid),
        cluster(tmp_path, name, uid) as (server, options),
    ):
        done = run_program(*options, "--via", via)
        commands = server.ran
    assert done.stdout.startswith(HEADLINE), done.stdout + done.stderr
    assert done.returncode == 1
    if via == "exec":
        assert commands == [SS, NETSTAT, PROC]
        assert "since nothing in its container reads sockets" in done.stdout
        assert done.stdout.count("not in the container.") == 3
    assert f"kubectl exec {name} -n shop" in done.stdout


def test_a_pod_of_the_same_name_in_another_cluster_is_not_taken_for_it(tmp_path: Path) -> None:
    with (
        three_stuck() as (pod, _),
        on_this_node(pod) as (name, _),
        cluster(tmp_path, name) as (_, options),
    ):
        done = run_program(*options)
    assert done.returncode == 5
    assert "has neither ss nor netstat nor cat" in done.stderr


def test_why_it_was_not_found_on_the_node_is_said_beside_why_not_from_inside(
    tmp_path: Path,
) -> None:
    with cluster(tmp_path) as (server, options):
        refused_exec(server)
        done = run_program(*options, "--via", "auto")
    assert done.returncode == 3
    assert "not permitted: pods/exec: create in namespace shop" in done.stderr
    assert "; nor was it found here: " in done.stderr
    assert "/var/log/pods" in done.stderr


def test_a_container_is_looked_into_from_inside_though_its_pod_is_on_this_node(
    tmp_path: Path,
) -> None:
    with (
        three_stuck() as (pod, _),
        on_this_node(pod) as (name, uid),
        cluster(tmp_path, name, uid) as (server, options),
    ):
        server.when(*SS, does=prints(pod.run(SS).encode()))
        done = run_program(*options, "--via", "auto", "--container", "app")
        commands = server.ran
    assert done.stdout.startswith(HEADLINE), done.stdout + done.stderr
    assert commands[0] == SS


# --- reports -------------------------------------------------------------------------------------


def found_in(output: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(output)["connections"]
    return found


def test_a_report_of_a_process_is_read_back_as_it_was_answered(tmp_path: Path) -> None:
    report = tmp_path / "report"
    with three_stuck() as (pod, client):
        wait_until(lambda: pod.counter("TCPSynRetrans") >= 3, 15, "each SYN to be sent again")
        first = run_program(
            *("check", "--pid", str(client.pid), "--report", str(report), "--format", "json")
        )
    assert first.stderr == f"synsent-trace: the report is in {report}\n"
    assert len(found_in(first.stdout)) == 2
    again = run_program("check", "--bundle", str(report), "--format", "json")
    whole, read_back = json.loads(first.stdout), json.loads(again.stdout)
    # Whose process has the id by now nobody knows.
    assert "nsenter" in str(whole.pop("advice"))
    assert "nsenter" not in str(read_back.pop("advice"))
    assert read_back == whole
    assert again.returncode == first.returncode == 1
    assert (report / "report.json").read_text() == first.stdout
    events = [json.loads(line) for line in (report / "events.jsonl").read_text().splitlines()]
    assert len(events) == 2
    for event in events:
        check_event(event)
        assert event["process"]["pid"] == client.pid
        assert event["detected_by"] == "sock_diag"
    described = (report / "environment.txt").read_text()
    assert f"target: process {client.pid} on node" in described
    assert "\nkernel: Linux " in described


@pytest.mark.parametrize("tracked", [False, True])
def test_the_text_in_a_report_of_a_pod_gives_the_same_lines_by_itself(
    tmp_path: Path, tracked: bool
) -> None:
    report, sent = tmp_path / "report", tmp_path / "sent"
    with three_stuck(tracked=tracked) as (pod, _), on_this_node(pod) as (name, _):
        first = run_program(
            *("check", "--pod", f"shop/{name}", "--via", "node", "--report", str(report))
        )
    assert first.stdout.startswith(HEADLINE), first.stdout + first.stderr
    sent.mkdir()
    for file in ("pod_connections.txt", "pod_conntrack_connections.txt"):
        shutil.copy(report / file, sent)
    again = run_program("check", "--bundle", str(sent))
    assert again.stdout.startswith(HEADLINE), again.stdout + again.stderr
    sockets = (report / "pod_connections.txt").read_text()
    assert f"# network namespace {pod.inode}, /proc/" in sockets
    assert sockets.count("# network namespace") == 2, "tcp and tcp6 of the pod, nobody else's"
    entries = (report / "pod_conntrack_connections.txt").read_text().splitlines()
    kept = [line for line in entries if not line.startswith("#")]
    assert len([line for line in kept if f"dst={INSIDE} " in line]) == (2 if tracked else 0)
    assert all(f"={INSIDE} " in line or f"={OUTSIDE} " in line for line in kept)


def test_the_text_in_a_report_says_no_more_than_the_report_where_conntrack_remembers_more(
    tmp_path: Path,
) -> None:
    report = tmp_path / "report"
    with three_stuck(tracked=True) as (pod, _), on_this_node(pod) as (name, _):
        ended = Client(pod, INSIDE, 443, "--hold")
        ended.wait_opened()
        ended.kill()
        (port,) = ended.report().ports
        options = ("check", "--pod", f"shop/{name}", "--via", "node", "--report", str(report))
        first = run_program(*options)
    assert first.stdout.startswith(HEADLINE), first.stdout + first.stderr
    (report / "report.json").unlink()
    tracked = report / "pod_conntrack_connections.txt"
    assert f" dst={INSIDE} sport={port} dport=443 [UNREPLIED]" in tracked.read_text()
    with tracked.open("a") as file:
        # Somebody else's attempt to reach the pod.
        file.write(
            "ipv4 2 tcp 6 117 SYN_SENT src=10.9.9.9 dst=10.4.100.50 sport=40000 dport=443 "
            "[UNREPLIED] src=10.4.100.50 dst=10.9.9.9 sport=443 dport=40000 mark=0 zone=0 use=2\n"
        )
    again = run_program("check", "--bundle", str(report))
    assert again.stdout.startswith(HEADLINE), again.stdout + again.stderr
    assert "Not seen: 1 tracked attempt(s) without a socket" in again.stdout


def test_a_report_from_inside_a_container_holds_what_its_tool_printed(tmp_path: Path) -> None:
    report = tmp_path / "report"
    with three_stuck() as (pod, _), cluster(tmp_path) as (server, options):
        printed = pod.run(SS).encode()
        server.when(*SS, does=prints(printed))
        done = run_program(*options, "--report", str(report))
    assert done.stdout.startswith(HEADLINE), done.stdout + done.stderr
    kept = (report / "pod_connections.txt").read_bytes()
    assert kept == b"# ss in pod shop/web-0\n" + printed
    (line,) = (report / "pod_conntrack_connections.txt").read_text().splitlines()
    assert line.startswith("# not read: ")
    assert run_program("check", "--bundle", str(report)).stdout == done.stdout


def test_a_report_of_the_node_holds_the_sockets_of_every_namespace(tmp_path: Path) -> None:
    report = tmp_path / "report"
    with three_stuck() as (pod, _), lone_pod() as empty:
        run_program("check", "--node", "--report", str(report))
    sockets = (report / "pod_connections.txt").read_text()
    assert f"# network namespace {pod.inode}, " in sockets
    # Nobody lives in it: it is there by its name alone.
    assert f"# network namespace {empty.inode}, net/tcp through /run/netns/" in sockets


CONNECT_AND_WAIT = f"""
import socket, sys
connecting = socket.socket()
connecting.setblocking(False)
connecting.connect_ex(("{INSIDE}", 443))
print(flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize(
    ("options", "kept"),
    [((), ["--password=***", "--verbose"]), (("--redact",), [])],
    ids=["masked", "redacted"],
)
def test_a_secret_of_a_command_line_is_in_no_output_and_in_no_file(
    tmp_path: Path, options: tuple[str, ...], kept: list[str]
) -> None:
    report = tmp_path / "report"
    with three_stuck() as (pod, _):
        process = pod.popen(
            [sys.executable, "-c", CONNECT_AND_WAIT, "--password=hunter2", "--verbose"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == b"\n"
        done = run_program(
            *("check", "--pid", str(process.pid), "--format", "json", "--report", str(report)),
            *options,
        )
    (found,) = found_in(done.stdout)
    assert found["process"]["command_args"][3:] == kept
    assert found["process"]["command_args"][0] == sys.executable
    assert "hunter2" not in done.stdout
    for file in report.iterdir():
        assert b"hunter2" not in file.read_bytes(), file.name


# --- wrong input ---------------------------------------------------------------------------------


def test_a_file_that_is_no_list_of_sockets_is_named_and_exits_with_5(tmp_path: Path) -> None:
    file = tmp_path / "poem.txt"
    file.write_text("Whose woods these are I think I know\n")
    done = run_program("check", "--file", str(file))
    assert done.returncode == 5
    assert str(file) in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ((), "nothing to check"),
        (("--node", "--pid", "1"), "more than one thing to check"),
        (("--node", "--format", "xml"), "--format: 'xml'"),
        (("--pid", "99999999"), "99999999"),
        (("--pod", "a/b", "--via", "telepathy"), "--via: 'telepathy'"),
    ],
)
def test_options_that_make_no_sense_are_named(options: tuple[str, ...], named: str) -> None:
    done = run_program("check", *options)
    assert done.returncode == 2
    assert named in done.stderr
