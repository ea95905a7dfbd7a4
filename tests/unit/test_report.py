"""Findings in their order, the report's formats, and advice filled in with what was found."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracer.check.container import eni_id
from tracer.diagnose.advice import MAX_DESTINATIONS, Subject, advise
from tracer.finding import CheckResult, Finding, PodIdentity, Rung, by_destination, rows
from tracer.model import Destination, Endpoint, Flow, Process, Scope
from tracer.sinks import report

INSIDE = Endpoint("10.4.100.50", 443)
OUTSIDE = Endpoint("52.94.10.112", 443)
POD = PodIdentity("shop", "cart-0", "0d9b2c44", "node-1", "eni-0abc")


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
    whole = json.loads(report.as_json(SEED, ()))
    lines = [json.loads(line) for line in report.as_jsonl(SEED).splitlines()]
    assert whole["found"] == len(whole["connections"]) == len(lines) == 3
    assert whole["destinations"][0] == {
        "address": "10.4.100.50",
        "port": 443,
        "scope": "vpc",
        "tag": "VPC/internal",
        "count": 2,
    }
    assert lines[0]["k8s"]["pod"]["name"] == "cart-0"
    assert report.as_jsonl(result()) == ""


@given(st.text(max_size=40))
def test_no_name_from_outside_is_markup_or_a_control_sequence(name: str) -> None:
    hostile = replace(result(finding(process=Process(7, name))), notes=(name,))
    for told in (report.text(hostile, ()), report.as_markdown(hostile, ())):
        assert all(char == "\n" or char.isprintable() for char in told)


def test_markdown_escapes_what_would_be_a_table_or_a_link() -> None:
    hostile = result(finding(process=Process(7, "a|b [x](y) <b>")))
    assert "a\\|b \\[x\\](y) \\<b\\>" in report.as_markdown(hostile, ())


# --- advice ------------------------------------------------------------------------------------


def subject(**known: Any) -> Subject:  # noqa: ANN401 - members of Subject
    plain = Subject(INSIDE, Scope.VPC, "shop", "cart-0", "node-1", "10.4.7.21", "eni-0abc")
    return replace(plain, **known)


def commands(*subjects: Subject) -> str:
    return "\n".join(command for step in advise(subjects) for command in step.commands)


def test_nothing_found_needs_no_advice() -> None:
    assert advise(()) == ()


def test_commands_name_the_pod_the_interface_and_the_destination() -> None:
    told = commands(subject())
    assert "kubectl exec cart-0 -n shop -- telnet 10.4.100.50 443" in told
    assert "--network-interface-ids eni-0abc" in told
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
    assert commands(*many).count("telnet") == MAX_DESTINATIONS


@given(st.text(min_size=1, max_size=30))
def test_a_name_never_becomes_a_second_command(name: str) -> None:
    (ping, *_) = advise([subject(pod=name)])[0].commands
    words = shlex.split(ping)
    assert words[:3] == ["kubectl", "exec", name]
    assert words[3:] == ["-n", "shop", "--", "ping", "-c", "3", "10.4.100.50"]


@pytest.mark.parametrize(
    ("annotation", "found"),
    [
        ('[{"eniId": "eni-0abc", "vlanId": 1}]', "eni-0abc"),
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
