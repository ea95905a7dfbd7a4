"""Commands in containers, against a server on loopback that speaks the exec protocol."""

from __future__ import annotations

import json
import os
import random
import select
import socket
import socketserver
import subprocess
import sys
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.support.kube_exec import (
    ERROR,
    STDERR,
    STDOUT,
    V4,
    V5,
    Behaviour,
    Exchange,
    KubeServer,
    cuts,
    exited,
    fails,
    floods,
    forbidden,
    frame,
    hangs,
    missing_in_containerd,
    missing_in_crio,
    missing_in_crio_with_crun,
    missing_in_docker,
    pod_document,
    prints,
    refuses,
)
from tests.support.kube_server import (
    Certificates,
    Document,
    kubeconfig,
    make_certificates,
    status,
)
from tests.support.wait import wait_until
from tracer.check.container import listing
from tracer.errors import InputError, KubeError, KubeForbidden, SynsentError
from tracer.kube.client import KubeClient, connect
from tracer.kube.exec import ExecResult, ExecutableMissing, exec_in_pod
from tracer.kube.ladder import Method, NoReader, PodText, read_sockets
from tracer.kube.pod import PodInfo, PodOwner, parse_pod

SS = (
    b"State    Recv-Q Send-Q Local Address:Port  Peer Address:Port Process\n"
    b"SYN-SENT 0      1      10.4.7.21:41000     10.4.100.50:443   timer:(on,1.2sec,3)\n"
)
NETSTAT = (
    b"Active Internet connections (servers and established)\n"
    b"Proto Recv-Q Send-Q Local Address           Foreign Address         State\n"
    b"tcp        0      1 10.4.7.21:41000         10.4.100.50:443         SYN_SENT\n"
)
PROC = (
    b"  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout "
    b"inode\n"
    b"   0: 1507040A:A028 3264040A:01BB 02 00000001:00000000 01:00000064 00000003     0        0 "
    b"31337 2 0000000000000000 800 0 0 1 7\n"
)
PROC6 = (
    b"  sl  local_address                         remote_address                        st "
    b"tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
)
CONNTRACK = (
    b"tcp      6 117 SYN_SENT src=10.4.7.21 dst=10.4.100.50 sport=40000 dport=443 [UNREPLIED] "
    b"src=10.4.100.50 dst=10.4.7.21 sport=443 dport=40000 mark=0 use=1\n"
)

SECONDS = 20.0
"""For what takes milliseconds on an idle machine."""


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
def server(_nothing_left_over: None, certificates: Certificates) -> Iterator[KubeServer]:
    """A server with the pod shop/web-0; no client may have misspoken, none may be left."""
    with KubeServer(certificates) as running:
        running.pods["shop", "web-0"] = pod_document()
        yield running
        wait_until(lambda: not running.connections, SECONDS, "every client to leave")
        assert running.errors == []


@dataclass(frozen=True)
class Cluster:
    """The server, a client of it, and the pod shop/web-0."""

    server: KubeServer
    client: KubeClient
    pod: PodInfo

    def run(
        self,
        *argv: str,
        container: str | None = None,
        seconds: float = SECONDS,
        max_bytes: int = 1 << 26,
    ) -> ExecResult:
        return exec_in_pod(
            self.client, self.pod, container, argv, timeout_seconds=seconds, max_bytes=max_bytes
        )

    def read(
        self,
        container: str | None = None,
        *,
        seconds: float = SECONDS,
        max_bytes: int = 1 << 26,
    ) -> PodText:
        return read_sockets(
            self.client,
            self.pod,
            container,
            listing=listing,
            timeout_seconds=seconds,
            max_bytes=max_bytes,
        )

    def as_it_is_now(self) -> Cluster:
        return replace(self, pod=self.client.pod("shop", "web-0"))


def ways_to_ask(client: KubeClient) -> tuple[Callable[[], object], ...]:
    """Over HTTP and over a WebSocket."""
    pod = parse_pod(pod_document(), "shop", "web-0")
    return (
        lambda: client.pod("shop", "web-0"),
        lambda: exec_in_pod(client, pod, None, ("ss",), timeout_seconds=SECONDS, max_bytes=1 << 20),
    )


@contextmanager
def connected(server: KubeServer, directory: Path, text: str | None = None) -> Iterator[Cluster]:
    path = directory / "kubeconfig"
    path.write_text(server.kubeconfig() if text is None else text)
    with connect(str(path)) as client:
        yield Cluster(server, client, parse_pod(pod_document(), "shop", "web-0"))


@pytest.fixture
def cluster(server: KubeServer, tmp_path: Path) -> Iterator[Cluster]:
    with connected(server, tmp_path) as one:
        yield one


@pytest.fixture(params=[(V5, V4), (V4,)], ids=["v5", "v4"])
def either(cluster: Cluster, request: pytest.FixtureRequest) -> Cluster:
    """A cluster of Kubernetes 1.30, and one from before."""
    cluster.server.protocols = request.param
    return cluster


def told(error: SynsentError) -> str:
    """What the command line would say."""
    return f"{error}; {error.hint}"


# -- a command and its output ----------------------------------------------------------------------


def test_a_command_gives_its_output_and_its_exit_code(either: Cluster) -> None:
    either.server.when("ss", "-tan", does=prints(b"to stdout", b"to stderr", exit_code=3))
    assert either.run("ss", "-tan") == ExecResult(3, b"to stdout", b"to stderr", False)
    assert either.server.executed[-1].protocol == either.server.protocols[0]


def test_a_command_that_prints_nothing_gives_nothing(either: Cluster) -> None:
    either.server.when("true", does=prints())
    assert either.run("true") == ExecResult(0, b"", b"", False)


def test_arguments_reach_the_container_as_they_are_without_a_shell_input_or_terminal(
    cluster: Cluster,
) -> None:
    argv = ("printf", "a b", "$HOME;x", "&=?#%", "", "ü\n")
    cluster.server.when(*argv, does=prints(b"done"))
    assert cluster.run(*argv).stdout == b"done"
    query = cluster.server.executed[-1].query
    assert {name: query[name] for name in ("stdin", "stdout", "stderr", "tty")} == {
        "stdin": ["false"],
        "stdout": ["true"],
        "stderr": ["true"],
        "tty": ["false"],
    }


def test_binary_output_comes_as_it_is_wherever_messages_split_it(either: Cluster) -> None:
    output = bytes(range(256)) * 3 + "ünïcödé ☃ 🦀".encode() + b"\xff\xfe\x00\r\n"
    for frame_bytes in (1, 2, 7, 4096):
        either.server.when("cat", does=prints(output, frame_bytes=frame_bytes))
        assert either.run("cat").stdout == output


def test_ten_megabytes_come_whole(either: Cluster) -> None:
    output = random.Random(7).randbytes(10 << 20)
    either.server.when("cat", "big", does=prints(output))
    result = either.run("cat", "big")
    assert result.exit_code == 0
    assert result.stdout == output
    assert not result.truncated


def test_frames_of_every_size_and_fragments_of_messages_are_put_together(cluster: Cluster) -> None:
    sizes = (1, 124, 125, 126, 65534, 65535, 65536, 70000)
    text, binary, more = 1, 2, 0

    def behave(exchange: Exchange) -> None:
        for size in sizes:
            exchange.message(STDOUT, b"s" * size)
        exchange.raw(frame(binary, bytes([STDOUT]) + b"first,", final=False))
        exchange.raw(frame(more, b"last"))
        exchange.message(STDOUT, b"|text\xff", opcode=text)
        exchange.message(7, b"of a channel that nobody knows")
        exchange.raw(frame(binary, b""))
        exchange.finish(exited(0, exchange.argv))

    cluster.server.when("odd", does=behave)
    assert cluster.run("odd").stdout == b"s" * sum(sizes) + b"first,last|text\xff"


def test_a_ping_of_the_server_is_answered(cluster: Cluster) -> None:
    def behave(exchange: Exchange) -> None:
        exchange.ping(b"still there?")
        prints(b"after the pong")(exchange)

    cluster.server.when("slow", does=behave)
    assert cluster.run("slow").stdout == b"after the pong"


def test_more_output_than_asked_for_is_cut_off_and_said_to_be(either: Cluster) -> None:
    either.server.when("cat", does=prints(b"x" * 100))
    assert either.run("cat", max_bytes=100) == ExecResult(0, b"x" * 100, b"", False)
    assert either.run("cat", max_bytes=99) == ExecResult(None, b"x" * 99, b"", True)


def test_output_without_an_end_is_left_at_the_bound(either: Cluster) -> None:
    either.server.when("yes", does=floods)
    result = either.run("yes", max_bytes=1 << 20)
    assert result.truncated
    assert len(result.stdout) == 1 << 20


def test_errors_of_the_command_count_towards_the_bound(cluster: Cluster) -> None:
    def behave(exchange: Exchange) -> None:
        exchange.write(STDERR, b"e" * 60)
        exchange.write(STDOUT, b"o" * 60)
        exchange.wait_until_left()

    cluster.server.when("noisy", does=behave)
    assert cluster.run("noisy", max_bytes=100) == ExecResult(None, b"o" * 40, b"e" * 60, True)


def test_a_status_in_two_messages_is_one_status(cluster: Cluster) -> None:
    def behave(exchange: Exchange) -> None:
        text = json.dumps(exited(9, exchange.argv)).encode()
        exchange.message(ERROR, text[:20])
        exchange.message(ERROR, text[20:])
        exchange.close()

    cluster.server.when("ss", does=behave)
    assert cluster.run("ss").exit_code == 9


def test_a_connection_cut_after_the_status_has_lost_nothing(either: Cluster) -> None:
    def behave(exchange: Exchange) -> None:
        exchange.write(STDOUT, SS)
        exchange.message(ERROR, json.dumps(exited(0, exchange.argv)).encode())

    either.server.when("ss", does=behave)
    assert either.run("ss").stdout == SS


# -- which container -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("annotations", "asked", "taken"),
    [
        ({}, None, "app"),
        ({}, "sidecar", "sidecar"),
        ({"kubectl.kubernetes.io/default-container": "sidecar"}, None, "sidecar"),
        ({"kubectl.kubernetes.io/default-container": "sidecar"}, "app", "app"),
        ({"kubectl.kubernetes.io/default-container": "no-such"}, None, "app"),
    ],
)
def test_the_container_is_the_one_asked_for_or_that_of_the_annotation_or_the_first(
    cluster: Cluster,
    annotations: dict[str, str],
    asked: str | None,
    taken: str,
) -> None:
    cluster.server.pods["shop", "web-0"]["metadata"]["annotations"] = annotations
    cluster.server.when("ss", does=prints(SS))
    cluster.as_it_is_now().run("ss", container=asked)
    assert cluster.server.executed[-1].container == taken


def test_a_pod_without_containers_runs_nothing(cluster: Cluster) -> None:
    cluster.server.pods["shop", "web-0"]["spec"]["containers"] = None
    with pytest.raises(KubeError, match="pod shop/web-0 has no container"):
        cluster.as_it_is_now().run("ss")
    assert cluster.server.executed == []


@pytest.mark.parametrize("over_the_error_channel", [False, True])
def test_a_container_that_the_pod_does_not_have_is_named_with_those_it_has(
    cluster: Cluster, *, over_the_error_channel: bool
) -> None:
    message = "container nginx is not valid for pod web-0"
    answer = refuses(400, status(400, "BadRequest", message))
    cluster.server.when("ss", does=fails(message) if over_the_error_channel else answer)
    with pytest.raises(KubeError) as caught:
        cluster.run("ss", container="nginx")
    assert told(caught.value) == "pod shop/web-0 has no container nginx; it has: app, sidecar"
    assert caught.value.exit_code == 5


NOT_RUNNING = (
    'container not found ("app")',
    "container is in CONTAINER_EXITED state",
    "container is not created or running",
)


@pytest.mark.parametrize("words", NOT_RUNNING)
@pytest.mark.parametrize(
    "answer",
    [
        lambda words: refuses(500, words),
        lambda words: refuses(500, status(500, "InternalError", f"unable to upgrade: {words}")),
        lambda words: fails(f"unable to upgrade connection: {words}"),
    ],
    ids=["kubelet", "status", "error channel"],
)
def test_a_container_that_does_not_run_is_said_not_to(
    cluster: Cluster, answer: object, words: str
) -> None:
    assert callable(answer)
    cluster.server.when("ss", does=answer(words))
    with pytest.raises(KubeError, match="container app of pod shop/web-0 is not running") as caught:
        cluster.run("ss")
    assert "kubectl get pod -n shop web-0" in caught.value.hint
    assert caught.value.exit_code == 5


# -- containers that lack things -------------------------------------------------------------------

MISSING: list[Behaviour] = [
    missing_in_containerd,
    missing_in_crio,
    missing_in_crio_with_crun,
    missing_in_docker,
    prints(exit_code=127),
    fails('failed to start exec: rpc status: Status { message: "the file ss was not found" }'),
    fails('OCI runtime exec failed: error finding executable "ss" in PATH [/bin]: not found'),
    fails('exec failed: exec: "/sbin/ss": stat /sbin/ss: no such file or directory: unknown'),
]


@pytest.mark.parametrize("missing", MISSING)
def test_a_program_that_is_not_in_the_container_is_told_from_one_that_fails(
    either: Cluster, missing: Behaviour
) -> None:
    either.server.when("ss", "-tanpo", does=missing)
    with pytest.raises(ExecutableMissing) as caught:
        either.run("ss", "-tanpo")
    assert caught.value.argv == ("ss", "-tanpo")
    assert caught.value.reason == "not in the container"
    assert str(caught.value).startswith("ss cannot be run in container app of pod shop/web-0")


def test_a_program_that_may_not_be_run_is_missing_for_that_reason(cluster: Cluster) -> None:
    cluster.server.when("ss", does=fails('exec failed: exec: "ss": permission denied: unknown'))
    with pytest.raises(ExecutableMissing) as caught:
        cluster.run("ss")
    assert caught.value.reason == "permission denied"
    cluster.server.when("ss", does=prints(b'exec: "ss": permission denied: unknown', exit_code=126))
    with pytest.raises(ExecutableMissing, match="permission denied"):
        cluster.run("ss")


@pytest.mark.parametrize(
    "behaviour",
    [
        prints(stderr=b"cat: /proc/net/tcp6: No such file or directory\n", exit_code=1),
        prints(stderr=b"Cannot open netlink socket: Permission denied\n", exit_code=255),
        prints(stdout=b'"ss": executable file not found in $PATH', exit_code=1),
    ],
)
def test_a_program_that_fails_is_not_called_missing(cluster: Cluster, behaviour: Behaviour) -> None:
    cluster.server.when("ss", does=behaviour)
    assert cluster.run("ss").exit_code


def test_what_else_the_node_says_is_passed_on_harmless_and_short(cluster: Cluster) -> None:
    cluster.server.when("ss", does=fails("cgroup is \x1b[31mfull\n" + "x" * 5000))
    with pytest.raises(KubeError) as caught:
        cluster.run("ss")
    assert "cgroup is \\x1b[31mfull xxx" in str(caught.value)
    assert len(str(caught.value)) < 500
    assert not isinstance(caught.value, ExecutableMissing)


# -- the ladder ------------------------------------------------------------------------------------

LADDER = [
    ("ss", "-tanpo"),
    ("netstat", "-tanp"),
    ("cat", "/proc/net/tcp"),
    ("cat", "/proc/net/tcp6"),
]


def test_a_container_without_a_shell_is_read_with_ss(cluster: Cluster) -> None:
    cluster.server.when("ss", "-tanpo", does=prints(SS))
    assert cluster.read() == PodText(Method.SS, SS, ())
    assert cluster.server.ran == LADDER[:1]


@pytest.mark.parametrize("missing", MISSING[:4])
def test_a_container_without_ss_is_read_with_netstat(cluster: Cluster, missing: Behaviour) -> None:
    cluster.server.otherwise = missing
    cluster.server.when("netstat", "-tanp", does=prints(NETSTAT))
    assert cluster.read() == PodText(
        Method.NETSTAT, NETSTAT, (("ss -tanpo", "not in the container"),)
    )


@pytest.mark.parametrize("missing", MISSING[:4])
def test_a_container_without_ss_and_netstat_is_read_through_proc(
    cluster: Cluster, missing: Behaviour
) -> None:
    cluster.server.otherwise = missing
    cluster.server.when("cat", "/proc/net/tcp", does=prints(PROC))
    cluster.server.when("cat", "/proc/net/tcp6", does=prints(PROC6))
    assert cluster.read("sidecar") == PodText(
        Method.PROC,
        PROC + PROC6,
        (("ss -tanpo", "not in the container"), ("netstat -tanp", "not in the container")),
    )
    assert cluster.server.ran == LADDER
    assert {each.container for each in cluster.server.executed} == {"sidecar"}


def test_a_kernel_without_ipv6_is_read_without_and_that_is_said(cluster: Cluster) -> None:
    complaint = b"cat: can't open '/proc/net/tcp6': No such file or directory\n"
    cluster.server.when("cat", "/proc/net/tcp", does=prints(PROC))
    cluster.server.when("cat", "/proc/net/tcp6", does=prints(stderr=complaint, exit_code=1))
    found = cluster.read()
    assert found.text == PROC
    assert found.tried[-1] == (
        "cat /proc/net/tcp6",
        "exit status 1: cat: can't open '/proc/net/tcp6': No such file or directory",
    )


@pytest.mark.parametrize(
    "complaint",
    [
        b"netstat: invalid option -- 'p'\nBusyBox v1.36.1 multi-call binary.\n",
        b"netstat: unrecognized option: p\n",
        b"netstat: Unknown option 'p' (see \"netstat --help\")\n",
    ],
)
def test_a_netstat_that_knows_no_processes_is_asked_without(
    cluster: Cluster, complaint: bytes
) -> None:
    cluster.server.when("netstat", "-tanp", does=prints(stderr=complaint, exit_code=1))
    cluster.server.when("netstat", "-tan", does=prints(NETSTAT))
    found = cluster.read()
    assert (found.method, found.text) == (Method.NETSTAT, NETSTAT)
    assert found.tried[1][0] == "netstat -tanp"
    assert complaint.splitlines()[0].decode() in found.tried[1][1]


def test_a_netstat_that_fails_otherwise_is_not_asked_again(cluster: Cluster) -> None:
    cluster.server.when("netstat", "-tanp", does=prints(stderr=b"netstat: no /proc\n", exit_code=1))
    cluster.server.when("cat", "/proc/net/tcp", does=prints(PROC))
    cluster.server.when("cat", "/proc/net/tcp6", does=prints(PROC6))
    assert cluster.read().method is Method.PROC
    assert cluster.server.ran == LADDER


def test_a_tool_that_fails_leaves_its_reason_and_the_next_one_is_taken(cluster: Cluster) -> None:
    complaint = b"\n  Cannot open netlink socket: \x1b[2JPermission denied\nmore\n"
    cluster.server.when("ss", "-tanpo", does=prints(b"half", complaint, exit_code=255))
    cluster.server.when("netstat", "-tanp", does=prints(NETSTAT))
    assert cluster.read().tried == (
        (
            "ss -tanpo",
            "exit status 255: Cannot open netlink socket: \\x1b[2JPermission denied",
        ),
    )


def test_a_tool_that_prints_nothing_at_all_has_not_worked(cluster: Cluster) -> None:
    cluster.server.when("ss", "-tanpo", does=prints())
    cluster.server.when("netstat", "-tanp", does=prints(NETSTAT))
    assert cluster.read().tried == (("ss -tanpo", "printed nothing"),)


@pytest.mark.parametrize("missing", MISSING[:4])
def test_a_container_with_nothing_is_said_to_have_nothing_and_its_node_is_recommended(
    cluster: Cluster, missing: Behaviour
) -> None:
    cluster.server.otherwise = missing
    with pytest.raises(NoReader) as caught:
        cluster.read()
    assert str(caught.value) == (
        "container app of pod shop/web-0 has neither ss nor netstat nor cat: "
        "nothing in it reads its sockets"
    )
    assert "on node-a run `synsent-trace check --pod shop/web-0 --via node`" in caught.value.hint
    assert [command for command, _ in caught.value.tried] == [
        "ss -tanpo",
        "netstat -tanp",
        "cat /proc/net/tcp",
    ]
    assert caught.value.exit_code == 5


def test_where_everything_fails_every_reason_is_told(cluster: Cluster) -> None:
    cluster.server.when("ss", "-tanpo", does=prints(stderr=b"denied\n", exit_code=1))
    with pytest.raises(NoReader) as caught:
        cluster.read()
    assert "ss -tanpo: exit status 1: denied; netstat -tanp: not in the container" in str(
        caught.value
    )


def test_text_beyond_the_bound_ends_after_a_whole_line(cluster: Cluster) -> None:
    header, line = SS.splitlines(keepends=True)
    cluster.server.when("ss", "-tanpo", does=prints(header + line * 100))
    found = cluster.read(max_bytes=len(header) + 4 * len(line) + 20)
    assert found.truncated
    assert found.text == header + line * 4


@pytest.mark.parametrize(
    "printed",
    [
        b"usage: ss [OPTIONS]\n\nA shadowsocks client, version 1.15.3\n",
        b"Whose woods these are I think I know\n",
        CONNTRACK,
        b"\xff\x00" * 1000,
    ],
    ids=["help", "prose", "conntrack", "binary"],
)
def test_a_tool_that_is_another_program_of_that_name_has_not_worked(
    cluster: Cluster, printed: bytes
) -> None:
    cluster.server.when("ss", "-tanpo", does=prints(printed))
    cluster.server.when("netstat", "-tanp", does=prints(NETSTAT))
    found = cluster.read()
    assert (found.method, found.text) == (Method.NETSTAT, NETSTAT)
    assert found.tried == (("ss -tanpo", "what it printed is no list of sockets"),)


def test_a_header_beside_a_complaint_is_no_list_without_sockets(cluster: Cluster) -> None:
    header = SS.splitlines(keepends=True)[0]
    complaint = b"Cannot open netlink socket: Operation not permitted\n"
    cluster.server.when("ss", "-tanpo", does=prints(header, complaint))
    cluster.server.when("netstat", "-tanp", does=prints(NETSTAT))
    found = cluster.read()
    assert found.method is Method.NETSTAT
    assert found.tried == (
        ("ss -tanpo", "listed nothing: Cannot open netlink socket: Operation not permitted"),
    )


@pytest.mark.parametrize(
    "printed",
    [SS.splitlines(keepends=True)[0], b"".join(NETSTAT.splitlines(keepends=True)[:2]), PROC6],
    ids=["ss", "netstat", "proc"],
)
def test_a_header_alone_is_a_container_without_sockets(cluster: Cluster, printed: bytes) -> None:
    cluster.server.when("ss", "-tanpo", does=prints(printed))
    assert cluster.read() == PodText(Method.SS, printed, ())


def test_sockets_beside_a_complaint_are_sockets(cluster: Cluster) -> None:
    complaint = b'(No info could be read for "-p": geteuid()=1000 but you should be root.)\n'
    cluster.server.when("netstat", "-tanp", does=prints(NETSTAT, complaint))
    assert cluster.read().text == NETSTAT


@pytest.mark.parametrize(
    ("behaviour", "why"),
    [
        (cuts(PROC6[:20]), "the connection was cut"),
        (hangs(PROC6), "did not end within"),
        (fails("no such thing"), "no such thing"),
        (refuses(403, ""), "not permitted"),
        (prints(b"cat: what?\n"), "no list of sockets"),
    ],
    ids=["cut", "hangs", "fails", "refused", "prose"],
)
def test_what_was_read_of_one_family_stays_where_the_other_cannot_be(
    cluster: Cluster, behaviour: Behaviour, why: str
) -> None:
    cluster.server.when("cat", "/proc/net/tcp", does=prints(PROC))
    cluster.server.when("cat", "/proc/net/tcp6", does=behaviour)
    found = cluster.read(seconds=1)
    assert (found.method, found.text) == (Method.PROC, PROC)
    command, reason = found.tried[-1]
    assert command == "cat /proc/net/tcp6"
    assert why in reason


@pytest.mark.parametrize("behaviour", [cuts(SS[:50]), hangs(SS[:50]), fails("no such thing")])
def test_the_ladder_does_not_go_on_where_the_container_cannot_be_reached(
    cluster: Cluster, behaviour: Behaviour
) -> None:
    cluster.server.otherwise = behaviour
    with pytest.raises(KubeError):
        cluster.read(seconds=0.5)
    assert cluster.server.ran == LADDER[:1]


# -- connections that end or hang ------------------------------------------------------------------


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize("inside_a_frame", [False, True], ids=["between", "inside"])
@pytest.mark.parametrize("output", [b"", SS], ids=["nothing", "something"])
def test_a_connection_cut_while_the_command_runs_gives_no_result(
    either: Cluster,
    output: bytes,
    *,
    inside_a_frame: bool,
    reset: bool,
) -> None:
    either.server.when(
        "ss", "-tanpo", does=cuts(output, reset=reset, inside_a_frame=inside_a_frame)
    )
    with pytest.raises(KubeError) as caught:
        either.run("ss", "-tanpo")
    message = str(caught.value)
    assert message.startswith(
        "the connection was cut while `ss -tanpo` in container app of pod shop/web-0 ran: "
    )
    assert f"the {len(output)} bytes that had come are not all" in message
    assert "node-a" in caught.value.hint
    assert caught.value.exit_code == 5


def test_a_connection_closed_in_order_but_without_a_status_gives_no_result(either: Cluster) -> None:
    def behave(exchange: Exchange) -> None:
        exchange.write(STDOUT, SS)
        exchange.close()

    either.server.when("ss", does=behave)
    with pytest.raises(KubeError, match=r"was cut while .* the server closed it"):
        either.run("ss")


def test_frames_that_are_none_give_no_result(cluster: Cluster) -> None:
    def behave(exchange: Exchange) -> None:
        exchange.write(STDOUT, SS)
        exchange.raw(b"\xff\xff\xff\xff")

    cluster.server.when("ss", does=behave)
    with pytest.raises(KubeError, match="was cut while"):
        cluster.run("ss")


@pytest.mark.parametrize(
    "body", [b"{}", b"[]", b'{"status": "Failure"}', b"null", b"7", b"[" * 70_000]
)
def test_a_status_that_says_nothing_is_no_success(cluster: Cluster, body: bytes) -> None:
    def behave(exchange: Exchange) -> None:
        exchange.write(STDOUT, SS)
        exchange.message(ERROR, body)
        exchange.close()

    cluster.server.when("ss", does=behave)
    with pytest.raises(KubeError):
        cluster.run("ss")


def test_a_status_without_an_end_is_not_read_forever(cluster: Cluster) -> None:
    def behave(exchange: Exchange) -> None:
        while True:
            exchange.write(ERROR, b"a" * 30_000)

    cluster.server.when("ss", does=behave)
    with pytest.raises(KubeError, match="cannot run `ss`"):
        cluster.run("ss")


def test_a_command_that_hangs_is_given_up_and_what_it_wrote_is_not_taken_for_all(
    either: Cluster,
) -> None:
    either.server.when("ss", does=hangs(SS))
    with pytest.raises(KubeError, match=r"`ss` in .* did not end within 0\.3 s") as caught:
        either.run("ss", seconds=0.3)
    assert caught.value.exit_code == 5


def test_a_command_that_keeps_writing_is_given_up_in_time_too(cluster: Cluster) -> None:
    cluster.server.when("yes", does=floods)
    with pytest.raises(KubeError, match=r"did not end within 0\.3 s"):
        cluster.run("yes", seconds=0.3, max_bytes=1 << 40)


@pytest.mark.parametrize("inside_a_frame", [True, False], ids=["a frame", "pings"])
def test_a_server_that_drips_is_given_up_in_time_too(
    cluster: Cluster, *, inside_a_frame: bool
) -> None:
    def behave(exchange: Exchange) -> None:
        if inside_a_frame:
            exchange.raw(frame(2, bytes([STDOUT]) + b"x" * 10_000)[:4])
        while True:
            exchange.raw(b"x" if inside_a_frame else frame(9, b""))
            time.sleep(0.02)

    cluster.server.when("ss", does=behave)
    began = time.monotonic()
    with pytest.raises(KubeError, match=r"did not end within 0\.3 s"):
        cluster.run("ss", seconds=0.3)
    assert time.monotonic() - began < 5


def test_a_handshake_that_drips_is_given_up_in_time_too(cluster: Cluster) -> None:
    def behave(exchange: Exchange) -> None:
        exchange.before_the_handshake(b"HTTP/1.1 101 Switching Protocols\r\nX: ")
        while True:
            exchange.before_the_handshake(b"x")
            time.sleep(0.02)

    cluster.server.when("ss", does=behave)
    with pytest.raises(KubeError, match=r"did not end within|gave no answer"):
        cluster.run("ss", seconds=0.3)


def eight_gibibytes(exchange: Exchange) -> None:
    """One frame that says to be that long."""
    exchange.raw(b"\x82\x7f" + (8 << 30).to_bytes(8, "big") + bytes([STDOUT]))
    while True:
        exchange.raw(b"x" * 65_536)


def one_message_of_many_frames(exchange: Exchange) -> None:
    exchange.raw(frame(2, bytes([STDOUT]), final=False))
    while True:
        exchange.raw(frame(0, b"x" * 65_536, final=False))


def a_header_without_an_end(exchange: Exchange) -> None:
    exchange.before_the_handshake(b"HTTP/1.1 101 Switching Protocols\r\nX: ")
    while True:
        exchange.before_the_handshake(b"x" * 65_536)


def a_refusal_without_an_end(exchange: Exchange) -> None:
    exchange.before_the_handshake(b"HTTP/1.1 500 No\r\nContent-Length: 8796093022208\r\n\r\n")
    while True:
        exchange.before_the_handshake(b"x" * 65_536)


@pytest.mark.parametrize(
    "behaviour",
    [
        eight_gibibytes,
        one_message_of_many_frames,
        a_header_without_an_end,
        a_refusal_without_an_end,
    ],
)
def test_a_message_larger_than_any_of_a_kubelet_is_not_collected(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, behaviour: Behaviour
) -> None:
    monkeypatch.setattr("tracer.kube.exec.MAX_MESSAGE_BYTES", 256 << 10)
    cluster.server.when("ss", does=behaviour)
    with pytest.raises(KubeError, match=r"more than 0\.25 MiB in one message"):
        cluster.run("ss")


def test_a_server_that_never_takes_up_the_websocket_is_given_up(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tracer.kube.client.READ_SECONDS", 0.3)
    cluster.server.when("ss", does=Exchange.wait_until_left)
    with pytest.raises(KubeError, match="gave no answer to exec in container app") as caught:
        cluster.run("ss")
    assert "node-a" in caught.value.hint


def test_a_server_that_hangs_up_instead_of_answering_gives_no_result(cluster: Cluster) -> None:
    cluster.server.when("ss", does=lambda _: None)
    with pytest.raises(KubeError, match="gave no answer to exec"):
        cluster.run("ss")


def test_a_server_of_another_protocol_is_named_so(cluster: Cluster) -> None:
    cluster.server.protocols = ("v4.base64.channel.k8s.io",)
    cluster.server.when("ss", does=prints(SS))
    with pytest.raises(KubeError, match=r"does not speak v5\.channel\.k8s\.io or v4"):
        cluster.run("ss")


@pytest.mark.parametrize("code", [301, 302, 307, 308])
def test_a_redirect_is_not_followed_with_the_token(tmp_path: Path, code: int) -> None:
    with KubeServer() as server:
        server.pods["shop", "web-0"] = pod_document()
        server.otherwise = refuses(code, "")
        server.instead_of_pods = (code, "")
        with connected(server, tmp_path) as cluster:
            for ask in ways_to_ask(cluster.client):
                with pytest.raises(KubeError):
                    ask()
    assert len(server.paths) == 2


@contextmanager
def black_hole() -> Iterator[int]:
    """A port on which a connect stays in SYN_SENT: its backlog is full and nobody accepts."""
    with ExitStack() as held, socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        address = listener.getsockname()
        for _ in range(8):
            waiting = held.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(address)
        yield int(address[1])


@contextmanager
def silence() -> Iterator[int]:
    """A port that takes connections and then says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield int(listener.getsockname()[1])


@pytest.mark.parametrize("nobody", [black_hole, silence])
def test_an_api_server_that_does_not_answer_is_given_up(
    certificates: Certificates,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    nobody: object,
) -> None:
    monkeypatch.setattr("tracer.kube.client.CONNECT_SECONDS", 0.3)
    monkeypatch.setattr("tracer.kube.client.READ_SECONDS", 0.4)
    assert callable(nobody)
    with nobody() as port:
        path = tmp_path / "kubeconfig"
        path.write_text(kubeconfig(f"https://127.0.0.1:{port}", {}, certificates.authority))
        with connect(str(path)) as client:
            for ask in ways_to_ask(client):
                with pytest.raises(KubeError) as caught:
                    ask()
                assert str(caught.value) == (
                    f"cannot ask the API server https://127.0.0.1:{port}: no answer "
                    "(a connect gets 0.3 s, an answer 0.4 s)"
                )
                assert caught.value.exit_code == 5


def test_an_api_server_that_does_not_answer_is_asked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tracer.kube.client.READ_SECONDS", 0.1)
    path = tmp_path / "kubeconfig"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        path.write_text(kubeconfig(f"http://127.0.0.1:{listener.getsockname()[1]}", {}))
        with connect(str(path)) as client, pytest.raises(KubeError, match="no answer"):
            client.pod("shop", "web-0")
        listener.setblocking(False)
        listener.accept()[0].close()
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_an_api_server_that_is_not_there_is_named_without_a_password(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    path = tmp_path / "kubeconfig"
    path.write_text(kubeconfig(f"http://me:hunter2@{address}", {}))
    with connect(str(path)) as client:
        for ask in ways_to_ask(client):
            with pytest.raises(KubeError, match=f"http://{address}: Connection refused") as caught:
                ask()
            assert "hunter2" not in told(caught.value)


# -- refusals --------------------------------------------------------------------------------------

USER = "system:serviceaccount:tools:synsent"


@pytest.mark.parametrize("verb", ["get", "create"])
def test_exec_that_rbac_refuses_is_told_with_verb_resource_and_namespace(
    cluster: Cluster, verb: str
) -> None:
    cluster.server.otherwise = refuses(403, forbidden(verb, "pods/exec", "web-0", "shop", USER))
    with pytest.raises(KubeForbidden) as caught:
        cluster.read()
    assert str(caught.value) == (f"not permitted: pods/exec: {verb} in namespace shop, to {USER}")
    assert "the verbs get and create on pods/exec" in caught.value.hint
    assert "kubectl auth can-i create pods --subresource=exec -n shop" in caught.value.hint
    assert caught.value.exit_code == 3
    assert cluster.server.ran == LADDER[:1]


def test_a_pod_that_rbac_hides_is_told_with_verb_resource_and_namespace(cluster: Cluster) -> None:
    cluster.server.instead_of_pods = (403, forbidden("get", "pods", "web-0", "shop", USER))
    with pytest.raises(KubeForbidden) as caught:
        cluster.client.pod("shop", "web-0")
    assert str(caught.value) == f"not permitted: pods: get in namespace shop, to {USER}"
    assert "kubectl auth can-i get pods -n shop" in caught.value.hint
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("body", ["", "<html>Forbidden</html>", {"kind": "Status"}])
def test_a_403_that_explains_nothing_names_what_was_asked(
    cluster: Cluster, body: Document | str
) -> None:
    cluster.server.otherwise = refuses(403, body)
    with pytest.raises(KubeForbidden, match="not permitted: pods/exec: create in namespace shop"):
        cluster.run("ss")


def test_a_request_without_credentials_is_told_from_one_without_rights(cluster: Cluster) -> None:
    answer = forbidden("get", "pods/exec", "web-0", "shop", "system:anonymous")
    cluster.server.otherwise = refuses(403, answer)
    with pytest.raises(KubeForbidden, match="was given no credentials"):
        cluster.run("ss")


def test_a_policy_that_denies_exec_is_told_from_rbac(cluster: Cluster) -> None:
    message = 'admission webhook "no-exec.example.com" denied the request: exec is not for you'
    cluster.server.otherwise = refuses(403, status(403, "Forbidden", message))
    with pytest.raises(KubeForbidden, match="an admission policy of the cluster denies it"):
        cluster.run("ss")


def test_a_token_that_is_not_known_is_told_from_one_without_rights(
    server: KubeServer, tmp_path: Path
) -> None:
    text = server.kubeconfig(user={"token": "another"})
    with connected(server, tmp_path, text) as cluster:
        for ask in ways_to_ask(cluster.client):
            with pytest.raises(KubeError, match="does not accept the credentials") as caught:
                ask()
            assert caught.value.exit_code == 5


def test_a_pod_that_is_gone_is_said_to_be(cluster: Cluster) -> None:
    del cluster.server.pods["shop", "web-0"]
    for ask in (*ways_to_ask(cluster.client), cluster.read):
        with pytest.raises(KubeError, match="no pod shop/web-0 in the cluster") as caught:
            ask()
        assert "kubectl get pods -n shop" in caught.value.hint
        assert caught.value.exit_code == 5


def test_a_pod_that_its_node_has_let_go_is_said_to_be_gone(cluster: Cluster) -> None:
    cluster.server.when("ss", does=refuses(404, "pod does not exist"))
    with pytest.raises(KubeError, match="pod shop/web-0 is no longer on node node-a"):
        cluster.run("ss")


def test_a_name_does_not_lead_elsewhere_in_the_api(cluster: Cluster) -> None:
    name = "../secrets/a?b#c"
    pod = replace(cluster.pod, name=name)
    for ask in (lambda: cluster.client.pod("shop", name), replace(cluster, pod=pod).read):
        with pytest.raises(KubeError):
            ask()
    path = "/api/v1/namespaces/shop/pods/..%2Fsecrets%2Fa%3Fb%23c"
    assert cluster.server.paths == [path, f"{path}/exec"]


def test_an_answer_that_is_not_known_is_told_without_its_body(cluster: Cluster) -> None:
    body = status(500, "InternalError", "etcd said: password=hunter2")
    cluster.server.otherwise = refuses(500, body)
    cluster.server.instead_of_pods = (500, body)
    for ask in ways_to_ask(cluster.client):
        with pytest.raises(KubeError, match=r"answered 500 \(InternalError\)") as caught:
            ask()
        assert "hunter2" not in told(caught.value)


@pytest.mark.parametrize(
    "body",
    ["<html>a login page</html>", {"kind": "PodList", "items": []}, pod_document(name="web-1")],
)
def test_an_answer_that_is_not_the_pod_is_not_taken_for_it(
    cluster: Cluster, body: Document | str
) -> None:
    cluster.server.instead_of_pods = (200, body)
    with pytest.raises(KubeError):
        cluster.client.pod("shop", "web-0")


# -- what a pod is ---------------------------------------------------------------------------------


def test_a_pod_is_read_with_what_matters_of_it(cluster: Cluster) -> None:
    document = cluster.server.pods["shop", "web-0"]
    eni = '[{"eniId": "eni-0123456789abcdef0"}]'
    document["metadata"]["annotations"] = {
        "vpc.amazonaws.com/pod-eni": eni,
        "example.com/token": "secret",
    }
    document["spec"]["initContainers"] = [{"name": "proxy", "restartPolicy": "Always"}]
    document["spec"]["ephemeralContainers"] = [{"name": "debugger"}]
    document["status"]["initContainerStatuses"] = [
        {"name": "proxy", "containerID": f"cri-o://{'ab' * 32}"}
    ]
    document["status"]["ephemeralContainerStatuses"] = [{"name": "debugger", "containerID": ""}]
    found = cluster.client.pod("shop", "web-0")
    assert (found.uid, found.node) == ("0d9b2c44-58f1-4c3e-9f0a-2f9f0f6f7a10", "node-a")
    assert (found.pod_ip, found.pod_ips) == ("10.4.7.21", ("10.4.7.21", "fd00:10:4::15"))
    assert (found.phase, found.host_network) == ("Running", False)
    assert found.owner == PodOwner("StatefulSet", "web")
    assert dict(found.annotations) == {"vpc.amazonaws.com/pod-eni": eni}
    assert [(each.name, each.id) for each in found.containers] == [
        ("app", f"{0xC0:064x}"),
        ("sidecar", f"{0xC1:064x}"),
        ("proxy", "ab" * 32),
        ("debugger", None),
    ]
    assert found.default_container == "app"


def test_a_pod_that_is_not_scheduled_yet_has_unknowns() -> None:
    document = {
        "metadata": {"name": "new", "namespace": "shop", "uid": "u", "annotations": None},
        "spec": {"containers": [{"name": "app"}], "initContainers": None, "hostNetwork": True},
        "status": {"phase": "Pending", "containerStatuses": None, "podIPs": None},
    }
    found = parse_pod(document, "shop", "new")
    assert (found.node, found.pod_ip, found.pod_ips, found.owner) == (None, None, (), None)
    assert found.containers[0].id is None
    assert found.host_network


def test_a_controller_is_told_from_other_owners() -> None:
    document = pod_document()
    document["metadata"]["ownerReferences"] = [
        {"kind": "Backup", "name": "nightly"},
        {"kind": "ReplicaSet", "name": "web-7d4b9", "controller": True},
    ]
    assert parse_pod(document, "shop", "web-0").owner == PodOwner("ReplicaSet", "web-7d4b9")


@pytest.mark.parametrize(
    "document", [None, [], "pod", {}, {"metadata": None}, {"metadata": {"name": "web-0"}}]
)
def test_a_document_of_another_shape_is_no_pod(document: object) -> None:
    with pytest.raises(KubeError, match="is not that pod"):
        parse_pod(document, "shop", "web-0")


# -- how the cluster is found ----------------------------------------------------------------------


def test_token_and_authority_are_taken_from_the_kubeconfig(
    server: KubeServer, tmp_path: Path
) -> None:
    server.when("ss", does=prints(SS))
    with connected(server, tmp_path) as cluster:
        assert cluster.client.pod("shop", "web-0").name == "web-0"
        assert cluster.run("ss").stdout == SS


def test_token_and_authority_can_be_files_beside_the_kubeconfig(
    server: KubeServer, certificates: Certificates, tmp_path: Path
) -> None:
    (tmp_path / "ca.crt").write_bytes(certificates.authority.read_bytes())
    (tmp_path / "token").write_text(server.token)
    text = json.loads(server.kubeconfig(user={"tokenFile": "token"}))
    cluster = text["clusters"][0]["cluster"]
    del cluster["certificate-authority-data"]
    cluster["certificate-authority"] = "ca.crt"
    server.when("ss", does=prints(SS))
    with connected(server, tmp_path, json.dumps(text)) as cluster:
        assert cluster.client.pod("shop", "web-0").name == "web-0"
        assert cluster.run("ss").stdout == SS


def test_a_certificate_of_the_kubeconfig_is_shown_to_the_server(
    certificates: Certificates, tmp_path: Path
) -> None:
    user = {
        "client-certificate-data": b64encode(certificates.user_certificate.read_bytes()).decode(),
        "client-key-data": b64encode(certificates.user_key.read_bytes()).decode(),
    }
    with KubeServer(certificates, by_certificate=True) as server:
        server.pods["shop", "web-0"] = pod_document()
        server.when("ss", does=prints(SS))
        with connected(server, tmp_path, server.kubeconfig(user=user)) as cluster:
            assert cluster.as_it_is_now().run("ss").stdout == SS
        with connected(server, tmp_path, server.kubeconfig()) as cluster:
            for ask in ways_to_ask(cluster.client):
                with pytest.raises(KubeError):
                    ask()


def test_a_server_with_another_certificate_is_not_trusted(
    server: KubeServer, tmp_path: Path
) -> None:
    others = make_certificates(tmp_path)
    text = kubeconfig(server.url, {"token": server.token}, others.authority)
    with connected(server, tmp_path, text) as cluster:
        for ask in ways_to_ask(cluster.client):
            with pytest.raises(KubeError, match="its certificate is not trusted: "):
                ask()
    assert server.paths == []


def test_a_name_that_the_certificate_does_not_carry_can_be_given_or_its_check_be_left_out(
    server: KubeServer, tmp_path: Path
) -> None:
    server.when("ss", does=prints(SS))
    named = f"https://localhost:{server.port}"
    with connected(server, tmp_path, server.kubeconfig(cluster={"server": named})) as cluster:
        for ask in ways_to_ask(cluster.client):
            with pytest.raises(KubeError, match="its certificate is not trusted: "):
                ask()
    for setting in ({"tls-server-name": "127.0.0.1"}, {"insecure-skip-tls-verify": True}):
        document = json.loads(server.kubeconfig(cluster={"server": named, **setting}))
        if "insecure-skip-tls-verify" in setting:
            del document["clusters"][0]["cluster"]["certificate-authority-data"]
        with connected(server, tmp_path, json.dumps(document)) as cluster:
            assert cluster.client.pod("shop", "web-0").name == "web-0"
            assert cluster.run("ss").stdout == SS


def test_a_server_without_tls_behind_a_path_is_asked_there(tmp_path: Path) -> None:
    with KubeServer(prefix="/k8s/clusters/c-1") as server:
        server.pods["shop", "web-0"] = pod_document()
        server.when("ss", does=prints(SS))
        with connected(server, tmp_path) as cluster:
            assert cluster.client.pod("shop", "web-0").name == "web-0"
            assert cluster.run("ss").stdout == SS
    assert server.paths[1] == "/k8s/clusters/c-1/api/v1/namespaces/shop/pods/web-0/exec"


class _Proxy(socketserver.BaseRequestHandler):
    """A proxy that knows CONNECT (RFC 9110, section 9.3.6)."""

    asked: list[str]

    def handle(self) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += self.request.recv(4096)
        target = head.split()[1].decode()
        self.asked.append(target)
        host, port = target.rsplit(":", 1)
        with socket.create_connection((host, int(port))) as onward:
            self.request.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            ends = {onward: self.request, self.request: onward}
            while True:
                for readable in select.select(list(ends), [], [])[0]:
                    data = readable.recv(65536)
                    if not data:
                        return
                    ends[readable].sendall(data)


@contextmanager
def proxy() -> Iterator[tuple[str, list[str]]]:
    """A proxy: its URL, and what it was asked for."""
    asked: list[str] = []
    handler = type("Recording", (_Proxy,), {"asked": asked})
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{running.server_address[1]}", asked
        finally:
            running.shutdown()
            thread.join()


def test_a_proxy_of_the_kubeconfig_is_used_for_both_ways_of_asking(
    server: KubeServer, tmp_path: Path
) -> None:
    server.when("ss", does=prints(SS))
    with proxy() as (url, asked):
        text = server.kubeconfig(cluster={"proxy-url": url})
        with connected(server, tmp_path, text) as cluster:
            assert cluster.client.pod("shop", "web-0").name == "web-0"
            assert cluster.run("ss").stdout == SS
    assert asked == [f"127.0.0.1:{server.port}"] * 2


def test_a_proxy_that_refuses_is_told(server: KubeServer, tmp_path: Path) -> None:
    with KubeServer() as refusing:  # it knows no CONNECT
        text = server.kubeconfig(cluster={"proxy-url": refusing.url})
        with (
            connected(server, tmp_path, text) as cluster,
            pytest.raises(KubeError, match="Tunnel connection failed: 501"),
        ):
            cluster.run("ss")


@pytest.mark.parametrize("scheme", ["https", "socks5"])
def test_a_proxy_that_cannot_be_used_is_named_at_once(tmp_path: Path, scheme: str) -> None:
    path = tmp_path / "kubeconfig"
    settings = {"proxy-url": f"{scheme}://user:hunter2@proxy.example.com:1080"}
    path.write_text(kubeconfig("https://host", {}, cluster=settings))
    with pytest.raises(InputError, match=f"proxy {scheme}://proxy.example.com") as caught:
        connect(str(path))
    assert "hunter2" not in told(caught.value)


def test_a_credential_plugin_of_the_kubeconfig_is_asked_for_a_token(
    server: KubeServer, tmp_path: Path
) -> None:
    answer = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "kind": "ExecCredential",
        "status": {"token": server.token},
    }
    plugin = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": "printf",
        "args": ["%s", json.dumps(answer)],
    }
    with connected(server, tmp_path, server.kubeconfig(user={"exec": plugin})) as cluster:
        assert cluster.client.pod("shop", "web-0").name == "web-0"


def test_a_credential_plugin_that_fails_is_told_and_nothing_is_asked_without_credentials(
    server: KubeServer, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    plugin = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": "sh",
        "args": ["-c", "echo 'the session \x1b[1mhas expired' >&2; exit 7"],
    }
    with (
        pytest.raises(InputError, match="gave no credentials") as caught,
        connected(server, tmp_path, server.kubeconfig(user={"exec": plugin})),
    ):
        pass
    assert "returned 7. the session \\x1b[1mhas expired" in str(caught.value)
    assert caught.value.exit_code == 5
    assert capfd.readouterr() == ("", "")
    assert server.paths == []


def test_a_pod_finds_its_own_cluster(
    server: KubeServer,
    certificates: Certificates,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "token").write_text(server.token)
    (tmp_path / "ca.crt").write_bytes(certificates.authority.read_bytes())
    monkeypatch.setattr("tracer.kube.config.SERVICE_ACCOUNT", str(tmp_path))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(server.port))
    monkeypatch.setenv("KUBECONFIG", "/no/such/file")
    server.when("ss", does=prints(SS))
    with connect(None) as client:
        cluster = Cluster(server, client, client.pod("shop", "web-0"))
        assert cluster.run("ss").stdout == SS


def test_a_pod_without_a_service_account_uses_a_kubeconfig(
    server: KubeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tracer.kube.config.SERVICE_ACCOUNT", str(tmp_path / "none"))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "1")
    home = tmp_path / "home" / ".kube"
    home.mkdir(parents=True)
    (home / "config").write_text(server.kubeconfig())
    with connect(None) as client:
        assert client.pod("shop", "web-0").name == "web-0"


def test_the_kubeconfig_of_the_environment_is_found(
    server: KubeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").write_text(server.kubeconfig())
    monkeypatch.setenv("KUBECONFIG", f"{tmp_path}/not-there:{tmp_path}/mine")
    with connect(None) as client:
        assert client.pod("shop", "web-0").name == "web-0"


def test_where_there_is_no_cluster_what_was_looked_for_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(InputError) as caught:
        connect(None)
    assert str(caught.value) == (
        "no access to a Kubernetes cluster: this is no pod ($KUBERNETES_SERVICE_HOST is not set); "
        "the default kubeconfig ~/.kube/config does not exist"
    )
    assert "--kubeconfig" in caught.value.hint
    monkeypatch.setenv("KUBECONFIG", "/no/such/file")
    with pytest.raises(InputError, match=r"; \$KUBECONFIG /no/such/file does not exist"):
        connect(None)


BROKEN = {
    "not there": (None, "No such file or directory"),
    "empty": ("", "file is empty"),
    "not YAML": ("a: [1,\n  b: {", "is not YAML, line 2"),
    "a list": ("- 1\n- 2\n", "is not a kubeconfig"),
    "a word": ("hello", "is not a kubeconfig"),
    "binary": ("\x00\x01", "is not YAML"),
    "without a context": ('{"users": [{"name": "me", "user": {"token": "hunter2"}}]}', "Expected"),
}


@pytest.mark.parametrize(("text", "reason"), BROKEN.values(), ids=BROKEN.keys())
def test_a_kubeconfig_that_cannot_be_used_is_named(
    tmp_path: Path, text: str | None, reason: str
) -> None:
    path = tmp_path / "kubeconfig"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError) as caught:
        connect(str(path))
    assert str(path) in str(caught.value)
    assert reason in str(caught.value)
    assert caught.value.exit_code == 5


def test_a_file_that_the_kubeconfig_points_to_is_named(tmp_path: Path) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(kubeconfig("https://host", {"tokenFile": "no-such-token"}))
    with pytest.raises(InputError, match=f"{tmp_path}/no-such-token of kubeconfig {path}: No such"):
        connect(str(path))


@pytest.mark.parametrize(
    ("of", "broken"),
    [
        ("users", [{"user": {"token": "hunter2"}}]),
        ("users", [{"name": "me", "user": {"client-key-data": "hunter2"}}]),
        ("users", [{"name": "me", "user": {"auth-provider": {"name": "oidc", "config": {}}}}]),
        ("users", [{"name": "me", "user": "hunter2"}]),
        ("clusters", [{"name": "other", "cluster": {"server": "https://u:hunter2@host"}}]),
        ("contexts", [{"name": "test", "context": {"user": "me", "token": "hunter2"}}]),
    ],
)
def test_what_is_wrong_with_a_kubeconfig_is_told_without_what_is_secret_in_it(
    tmp_path: Path, of: str, broken: object
) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(json.dumps(json.loads(kubeconfig("https://host", {})) | {of: broken}))
    with pytest.raises(InputError) as caught:
        connect(str(path))
    assert str(path) in str(caught.value)
    assert "hunter2" not in told(caught.value)


# -- what it costs ---------------------------------------------------------------------------------


def test_the_client_library_is_not_loaded_before_it_is_needed() -> None:
    slow = ("kubernetes", "websocket", "urllib3", "requests", "yaml")
    answer = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "tracer.cli", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = {line.rpartition("|")[2].strip() for line in answer.stderr.splitlines()}
    assert "tracer.settings" in loaded
    assert [name for name in loaded if name.partition(".")[0] in slow] == []

    program = f"import sys, tracer.kube.ladder; print([n for n in {slow!r} if n in sys.modules])"
    answer = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert answer.stdout == "[]\n"
