"""The next steps for each cause: what shows it, where to look, what to change.

Commands run on the node as root, unless they are kubectl's or aws's. None of them changes anything.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tracer.diagnose.commands import Subject, pod_argument, quote, unique
from tracer.diagnose.drops import meaning
from tracer.diagnose.node_steps import (
    BY_MEANING,
    bracketed,
    conntrack_entry,
    device_name,
    find_process,
    in_client,
    in_namespace,
    into,
    lost,
    netfilter_rules,
    port_of,
    really_to,
    routing,
    source_check,
    v6,
)
from tracer.diagnose.sections import (
    destination_service,
    egress_rules,
    nat_gateway,
    network_policies,
    on_this_node,
    peer_groups,
    reachability,
    security_groups,
    vpc_routing,
)
from tracer.diagnose.sight import icmp_errors, left, neighbours
from tracer.facts import Direction, Facts, PolicyVerdict
from tracer.finding import Step
from tracer.model import Cause, Kind, Scope

Maker = Callable[[Subject, Facts | None], tuple[Step, ...]]

_SERVICE_OF: Final = "kubernetes.io/service-name"
"""The label by which EndpointSlices name their service."""


def _dropped_here(subject: Subject, facts: Facts | None) -> tuple[Step, ...]:
    first = into(subject, facts, Direction.SYN)
    drop = lost(facts, Direction.SYN)
    steps = [first]
    if drop is None or meaning(drop).enforces:
        steps += network_policies([subject])
    if drop is not None and meaning(drop) not in BY_MEANING:
        steps.append(netfilter_rules(subject, facts, drop))
    steps.append(conntrack_entry(subject, facts))
    return tuple(steps[:3])


def _reply_dropped_here(subject: Subject, facts: Facts | None) -> tuple[Step, ...]:
    drop = lost(facts, Direction.REPLY)
    steps = [into(subject, facts, Direction.REPLY)]
    if steps[0].title != source_check(subject, facts, drop).title:
        steps.append(source_check(subject, facts, drop))
    steps.append(conntrack_entry(subject, facts))
    return tuple(steps)


def _no_neighbour(subject: Subject, facts: Facts | None) -> tuple[Step, ...]:
    where = really_to(subject, facts)
    hop, device, netns = where.address, None, None
    for found, of in neighbours(facts) if facts is not None else ():
        if found.state in {"FAILED", "INCOMPLETE"}:
            hop, device, netns = found.address, found.device, of
            break
    else:
        drop = lost(facts, Direction.SYN)
        if drop is not None:
            device, netns = drop.device, drop.netns
    prefix = in_namespace(netns, subject, facts)
    on = device_name(device)
    ask = f"ndisc6 {quote(hop)} {on}" if ":" in hop else f"arping -c 3 -I {on} {quote(hop)}"
    return (
        Step(
            "Does the next hop answer?",
            "FAILED and INCOMPLETE mean that nobody answers for that address: the host is down or"
            " gone, or the address lies in another subnet than the route says.",
            (
                *find_process(netns, subject, facts),
                f"{prefix}ip neigh show {quote(hop)}",
                f"{prefix}{ask}",
                f"{prefix}ip -s link show dev {on}",
            ),
        ),
        routing(subject, facts, None),
        destination_service([subject]),
    )


def _listener_overloaded(subject: Subject, facts: Facts | None) -> tuple[Step, ...]:
    where = really_to(subject, facts)
    listener = facts.listener if facts is not None else None
    netns = listener.netns if listener is not None else None
    prefix = in_namespace(netns, subject, facts)
    return (
        Step(
            "Is the listener's queue full?",
            "Recv-Q is what waits to be accepted, Send-Q the limit; ListenOverflows counts what was"
            " turned away.",
            (
                *find_process(netns, subject, facts),
                f"{prefix}ss -Hltnp 'sport = :{port_of(where)}'",
                f"{prefix}nstat -az TcpExtListenOverflows TcpExtListenDrops TcpExtTCPReqQFullDrop",
                f"{prefix}sysctl net.core.somaxconn net.ipv4.tcp_max_syn_backlog",
            ),
        ),
        Step(
            "Why does the application not accept?",
            "It is stopped, short of CPU or busy in one thread; a larger backlog only delays it.",
            (
                f"kubectl get pods -A -o wide --field-selector status.podIP={quote(where.address)}",
                "kubectl top pods -A --sort-by=cpu",
            ),
        ),
    )


def _port_exhaustion(subject: Subject, facts: Facts | None) -> tuple[Step, ...]:
    prefix, where = in_client(subject, facts), subject.destination
    to = quote(f"dst {bracketed(where.address)}:{port_of(where)}")
    return (
        Step(
            "Who uses the ports up?",
            "Each connection to the same address and port needs a port of its own; in TIME-WAIT it"
            " keeps it for a minute. Reuse connections rather than open new ones.",
            (
                f"{prefix}ss -Htan {to} | awk '{{print $1}}' | sort | uniq -c",
                f'{prefix}ss -Htanp {to} | grep -oE \'"[^"]+",pid=[0-9]+\' | sort | uniq -c',
            ),
        ),
        Step(
            "How many are there?",
            "A wider range or tcp_tw_reuse buys time.",
            (
                (
                    f"{prefix}sysctl net.ipv4.ip_local_port_range net.ipv4.ip_local_reserved_ports"
                    " net.ipv4.tcp_tw_reuse"
                ),
            ),
        ),
    )


def _conntrack_full(subject: Subject, facts: Facts | None) -> tuple[Step, ...]:
    full = [
        table.netns
        for table in (facts.conntrack if facts is not None else ())
        if table.refused > 0 or 0 < table.maximum <= table.count
    ]
    netns = full[0] if full else None
    prefix = in_namespace(netns, subject, facts)
    return (
        Step(
            "Is the table full?",
            "drop and early_drop rise where it refuses entries; the kernel logs it too.",
            (
                *find_process(netns, subject, facts),
                f"{prefix}sysctl net.netfilter.nf_conntrack_count net.netfilter.nf_conntrack_max",
                f"{prefix}conntrack -S",
                "journalctl -k --since '1 hour ago' | grep nf_conntrack",
            ),
        ),
        Step(
            "Who fills it?",
            "One source with most of the entries is the one to stop; else raise nf_conntrack_max.",
            (
                (
                    f"for f in ipv4 ipv6; do {prefix}conntrack -L -f $f 2>/dev/null; done | awk '{{"
                    "for (i = 1; i <= NF; i++) if ($i ~ /^src=/) {print $i; break}}'"
                    " | sort | uniq -c | sort -rn | head"
                ),
                (
                    f"for f in ipv4 ipv6; do {prefix}conntrack -L -f $f -p tcp --state SYN_SENT"
                    " 2>/dev/null; done | wc -l"
                ),
            ),
        ),
    )


# --- the cluster ---------------------------------------------------------------------------------


def _network_policy(subject: Subject, facts: Facts | None) -> tuple[Step, ...]:
    denied = [
        name
        for finding in (facts.policies if facts is not None else ())
        if finding.verdict is PolicyVerdict.DENIED
        for name in finding.policies
    ]
    commands = []
    for name in unique(denied)[:5]:
        namespace, _, policy = name.rpartition("/")
        option = f" -n {quote(namespace)}" if namespace else " -n <namespace>"
        commands.append(f"kubectl describe networkpolicy {quote(policy)}{option}")
    general = network_policies([subject])
    if not commands:
        commands = [command for step in general for command in step.commands] or [
            "kubectl get networkpolicies -A"
        ]
    return (
        Step(
            "Which policy should allow it?",
            "Policies add up: one that allows this destination and port is enough, and where any"
            " selects the pod, what none allows is denied.",
            tuple(commands),
        ),
        Step(
            "Do the labels match?",
            "Policies select by labels of pods and namespaces, on both sides; after NAT it is the"
            " backend's pod that counts.",
            (
                f"kubectl get pod {pod_argument(subject)} --show-labels",
                (
                    "kubectl get pods -A -o wide --show-labels --field-selector "
                    f"status.podIP={quote(really_to(subject, facts).address)}"
                ),
                "kubectl get namespaces --show-labels",
            ),
        ),
        into(subject, facts, Direction.SYN),
    )


def _service(subject: Subject, facts: Facts | None) -> Step:
    name, namespace = "<service>", "<namespace>"
    if facts is not None and facts.destination.kind is Kind.SERVICE and facts.destination.name:
        before, _, rest = facts.destination.name.partition("/")
        if rest:
            namespace, name = quote(before), quote(rest.partition(":")[0])
    commands = [
        f"kubectl get endpointslices -n {namespace} -l {_SERVICE_OF}={name} -o wide",
        f"kubectl describe service {name} -n {namespace}",
    ]
    if name == "<service>":
        address = quote(subject.destination.address)
        commands.insert(0, f"kubectl get services -A -o wide | grep -wF {address}")
    return Step(
        "Which endpoints does the service have?",
        "A selector that matches no pod, pods that fail their readiness probe, or a wrong"
        " targetPort leave a service without any.",
        tuple(commands),
    )


def _service_without_endpoints(subject: Subject, facts: Facts | None) -> tuple[Step, ...]:
    namespace = "<namespace>"
    if facts is not None and facts.destination.kind is Kind.SERVICE and facts.destination.name:
        before, slash, _ = facts.destination.name.partition("/")
        namespace = quote(before) if slash else namespace
    return (
        _service(subject, facts),
        Step(
            "Why are its pods not ready?",
            "Events and the last state of their containers tell.",
            (
                f"kubectl get pods -n {namespace} -o wide --show-labels",
                f"kubectl get events -n {namespace} --sort-by=.lastTimestamp",
            ),
        ),
    )


def _stale_nat(subject: Subject, facts: Facts | None) -> tuple[Step, ...]:
    where, backend = subject.destination, really_to(subject, facts)
    node = "<node>" if subject.node is None else quote(subject.node)
    save = "ip6tables-save" if v6(where) else "iptables-save"
    family = " -f ipv6" if v6(where) else ""
    gone = f"-d {quote(where.address)} --reply-src {quote(backend.address)}"
    return (
        Step(
            "Which connections still go to the endpoint that is gone?",
            "`conntrack -D` with the same filter removes just these: the next SYN then goes to an"
            " endpoint of today; without --reply-src it would end the healthy ones too.",
            (f"conntrack -L{family} -p tcp {gone}",),
        ),
        _service(subject, facts),
        Step(
            "Does kube-proxy of this node keep up?",
            "Its rules must name today's endpoints only.",
            (
                f"{save} -t nat | grep -F {quote(really_to(subject, facts).address)}",
                (
                    "kubectl get pods -n kube-system -o wide -l k8s-app=kube-proxy "
                    f"--field-selector spec.nodeName={node}"
                ),
            ),
        ),
    )


# --- who answered --------------------------------------------------------------------------------


def _refused(subject: Subject, facts: Facts | None) -> tuple[Step, ...]:
    where = really_to(subject, facts)
    return (
        Step(
            "Does anything listen there?",
            "On the peer the port must be open on that address, not on 127.0.0.1 alone; a load"
            " balancer without targets refuses too.",
            (
                f"kubectl get pods -A -o wide --field-selector status.podIP={quote(where.address)}",
                f"kubectl exec <peer-pod> -n <namespace> -- ss -Hltn 'sport = :{port_of(where)}'",
            ),
        ),
        _service(subject, facts)
        if facts is not None and facts.destination.kind is Kind.SERVICE
        else destination_service([subject]),
        _from_the_wire(subject, facts),
    )


def _refused_by_firewall(subject: Subject, facts: Facts | None) -> tuple[Step, ...]:
    drop = lost(facts, Direction.SYN)
    sender = _icmp_sender(facts)
    whose = [] if sender is None else [_who_is(sender)]
    return (*whose, netfilter_rules(subject, facts, drop), *network_policies([subject]))[:3]


def _unreachable(subject: Subject, facts: Facts | None) -> tuple[Step, ...]:
    sender = _icmp_sender(facts)
    first = [] if sender is None else [_who_is(sender)]
    last = vpc_routing([subject]) if subject.scope is Scope.VPC else nat_gateway([subject])
    return (*first, _path(subject, facts), last)


def _icmp_sender(facts: Facts | None) -> str | None:
    found = icmp_errors(facts) if facts is not None else []
    return found[0][0].sender if found else None


def _who_is(address: str) -> Step:
    known = quote(address)
    name = "ipv6-addresses.ipv6-address" if ":" in address else "addresses.private-ip-address"
    return Step(
        "Who sent the ICMP error?",
        "Whoever has that address refused or knew no way on: its routes and rules are to be looked"
        " at.",
        (
            f"kubectl get nodes -o wide | grep -wF {known}",
            f"ip addr show | grep -wF {known}",
            (
                f"aws ec2 describe-network-interfaces --filters Name={name},Values={known} "
                "--query 'NetworkInterfaces[0].[NetworkInterfaceId,InterfaceType,Description]'"
            ),
        ),
    )


def _path(subject: Subject, facts: Facts | None) -> Step:
    where, prefix = really_to(subject, facts), in_client(subject, facts)
    return Step(
        "How far does it get?",
        "The last hop that answers is the one before the trouble; stars all the way say nothing.",
        (
            f"{prefix}ip route get {quote(where.address)}",
            f"{prefix}traceroute -n -T -p {port_of(where)} {quote(where.address)}",
        ),
    )


# --- nobody answered -----------------------------------------------------------------------------


def _from_the_wire(subject: Subject, facts: Facts | None) -> Step:
    where = really_to(subject, facts)
    gone = [one.device for one in (facts.handed if facts is not None else None) or () if one.leaves]
    device = quote(gone[0]) if gone else "any"
    expression = f"host {where.address} and tcp port {port_of(where)}"
    return Step(
        "What is on the wire?",
        "SYNs without an answer there leave this node for nothing; an answer there, and none in the"
        " socket, dies on this node.",
        (f"timeout 20 tcpdump -nni {device} -c 20 {quote(expression)}",),
    )


def _no_reply(subject: Subject, facts: Facts | None) -> tuple[Step, ...]:
    if subject.scope is Scope.VPC:
        return security_groups([subject]), peer_groups([subject]), vpc_routing([subject])
    if subject.scope is Scope.EXTERNAL:
        return security_groups([subject]), nat_gateway([subject]), egress_rules([subject])
    return _from_the_wire(subject, facts), on_this_node([subject])


def _application_gave_up(subject: Subject, facts: Facts | None) -> tuple[Step, ...]:
    """Its time-out is seldom the trouble: where its SYNs left, who swallows them is asked first."""
    silent = _no_reply(subject, facts)[:2] if facts is not None and left(facts) else ()
    return (
        *silent,
        Step(
            "Is its timeout what it should be?",
            "A timeout below 1 s leaves no room for a single lost SYN, one below 3 s for two. Its"
            " own log tells which one it was.",
            (
                f"kubectl logs {pod_argument(subject)} --since=10m",
                f"{in_client(subject, facts)}sysctl net.ipv4.tcp_syn_retries",
            ),
        ),
        *(() if silent else (reachability([subject]), _from_the_wire(subject, facts))),
    )


def _slow(subject: Subject, facts: Facts | None) -> tuple[Step, ...]:
    where, prefix = really_to(subject, facts), in_client(subject, facts)
    drop = lost(facts, Direction.SYN)
    second = (
        into(subject, facts, Direction.SYN)
        if drop is not None
        else Step(
            "Is the peer short of room?",
            "A listener with a full queue drops SYNs until there is room again, and a lossy path"
            " drops any.",
            (f"kubectl exec <peer-pod> -n <namespace> -- ss -Hltn 'sport = :{port_of(where)}'",),
        )
    )
    return (
        Step(
            "How often are SYNs lost?",
            "TCPSynRetrans rises with each SYN that is sent again in that namespace.",
            (
                f"{prefix}nstat -az TcpExtTCPSynRetrans TcpExtTCPTimeouts",
                f"{prefix}ss -Htnoi dst {quote(bracketed(where.address))}",
            ),
        ),
        second,
    )


STEPS: Final[dict[Cause, Maker]] = {
    Cause.DROPPED_HERE: _dropped_here,
    Cause.REPLY_DROPPED_HERE: _reply_dropped_here,
    Cause.REFUSED: _refused,
    Cause.REFUSED_BY_FIREWALL: _refused_by_firewall,
    Cause.UNREACHABLE: _unreachable,
    Cause.NO_NEIGHBOUR: _no_neighbour,
    Cause.NO_REPLY: _no_reply,
    Cause.LISTENER_OVERLOADED: _listener_overloaded,
    Cause.SERVICE_WITHOUT_ENDPOINTS: _service_without_endpoints,
    Cause.STALE_NAT: _stale_nat,
    Cause.PORT_EXHAUSTION: _port_exhaustion,
    Cause.CONNTRACK_FULL: _conntrack_full,
    Cause.NETWORK_POLICY: _network_policy,
    Cause.APPLICATION_GAVE_UP: _application_gave_up,
    Cause.SLOW: _slow,
}
"""Every cause but `unknown`, for which the report's own sections are."""
