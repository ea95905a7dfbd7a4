"""Pods of network namespaces, told by the processes of fake trees, and by a clock of the test's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.nodetree import HOST, NodeTree, kubepods
from tracer.host import podnetns
from tracer.host.netns import inode_of_process, pids_in
from tracer.host.podnetns import PodNamespaces, PodProcesses

RECORDED = Path(__file__).parents[1] / "fixtures/kube/proc-cgroups-v1-hybrid.txt"

DB_UID = "d3456794-3e99-4819-80bf-24f578359604"
WEB_UID = "a06be635-826a-4601-bb45-e46426d86dba"
AGENT_UID = "11111111-2222-3333-4444-555555555555"
SANDBOX = "f239ac8c10fc3456650cf4b8c2193dafa9b76813cf022d86ebc6bf9f124d0ae3"
DB = "20b16a27f24c6f9fb2dbec4d7efe65a11fde2ed4cf410b9a3373b6d2fe4be146"
NETNS, OTHER = 4026532321, 4026532496
SECOND = 1_000_000_000


class Clock:
    """CLOCK_MONOTONIC of the test."""

    def __init__(self) -> None:
        self.ns = 1_000 * SECOND

    def __call__(self) -> int:
        return self.ns

    def advance(self, seconds: float) -> None:
        self.ns += round(seconds * SECOND)


@pytest.fixture
def node(tmp_path: Path) -> NodeTree:
    return NodeTree(tmp_path)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def namespaces(node: NodeTree, clock: Clock) -> PodNamespaces:
    return PodNamespaces(str(node.proc), clock)


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The passes over /proc that were made."""
    made: list[str] = []

    def counting(proc: str) -> list[int]:
        made.append(proc)
        return pids_in(proc)

    monkeypatch.setattr(podnetns, "pids_in", counting)
    return made


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The processes whose namespace or cgroup was read, passes included."""
    pids: list[int] = []

    def counting(pid: int, proc: str) -> int:
        pids.append(pid)
        return inode_of_process(pid, proc)

    monkeypatch.setattr(podnetns, "inode_of_process", counting)
    return pids


def uid_in(namespaces: PodNamespaces, netns: int, begun_ns: int | None = None) -> str | None:
    found = namespaces.pod_in(netns, begun_ns)
    return None if found is None else found.uid


def test_recorded_namespaces_lead_to_their_pods(node: NodeTree, namespaces: PodNamespaces) -> None:
    node.add_recorded(RECORDED)
    assert namespaces.pod_in(NETNS) == PodProcesses(DB_UID, (SANDBOX, DB))
    assert uid_in(namespaces, OTHER) == WEB_UID


def test_nodes_own_namespace_is_no_pods(node: NodeTree, namespaces: PodNamespaces) -> None:
    node.add_process(50, HOST, kubepods(DB_UID, DB))
    assert namespaces.host_netns == HOST
    assert namespaces.pod_in(HOST) is None


def test_namespace_without_a_pods_process_is_no_pods(
    node: NodeTree, namespaces: PodNamespaces
) -> None:
    node.add_process(50, NETNS, "0::/system.slice/dnsmasq.service\n")
    node.add_process(51, NETNS, f"0::/docker/{DB}\n")
    assert namespaces.pod_in(NETNS) is None
    assert namespaces.pod_in(OTHER) is None


def test_virtual_machine_of_a_sandboxed_pod_speaks_for_it(
    node: NodeTree, namespaces: PodNamespaces
) -> None:
    node.add_process(50, NETNS, f"0::/kubepods/pod{DB_UID}/kata_{DB}\n")
    assert namespaces.pod_in(NETNS) == PodProcesses(DB_UID, ())


def test_containers_speak_before_what_else_is_in_a_pods_cgroup(
    node: NodeTree, namespaces: PodNamespaces
) -> None:
    for pid in (40, 41):
        node.add_process(pid, NETNS, f"0::/kubepods/pod{AGENT_UID}/helper\n")
    node.add_process(50, NETNS, kubepods(DB_UID, DB))
    assert uid_in(namespaces, NETNS) == DB_UID


def test_agent_of_another_pod_in_the_namespace_is_outvoted(
    node: NodeTree, namespaces: PodNamespaces
) -> None:
    node.add_process(40, NETNS, kubepods(AGENT_UID, SANDBOX[::-1]))
    node.add_process(50, NETNS, kubepods(DB_UID, SANDBOX))
    node.add_process(51, NETNS, kubepods(DB_UID, DB))
    assert uid_in(namespaces, NETNS) == DB_UID


def test_agent_that_was_there_first_is_not_believed_for_long(
    node: NodeTree, namespaces: PodNamespaces, clock: Clock
) -> None:
    node.add_process(40, NETNS, kubepods(AGENT_UID, SANDBOX[::-1]))
    assert uid_in(namespaces, NETNS) == AGENT_UID
    node.add_process(50, NETNS, kubepods(DB_UID, SANDBOX))
    node.add_process(51, NETNS, kubepods(DB_UID, DB))
    clock.advance(5)
    assert uid_in(namespaces, NETNS) == DB_UID


def test_answer_costs_one_pass_for_all_namespaces(
    node: NodeTree, namespaces: PodNamespaces, passes: list[str]
) -> None:
    node.add_recorded(RECORDED)
    for _ in range(3):
        assert uid_in(namespaces, NETNS) == DB_UID
        assert uid_in(namespaces, OTHER) == WEB_UID
    assert len(passes) == 1


def test_attempt_begun_before_the_last_proof_reads_nothing_and_a_later_one_a_single_link(
    node: NodeTree, namespaces: PodNamespaces, clock: Clock, asked: list[int]
) -> None:
    node.add_recorded(RECORDED)
    namespaces.pod_in(NETNS)
    asked.clear()
    begun_ns = clock.ns
    for _ in range(3):
        clock.advance(0.25)
        assert uid_in(namespaces, NETNS, begun_ns) == DB_UID
    assert asked == []
    for _ in range(3):
        assert uid_in(namespaces, NETNS, clock.ns) == DB_UID
    assert asked == [5587]


def test_pod_that_starts_later_is_found_when_it_is_asked_for(
    node: NodeTree, namespaces: PodNamespaces, clock: Clock
) -> None:
    node.add_process(50, OTHER, kubepods(WEB_UID, SANDBOX))
    assert uid_in(namespaces, OTHER) == WEB_UID
    node.add_process(60, NETNS, kubepods(DB_UID, DB))
    clock.advance(0.25)
    assert uid_in(namespaces, NETNS) == DB_UID


def test_passes_keep_their_distance_and_the_question_is_not_forgotten(
    node: NodeTree, namespaces: PodNamespaces, clock: Clock, passes: list[str]
) -> None:
    assert namespaces.pod_in(OTHER) is None
    node.add_process(60, NETNS, kubepods(DB_UID, DB))
    for _ in range(10):
        assert namespaces.pod_in(NETNS) is None
        clock.advance(0.02)
    assert len(passes) == 1
    clock.advance(0.05)
    assert uid_in(namespaces, NETNS) == DB_UID
    assert len(passes) == 2


def test_pass_is_followed_by_a_rest_of_twenty_times_its_length(
    node: NodeTree, namespaces: PodNamespaces, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:

    def slow(proc: str) -> list[int]:
        clock.advance(0.1)
        return pids_in(proc)

    monkeypatch.setattr(podnetns, "pids_in", slow)
    namespaces.pod_in(OTHER)
    node.add_process(60, NETNS, kubepods(DB_UID, DB))
    clock.advance(1.9)
    assert namespaces.pod_in(NETNS) is None
    clock.advance(0.1)
    assert uid_in(namespaces, NETNS) == DB_UID


def test_namespace_that_is_no_pods_is_looked_into_ever_more_seldom(
    node: NodeTree, namespaces: PodNamespaces, clock: Clock, passes: list[str]
) -> None:
    node.add_process(50, NETNS, f"0::/docker/{DB}\n")
    for _ in range(100):
        assert namespaces.pod_in(NETNS) is None
        clock.advance(0.1)
    # At 0, 0.25, 0.75, 1.75 s, and from there on every 2 s.
    assert len(passes) == 8


def test_namespace_becomes_a_pods_within_two_seconds_of_its_first_process(
    node: NodeTree, namespaces: PodNamespaces, clock: Clock
) -> None:
    for _ in range(100):
        assert namespaces.pod_in(NETNS) is None
        clock.advance(0.1)
    node.add_process(60, NETNS, kubepods(DB_UID, DB))
    clock.advance(2)
    assert uid_in(namespaces, NETNS) == DB_UID


def test_namespace_stays_known_when_the_process_that_proved_it_ends(
    node: NodeTree, namespaces: PodNamespaces, clock: Clock
) -> None:
    node.add_process(50, NETNS, kubepods(DB_UID, SANDBOX))
    node.add_process(51, NETNS, kubepods(DB_UID, DB))
    namespaces.pod_in(NETNS)
    node.end_process(50)
    for _ in range(100):
        clock.advance(0.1)
        assert uid_in(namespaces, NETNS) == DB_UID


def test_pod_that_is_gone_is_remembered_for_its_attempts_for_five_seconds_and_no_longer(
    node: NodeTree, namespaces: PodNamespaces, clock: Clock
) -> None:
    begun_ns = clock.ns
    node.add_process(50, NETNS, kubepods(DB_UID, DB))
    namespaces.pod_in(NETNS)
    node.end_process(50)
    clock.advance(4.9)
    assert uid_in(namespaces, NETNS, begun_ns) == DB_UID
    clock.advance(0.2)
    assert uid_in(namespaces, NETNS, begun_ns) is None
    assert namespaces._answers == {}


def test_attempt_begun_after_the_pod_was_last_seen_may_be_the_next_ones_and_has_no_name(
    node: NodeTree, namespaces: PodNamespaces, clock: Clock
) -> None:
    node.add_process(50, NETNS, kubepods(DB_UID, DB))
    namespaces.pod_in(NETNS)
    seen_ns = clock.ns
    node.end_process(50)
    node.add_process(60, NETNS, kubepods(WEB_UID, SANDBOX))
    clock.advance(0.1)
    assert uid_in(namespaces, NETNS, clock.ns) is None, "not before a pass"
    assert uid_in(namespaces, NETNS) is None, "its beginning is not known"
    assert uid_in(namespaces, NETNS, seen_ns) == DB_UID
    clock.advance(0.2)
    assert uid_in(namespaces, NETNS, clock.ns) == WEB_UID


def test_attempt_older_than_the_first_process_of_its_namespace_may_be_the_last_pods(
    node: NodeTree, namespaces: PodNamespaces, clock: Clock
) -> None:
    node.add_process(60, NETNS, kubepods(WEB_UID, SANDBOX))
    ticks = 1_000 * os.sysconf("SC_CLK_TCK")
    (node.proc / "60/stat").write_text(f"60 (pause) S {'0 ' * 18}{ticks} 0\n")
    clock.advance(1)
    for _ in range(2):
        assert uid_in(namespaces, NETNS, clock.ns - 2 * SECOND) is None
        assert uid_in(namespaces, NETNS, clock.ns) == WEB_UID
        assert uid_in(namespaces, NETNS) == WEB_UID


def test_namespace_of_a_pod_is_known_while_its_process_is_there(
    node: NodeTree, namespaces: PodNamespaces
) -> None:
    node.add_process(50, NETNS, kubepods(DB_UID, DB))
    assert namespaces.namespace_of(DB_UID) is None, "nobody asked"
    namespaces.pod_in(NETNS)
    assert namespaces.namespace_of(DB_UID) == NETNS
    node.end_process(50)
    assert namespaces.namespace_of(DB_UID) is None


def test_answer_that_nobody_asks_for_any_more_is_dropped_by_a_later_pass(
    node: NodeTree, namespaces: PodNamespaces, clock: Clock
) -> None:
    node.add_process(50, NETNS, kubepods(DB_UID, DB))
    node.add_process(51, OTHER, kubepods(WEB_UID, SANDBOX))
    namespaces.pod_in(NETNS)
    node.end_process(50)
    clock.advance(10)
    namespaces.pod_in(OTHER)
    assert set(namespaces._answers) == {OTHER}


def test_next_pod_with_the_same_inode_number_is_told_from_the_last(
    node: NodeTree, namespaces: PodNamespaces, clock: Clock
) -> None:
    node.add_process(50, NETNS, kubepods(DB_UID, DB))
    assert uid_in(namespaces, NETNS) == DB_UID
    node.end_process(50)
    node.add_process(60, NETNS, kubepods(WEB_UID, SANDBOX))
    clock.advance(0.25)
    assert uid_in(namespaces, NETNS) == WEB_UID


def test_process_that_moved_on_to_another_namespace_proves_nothing(
    node: NodeTree, namespaces: PodNamespaces, clock: Clock
) -> None:
    node.add_process(40, NETNS, kubepods(AGENT_UID, SANDBOX[::-1]))
    assert uid_in(namespaces, NETNS) == AGENT_UID
    node.end_process(40)
    node.add_process(40, OTHER, kubepods(AGENT_UID, SANDBOX[::-1]))
    node.add_process(50, NETNS, kubepods(DB_UID, DB))
    clock.advance(0.25)
    assert uid_in(namespaces, NETNS) == DB_UID


def test_processes_that_vanish_or_are_denied_are_skipped(
    node: NodeTree, namespaces: PodNamespaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    (node.proc / "40").mkdir()
    node.add_process(41, None, kubepods(AGENT_UID, DB))
    node.add_process(42, NETNS, kubepods(AGENT_UID, DB))
    node.add_process(50, NETNS, kubepods(DB_UID, DB))
    (node.proc / "51/ns").mkdir(parents=True)
    (node.proc / "51/ns/net").symlink_to(f"net:[{NETNS}]")
    readlink = os.readlink

    def denying(path: str) -> str:
        if "/42/" in path:
            raise PermissionError(13, "Permission denied", path)
        return readlink(path)

    monkeypatch.setattr(os, "readlink", denying)
    assert uid_in(namespaces, NETNS) == DB_UID


def test_proc_that_cannot_be_listed_is_no_error(tmp_path: Path, clock: Clock) -> None:
    namespaces = PodNamespaces(str(tmp_path / "missing"), clock)
    assert namespaces.host_netns is None
    assert namespaces.pod_in(NETNS) is None


def test_namespaces_in_memory_are_bounded(
    node: NodeTree,
    namespaces: PodNamespaces,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(podnetns, "_MAX_NAMESPACES", 8)
    for number in range(20):
        node.add_process(100 + number, OTHER + number, kubepods(DB_UID, DB))
    for number in range(50):
        namespaces.pod_in(OTHER + number)
        clock.advance(0.01)
    assert len(namespaces._pids_of) == 8
    assert len(namespaces._answers) == 8
    assert len(namespaces._unknown) == 8


def test_this_machines_own_namespace_is_told_at_once() -> None:
    namespaces = PodNamespaces()
    assert namespaces.host_netns is not None
    assert namespaces.pod_in(namespaces.host_netns) is None
    assert namespaces.pod_in(1) is None
