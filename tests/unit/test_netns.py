"""Network namespaces of fake /proc trees, and this process's own."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tracer.errors import UsageError
from tracer.host import netns
from tracer.host.netns import Namespace, enter, inode_of, inode_of_process, list_namespaces, pids_in

HOST, POD, MOUNTED = 4026531840, 4026532321, 4026532496


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def own_inode() -> int:
    return Path("/proc/self/ns/net").stat().st_ino


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """A /proc with nsfs on the device of tmp_path, as a plain file at self/ns/net."""
    proc = tmp_path / "proc"
    (proc / "self/ns").mkdir(parents=True)
    (proc / "self/ns/net").touch()
    (proc / "sys").mkdir()
    (proc / "version").touch()
    return proc


def add_process(proc: Path, pid: int, link: str) -> None:
    folder = proc / str(pid) / "ns"
    folder.mkdir(parents=True)
    (folder / "net").symlink_to(link)


def deny(monkeypatch: pytest.MonkeyPatch, *pids: int) -> None:
    readlink = os.readlink

    def denying(path: str) -> str:
        if any(f"/{pid}/ns/" in path for pid in pids):
            raise PermissionError(13, "Permission denied", path)
        return readlink(path)

    monkeypatch.setattr(os, "readlink", denying)


def test_processes_are_grouped_by_namespace_in_ascending_order(proc: Path) -> None:
    for pid, inode in [(1, HOST), (900, POD), (10, POD), (9, HOST), (1000, POD)]:
        add_process(proc, pid, f"net:[{inode}]")
    assert list_namespaces(str(proc), run=()) == {
        HOST: Namespace(HOST, (1, 9), f"{proc}/1/ns/net"),
        POD: Namespace(POD, (10, 900, 1000), f"{proc}/10/ns/net"),
    }


def test_process_that_vanishes_is_left_out(proc: Path) -> None:
    add_process(proc, 1, f"net:[{HOST}]")
    (proc / "2").mkdir()
    found = list_namespaces(str(proc), run=())
    assert list(found) == [HOST]
    assert found.unreadable == 0


def test_processes_that_deny_their_namespace_are_counted(
    proc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for pid in (1, 2, 3):
        add_process(proc, pid, f"net:[{HOST}]")
    deny(monkeypatch, 1, 3)
    found = list_namespaces(str(proc), run=())
    assert found == {HOST: Namespace(HOST, (2,), f"{proc}/2/ns/net")}
    assert found.unreadable == 2
    assert list_namespaces(str(proc / "self"), run=()).unreadable == 0, "counted per listing"


@pytest.mark.parametrize("link", ["mnt:[4026531841]", "net:[]", "net:[x]", "/etc/passwd", "77"])
def test_link_to_something_else_is_no_namespace(proc: Path, link: str) -> None:
    add_process(proc, 1, link)
    assert list_namespaces(str(proc), run=()) == {}
    with pytest.raises(OSError, match="no network namespace"):
        inode_of_process(1, str(proc))


def test_mounted_namespace_without_processes_is_listed_by_its_mount(
    proc: Path, tmp_path: Path
) -> None:
    run = tmp_path / "netns"
    run.mkdir()
    (run / "cni-1").touch()
    inode = (run / "cni-1").stat().st_ino
    found = list_namespaces(str(proc), run=(str(tmp_path / "missing"), str(run)))
    assert found == {inode: Namespace(inode, (), f"{run}/cni-1")}


def test_mounted_namespace_with_processes_is_listed_by_them(proc: Path, tmp_path: Path) -> None:
    run = tmp_path / "netns"
    run.mkdir()
    (run / "cni-1").touch()
    inode = (run / "cni-1").stat().st_ino
    add_process(proc, 7, f"net:[{inode}]")
    found = list_namespaces(str(proc), run=(str(run),))
    assert found == {inode: Namespace(inode, (7,), f"{proc}/7/ns/net")}


def test_folder_under_two_names_lists_each_namespace_once(proc: Path, tmp_path: Path) -> None:
    run, alias = tmp_path / "netns", tmp_path / "alias"
    run.mkdir()
    (run / "cni-1").touch()
    alias.symlink_to(run)
    found = list_namespaces(str(proc), run=(str(run), str(alias)))
    assert [namespace.path for namespace in found.values()] == [f"{run}/cni-1"]


def test_mount_point_without_a_mount_is_no_namespace(proc: Path, tmp_path: Path) -> None:
    run = tmp_path / "netns"
    run.mkdir()
    # Files of another device than nsfs, and a name that leads nowhere.
    (run / "leftover").symlink_to("/proc/version")
    (run / "broken").symlink_to(tmp_path / "nowhere")
    assert list_namespaces(str(proc), run=(str(run),)) == {}


def test_proc_that_cannot_be_listed_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        list_namespaces(str(tmp_path / "missing"), run=())


def test_only_numbers_are_processes(proc: Path) -> None:
    for name in ("12", "3", "x1", "²"):
        (proc / name).mkdir()
    assert pids_in(str(proc)) == [3, 12]


def test_own_namespace_is_listed_with_this_process_in_it() -> None:
    namespace = list_namespaces()[own_inode()]
    assert os.getpid() in namespace.pids
    assert Path(namespace.path).stat().st_ino == own_inode()


def test_zombie_has_no_namespace_and_is_not_counted_as_denied() -> None:
    with subprocess.Popen(["true"]) as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        with pytest.raises(FileNotFoundError):
            inode_of_process(child.pid)


@pytest.mark.parametrize("spec", ["4026532321", "net:[4026532321]"])
def test_number_names_a_namespace_by_its_inode(spec: str) -> None:
    assert inode_of(spec, run=()) == POD


@pytest.mark.parametrize("spec", ["/proc/self/ns/net", "/proc/self/task/../ns/net"])
def test_path_names_the_namespace_it_leads_to(spec: str) -> None:
    assert inode_of(spec, run=()) == own_inode()


def test_name_is_looked_up_in_each_run_folder(tmp_path: Path) -> None:
    (tmp_path / "blue").symlink_to("/proc/self/ns/net")
    assert inode_of("blue", run=(str(tmp_path / "missing"), str(tmp_path))) == own_inode()


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("/proc/self/ns/mnt", "a namespace of another type"),
        ("/proc/version", "not a namespace"),
        ("/nowhere/at/all", "No such file or directory"),
        ("./x\0y", "embedded null byte"),
    ],
)
def test_path_to_no_network_namespace_is_a_usage_error(spec: str, reason: str) -> None:
    with pytest.raises(UsageError) as raised:
        inode_of(spec)
    assert repr(spec) in str(raised.value)
    assert reason in str(raised.value)
    assert raised.value.hint


def test_unknown_name_is_a_usage_error_that_lists_what_was_tried(tmp_path: Path) -> None:
    folders = (str(tmp_path / "a"), str(tmp_path / "b"))
    with pytest.raises(UsageError) as raised:
        inode_of("green", run=folders)
    for folder in folders:
        assert f"{folder}/green" in str(raised.value)


@pytest.mark.parametrize(
    "spec", ["", "-5", "٣", "9" * 21, f"net:[{'9' * 21}]", "net:[1", "4026532321\n"]
)
def test_what_is_neither_number_nor_name_is_a_usage_error(spec: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        inode_of(spec, run=(str(tmp_path),))


def test_fifo_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(UsageError, match="not a namespace"):
        inode_of(str(tmp_path / "fifo"))


def test_entering_what_is_no_namespace_fails_and_leaks_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    before = descriptors()
    with pytest.raises(OSError, match="Invalid argument"), enter(str(tmp_path / "file")):
        pytest.fail("entered a file")
    with pytest.raises(FileNotFoundError), enter(str(tmp_path / "missing")):
        pytest.fail("entered nothing")
    assert descriptors() == before


def test_thread_that_cannot_return_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def setns(descriptor: int, path: str) -> None:
        calls.append(path)
        if len(calls) == 2:
            raise OSError(1, "Operation not permitted", path, descriptor)

    monkeypatch.setattr(netns, "_setns", setns)
    before = descriptors()
    with pytest.raises(RuntimeError, match="cannot leave"), enter("/proc/self/ns/net"):
        pass
    assert calls == ["/proc/self/ns/net", "/proc/thread-self/ns/net"]
    assert descriptors() == before


def test_way_back_is_taken_when_the_block_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr(netns, "_setns", lambda _, path: calls.append(path))
    with pytest.raises(ZeroDivisionError), enter("/proc/self/ns/net"):
        raise ZeroDivisionError
    assert calls == ["/proc/self/ns/net", "/proc/thread-self/ns/net"]
