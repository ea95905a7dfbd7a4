"""Reports as directories: all of it under its name or nothing, and read back as it was written."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.tracer import PROGRAM, check_event, environment, run_program
from tests.support.wait import wait_until
from tests.unit.test_report import (
    DEAD_HOP,
    INSIDE,
    OUTSIDE,
    POD,
    finding,
    not_known,
    result,
)
from tracer.check.answer import with_command_lines, with_lines
from tracer.errors import OutputError, UsageError
from tracer.finding import Finding, Rung
from tracer.model import Process
from tracer.redact import masked, masked_text, program_only, without_quotations
from tracer.sinks.bundle import Bundle, events

ENVIRONMENT = [("kernel", "Linux 6.1"), ("hostile", "a\nforged: line\x1b[2J")]
FILES = {
    "environment.txt",
    "events.jsonl",
    "pod_connections.txt",
    "pod_conntrack_connections.txt",
    "report.json",
    "report.md",
}
FOUND = result(
    finding(age_seconds=0.4, syns_sent=1),
    finding(port=40_001, age_seconds=3.25, syns_sent=2, process=Process(7, "curl", "/bin/curl")),
    finding(OUTSIDE, age_seconds=1.0),
)

SS = (
    "State    Recv-Q Send-Q Local Address:Port  Peer Address:Port Process\n"
    'SYN-SENT 0      1      10.4.7.21:40000     10.4.100.50:443   users:(("curl",pid=7,fd=3))\n'
    "ESTAB    0      0      10.4.7.21:40009     10.4.100.50:443\n"
)
CONNTRACK = (
    "tcp      6 117 SYN_SENT src=10.4.7.21 dst=10.4.100.50 sport=40000 dport=443 [UNREPLIED] "
    "src=10.4.100.50 dst=10.4.7.21 sport=443 dport=40000 mark=0 use=1\n"
)
OTHER_CONNTRACK = CONNTRACK.replace("40000", "40001")

STARTED_SECONDS = ENDED_SECONDS = 20


def partial(folder: Path) -> list[Path]:
    return sorted(folder.glob(".*.partial-*"))


def write(path: Path, raw: bytes = b"") -> None:
    with Bundle(str(path)) as bundle:
        bundle.connections(raw)
        bundle.finish(FOUND, (), ENVIRONMENT)


# --- writing -------------------------------------------------------------------------------------


def test_a_bundle_holds_the_answer_the_text_and_where_it_was(tmp_path: Path) -> None:
    path = tmp_path / "report"
    with Bundle(str(path)) as bundle:
        bundle.connections(b"sockets\n")
        bundle.conntrack(b"entries\n")
        assert not path.exists()
        bundle.finish(FOUND, (), ENVIRONMENT)
    assert {one.name for one in path.iterdir()} == FILES
    assert (path / "pod_connections.txt").read_bytes() == b"sockets\n"
    assert (path / "pod_conntrack_connections.txt").read_bytes() == b"entries\n"
    assert json.loads((path / "report.json").read_text())["found"] == 3
    assert "Found 3 connection(s)" in (path / "report.md").read_text()
    assert (path / "environment.txt").read_text().splitlines()[:6] == [
        "time: 2023-11-14T22:13:20.000000Z",
        "tool: synsent-trace 0.1.0",
        "target: pod shop/cart-0",
        "node: node-1",
        "method: ss",
        "kernel: Linux 6.1",
    ]
    assert partial(tmp_path) == []


def test_a_bundle_says_why_in_either_report_and_so_does_whoever_reads_it_back(
    tmp_path: Path,
) -> None:
    path = tmp_path / "report"
    with Bundle(str(path)) as bundle:
        bundle.finish(replace(FOUND, verdicts=(DEAD_HOP, not_known())), (), ())
    assert "**: no-neighbour (high): " in (path / "report.md").read_text()
    told = run_program("check", "--bundle", str(path))
    assert told.returncode == 1
    assert (
        "Why (as far as one look tells):\n  shop/cart-0 -> 10.4.100.50:443: no-neighbour (high): "
    ) in told.stdout
    assert "Why 1 of them does not answer is not known from one look" in told.stdout
    assert "ip neigh show" in told.stdout
    again = run_program("check", "--bundle", str(path), "--format", "json")
    written = json.loads((path / "report.json").read_text())
    assert json.loads(again.stdout)["verdicts"] == written["verdicts"]


def test_nobody_else_may_read_a_bundle_not_even_an_unfinished_one(tmp_path: Path) -> None:
    def modes(folder: Path) -> set[int]:
        return {stat.S_IMODE(one.stat().st_mode) for one in folder.iterdir()}

    before = os.umask(0)
    try:
        with Bundle(str(tmp_path / "report")) as bundle:
            (unfinished,) = partial(tmp_path)
            assert stat.S_IMODE(unfinished.stat().st_mode) == 0o700
            assert modes(unfinished) == {0o600}
            bundle.finish(FOUND, (), ())
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "report").stat().st_mode) == 0o700
    assert modes(tmp_path / "report") == {0o600}


def test_a_line_of_the_environment_cannot_forge_another(tmp_path: Path) -> None:
    write(tmp_path / "report")
    text = (tmp_path / "report" / "environment.txt").read_text()
    assert text.splitlines()[-1] == "hostile: a\\nforged: line\\x1b[2J"


def test_events_are_those_of_the_live_trace_for_what_is_stuck() -> None:
    lines = [json.loads(line) for line in events(FOUND)]
    for line in lines:
        check_event(line)
    retransmitted, old = lines
    assert retransmitted["attempt"]["syns_sent"] == 2
    assert retransmitted["attempt"]["started_at"] == "2023-11-14T22:13:16.750000Z"
    assert retransmitted["process"]["executable"]["path"] == "/bin/curl"
    assert retransmitted["k8s"]["pod"]["name"] == POD.name
    assert retransmitted["k8s"]["pod"]["uid"] == POD.uid
    assert retransmitted["k8s"]["node"]["name"] == "node-1"
    assert retransmitted["detected_by"] == "text"
    assert retransmitted["attempt"]["stuck"]
    assert old["attempt"]["age_seconds"] == 1.0
    assert old["attempt"]["id"] != retransmitted["attempt"]["id"]
    assert list(events(FOUND)) == list(events(FOUND))


@pytest.mark.parametrize(
    ("method", "source"),
    [("sock_diag", "sock_diag"), ("procfs", "procfs"), ("ss, netstat", "text")],
)
def test_an_event_says_whether_the_kernel_or_a_text_told_it(method: str, source: str) -> None:
    (line, _) = events(replace(FOUND, method=method))
    assert json.loads(line)["detected_by"] == source


# --- where it may be written ---------------------------------------------------------------------


def a_file(path: Path) -> None:
    path.write_text("precious")


def a_link_to_nothing(path: Path) -> None:
    path.symlink_to("nowhere")


def a_link_to_an_empty_directory(path: Path) -> None:
    (path.parent / "elsewhere").mkdir()
    path.symlink_to("elsewhere")


def another_bundle(path: Path) -> None:
    path.mkdir()
    (path / "report.json").write_text("precious")


EXISTING = [a_file, a_link_to_nothing, a_link_to_an_empty_directory, another_bundle]


def names_below(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


@pytest.mark.parametrize("make", EXISTING)
def test_nothing_is_ever_overwritten_and_that_is_said_before_anything_is_done(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    path = tmp_path / "report"
    make(path)
    before = names_below(tmp_path)
    with pytest.raises(UsageError, match="exists already") as caught:
        Bundle(str(path))
    assert caught.value.hint
    assert names_below(tmp_path) == before


@pytest.mark.parametrize("make", EXISTING)
def test_what_appears_meanwhile_is_not_overwritten_either(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    path = tmp_path / "report"
    with Bundle(str(path)) as bundle:
        make(path)
        with pytest.raises(OutputError, match="could not be written") as caught:
            bundle.finish(FOUND, (), ())
    assert "meanwhile" in caught.value.hint
    assert partial(tmp_path) == []
    assert path.is_symlink() or "precious" in (
        path.read_text() if path.is_file() else (path / "report.json").read_text()
    )


def test_an_empty_directory_may_be_there(tmp_path: Path) -> None:
    (tmp_path / "report").mkdir()
    write(tmp_path / "report")
    assert {one.name for one in (tmp_path / "report").iterdir()} == FILES


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("missing/report", "there is no directory"),
        ("file/report", "there is no directory"),
        ("", "names no directory"),
        ("..", "names no directory"),
        ("n" * 300, "name too long"),
    ],
)
def test_a_place_where_nothing_can_be_made_is_a_usage_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=f"(?i){said}") as caught, Bundle(name):
        pass
    assert caught.value.hint
    assert partial(tmp_path) == []


def test_a_name_as_long_as_a_name_can_be_works(tmp_path: Path) -> None:
    write(tmp_path / ("ä" * 127))
    assert len(list((tmp_path / ("ä" * 127)).iterdir())) == len(FILES)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_whatever_ends_the_check_nothing_half_made_is_left(
    tmp_path: Path, error: type[BaseException]
) -> None:
    def check() -> None:
        with Bundle(str(tmp_path / "report")) as bundle:
            bundle.connections(b"x" * 1_000_000)
            raise error

    with pytest.raises(error):
        check()
    assert names_below(tmp_path) == []


def test_a_file_that_cannot_be_synced_leaves_no_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OutputError, match="Input/output error"):
        write(tmp_path / "report")
    assert names_below(tmp_path) == []


def test_text_that_cannot_be_stored_does_not_end_the_check_but_leaves_no_bundle(
    tmp_path: Path,
) -> None:
    with Bundle(str(tmp_path / "report")) as bundle:
        (unfinished,) = partial(tmp_path)
        # As on a full disk: every write to it fails.
        file = bundle._files["pod_connections.txt"]._stream
        full = os.open("/dev/full", os.O_WRONLY)
        os.dup2(full, file.fileno())
        os.close(full)
        for _ in range(3):
            bundle.connections(b"x" * 1_000_000)
        assert unfinished.exists()
        with pytest.raises(OutputError, match="No space left"):
            bundle.finish(FOUND, (), ())
    assert names_below(tmp_path) == []


# --- the program ---------------------------------------------------------------------------------


@contextmanager
def reading_forever(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The program with a report under way: what it reads has no end, and part of it is written."""
    process = subprocess.Popen(
        # SIGQUIT would leave a core there.
        ["prlimit", "--core=0", "--", PROGRAM, "check", "--file", "-", "--report", "report"],
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    try:
        assert process.stdin is not None
        process.stdin.write(SS.encode() * 10_000)
        process.stdin.flush()
        wait_until(
            lambda: any(
                (one / "pod_connections.txt").stat().st_size > 100_000
                for one in partial(folder)
                if (one / "pod_connections.txt").exists()
            ),
            STARTED_SECONDS,
            "the report to be under way",
        )
        yield process
    finally:
        process.kill()
        process.communicate(timeout=ENDED_SECONDS)


def test_kill_9_while_a_report_is_written_leaves_nothing_under_its_name(tmp_path: Path) -> None:
    with reading_forever(tmp_path) as process:
        process.kill()
        process.wait(ENDED_SECONDS)
        assert not os.path.lexists(tmp_path / "report")
        (left,) = partial(tmp_path)
        assert left.name.startswith(".report.partial-")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT])
def test_a_signal_while_a_report_is_written_leaves_nothing_at_all(
    tmp_path: Path, number: signal.Signals
) -> None:
    with reading_forever(tmp_path) as process:
        process.send_signal(number)
        assert process.wait(ENDED_SECONDS) == -number
        assert names_below(tmp_path) == []
        assert process.stdout is not None
        assert process.stderr is not None
        assert (process.stdout.read(), process.stderr.read()) == (b"", b"")


def check(*options: str, cwd: Path, status: int = 1) -> str:
    done = run_program("check", *options, cwd=cwd)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


@pytest.mark.parametrize("answer", ["text", "json", "jsonl", "markdown"])
def test_a_bundle_gives_the_same_answer_in_every_format(tmp_path: Path, answer: str) -> None:
    (tmp_path / "ss.txt").write_text(SS)
    options = ("--format", answer)
    first = check("--file", "ss.txt", "--report", "report", *options, cwd=tmp_path)
    assert check("--bundle", "report", *options, cwd=tmp_path) == first
    # What it is made of does as well, without what only report.json knows: whose it was.
    (tmp_path / "report" / "report.json").unlink()
    again = check("--bundle", "report", *options, cwd=tmp_path)
    assert "10.4.100.50" in again


def test_files_and_standard_input_are_copied_byte_by_byte_under_their_names(
    tmp_path: Path,
) -> None:
    (tmp_path / "one.txt").write_bytes(SS.encode().rstrip(b"\n") + b" \xff\xfe")
    done = subprocess.run(
        [PROGRAM, "check", "--file", "one.txt", "--file", "-", "--report", "report"],
        cwd=tmp_path,
        input=CONNTRACK.encode(),
        capture_output=True,
        env=environment(),
        check=False,
    )
    assert done.returncode == 1
    assert b"Found 1 connection(s)" in done.stdout
    assert done.stderr == b"synsent-trace: the report is in report\n"
    assert (tmp_path / "report" / "pod_connections.txt").read_bytes() == (
        b"# file one.txt\n"
        + (tmp_path / "one.txt").read_bytes()
        + b"\n# file standard input\n"
        + CONNTRACK.encode()
    )
    assert (tmp_path / "report" / "pod_conntrack_connections.txt").read_text().startswith("# ")


def test_the_answer_is_printed_even_where_the_report_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "ss.txt").write_text(SS)
    rows = "".join(f"SYN-SENT 0 1 10.4.7.21:{port} 10.4.100.50:443\n" for port in range(1, 10_001))
    (tmp_path / "big.txt").write_text(rows)
    # A file may not grow beyond 100 kB here, as on a full disk; Python ignores SIGXFSZ.
    done = run_program(
        *("check", "--file", "big.txt", "--report", "report"),
        prefix=("prlimit", "--fsize=100000", "--"),
        cwd=tmp_path,
    )
    assert done.returncode == 4
    assert done.stdout.startswith("[ISSUE] Found 10000 connection(s)")
    assert "could not be written to report: File too large" in done.stderr
    assert not (tmp_path / "report").exists()
    assert partial(tmp_path) == []


def test_a_reader_that_leaves_early_costs_no_report(tmp_path: Path) -> None:
    (tmp_path / "ss.txt").write_text(SS)
    reading, writing = os.pipe()
    os.close(reading)
    process = subprocess.Popen(
        [PROGRAM, "check", "--file", "ss.txt", "--report", "report"],
        cwd=tmp_path,
        stdout=writing,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    os.close(writing)
    process.communicate(timeout=ENDED_SECONDS)
    assert {one.name for one in (tmp_path / "report").iterdir()} == FILES


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--file", "ss.txt", "--report", "ss.txt"), "--report ss.txt: it exists already"),
        (("--file", "ss.txt", "--report", "no/where"), "there is no directory no"),
        (("--bundle", "report", "--file", "ss.txt"), "more than one thing to check"),
        (("--bundle", "report", "--report", "copy"), "a bundle is not written into another"),
    ],
)
def test_a_report_that_makes_no_sense_is_wrong_usage(
    tmp_path: Path, options: tuple[str, ...], named: str
) -> None:
    (tmp_path / "ss.txt").write_text(SS)
    done = run_program("check", *options, cwd=tmp_path)
    assert done.returncode == 2
    assert named in done.stderr
    assert done.stdout == ""
    assert [one.name for one in tmp_path.iterdir()] == ["ss.txt"]


# --- reading -------------------------------------------------------------------------------------


def test_text_of_another_toolkit_is_read_by_the_names_it_has_there(tmp_path: Path) -> None:
    (tmp_path / "pod_connections.txt").write_text(SS)
    (tmp_path / "pod_conntrack_connections.txt").write_text(CONNTRACK + OTHER_CONNTRACK)
    told = check("--bundle", str(tmp_path), cwd=tmp_path)
    assert told.startswith("[ISSUE] Found 1 connection(s)")
    assert "Not seen: 1 tracked attempt(s) without a socket" in told
    assert "pod_connections.txt and pod_conntrack_connections.txt of " in told


def test_one_of_the_two_files_is_enough(tmp_path: Path) -> None:
    (tmp_path / "pod_conntrack_connections.txt").write_text(CONNTRACK)
    assert "Found 1 connection(s)" in check("--bundle", str(tmp_path), cwd=tmp_path)


def test_a_file_of_which_nothing_can_be_used_is_noted_beside_the_other(tmp_path: Path) -> None:
    (tmp_path / "pod_connections.txt").write_text(SS)
    (tmp_path / "pod_conntrack_connections.txt").write_text("conntrack: command not found\n")
    told = check("--bundle", str(tmp_path), cwd=tmp_path)
    assert "Found 1 connection(s)" in told
    assert re.search(r"Not seen: \S+/pod_conntrack_connections.txt: nothing could be used", told)


@pytest.mark.parametrize("content", [None, "Whose woods these are I think I know\n", ""])
def test_a_directory_with_nothing_to_read_is_an_input_error(
    tmp_path: Path, content: str | None
) -> None:
    if content is not None:
        (tmp_path / "pod_connections.txt").write_text(content)
        (tmp_path / "pod_conntrack_connections.txt").write_text(content)
    done = run_program("check", "--bundle", str(tmp_path))
    assert done.returncode == 5
    assert "pod_connections.txt" in done.stderr
    assert content is not None or "pod_conntrack_connections.txt" in done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


def test_a_directory_that_is_not_there_is_an_input_error(tmp_path: Path) -> None:
    done = run_program("check", "--bundle", str(tmp_path / "missing"))
    assert done.returncode == 5
    assert "missing" in done.stderr


def test_a_damaged_report_is_not_passed_over_for_the_text_beside_it(tmp_path: Path) -> None:
    write(tmp_path / "report", SS.encode())
    (tmp_path / "report" / "report.json").write_text('{"report_version": 1}')
    done = run_program("check", "--bundle", "report", cwd=tmp_path)
    assert done.returncode == 5
    assert "report/report.json is not a report of synsent-trace: target is missing" in done.stderr
    assert done.stdout == ""


def test_scopes_are_those_recorded_unless_more_ranges_are_given(tmp_path: Path) -> None:
    write(tmp_path / "report")
    assert "52.94.10.112:443 (external)" in check("--bundle", "report", cwd=tmp_path)
    anew = check("--bundle", "report", "--vpc-cidr", "52.94.0.0/16", cwd=tmp_path)
    assert "52.94.10.112:443 (VPC/internal)" in anew


# --- one connection, one finding -----------------------------------------------------------------


@pytest.mark.parametrize("order", [("sockets", "tracked"), ("tracked", "sockets")])
def test_a_conntrack_entry_and_its_socket_in_another_file_are_one_connection(
    tmp_path: Path, order: tuple[str, str]
) -> None:
    (tmp_path / "sockets").write_text(SS)
    (tmp_path / "tracked").write_text(CONNTRACK + OTHER_CONNTRACK)
    told = check("--file", order[0], "--file", order[1], "--format", "json", cwd=tmp_path)
    found = json.loads(told)["connections"]
    assert [one["source"]["port"] for one in found] == [40_000]
    assert found[0]["process"]["pid"] == 7


# --- command lines -------------------------------------------------------------------------------


def with_process(process: Process) -> Finding:
    return finding(INSIDE, process=process)


def test_what_looks_like_a_secret_is_masked_and_the_rest_of_a_command_line_is_kept() -> None:
    found = result(with_process(Process(7, "app", None, ("app", "--password=hunter2", "-v"))))
    (one,) = with_command_lines(found, masked).findings
    assert one.process is not None
    assert one.process.command_line == ("app", "--password=***", "-v")


def test_redacted_command_lines_are_programs_alone() -> None:
    found = result(with_process(Process(7, "app", None, ("app", "users", "bob"))), finding())
    one, other = with_command_lines(found, program_only).findings
    assert one.process is not None
    assert one.process.command_line == ("app",)
    assert other.process is None


def test_a_name_that_was_completed_from_the_command_line_is_masked_too() -> None:
    title = "gunicorn: master --password=hunter2"
    (one,) = with_command_lines(result(with_process(Process(7, title))), masked).findings
    assert one.process is not None
    assert one.process.name == "gunicorn: master --password=***"


@pytest.mark.parametrize("read_back", [False, True])
@pytest.mark.parametrize(
    ("options", "quoted"),
    [((), ': "app --password *** users bob"'), (("--redact",), "")],
)
def test_a_line_that_is_quoted_is_no_way_out_for_a_secret(
    tmp_path: Path, options: tuple[str, ...], quoted: str, *, read_back: bool
) -> None:
    (tmp_path / "ss.txt").write_text(f"{SS}app --password hunter2 users bob\n")
    what = ("--file", "ss.txt", *options)
    told = check(*what, "--report", "report", cwd=tmp_path)
    if read_back:
        told = check("--bundle", "report", *options, cwd=tmp_path)
    assert f"Not seen: ss.txt:4: not a line of ss{quoted}." in told
    assert (tmp_path / "report" / "pod_connections.txt").read_text().count("hunter2") == 1
    for name in FILES - {"pod_connections.txt"}:
        assert "hunter2" not in (tmp_path / "report" / name).read_text()


def test_why_a_tool_did_not_do_is_masked_too() -> None:
    rung = Rung("ss -tanpo", 'exit status 1: proxy http://bob:hunter2@host: "no"')
    found = replace(result(), tried=(rung,))
    for rewrite, reason in (
        (masked_text, 'exit status 1: proxy http://bob:***@host: "no"'),
        (without_quotations, "exit status 1: proxy http://bob:***@host"),
    ):
        assert with_lines(found, rewrite).tried == (Rung("ss -tanpo", reason),)


@pytest.mark.parametrize(
    ("options", "kept"), [((), ["app", "--token=***", "x"]), (("--redact",), ["app"])]
)
def test_what_a_bundle_says_of_command_lines_is_masked_again_when_it_is_read(
    tmp_path: Path, options: tuple[str, ...], kept: list[str]
) -> None:
    with Bundle(str(tmp_path / "report")) as bundle:
        process = Process(7, "app", None, ("app", "--token=hunter2", "x"))
        bundle.finish(result(with_process(process)), (), ())
    for answer in ("json", "jsonl"):
        told = check("--bundle", "report", "--format", answer, *options, cwd=tmp_path)
        assert "hunter2" not in told
    (one,) = json.loads(check("--bundle", "report", "--format", "json", *options, cwd=tmp_path))[
        "connections"
    ]
    assert one["process"]["command_args"] == kept
