"""Facts for the tests of verdicts: an attempt that is stuck and watched, and what may be added."""

from __future__ import annotations

import errno
from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from tracer.diagnose.drops import ACK, REASONS, SYMBOLS, SYN
from tracer.facts import (
    Backend,
    ConntrackTable,
    Direction,
    Drop,
    Facts,
    Handed,
    IcmpError,
    Listener,
    LocalPorts,
    Neighbour,
    Peers,
    PolicyFinding,
    PolicyVerdict,
    Reset,
    ReversePath,
    Route,
)
from tracer.model import Confidence, Destination, Endpoint, Endpoints, Kind, Nat, Outcome, Scope

POD, HOST, PEER, STRANGER = 4_026_532_100, 4_026_531_840, 4_026_532_200, 4_026_532_300
CLIENT, GATEWAY, NODE = "10.4.7.21", "169.254.1.1", "10.4.0.1"
ASKED = Endpoint("10.4.100.50", 443)
BACKEND = Endpoint("10.4.7.99", 8443)
SECOND = 1_000_000_000
NOW = 100 * SECOND

HIGH, MEDIUM, LOW = Confidence.HIGH, Confidence.MEDIUM, Confidence.LOW

# Five SYNs, of which the last three were sent while somebody watched, the latest 2 s ago.
STUCK = Facts(
    destination=Destination(Scope.VPC),
    asked=ASKED,
    netns=POD,
    now_ns=NOW,
    age_seconds=7.0,
    syns_sent=5,
    host_netns=HOST,
    source=Endpoint(CLIENT, 40_000),
    last_syn_ns=NOW - 2 * SECOND,
)
WATCHED = replace(
    STUCK, drops=(), handed=None, icmp=(), watched_ns=NOW - 6 * SECOND, syns_watched=3
)
OPEN = {
    "route": Route("unicast", GATEWAY, "eth0", CLIENT, NOW),
    "neighbour": Neighbour(GATEWAY, "eth0", "PERMANENT", NOW),
    "host_route": Route("unicast", NODE, "ens5", None, NOW),
    "host_neighbour": Neighbour(NODE, "ens5", "REACHABLE", NOW),
}


RST_SEEN = Reset(ASKED, NOW - SECOND)


def facts(**known: Any) -> Facts:  # noqa: ANN401 - members of Facts
    return replace(WATCHED, **known)


def syn(reason: str | None = "NETFILTER_DROP", **known: Any) -> Drop:  # noqa: ANN401
    plain = Drop(
        direction=Direction.SYN,
        reason=reason,
        symbol="nf_hook_slow",
        netns=HOST,
        device="veth1",
        flags=SYN,
        count=3,
        first_ns=NOW - 5 * SECOND,
        last_ns=NOW - 2 * SECOND,
    )
    return replace(plain, **known)


def reply(reason: str | None = "NETFILTER_DROP", **known: Any) -> Drop:  # noqa: ANN401
    plain = syn(reason, direction=Direction.REPLY, flags=SYN | ACK, device="ens5")
    return replace(plain, **known)


def handed(device: str = "ens5", **known: Any) -> Handed:  # noqa: ANN401
    return replace(Handed(device, HOST, 3, NOW - 2 * SECOND, leaves=True), **known)


def icmp(
    kind: int,
    code: int,
    family: int = 4,
    sender: str = "10.4.0.9",
    *,
    proven: bool = True,
    here: bool | None = None,
) -> IcmpError:
    return IcmpError(family, kind, code, sender, 1, NOW, proven=proven, here=here)


def service(ready: int, total: int, to: Endpoint | None = None, **known: Any) -> Destination:  # noqa: ANN401
    nat = None if to is None else Nat(to, "SYN_SENT", replied=False)
    plain = Destination(Scope.VPC, Kind.SERVICE, "shop/db:5432", endpoints=Endpoints(ready, total))
    return replace(plain, nat=nat, **known)


def nat(state: str | None, *, replied: bool, to: Endpoint = ASKED) -> Destination:
    return Destination(Scope.VPC, nat=Nat(to, state, replied))


def table(
    count: int, refused: int, netns: int | None = HOST, *, stopped: int | None = None
) -> ConntrackTable:
    return ConntrackTable(netns, count, 1_000, refused, NOW, stopped)


def listener(
    queued: int, overflows: int, drops: int = 0, *, listening: bool = True, syn_queue_drops: int = 0
) -> Listener:
    return Listener(
        PEER, listening, queued, 128, overflows, drops, NOW, syn_queue_drops=syn_queue_drops
    )


def denied(direction: str = "egress") -> tuple[PolicyFinding, ...]:
    return (PolicyFinding(direction, PolicyVerdict.DENIED, ("shop/default-deny",), "no rule"),)


def route(kind: str) -> Route:
    return Route(kind, None, None, None, NOW)


def hop(state: str | None, device: str = "ens5") -> Neighbour:
    return Neighbour(NODE, device, state, NOW)


V6 = {"asked": Endpoint("2001:db8::1", 443), "source": Endpoint("2001:db8::7", 40_000)}
STRICT = ReversePath(HOST, "ens5", 1, symmetric=False)
QUIET = {"outcome": Outcome.REFUSED, "errno": errno.ECONNREFUSED}
GONE_UNREACHABLE = {"outcome": Outcome.UNREACHABLE, "errno": errno.EHOSTUNREACH}
UNWATCHED: dict[str, Any] = {
    "drops": None,
    "icmp": None,
    "resets": None,
    "watched_ns": None,
    "syns_watched": None,
}

# --- for any facts -------------------------------------------------------------------------------

_ADDRESSES = st.sampled_from([CLIENT, GATEWAY, NODE, ASKED.address, "2001:db8::1", "", "x\x1b"])
_NAMES = st.none() | st.sampled_from(["eth0", "ens5", "veth1", "\n", ""])
NETNS = st.sampled_from([None, POD, HOST, PEER, STRANGER])
_COUNT = st.integers(-1, 12)
_TIME = st.integers(0, 2 * NOW)


ENDPOINTS = st.builds(Endpoint, _ADDRESSES, st.none() | st.integers(0, 65_535))
_DROPS = st.builds(
    Drop,
    direction=st.sampled_from(Direction),
    reason=st.none() | st.sampled_from([*REASONS, "NOT_SPECIFIED", "reason 7", "\n"]),
    symbol=st.none() | st.sampled_from([*SYMBOLS, "f+0x1", ""]),
    netns=NETNS,
    device=_NAMES,
    flags=st.integers(0, 255),
    count=_COUNT,
    first_ns=_TIME,
    last_ns=_TIME,
)
_STATES = st.none() | st.sampled_from(["FAILED", "INCOMPLETE", "REACHABLE", "odd"])
_ROUTES = st.builds(
    Route,
    st.sampled_from(["unicast", "local", "none", "blackhole", "unreachable", "odd"]),
    st.none() | _ADDRESSES,
    _NAMES,
    st.none() | _ADDRESSES,
    _TIME,
)
_HOPS = st.builds(Neighbour, _ADDRESSES, _NAMES, _STATES, _TIME)
DESTINATIONS = st.builds(
    Destination,
    scope=st.sampled_from(Scope),
    kind=st.sampled_from(Kind),
    name=st.none() | st.text(max_size=12),
    ambiguous=st.booleans(),
    endpoints=st.none() | st.builds(Endpoints, st.integers(0, 3), st.integers(0, 3)),
    nat=st.none()
    | st.builds(
        Nat, ENDPOINTS, st.none() | st.sampled_from(["SYN_SENT", "SYN_RECV"]), st.booleans()
    ),
)
ERRNOS = st.none() | st.sampled_from([0, *errno.errorcode, 9_999])

ANY_FACTS = st.builds(
    Facts,
    destination=DESTINATIONS,
    asked=ENDPOINTS,
    netns=NETNS,
    now_ns=_TIME,
    age_seconds=st.none() | st.floats(0, 1e6),
    syns_sent=st.none() | _COUNT,
    outcome=st.none() | st.sampled_from(Outcome),
    errno=ERRNOS,
    soft_errno=ERRNOS,
    drops=st.none() | st.lists(_DROPS, max_size=4).map(tuple),
    handed=st.none()
    | st.lists(
        st.builds(
            Handed,
            st.sampled_from(["eth0", "ens5"]),
            NETNS,
            _COUNT,
            _TIME,
            st.none() | st.booleans(),
        ),
        max_size=3,
    ).map(tuple),
    icmp=st.none()
    | st.lists(
        st.builds(
            IcmpError,
            st.sampled_from([4, 6]),
            st.integers(0, 12),
            st.integers(0, 15),
            _ADDRESSES,
            _COUNT,
            _TIME,
        ),
        max_size=3,
    ).map(tuple),
    neighbour=st.none() | _HOPS,
    route=st.none() | _ROUTES,
    conntrack=st.lists(
        st.builds(ConntrackTable, NETNS, _COUNT, _COUNT, _COUNT, _TIME), max_size=2
    ).map(tuple),
    listener=st.none()
    | st.builds(
        Listener,
        st.sampled_from([POD, HOST, PEER]),
        st.booleans(),
        st.none() | _COUNT,
        st.none() | _COUNT,
        _COUNT,
        _COUNT,
        _TIME,
    ),
    ports=st.none() | st.builds(LocalPorts, _COUNT, _COUNT, _TIME),
    reverse_paths=st.lists(
        st.builds(
            ReversePath,
            st.sampled_from([POD, HOST]),
            st.sampled_from(["eth0", "ens5"]),
            st.integers(0, 3),
            st.none() | st.booleans(),
        ),
        max_size=2,
    ).map(tuple),
    policies=st.lists(
        st.builds(
            PolicyFinding,
            st.sampled_from(["egress", "ingress"]),
            st.sampled_from(PolicyVerdict),
            st.lists(st.text(max_size=8), max_size=5).map(tuple),
            st.text(max_size=8),
        ),
        max_size=2,
    ).map(tuple),
    peers=st.none()
    | st.builds(
        Peers,
        _COUNT,
        _COUNT,
        _COUNT,
        _COUNT,
        _COUNT,
        st.none() | _TIME,
        st.none() | _TIME,
        _COUNT,
        _COUNT,
    ),
    host_netns=NETNS,
    source=st.none() | ENDPOINTS,
    watched_ns=st.none() | _TIME,
    syns_watched=st.none() | _COUNT,
    syns_handed=st.none() | _COUNT,
    last_syn_ns=st.none() | _TIME,
    resets=st.none() | st.tuples() | st.tuples(st.builds(Reset, ENDPOINTS, _TIME)),
    host_route=st.none() | _ROUTES,
    host_neighbour=st.none() | _HOPS,
    backend=st.none() | st.sampled_from(Backend),
)
