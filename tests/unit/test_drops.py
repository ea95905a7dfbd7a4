"""What is read of dropped packets, without a kernel: names of reasons and places, the mirror."""

from __future__ import annotations

import re
import struct
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracer.errors import InputError, NoSource
from tracer.facts import Direction
from tracer.model import Endpoint, Flow
from tracer.sources import btf, drop_wire, drops, program
from tracer.sources.btf import Btf
from tracer.sources.drop_reasons import reason_name, reasons
from tracer.sources.kallsyms import addresses_shown, functions
from tracer.sources.program import source_folder

# As Linux 6.18 has them, but for the numbers in between.
ENUM = {
    "SKB_NOT_DROPPED_YET": 0,
    "SKB_CONSUMED": 1,
    "SKB_DROP_REASON_NOT_SPECIFIED": 2,
    "SKB_DROP_REASON_NO_SOCKET": 3,
    "SKB_DROP_REASON_NETFILTER_DROP": 12,
    "SKB_DROP_REASON_MAX": 128,
    "SKB_DROP_REASON_SUBSYS_MASK": 0xFFFF0000,
}
# In the file's order: by address, but for modules and what BPF's compiler adds.
KALLSYMS = """\
0000000000000000 A fixed_percpu_data
ffffffff81000000 T _stext
ffffffff81000000 T _text
ffffffff81000100 t ip_rcv_core
ffffffff81000200 T tcp_v4_rcv
ffffffff81000280 d some_data
ffffffff81000300 t ip_rcv_finish_core.constprop.0
ffffffff82000000 D data_too
ffffffffc0000000 t nft_do_chain\t[nf_tables]
ffffffffa0000000 t bpf_prog_1234_name\t[bpf]
"""
FLOW = Flow(1, 4, Endpoint("10.0.0.9", 40_112), Endpoint("198.51.100.7", 443))


@pytest.fixture
def symbols(tmp_path: Path) -> Path:
    file = tmp_path / "kallsyms"
    file.write_text(KALLSYMS)
    return file


# --- reasons -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "name"),
    [
        (0, None),
        (2, None),
        (3, "NO_SOCKET"),
        (12, "NETFILTER_DROP"),
        (77, "reason 77"),
        (128, "reason 128"),
        (2 << 16 | 5, "subsystem 2"),
        (0xFFFF0000, "subsystem 65535"),
    ],
)
def test_a_reason_has_the_name_that_this_kernel_gives_its_number(
    number: int, name: str | None
) -> None:
    assert reason_name(number, reasons(ENUM)) == name


def test_what_is_no_reason_is_not_among_them() -> None:
    assert reasons(ENUM) == {2: "NOT_SPECIFIED", 3: "NO_SOCKET", 12: "NETFILTER_DROP"}


def test_a_kernel_without_reasons_names_none() -> None:
    assert reasons({}) == {}
    assert reason_name(0, {}) is None


# --- places --------------------------------------------------------------------------------------


def test_an_address_lies_in_the_function_that_begins_before_it(symbols: Path) -> None:
    places = {
        0xFFFFFFFF81000100: "ip_rcv_core",
        0xFFFFFFFF810001FF: "ip_rcv_core",
        0xFFFFFFFF81000200: "tcp_v4_rcv",
        0xFFFFFFFF810002FF: "tcp_v4_rcv",
        0xFFFFFFFF81000344: "ip_rcv_finish_core",
        0xFFFFFFFFC0000123: "nft_do_chain",
        0xFFFFFFFFA0000010: "bpf_prog_1234_name",
    }
    assert functions(places, symbols) == places


def test_two_addresses_in_one_function_are_both_told(symbols: Path) -> None:
    one, other = 0xFFFFFFFF81000210, 0xFFFFFFFF81000290
    assert functions([one, other, one], symbols) == {one: "tcp_v4_rcv", other: "tcp_v4_rcv"}


def test_an_address_far_behind_every_function_lies_in_none(symbols: Path) -> None:
    """Of a module that is gone, for instance."""
    lost = 0xFFFFFFFFC0900000
    assert functions([lost, 0x1000], symbols) == {lost: None, 0x1000: None}


def test_addresses_that_are_kept_secret_name_nothing(tmp_path: Path) -> None:
    file = tmp_path / "kallsyms"
    file.write_text("0000000000000000 T tcp_v4_rcv\n0000000000000000 t ip_rcv_core\n")
    assert functions([0xFFFFFFFF81000210], file) == {0xFFFFFFFF81000210: None}
    assert not addresses_shown(file)


def test_addresses_that_are_not_kept_secret_are_known_to_be_shown(
    symbols: Path, tmp_path: Path
) -> None:
    assert addresses_shown(symbols)
    assert not addresses_shown(tmp_path / "missing")


@pytest.mark.parametrize(
    "text", ["", "\n", "nonsense\n", "g" * 16 + " T name\n", "f" * 16 + " T\n"]
)
def test_a_file_that_makes_no_sense_names_nothing(tmp_path: Path, text: str) -> None:
    file = tmp_path / "kallsyms"
    file.write_text(text)
    assert functions([2**64 - 1], file) == {2**64 - 1: None}


def test_a_kernel_without_the_file_names_nothing(tmp_path: Path) -> None:
    assert functions([1], tmp_path / "missing") == {1: None}


@given(st.lists(st.integers(0, 2**20), min_size=1), st.lists(st.integers(0, 2**20)))
def test_the_nearest_function_is_found_as_by_looking_at_each(
    tmp_path_factory: pytest.TempPathFactory, starts: list[int], wanted: list[int]
) -> None:
    file = tmp_path_factory.getbasetemp() / "kallsyms"
    file.write_text("".join(f"{start:016x} t f{start}\n" for start in starts))
    for address, name in functions(wanted, file).items():
        before = [start for start in starts if 0 < start <= address and address - start < 65_536]
        assert name == (f"f{max(before)}" if before else None)


# --- the mirror ----------------------------------------------------------------------------------

_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
_STRUCT = re.compile(r"^struct (\w+) \{(.*?)^\};", re.MULTILINE | re.DOTALL)
_MEMBER = re.compile(r"(\w+)(?:\[\w+\])?;")


def header() -> str:
    return _COMMENT.sub("", (source_folder() / "drops.h").read_text("utf-8"))


def test_the_mirror_has_every_struct_and_member_of_the_header_in_its_order() -> None:
    assert {name: _MEMBER.findall(body) for name, body in _STRUCT.findall(header())} == {
        name: [member for member, _ in members] for name, members in drop_wire._LAYOUTS.items()
    }


def test_the_compiler_compares_every_struct_and_member() -> None:
    sizes = re.findall(r"\nSAME_SIZE\((\w+)\);", header())
    offsets = re.findall(r"\nSAME_OFFSET\((\w+), (\w+)\);", header())
    asserted = {f"MIRROR_SIZE_{name}" for name in sizes}
    asserted |= {f"MIRROR_{name}_{member}" for name, member in offsets}
    assert asserted == drop_wire.mirror_macros().keys()


@pytest.mark.parametrize(
    ("names", "layout"),
    [
        (drop_wire.RawDropKey._fields, "drop_key"),
        (drop_wire.RawDrop._fields, "drop"),
        (drop_wire.RawHandedKey._fields, "handed_key"),
        (drop_wire.RawHanded._fields, "handed"),
        (drop_wire.Counters._fields, "drop_counters"),
    ],
)
def test_what_is_decoded_has_the_members_of_the_header(names: tuple[str, ...], layout: str) -> None:
    assert list(names) == [member for member, _ in drop_wire._LAYOUTS[layout]]


def test_directions_are_numbered_as_in_the_header() -> None:
    numbered = dict(re.findall(r"DIRECTION_(\w+) = (\d)", header()))
    assert {int(number): name for name, number in numbered.items()} == {
        number: direction.name for number, direction in drop_wire.DIRECTIONS.items()
    }
    assert set(drop_wire.DIRECTIONS.values()) == set(Direction)


@pytest.mark.parametrize("source", ["10.0.0.9", "fd77::9"])
def test_an_attempt_is_described_as_its_socket_has_it(source: str) -> None:
    address = ip_address(source)
    mapped = bytes(10) + b"\xff\xff" + address.packed if address.version == 4 else address.packed
    flow = replace(FLOW, source=Endpoint(source, 40_112))
    packed = drop_wire.pack_watched(flow, 7)
    assert packed[:16] == mapped
    assert struct.unpack("=HH", packed[32:36]) == (40_112, 443)
    assert packed[36:72] == bytes(36), "nothing is known of NAT yet"
    assert struct.unpack("=I", packed[72:]) == (7,)


def test_a_port_that_is_not_known_is_0() -> None:
    packed = drop_wire.pack_watched(replace(FLOW, source=Endpoint("10.0.0.9", None)), 1)
    assert struct.unpack("=HH", packed[32:36]) == (0, 443)


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        (bytes(16), None),
        (b"eth0".ljust(16, b"\0"), "eth0"),
        (b"x" * 15 + b"\0", "x" * 15),
        (b"a\xffb".ljust(16, b"\0"), "a\N{REPLACEMENT CHARACTER}b"),
    ],
)
def test_a_device_s_name_ends_at_its_first_zero(raw: bytes, name: str | None) -> None:
    assert drop_wire.device_name(raw) == name


def test_counters_are_summed_over_all_cpus() -> None:
    assert drop_wire.sum_counters(struct.pack("=4Q", 1, 2, 10, 20)) == (11, 22)


# --- what the kernel's types say -----------------------------------------------------------------


class Types(Btf):
    """A kernel's types, made up."""

    def __init__(
        self, *, parameters: int | None = 5, lacking: tuple[str, ...] = (), damaged: bool = False
    ) -> None:
        self._parameters = parameters
        self._lacking = lacking
        self._damaged = damaged

    def offset(self, path: str) -> int | None:
        if self._damaged:
            raise InputError("the types contradict one another")
        return None if path in self._lacking else 8

    def parameters(self, typedef: str) -> int | None:
        assert typedef == "btf_trace_kfree_skb"
        return self._parameters

    def enumerators(self, name: str) -> dict[str, int]:
        assert name == "skb_drop_reason"
        return ENUM if self._parameters and self._parameters >= 4 else {}


def kernel_of(
    types: Types, monkeypatch: pytest.MonkeyPatch, *, addresses: bool = True
) -> drops._Kernel:
    monkeypatch.setattr(drops, "_types", lambda: types)
    monkeypatch.setattr(drops, "addresses_shown", lambda: addresses)
    return drops._kernel.__wrapped__()


@pytest.mark.parametrize(
    ("parameters", "later"),
    [
        (None, set()),
        (3, set()),
        (4, {"KFREE_SKB_REASON"}),
        (5, {"KFREE_SKB_REASON", "KFREE_SKB_SOCKET"}),
        (6, {"KFREE_SKB_REASON", "KFREE_SKB_SOCKET"}),
    ],
)
def test_the_tracepoint_s_parameters_say_whether_there_are_reasons(
    parameters: int | None, later: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = kernel_of(Types(parameters=parameters), monkeypatch)
    assert {name for name in kernel.macros if name.startswith("KFREE_SKB")} == later
    assert any("drop reasons" in sentence for sentence in kernel.lacking) == (not later)
    assert bool(kernel.reasons) == bool(later)


def test_a_kernel_that_has_everything_lacks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = kernel_of(Types(), monkeypatch)
    assert kernel.lacking == ()
    assert {*program.DROPS_REQUIRED_MEMBERS, *program.DROPS_OPTIONAL_MEMBERS} <= set(kernel.macros)
    assert "CONNTRACK" in kernel.macros


def test_secret_addresses_are_said_to_be_lacking(monkeypatch: pytest.MonkeyPatch) -> None:
    (sentence,) = kernel_of(Types(), monkeypatch, addresses=False).lacking
    assert "CAP_SYSLOG" in sentence


@pytest.mark.parametrize("path", sorted(program.DROPS_OPTIONAL_MEMBERS.values()))
def test_connection_tracking_is_known_whole_or_not_at_all(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = kernel_of(Types(lacking=(path,)), monkeypatch)
    assert not {"CONNTRACK", *program.DROPS_OPTIONAL_MEMBERS} & set(kernel.macros)
    assert any("NAT" in sentence for sentence in kernel.lacking)


@pytest.mark.parametrize("path", sorted(program.DROPS_REQUIRED_MEMBERS.values()))
def test_a_kernel_without_a_member_that_is_needed_is_refused_by_the_member_s_name(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(NoSource, match=re.escape(f"no member {path}")) as caught:
        kernel_of(Types(lacking=(path,)), monkeypatch)
    assert "--no-evidence" in caught.value.hint


def test_damaged_types_are_told_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NoSource, match="contradict") as caught:
        kernel_of(Types(damaged=True), monkeypatch)
    assert "--no-evidence" in caught.value.hint


def test_a_module_s_damaged_types_do_not_spoil_the_kernel_s(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = Types()

    def kernel(module: str | None = None) -> Btf:
        if module is not None:
            raise InputError("it is cut short")
        return whole

    monkeypatch.setattr(btf, "kernel", kernel)
    assert drops._types() is whole
