"""Which verdict follows from which facts; and which does not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_type_hints

import pytest
from hypothesis import given

from tests.support.facts import (
    ANY_FACTS,
    BACKEND,
    DESTINATIONS,
    ENDPOINTS,
    HIGH,
    LOW,
    NETNS,
    NOW,
    OPEN,
    PEER,
    POD,
    QUIET,
    RST_SEEN,
    SECOND,
    STRANGER,
    UNWATCHED,
    V6,
    denied,
    facts,
    handed,
    hop,
    icmp,
    listener,
    nat,
    reply,
    service,
    syn,
)
from tests.support.verdicts import CASES
from tracer.diagnose.drops import ACK, REASONS, RST, SYMBOLS, SYN, Role, meaning, of_handshake
from tracer.diagnose.rules import MAX_EVIDENCE, RESIDUAL, RULES, judge
from tracer.facts import Backend, Drop, Facts, Peers, PolicyFinding, PolicyVerdict
from tracer.model import Cause, Confidence, Destination, Endpoint, Outcome, Verdict


@pytest.mark.parametrize(
    ("known", "cause", "confidence", "deciding"),
    [pytest.param(*case[1:], id=f"{case[2]}: {case[0]}") for case in CASES],
)
def test_the_facts_give_the_verdict(
    known: dict[str, Any], cause: Cause, confidence: Confidence, deciding: str
) -> None:
    verdict = judge(facts(**known))
    assert (verdict.cause, verdict.confidence) == (cause, confidence), verdict
    if deciding:
        assert verdict.evidence[0].kind == deciding, verdict.evidence


def test_the_table_names_every_case_once() -> None:
    names = [case[0] for case in CASES]
    assert len(names) == len(set(names)) >= 60


def test_every_cause_is_in_the_table() -> None:
    assert {case[2] for case in CASES} == set(Cause)


# --- what must not be taken as evidence ----------------------------------------------------------

LEFT = {"handed": (handed(),)}

NO_EVIDENCE = [
    pytest.param(syn(count=0), id="a drop that was counted zero times"),
    pytest.param(syn(flags=ACK), id="an ACK of the client, of a later moment"),
    pytest.param(syn(flags=RST), id="a RST of the client"),
    pytest.param(syn(flags=SYN | ACK), id="the client's answer to somebody else"),
    pytest.param(syn("OTHERHOST"), id="a flooded copy"),
    pytest.param(syn("PACKET_SOCK_ERROR"), id="a capture's copy"),
    pytest.param(syn("UNHANDLED_PROTO"), id="a device that does not speak it"),
    pytest.param(syn("CONSUMED"), id="a packet that was used up"),
    pytest.param(syn("TCP_OLD_SEQUENCE", netns=PEER), id="a duplicate at the peer"),
    pytest.param(syn(netns=STRANGER), id="a copy in another namespace, while the SYNs left"),
    pytest.param(reply(count=0), id="an answer that was counted zero times"),
    pytest.param(reply(flags=SYN), id="a SYN of the peer"),
    pytest.param(reply("NO_SOCKET", netns=POD), id="an answer after the end"),
    pytest.param(reply("OTHERHOST"), id="a flooded answer"),
]


@pytest.mark.parametrize("drop", NO_EVIDENCE)
def test_a_drop_that_proves_nothing_changes_no_verdict(drop: Drop) -> None:
    verdict = judge(facts(drops=(drop,), **LEFT))
    assert (verdict.cause, verdict.confidence) == (Cause.NO_REPLY, HIGH)


def test_a_dropped_answer_is_no_dropped_syn_and_the_other_way_round() -> None:
    assert judge(facts(drops=(reply(),))).cause is Cause.REPLY_DROPPED_HERE
    assert judge(facts(drops=(syn(),))).cause is Cause.DROPPED_HERE


def test_an_icmp_error_that_ends_no_attempt_decides_nothing() -> None:
    too_big = (icmp(3, 4), icmp(5, 0), icmp(2, 0, 6), replace(icmp(3, 13), count=0))
    assert judge(facts(icmp=too_big, **LEFT)).cause is Cause.NO_REPLY


@pytest.mark.parametrize("state", ["REACHABLE", "STALE", "DELAY", "PROBE", "NOARP", None])
def test_a_next_hop_that_is_known_or_never_asked_for_is_no_cause(state: str | None) -> None:
    assert judge(facts(neighbour=hop(state), **LEFT)).cause is Cause.NO_REPLY


def test_a_failed_next_hop_is_no_cause_where_its_device_got_the_syn() -> None:
    assert judge(facts(host_neighbour=hop("FAILED"), **LEFT)).cause is Cause.NO_REPLY


def test_a_full_queue_is_no_cause_where_the_syn_is_dropped_before_it() -> None:
    verdict = judge(facts(drops=(syn(),), listener=listener(129, 4)))
    assert verdict.cause is Cause.DROPPED_HERE


def test_a_denied_policy_is_no_cause_of_a_refusal() -> None:
    assert judge(facts(policies=denied(), resets=(RST_SEEN,), **QUIET)).cause is Cause.REFUSED


def test_an_endpoint_that_is_not_ready_is_no_stale_nat() -> None:
    known = service(2, 3, BACKEND)
    verdict = judge(facts(destination=known, backend=Backend.NOT_READY, **LEFT))
    assert verdict.cause is Cause.NO_REPLY
    assert "not ready" in " ".join(one.summary for one in verdict.evidence)


def test_an_answer_that_another_connection_got_is_no_answer_to_this_one() -> None:
    known = nat("TIME_WAIT", replied=True)
    assert judge(facts(destination=known, **LEFT)).cause is Cause.NO_REPLY


def test_silence_is_never_blamed_on_this_node() -> None:
    for known in (LEFT, OPEN, {}):
        assert judge(facts(**known)).cause is not Cause.DROPPED_HERE


@pytest.mark.parametrize("known", [{}, OPEN, {"destination": nat("SYN_SENT", replied=False)}])
def test_where_nobody_watched_that_nobody_answers_is_a_guess_at_best(known: dict[str, Any]) -> None:
    assert judge(facts(**{**UNWATCHED, **known})).confidence is LOW


# --- what the verdict says -----------------------------------------------------------------------


def summary(**known: Any) -> str:  # noqa: ANN401
    return judge(facts(**known)).summary


def test_silence_names_the_device_the_count_and_who_may_swallow_it() -> None:
    assert summary(**LEFT) == (
        "The SYN to 10.4.100.50:443 left this node through ens5 3 times and nothing came back: a"
        " security group, a NACL, a route or the peer itself swallows it."
    )


def test_a_drop_names_what_where_and_how_often() -> None:
    assert summary(drops=(syn(),)) == (
        "The SYN to 10.4.100.50:443 is dropped on this node at veth1 by a netfilter rule (iptables"
        " or nftables): NETFILTER_DROP, 3 times, in the node's network namespace."
    )


def test_the_peers_namespace_is_called_so() -> None:
    told = summary(drops=(syn(netns=PEER),), listener=listener(0, 0))
    assert "in the peer's network namespace, on this node" in told


def test_a_service_is_named() -> None:
    assert summary(destination=service(0, 3)) == (
        "Nobody is behind service shop/db:5432 at 10.4.100.50:443: none of its 3 endpoints is"
        " ready."
    )


def test_an_icmp_error_names_its_sender() -> None:
    assert "10.4.0.9 answered with ICMP host unreachable" in summary(icmp=(icmp(3, 1),))


def test_ipv6_addresses_are_written_in_brackets() -> None:
    assert "[2001:db8::1]:443" in summary(**V6, drops=(syn(),))


def test_times_of_evidence_are_those_of_the_facts() -> None:
    (first, *_) = judge(facts(drops=(syn(),))).evidence
    assert first.at_ns == NOW - 2 * SECOND
    assert "3 times within 3.0 s" in first.summary


def test_what_else_is_known_follows_the_deciding_evidence() -> None:
    known = facts(
        drops=(syn(),),
        policies=(PolicyFinding("egress", PolicyVerdict.NOT_SELECTED),),
        peers=Peers(7, 7, 7, 0, 0, None, None),
    )
    evidence = [one.summary for one in judge(known).evidence]
    assert "the SYN was dropped" in evidence[0]
    assert "5 SYNs sent, 7.0 s in SYN_SENT" in evidence
    assert "no NetworkPolicy selects the pod for egress" in evidence
    assert "7 pods of this node are stuck to the same destination" in evidence


def test_names_from_outside_cannot_repaint_a_terminal() -> None:
    hostile = facts(drops=(syn("A\x1b[2J", device="e\nth0"),), policies=denied())
    told = judge(hostile)
    assert all(text.isprintable() for text in (told.summary, *(e.summary for e in told.evidence)))


# --- the tables ----------------------------------------------------------------------------------


def test_a_full_function_name_is_read_like_the_plain_one() -> None:
    for symbol, known in SYMBOLS.items():
        assert meaning(syn(None, symbol=f"{symbol}.constprop.0+0x1c")) is known


def test_an_unspecified_reason_is_read_by_the_function() -> None:
    assert meaning(syn("NOT_SPECIFIED", symbol="nf_hook_slow")) is REASONS["NETFILTER_DROP"]


def test_flags_that_were_not_read_exclude_nothing() -> None:
    assert of_handshake(syn(flags=0))
    assert of_handshake(reply(flags=0))


@pytest.mark.parametrize(
    "reason", [name for name, read in REASONS.items() if read.role is Role.BARRIER]
)
def test_every_barrier_that_stops_each_syn_is_a_sure_cause(reason: str) -> None:
    verdict = judge(facts(drops=(syn(reason),)))
    assert (verdict.cause, verdict.confidence) == (Cause.DROPPED_HERE, HIGH)


@pytest.mark.parametrize("rule", [*RULES, *RESIDUAL], ids=lambda rule: str(rule.__name__))
def test_every_rule_says_why(rule: Any) -> None:  # noqa: ANN401
    assert len((rule.__doc__ or "").split()) > 20


# --- for any facts ---------------------------------------------------------------------------


def test_the_builder_knows_every_fact() -> None:
    assert set(get_type_hints(Facts)) == set(Facts.__dataclass_fields__)


@given(ANY_FACTS)
def test_any_facts_give_a_verdict_with_evidence_unless_it_is_unknown(known: Facts) -> None:
    verdict = judge(known)
    assert isinstance(verdict, Verdict)
    assert verdict.summary.endswith(".")
    assert verdict.summary.isprintable()
    assert len(verdict.evidence) <= MAX_EVIDENCE
    assert len(set(verdict.evidence)) == len(verdict.evidence)
    if verdict.cause is not Cause.UNKNOWN:
        assert verdict.evidence


@given(ANY_FACTS)
def test_what_connected_is_slow_and_nothing_else(known: Facts) -> None:
    assert judge(replace(known, outcome=Outcome.ESTABLISHED)).cause is Cause.SLOW


@given(ANY_FACTS)
def test_judging_twice_gives_the_same(known: Facts) -> None:
    assert judge(known) == judge(known)


@given(ANY_FACTS)
def test_no_drop_seen_means_none_is_blamed_with_certainty(known: Facts) -> None:
    """But for a route that refuses and an ICMP error that says so."""
    quiet = replace(known, drops=(), icmp=(), outcome=None)
    verdict = judge(quiet)
    assert not (verdict.cause is Cause.DROPPED_HERE and verdict.confidence is HIGH)


@given(DESTINATIONS.map(lambda known: replace(known, nat=None, endpoints=None)), ENDPOINTS, NETNS)
def test_without_facts_nothing_is_known(
    destination: Destination, asked: Endpoint, netns: int | None
) -> None:
    verdict = judge(Facts(destination, asked, netns, NOW))
    assert verdict == Verdict(Cause.UNKNOWN, LOW, verdict.summary)


def test_that_routes_depend_on_marks_and_what_a_listener_counted_is_told() -> None:
    told = {one.summary for one in judge(facts(by_mark=True)).evidence if one.kind == "route"}
    assert any("some mark" in one for one in told)
    counted = replace(listener(0, 0, 3, syn_queue_drops=2), syn_cookies=1)
    (said,) = (
        one.summary for one in judge(facts(listener=counted)).evidence if one.kind == "listener"
    )
    assert "2 of them by a full SYN queue" in said
    assert "1 SYN answered with a cookie" in said
