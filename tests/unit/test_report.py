"""Findings in their order, the report's formats, and advice filled in with what was found."""

from __future__ import annotations

import json
import shlex
import tracemalloc
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracer.diagnose.advice import MAX_DESTINATIONS, Subject, advise
from tracer.diagnose.steps import steps_for
from tracer.facts import Facts, Neighbour
from tracer.finding import CheckResult, Clue, Finding, Judged, Rung, Step, by_destination, rows
from tracer.kube.pod import eni_id
from tracer.model import (
    Cause,
    Confidence,
    Destination,
    Endpoint,
    Flow,
    PodIdentity,
    Process,
    Scope,
)
from tracer.sinks import report

INSIDE = Endpoint("10.4.100.50", 443)
OUTSIDE = Endpoint("52.94.10.112", 443)
ENI = "eni-0123456789abcdef0"
POD = PodIdentity("shop", "cart-0", "0d9b2c44", "node-1", ENI)


def finding(
    destination: Endpoint = INSIDE,
    *,
    port: int = 40_000,
    **known: Any,  # noqa: ANN401 - members of Finding
) -> Finding:
    scope = Scope.VPC if destination == INSIDE else Scope.EXTERNAL
    flow = Flow(None, 4, Endpoint("10.4.7.21", port), destination)
    return replace(Finding(flow, Destination(scope), pod=POD), **known)


def result(*findings: Finding) -> CheckResult:
    return CheckResult("pod shop/cart-0", "node-1", "ss", 1_700_000_000_000_000_000, findings)


SEED = result(finding(), finding(port=40_001), finding(OUTSIDE))


def test_the_headline_is_the_one_other_tools_look_for() -> None:
    assert report.headline(SEED) == [
        (
            "[ISSUE] Found 3 connection(s) in SYN_SENT state "
            "(pod sending SYN but waiting for ACK - potential connectivity issue)"
        ),
        "[INFO] Destinations: 10.4.100.50:443 (VPC/internal), 52.94.10.112:443 (external)",
    ]
    assert report.headline(result())[0].startswith("[OK]")


def test_destinations_come_by_count_then_by_address() -> None:
    found = [
        finding(OUTSIDE),
        finding(OUTSIDE, port=1),
        finding(),
        finding(Endpoint("10.1.1.1", 9)),
    ]
    assert [(where.address, count) for where, _, count in by_destination(found)] == [
        ("52.94.10.112", 2),
        ("10.1.1.1", 1),
        ("10.4.100.50", 1),
    ]


def test_a_row_sums_up_one_pod_and_destination() -> None:
    found = [
        finding(age_seconds=2.0, syns_sent=2, process=Process(1, "curl")),
        finding(port=2, age_seconds=9.0, syns_sent=4, process=Process(1, "curl")),
        finding(port=3, pod=None),
    ]
    first, second = rows(found)
    assert (first.pod, first.count, first.oldest_seconds, first.most_syns) == (POD, 2, 9.0, 4)
    assert first.processes == (Process(1, "curl"),)
    assert (second.pod, second.oldest_seconds, second.processes) == (None, None, ())


def test_text_says_how_it_was_collected_and_why_not_better() -> None:
    told = report.text(
        replace(SEED, tried=(Rung("ss", "not found"),), notes=("line 7 of a.txt",)), ()
    )
    assert "Looked at pod shop/cart-0 through ss." in told
    assert "Not through ss: not found." in told
    assert "Not seen: line 7 of a.txt." in told


def test_json_holds_every_connection_and_jsonl_one_a_line() -> None:
    whole = json.loads("".join(report.as_json(SEED, ())))
    lines = [json.loads(line) for line in report.as_jsonl(SEED)]
    assert whole["found"] == len(whole["connections"]) == len(lines) == 3
    assert whole["destinations"][0] == {
        "address": "10.4.100.50",
        "port": 443,
        "scope": "vpc",
        "tag": "VPC/internal",
        "count": 2,
    }
    assert lines[0]["k8s"]["pod"]["name"] == "cart-0"
    assert list(report.as_jsonl(result())) == []


def many(number: int) -> CheckResult:
    """As many connections, each to a destination of its own."""
    return result(*(finding(Endpoint(f"10.{n >> 8}.{n & 255}.1", 443)) for n in range(number)))


def test_what_nobody_reads_to_its_end_is_cut_and_said_to_be() -> None:
    most = report.MOST_SHOWN
    assert " more" not in report.text(many(most), ())
    whole = many(most + 7)
    issue, destinations = report.headline(whole)
    assert issue.startswith(f"[ISSUE] Found {most + 7} connection(s)")
    assert destinations.endswith(":443 (external), and 7 more")
    assert destinations.count(":443") == most
    for told in (report.text(whole, ()), report.as_markdown(whole, ())):
        assert told.count(":443") == 2 * most
        assert "and 7 more rows; report.json and --format json have all" in told
    assert json.loads("".join(report.as_json(whole, ())))["found"] == most + 7


def test_no_format_holds_all_connections_at_once() -> None:
    whole = many(4_000)
    tracemalloc.start()
    try:
        for pieces in (report.as_json(whole, ()), report.as_jsonl(whole)):
            before = tracemalloc.get_traced_memory()[0]
            tracemalloc.reset_peak()
            assert sum(map(len, pieces)) > 2_000_000
            assert tracemalloc.get_traced_memory()[1] - before < 1_000_000
    finally:
        tracemalloc.stop()


# --- why ---------------------------------------------------------------------------------------

DEAD_HOP = Judged(
    "shop/cart-0",
    INSIDE,
    Cause.NO_NEIGHBOUR,
    Confidence.HIGH,
    "The SYN cannot be sent: its next hop does not answer ARP.",
    (
        Clue("neighbour", "next hop 10.4.100.50 on eth0: FAILED", 1_700_000_000_000_000_000),
        Clue("attempt", "3 SYNs sent"),
    ),
)


def not_known(destination: Endpoint = OUTSIDE) -> Judged:
    return Judged("shop/cart-0", destination, Cause.UNKNOWN, Confidence.LOW, "It is not known.")


def judged(*verdicts: Judged) -> CheckResult:
    return replace(SEED, verdicts=verdicts)


def test_text_says_why_between_what_was_found_and_how() -> None:
    told = report.text(judged(DEAD_HOP, not_known()), ())
    assert told.startswith("\n".join(report.headline(SEED)) + "\n\n")
    assert (
        "\n\n"
        "Why (as far as one look tells):\n"
        "  shop/cart-0 -> 10.4.100.50:443: no-neighbour (high): The SYN cannot be sent: its"
        " next hop does not answer ARP.\n"
        "    next hop 10.4.100.50 on eth0: FAILED\n"
        "    3 SYNs sent\n"
        "Why 1 of them does not answer is not known from one look: run synsent-trace --node to"
        " watch them.\n\n"
        "Looked at pod shop/cart-0 through ss."
    ) in told
    assert "It is not known." not in told


def test_what_no_look_tells_is_one_line_however_many_there_are() -> None:
    whole = judged(not_known(INSIDE), not_known())
    line = "Why 2 of them do not answer is not known from one look: run synsent-trace --node"
    for told in (report.text(whole, ()), report.as_markdown(whole, ())):
        assert told.count(line) == 1
    assert "as far as one look tells" not in report.text(whole, ())


def test_where_nobody_could_look_nothing_is_said_about_why() -> None:
    for told in (report.text(SEED, ()), report.as_markdown(SEED, ())):
        assert "Why" not in told


def test_of_much_evidence_what_decides_is_shown_and_json_has_all() -> None:
    clues = tuple(Clue("drop", f"piece {n} of it") for n in range(9))
    whole = judged(replace(DEAD_HOP, evidence=clues))
    for told in (report.text(whole, ()), report.as_markdown(whole, ())):
        assert "piece 3 of it" in told
        assert "piece 4 of it" not in told
    (verdict,) = json.loads("".join(report.as_json(whole, ())))["verdicts"]
    assert len(verdict["evidence"]) == 9


def test_json_has_a_verdict_with_its_evidence_and_times() -> None:
    whole = json.loads("".join(report.as_json(judged(DEAD_HOP, not_known()), ())))
    first, second = whole["verdicts"]
    assert first == {
        "pod": "shop/cart-0",
        "destination": {"address": "10.4.100.50", "port": 443},
        "cause": "no-neighbour",
        "confidence": "high",
        "summary": "The SYN cannot be sent: its next hop does not answer ARP.",
        "evidence": [
            {
                "kind": "neighbour",
                "summary": "next hop 10.4.100.50 on eth0: FAILED",
                "time": "2023-11-14T22:13:20.000000Z",
            },
            {"kind": "attempt", "summary": "3 SYNs sent", "time": None},
        ],
    }
    assert (second["cause"], second["evidence"]) == ("unknown", [])
    assert all("verdict" not in json.loads(line) for line in report.as_jsonl(judged(DEAD_HOP)))


def test_markdown_says_why_before_what_to_check_next() -> None:
    told = report.as_markdown(judged(DEAD_HOP), (Step("Look", "Because.", ("true",)),))
    why = told.index(
        "## Why (as far as one look tells)\n\n- **shop/cart-0 -\\> 10.4.100.50:443**: "
    )
    assert why < told.index("  - next hop 10.4.100.50 on eth0: FAILED\n") < told.index("## What to")


def test_a_verdict_of_somebody_else_s_report_is_harmless_in_a_terminal_and_in_markdown() -> None:
    hostile = replace(
        DEAD_HOP,
        pod="a\nb\x1b[2J",
        summary="<script>\n# no",
        evidence=(Clue("x", "`rm`\r\x1b[31m[a](b)"),),
    )
    for told in (report.text(judged(hostile), ()), report.as_markdown(judged(hostile), ())):
        assert "\x1b" not in told
        assert "\r" not in told
        assert "\n# no" not in told
        assert "a\nb" not in told
    written = report.as_markdown(judged(hostile), ())
    assert "<script>" not in written
    assert "[a](b)" not in written


# --- advice ------------------------------------------------------------------------------------


def subject(**known: Any) -> Subject:  # noqa: ANN401 - members of Subject
    plain = Subject(INSIDE, Scope.VPC, "shop", "cart-0", "node-1", "10.4.7.21", ENI)
    return replace(plain, **known)


def commands(*subjects: Subject) -> str:
    return "\n".join(command for step in advise(subjects) for command in step.commands)


def test_nothing_found_needs_no_advice() -> None:
    assert advise(()) == ()


def test_commands_name_the_pod_the_interface_and_the_destination() -> None:
    told = commands(subject())
    assert "kubectl exec cart-0 -n shop -- telnet 10.4.100.50 443" in told
    assert f"--network-interface-ids {ENI}" in told
    assert "kubectl describe networkpolicies -n shop" in told
    assert "ip route get 10.4.100.50" in told


def test_the_way_out_is_only_asked_about_for_a_destination_outside() -> None:
    assert "nat-gateways" not in commands(subject())
    outside = commands(subject(destination=OUTSIDE, scope=Scope.EXTERNAL))
    assert "nat-gateways" in outside
    assert "internet-gateways" in outside
    assert "network-acls" not in outside


def test_what_is_unknown_stays_a_placeholder_or_is_left_out() -> None:
    told = commands(Subject(INSIDE, Scope.VPC))
    assert "<pod-ip>" in told
    assert "kubectl exec" not in told
    assert "networkpolicies" not in told


def test_many_destinations_get_the_advice_of_the_first() -> None:
    many = [subject(destination=Endpoint(f"10.0.0.{n}", 443)) for n in range(100)]
    assert commands(*many).count("-- telnet") == MAX_DESTINATIONS


def test_what_runs_on_the_node_says_on_which() -> None:
    def lines(**known: object) -> list[str]:
        return commands(subject(**known)).splitlines()

    for told in (
        lines(),
        lines(pod=None, pid=7),
        lines(pod=None, pid=7, destination=Endpoint("127.0.0.1", 80), scope=Scope.LOOPBACK),
    ):
        for number, line in enumerate(told):
            if line.startswith(("nsenter", "timeout", "ip ", "ss ", "iptables")):
                before = [one for one in told[:number] if one.startswith("# on ")]
                assert before[-1] == "# on node node-1"
    assert "# on the node" in lines(node=None)
    assert "# on the node" in lines(node="a; reboot")


def test_a_namespace_is_only_entered_where_its_process_is() -> None:
    assert "nsenter --net=/proc/7/ns/net" in commands(subject(pod=None, pid=7))
    assert "nsenter" not in commands(subject(pod=None))


def steps(whole: CheckResult, *, here: bool) -> str:
    return "\n".join(command for step in steps_for(whole, here=here) for command in step.commands)


def test_processes_and_nodes_are_those_of_what_was_looked_at() -> None:
    flow = replace(finding().flow, netns=4026532201)
    from_kernel = result(finding(pod=None, flow=flow, process=Process(7, "curl")))
    from_text = result(finding(pod=None, process=Process(7, "curl")))
    assert "nsenter --net=/proc/7/ns/net" in steps(from_kernel, here=True)
    assert "# on node node-1" in steps(from_kernel, here=True)
    assert "nsenter" not in steps(from_kernel, here=False)
    assert "# on node node-1" in steps(from_kernel, here=False)
    # Of a text nobody knows where it was made: the result's node is the one that reads it.
    assert "nsenter" not in steps(from_text, here=True)
    assert "# on the node" in steps(from_text, here=True)


FIRST_OF_ADVICE = "Is the destination reachable from there?"
FIRST_OF_CAUSE = "Does the next hop answer?"


def titles(whole: CheckResult) -> list[str]:
    return [step.title for step in steps_for(whole, here=True)]


def test_what_a_verdict_explains_gets_the_steps_of_its_cause_and_the_rest_the_general_ones() -> (
    None
):
    both = titles(judged(DEAD_HOP, not_known()))
    assert both.index(FIRST_OF_CAUSE) < both.index(FIRST_OF_ADVICE)
    told = steps(judged(DEAD_HOP, not_known()), here=True)
    assert "telnet 10.4.100.50" not in told
    assert "telnet 52.94.10.112" in told
    assert FIRST_OF_CAUSE not in titles(SEED)
    alone = replace(result(finding()), verdicts=(DEAD_HOP,))
    assert FIRST_OF_ADVICE not in titles(alone)


def test_a_guess_gets_the_general_advice() -> None:
    guess = replace(DEAD_HOP, confidence=Confidence.LOW)
    assert steps_for(judged(guess), here=True) == steps_for(SEED, here=True)
    assert FIRST_OF_CAUSE in titles(judged(replace(DEAD_HOP, confidence=Confidence.MEDIUM)))


def test_a_verdict_about_nothing_that_was_found_changes_no_advice() -> None:
    strangers = (
        replace(DEAD_HOP, pod="shop/other"),
        replace(DEAD_HOP, destination=OUTSIDE, pod=None),
    )
    assert steps_for(judged(*strangers), here=True) == steps_for(SEED, here=True)


def test_the_steps_of_one_cause_are_merged_and_bounded() -> None:
    places = [Endpoint(f"10.4.0.{n}", 443) for n in range(1, 51)]
    whole = replace(
        result(*map(finding, places)),
        verdicts=tuple(replace(DEAD_HOP, destination=where) for where in places),
    )
    found = steps_for(whole, here=True)
    assert len({(step.title, step.reason) for step in found}) == len(found) == 3
    (next_hop,) = [step for step in found if step.title == FIRST_OF_CAUSE]
    assert len(set(next_hop.commands)) == len(next_hop.commands)
    assert sum("ip neigh show" in command for command in next_hop.commands) == MAX_DESTINATIONS


def test_the_steps_of_a_cause_name_the_node_above_what_runs_there_alone() -> None:
    for step in steps_for(judged(DEAD_HOP), here=True):
        below: str | None = None
        for command in step.commands:
            if command.startswith("# on "):
                below = command
            elif not command.startswith(("kubectl", "aws", "#")):
                assert below == "# on node node-1", step
    hostile = result(finding(pod=replace(POD, node="a; reboot")))
    told = steps(replace(hostile, verdicts=(DEAD_HOP,)), here=True)
    assert "# on the node" in told
    assert "reboot" not in told


def test_what_a_look_just_now_showed_fills_the_commands() -> None:
    facts = Facts(
        destination=Destination(Scope.VPC),
        asked=INSIDE,
        netns=1,
        now_ns=0,
        host_netns=2,
        host_neighbour=Neighbour("10.4.7.1", "eth9", "FAILED", 0),
    )
    told = steps(judged(replace(DEAD_HOP, facts=facts)), here=True)
    assert "arping -c 3 -I eth9 10.4.7.1" in told
    assert "eth9" not in steps(judged(DEAD_HOP), here=True)


def test_a_container_without_tools_gets_one_beside_it() -> None:
    told = commands(subject(), subject(destination=OUTSIDE))
    assert told.count("kubectl debug") == 1
    assert "kubectl debug -it cart-0 -n shop --image=<image> --target=<container> -- sh" in told
    assert "kubectl debug" not in commands(subject(pod=None))


def test_a_port_that_is_not_known_is_a_placeholder() -> None:
    for scope in (Scope.VPC, Scope.EXTERNAL, Scope.LOOPBACK):
        for pod in ("cart-0", None):
            told = advise(
                [subject(destination=Endpoint("10.4.100.50", None), scope=scope, pod=pod)]
            )
            whole = "\n".join(f"{step.reason}\n" + "\n".join(step.commands) for step in told)
            assert "None" not in whole
            assert "<port>" in whole


HOSTILE = ["--kubeconfig=evil", "--", "a b", "$(reboot)", "A", "a" * 254, "a\n", "ä", "a/b", ".."]


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_name_in_kubernetes_is_a_placeholder(name: str) -> None:
    told = commands(subject(pod=name, namespace=name))
    assert "kubectl exec <pod> -n <namespace> -- ping" in told
    assert "networkpolicies" not in told
    assert name not in told.replace(" -- ", " ").split()


@pytest.mark.parametrize(
    "eni", ["file:///etc/shadow", "--profile=x", "eni-0abc", "eni-0123456789ABCDEF0", ENI + "\n"]
)
def test_what_is_no_id_of_an_interface_is_not_asked_for(eni: str) -> None:
    told = commands(subject(eni_id=eni))
    assert "--network-interface-ids" not in told
    assert "Values=10.4.7.21" in told


@pytest.mark.parametrize(
    "address", ["--flood", "file:///etc/shadow", "10.4.100.300", "fe80::1%$(reboot)", "localhost"]
)
def test_what_is_no_address_is_a_placeholder(address: str) -> None:
    for pod in ("cart-0", None):
        for scope in Scope:
            hostile = Subject(Endpoint(address, 443), scope, pod=pod, source_address=address)
            told = commands(hostile)
            assert address not in told
            assert "<address>" in told
            assert "<pod-ip>" in told


@given(st.text(max_size=30) | st.from_regex(r"[a-z0-9.-]{1,30}", fullmatch=True))
def test_a_name_never_becomes_a_second_command_or_an_option(name: str) -> None:
    told = advise([subject(pod=name, namespace=name)])
    words = shlex.split(told[0].commands[0])
    assert words[:2] == ["kubectl", "exec"]
    assert words[2] in {name, "<pod>"}
    assert not words[2].startswith("-")
    assert words[3] == "-n"
    assert words[4] in {name, "<namespace>"}
    assert words[5:] == ["--", "ping", "-c", "3", "10.4.100.50"]


@pytest.mark.parametrize(
    ("annotation", "found"),
    [
        (f'[{{"eniId": "{ENI}", "vlanId": 1}}]', ENI),
        ('[{"eniId": 7}]', None),
        ("[]", None),
        ("{}", None),
        ("not json", None),
    ],
)
def test_the_pods_own_interface_is_read_from_its_annotation(
    annotation: str, found: str | None
) -> None:
    assert eni_id({"vpc.amazonaws.com/pod-eni": annotation}) == found
    assert eni_id({}) is None
