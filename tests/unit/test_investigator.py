"""When stuck attempts are looked into, how often, and what is said of them over time. The node is
one in a test's head; nothing is probed.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.evidence import LOCAL, UNICAST, Bench, has_peer, running
from tests.support.reports import CLIENT, HOST, SECOND, THERE, ended, sent_again, stuck
from tests.support.wait import wait_until
from tracer.errors import NoSource, NotPermitted
from tracer.evidence.docket import MAX_FAILED
from tracer.evidence.investigator import Pace
from tracer.evidence.known import PLACE_SECONDS
from tracer.evidence.watching import AGAIN_SECONDS, HANDED_SECONDS
from tracer.facts import (
    Backend,
    Direction,
    Drop,
    Handed,
    IcmpError,
    PolicyFinding,
    PolicyVerdict,
    Reset,
    facts_behind,
)
from tracer.host.icmp import AboutPacket
from tracer.host.inet_diag import ListenSocket
from tracer.model import (
    Cause,
    Confidence,
    Destination,
    Endpoint,
    Endpoints,
    Kind,
    Nat,
    Outcome,
    Report,
    Scope,
)

SECONDS = 10
LATER = 1_000 * SECOND
NOW = 100 * SECOND
BACKENDS = [Endpoint(f"10.4.7.{number}", 8443) for number in (1, 2)]
SIDECAR = Endpoint("127.0.0.1", 15_001)
ROUTER = "10.4.0.9"
HIGH, MEDIUM, LOW = Confidence.HIGH, Confidence.MEDIUM, Confidence.LOW


class ToldByTheCluster:
    """What a ClusterView would say, as the test says."""

    def __init__(self) -> None:
        self.version: object = 0
        self.found: tuple[PolicyFinding, ...] = ()
        self.fate: Backend | None = None
        self.about: Destination | None = None
        self.asked = 0

    def destination(self, report: Report) -> Destination:
        return self.about or report.destination

    def policies(self, _report: Report, _nat: Nat | None) -> tuple[PolicyFinding, ...]:
        self.asked += 1
        return self.found

    def backend(self, _report: Report, _nat: Nat | None) -> Backend | None:
        return self.fate


@pytest.fixture
def bench() -> Bench:
    return Bench()


def dropped(count: int = 1, at_ns: int = LATER) -> tuple[Drop, ...]:
    one = Drop(Direction.SYN, "NETFILTER_DROP", None, HOST, "veth1", 2, count, at_ns, at_ns)
    return (one,)


def refused_once(name: str = "a", **known: object) -> Report:
    """An end that came at once, just now."""
    return ended(
        Outcome.REFUSED,
        name,
        **{
            "was_stuck": False,
            "errno": 111,
            "syns_sent": 1,
            "started_ns": NOW,
            "last_syn_ns": NOW,
            **known,
        },
    )


def answer(
    report: Report, kind: int = 3, code: int = 3, *, sender: str = ROUTER, isn: int | None = None
) -> AboutPacket:
    """An ICMP error about an attempt's SYN, or one that pretends to be."""
    attempt = report.change.attempt
    sequence = attempt.isn if isn is None else isn
    assert sequence is not None
    error = IcmpError(4, kind, code, sender, 1, NOW)
    return AboutPacket(4, attempt.flow.source, attempt.flow.destination, sequence, error)


# --- what is loaded, and when --------------------------------------------------------------------


def test_what_is_not_stuck_is_not_looked_into(bench: Bench) -> None:
    pending = stuck(was_stuck=False)
    assert bench.note(pending) == [pending]
    assert bench.round() == []
    assert bench.probes == []
    assert bench.looked_up() == []
    assert bench.network.opened == []


def test_the_packets_of_what_is_stuck_are_watched_and_of_nothing_else(bench: Bench) -> None:
    bench.note(stuck("a"), stuck("b"))
    bench.round()
    assert bench.probe.watched.keys() == {"a", "b"}
    assert bench.probe.handing
    bench.note(ended(Outcome.TIMED_OUT, "a"), ended(Outcome.ESTABLISHED, "b"))
    bench.round()
    bench.round()
    assert bench.probe.watched == {}


def test_a_port_that_is_learnt_later_is_watched_too(bench: Bench) -> None:
    bench.note(stuck(source=Endpoint(CLIENT.address, None)))
    bench.round()
    bench.note(sent_again())
    bench.round()
    assert bench.probe.watched["a"].flow.source == CLIENT


def test_hand_overs_are_watched_for_a_while_only(bench: Bench) -> None:
    bench.note(stuck())
    bench.round()
    bench.round(after=HANDED_SECONDS)
    assert not bench.probe.handing


def test_a_probe_that_takes_long_to_load_still_sees_hand_overs(bench: Bench) -> None:
    bench.load_seconds = 2 * HANDED_SECONDS
    bench.note(stuck())
    bench.round()
    assert bench.probe.handing
    bench.round(after=HANDED_SECONDS)
    assert not bench.probe.handing


def test_a_source_that_knows_no_sequence_numbers_gets_no_probe() -> None:
    bench = Bench(sees_packets=False)
    bench.kernel.refuse("/node")
    bench.note(stuck())
    assert bench.causes() == [("a", Cause.DROPPED_HERE, MEDIUM)]
    assert bench.probes == []


def test_without_a_probe_the_rest_is_looked_up_and_the_lack_is_told(bench: Bench) -> None:
    bench.refusal = NoSource("no BPF here", hint="none")
    bench.kernel.refuse("/node")
    bench.note(stuck())
    assert bench.causes() == [("a", Cause.DROPPED_HERE, MEDIUM)]
    (lacking,) = bench.it.lacking
    assert "no BPF here" in lacking


def test_a_probe_that_could_not_be_loaded_is_tried_again_ever_less_often(bench: Bench) -> None:
    bench.refusal = NoSource("the compiler found no memory", hint="none")
    bench.note(stuck())
    bench.round()
    bench.round(after=AGAIN_SECONDS)
    bench.refusal = None
    bench.round(after=AGAIN_SECONDS)
    assert bench.probes == [], "twice as long"
    bench.round(after=AGAIN_SECONDS)
    assert bench.probe.watched.keys() == {"a"}
    assert bench.it.lacking == ("something",)


def test_rights_do_not_come_back(bench: Bench) -> None:
    bench.refusal = NotPermitted("no", hint="none")
    bench.note(stuck())
    bench.round()
    bench.refusal = None
    bench.round(after=1_000 * AGAIN_SECONDS)
    assert bench.probes == []


# --- what is looked up, and how often ------------------------------------------------------------


def test_a_place_is_looked_up_once_for_all_its_attempts(bench: Bench) -> None:
    places = [Endpoint(THERE.address, port) for port in (1, 2, 3)]
    bench.note(*(stuck(f"a{number}", destination=places[number % 3]) for number in range(1_000)))
    for _ in range(5):
        bench.round()
    assert sorted(bench.looked_up(), key=str) == places


def test_it_is_looked_up_again_when_it_is_old(bench: Bench) -> None:
    bench.note(stuck())
    bench.round()
    bench.round(after=PLACE_SECONDS - 0.1)
    assert len(bench.looked_up()) == 1
    bench.round(after=0.2)
    assert len(bench.looked_up()) == 2


def many_places(bench: Bench, count: int) -> list[Endpoint]:
    """So many destinations with one stuck attempt each; a look takes 10 ms of CPU time."""
    places = [Endpoint(f"10.5.{number // 250}.{number % 250 + 1}", 443) for number in range(count)]
    bench.kernel.cpu_seconds_a_look = 0.01
    bench.kernel.refuse("/node")
    bench.note(*(stuck(str(number), destination=one) for number, one in enumerate(places)))
    return places


def test_of_very_many_destinations_every_one_gets_its_turn(bench: Bench) -> None:
    places = many_places(bench, 500)
    told: set[str] = set()
    waiting = []
    for _ in range(60):
        told |= {name for name, _ in bench.round(after=0.4)}
        waiting.append(any("which wait for their turn" in text for text in bench.it.lacking))
    assert len(told) == 500
    assert waiting[0]
    assert not waiting[-1]
    looked = bench.looked_up()
    assert set(looked[:500]) == set(places), "nothing twice before everything once"
    assert len(set(looked[500:1_000])) == len(looked[500:1_000]), "then those of longest ago"


def test_the_more_destinations_the_less_often_each_is_looked_up(bench: Bench) -> None:
    many_places(bench, 200)
    for _ in range(20):
        bench.round(after=0.4)
    # 200 looks of 10 ms take 2 s: at half of the budget, once in 50 s.
    before = len(bench.looked_up())
    for _ in range(30):
        bench.round(after=2)
    assert 100 < len(bench.looked_up()) - before < 300


def test_while_a_place_waits_packets_alone_tell_and_nothing_for_sure(bench: Bench) -> None:
    bench.kernel.cpu_seconds_a_look = 1_000  # one a round
    places = dict(zip("abc", (THERE, *BACKENDS), strict=True))
    bench.note(*(stuck(name, destination=there) for name, there in places.items()))
    bench.round()
    sent = {"syns_sent": 4, "last_syn_ns": 13 * SECOND}
    bench.note(*(sent_again(name, destination=there, **sent) for name, there in places.items()))
    bench.probe.drops = dict.fromkeys(places, dropped(2, 13 * SECOND))
    found = {name: confidence for name, _, confidence in bench.causes()}
    assert found == {"a": HIGH, "b": HIGH, "c": MEDIUM}
    assert bench.causes() == [("c", Cause.DROPPED_HERE, HIGH)]


def test_it_is_looked_up_again_once_the_source_port_is_known(bench: Bench) -> None:
    bench.note(stuck(source=Endpoint(CLIENT.address, None)))
    bench.round()
    bench.note(sent_again())
    assert bench.kernel.of("route") == [("/pod", THERE)], "nobody knows where NAT leads it"
    bench.round()
    bench.round()
    assert bench.kernel.of("route")[1:] == [("/pod", THERE), ("/node", THERE)]


def test_attempts_that_nat_leads_elsewhere_are_looked_up_apart(bench: Bench) -> None:
    for name, backend in zip("ab", BACKENDS, strict=True):
        bench.nat[name] = Nat(backend, "SYN_SENT", replied=False)
    bench.note(stuck("a"), stuck("b"), stuck("c"))
    bench.round()
    nodes = [about for path, about in bench.kernel.of("route") if path == "/node"]
    assert set(nodes) == set(BACKENDS), "of the third nobody knows which of them it is led to"


def test_a_backend_that_is_learnt_later_is_looked_up_at_once(bench: Bench) -> None:
    bench.note(stuck())
    bench.round()
    bench.nat["a"] = Nat(BACKENDS[0], "SYN_SENT", replied=False)
    bench.round()
    nodes = [about for path, about in bench.kernel.of("route") if path == "/node"]
    assert nodes == [THERE, BACKENDS[0]]


def test_what_is_tracked_and_not_translated_is_at_its_own_place(bench: Bench) -> None:
    bench.nat["a"] = Nat(THERE, "SYN_SENT", replied=False)
    bench.note(stuck())
    bench.round()
    assert bench.kernel.of("route") == [("/pod", THERE), ("/node", THERE)]


def test_the_nodes_way_to_a_services_own_address_is_nobodys(bench: Bench) -> None:
    bench.note(stuck(about=Destination(Scope.VPC, Kind.SERVICE, "shop/db:5432")))
    bench.round()
    assert bench.kernel.of("route") == [("/pod", THERE)]


def test_failures_of_one_place_are_looked_into_once_in_a_while(bench: Bench) -> None:
    for number in range(100):
        bench.note(refused_once(f"a{number}"))
    bench.round()
    assert len(bench.looked_up()) == 1
    assert bench.probes == []


def test_failures_that_find_no_room_are_counted(bench: Bench) -> None:
    for number in range(MAX_FAILED + 5):
        there = Endpoint(f"10.5.{number // 250}.{number % 250}", 443)
        bench.note(refused_once(f"a{number}", destination=there))
    assert bench.it.lost == 5


def test_failures_that_are_not_reached_in_one_round_are_in_the_next(bench: Bench) -> None:
    bench.kernel.cpu_seconds_a_look = 1_000
    for name, there in zip("ab", BACKENDS, strict=True):
        bench.note(refused_once(name, destination=there))
    bench.round()
    assert bench.looked_up() == BACKENDS[:1]
    bench.round()
    assert bench.looked_up() == BACKENDS


# --- what is said --------------------------------------------------------------------------------


def test_a_verdict_is_news_once_and_then_with_every_report(bench: Bench) -> None:
    bench.note(stuck())
    assert bench.round() == [], "no SYN was sent since somebody looks"
    bench.note(sent_again(syns_sent=4, last_syn_ns=13 * SECOND))
    bench.probe.drops["a"] = dropped(2)
    assert bench.causes() == [("a", Cause.DROPPED_HERE, HIGH)]
    assert bench.round() == []
    (report,) = bench.note(sent_again(syns_sent=5, last_syn_ns=14 * SECOND))
    assert report.verdict is not None
    assert report.verdict.cause is Cause.DROPPED_HERE


def test_what_is_told_of_few_attempts_counts_on_with_every_syn(bench: Bench) -> None:
    bench.note(stuck())
    bench.round()
    for number in (3, 4):
        bench.note(sent_again(syns_sent=number, last_syn_ns=(9 + number) * SECOND))
        bench.probe.drops["a"] = dropped(number - 2, (9 + number) * SECOND)
        bench.round()
    (report,) = bench.note(sent_again(syns_sent=5, last_syn_ns=14 * SECOND))
    assert report.verdict is not None
    assert "twice" in report.verdict.evidence[0].summary
    assert report.verdict.evidence[0].at_ns == 13 * SECOND


def test_a_verdict_keeps_the_facts_it_was_judged_by(bench: Bench) -> None:
    bench.note(stuck())
    bench.round()
    bench.note(sent_again(syns_sent=3, last_syn_ns=12 * SECOND))
    bench.probe.drops["a"] = dropped()
    ((_, verdict),) = bench.round()
    facts = facts_behind(verdict)
    assert facts is not None
    assert facts.drops == dropped()
    assert facts_behind(None) is None


def test_syns_that_went_out_before_the_watching_are_not_held_against_it(bench: Bench) -> None:
    bench.note(stuck(syns_sent=2, last_syn_ns=None))
    bench.round()
    # Told late: they had been sent before.
    bench.note(sent_again(syns_sent=5, last_syn_ns=10 * SECOND))
    bench.note(sent_again(syns_sent=7, last_syn_ns=13 * SECOND))
    bench.probe.drops["a"] = dropped(2)
    assert bench.causes() == [("a", Cause.DROPPED_HERE, HIGH)]


def test_syns_that_are_told_late_and_together_are_not_held_against_it_either(bench: Bench) -> None:
    bench.kernel.leading_out.add("ens5")
    bench.load_seconds = 4.0  # a busy machine; the probe watches since the 11th second
    bench.note(stuck(syns_sent=2, last_syn_ns=8 * SECOND))
    bench.round()
    # Three were sent since the last report, of which the probe can have seen but one.
    bench.note(sent_again(syns_sent=5, last_syn_ns=11 * SECOND + SECOND // 2))
    bench.probe.drops["a"] = dropped(1, 11 * SECOND + SECOND // 2)
    bench.round()
    bench.note(sent_again(syns_sent=6, last_syn_ns=13 * SECOND))
    bench.probe.drops["a"] = dropped(2, 13 * SECOND)
    ((_, verdict),) = bench.round()
    assert (verdict.cause, verdict.confidence) == (Cause.DROPPED_HERE, HIGH)


def test_hand_overs_of_syns_that_are_told_late_and_together_are_all_there_were(
    bench: Bench,
) -> None:
    bench.kernel.leading_out.add("ens5")
    bench.note(stuck(syns_sent=2, last_syn_ns=8 * SECOND))
    bench.round()
    bench.note(sent_again(syns_sent=5, last_syn_ns=100 * SECOND + SECOND // 2))
    bench.probe.handed["a"] = (Handed("ens5", HOST, 1, 100 * SECOND + SECOND // 2),)
    bench.round(after=1)
    bench.note(sent_again(syns_sent=6, last_syn_ns=102 * SECOND))
    bench.probe.handed["a"] = (Handed("ens5", HOST, 2, 102 * SECOND),)
    ((_, verdict),) = bench.round(after=1)
    assert (verdict.cause, verdict.confidence) == (Cause.NO_REPLY, HIGH)


def test_drops_that_cease_take_the_verdict_back(bench: Bench) -> None:
    bench.note(stuck())
    bench.round()
    bench.note(sent_again(syns_sent=4, last_syn_ns=13 * SECOND))
    bench.probe.drops["a"] = dropped(2, at_ns=13 * SECOND)
    ((_, first),) = bench.round()
    bench.note(sent_again(syns_sent=8, last_syn_ns=20 * SECOND))
    ((_, later),) = bench.round()
    assert (first.confidence, later.confidence) == (HIGH, LOW)


def test_hand_overs_are_held_against_the_syns_of_that_time(bench: Bench) -> None:
    bench.kernel.leading_out.add("ens5")
    bench.note(stuck())
    bench.round()
    bench.note(sent_again(syns_sent=4, last_syn_ns=102 * SECOND))
    bench.probe.handed["a"] = (Handed("ens5", HOST, 2, 102 * SECOND),)
    assert bench.causes(after=2) == [("a", Cause.NO_REPLY, HIGH)]
    bench.round(after=HANDED_SECONDS)
    assert not bench.probe.handing
    # SYNs that nobody watched; then another attempt has hand-overs watched again.
    bench.note(sent_again(syns_sent=9, last_syn_ns=111 * SECOND))
    bench.note(stuck("b", destination=BACKENDS[0]))
    bench.round(after=2)
    bench.note(sent_again(syns_sent=10, last_syn_ns=114 * SECOND))
    bench.probe.handed["a"] = (Handed("ens5", HOST, 3, 114 * SECOND),)
    bench.round(after=2)
    verdict = bench.end(ended(Outcome.TIMED_OUT, syns_sent=10, last_syn_ns=114 * SECOND))
    assert (verdict.cause, verdict.confidence) == (Cause.NO_REPLY, HIGH)


def test_the_end_is_judged_with_what_was_seen_and_with_errors_that_came_since(bench: Bench) -> None:
    bench.note(stuck())
    bench.round()
    end = ended(Outcome.UNREACHABLE)
    bench.network.coming["/pod"] = [answer(end, code=13)]
    assert bench.end(end).cause is Cause.REFUSED_BY_FIREWALL


def test_the_last_drop_comes_to_light_after_the_end(bench: Bench) -> None:
    bench.note(stuck())
    bench.round()
    bench.probe.drops["a"] = dropped(2)
    verdict = bench.end(ended(Outcome.UNREACHABLE, syns_sent=4, last_syn_ns=LATER, errno=113))
    assert verdict.cause is Cause.UNREACHABLE
    assert [cause for _, cause, _ in bench.causes()] == [Cause.REFUSED_BY_FIREWALL]
    bench.round()
    assert bench.probe.watched == {}


def test_it_does_so_where_the_application_gave_up_before_anything_was_found_out(
    bench: Bench,
) -> None:
    bench.note(stuck())
    bench.round()
    bench.probe.drops["a"] = dropped(2)
    verdict = bench.end(ended(Outcome.ABORTED, syns_sent=4, last_syn_ns=LATER))
    assert verdict.cause is Cause.APPLICATION_GAVE_UP
    assert bench.causes() == [("a", Cause.DROPPED_HERE, HIGH)]


def test_what_gave_up_at_once_is_looked_into_afterwards(bench: Bench) -> None:
    bench.kernel.refuse("/node", "blackhole")
    verdict = bench.end(ended(Outcome.ABORTED, was_stuck=False, started_ns=NOW, last_syn_ns=NOW))
    assert verdict.cause is Cause.APPLICATION_GAVE_UP
    assert [cause for _, cause, _ in bench.causes()] == [Cause.DROPPED_HERE]


def test_what_connects_before_anybody_has_looked_is_slow_for_sure(bench: Bench) -> None:
    bench.note(stuck())
    verdict = bench.end(ended(Outcome.ESTABLISHED, syns_sent=4))
    assert (verdict.cause, verdict.confidence) == (Cause.SLOW, HIGH)


def test_a_reset_is_evidence_at_the_end_and_in_what_is_found_after_it(bench: Bench) -> None:
    bench.note(stuck())
    bench.round()
    bench.probe.resets["a"] = (Reset(THERE, LATER),)
    end = ended(Outcome.REFUSED, syns_sent=3, last_syn_ns=LATER, errno=111)
    verdict = bench.end(end)
    assert verdict.confidence is HIGH
    assert verdict.evidence[0].kind == "rst"
    assert verdict.evidence[0].at_ns == LATER
    bench.network.coming["/pod"] = [answer(end)]
    ((_, later),) = bench.round()
    assert "rst" in [one.kind for one in later.evidence]


def test_what_is_found_of_an_attempt_that_ends_meanwhile_is_not_told_as_if_it_were_stuck(
    bench: Bench,
) -> None:
    bench.kernel.refuse("/node")
    bench.note(stuck())
    bench.it.round()
    bench.note(ended(Outcome.VANISHED))
    assert bench.it.news() == []


# --- what is old ---------------------------------------------------------------------------------


def test_the_end_is_not_judged_by_what_was_true_before_the_attempt(bench: Bench) -> None:
    bench.kernel.refuse("/node", "unreachable")
    bench.note(stuck("other", destination=BACKENDS[0]))
    bench.end(ended(Outcome.UNREACHABLE, was_stuck=False, errno=113, started_ns=NOW))
    bench.round()
    # It is routed now, and a router beyond says the same.
    bench.kernel.routes.clear()
    bench.round(after=PLACE_SECONDS + 1)
    sent = {"started_ns": 104 * SECOND, "last_syn_ns": 104 * SECOND, "syns_sent": 1}
    later = ended(Outcome.UNREACHABLE, "b", was_stuck=False, errno=113, **sent)
    bench.network.coming["/pod"] = [answer(later, code=1)]
    verdict = bench.end(later)
    assert verdict.cause is Cause.UNREACHABLE
    assert ROUTER in verdict.summary


def test_what_was_found_while_it_lasted_counts_however_long_that_was(bench: Bench) -> None:
    bench.kernel.refuse("/node", "blackhole")
    bench.note(stuck(started_ns=99 * SECOND))
    bench.round()
    bench.clock.now += 10 * PLACE_SECONDS
    verdict = bench.end(ended(Outcome.TIMED_OUT, started_ns=99 * SECOND))
    assert verdict.cause is Cause.DROPPED_HERE


def test_overflows_before_an_attempt_are_not_its(bench: Bench) -> None:
    has_peer(bench.kernel, THERE.address)
    bench.kernel.listening["/peer"] = ListenSocket(2, 1)
    bench.note(stuck("a", started_ns=99 * SECOND))
    bench.round()
    bench.kernel.overflows["/peer"] = 5
    bench.note(sent_again("a", started_ns=99 * SECOND, syns_sent=4, last_syn_ns=102 * SECOND))
    assert bench.causes(after=PLACE_SECONDS) == [("a", Cause.LISTENER_OVERLOADED, HIGH)]
    # The application accepts again: what overflowed before says nothing of the next one.
    bench.kernel.listening["/peer"] = ListenSocket(0, 1)
    bench.note(ended(Outcome.ABORTED, "a", started_ns=99 * SECOND))
    bench.clock.now += 10
    bench.note(stuck("b", started_ns=112 * SECOND, last_syn_ns=113 * SECOND))
    bench.round()
    bench.note(sent_again("b", started_ns=112 * SECOND, syns_sent=4, last_syn_ns=114 * SECOND))
    assert Cause.LISTENER_OVERLOADED not in [cause for _, cause, _ in bench.causes(after=3)]


# --- whose it is ---------------------------------------------------------------------------------


def test_what_the_buffer_lost_may_have_been_the_answer(bench: Bench) -> None:
    bench.note(stuck("other", destination=BACKENDS[0]))
    bench.round(after=-1)
    assert bench.end(refused_once("a")).confidence is HIGH
    bench.clock.now += 2
    bench.network.lost["/pod"] = 300
    verdict = bench.end(refused_once("b"))
    assert (verdict.cause, verdict.confidence) == (Cause.REFUSED, MEDIUM)
    assert bench.it.lost == 300


def test_attempts_of_one_place_that_meet_different_fates_are_told_apart(bench: Bench) -> None:
    bench.note(stuck("other", destination=BACKENDS[0]))
    bench.round(after=-1)
    ends = [
        refused_once(str(port), source=Endpoint(CLIENT.address, port))
        for port in range(40_000, 40_012)
    ]
    bench.network.coming["/pod"] = [
        answer(end, sender=f"10.4.0.{9 + port % 4}")
        for port, end in enumerate(ends)
        if port % 2 == 1
    ]
    verdicts = [bench.end(end) for end in ends]
    firewall, refused = Cause.REFUSED_BY_FIREWALL, Cause.REFUSED
    assert [verdict.cause for verdict in verdicts] == [refused, firewall] * 6
    for port, verdict in enumerate(verdicts):
        if port % 2 == 1:
            assert f"10.4.0.{9 + port % 4}" in verdict.summary


def test_failures_that_are_alike_share_a_verdict_but_for_their_own_times(bench: Bench) -> None:
    bench.note(stuck("other", destination=BACKENDS[0]))
    bench.round(after=-1)
    first, second = (
        replace(refused_once(name), age_seconds=age) for name, age in (("a", 0.25), ("b", 7.0))
    )
    verdicts = [bench.end(first), bench.end(second)]
    assert verdicts[0].summary == verdicts[1].summary
    tried = [
        [one.summary for one in verdict.evidence if one.kind == "attempt"] for verdict in verdicts
    ]
    assert "7.0 s" in tried[1][0]
    assert "7.0 s" not in tried[0][0]


def test_errors_about_a_failure_are_known_from_the_second_one_on(bench: Bench) -> None:
    assert bench.end(refused_once("a")).confidence is MEDIUM, "nobody listened"
    bench.round()
    bench.clock.now += 1
    second = refused_once("b", started_ns=101 * SECOND, last_syn_ns=101 * SECOND)
    assert bench.end(second).confidence is HIGH
    third = refused_once("c", started_ns=101 * SECOND, last_syn_ns=101 * SECOND)
    bench.network.coming["/pod"] = [answer(third)]
    assert bench.end(third).cause is Cause.REFUSED_BY_FIREWALL


def test_a_pod_that_connects_to_itself_is_told_of_its_own_listener(bench: Bench) -> None:
    own = Endpoint(CLIENT.address, 443)
    bench.kernel.routes["/pod", own.address] = LOCAL
    bench.kernel.listening["/pod"] = ListenSocket(2, 1)
    bench.note(stuck(destination=own))
    bench.round()
    bench.kernel.overflows["/pod"] = 9
    bench.note(sent_again(destination=own, syns_sent=4, last_syn_ns=103 * SECOND))
    assert bench.causes(after=PLACE_SECONDS) == [("a", Cause.LISTENER_OVERLOADED, HIGH)]


def test_what_a_sidecar_takes_is_not_judged_as_if_it_left_the_pod(bench: Bench) -> None:
    bench.kernel.routes["/pod", SIDECAR.address] = LOCAL
    bench.kernel.listening["/pod"] = ListenSocket(2, 1)
    bench.kernel.refuse("/node")
    bench.nat["a"] = Nat(SIDECAR, "SYN_SENT", replied=False)
    bench.note(stuck())
    bench.round()
    bench.kernel.overflows["/pod"] = 9
    bench.note(sent_again(syns_sent=4, last_syn_ns=103 * SECOND))
    assert bench.causes(after=PLACE_SECONDS) == [("a", Cause.LISTENER_OVERLOADED, HIGH)]


def test_a_namespace_with_the_same_address_by_chance_is_not_blamed(bench: Bench) -> None:
    has_peer(bench.kernel, THERE.address, on_the_way=False)
    bench.kernel.listening["/peer"] = ListenSocket(2, 1)
    bench.kernel.leading_out.add("to-peer")
    bench.note(stuck())
    bench.round()
    bench.kernel.overflows["/peer"] = 9
    bench.note(sent_again(syns_sent=4, last_syn_ns=103 * SECOND))
    bench.probe.handed["a"] = (Handed("to-peer", HOST, 2, 103 * SECOND),)
    assert bench.causes(after=PLACE_SECONDS) == [("a", Cause.NO_REPLY, HIGH)]


def test_a_route_that_a_mark_would_change_is_not_blamed() -> None:
    bench = Bench(sees_packets=False)
    bench.kernel.refuse("/node", "unreachable")
    bench.kernel.marked["/node", 7] = UNICAST
    bench.note(stuck())
    assert [cause for _, cause, _ in bench.causes()] in ([], [Cause.UNKNOWN])


# --- what the cluster says -----------------------------------------------------------------------


@pytest.fixture
def cluster() -> ToldByTheCluster:
    return ToldByTheCluster()


@pytest.fixture
def told(cluster: ToldByTheCluster) -> Bench:
    """A bench with a cluster, and a stuck attempt that is dropped by netfilter."""
    bench = Bench(cluster=cluster, pace=Pace(round=0.001, still=3_600.0))
    bench.note(stuck())
    bench.round()
    bench.note(sent_again(syns_sent=4, last_syn_ns=13 * SECOND))
    bench.probe.drops["a"] = dropped(2)
    return bench


DENIED = (PolicyFinding("egress", PolicyVerdict.DENIED, ("shop/deny",)),)
A_SERVICE = Destination(Scope.VPC, Kind.SERVICE, "shop/db:5432", endpoints=Endpoints(1, 1))


def test_a_policy_that_comes_during_the_outage_changes_the_verdict(
    told: Bench, cluster: ToldByTheCluster
) -> None:
    assert [cause for _, cause, _ in told.causes()] == [Cause.DROPPED_HERE]
    cluster.found = DENIED
    assert [cause for _, cause, _ in told.causes()] == [Cause.NETWORK_POLICY]
    cluster.found = ()
    assert [cause for _, cause, _ in told.causes()] == [Cause.DROPPED_HERE]


def test_endpoints_that_go_during_the_outage_change_the_verdict(
    told: Bench, cluster: ToldByTheCluster
) -> None:
    cluster.about = A_SERVICE
    assert [cause for _, cause, _ in told.causes()] == [Cause.DROPPED_HERE]
    cluster.about = replace(A_SERVICE, endpoints=Endpoints(0, 1))
    assert [cause for _, cause, _ in told.causes()] == [Cause.SERVICE_WITHOUT_ENDPOINTS]


def test_a_backend_that_goes_during_the_outage_changes_the_verdict(
    told: Bench, cluster: ToldByTheCluster
) -> None:
    told.nat["a"] = Nat(BACKENDS[0], "SYN_SENT", replied=False)
    assert [cause for _, cause, _ in told.causes()] == [Cause.DROPPED_HERE]
    cluster.fate = Backend.GONE
    assert [cause for _, cause, _ in told.causes()] == [Cause.STALE_NAT]


def test_the_end_is_judged_by_what_the_cluster_says_then(
    told: Bench, cluster: ToldByTheCluster
) -> None:
    told.round()
    cluster.about = replace(A_SERVICE, endpoints=Endpoints(0, 1))
    verdict = told.end(ended(Outcome.TIMED_OUT, syns_sent=4, last_syn_ns=13 * SECOND))
    assert verdict.cause is Cause.SERVICE_WITHOUT_ENDPOINTS


def test_the_cluster_is_asked_once_a_round_for_all_attempts_of_a_place(
    told: Bench, cluster: ToldByTheCluster
) -> None:
    told.note(*(stuck(f"a{number}") for number in range(1_000)))
    for _ in range(4):
        told.round()  # every one of them is judged, so many a round
    cluster.asked = 0
    told.round()
    assert cluster.asked == 1


def test_an_attempt_without_a_namespace_has_no_verdict(bench: Bench) -> None:
    reports = bench.note(stuck(netns=None), ended(Outcome.REFUSED, netns=None))
    assert [report.verdict for report in reports] == [None, None]
    assert bench.round() == []


# --- the thread ----------------------------------------------------------------------------------


@pytest.fixture
def alive() -> Iterator[Bench]:
    with running(Bench(pace=Pace(round=0.001, still=0.001, quiet=0.01, failed=0.001))) as bench:
        yield bench
    assert "evidence" not in [one.name for one in threading.enumerate()]


def test_what_is_stuck_wakes_the_thread_and_quiet_lets_go_of_everything(alive: Bench) -> None:
    alive.note(stuck())
    wait_until(lambda: alive.probes and alive.probe.watched, SECONDS, "a watched attempt")
    alive.probe.lost = 3
    alive.note(ended(Outcome.VANISHED))
    wait_until(lambda: not alive.probe.watched, SECONDS, "nothing to be watched")
    assert not alive.probe.handing
    alive.clock.now += 1
    wait_until(lambda: alive.probe.closed, SECONDS, "the probe to be closed")
    wait_until(lambda: alive.network.closed, SECONDS, "the ears to be closed")
    assert alive.it.lost == 3
    assert alive.it.lacking == ("something",)
    alive.note(stuck("b"))
    wait_until(lambda: len(alive.probes) == 2, SECONDS, "another probe")
    assert alive.it.lost == 3


def test_news_of_the_cluster_wake_the_thread_while_nothing_else_happens(
    told: Bench, cluster: ToldByTheCluster
) -> None:
    with running(told):
        wait_until(told.it.news, SECONDS, "the first verdict")
        cluster.found, cluster.version = DENIED, 1
        wait_until(told.it.news, SECONDS, "another one")


def test_stopping_takes_the_probe_off(alive: Bench) -> None:
    alive.note(stuck())
    wait_until(lambda: alive.probes, SECONDS, "the probe")
    alive.it.stop()
    assert alive.probe.closed


def test_a_defect_costs_a_round_is_told_and_what_is_stuck_is_looked_into_again(
    alive: Bench,
) -> None:
    alive.kernel.refuse("/node")
    alive.kernel.errors = {"/pod": ZeroDivisionError("oops")}
    alive.note(stuck())
    wait_until(lambda: alive.it.lost >= 2, SECONDS, "the failures to be counted")
    assert any("ZeroDivisionError: oops" in text for text in alive.it.lacking)
    assert alive.end(ended(Outcome.REFUSED, "b", errno=111)).cause is Cause.REFUSED
    alive.kernel.errors = {}

    def recovered() -> bool:
        alive.clock.now += 1
        return alive.it.lacking == ("something",)

    wait_until(recovered, SECONDS, "a round that succeeds")
    wait_until(alive.it.news, SECONDS, "a verdict")


@pytest.mark.usefixtures("alive")
def test_the_thread_can_be_told_from_others() -> None:
    (thread,) = (one for one in threading.enumerate() if one.name == "evidence")
    comm = Path(f"/proc/self/task/{thread.native_id}/comm")
    wait_until(lambda: comm.read_text() == "evidence\n", SECONDS, "the thread's name")
