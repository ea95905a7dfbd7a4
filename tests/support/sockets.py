"""Sockets of this process inside a test's namespaces: what is asked of the kernel about them can be
compared with what their owner knows.
"""

from __future__ import annotations

import errno
import socket
from contextlib import ExitStack

from tests.support.netns import NETNS_FOLDER, Namespace
from tracer.host.netns import enter
from tracer.model import Endpoint, Flow


def path_of(namespace: Namespace) -> str:
    return str(NETNS_FOLDER / namespace.name)


def opened(
    namespace: Namespace, resources: ExitStack, address: str, port: int
) -> tuple[socket.socket, Flow]:
    """A socket that has sent its first SYN, and its tuple."""
    made = tcp_socket(namespace, resources, address)
    made.setblocking(False)
    assert made.connect_ex((address, port)) == errno.EINPROGRESS
    return made, flow_of(made, namespace, address, port)


def tcp_socket(namespace: Namespace, resources: ExitStack, address: str) -> socket.socket:
    with enter(path_of(namespace)):
        made = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    return resources.enter_context(made)


def listening(
    namespace: Namespace,
    resources: ExitStack,
    address: str,
    port: int = 0,
    *,
    backlog: int = 5,
    options: tuple[tuple[int, int, int | bytes], ...] = (),
) -> socket.socket:
    """A socket that listens and accepts nothing; `options` are set before it is bound."""
    made = tcp_socket(namespace, resources, address)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    for level, option, value in options:
        made.setsockopt(level, option, value)
    made.bind((address, port))
    made.listen(backlog)
    return made


def flow_of(made: socket.socket, namespace: Namespace, address: str, port: int) -> Flow:
    source = made.getsockname()
    return Flow(
        namespace.inode,
        6 if ":" in address else 4,
        Endpoint(source[0], source[1]),
        Endpoint(address, port),
    )
