"""Member offsets from BTF: files built here, and damaged ones."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tracer.errors import InputError
from tracer.sources import btf
from tracer.sources.btf import Btf

MAGIC = 0xEB9F
# Kinds of Documentation/bpf/btf.rst.
INT, POINTER, ARRAY, STRUCT, UNION, ENUM, FORWARD = 1, 2, 3, 4, 5, 6, 7
TYPEDEF, VOLATILE, CONST, RESTRICT, FUNC, FUNC_PROTO = 8, 9, 10, 11, 12, 13
VAR, DATASEC, FLOAT, DECL_TAG, TYPE_TAG, ENUM64 = 14, 15, 16, 17, 18, 19

# By signal: it fails the test, where the other method ends the whole run.
ENDS_IN_TIME = pytest.mark.timeout(20, method="signal")

Member = tuple[str, int, int]
"""Name ("" for an anonymous one), type id, offset in bits."""


class Builder:
    """Writes a BTF file, type by type; each method returns the new type's id."""

    def __init__(self) -> None:
        self._strings = bytearray(b"\0")
        self._words: list[int] = []
        self._count = 0

    def add(self, kind: int, name: str, size_or_type: int, *extra: int, info: int = 0) -> int:
        """Any type; `info` is the word with the kind, but for the kind itself."""
        self._words += [self.name(name), kind << 24 | info, size_or_type, *extra]
        self._count += 1
        return self._count

    def name(self, text: str) -> int:
        if not text:
            return 0
        offset = len(self._strings)
        self._strings += text.encode() + b"\0"
        return offset

    def integer(self) -> int:
        return self.add(INT, "int", 4, 32)

    def struct(self, name: str, *members: Member, kind: int = STRUCT, flag: bool = False) -> int:
        words = [
            word for member, type_id, bits in members for word in (self.name(member), type_id, bits)
        ]
        return self.add(kind, name, 64, *words, info=flag << 31 | len(members))

    def data(self, magic: int = MAGIC) -> bytes:
        types = struct.pack(f"={len(self._words)}I", *self._words)
        header = struct.pack(
            *("=HBBIIIII", magic, 1, 0, 24),
            *(0, len(types)),
            *(len(types), len(self._strings)),
        )
        return header + types + self._strings

    def offset(self, path: str) -> int | None:
        return Btf(self.data()).offset(path)


def bit_field(bits: int, width: int) -> int:
    """A member's offset word in a struct with the kind flag."""
    return width << 24 | bits


def small_file() -> bytes:
    built = Builder()
    number = built.integer()
    inner = built.struct("", ("port", number, 32))
    built.struct("sock", ("state", number, 0), ("", inner, 64))
    return built.data()


# --- what is found -------------------------------------------------------------------------------


def test_a_member_lies_where_its_bits_say() -> None:
    built = Builder()
    number = built.integer()
    built.struct("sock", ("first", number, 0), ("second", number, 32), ("far", number, 65536 * 8))
    assert [built.offset(f"sock.{name}") for name in ("first", "second", "far")] == [0, 4, 65536]


def test_a_path_adds_the_offsets_of_nested_structs() -> None:
    built = Builder()
    number = built.integer()
    inum = built.struct("ns_common", ("ops", number, 0), ("inum", number, 16 * 8))
    built.struct("net", ("count", number, 0), ("ns", inum, 100 * 8))
    assert built.offset("net.ns.inum") == 116
    assert built.offset("net.ns") == 100
    assert built.offset("net") == 0


def test_members_of_anonymous_structs_and_unions_are_members_of_what_holds_them() -> None:
    built = Builder()
    number = built.integer()
    ports = built.struct("", ("dport", number, 0), ("num", number, 16))
    pair = built.struct("", ("portpair", number, 0), ("", ports, 0), kind=UNION)
    built.struct("sock_common", ("addrpair", number, 0), ("", pair, 96), ("family", number, 128))
    assert built.offset("sock_common.num") == 14
    assert built.offset("sock_common.portpair") == 12
    assert built.offset("sock_common.family") == 16


def test_a_struct_is_defined_by_its_own_type_wherever_it_stands_in_the_file() -> None:
    built = Builder()
    built.struct("sock", ("common", 3, 64))
    built.integer()
    built.struct("sock_common", ("state", 2, 32))
    assert built.offset("sock.common.state") == 12


@pytest.mark.parametrize("kind", [TYPEDEF, VOLATILE, CONST, RESTRICT, TYPE_TAG])
def test_a_member_is_found_behind_every_name_and_qualifier(kind: int) -> None:
    built = Builder()
    number = built.integer()
    real = built.struct("real", ("member", number, 24 * 8))
    behind = built.add(kind, "alias_t" if kind == TYPEDEF else "", real)
    built.struct("sock", ("real", behind, 8 * 8))
    assert built.offset("sock.real.member") == 32


def test_a_chain_of_names_and_qualifiers_is_followed_to_its_end() -> None:
    built = Builder()
    number = built.integer()
    real = built.struct("", ("net", number, 0))
    const = built.add(CONST, "", real)
    volatile = built.add(VOLATILE, "", const)
    named = built.add(TYPEDEF, "possible_net_t", volatile)
    built.struct("sock_common", ("skc_net", named, 48 * 8), ("", named, 56 * 8))
    assert built.offset("sock_common.skc_net.net") == 48
    assert built.offset("sock_common.net") == 56


def test_a_path_does_not_lead_through_a_pointer() -> None:
    built = Builder()
    number = built.integer()
    target = built.struct("net", ("inum", number, 0))
    pointer = built.add(POINTER, "", target)
    built.struct("sock", ("net", pointer, 8))
    assert built.offset("sock.net") == 1
    assert built.offset("sock.net.inum") is None
    assert built.offset("sock.net.inum.more") is None


@pytest.mark.parametrize(
    "path",
    ["request_sock", "request_sock.state", "sock.missing", "sock.state.deeper", "sock.", "soc", ""],
)
def test_what_the_kernel_does_not_have_is_unknown(path: str) -> None:
    built = Builder()
    number = built.integer()
    built.struct("sock", ("state", number, 0))
    assert built.offset(path) is None


def test_only_a_struct_answers_to_a_struct_s_name() -> None:
    built = Builder()
    number = built.integer()
    built.struct("either", ("member", number, 0), kind=UNION)
    built.add(TYPEDEF, "alias_t", number)
    built.struct("sock", ("member_name", number, 0))
    assert built.offset("either.member") is None
    assert built.offset("alias_t") is None
    assert built.offset("member_name") is None


def test_elements_after_every_kind_of_type_are_stepped_over() -> None:
    built = Builder()
    number = built.integer()
    built.add(POINTER, "", number)
    built.add(ARRAY, "", 0, number, number, 16)
    built.add(ENUM, "colour", 4, *([built.name("RED"), 0] * 3), info=3)
    built.add(FORWARD, "later", 0)
    prototype = built.add(FUNC_PROTO, "", number, *([built.name("argument"), number] * 2), info=2)
    built.add(FUNC, "main", prototype)
    variable = built.add(VAR, "jiffies", number, 1)
    built.add(DATASEC, ".data", 8, *([variable, 0, 8] * 2), info=2)
    built.add(FLOAT, "double", 8)
    built.add(DECL_TAG, "tag", variable, 0xFFFFFFFF)
    built.add(TYPE_TAG, "rcu", number)
    built.add(ENUM64, "wide", 8, *([built.name("BIG"), 0, 1] * 2), info=2)
    built.add(UNION, "", 8, *([built.name("part"), number, 0] * 2), info=2)
    built.struct("sock", ("state", number, 72))
    assert built.offset("sock.state") == 9


# --- bit fields ----------------------------------------------------------------------------------


def test_a_struct_with_bit_fields_still_tells_where_its_other_members_are() -> None:
    built = Builder()
    number = built.integer()
    built.struct(
        "sock",
        ("plain", number, bit_field(0, 0)),
        ("flags", number, bit_field(33, 3)),
        ("behind", number, bit_field(64, 0)),
        flag=True,
    )
    assert built.offset("sock.plain") == 0
    assert built.offset("sock.behind") == 8


@pytest.mark.parametrize("bits", [33, 32], ids=["within a byte", "at a byte's start"])
def test_a_bit_field_has_no_offset(bits: int) -> None:
    built = Builder()
    number = built.integer()
    built.struct(
        "sock",
        ("plain", number, bit_field(0, 0)),
        ("flags", number, bit_field(bits, 3)),
        flag=True,
    )
    assert built.offset("sock.plain") == 0
    assert built.offset("sock.flags") is None


# --- damage --------------------------------------------------------------------------------------


@pytest.mark.parametrize("magic", [0x9FEB, 0, 0x464C], ids=["other byte order", "zero", "ELF"])
def test_a_file_with_another_magic_number_is_refused(magic: int) -> None:
    with pytest.raises(InputError, match=f"{magic:#06x}"):
        Btf(Builder().data(magic))


def test_a_file_cut_short_anywhere_is_refused() -> None:
    whole = small_file()
    assert Btf(whole).offset("sock.port") == 12
    accepted = []
    for size in range(len(whole)):
        try:
            Btf(whole[:size])
        except InputError:
            continue
        accepted.append(size)
    assert accepted == []


def test_an_unknown_kind_is_refused_by_its_number() -> None:
    built = Builder()
    built.integer()
    built.add(20, "from_the_future", 0)
    with pytest.raises(InputError, match=r"type 2 .* kind 20"):
        Btf(built.data())


@ENDS_IN_TIME
def test_a_type_that_stands_for_itself_is_refused() -> None:
    built = Builder()
    built.struct("sock", ("loop", 2, 0))
    built.add(TYPEDEF, "loop_t", 2)
    with pytest.raises(InputError):
        built.offset("sock.loop.member")


@ENDS_IN_TIME
def test_an_anonymous_struct_that_contains_itself_is_refused() -> None:
    built = Builder()
    built.struct("sock", ("", 2, 0))
    built.struct("", ("", 2, 0))
    with pytest.raises(InputError):
        built.offset("sock.member")


@pytest.mark.parametrize("type_id", [99, 0xFFFFFFFF])
def test_a_member_of_a_type_that_is_not_there_is_refused(type_id: int) -> None:
    built = Builder()
    built.struct("sock", ("inner", type_id, 0))
    with pytest.raises(InputError):
        built.offset("sock.inner.member")


def test_a_member_whose_name_lies_outside_the_strings_is_refused() -> None:
    built = Builder()
    built.add(STRUCT, "sock", 8, 5_000, 0, 0, info=1)
    with pytest.raises(InputError):
        built.offset("sock.member")


def look_up(data: bytes, paths: Sequence[str] = ("sock", "sock.port", "sock.port.deeper")) -> None:
    """Looks members up; anything but an answer or InputError is the test's failure."""
    try:
        read = Btf(data)
        for path in paths:
            read.offset(path)
            read.parameters(path)
            read.enumerators(path)
    except InputError:
        pass


@ENDS_IN_TIME
@given(st.binary(max_size=200))
def test_arbitrary_bytes_give_an_answer_or_an_input_error(data: bytes) -> None:
    look_up(data)


@ENDS_IN_TIME
@given(st.binary(max_size=200))
@example(b"\1\2\3")
def test_arbitrary_bytes_behind_a_true_header_give_an_answer_or_an_input_error(data: bytes) -> None:
    strings = b"\0sock\0port\0"
    header = struct.pack("=HBBIIIII", MAGIC, 1, 0, 24, 0, len(data), len(data), len(strings))
    look_up(header + data + strings)


@ENDS_IN_TIME
@given(st.lists(st.tuples(st.integers(0, len(small_file()) - 1), st.integers(0, 255)), max_size=4))
def test_altered_bytes_give_an_answer_or_an_input_error(changes: list[tuple[int, int]]) -> None:
    data = bytearray(small_file())
    for position, value in changes:
        data[position] = value
    look_up(bytes(data))


# --- functions, enums, modules -------------------------------------------------------------------


def test_the_parameters_of_a_function_s_pointer_are_counted() -> None:
    built = Builder()
    number = built.integer()
    function = built.add(FUNC_PROTO, "", 0, 0, number, 0, number, 0, number, info=3)
    pointer = built.add(POINTER, "", function)
    built.add(TYPEDEF, "btf_trace_one", pointer)
    built.add(TYPEDEF, "number_t", number)
    built.add(TYPEDEF, "pointer_t", built.add(POINTER, "", number))
    read = Btf(built.data())
    assert read.parameters("btf_trace_one") == 3
    assert read.parameters("number_t") is None
    assert read.parameters("pointer_t") is None
    assert read.parameters("missing") is None


def test_an_enum_tells_its_names_and_numbers() -> None:
    built = Builder()
    values = (built.name("FIRST"), 0, built.name("MASK"), 0xFFFF0000)
    built.add(ENUM, "reason", 4, *values, info=2)
    read = Btf(built.data())
    assert read.enumerators("reason") == {"FIRST": 0, "MASK": 0xFFFF0000}
    assert read.enumerators("missing") == {}


def test_a_module_s_types_go_on_where_the_kernel_s_end() -> None:
    built = Builder()
    number = built.integer()
    built.struct("base", ("member", number, 64))
    kernel = built.data()
    before = struct.unpack_from("=HBBIIIII", kernel)
    types, strings = before[5], before[7]
    built.struct("own", ("of_base", number + 1, 128), ("member", number, 8 * 40))
    both = built.data()
    _, _, _, _, _, all_types, _, all_strings = struct.unpack_from("=HBBIIIII", both)
    own_types = both[24 + types : 24 + all_types]
    own_strings = both[24 + all_types + strings :]
    sizes = 0, len(own_types), len(own_types), all_strings - strings
    module = struct.pack("=HBBIIIII", MAGIC, 1, 0, 24, *sizes) + own_types + own_strings

    assert Btf(kernel).offset("own.of_base.member") is None
    assert Btf(kernel, module).offset("own.of_base.member") == 16 + 8
    assert Btf(kernel, module).offset("own.member") == 40
    with pytest.raises(InputError):
        Btf(kernel, module[:-1])


def test_a_module_without_types_of_its_own_is_part_of_the_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(btf, "KERNEL", tmp_path)
    monkeypatch.setattr(btf, "VMLINUX", tmp_path / "vmlinux")
    (tmp_path / "vmlinux").write_bytes(small_file())
    assert btf.kernel("nf_conntrack").offset("sock.port") == 12
    (tmp_path / "nf_conntrack").touch()
    with pytest.raises(InputError, match="cut short"):
        btf.kernel("nf_conntrack")


# --- the whole file ------------------------------------------------------------------------------


def test_offsets_leaves_out_what_the_kernel_lacks(tmp_path: Path) -> None:
    file = tmp_path / "vmlinux"
    file.write_bytes(small_file())
    found = btf.offsets(["sock.port", "sock.missing", "net.ns.inum", "sock.state"], file)
    assert found == {"sock.port": 12, "sock.state": 0}


def test_a_kernel_without_type_information_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        btf.offsets(["sock.port"], tmp_path / "vmlinux")


def test_an_empty_file_is_said_to_be_cut_short(tmp_path: Path) -> None:
    empty = tmp_path / "vmlinux"
    empty.touch()
    with pytest.raises(InputError, match="cut short"):
        btf.offsets(["sock.port"], empty)
