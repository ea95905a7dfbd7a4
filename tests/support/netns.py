"""Named network-namespace topologies, made for one test and gone after it.

All topologies use the same addresses on purpose: so do the pods of a real node, and a tracer that
told them apart by address alone would not survive the tests.

    pod_pair()   client 10.77.1.2 ── 10.77.1.1 router 10.77.2.1 ── server 10.77.2.3
                 fd77:1::2 ───────── fd77:1::1 router fd77:2::1 ── fd77:2::3
                                                                   198.51.100.7 (outside any VPC)
    lone_pod()   pod 10.77.1.2, loopback, and a link on which nobody else lives
"""

from __future__ import annotations

import secrets
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

CLIENT_V4 = "10.77.1.2"
CLIENT_V6 = "fd77:1::2"
SERVER_V4 = "10.77.2.3"
SERVER_V6 = "fd77:2::3"
SERVER_EXTERNAL = "198.51.100.7"
NOBODY_V4 = "10.77.1.99"

NETNS_FOLDER = Path("/run/netns")
COMMAND_SECONDS = 20

# The first `ip netns add` of a machine remounts /run/netns: two at once may trip over each other.
_adding = threading.Lock()


@dataclass
class Namespace:
    """One network namespace; `cleanup` runs before it goes and ends what was started in it."""

    name: str
    inode: int
    cleanup: ExitStack = field(default_factory=ExitStack)

    def run(self, argv: Sequence[str], stdin: str = "") -> str:
        """Runs a program inside, returns its output. Raises AssertionError where it fails."""
        return _run([*self._enter(), *argv], stdin)

    def popen(
        self,
        argv: Sequence[str],
        *,
        stdin: int | IO[bytes] = subprocess.DEVNULL,
        stdout: int | IO[bytes] = subprocess.DEVNULL,
        stderr: int | IO[bytes] | None = None,
    ) -> subprocess.Popen[bytes]:
        """Starts a program inside; its pid is the program's. It ends with the topology."""
        process = subprocess.Popen(
            [*self._enter(), *argv], stdin=stdin, stdout=stdout, stderr=stderr
        )
        self.cleanup.callback(_end, process)
        return process

    def sysctl(self, key: str, value: int) -> None:
        """Sets a network sysctl of this namespace. Raises AssertionError where it has none."""
        path = f"/proc/sys/{key.replace('.', '/')}"
        self.run(["sh", "-c", 'echo "$2" > "$1"', "sh", path, str(value)])

    def has_sysctl(self, key: str) -> bool:
        return Path(f"/proc/sys/{key.replace('.', '/')}").exists()

    def counter(self, name: str) -> int:
        """A counter of TcpExt in this namespace, such as TCPSynRetrans."""
        lines = self.run(["cat", "/proc/net/netstat"]).splitlines()
        names, values = (line.split() for line in lines if line.startswith("TcpExt:"))
        return int(values[names.index(name)])

    def _enter(self) -> list[str]:
        return ["nsenter", f"--net={NETNS_FOLDER / self.name}", "--"]


@dataclass(frozen=True)
class PodPair:
    """Two pods with their host's namespace between them."""

    client: Namespace
    router: Namespace
    server: Namespace


def iptables(namespace: Namespace, *arguments: str, family: int = 4) -> str:
    """Runs iptables (ip6tables for family 6) inside a namespace."""
    return namespace.run(["iptables" if family == 4 else "ip6tables", "-w", "10", *arguments])


def drop_forwarded(pods: PodPair, family: int = 4) -> None:
    """Lets the node swallow everything that goes to the server."""
    iptables(pods.router, "-A", "FORWARD", "-o", "to-server", "-j", "DROP", family=family)


def pass_forwarded(pods: PodPair, family: int = 4) -> None:
    iptables(pods.router, "-F", "FORWARD", family=family)


def dropped_packets(pods: PodPair) -> int:
    """Packets that the first rule of FORWARD has matched."""
    listing = iptables(pods.router, "-L", "FORWARD", "1", "-v", "-n", "-x")
    return int(listing.split()[0])


@contextmanager
def pod_pair() -> Iterator[PodPair]:
    """Client and server pods on either side of a forwarding router, IPv4 and IPv6."""
    with ExitStack() as stack:
        client, router, server = stack.enter_context(_namespaces("client", "router", "server"))
        router.sysctl("net.ipv4.ip_forward", 1)
        router.sysctl("net.ipv6.conf.all.forwarding", 1)
        _run_batch(
            f"link add eth0 netns {client.name} type veth peer name to-client netns {router.name}",
            f"link add eth0 netns {server.name} type veth peer name to-server netns {router.name}",
        )
        _run_batch(
            "addr add 10.77.1.1/24 dev to-client",
            "addr add fd77:1::1/64 dev to-client nodad",
            "addr add 10.77.2.1/24 dev to-server",
            "addr add fd77:2::1/64 dev to-server nodad",
            "link set to-client up",
            "link set to-server up",
            f"route add {SERVER_EXTERNAL}/32 via {SERVER_V4}",
            namespace=router,
        )
        _configure_pod(client, CLIENT_V4, CLIENT_V6)
        _configure_pod(server, SERVER_V4, SERVER_V6, f"addr add {SERVER_EXTERNAL}/32 dev lo")
        yield PodPair(client, router, server)


@contextmanager
def lone_pod() -> Iterator[Namespace]:
    """One pod on a link where no neighbour answers."""
    with _namespaces("pod") as (pod,):
        _run_batch(f"link add eth0 netns {pod.name} type veth peer name far-end netns {pod.name}")
        _run_batch(
            "link set lo up",
            "link set far-end up",
            f"addr add {CLIENT_V4}/24 dev eth0",
            "link set eth0 up",
            namespace=pod,
        )
        yield pod


def _configure_pod(pod: Namespace, v4: str, v6: str, *extra: str) -> None:
    gateway_v4 = v4.rpartition(".")[0] + ".1"
    gateway_v6 = v6.rpartition(":")[0] + ":1"
    _run_batch(
        "link set lo up",
        f"addr add {v4}/24 dev eth0",
        f"addr add {v6}/64 dev eth0 nodad",
        *extra,
        "link set eth0 up",
        f"route add default via {gateway_v4}",
        f"route add ::/0 via {gateway_v6}",
        namespace=pod,
    )


@contextmanager
def _namespaces(*roles: str) -> Iterator[tuple[Namespace, ...]]:
    prefix = f"syn{secrets.token_hex(4)}"
    with ExitStack() as stack:
        yield tuple(stack.enter_context(_namespace(f"{prefix}-{role}")) for role in roles)


@contextmanager
def _namespace(name: str) -> Iterator[Namespace]:
    with _adding:
        _run(["ip", "netns", "add", name])
    try:
        namespace = Namespace(name, (NETNS_FOLDER / name).stat().st_ino)
        try:
            for scope in ("all", "default"):
                namespace.sysctl(f"net.ipv4.conf.{scope}.rp_filter", 0)
            # No duplicate address detection: addresses work at once.
            namespace.sysctl("net.ipv6.conf.default.accept_dad", 0)
            yield namespace
        finally:
            namespace.cleanup.close()
    finally:
        _run(["ip", "netns", "delete", name])


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.kill()
    process.wait(COMMAND_SECONDS)
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            with suppress(BrokenPipeError):
                stream.close()


def _run_batch(*commands: str, namespace: Namespace | None = None) -> None:
    inside = ["-n", namespace.name] if namespace else []
    _run(["ip", *inside, "-batch", "-"], stdin="".join(f"{command}\n" for command in commands))


def _run(argv: Sequence[str], stdin: str = "") -> str:
    done = subprocess.run(
        argv, input=stdin, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False
    )
    assert done.returncode == 0, f"{' '.join(argv)}: {done.stderr.strip() or done.stdout.strip()}"
    return done.stdout
