"""`synsent-trace check`, through every way of collecting: the same two lines each time."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.client import Client
from tests.support.kube_exec import KubeServer, pod_document, prints
from tests.support.netns import Namespace, iptables, lone_pod
from tests.support.tracer import run_program

INSIDE, OUTSIDE = "10.4.100.50", "52.94.10.112"
HEADLINE = (
    "[ISSUE] Found 3 connection(s) in SYN_SENT state "
    "(pod sending SYN but waiting for ACK - potential connectivity issue)\n"
    "[INFO] Destinations: 10.4.100.50:443 (VPC/internal), 52.94.10.112:443 (external)\n"
)

SS, NETSTAT = ("ss", "-tanpo"), ("netstat", "-tanp")
PROC, PROC6 = ("cat", "/proc/net/tcp"), ("cat", "/proc/net/tcp6")


@contextmanager
def three_stuck() -> Iterator[tuple[Namespace, Client]]:
    """A pod with two connects to a VPC address and one to the outside, by the same process."""
    with lone_pod() as pod:
        for address in (INSIDE, OUTSIDE):
            pod.run(["ip", "address", "add", f"{address}/32", "dev", "lo"])
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


def test_a_pod_without_stuck_connections_is_ok(tmp_path: Path) -> None:
    with lone_pod() as pod:
        file = tmp_path / "ss.txt"
        file.write_text(pod.run(SS))
    done = run_program("check", "--file", str(file))
    assert done.stdout.startswith("[OK]")
    assert done.returncode == 0


def refused_role(server: KubeServer) -> None:
    server.instead_of_pods = (403, {"kind": "Status", "code": 403, "message": "no"})


def gone(server: KubeServer) -> None:
    server.pods.clear()


@pytest.mark.parametrize(
    ("arrange", "status", "named"),
    [(refused_role, 3, "shop"), (gone, 5, "shop/web-0")],
)
def test_what_the_api_server_refuses_is_a_message_and_a_status(
    tmp_path: Path, arrange: Callable[[KubeServer], None], status: int, named: str
) -> None:
    with KubeServer() as server:
        server.pods["shop", "web-0"] = pod_document()
        arrange(server)
        config = tmp_path / "config"
        config.write_text(server.kubeconfig())
        done = run_program(
            *("check", "--pod", "shop/web-0", "--via", "exec", "--kubeconfig", str(config))
        )
    assert done.returncode == status, done.stderr
    assert named in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


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
