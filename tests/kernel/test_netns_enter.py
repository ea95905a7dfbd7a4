"""setns() into real network namespaces, and how such namespaces are listed."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.netns import Namespace, lone_pod
from tracer.host.netns import Namespace as Listed
from tracer.host.netns import enter, inode_of, list_namespaces

WAIT_SECONDS = 20


@pytest.fixture
def pod() -> Iterator[Namespace]:
    with lone_pod() as namespace:
        yield namespace


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def here() -> int:
    """The calling thread's namespace."""
    return Path("/proc/thread-self/ns/net").stat().st_ino


def path_of(pod: Namespace) -> str:
    return f"/run/netns/{pod.name}"


def interfaces() -> set[str]:
    return {name for _, name in socket.if_nameindex()}


def test_thread_is_inside_for_the_length_of_the_block(pod: Namespace) -> None:
    home, outside = here(), interfaces()
    with enter(path_of(pod)):
        assert here() == pod.inode
        assert interfaces() >= {"lo", "eth0", "far-end"}
    assert here() == home
    assert interfaces() == outside


def test_thread_returns_when_the_block_fails(pod: Namespace) -> None:
    home = here()
    with pytest.raises(ZeroDivisionError), enter(path_of(pod)):
        raise ZeroDivisionError
    assert here() == home


def test_blocks_can_be_nested(pod: Namespace) -> None:
    home = here()
    seen: list[int] = []
    with lone_pod() as other:
        # Not the main thread, whose namespace is the one in /proc/self.
        def work() -> None:
            with enter(path_of(pod)):
                with enter(path_of(other)):
                    seen.append(here())
                seen.append(here())
            seen.append(here())

        worker = threading.Thread(target=work)
        worker.start()
        worker.join(WAIT_SECONDS)
        assert seen == [other.inode, pod.inode, home]


def test_other_threads_stay_where_they_are(pod: Namespace) -> None:
    home = here()
    entered, looked = threading.Event(), threading.Event()
    seen: list[int] = []

    def work() -> None:
        with enter(path_of(pod)):
            seen.append(here())
            entered.set()
            looked.wait(WAIT_SECONDS)
        seen.append(here())

    worker = threading.Thread(target=work)
    worker.start()
    assert entered.wait(WAIT_SECONDS)
    assert here() == home
    looked.set()
    worker.join(WAIT_SECONDS)
    assert seen == [pod.inode, home]


def test_socket_opened_inside_stays_inside(pod: Namespace) -> None:
    with enter(path_of(pod)):
        sock = socket.socket()
    with sock:
        # Only that namespace has an interface of this name.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"far-end\0")
    with socket.socket() as outside, pytest.raises(OSError, match="No such device"):
        outside.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"far-end\0")


def test_namespace_of_another_type_is_refused_and_the_thread_stays(pod: Namespace) -> None:
    home = here()
    with pytest.raises(OSError, match="Invalid argument"), enter("/proc/self/ns/uts"):
        pytest.fail("entered a UTS namespace")
    assert here() == home != pod.inode


def test_no_descriptor_is_left_open(pod: Namespace) -> None:
    before = descriptors()
    for _ in range(10):
        with enter(path_of(pod)):
            pass
    assert descriptors() == before


def test_user_without_capabilities_is_refused(pod: Namespace) -> None:
    code = (
        "import sys\n"
        "from tracer.host.netns import enter\n"
        "try:\n"
        "    with enter(sys.argv[1]): print('entered')\n"
        "except PermissionError as error: print(error.strerror)\n"
    )
    # Opened before the capability goes, since the folder may be root's alone.
    descriptor = os.open(path_of(pod), os.O_RDONLY)
    try:
        argv = ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin", "--"]
        done = subprocess.run(
            [*argv, sys.executable, "-c", code, f"/proc/self/fd/{descriptor}"],
            cwd=Path(__file__).parents[2],
            pass_fds=[descriptor],
            capture_output=True,
            text=True,
            check=True,
        )
    finally:
        os.close(descriptor)
    assert done.stdout == "Operation not permitted\n"


def test_empty_namespace_is_listed_by_its_mount(pod: Namespace) -> None:
    assert list_namespaces()[pod.inode] == Listed(pod.inode, (), path_of(pod))


def test_namespace_with_a_process_is_listed_by_the_process(pod: Namespace) -> None:
    child = pod.popen(
        ["sh", "-c", "echo inside; exec cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"inside\n"
    listed = list_namespaces()[pod.inode]
    assert listed == Listed(pod.inode, (child.pid,), f"/proc/{child.pid}/ns/net")
    with enter(listed.path):
        assert here() == pod.inode


def test_name_and_path_lead_to_the_inode(pod: Namespace) -> None:
    assert inode_of(pod.name) == pod.inode
    assert inode_of(path_of(pod)) == pod.inode


def test_namespace_that_is_gone_is_no_longer_listed() -> None:
    with lone_pod() as pod:
        assert pod.inode in list_namespaces()
    assert pod.inode not in list_namespaces()
