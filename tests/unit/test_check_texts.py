"""`check` of text that somebody sent: each connection once, and no more than the text says."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.tracer import PROGRAM, environment, run_program

FIXTURES = Path(__file__).parents[1] / "fixtures/text"
REAL = 10
"""Connections in SYN_SENT at the moment that the fixtures are of."""
SECONDS = 20

SS_HEADER = "State    Recv-Q Send-Q Local Address:Port  Peer Address:Port Process\n"
SS = f"{SS_HEADER}SYN-SENT 0      1      10.4.7.21:40000     10.4.100.50:443\n"
NONE = f"{SS_HEADER}ESTAB    0      0      10.4.7.21:40009     10.4.100.50:443\n"
POEM = "Whose woods these are I think I know\n"
PROC = (
    "   0: 1507040A:9C40 3264040A:01BB 02 00000001:00000000 01:00000032 00000001  1000        0 "
    "{inode} 2 00000000b5ea3cf8 100 4 24 10 -1\n"
)


def entry(source: str, destination: str, port: int = 40_000) -> str:
    """What conntrack prints of an attempt that was not answered."""
    return (
        f"tcp      6 117 SYN_SENT src={source} dst={destination} sport={port} dport=443 "
        f"[UNREPLIED] src={destination} dst={source} sport=443 dport={port} mark=0 use=1\n"
    )


def check(
    *options: str, status: int, text: bytes | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [PROGRAM, "check", *options],
        stdin=subprocess.DEVNULL if text is None else None,
        input=None if text is None else text.decode("utf-8", "surrogateescape"),
        capture_output=True,
        encoding="utf-8",
        errors="surrogateescape",
        timeout=SECONDS,
        check=False,
        env=environment(),
        cwd=cwd,
    )
    assert done.returncode == status, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


def files(*paths: Path) -> list[str]:
    return [part for path in paths for part in ("--file", str(path))]


def found_in(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(done.stdout)["connections"]
    return found


def written(folder: Path, *texts: str) -> list[Path]:
    paths = [folder / f"{number}.txt" for number in range(len(texts))]
    for path, text in zip(paths, texts, strict=True):
        path.write_text(text)
    return paths


# --- each connection once ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names",
    [
        ("pod_connections.txt",),
        ("session.txt",),
        ("ss-tn.txt", "ss-tuanp.txt", "netstat-tanWpoe.txt", "proc-net-tcp-and-tcp6.txt"),
    ],
    ids=["sections", "session", "files"],
)
def test_a_socket_in_several_sections_or_files_counts_once(names: tuple[str, ...]) -> None:
    done = check(*files(*(FIXTURES / name for name in names)), status=1)
    assert done.stdout.startswith(f"[ISSUE] Found {REAL} connection(s)")
    assert "tracked attempt" not in done.stdout


def test_what_any_section_knows_of_a_socket_is_told() -> None:
    names = ("ss-tn.txt", "ss-tanp.txt", "proc-net-tcp-and-tcp6.txt")
    done = check(*files(*(FIXTURES / name for name in names)), "--format", "json", status=1)
    found = found_in(done)
    assert len(found) == REAL
    assert all(one["process"]["pid"] for one in found)
    assert all(one["attempt"]["syns_sent"] for one in found)
    assert all(one["user"]["id"] is not None for one in found)


@pytest.mark.parametrize(
    ("texts", "count"),
    [
        ((SS, SS), 1),
        ((PROC.format(inode=7), PROC.format(inode=7), SS), 1),
        # Other namespaces, or other nodes, with the same addresses.
        ((PROC.format(inode=7), PROC.format(inode=8)), 2),
        ((SS.replace("7.21:", "7.21%eth0:"), SS.replace("7.21:", "7.21%eth1:")), 2),
        ((SS.replace("7.21:", "7.21%eth0:"), SS), 1),
        # The kernel has not chosen a port yet: nothing tells them apart, and nothing says one.
        ((SS.replace(":40000", ":0"), SS.replace(":40000", ":0")), 2),
    ],
)
def test_sockets_are_one_where_nothing_known_of_them_differs(
    tmp_path: Path, texts: tuple[str, ...], count: int
) -> None:
    done = check(*files(*written(tmp_path, *texts)), status=1)
    assert done.stdout.startswith(f"[ISSUE] Found {count} connection(s)"), done.stdout


def test_thousands_of_sockets_of_the_same_addresses_and_ports_take_no_time_at_all(
    tmp_path: Path,
) -> None:
    rows = "".join(PROC.format(inode=number) for number in range(1, 20_000))
    done = check(*files(*written(tmp_path, rows)), status=1)
    assert done.stdout.startswith("[ISSUE] Found 19999 connection(s)")


# --- conntrack -----------------------------------------------------------------------------------

STALE = entry("10.4.7.21", "10.4.100.50", 40_001)
INBOUND = entry("10.4.9.9", "10.4.7.21")
UNSEEN = "Not seen: 1 tracked attempt(s) without a socket: just ended, or of another namespace."


def test_beside_sockets_a_tracked_attempt_without_one_is_a_note(tmp_path: Path) -> None:
    tracked = entry("10.4.7.21", "10.4.100.50") + STALE
    done = check(*files(*written(tmp_path, SS, tracked)), status=1)
    assert done.stdout.startswith("[ISSUE] Found 1 connection(s)")
    assert UNSEEN in done.stdout


def test_where_no_socket_waits_a_tracked_attempt_is_no_finding(tmp_path: Path) -> None:
    done = check(*files(*written(tmp_path, NONE, STALE)), status=0)
    assert done.stdout.startswith("[OK]")
    assert UNSEEN in done.stdout


def test_attempts_that_others_make_to_a_local_address_are_none_of_ours(tmp_path: Path) -> None:
    done = check(*files(*written(tmp_path, SS, INBOUND)), status=1)
    assert done.stdout.startswith("[ISSUE] Found 1 connection(s)")
    assert "tracked attempt" not in done.stdout


def test_conntrack_alone_is_said_to_be_all_there_is(tmp_path: Path) -> None:
    done = check(*files(*written(tmp_path, STALE + INBOUND)), status=1)
    assert done.stdout.startswith("[ISSUE] Found 2 connection(s)")
    assert "through conntrack alone." in done.stdout
    (note,) = [line for line in done.stdout.splitlines() if line.startswith("Not seen:")]
    assert "the sockets themselves" in note
    assert "to this node too" in note


# --- rows without a state ------------------------------------------------------------------------

WITHOUT_STATE = (
    "ss-Htn-state-syn-sent.txt",
    "ss-tn-state-syn-sent.txt",
    "ss-an-state-syn-sent.txt",
    "ss-Htnpoei-state-syn-sent.txt",
)


@pytest.mark.parametrize("name", WITHOUT_STATE)
def test_the_state_that_ss_was_asked_for_can_be_told(name: str) -> None:
    text = (FIXTURES / name).read_bytes()
    refused = check("--file", "-", text=text, status=5)
    assert "no State column" in refused.stderr
    assert "--state syn-sent" in refused.stderr
    for state in ("syn-sent", "SYN_SENT"):
        done = check("--file", "-", "--state", state, text=text, status=1)
        assert done.stdout.startswith(f"[ISSUE] Found {REAL} connection(s)")
    done = check("--file", "-", "--state", "established", text=text, status=0)
    assert done.stdout.startswith("[OK]")


def test_a_state_that_rows_show_is_not_taken_from_the_option() -> None:
    text = (FIXTURES / "ss-tn.txt").read_bytes()
    done = check("--file", "-", "--state", "established", text=text, status=1)
    assert done.stdout.startswith(f"[ISSUE] Found {REAL} connection(s)")


@pytest.mark.parametrize("command", ["$ ss -Htn state syn-sent", "# ss -tn state syn-sent"])
def test_the_command_above_the_rows_says_it_as_well(command: str) -> None:
    text = f"{command}\n".encode() + (FIXTURES / "ss-Htn-state-syn-sent.txt").read_bytes()
    done = check("--file", "-", text=text, status=1)
    assert done.stdout.startswith(f"[ISSUE] Found {REAL} connection(s)")


@pytest.mark.parametrize(
    "name", ["ss-Htn-state-syn-sent.txt", "ss -Htn state syn-sent", "web-0.ss_Htn_state_syn-sent"]
)
def test_a_file_named_after_the_command_says_it_too(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes((FIXTURES / "ss-Htn-state-syn-sent.txt").read_bytes())
    assert check("--file", str(path), status=1).stdout.startswith(f"[ISSUE] Found {REAL} ")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--file", "-", "--state", "stuck"), "--state: 'stuck'"),
        (("--node", "--state", "syn-sent"), "--state"),
        (("--file", "-", "--file", "-"), "--file -"),
    ],
)
def test_options_for_files_that_make_no_sense_are_wrong_usage(
    options: tuple[str, ...], named: str
) -> None:
    assert named in check(*options, status=2).stderr


# --- indented text -------------------------------------------------------------------------------


def test_an_indented_text_is_no_less_than_one_at_the_margin() -> None:
    text = (FIXTURES / "ss-tuanp.txt").read_bytes()
    indented = b"".join(b"    " + line for line in text.splitlines(keepends=True))
    done = check("--file", "-", text=indented, status=1)
    assert done.stdout.startswith(f"[ISSUE] Found {REAL} connection(s)")


# --- what cannot be read -------------------------------------------------------------------------


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_file_that_is_of_no_use_is_a_note_beside_one_that_is(
    tmp_path: Path, order: tuple[int, int]
) -> None:
    paths = written(tmp_path, SS, POEM)
    done = check(*files(*(paths[index] for index in order)), status=1)
    assert done.stdout.startswith("[ISSUE] Found 1 connection(s)")
    assert f"Not seen: {paths[1]}: nothing could be used" in done.stdout


def test_files_that_are_all_of_no_use_are_an_input_error(tmp_path: Path) -> None:
    paths = written(tmp_path, POEM, "")
    done = check(*files(*paths, tmp_path / "missing"), status=5)
    assert str(paths[0]) in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_is_named_with_what_to_do(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "ss.txt"
    path.write_bytes(f"\ufeff{SS}".encode(encoding))
    done = check("--file", str(path), status=5)
    assert f"{path} is UTF-16 text; convert it to UTF-8" in done.stderr


@pytest.mark.parametrize("name", ["n" * 300, "a/" * 2500])
def test_a_bundle_whose_name_is_too_long_is_an_input_error(tmp_path: Path, name: str) -> None:
    done = check("--bundle", name, status=5, cwd=tmp_path)
    assert "File name too long" in done.stderr
    assert name[:100] in done.stderr


@pytest.mark.parametrize("text", [b"", POEM.encode()], ids=["empty", "poem"])
def test_a_hint_goes_on_in_the_sentence_that_it_follows(text: bytes) -> None:
    hint = check("--file", "-", text=text, status=5).stderr.rpartition("; ")[2]
    assert hint[0].islower()
    assert not hint.rstrip().endswith(".")


def test_a_missing_file_has_such_a_hint_too() -> None:
    done = check("--file", "/no/such/file", status=5)
    assert done.stderr.endswith("; check the file's name and permissions\n")


# --- where the answer goes -----------------------------------------------------------------------


@pytest.mark.parametrize(("text", "status"), [(SS, 1), (NONE, 0)])
def test_a_reader_that_leaves_early_is_no_error(tmp_path: Path, text: str, status: int) -> None:
    (path,) = written(tmp_path, text)
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [PROGRAM, "check", "--file", str(path)],
        stdin=subprocess.DEVNULL,
        stdout=writing,
        stderr=subprocess.PIPE,
        timeout=SECONDS,
        check=False,
        env=environment(),
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (status, b"")


@pytest.mark.parametrize("report", [False, True])
def test_an_answer_that_cannot_be_written_is_said_to_be_so(tmp_path: Path, report: bool) -> None:
    (path,) = written(tmp_path, SS)
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [PROGRAM, "check", "--file", str(path), *(["--report", "report"] if report else [])],
            stdin=subprocess.DEVNULL,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=SECONDS,
            check=False,
            env=environment(),
            cwd=tmp_path,
        )
    assert done.returncode == 4
    *_, last = done.stderr.splitlines()
    assert last == "synsent-trace: the answer could not be written: No space left on device"
    assert (tmp_path / "report").exists() == report


# --- options that do nothing ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--node", "--via", "exec"), "--via"),
        (("--node", "--via", "bogus"), "--via: 'bogus'"),
        (("--pid", "1", "--container", "app"), "--container"),
        (("--file", "x", "--kubeconfig", "y"), "--kubeconfig"),
        (("--pod", "a/b", "--via", "node", "--container", "app"), "--container"),
        (("--pod", "a/b", "--via", "node", "--kubeconfig", "x"), "--kubeconfig"),
    ],
)
def test_an_option_that_would_do_nothing_is_wrong_usage(
    options: tuple[str, ...], named: str
) -> None:
    done = run_program("check", *options)
    assert done.returncode == 2, done.stdout + done.stderr
    assert named in done.stderr


def test_an_option_of_the_environment_that_is_not_needed_is_no_error(tmp_path: Path) -> None:
    (path,) = written(tmp_path, SS)
    done = subprocess.run(
        [PROGRAM, "check", "--file", str(path)],
        capture_output=True,
        timeout=SECONDS,
        check=False,
        env=environment() | {"SYNSENT_VIA": "exec", "SYNSENT_KUBECONFIG": "/etc/kube"},
    )
    assert done.returncode == 1
