"""Verdicts of one look: which connection stands for a row, and what is claimed of the others."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from tracer.check import why
from tracer.check.why import MOST_ROWS, explained
from tracer.evidence.place import PlaceFacts
from tracer.facts import Neighbour, Route
from tracer.finding import CheckResult, Finding, Judged
from tracer.host.ctnetlink import Entry
from tracer.model import (
    Cause,
    Confidence,
    Destination,
    Endpoint,
    Flow,
    PodIdentity,
    Scope,
)

HOST, POD, OTHER = 1, 2, 3
CLIENT = Endpoint("10.4.7.21", 40_000)
SERVER = Endpoint("10.4.100.50", 443)
BACKEND = Endpoint("10.4.9.9", 8443)
CART = PodIdentity("shop", "cart-0")

DEAD_HOP = PlaceFacts(neighbour=Neighbour("10.4.7.1", "eth0", "FAILED", 0))
NO_ROUTE = PlaceFacts(route=Route("blackhole", None, None, None, 0))
NOTHING = PlaceFacts()


@dataclass
class Node:
    """What the fakes answer, and what they were asked."""

    places: dict[int | None, PlaceFacts] = field(default_factory=dict)
    entries: dict[str, Entry | OSError] = field(default_factory=dict)
    refused: str | None = None
    looked: list[Flow] = field(default_factory=list)
    backends: list[Endpoint | None] = field(default_factory=list)
    translated: list[bool] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Node:
    known = Node()

    class Places:
        refused: str | None = None

        def __init__(self, host: int | None, _path: str | None) -> None:
            assert host == HOST
            self.refused = known.refused

        def path_of(self, netns: int) -> str:
            return f"/ns/{netns}"

        def look(
            self, flow: Flow, _scope: Scope, backend: Endpoint | None, *, translated: bool
        ) -> PlaceFacts:
            known.looked.append(flow)
            known.backends.append(backend)
            known.translated.append(translated)
            return known.places.get(flow.netns, NOTHING)

    class Conntrack:
        def __init__(self, path: str) -> None:
            self._path = path

        def get(self, _flow: Flow) -> Entry | None:
            known.asked.append(self._path)
            found = known.entries.get(self._path)
            if isinstance(found, OSError):
                raise found
            return found

        def close(self) -> None:
            """Nothing is open."""

    monkeypatch.setattr(why, "Places", Places)
    monkeypatch.setattr(why, "Conntrack", Conntrack)
    monkeypatch.setattr(why, "host_netns", lambda: HOST)
    monkeypatch.setattr(why, "host_path", lambda: f"/ns/{HOST}")
    return known


def finding(netns: int = POD, **known: Any) -> Finding:  # noqa: ANN401 - members of Finding
    flow = Flow(netns, 4, CLIENT, SERVER)
    plain = Finding(flow, Destination(Scope.VPC), age_seconds=3.0, syns_sent=2, pod=CART)
    return replace(plain, **known)


def result(*findings: Finding) -> CheckResult:
    return CheckResult("node n", "n", "sock_diag", 0, findings, notes=("earlier",))


def only(*findings: Finding) -> Judged:
    (verdict,) = explained(result(*findings)).verdicts
    return verdict


def entry(source: Endpoint = SERVER, *, replied: bool = False, state: str = "SYN_SENT") -> Entry:
    return Entry(source, CLIENT, state, replied, False, 100)


def test_a_row_is_judged_by_what_its_place_shows(node: Node) -> None:
    node.places[POD] = DEAD_HOP
    told = only(finding())
    assert told.key == ("shop/cart-0", SERVER)
    assert (told.cause, told.confidence) == (Cause.NO_NEIGHBOUR, Confidence.HIGH)
    assert told.evidence[0].kind == "neighbour"
    assert told.facts is not None
    assert told.facts.drops is None


def test_times_of_evidence_are_those_of_the_wall_clock_to_the_microsecond(node: Node) -> None:
    before = time.time_ns()
    assert DEAD_HOP.neighbour is not None
    now = replace(DEAD_HOP.neighbour, at_ns=time.monotonic_ns())
    node.places[POD] = replace(DEAD_HOP, neighbour=now)
    told = only(finding()).evidence
    assert told[0].wall_ns is not None
    assert before - 1_000_000 <= told[0].wall_ns <= time.time_ns() + 1_000_000
    assert told[0].wall_ns % 1_000 == 0
    assert [one.wall_ns for one in told if one.kind == "attempt"] == [None]


def test_nothing_found_is_nothing_looked_at(node: Node) -> None:
    node.refused = "not permitted"
    assert explained(result()) == result()


def test_what_has_only_just_begun_is_not_judged(node: Node) -> None:
    node.places[POD] = NO_ROUTE
    told = only(finding(age_seconds=0.2, syns_sent=1))
    assert (told.cause, told.known) == (Cause.UNKNOWN, False)
    assert "only just been asked" in told.summary
    assert node.looked == []


def test_the_oldest_connection_stands_for_its_row_and_is_looked_at_once(node: Node) -> None:
    sources = [Endpoint("10.4.7.21", port) for port in (1, 2, 3)]
    flows = [Flow(POD, 4, source, SERVER) for source in sources]
    ages = (2.0, 9.0, 4.0)
    only(*(finding(flow=flow, age_seconds=age) for flow, age in zip(flows, ages, strict=True)))
    assert node.looked == [flows[1]]


def test_unknown_is_kept_with_a_sentence_about_one_look(node: Node) -> None:
    del node
    told = only(finding())
    assert told.cause is Cause.UNKNOWN
    assert told.summary == (
        "Why 10.4.100.50:443 does not answer is not known from one look: nothing that can be looked"
        " up decides it."
    )


# --- rows of several namespaces ------------------------------------------------------------------


def nobodys(*netns: int) -> list[Finding]:
    return [finding(one, pod=None) for one in netns]


def test_namespaces_that_agree_give_one_verdict_the_less_sure_one(node: Node) -> None:
    assert DEAD_HOP.neighbour is not None
    asked = replace(DEAD_HOP.neighbour, state="INCOMPLETE")
    node.places = {POD: DEAD_HOP, OTHER: replace(DEAD_HOP, neighbour=asked)}
    told = only(*nobodys(POD, OTHER))
    assert (told.cause, told.confidence) == (Cause.NO_NEIGHBOUR, Confidence.MEDIUM)
    assert {flow.netns for flow in node.looked} == {POD, OTHER}


@pytest.mark.parametrize("other", [NO_ROUTE, NOTHING])
def test_namespaces_that_differ_give_none(node: Node, other: PlaceFacts) -> None:
    node.places = {POD: DEAD_HOP, OTHER: other}
    told = only(*nobodys(POD, OTHER))
    assert told.cause is Cause.UNKNOWN
    assert "2 network namespaces, and not all for the same reason" in told.summary
    assert told.facts is None


def test_too_many_namespaces_give_none_rather_than_that_of_some(node: Node) -> None:
    node.places = dict.fromkeys(range(100), DEAD_HOP)
    told = only(*nobodys(*range(10, 30)))
    assert told.cause is Cause.UNKNOWN
    assert "20 network namespaces, which are too many" in told.summary
    assert node.looked == []


def test_rows_beyond_the_first_are_counted_in_a_note(node: Node) -> None:
    node.places[POD] = DEAD_HOP
    found = [
        finding(flow=Flow(POD, 4, CLIENT, Endpoint(f"10.5.0.{n}", 443)))
        for n in range(MOST_ROWS + 7)
    ]
    told = explained(result(*found))
    assert len(told.verdicts) == len(node.looked) == MOST_ROWS
    assert told.notes == ("earlier", "why the 7 rows beyond the first 50 do not answer")


# --- connection tracking -------------------------------------------------------------------------


def test_the_node_s_table_is_asked_first_and_its_backend_is_looked_at(node: Node) -> None:
    node.entries = {f"/ns/{HOST}": entry(BACKEND), f"/ns/{POD}": entry()}
    node.places[POD] = PlaceFacts(host_neighbour=Neighbour("10.4.9.9", "cni0", "FAILED", 0))
    told = only(finding())
    assert node.asked == [f"/ns/{HOST}"]
    assert node.backends == [BACKEND]
    assert "10.4.9.9:8443, behind 10.4.100.50:443," in told.summary


def test_an_answer_that_the_node_saw_did_not_reach_the_socket(node: Node) -> None:
    node.entries[f"/ns/{HOST}"] = entry(replied=True, state="SYN_RECV")
    assert only(finding()).cause is Cause.REPLY_DROPPED_HERE


def test_an_entry_of_the_node_is_a_guess_that_it_left_and_one_of_the_pod_is_none(
    node: Node,
) -> None:
    node.entries[f"/ns/{POD}"] = entry()
    assert only(finding()).cause is Cause.UNKNOWN
    assert node.asked == [f"/ns/{HOST}", f"/ns/{POD}"]
    node.entries = {f"/ns/{HOST}": entry()}
    told = only(finding())
    assert (told.cause, told.confidence) == (Cause.NO_REPLY, Confidence.LOW)


def test_the_pod_s_own_translation_counts(node: Node) -> None:
    node.entries[f"/ns/{POD}"] = entry(BACKEND)
    only(finding())
    assert node.backends == [BACKEND]


@pytest.mark.parametrize(
    ("destination", "scope", "family"),
    [("127.0.0.1", Scope.LOOPBACK, 4), ("fe80::1", Scope.LINK_LOCAL, 6)],
)
def test_what_stays_in_its_namespace_is_not_looked_for_in_the_node_s_table(
    node: Node, destination: str, scope: Scope, family: int
) -> None:
    flow = Flow(POD, family, Endpoint(destination, 40_000), Endpoint(destination, 443))
    only(finding(flow=flow, destination=Destination(scope)))
    assert node.asked == [f"/ns/{POD}"]


def test_a_connection_without_a_port_is_looked_for_in_no_table(node: Node) -> None:
    only(finding(flow=Flow(POD, 4, Endpoint("10.4.7.21", None), SERVER)))
    assert node.asked == []


def denied() -> OSError:
    return PermissionError(errno.EPERM, "Operation not permitted without CAP_NET_ADMIN")


def absent() -> OSError:
    return OSError(errno.EPROTONOSUPPORT, "nf_conntrack_netlink is not loaded")


@pytest.mark.parametrize(
    ("error", "said", "translated"),
    [
        (denied, "Operation not permitted without CAP_NET_ADMIN", True),
        (absent, "nf_conntrack_netlink is not loaded", False),
        (lambda: TimeoutError("timed out"), "no answer", False),
    ],
)
def test_a_table_that_could_not_be_asked_is_a_note(
    node: Node, error: Callable[[], OSError], said: str, translated: bool
) -> None:
    node.entries = {f"/ns/{HOST}": error(), f"/ns/{POD}": error()}
    told = explained(result(finding()))
    assert told.notes[1:] == (f"what connection tracking knows of them: {said}",)
    assert node.translated == [translated]


def test_a_namespace_that_is_gone_is_no_note(node: Node) -> None:
    node.entries = {f"/ns/{POD}": FileNotFoundError(errno.ENOENT, "No such file")}
    assert explained(result(finding())).notes == ("earlier",)


def test_what_of_places_could_not_be_looked_at_is_a_note(node: Node) -> None:
    node.refused = "Operation not permitted"
    assert explained(result(finding())).notes[1:] == (
        "routes, next hops and counters of namespaces: Operation not permitted",
    )
