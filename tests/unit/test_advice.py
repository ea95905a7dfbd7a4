"""What to do next for each cause: commands with what is known filled in, and nothing run."""

from __future__ import annotations

import shlex
import subprocess
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.facts import (
    ANY_FACTS,
    BACKEND,
    CLIENT,
    HOST,
    NODE,
    OPEN,
    PEER,
    POD,
    STRICT,
    denied,
    facts,
    handed,
    hop,
    icmp,
    listener,
    reply,
    route,
    service,
    syn,
    table,
)
from tracer.diagnose.advice import Subject, advise, steps_for_cause
from tracer.facts import Facts
from tracer.model import Cause, Endpoint, Scope

SUBJECT = Subject(
    Endpoint("10.4.100.50", 443),
    Scope.VPC,
    namespace="shop",
    pod="cart-0",
    node="node-1",
    source_address=CLIENT,
    eni_id="eni-0123456789abcdef0",
    pid=4_711,
)
INSIDE = "nsenter --net=/proc/4711/ns/net "


def commands(cause: Cause, known: Facts | None = None, **subject: Any) -> list[str]:  # noqa: ANN401
    steps = steps_for_cause(cause, replace(SUBJECT, **subject), known)
    return [command for step in steps for command in step.commands]


@pytest.mark.parametrize("cause", [cause for cause in Cause if cause is not Cause.UNKNOWN])
@pytest.mark.parametrize("scope", list(Scope))
def test_every_cause_has_two_or_three_steps(cause: Cause, scope: Scope) -> None:
    steps = steps_for_cause(cause, replace(SUBJECT, scope=scope), facts())
    assert 2 <= len(steps) <= 3
    assert len({step.title for step in steps}) == len(steps)
    assert all(step.title.endswith("?") and step.commands for step in steps)


def test_an_unknown_cause_gets_what_is_advised_where_nothing_is_known() -> None:
    assert steps_for_cause(Cause.UNKNOWN, SUBJECT) == advise([SUBJECT])


EXPECTED = [
    (Cause.DROPPED_HERE, facts(drops=(syn(),)), "nft list ruleset"),
    (
        Cause.DROPPED_HERE,
        facts(drops=(syn(netns=POD, device=None),)),
        f"{INSIDE}iptables-save -c | grep -E -e '-j (DROP|REJECT)' -e ':[A-Z]+ DROP'",
    ),
    (
        Cause.DROPPED_HERE,
        facts(drops=(syn(netns=PEER),)),
        f"lsns -t net -o NS,PID,COMMAND | grep -w {PEER}",
    ),
    (Cause.DROPPED_HERE, facts(drops=(syn("TC_EGRESS"),)), "tc -s filter show dev veth1 egress"),
    (Cause.DROPPED_HERE, facts(drops=(syn("QDISC_DROP"),)), "tc -s qdisc show dev veth1"),
    (Cause.DROPPED_HERE, facts(drops=(syn("BPF_CGROUP_EGRESS"),)), "cat /proc/4711/cgroup"),
    (Cause.DROPPED_HERE, facts(drops=(syn("SECURITY_HOOK"),)), "ausearch -m AVC -ts recent"),
    (Cause.DROPPED_HERE, facts(route=route("none")), f"{INSIDE}ip route get 10.4.100.50"),
    (
        Cause.DROPPED_HERE,
        facts(drops=(syn("IP_INNOROUTES"),)),
        "ip route show table all | grep -E '^(blackhole|unreachable|prohibit|throw|default)'",
    ),
    (
        Cause.REPLY_DROPPED_HERE,
        facts(drops=(reply("IP_RPFILTER"),), reverse_paths=(STRICT,)),
        "sysctl -a 2>/dev/null | grep -E 'ipv4\\.conf\\..*\\.rp_filter'",
    ),
    (
        Cause.REPLY_DROPPED_HERE,
        facts(drops=(reply(),)),
        "conntrack -L -p tcp -d 10.4.100.50 --dport 443",
    ),
    (
        Cause.REFUSED,
        facts(),
        "kubectl exec <peer-pod> -n <namespace> -- ss -Hltn 'sport = :443'",
    ),
    (
        Cause.REFUSED_BY_FIREWALL,
        facts(icmp=(icmp(3, 13),)),
        "kubectl get nodes -o wide | grep -wF 10.4.0.9",
    ),
    (Cause.UNREACHABLE, facts(), f"{INSIDE}traceroute -n -T -p 443 10.4.100.50"),
    (Cause.NO_NEIGHBOUR, facts(host_neighbour=hop("FAILED")), f"arping -c 3 -I ens5 {NODE}"),
    (Cause.NO_NEIGHBOUR, facts(host_neighbour=hop("FAILED")), f"ip neigh show {NODE}"),
    (
        Cause.NO_REPLY,
        facts(handed=(handed(),)),
        (
            "aws ec2 describe-network-interfaces --network-interface-ids eni-0123456789abcdef0"
            " --query 'NetworkInterfaces[0].Groups'"
        ),
    ),
    (
        Cause.LISTENER_OVERLOADED,
        facts(listener=listener(129, 4)),
        "nsenter --net=/proc/<pid>/ns/net ss -Hltnp 'sport = :443'",
    ),
    (
        Cause.SERVICE_WITHOUT_ENDPOINTS,
        facts(destination=service(0, 3)),
        "kubectl get endpointslices -n shop -l kubernetes.io/service-name=db -o wide",
    ),
    (
        Cause.STALE_NAT,
        facts(destination=service(2, 2, BACKEND)),
        (
            "kubectl get pods -n kube-system -o wide -l k8s-app=kube-proxy"
            " --field-selector spec.nodeName=node-1"
        ),
    ),
    (
        Cause.PORT_EXHAUSTION,
        facts(),
        f"{INSIDE}ss -Htan 'dst 10.4.100.50:443' | awk '{{print $1}}' | sort | uniq -c",
    ),
    (
        Cause.CONNTRACK_FULL,
        facts(conntrack=(table(1_000, 4),)),
        "sysctl net.netfilter.nf_conntrack_count net.netfilter.nf_conntrack_max",
    ),
    (
        Cause.NETWORK_POLICY,
        facts(policies=denied()),
        "kubectl describe networkpolicy default-deny -n shop",
    ),
    (Cause.APPLICATION_GAVE_UP, facts(), "kubectl logs cart-0 -n shop --since=10m"),
    (Cause.SLOW, facts(), f"{INSIDE}nstat -az TcpExtTCPSynRetrans TcpExtTCPTimeouts"),
]


@pytest.mark.parametrize(("cause", "known", "command"), EXPECTED)
def test_the_steps_of_a_cause_name_what_is_known(cause: Cause, known: Facts, command: str) -> None:
    assert command in commands(cause, known)


def test_silence_outside_asks_about_the_way_out() -> None:
    told = "\n".join(commands(Cause.NO_REPLY, facts(), scope=Scope.EXTERNAL))
    assert "nat-gateways" in told
    assert "network-acls" not in told


def test_silence_inside_the_vpc_asks_about_routes_and_nacls() -> None:
    assert "network-acls" in "\n".join(commands(Cause.NO_REPLY, facts()))


def test_a_process_of_the_node_needs_no_namespace_to_enter() -> None:
    told = commands(Cause.UNREACHABLE, facts(netns=HOST))
    assert "traceroute -n -T -p 443 10.4.100.50" in told


def test_a_namespace_without_a_known_process_stays_a_placeholder() -> None:
    told = commands(Cause.DROPPED_HERE, facts(drops=(syn(netns=POD),)), pid=None)
    assert f"lsns -t net -o NS,PID,COMMAND | grep -w {POD}" in told
    assert "nsenter --net=/proc/<pid>/ns/net nft list ruleset" in told


def test_behind_a_service_it_is_the_backend_that_is_asked_about() -> None:
    told = commands(Cause.REFUSED, facts(destination=service(2, 2, BACKEND)))
    assert f"kubectl get pods -A -o wide --field-selector status.podIP={BACKEND.address}" in told


def test_ipv6_gets_the_tools_of_ipv6() -> None:
    there = Endpoint("2001:db8::1", 443)
    known = facts(asked=there, drops=(syn(),))
    causes = (Cause.DROPPED_HERE, Cause.NO_NEIGHBOUR, Cause.PORT_EXHAUSTION)
    told = "\n".join(
        command for cause in causes for command in commands(cause, known, destination=there)
    )
    assert "ip6tables-save -c" in told
    assert "ndisc6 2001:db8::1" in told
    assert "conntrack -L -f ipv6 -p tcp -d 2001:db8::1" in told
    assert "dst [2001:db8::1]:443" in told


def test_without_facts_every_cause_still_has_commands() -> None:
    for cause in Cause:
        assert commands(cause)
        assert steps_for_cause(cause, Subject(Endpoint("10.0.0.1", None), Scope.VPC))


def test_commands_change_nothing() -> None:
    changing = (
        " -D ",
        " add ",
        " del ",
        " flush",
        " -w ",
        "kubectl delete",
        "kubectl apply",
    )
    known = facts(**OPEN, drops=(syn(), reply()), policies=denied(), conntrack=(table(1_000, 4),))
    for cause in Cause:
        for command in commands(cause, known):
            plain = command.replace("grep -w ", "")
            assert not any(word in plain for word in changing), command


# A colon makes an address one of IPv6, a slash parts a namespace from a name: other commands.
_PLAIN = st.characters(exclude_characters=":/")


@given(st.text(_PLAIN, min_size=1, max_size=20), st.sampled_from(Cause))
def test_a_name_never_becomes_a_second_command(name: str, cause: Cause) -> None:
    known = facts(
        destination=service(0, 1, name=f"{name}/{name}:1"),
        drops=(syn("QDISC_DROP", device=name),),
        policies=tuple(replace(one, policies=(f"{name}/{name}",)) for one in denied()),
        icmp=(icmp(3, 13, sender=name),),
        handed=(handed(name),),
        host_neighbour=replace(hop("FAILED"), address=name, device=name),
    )
    plain = commands(cause, _renamed(known, "x"))
    hostile = commands(cause, known)
    assert [len(shlex.split(one)) for one in plain] == [len(shlex.split(one)) for one in hostile]


def _renamed(known: Facts, name: str) -> Facts:
    drops = tuple(replace(drop, device=name) for drop in known.drops or ())
    return replace(
        known,
        destination=replace(known.destination, name=f"{name}/{name}:1"),
        drops=drops,
        policies=tuple(replace(one, policies=(f"{name}/{name}",)) for one in known.policies),
        icmp=tuple(replace(one, sender=name) for one in known.icmp or ()),
        handed=tuple(replace(one, device=name) for one in known.handed or ()),
        host_neighbour=replace(hop("FAILED"), address=name, device=name),
    )


@given(ANY_FACTS, st.sampled_from(Cause))
def test_any_facts_give_steps(known: Facts, cause: Cause) -> None:
    assert steps_for_cause(cause, SUBJECT, known)


def test_a_shell_takes_every_command_as_it_is() -> None:
    known = facts(**OPEN, drops=(syn(), reply()), policies=denied(), destination=service(0, 1))
    filled = [
        command.replace("<", "").replace(">", "") if "<" in command else command
        for cause in Cause
        for command in commands(cause, known)
    ]
    script = "\n".join(filled)
    assert subprocess.run(["bash", "-n", "-c", script], check=False).returncode == 0
