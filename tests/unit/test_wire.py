"""Kernel records to transitions, packed here as bpf/event.h lays them out."""

from __future__ import annotations

import ctypes
import errno
import re
import struct
from ipaddress import IPv6Address, ip_address
from socket import AF_INET, AF_INET6

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracer.model import Endpoint, Flow, Owner, TcpState, Transition, TransitionKind
from tracer.sources import wire
from tracer.sources.program import source_folder

STRUCTS = ("attempt", "event", "counters")
RETRANSMIT, END = 1, 2
SECOND = 1_000_000_000
STARTED, LAST_SYN, NOW, NEXT_RETRY = 5 * SECOND, 6 * SECOND, 6 * SECOND + 9, 7 * SECOND
KEY = 0xFFFF_8881_0203_0400
NETNS, CGROUP, PID, UID = 4026532321, 8_123, 4_711, 1_000

_COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)
_STRUCT = re.compile(r"^struct (?P<name>\w+) \{(?P<body>.*?)^\};", re.MULTILINE | re.DOTALL)
_MEMBER = re.compile(r"(?P<type>(?:struct )?\w+) (?P<name>\w+)(?:\[(?P<length>\w+)\])?;")
_ASSERTION = re.compile(r"^SAME_(SIZE|OFFSET)\((\w+)(?:, (\w+))?\);$", re.MULTILINE)
_C_TYPES: dict[str, type[ctypes._CDataType]] = {
    "u64": ctypes.c_uint64,
    "u32": ctypes.c_uint32,
    "s32": ctypes.c_int32,
    "u16": ctypes.c_uint16,
    "u8": ctypes.c_uint8,
    "char": ctypes.c_char,
}
_LENGTHS = {"16": 16, "5": 5, "7": 7, "COMM_LEN": 16}


def members_of(name: str) -> list[tuple[str, str, str | None]]:
    """Type, name and array length of each member of a struct in event.h."""
    text = _COMMENT.sub("", (source_folder() / "event.h").read_text("utf-8"))
    (body,) = (found["body"] for found in _STRUCT.finditer(text) if found["name"] == name)
    members = [(found["type"], found["name"], found["length"]) for found in _MEMBER.finditer(body)]
    assert len(members) == body.count(";"), f"a member of struct {name} was not understood"
    return members


def c_struct(name: str) -> type[ctypes.Structure]:
    """A struct of event.h, laid out as this machine's C compiler does."""
    fields: list[tuple[str, type[ctypes._CDataType]]] = []
    for kind, member, length in members_of(name):
        nested = kind.removeprefix("struct ")
        element: type[ctypes._CDataType] = c_struct(nested) if nested != kind else _C_TYPES[kind]
        fields.append((member, element * _LENGTHS[length] if length else element))
    return type(name, (ctypes.Structure,), {"_fields_": fields})


def record(
    kind: int = END,
    *,
    source: str = "::ffff:10.0.0.9",
    destination: str = "::ffff:198.51.100.7",
    new_state: int = TcpState.CLOSE.value,
    error: int = 0,
    soft_error: int = 0,
    no_syn_sent: int = 0,
    **attempt: int | bytes,
) -> bytes:
    """A ring record of an attempt about which everything is known, but for `attempt`'s members."""
    event = c_struct("event")()
    event.time_ns, event.sk = NOW, KEY
    event.kind, event.new_state, event.no_syn_sent = kind, new_state, no_syn_sent
    event.error, event.soft_error = error, soft_error
    members: dict[str, int | bytes] = {
        "start_ns": STARTED,
        "last_timeout_ns": LAST_SYN,
        "next_retry_ns": NEXT_RETRY,
        "cgroup_id": CGROUP,
        "netns": NETNS,
        "pid": PID,
        "uid": UID,
        "timeouts": 1,
        "retransmissions": 1,
        "family": AF_INET,
        "sport": 40_112,
        "dport": 443,
        "seen_start": 1,
        "backoff": 2,
        "comm": b"curl",
        **attempt,
    }
    for name, value in members.items():
        setattr(event.attempt, name, value)
    event.attempt.saddr[:] = IPv6Address(source).packed
    event.attempt.daddr[:] = IPv6Address(destination).packed
    return bytes(event)


def decoded(packed: bytes) -> Transition:
    """The one transition of a record that makes sense."""
    transitions, undecodable = wire.decode_events([packed])
    assert (len(transitions), undecodable) == (1, 0)
    return transitions[0]


# --- the mirror ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STRUCTS)
def test_the_mirror_has_every_member_of_the_header_in_its_order(name: str) -> None:
    mirrored = {
        "attempt": [member for member, _ in wire._ATTEMPT],
        "event": [*(member for member, _ in wire._EVENT_HEAD), "attempt"],
        "counters": list(wire.COUNTERS),
    }
    assert mirrored[name] == [member for _, member, _ in members_of(name)]


def test_the_decoded_tuple_has_every_member_of_the_header_in_its_order() -> None:
    assert list(wire.RawAttempt._fields) == [member for _, member, _ in members_of("attempt")]


@pytest.mark.parametrize(
    ("name", "mirrored"), [("attempt", wire._ATTEMPT), ("event", wire._EVENT_HEAD)]
)
def test_the_mirror_has_the_types_of_the_header(
    name: str, mirrored: tuple[tuple[str, str], ...]
) -> None:
    """The compiler compares offsets, and sees no difference between signed and unsigned."""
    codes = {"u64": "Q", "u32": "I", "s32": "i", "u16": "H", "u8": "B"}
    expected = [
        (member, f"{_LENGTHS[length]}s" if length else codes[kind])
        for kind, member, length in members_of(name)
        if not kind.startswith("struct ")
    ]
    assert list(mirrored) == expected


@pytest.mark.parametrize("name", STRUCTS)
def test_the_mirror_has_the_sizes_and_offsets_of_c(name: str) -> None:
    layout = c_struct(name)
    expected = {f"MIRROR_SIZE_{name}": ctypes.sizeof(layout)}
    for _, member, _ in members_of(name):
        expected[f"MIRROR_{name}_{member}"] = getattr(layout, member).offset
    macros = wire.mirror_macros()
    assert {macro: macros.get(macro) for macro in expected} == expected


def test_every_macro_of_the_mirror_is_asserted_once_in_the_program() -> None:
    text = _COMMENT.sub("", (source_folder() / "mirror.h").read_text("utf-8"))
    asserted = [
        f"MIRROR_SIZE_{name}" if what == "SIZE" else f"MIRROR_{name}_{member}"
        for what, name, member in _ASSERTION.findall(text)
    ]
    assert sorted(asserted) == sorted(wire.mirror_macros())


def test_a_record_needs_no_padding_of_its_own() -> None:
    """Bytes between members would be sent from the kernel's stack uninitialised."""
    for name in STRUCTS:
        layout = c_struct(name)
        used = sum(getattr(layout, member).size for _, member, _ in members_of(name))
        assert used == ctypes.sizeof(layout), name


# --- what a record says --------------------------------------------------------------------------


def test_a_retransmission_comes_through_member_for_member() -> None:
    assert decoded(record(RETRANSMIT, new_state=0, retransmissions=3)) == Transition(
        kind=TransitionKind.RETRANSMIT,
        key=KEY,
        time_ns=NOW,
        flow=Flow(NETNS, 4, Endpoint("10.0.0.9", 40_112), Endpoint("198.51.100.7", 443)),
        owner=Owner(pid=PID, uid=UID, comm="curl", cgroup_id=CGROUP),
        started_ns=STARTED,
        syns_sent=4,
        last_syn_ns=LAST_SYN,
        next_retry_ns=NEXT_RETRY,
        backoff=2,
    )


def test_an_end_comes_through_member_for_member() -> None:
    packed = record(
        source="fd77:1::2",
        destination="2001:db8::7",
        family=AF_INET6,
        error=errno.ECONNREFUSED,
        soft_error=errno.EHOSTUNREACH,
    )
    assert decoded(packed) == Transition(
        kind=TransitionKind.END,
        key=KEY,
        time_ns=NOW,
        flow=Flow(NETNS, 6, Endpoint("fd77:1::2", 40_112), Endpoint("2001:db8::7", 443)),
        owner=Owner(pid=PID, uid=UID, comm="curl", cgroup_id=CGROUP),
        started_ns=STARTED,
        syns_sent=2,
        last_syn_ns=LAST_SYN,
        next_retry_ns=NEXT_RETRY,
        backoff=2,
        new_state=TcpState.CLOSE,
        errno=errno.ECONNREFUSED,
        soft_errno=errno.EHOSTUNREACH,
    )


@pytest.mark.parametrize(
    ("family", "source", "destination", "version", "mapped"),
    [
        (AF_INET, "::ffff:10.0.0.9", "::ffff:192.0.2.1", 4, False),
        (AF_INET6, "::ffff:10.0.0.9", "::ffff:192.0.2.1", 4, True),
        (AF_INET6, "fe80::1", "fe80::2", 6, False),
        (AF_INET6, "::", "::1", 6, False),
        (AF_INET6, "::", "64:ff9b::c000:201", 6, False),
    ],
)
def test_addresses_are_those_on_the_wire(
    *, family: int, source: str, destination: str, version: int, mapped: bool
) -> None:
    flow = decoded(record(family=family, source=source, destination=destination)).flow
    shown = [address.removeprefix("::ffff:") for address in (source, destination)]
    assert (flow.family, flow.mapped) == (version, mapped)
    assert [flow.source.address, flow.destination.address] == shown


def test_ports_are_taken_as_they_are() -> None:
    flow = decoded(record(sport=0x0102, dport=0xFFFE)).flow
    assert (flow.source.port, flow.destination.port) == (0x0102, 0xFFFE)


def test_zeros_that_mean_unknown_become_none() -> None:
    transition = decoded(
        record(start_ns=0, last_timeout_ns=0, next_retry_ns=0, netns=0, sport=0, cgroup_id=0)
    )
    assert transition.started_ns is None
    assert transition.last_syn_ns is None
    assert transition.next_retry_ns is None
    assert transition.flow.netns is None
    assert transition.flow.source.port is None
    assert transition.owner.cgroup_id is None


def test_root_is_a_user_and_not_an_unknown_one() -> None:
    assert decoded(record(uid=0)).owner.uid == 0


def test_nothing_is_said_of_the_owner_of_an_attempt_whose_start_was_not_seen() -> None:
    assert decoded(record(seen_start=0)).owner == Owner()


@pytest.mark.parametrize(("number", "told"), [(0, None), (1, None), (2, 2), (2**64 - 1, 2**64 - 1)])
def test_the_root_cgroup_names_nothing(number: int, told: int | None) -> None:
    assert decoded(record(cgroup_id=number)).owner.cgroup_id == told


@pytest.mark.parametrize(
    ("comm", "told"),
    [
        (b"", ""),
        (b"sixteen-letters!", "sixteen-letters!"),
        (b"curl\0left-over", "curl"),
        (b"na\xc3\xafve", "na\u00efve"),
        (b"\xff\xfe-\xc3", "\ufffd\ufffd-\ufffd"),
        (b"two\nlines \x1b[31m", "two\nlines \x1b[31m"),
    ],
)
def test_a_name_ends_at_its_nul_and_is_text_whatever_its_bytes(comm: bytes, told: str) -> None:
    packed = bytearray(record())
    where = packed.index(b"curl")
    packed[where : where + 16] = comm.ljust(16, b"\0")
    assert decoded(bytes(packed)).owner.comm == told


def test_every_retransmission_is_one_syn_more_than_the_first() -> None:
    assert [decoded(record(retransmissions=sent)).syns_sent for sent in (0, 1, 6)] == [1, 2, 7]


def test_a_timer_that_ran_out_without_a_syn_is_no_retransmission() -> None:
    """Towards a neighbour that does not answer, the first SYN still waits in the queue."""
    transition = decoded(record(RETRANSMIT, timeouts=2, retransmissions=0))
    assert (transition.syns_sent, transition.last_syn_ns) == (1, None)
    assert transition.next_retry_ns == NEXT_RETRY


@pytest.mark.parametrize("doublings", [0, 1, 255])
def test_every_doubling_of_the_interval_is_told(doublings: int) -> None:
    """None is for a source that does not know: the kernel always does."""
    assert decoded(record(RETRANSMIT, backoff=doublings)).backoff == doublings
    assert decoded(record(END, backoff=doublings)).backoff == doublings


def test_the_timers_last_expiry_is_that_of_a_syn_only_if_one_was_sent_again() -> None:
    assert decoded(record(timeouts=3, retransmissions=3)).last_syn_ns == LAST_SYN
    assert decoded(record(timeouts=3, retransmissions=0)).last_syn_ns is None


def test_the_syn_s_number_is_told_where_it_is_known() -> None:
    assert decoded(record(isn=0xFFFF_FFFF)).isn == 0xFFFF_FFFF
    assert decoded(record(isn=0)).isn is None


def test_an_attempt_that_sent_no_syn_says_so() -> None:
    transition = decoded(record(no_syn_sent=1, retransmissions=0))
    assert (transition.no_syn_sent, transition.syns_sent) == (True, 0)
    assert not decoded(record(no_syn_sent=0)).no_syn_sent


@pytest.mark.parametrize("state", TcpState)
def test_an_end_tells_the_state_that_was_entered(state: TcpState) -> None:
    assert decoded(record(new_state=state.value)).new_state is state


# --- what makes no sense -------------------------------------------------------------------------


@pytest.mark.parametrize("change", [-1, 1, 8, -len(record())])
def test_a_record_of_another_size_is_counted_as_undecodable(change: int) -> None:
    whole = record()
    other = (whole + bytes(8))[: len(whole) + change]
    assert wire.decode_events([other]) == ([], 1)


@pytest.mark.parametrize("kind", [0, 3, 255])
def test_a_record_of_another_kind_is_counted_as_undecodable(kind: int) -> None:
    assert wire.decode_events([record(kind)]) == ([], 1)


@pytest.mark.parametrize("state", [0, 13, 255])
def test_an_end_in_another_state_is_counted_as_undecodable(state: int) -> None:
    assert wire.decode_events([record(new_state=state)]) == ([], 1)


def test_records_that_make_sense_keep_their_order_among_those_that_do_not() -> None:
    transitions, undecodable = wire.decode_events(
        [b"", record(dport=1), record(9), record(RETRANSMIT, dport=2), b"short", record(dport=3)]
    )
    assert [transition.flow.destination.port for transition in transitions] == [1, 2, 3]
    assert undecodable == 3


def test_no_records_are_no_transitions() -> None:
    assert wire.decode_events([]) == ([], 0)


@given(
    st.lists(
        st.one_of(
            st.binary(max_size=200),
            st.binary(min_size=wire.EVENT.size, max_size=wire.EVENT.size),
        )
    )
)
def test_every_record_is_a_transition_or_counted(records: list[bytes]) -> None:
    transitions, undecodable = wire.decode_events(records)
    assert len(transitions) + undecodable == len(records)


# --- the tables ----------------------------------------------------------------------------------


def test_values_of_the_hash_come_through_in_their_order() -> None:
    head = wire.EVENT.size - wire.ATTEMPT.size
    values = b"".join(record(dport=port, reported_error=-port)[head:] for port in (1, 2, 3))
    attempts = list(wire.decode_attempts(memoryview(values)))
    assert [(raw.dport, raw.reported_error) for raw in attempts] == [(1, -1), (2, -2), (3, -3)]
    assert attempts[0].start_ns == STARTED
    assert [raw.timeouts for raw in attempts] == [1, 1, 1]
    assert ip_address(attempts[0].daddr) == ip_address("::ffff:198.51.100.7")


@pytest.mark.parametrize("retransmitted", [0, 1])
def test_an_attempt_of_the_hash_tells_timeouts_retransmissions_and_whether_it_was_counted(
    retransmitted: int,
) -> None:
    head = wire.EVENT.size - wire.ATTEMPT.size
    packed = record(timeouts=3, retransmissions=2, backoff=1, retransmitted=retransmitted)
    (raw,) = wire.decode_attempts(packed[head:])
    assert (raw.timeouts, raw.retransmissions, raw.backoff) == (3, 2, 1)
    assert raw.retransmitted == retransmitted


def test_an_attempt_of_the_hash_becomes_a_transition_of_the_kind_asked_for() -> None:
    head = wire.EVENT.size - wire.ATTEMPT.size
    (raw,) = wire.decode_attempts(record(retransmissions=0)[head:])
    transition = wire.transition_of(raw, TransitionKind.OVERDUE, KEY, NOW)
    assert (transition.kind, transition.key, transition.time_ns) == (
        TransitionKind.OVERDUE,
        KEY,
        NOW,
    )
    assert (transition.syns_sent, transition.new_state, transition.errno) == (1, None, 0)


def test_counters_are_summed_over_cpus() -> None:
    width = len(wire.COUNTERS)
    cpus = [range(1, width + 1), [10 * number for number in range(1, width + 1)], [0] * width]
    per_cpu = b"".join(struct.pack(f"={width}Q", *values) for values in cpus)
    totals = wire.sum_counters(per_cpu)
    assert list(totals) == [member for _, member, _ in members_of("counters")]
    assert list(totals.values()) == [11 * number for number in range(1, width + 1)]


def test_counters_do_not_wrap_at_32_bits() -> None:
    per_cpu = struct.pack(f"={len(wire.COUNTERS)}Q", 2**40, *[0] * (len(wire.COUNTERS) - 1)) * 2
    assert wire.sum_counters(per_cpu)["started"] == 2**41


def test_every_counter_that_the_feed_and_the_session_reckon_with_is_there() -> None:
    reckoned = {"added", "removed", "retransmitted", "retransmitted_removed", "unseen_ends"}
    assert reckoned <= set(wire.COUNTERS)
