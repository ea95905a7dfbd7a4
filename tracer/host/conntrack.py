"""Raw lines of /proc/PID/net/nf_conntrack about given addresses, for a colleague to read.

The file is written by ct_seq_show() of the kernel's nf_conntrack_standalone.c, where that is built
with CONFIG_NF_CONNTRACK_PROCFS; tracer.sources.text.conntrack tells its format. It is no snapshot:
an entry that the table moves meanwhile may be missing, or there twice.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import BinaryIO, Final

MAX_LINES: Final = 100_000
"""About 20 MB. A busy load balancer's table holds millions of entries about its one address."""

_BLOCK_BYTES: Final = 1 << 18
_MAX_LINE_BYTES: Final = 1 << 16
"""An entry has 200 bytes, a security context a few hundred more."""

_FEW_ADDRESSES: Final = 4
"""Beyond, splitting every line is faster than trying each address at each equals sign."""

_FEWEST_FIELDS: Final = 6
_PROTOCOL_FIELD: Final = 2


def entries_about(
    addresses: Collection[str], proc_dirs: Sequence[str], *, limit: int = MAX_LINES
) -> Iterator[str]:
    """TCP entries that have one of the addresses as a source or destination, in either tuple.

    `proc_dirs` are folders of processes ("/proc/1"), each for the network namespace that its
    process lives in; a namespace is read once, however many of them live there, from the first that
    can be opened. Lines come as the
    kernel wrote them, without their newline, after a heading for each namespace; what is no ASCII
    is escaped. Lines that begin with # are ours: headings, what could not be read and why, and how
    many entries there were beyond `limit`.

    Addresses that are none are ignored. An IPv4 address mapped into IPv6 is looked for as the IPv4
    that it is on the wire; a zone ("%eth0") is not looked at. Raises nothing: a namespace that
    cannot be read is said to be so, and the next one is read.
    """
    wanted = frozenset(written for text in addresses for written in _as_written(text))
    if not wanted:
        yield "# no address to look for"
        return
    shown = left_out = 0
    read: set[str] = set()
    for proc_dir in proc_dirs:
        namespace = _namespace(proc_dir)
        if namespace in read:
            continue
        try:
            with open(f"{proc_dir}/net/nf_conntrack", "rb", buffering=0) as table:
                read.add(namespace)
                yield f"# conntrack of {proc_dir}"
                for line in _entries(table, wanted):
                    if shown < limit:
                        shown += 1
                        yield line.decode("ascii", "backslashreplace")
                    else:
                        left_out += 1
        # ValueError: a NUL in the name.
        except (OSError, ValueError) as error:
            yield f"# conntrack of {proc_dir} could not be read: {_reason(proc_dir, error)}"
    if left_out:
        yield f"# {left_out} more entries were left out: no more than {limit} are shown"


def _as_written(text: str) -> Iterator[bytes]:
    """The address as the kernel prints it: %pI4 dotted, %pI6 in full. Nothing if it is none."""
    try:
        address = ip_address(text)
    except ValueError:
        return
    if isinstance(address, IPv6Address):
        address = address.ipv4_mapped or IPv6Address(int(address))  # without its zone
    yield address.exploded.encode("ascii")


def _namespace(proc_dir: str) -> str:
    """What names its network namespace: "net:[4026531840]", or the folder where that is denied."""
    try:
        return str(Path(proc_dir, "ns/net").readlink())
    except (OSError, ValueError):
        return proc_dir


def _entries(table: BinaryIO, wanted: frozenset[bytes]) -> Iterator[bytes]:
    """TCP entries about the addresses, without their newline."""
    fields = frozenset(key + address for address in wanted for key in (b"src=", b"dst="))
    # Each address is followed by another key. One address is a literal, searched for at 1 GB/s.
    likely = re.compile(b"=(?:%b) " % b"|".join(map(re.escape, sorted(wanted))))
    lines = _lines_with(likely, table) if len(wanted) <= _FEW_ADDRESSES else _lines(table)
    for line in lines:
        words = line.split()
        if (
            not fields.isdisjoint(words)
            and len(words) >= _FEWEST_FIELDS
            and words[_PROTOCOL_FIELD] == b"tcp"
        ):
            yield line


def _lines_with(pattern: re.Pattern[bytes], table: BinaryIO) -> Iterator[bytes]:
    """Lines that the pattern, which matches no newline, is found in."""
    for block in _blocks(table):
        done = 0
        while found := pattern.search(block, done):
            start = block.rfind(b"\n", done, found.start()) + 1 or done
            done = block.find(b"\n", found.end()) + 1 or len(block)
            yield block[start:done].rstrip(b"\n")


def _lines(table: BinaryIO) -> Iterator[bytes]:
    for block in _blocks(table):
        yield from block.split(b"\n")


def _blocks(table: BinaryIO) -> Iterator[bytes]:
    """The file in pieces of whole lines; a line without end is dropped."""
    rest = b""
    while piece := table.read(_BLOCK_BYTES):
        whole, newline, after = piece.rpartition(b"\n")
        if newline:
            yield rest + whole
            rest = after
        elif len(rest) + len(piece) <= _MAX_LINE_BYTES:
            rest += piece
        else:
            rest = b""
    if rest:
        yield rest


def _reason(proc_dir: str, error: OSError | ValueError) -> str:
    if not isinstance(error, FileNotFoundError):
        return (error.strerror if isinstance(error, OSError) else None) or str(error)
    # Every namespace has net/dev (CONFIG_PROC_FS); a process that is gone has none any more.
    if Path(proc_dir, "net/dev").exists():
        return (
            "this kernel does not show it (nf_conntrack is not loaded, or built without "
            "CONFIG_NF_CONNTRACK_PROCFS)"
        )
    return "the process is gone"
