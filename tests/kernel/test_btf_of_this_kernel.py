"""Member offsets in the type information of the kernel that runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tracer.errors import NoSource
from tracer.settings import Limits
from tracer.sources import btf, program
from tracer.sources.bpf import BpfSource


def test_damaged_type_information_leaves_no_source_and_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = tmp_path / "vmlinux"
    empty.touch()
    real = btf.offsets
    monkeypatch.setattr(btf, "offsets", lambda paths: real(paths, empty))
    with pytest.raises(NoSource, match="cut short") as caught:
        BpfSource(threshold_seconds=1.0, limits=Limits())
    assert "--backend poll" in caught.value.hint


def test_offsets_on_this_kernel_make_sense() -> None:
    required, optional = (
        set(members.values()) for members in (program.REQUIRED_MEMBERS, program.OPTIONAL_MEMBERS)
    )
    found = btf.offsets([*required, *optional, "sock.sk_gone", "nothing.at_all"])

    assert required <= found.keys() <= required | optional
    # include/net/sock.h: skc_daddr and skc_rcv_saddr, skc_hash, skc_dport and skc_num, then these.
    assert found["sock.__sk_common.skc_daddr"] == 0
    assert found["sock.__sk_common.skc_dport"] == 12
    assert found["sock.__sk_common.skc_family"] == 16
    assert found["sock.__sk_common.skc_state"] == 18
    v6_source, v6_destination = (
        found[f"sock.__sk_common.skc_v6_{name}"] for name in ("rcv_saddr", "daddr")
    )
    assert v6_source - v6_destination == 16
    assert found["sock.__sk_common.skc_net.net"] % 8 == 0
    assert found["net.ns.inum"] % 4 == 0
    assert found["sock.sk_err"] % 4 == found["sock.sk_err_soft"] % 4 == 0
    assert found["sock.sk_err"] != found["sock.sk_err_soft"]
    # struct tcp_sock begins with struct sock, which ends behind sk_err.
    assert found["tcp_sock.segs_out"] > found["sock.sk_err"]
    # struct inet_sock begins with struct sock, and so on up to struct tcp_sock.
    assert found["sock.sk_err"] < found["inet_sock.inet_sport"]
    assert found["inet_sock.inet_sport"] < found["inet_connection_sock.icsk_backoff"]
    assert found["inet_sock.inet_saddr"] % 4 == found["inet_sock.inet_sport"] % 2 == 0
    stamps = [found[f"tcp_sock.{name}"] for name in ("segs_out", "total_retrans", "retrans_stamp")]
    assert len(set(stamps)) == 3
    assert all(stamp % 4 == 0 for stamp in stamps)
