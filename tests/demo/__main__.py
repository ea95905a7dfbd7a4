"""make demo: what the screen shows of six ways to be stuck, beside connects that succeed.

    silent-drop    beyond the node somebody swallows the SYN, and says nothing
    dropped-here   a firewall rule of this node drops it
    dropped-reply  the answer comes, and this node drops it
    dead-host      nobody answers for the next hop's address
    refused        nothing listens there
    slow           beyond the node a host answers the seventh SYN
    healthy        a connect every 50 ms that succeeds at once, which nobody needs to see

Options are those of the program. Everything is made for it and gone afterwards: three network
namespaces, rules in them, a few processes. It needs root, iptables and iproute2.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Final, NoReturn

from tests.conftest import why_not_kernel_tests
from tests.support.netns import Namespace, iptables
from tests.support.node import UPLINK, answers_late, as_node, beyond, deep_pair
from tests.support.tracer import PROGRAM

APP: Final = Path(__file__).with_name("app.py")
SILENT: Final = "52.94.10.112"
LATE: Final = "52.94.20.7"
LOST: Final = 6
DEAD: Final = "10.77.2.99"
"""Beside the server; nobody has it."""

HERE, REPLY, REFUSED, SLOW, HEALTHY = 5432, 6379, 8081, 9092, 8080
END_SECONDS = 20
SIGNALS = (signal.SIGTERM, signal.SIGHUP)


def main() -> int:
    reason = why_not_kernel_tests()
    if reason is not None:
        sys.stderr.write(f"demo: {reason}\n")
        return 3
    for number in SIGNALS:
        signal.signal(number, _end)
    try:
        return _demo(sys.argv[1:])
    except KeyboardInterrupt:
        return 0


def _end(_number: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt


def _demo(options: list[str]) -> int:
    with ExitStack() as stack:
        deep = stack.enter_context(deep_pair())
        node, server, there = deep.node, deep.server, deep.address
        stack.enter_context(beyond(node, SILENT, LATE, answer=answers_late(LATE, LOST)))
        for port in (REPLY, HEALTHY):
            argv = [sys.executable, "-S", "-E", str(APP), str(port)]
            server.popen(argv, stderr=subprocess.DEVNULL)
        to, back = ("-d", there, "-p", "tcp"), ("-s", there, "-p", "tcp")
        iptables(node, "-A", "FORWARD", *to, "--dport", str(HERE), "-j", "DROP")
        iptables(node, "-A", "FORWARD", *back, "--sport", str(REPLY), "-j", "DROP")
        for name, address, port, pause, timeout in (
            ("silent-drop", SILENT, 443, 1.0, 40.0),
            ("silent-drop", SILENT, 443, 2.0, 25.0),
            ("dropped-here", there, HERE, 1.0, 30.0),
            ("dropped-reply", there, REPLY, 1.0, 30.0),
            ("dead-host", DEAD, 443, 1.0, 30.0),
            ("refused", there, REFUSED, 2.0, 5.0),
            ("slow", LATE, SLOW, 3.0, 30.0),
            ("healthy", there, HEALTHY, 0.05, 5.0),
        ):
            _app(deep.client, name, address, port, pause, timeout)
        return _traced(deep.client, node, options)


def _app(
    client: Namespace, name: str, address: str, port: int, pause: float, timeout: float
) -> None:
    words = [name, address, str(port), str(pause), str(timeout)]
    argv = [sys.executable, "-S", "-E", str(APP), *words]
    client.popen(argv, stderr=subprocess.DEVNULL)


def _traced(client: Namespace, node: Namespace, options: list[str]) -> int:
    """The program over it, where the router is the node: its exit status."""
    argv = [
        *as_node(node, "to-client", "to-server", f"+{UPLINK}"),
        *(str(PROGRAM), "--netns", str(client.inode), "--no-kube", "--node-name", "demo-node"),
        *options,
    ]
    program = subprocess.Popen(argv)
    try:
        return program.wait()
    except KeyboardInterrupt:
        program.terminate()
        program.wait(END_SECONDS)
        return 0
    finally:
        if program.poll() is None:
            program.kill()
            program.wait()


if __name__ == "__main__":
    sys.exit(main())
