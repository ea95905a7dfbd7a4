"""Socket inode to process."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tracer.host.sockets import owners_of


def inode(sock: socket.socket) -> int:
    return os.fstat(sock.fileno()).st_ino


@pytest.fixture
def sockets() -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        yield [stack.enter_context(socket.socket()) for _ in range(3)]


def fake_descriptors(proc: Path, pid: int, *links: str) -> None:
    folder = proc / str(pid) / "fd"
    folder.mkdir(parents=True)
    for number, link in enumerate(links):
        (folder / str(number)).symlink_to(link)


def test_sockets_of_this_process_are_found_by_their_inodes(sockets: list[socket.socket]) -> None:
    inodes = [inode(sock) for sock in sockets]
    assert owners_of(inodes, [os.getpid()]) == dict.fromkeys(inodes, os.getpid())


def test_socket_of_another_process_is_found_there() -> None:
    with socket.socket() as sock:
        child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=[sock.fileno()])
        wanted = inode(sock)
    with child:
        assert owners_of([wanted], [os.getpid(), child.pid]) == {wanted: child.pid}


def test_socket_held_by_several_belongs_to_the_first_of_the_pids(tmp_path: Path) -> None:
    fake_descriptors(tmp_path, 10, "socket:[77]")
    fake_descriptors(tmp_path, 11, "socket:[77]")
    assert owners_of([77], [11, 10], proc=str(tmp_path)) == {77: 11}


def test_only_the_inodes_asked_for_are_answered(tmp_path: Path) -> None:
    fake_descriptors(
        tmp_path, 10, "/dev/null", "pipe:[71]", "socket:[7]", "socket:[771]", "anon_inode:[eventfd]"
    )
    fake_descriptors(tmp_path, 11, "socket:[72]", "socket:[71]")
    found = owners_of({70, 71, 77}, [10, 11], proc=str(tmp_path))
    assert found == {71: 11}


def test_processes_that_are_gone_or_denied_are_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for pid in (10, 11):
        fake_descriptors(tmp_path, pid, "socket:[77]")
    scandir = os.scandir

    def denying(path: str) -> object:
        if "/10/" in path:
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", denying)
    assert owners_of([77], [9, 10, 11], proc=str(tmp_path)) == {77: 11}


def test_descriptor_closed_while_it_is_looked_at_is_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_descriptors(tmp_path, 10, *(f"socket:[{number}]" for number in range(70, 75)))
    readlink = os.readlink

    def closing(path: str) -> str:
        if path.endswith("/fd/2"):
            raise FileNotFoundError(2, "No such file or directory", path)
        return readlink(path)

    monkeypatch.setattr(os, "readlink", closing)
    found = owners_of(range(70, 75), [10], proc=str(tmp_path))
    assert found == {70: 10, 71: 10, 73: 10, 74: 10}


def test_search_ends_once_everything_is_found(sockets: list[socket.socket]) -> None:
    def pids() -> Iterator[int]:
        yield os.getpid()
        raise AssertionError("asked for another process")

    assert owners_of([inode(sockets[0])], pids()) == {inode(sockets[0]): os.getpid()}


@pytest.mark.parametrize("inodes", [[], [0]])
def test_nothing_to_find_reads_no_process(inodes: list[int], tmp_path: Path) -> None:
    fake_descriptors(tmp_path, 10, "socket:[0]")
    pids = iter([10])
    assert owners_of(inodes, pids, proc=str(tmp_path)) == {}
    assert next(pids) == 10
