from __future__ import annotations

import platform
from pathlib import Path

import pytest

from tracer.host.environment import MAX_VALUE_CHARACTERS, UNKNOWN, describe

ALL_CAPABILITIES = (1 << 41) - 1
FILES = {
    "self/status": "Name:\tx\nCapPrm:\t0000000000000000\nCapEff:\t000000c000081000\n",
    "sys/kernel/cap_last_cap": "40\n",
    "uptime": "12345.67 99999.00\n",
    "loadavg": "0.10 0.20 0.30 1/234 56789\n",
    "meminfo": "MemTotal:       24684084 kB\nMemFree: 1 kB\nMemAvailable:   24175512 kB\n",
    "self/mountinfo": "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup rw\n",
    "sys/net/ipv4/tcp_syn_retries": "6\n",
    "sys/net/ipv4/ip_local_port_range": "32768\t60999\n",
    "sys/net/ipv4/conf/all/rp_filter": "2\n",
    "sys/net/netfilter/nf_conntrack_count": "17\n",
    "sys/net/netfilter/nf_conntrack_max": "262144\n",
    "net/snmp": "Ip: Forwarding\nIp: 1\nTcp: MaxConn ActiveOpens AttemptFails\nTcp: -1 31150 230\n",
    "net/netstat": "TcpExt: ListenOverflows ListenDrops TCPTimeouts TCPSynRetrans\n"
    "TcpExt: 1 2 3 4\nIpExt: InNoRoutes\nIpExt: 0\n",
}


def tree(folder: Path, **changed: str) -> str:
    """A procfs; `changed` by the last part of a file's path."""
    for path, text in FILES.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(changed.get(file.name, text), "utf-8")
    return str(folder)


def test_a_node_is_described_by_its_procfs(tmp_path: Path) -> None:
    known = dict(describe(tree(tmp_path)))

    assert {
        "effective capabilities": "000000c000081000 (net_admin sys_ptrace perfmon bpf)",
        "uptime": "12346 s",
        "load average": "0.10 0.20 0.30",
        "memory total": "24684084 kB",
        "memory available": "24175512 kB",
        "cgroup version": "2",
        "net.ipv4.tcp_syn_retries": "6",
        "net.ipv4.tcp_syn_linear_timeouts": UNKNOWN,
        "net.ipv4.ip_local_port_range": "32768 60999",
        "net.ipv4.conf.all.rp_filter": "2",
        "net.netfilter.nf_conntrack_count": "17",
        "net.netfilter.nf_conntrack_max": "262144",
        "Tcp.ActiveOpens": "31150",
        "Tcp.AttemptFails": "230",
        "TcpExt.ListenOverflows": "1",
        "TcpExt.ListenDrops": "2",
        "TcpExt.TCPTimeouts": "3",
        "TcpExt.TCPSynRetrans": "4",
    }.items() <= known.items()


def test_this_machine_can_be_described() -> None:
    known = dict(describe())

    assert UNKNOWN not in {known[name] for name in ("kernel", "python", "uptime", "memory total")}
    assert known["btf"] in ("yes", "no")


def test_the_names_are_the_same_where_nothing_can_be_read(tmp_path: Path) -> None:
    known = describe(str(tmp_path / "none"))

    assert [name for name, _ in known] == [name for name, _ in describe()]
    assert dict(known)["effective capabilities"] == UNKNOWN


def test_neither_the_node_nor_its_environment_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOMETHING", "value-of-the-environment")
    text = str(describe(tree(tmp_path)))

    assert platform.node() not in text.split()
    assert "value-of-the-environment" not in text


@pytest.mark.parametrize(
    ("mask", "names"),
    [
        (0, "none"),
        (ALL_CAPABILITIES, "all"),
        (ALL_CAPABILITIES & ~(1 << 24), "all but sys_resource"),
        (1 << 21, "sys_admin"),
    ],
)
def test_capabilities_are_named_or_those_that_are_missing(
    tmp_path: Path, mask: int, names: str
) -> None:
    known = dict(describe(tree(tmp_path, status=f"CapEff:\t{mask:016x}\n")))

    assert known["effective capabilities"] == f"{mask:016x} ({names})"


def test_a_capability_that_is_not_known_yet_has_its_number(tmp_path: Path) -> None:
    folder = tree(tmp_path, status=f"CapEff:\t{1 << 41:016x}\n", cap_last_cap="41\n")

    assert dict(describe(folder))["effective capabilities"].endswith("(cap_41)")


@pytest.mark.parametrize(
    ("types", "version"),
    [
        (["cgroup"], "1"),
        (["cgroup", "cgroup2"], "1 and 2 (hybrid)"),
        (["cgroup2"], "2"),
        (["ext4"], UNKNOWN),
    ],
)
def test_the_cgroup_version_is_told_by_what_is_mounted(
    tmp_path: Path, types: list[str], version: str
) -> None:
    mounts = "".join(f"30 23 0:26 / /x rw - {name} none rw\n" for name in types)

    assert dict(describe(tree(tmp_path, mountinfo=mounts)))["cgroup version"] == version


@pytest.mark.parametrize(
    "garbage", ["", "\n\n", "Tcp:\n", "\x00\xff é", "CapEff:", "Tcp: A\nTcp: x"]
)
def test_files_that_are_none_of_the_kind_are_unknown(tmp_path: Path, garbage: str) -> None:
    names = ("status", "uptime", "meminfo", "mountinfo", "snmp", "netstat", "cap_last_cap")
    known = dict(describe(tree(tmp_path, **dict.fromkeys(names, garbage))))

    for name in ("effective capabilities", "uptime", "memory total", "Tcp.ActiveOpens"):
        assert known[name] == UNKNOWN


@pytest.mark.parametrize("last", ["-1", "64", "99999999999999"])
def test_a_number_of_capabilities_that_cannot_be_is_unknown(tmp_path: Path, last: str) -> None:
    assert dict(describe(tree(tmp_path, cap_last_cap=last)))["effective capabilities"] == UNKNOWN


def test_a_long_value_is_cut(tmp_path: Path) -> None:
    value = dict(describe(tree(tmp_path, tcp_syn_retries="6" * 10_000)))["net.ipv4.tcp_syn_retries"]

    assert len(value) == MAX_VALUE_CHARACTERS
    assert value.endswith("…")


def test_a_value_is_one_line(tmp_path: Path) -> None:
    known = dict(describe(tree(tmp_path, tcp_syn_retries="6\nforged: line\n")))

    assert known["net.ipv4.tcp_syn_retries"] == "6 forged: line"


def test_a_distribution_that_does_not_say_its_name_is_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "freedesktop_os_release", dict)

    assert dict(describe(tree(tmp_path)))["distribution"] == UNKNOWN
