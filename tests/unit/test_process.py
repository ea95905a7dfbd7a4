"""Processes read from this machine's /proc, and what is kept of them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from tracer.host import process as process_module
from tracer.host.cgroup import CgroupIdentity
from tracer.host.process import (
    ELLIPSIS,
    MAX_ARGUMENTS,
    MAX_COMMAND_LINE_BYTES,
    MAX_NAME_CHARACTERS,
    ProcessTable,
    _arguments,
)
from tracer.model import NANOSECONDS, Owner, Process

Start = Callable[..., "subprocess.Popen[bytes]"]

CAT = os.path.realpath("/bin/cat")


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts cat, by whatever name, to live until the test ends."""
    with ExitStack() as stack:

        def starting(*argv: str | bytes, executable: Path | None = None) -> subprocess.Popen[bytes]:
            child = subprocess.Popen(
                argv,
                executable=executable,
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
            stack.enter_context(child)
            # Popen returns before execve() has put the command line in place: cat's echo is later.
            assert child.stdin is not None
            assert child.stdout is not None
            child.stdin.write(b"\n")
            assert child.stdout.read(1) == b"\n"
            return child

        yield starting


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The pids that were read, in order."""
    pids: list[int] = []
    read = process_module._read

    def counting(pid: int) -> process_module._Entry | None:
        pids.append(pid)
        return read(pid)

    monkeypatch.setattr(process_module, "_read", counting)
    return pids


def described(pid: int, *, comm: str | None = None, not_after_ns: int | None = None) -> Process:
    found = ProcessTable().describe(Owner(pid=pid, comm=comm), not_after_ns=not_after_ns)
    assert found is not None
    return found


def end(child: subprocess.Popen[bytes]) -> None:
    child.kill()
    child.wait()


def test_living_process_has_name_executable_and_command_line(start: Start) -> None:
    child = start(CAT, "-u", "", "-")
    assert described(child.pid) == Process(
        pid=child.pid, name="cat", executable=CAT, command_line=(CAT, "-u", "", "-")
    )


def test_process_in_a_container_has_its_container_and_pod(monkeypatch: pytest.MonkeyPatch) -> None:
    identity = CgroupIdentity(container_id="c" * 64, pod_uid="p" * 32)
    monkeypatch.setattr(process_module, "read_cgroup", lambda _: identity)
    found = described(os.getpid())
    assert (found.container_id, found.pod_uid) == ("c" * 64, "p" * 32)
    assert found.command_line is not None


def test_process_of_the_host_has_its_systemd_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    identity = CgroupIdentity(unit="kubelet.service")
    monkeypatch.setattr(process_module, "read_cgroup", lambda _: identity)
    found = described(os.getpid())
    assert (found.unit, found.container_id, found.pod_uid) == ("kubelet.service", None, None)


def test_process_whose_cgroup_cannot_be_read_is_described_without(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def denied(pid: int) -> CgroupIdentity:
        raise PermissionError(13, "Permission denied", f"/proc/{pid}/cgroup")

    monkeypatch.setattr(process_module, "read_cgroup", denied)
    found = described(os.getpid())
    assert (found.container_id, found.pod_uid) == (None, None)
    assert found.name is not None


@pytest.mark.parametrize("pid", [None, 0, -1])
def test_owner_without_a_process_has_no_description(pid: int | None) -> None:
    assert ProcessTable().describe(Owner(pid=pid, comm="swapper/0")) is None


def test_process_already_gone_keeps_what_the_kernel_saw(start: Start) -> None:
    child = start("cat")
    end(child)
    assert described(child.pid, comm="cat") == Process(pid=child.pid, name="cat")
    assert described(child.pid) == Process(pid=child.pid)


def test_zombie_has_the_name_that_is_left_of_it(start: Start) -> None:
    child = start("cat")
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert described(child.pid) == Process(pid=child.pid, name="cat")


@pytest.mark.parametrize("error", [psutil.AccessDenied, psutil.NoSuchProcess, psutil.ZombieProcess])
@pytest.mark.parametrize(("method", "attribute"), [("name", "name"), ("exe", "executable")])
def test_field_that_fails_is_unknown_and_the_others_are_not(
    error: type[psutil.Error], method: str, attribute: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = described(os.getpid())

    def failing(self: psutil.Process) -> str:
        raise error(self.pid)

    monkeypatch.setattr(psutil.Process, method, failing)
    found = described(os.getpid())
    for name in ("name", "executable", "command_line"):
        expected = None if name == attribute else getattr(whole, name)
        assert getattr(found, name) == expected


def test_command_line_that_cannot_be_read_is_unknown_and_the_rest_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opening = os.open

    def denying(path: str, flags: int) -> int:
        if path.endswith("/cmdline"):
            raise PermissionError(13, "Permission denied", path)
        return opening(path, flags)

    monkeypatch.setattr(os, "open", denying)
    found = described(os.getpid())
    assert found.command_line is None
    assert found.name is not None
    assert found.executable is not None


def test_executable_that_is_denied_is_not_guessed_from_the_arguments(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(self: psutil.Process) -> str:
        raise psutil.AccessDenied(self.pid)

    monkeypatch.setattr("psutil._pslinux.Process.exe", denied)
    assert described(start(CAT).pid).executable is None


def test_psutil_never_reads_a_command_line_itself(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unbounded(_: object) -> list[str]:
        raise AssertionError("read without bound")

    monkeypatch.setattr("psutil._pslinux.Process.cmdline", unbounded)
    program = tmp_path / "name-of-15-bytes-and-more"
    program.symlink_to(CAT)
    found = described(start(str(program)).pid)
    assert found.name == "name-of-15-bytes-and-more"
    assert found.command_line == (str(program),)


def test_name_completed_from_the_arguments_is_bounded(start: Start, tmp_path: Path) -> None:
    program = tmp_path / "fifteen-bytes-x"
    program.symlink_to(CAT)
    name = described(start("fifteen-bytes-x" + "y" * 1_000, executable=program).pid).name
    assert name is not None
    assert len(name) == MAX_NAME_CHARACTERS


def test_long_command_line_is_cut_at_4_kib_and_says_so(start: Start) -> None:
    command_line = described(start(CAT, "-u", "-", "x" * 10_000).pid).command_line
    assert command_line is not None
    assert command_line[:3] == (CAT, "-u", "-")
    assert command_line[3].endswith("x" + ELLIPSIS)
    size = len("\0".join(command_line).removesuffix(ELLIPSIS))
    assert size == MAX_COMMAND_LINE_BYTES


def test_bytes_that_are_no_text_can_still_be_written_anywhere(start: Start, tmp_path: Path) -> None:
    program = os.fsencode(tmp_path) + b"/\xff"
    Path(os.fsdecode(program)).symlink_to(CAT)
    found = described(start(program, b"\xe2\x82\xac\xfe", "-").pid)
    assert found.command_line == (f"{tmp_path}/\\xff", "€\\xfe", "-")
    assert found.name == "\\xff"


@pytest.mark.parametrize(
    ("data", "arguments"),
    [
        (b"", ()),
        (b"\0\0\0", ()),
        (b"a\0b c\0", ("a", "b c")),
        (b"a\0\0b\0", ("a", "", "b")),
        (b"nginx: worker process\0\0\0\0", ("nginx: worker process",)),
        (b"no terminator", ("no terminator",)),
        (b"x" * MAX_COMMAND_LINE_BYTES, ("x" * MAX_COMMAND_LINE_BYTES,)),
        (b"x" * (MAX_COMMAND_LINE_BYTES + 1), ("x" * MAX_COMMAND_LINE_BYTES + ELLIPSIS,)),
        # A euro sign takes three bytes, of which the limit cuts off one.
        ("x€".encode() * 1_025, ("x€" * 1_024 + ELLIPSIS,)),
        (b"xx" + "€".encode() * 1_366, ("xx" + "€" * 1_364 + ELLIPSIS,)),
        (b"a\0" * MAX_ARGUMENTS, ("a",) * MAX_ARGUMENTS),
        (b"a\0" * (MAX_ARGUMENTS + 1), ("a",) * MAX_ARGUMENTS + (ELLIPSIS,)),
        (b"a\0" * 10_000, ("a",) * MAX_ARGUMENTS + (ELLIPSIS,)),
        (b"\0" * 10_000, ("",) * MAX_ARGUMENTS + (ELLIPSIS,)),
    ],
)
def test_arguments_are_split_and_bounded(data: bytes, arguments: tuple[str, ...]) -> None:
    assert _arguments(data) == arguments


def test_process_is_read_once(start: Start, reads: list[int]) -> None:
    table = ProcessTable()
    owner = Owner(pid=start("cat").pid, comm="cat")
    first = table.describe(owner)
    assert table.describe(owner) is first
    assert table.describe(owner, not_after_ns=time.monotonic_ns()) is first
    assert reads == [owner.pid]


def test_process_read_while_it_lived_is_still_known_after_its_end(start: Start) -> None:
    table = ProcessTable()
    child = start(CAT, "-u")
    owner = Owner(pid=child.pid, comm="cat")
    connected_ns = time.monotonic_ns()
    alive = table.describe(owner, not_after_ns=connected_ns)
    end(child)
    assert alive is not None
    assert alive.command_line == (CAT, "-u")
    assert table.describe(owner, not_after_ns=connected_ns) == alive


def test_process_gone_before_an_attempt_began_is_not_blamed_for_it(start: Start) -> None:
    table = ProcessTable()
    child = start(CAT)
    owner = Owner(pid=child.pid, comm="cat")
    table.describe(owner)
    end(child)
    gone = Process(pid=child.pid, name="cat")
    assert table.describe(owner, not_after_ns=time.monotonic_ns()) == gone
    assert table.describe(owner) == gone


def test_process_seen_again_extends_the_time_it_is_known_for(start: Start) -> None:
    table = ProcessTable()
    child = start(CAT)
    owner = Owner(pid=child.pid, comm="cat")
    table.describe(owner)
    connected_ns = time.monotonic_ns()
    alive = table.describe(owner, not_after_ns=connected_ns)
    end(child)
    assert table.describe(owner, not_after_ns=connected_ns) == alive


def test_next_process_of_the_same_pid_is_read_anew(
    reads: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    table = ProcessTable()
    owner = Owner(pid=os.getpid(), comm="python")
    table.describe(owner)
    monkeypatch.setattr(process_module, "_generation", lambda _: 1)
    table.describe(owner)
    assert reads == [os.getpid(), os.getpid()]


def test_pid_that_changes_hands_while_it_is_read_is_not_described(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    numbers = iter(range(10))
    monkeypatch.setattr(process_module, "_generation", lambda _: next(numbers))
    assert described(os.getpid(), comm="curl") == Process(pid=os.getpid(), name="curl")


def test_process_created_after_the_connect_is_not_blamed(start: Start) -> None:
    before_ns = time.monotonic_ns()
    child = start(CAT)
    long_before_ns = before_ns - NANOSECONDS
    expected = Process(pid=child.pid, name="curl")
    assert described(child.pid, comm="curl", not_after_ns=long_before_ns) == expected
    table = ProcessTable()
    owner = Owner(pid=child.pid, comm="curl")
    assert table.describe(owner) != expected
    assert table.describe(owner, not_after_ns=long_before_ns) == expected, "from the cache"


def test_process_that_connects_as_soon_as_it_is_created_is_blamed(start: Start) -> None:
    child = start(CAT)
    assert described(child.pid, not_after_ns=time.monotonic_ns()).executable == CAT


def test_start_time_agrees_with_the_clock_around_it(start: Start) -> None:
    before_ns = time.monotonic_ns()
    child = start("cat")
    after_ns = time.monotonic_ns()
    started_ns = process_module.start_of(child.pid)
    assert started_ns is not None
    tick_ns = NANOSECONDS // os.sysconf("SC_CLK_TCK")
    # Truncated to the tick; a millisecond for two clocks that are not read at once.
    assert before_ns - tick_ns - 1_000_000 <= started_ns <= after_ns + 1_000_000


def test_start_time_is_found_behind_a_hostile_comm(start: Start, tmp_path: Path) -> None:
    program = tmp_path / ") R 1 (x) 1 2"
    program.symlink_to(CAT)
    plain, hostile = start("cat"), start(program.as_posix())
    plain_ns, hostile_ns = (process_module.start_of(child.pid) for child in (plain, hostile))
    assert plain_ns is not None
    assert hostile_ns is not None
    assert plain_ns - 1_000_000 <= hostile_ns < plain_ns + 10 * NANOSECONDS


def test_program_run_by_execve_in_the_same_process_is_read_anew() -> None:
    table = ProcessTable()
    script = "echo ready; read line; exec cat"
    child = subprocess.Popen(
        ["sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    )
    with child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        before = table.describe(Owner(pid=child.pid, comm="sh"))
        child.stdin.write(b"go\nfrom cat\n")
        assert child.stdout.readline() == b"from cat\n"
        after = table.describe(Owner(pid=child.pid, comm="cat"))
    assert before is not None
    assert after is not None
    assert before.command_line == ("sh", "-c", script)
    assert after.command_line == ("cat",)


def test_table_forgets_the_process_not_asked_for_longest(start: Start, reads: list[int]) -> None:
    table = ProcessTable(size=2)
    first, second, third = (Owner(pid=start("cat").pid, comm="cat") for _ in range(3))
    for owner in (first, second, first, third, first):
        table.describe(owner)
    assert reads == [first.pid, second.pid, third.pid]
    table.describe(second)
    assert reads[3:] == [second.pid]
    assert len(table._entries) == 2


def test_psutil_is_not_loaded_before_it_is_needed() -> None:
    code = (
        "import sys; import tracer.host.process as p; p.ProcessTable(); "
        "sys.exit('psutil' in sys.modules)"
    )
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True)
