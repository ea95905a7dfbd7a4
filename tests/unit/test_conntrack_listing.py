"""Lines of /proc/net/nf_conntrack: those of a Linux 6.18, where connects are stuck."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import pytest

from tracer.host import conntrack
from tracer.host.conntrack import entries_about

STUCK = (
    "ipv4     2 tcp      6 119 SYN_SENT src=10.77.0.2 dst=10.77.0.9 sport=36986 dport=443 "
    "[UNREPLIED] src=10.77.0.9 dst=10.77.0.2 sport=443 dport=36986 mark=0 zone=0 use=2"
)
TRANSLATED = (
    "ipv4     2 tcp      6 119 SYN_SENT src=10.77.0.2 dst=10.96.0.10 sport=45642 dport=443 "
    "[UNREPLIED] src=10.77.0.9 dst=10.77.0.2 sport=443 dport=45642 mark=0 zone=0 use=2"
)
STUCK6 = (
    "ipv6     10 tcp      6 119 SYN_SENT src=fd00:0077:0000:0000:0000:0000:0000:0002 "
    "dst=fd00:0077:0000:0000:0000:0000:0000:0009 sport=40550 dport=443 [UNREPLIED] "
    "src=fd00:0077:0000:0000:0000:0000:0000:0009 dst=fd00:0077:0000:0000:0000:0000:0000:0002 "
    "sport=443 dport=40550 mark=0 zone=0 use=2"
)
UDP = (
    "ipv4     2 udp      17 29 src=10.77.0.2 dst=10.77.0.9 sport=47678 dport=53 [UNREPLIED] "
    "src=10.77.0.9 dst=10.77.0.2 sport=53 dport=47678 mark=0 zone=0 use=2"
)
# Answered from elsewhere: an address that only the reply's destination has.
MASQUERADED = (
    "ipv4     2 tcp      6 431999 ESTABLISHED src=10.77.0.2 dst=1.2.3.4 sport=1 dport=443 "
    "src=1.2.3.4 dst=203.0.113.5 sport=443 dport=1 [ASSURED] mark=0 zone=0 use=2"
)
EVERYTHING = (STUCK, TRANSLATED, STUCK6, UDP, MASQUERADED)


def process(folder: Path, *lines: str | bytes, pid: int = 7, namespace: int | None = None) -> str:
    """A folder of /proc with a table of these lines."""
    net = folder / str(pid) / "net"
    net.mkdir(parents=True)
    (net / "dev").touch()
    raw = (line if isinstance(line, bytes) else line.encode() for line in lines)
    (net / "nf_conntrack").write_bytes(b"".join(line + b"\n" for line in raw))
    if namespace is not None:
        (net.parent / "ns").mkdir()
        (net.parent / "ns" / "net").symlink_to(f"net:[{namespace}]")
    return str(net.parent)


def entries(addresses: Collection[str], *proc_dirs: str) -> list[str]:
    return [line for line in entries_about(addresses, proc_dirs) if not line.startswith("#")]


@pytest.mark.parametrize(
    ("address", "found"),
    [
        ("10.77.0.9", [STUCK, TRANSLATED]),
        ("10.96.0.10", [TRANSLATED]),
        ("203.0.113.5", [MASQUERADED]),
        ("10.77.0.2", [STUCK, TRANSLATED, MASQUERADED]),
        ("fd00:77::9", [STUCK6]),
        ("FD00:0077::0002", [STUCK6]),
        ("fd00:77::9%eth0", [STUCK6]),
        ("::ffff:10.96.0.10", [TRANSLATED]),
        ("10.99.0.1", []),
    ],
)
def test_an_address_is_found_in_either_tuple(
    tmp_path: Path, address: str, found: list[str]
) -> None:
    folder = process(tmp_path, *EVERYTHING)

    assert list(entries_about([address], [folder])) == [f"# conntrack of {folder}", *found]


def test_each_entry_comes_once_however_many_addresses_it_has(tmp_path: Path) -> None:
    folder = process(tmp_path, *EVERYTHING)

    assert entries(["10.77.0.9", "10.77.0.2", "fd00:77::9"], folder) == [
        *(STUCK, TRANSLATED, STUCK6, MASQUERADED)
    ]


def test_many_addresses_find_what_each_of_them_finds(tmp_path: Path) -> None:
    folder = process(tmp_path, *EVERYTHING)
    many = [f"192.0.2.{number}" for number in range(200)]

    assert entries([*many, "10.96.0.10", "fd00:77::2"], folder) == [TRANSLATED, STUCK6]


@pytest.mark.parametrize("others", [0, 50])
@pytest.mark.parametrize("address", ["10.77.0.90", "10.77.0.", "0.77.0.9", "7.0.9", "210.77.0.9"])
def test_a_part_of_an_address_is_another_address(tmp_path: Path, address: str, others: int) -> None:
    folder = process(tmp_path, *EVERYTHING)

    assert not entries([address, *(f"192.0.2.{number}" for number in range(others))], folder)


def test_an_address_under_another_key_is_no_match(tmp_path: Path) -> None:
    folder = process(tmp_path, STUCK.replace("mark=0", "secctx=192.0.2.1 mark=0"))

    assert not entries(["192.0.2.1"], folder)


@pytest.mark.parametrize(
    "addresses", [[], ["", "no address", "10.0.0.0/8", "10.0.0.1 ", "é", "\x00"]]
)
def test_without_an_address_nothing_is_read(tmp_path: Path, addresses: list[str]) -> None:
    folder = process(tmp_path, *EVERYTHING)

    assert list(entries_about(addresses, [folder])) == ["# no address to look for"]


def test_an_invalid_address_does_not_keep_the_others_from_being_found(tmp_path: Path) -> None:
    assert entries(["nonsense", "10.96.0.10"], process(tmp_path, *EVERYTHING)) == [TRANSLATED]


@pytest.mark.parametrize("others", [0, 50])
def test_binary_garbage_is_passed_over(tmp_path: Path, others: int) -> None:
    garbage = (b"\x00\xff\xfe=10.96.0.10 \x1b[2J", b"", b"dst=10.96.0.10 ", bytes(range(11, 256)))
    folder = process(tmp_path, *garbage, TRANSLATED, *garbage)
    addresses = ["10.96.0.10", *(f"192.0.2.{number}" for number in range(others))]

    assert entries(addresses, folder) == [TRANSLATED]


def test_what_is_no_ascii_in_an_entry_is_escaped(tmp_path: Path) -> None:
    folder = process(tmp_path, TRANSLATED.encode() + b" secctx=\xff")

    assert entries(["10.96.0.10"], folder) == [rf"{TRANSLATED} secctx=\xff"]


@pytest.mark.parametrize("others", [0, 50])
def test_lines_are_found_wherever_the_file_is_cut_into_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, others: int
) -> None:
    folder = process(tmp_path, *EVERYTHING * 3)
    addresses = ["10.96.0.10", *(f"192.0.2.{number}" for number in range(others))]
    for size in (1, 2, 3, 7, 100, 211, 1000):
        monkeypatch.setattr(conntrack, "_BLOCK_BYTES", size)

        assert entries(addresses, folder) == [TRANSLATED] * 3


def test_the_last_line_needs_no_end(tmp_path: Path) -> None:
    folder = process(tmp_path)
    Path(folder, "net/nf_conntrack").write_text(f"{UDP}\n{TRANSLATED}", "ascii")

    assert entries(["10.96.0.10"], folder) == [TRANSLATED]


def test_a_line_without_end_is_not_kept(tmp_path: Path) -> None:
    folder = process(tmp_path, b"x" * (3 << 20), TRANSLATED, TRANSLATED)

    assert entries(["10.96.0.10"], folder)[-1] == TRANSLATED


def test_each_namespace_has_its_heading(tmp_path: Path) -> None:
    one = process(tmp_path, STUCK, pid=1, namespace=11)
    other = process(tmp_path, TRANSLATED, pid=2, namespace=12)

    assert list(entries_about(["10.77.0.9"], [one, other])) == [
        *(f"# conntrack of {one}", STUCK, f"# conntrack of {other}", TRANSLATED)
    ]


def test_a_namespace_is_read_once(tmp_path: Path) -> None:
    one = process(tmp_path, STUCK, pid=1, namespace=11)
    same = process(tmp_path, STUCK, pid=2, namespace=11)

    assert list(entries_about(["10.77.0.9"], [one, same, one])) == [f"# conntrack of {one}", STUCK]


def test_a_folder_whose_namespace_is_unknown_is_read_once(tmp_path: Path) -> None:
    assert entries(["10.77.0.9"], *[process(tmp_path, STUCK)] * 2) == [STUCK]


def test_another_process_stands_in_for_one_that_cannot_be_read(tmp_path: Path) -> None:
    gone = process(tmp_path, STUCK, pid=1, namespace=11)
    Path(gone, "net/nf_conntrack").unlink()
    same = process(tmp_path, STUCK, pid=2, namespace=11)

    assert entries(["10.77.0.9"], gone, same) == [STUCK]


def test_a_kernel_that_does_not_show_its_table_is_told_and_the_next_one_read(
    tmp_path: Path,
) -> None:
    without = process(tmp_path, pid=1)
    Path(without, "net/nf_conntrack").unlink()
    other = process(tmp_path, STUCK, pid=2)

    told, *rest = entries_about(["10.77.0.9"], [without, other])

    assert told.startswith(
        f"# conntrack of {without} could not be read: this kernel does not show it"
    )
    assert rest == [f"# conntrack of {other}", STUCK]


def test_a_process_that_is_gone_is_told(tmp_path: Path) -> None:
    assert list(entries_about(["10.77.0.9"], [f"{tmp_path}/9"])) == [
        f"# conntrack of {tmp_path}/9 could not be read: the process is gone"
    ]


def test_a_table_that_may_not_be_read_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    folder = process(tmp_path, STUCK)
    monkeypatch.setattr("builtins.open", denied)

    assert list(entries_about(["10.77.0.9"], [folder])) == [
        f"# conntrack of {folder} could not be read: Permission denied"
    ]


def test_an_error_in_the_middle_of_a_table_is_told(tmp_path: Path) -> None:
    folder = process(tmp_path)
    table = Path(folder, "net/nf_conntrack")
    table.unlink()
    table.symlink_to("/proc/self/mem")  # can be opened, and has nothing at its beginning

    assert list(entries_about(["10.77.0.9"], [folder])) == [
        f"# conntrack of {folder}",
        f"# conntrack of {folder} could not be read: Input/output error",
    ]


def test_a_folder_that_no_file_can_have_is_told() -> None:
    (told,) = entries_about(["10.77.0.9"], ["\x00"])

    assert "could not be read" in told


def test_entries_beyond_the_limit_are_counted_over_all_namespaces(tmp_path: Path) -> None:
    one = process(tmp_path, *[STUCK] * 3, pid=1)
    other = process(tmp_path, *[TRANSLATED] * 4, pid=2)

    assert list(entries_about(["10.77.0.9"], [one, other], limit=4)) == [
        *(f"# conntrack of {one}", *[STUCK] * 3),
        *(f"# conntrack of {other}", TRANSLATED),
        "# 3 more entries were left out: no more than 4 are shown",
    ]


def test_exactly_as_many_as_the_limit_leave_nothing_out(tmp_path: Path) -> None:
    folder = process(tmp_path, STUCK, STUCK)

    assert list(entries_about(["10.77.0.9"], [folder], limit=2))[1:] == [STUCK, STUCK]
