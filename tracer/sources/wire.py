"""The kernel's records as user space reads them: the mirror of bpf/event.h.

`mirror_macros()` hands every size and offset of this mirror to the compiler, which compares them
with the header (bpf/mirror.h): the two cannot drift apart unnoticed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import lru_cache
from socket import AF_INET as _AF_INET
from socket import AF_INET6, inet_ntop
from typing import Final, NamedTuple

from tracer.model import Endpoint, Flow, Owner, TcpState, Transition, TransitionKind

# (C member, struct format), in the header's order. "@" below gives C's own alignment.
_ATTEMPT: Final = (
    ("start_ns", "Q"),
    ("last_timeout_ns", "Q"),
    ("next_retry_ns", "Q"),
    ("cgroup_id", "Q"),
    ("netns", "I"),
    ("pid", "I"),
    ("uid", "I"),
    ("timeouts", "I"),
    ("retransmissions", "I"),
    ("segs_out_start", "I"),
    ("reported_error", "i"),
    ("isn", "I"),
    ("family", "H"),
    ("sport", "H"),
    ("dport", "H"),
    ("seen_start", "B"),
    ("backoff", "B"),
    ("saddr", "16s"),
    ("daddr", "16s"),
    ("comm", "16s"),
    ("retransmitted", "B"),
    ("pad", "7s"),
)
_EVENT_HEAD: Final = (
    ("time_ns", "Q"),
    ("sk", "Q"),
    ("error", "i"),
    ("soft_error", "i"),
    ("kind", "B"),
    ("new_state", "B"),
    ("no_syn_sent", "B"),
    ("pad", "5s"),
)
COUNTERS: Final = (
    "started",
    "established",
    "reported_end",
    "added",
    "removed",
    "retransmitted",
    "retransmitted_removed",
    "unseen_ends",
    "untracked",
    "ring_full",
)
_KIND_RETRANSMIT: Final = 1
_KIND_END: Final = 2
V4_MAPPED: Final = bytes(10) + b"\xff\xff"


Members = tuple[tuple[str, str], ...]


def _format(members: Members) -> str:
    return "".join(code for _, code in members)


def layout_of(members: Members) -> struct.Struct:
    """A C struct of these members. The last one must fill it: C pads its end, this does not."""
    return struct.Struct("@" + _format(members))


class RawAttempt(NamedTuple):
    """`struct attempt`, member for member; 0 means unknown."""

    start_ns: int
    last_timeout_ns: int
    next_retry_ns: int
    cgroup_id: int
    netns: int
    pid: int
    uid: int
    timeouts: int
    retransmissions: int
    segs_out_start: int
    reported_error: int
    isn: int
    family: int
    sport: int
    dport: int
    seen_start: int
    backoff: int
    saddr: bytes
    daddr: bytes
    comm: bytes
    retransmitted: int
    pad: bytes


ATTEMPT: Final = struct.Struct("@" + _format(_ATTEMPT))
EVENT: Final = struct.Struct("@" + _format(_EVENT_HEAD) + _format(_ATTEMPT))
COUNTERS_PER_CPU: Final = struct.Struct(f"@{len(COUNTERS)}Q")


def layout_macros(name: str, members: Members) -> dict[str, int]:
    """Name and value of each -D macro by which the compiler checks the mirror of one struct."""
    macros = {f"MIRROR_SIZE_{name}": struct.calcsize("@" + _format(members))}
    for index, (member, code) in enumerate(members):
        end = struct.calcsize("@" + _format(members[: index + 1]))
        macros[f"MIRROR_{name}_{member}"] = end - struct.calcsize(code)
    return macros


def mirror_macros() -> dict[str, int]:
    """Name and value of each -D macro by which the compiler checks this mirror."""
    return {
        **layout_macros("attempt", _ATTEMPT),
        **layout_macros("event", _EVENT_HEAD),
        **layout_macros("counters", tuple((name, "Q") for name in COUNTERS)),
        "MIRROR_SIZE_event": EVENT.size,
        "MIRROR_event_attempt": struct.calcsize("@" + _format(_EVENT_HEAD)),
    }


# An attempt sends its SYN again and again, and thousands have one destination and one process: what
# is the same in all their records is kept once, while records wait by the ten thousand.
_FLOWS: Final = 8_192
_DESTINATIONS: Final = 2_048
_OWNERS: Final = 1_024


def flow_of(raw: RawAttempt) -> Flow:
    """The attempt's tuple."""
    return _flow(raw.netns, raw.family, raw.saddr, raw.sport, raw.daddr, raw.dport)


@lru_cache(_FLOWS)
def _flow(netns: int, family: int, saddr: bytes, sport: int, daddr: bytes, dport: int) -> Flow:
    v4 = daddr.startswith(V4_MAPPED)
    return Flow(
        netns=netns or None,
        family=4 if v4 else 6,
        source=Endpoint(_text(saddr, v4), sport or None),
        destination=_destination(daddr, v4, dport),
        mapped=v4 and family == AF_INET6,
    )


@lru_cache(_DESTINATIONS)
def _destination(address: bytes, v4: bool, port: int) -> Endpoint:
    return Endpoint(_text(address, v4), port)


def _text(address: bytes, v4: bool) -> str:
    return inet_ntop(_AF_INET, address[12:]) if v4 else inet_ntop(AF_INET6, address)


def owner_of(raw: RawAttempt) -> Owner:
    """The connecting process; all unknown where the attempt's beginning was not seen.

    cgroup id 1 is the root of the v2 hierarchy: what every process of a v1 host has, so it names
    nothing.
    """
    return _owner(raw.pid, raw.uid, raw.comm, raw.cgroup_id) if raw.seen_start else _NOBODY


_NOBODY: Final = Owner()


@lru_cache(_OWNERS)
def _owner(pid: int, uid: int, comm: bytes, cgroup_id: int) -> Owner:
    return Owner(
        pid=pid,
        uid=uid,
        comm=comm.split(b"\0", 1)[0].decode("utf-8", "replace"),
        cgroup_id=cgroup_id if cgroup_id > 1 else None,
    )


def transition_of(
    raw: RawAttempt,
    kind: TransitionKind,
    key: int,
    time_ns: int,
    *,
    new_state: TcpState | None = None,
    errno: int = 0,
    soft_errno: int = 0,
    no_syn_sent: bool = False,
) -> Transition:
    """A record in the model's terms: kernel zeros become None."""
    return Transition(
        kind=kind,
        key=key,
        time_ns=time_ns,
        flow=flow_of(raw),
        owner=owner_of(raw),
        started_ns=raw.start_ns or None,
        syns_sent=0 if no_syn_sent else raw.retransmissions + 1,
        last_syn_ns=(raw.last_timeout_ns or None) if raw.retransmissions else None,
        next_retry_ns=raw.next_retry_ns or None,
        backoff=raw.backoff,
        new_state=new_state,
        errno=errno,
        soft_errno=soft_errno,
        no_syn_sent=no_syn_sent,
        isn=raw.isn or None,
    )


def decode_events(records: list[bytes]) -> tuple[list[Transition], int]:
    """Transitions of a batch of ring records, and how many records made no sense.

    A record of another size, kind or state is counted, never guessed at.
    """
    whole = [record for record in records if len(record) == EVENT.size]
    undecodable = len(records) - len(whole)
    transitions: list[Transition] = []
    for values in EVENT.iter_unpack(b"".join(whole)):
        time_ns, key, error, soft_error, kind, new_state, no_syn_sent, _pad, *rest = values
        raw = RawAttempt._make(rest)
        if kind == _KIND_RETRANSMIT:
            transitions.append(transition_of(raw, TransitionKind.RETRANSMIT, key, time_ns))
            continue
        try:
            state = TcpState(new_state)
        except ValueError:
            state = None
        if kind != _KIND_END or state is None:
            undecodable += 1
            continue
        transitions.append(
            transition_of(
                raw,
                TransitionKind.END,
                key,
                time_ns,
                new_state=state,
                errno=error,
                soft_errno=soft_error,
                no_syn_sent=bool(no_syn_sent),
            )
        )
    return transitions, undecodable


def decode_attempts(values: bytes | memoryview) -> Iterator[RawAttempt]:
    """The values of a batch read of the kernel's hash."""
    return map(RawAttempt._make, ATTEMPT.iter_unpack(values))


def sum_counters(per_cpu: bytes | memoryview) -> dict[str, int]:
    """Totals over all CPUs by counter name."""
    totals = map(sum, zip(*COUNTERS_PER_CPU.iter_unpack(per_cpu), strict=True))
    return dict(zip(COUNTERS, totals, strict=True))
