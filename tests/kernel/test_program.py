"""What a user meets at the command line: exit codes, signals, pipes, filters, leftovers."""

from __future__ import annotations

import json
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from tests.support.client import Client
from tests.support.netns import CLIENT_V4, SERVER_V4, PodPair, drop_forwarded, pod_pair
from tests.support.nobody import as_nobody
from tests.support.tracer import PROGRAM, JsonLines, Tracer, environment, get, run_program
from tests.support.wait import wait_until

PORT = 8443
SEEN_SECONDS = 15
TIMES_NOTHING = 5
NOTHING = """
import os
from tracer.sources import program
from tracer.sources.load_bcc import import_bcc
os.environ["BCC_KERNEL_SOURCE"] = str(program.source_folder() / "headers")
import_bcc().BPF(text=b"int nothing(void *ctx) { return 0; }")
"""
"""What loads a BPF program that does nothing."""
BACKENDS = ("bpf", "poll")
ATTACHED = re.compile(r"^-- BPF attached (?P<seconds>[\d.]+) s after", re.MULTILINE)
PROGRAM_ID = re.compile(r"^prog_id:\s*(\d+)", re.MULTILINE)

# --- how it ends ---------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_trace_with_a_stop_event_and_success(
    tmp_path: Path, number: signal.Signals
) -> None:
    with Tracer(tmp_path) as tracer:
        events = tracer.stop(number)

    assert [events[0]["event"], events[-1]["event"]] == ["tracer.start", "tracer.stop"]


def test_a_signal_keeps_what_was_observed_before_it(tmp_path: Path) -> None:
    with pod_pair() as pods, Tracer(tmp_path) as tracer:
        client = stuck_client(pods)
        tracer.wait_count("attempt.stuck", pods.client.inode, 1, SEEN_SECONDS)
        events = tracer.stop()
        client.kill()

    assert events[-1]["event"] == "tracer.stop"
    assert get(events[-1], "tracer.became_stuck") >= 1


def test_duration_ends_the_trace_with_success(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    began = time.monotonic()
    done = run_program("--node", "--duration", "1", "--jsonl", str(file))

    assert (done.returncode, done.stderr.count("Traceback")) == (0, 0), done.stderr
    assert time.monotonic() - began >= 1
    assert JsonLines(file).read()[-1]["event"] == "tracer.stop"


@pytest.mark.parametrize("something_stuck", [False, True])
def test_a_reader_that_leaves_ends_the_trace_cleanly(*, something_stuck: bool) -> None:
    script = 'set -o pipefail; "$0" --node --jsonl - | head -n 1'
    with pod_pair() as pods:
        if something_stuck:
            stuck_client(pods)
        done = subprocess.run(
            ["bash", "-c", script, str(PROGRAM)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
            env=environment(),
        )

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["event"] == "tracer.start"
    assert not re.search(r"Traceback|Exception|BrokenPipe", done.stderr), done.stderr


def test_killed_without_warning_it_leaves_no_bpf_program(tmp_path: Path) -> None:
    with Tracer(tmp_path, "--backend", "bpf") as tracer:
        programs = bpf_programs_of(tracer.pid)
        assert programs, "the tracer holds no BPF program, so the test shows nothing"
        assert programs <= loaded_bpf_programs()
        tracer.kill()
        wait_until(
            lambda: not programs & loaded_bpf_programs(), SEEN_SECONDS, "its programs' unloading"
        )


# --- what it refuses -----------------------------------------------------------------------------


def test_run_by_nobody_it_says_what_it_needs_and_exits_with_3(tmp_path: Path) -> None:
    done = run_program("--node", "--duration", "1", prefix=as_nobody(tmp_path), cwd=Path("/"))

    assert done.returncode == 3, done.stderr
    assert re.search(r"\broot\b|\bsudo\b|\bCAP_[A-Z]+", done.stderr), done.stderr
    assert "Traceback" not in done.stderr
    assert not done.stdout


def test_a_vpc_cidr_that_is_none_is_named_and_exits_with_2() -> None:
    done = run_program("--node", "--duration", "1", "--vpc-cidr", "nonsense")

    assert done.returncode == 2, done.stderr
    assert "nonsense" in done.stderr
    assert "Traceback" not in done.stderr


def test_bpf_attaches_without_tracefs(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    hide_tracefs = """
        for type in tracefs debugfs; do
            while path=$(findmnt --noheadings --first-only --output TARGET --types $type); do
                umount --lazy "$path"
            done
        done
        exec "$@"
    """
    before = tracing_mounts()
    done = run_program(
        *("--node", "--backend", "bpf", "--duration", "1", "--jsonl", str(file)),
        prefix=["unshare", "--mount", "--propagation=private", "sh", "-euc", hide_tracefs, "sh"],
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert tracing_mounts() == before
    assert get(JsonLines(file).read()[0], "tracer.backend") == "bpf"


def test_in_a_pid_namespace_of_its_own_it_says_what_it_cannot_see(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    done = run_program(
        *("--node", "--backend", "poll", "--duration", "1", "--jsonl", str(file)),
        prefix=["unshare", "--pid", "--fork", "--mount-proc"],
    )

    assert done.returncode == 0, done.stderr
    assert "hostPID: true" in str(get(JsonLines(file).read()[0], "tracer.lacking"))


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_standard_descriptors_cost_nothing_but_what_would_be_there(
    tmp_path: Path, closed: str
) -> None:
    file = tmp_path / "events.jsonl"
    done = run_program(
        *("--node", "--backend", "bpf", "--duration", "1", "--jsonl", str(file)),
        prefix=["sh", "-c", f'exec "$@" {closed}', "sh"],
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert [event["event"] for event in JsonLines(file).read()][-1] == "tracer.stop"


def test_json_lines_to_a_closed_stdout_end_the_trace_cleanly(tmp_path: Path) -> None:
    done = run_program(
        *("--node", "--jsonl", "-"), prefix=["sh", "-c", 'exec "$@" >&-', "sh"], cwd=tmp_path
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


# --- what a first look shows ---------------------------------------------------------------------


def test_a_stuck_connect_is_a_line_on_stdout_after_bpf_was_attached(tmp_path: Path) -> None:
    with pod_pair() as pods, Tracer(tmp_path) as tracer:
        client = stuck_client(pods)
        line = re.compile(
            rf" STUCK {CLIENT_V4}:\d+ +-> {SERVER_V4}:{PORT} .* netns {pods.client.inode}\b"
        )
        tracer.wait(lambda: line.search(tracer.stdout), SEEN_SECONDS, "its line")
        client.go()
        tracer.stop()

    attached, stuck = ATTACHED.search(tracer.stdout), line.search(tracer.stdout)
    assert attached is not None, tracer.stdout
    assert stuck is not None
    assert attached.end() < stuck.start()


def test_the_trace_starts_for_a_few_times_what_a_program_that_does_nothing_takes() -> None:
    """CPU time, beside that of the least that bcc can do: a slow machine is slow for both."""
    took, least = [], []
    for _ in range(3):
        start, seconds = cpu_seconds_of(lambda: run_program("--node", "--duration", "0.1"))
        assert ATTACHED.search(start.stdout), start.stdout + start.stderr
        took.append(seconds)
        nothing = (sys.executable, "-c", NOTHING)
        _, seconds = cpu_seconds_of(partial(subprocess.run, nothing, check=True, timeout=60))
        least.append(seconds)
    print(f"{min(took):.2f} s of CPU, {min(least):.2f} s for nothing")
    assert min(took) <= TIMES_NOTHING * min(least)


def cpu_seconds_of(
    run: Callable[[], subprocess.CompletedProcess[str]],
) -> tuple[subprocess.CompletedProcess[str], float]:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = run()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return done, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


# --- where it writes -----------------------------------------------------------------------------


def test_with_jsonl_on_stdout_nothing_else_is_there(tmp_path: Path) -> None:
    with pod_pair() as pods, Tracer(tmp_path, jsonl="-") as tracer:
        client = stuck_client(pods)
        tracer.wait_count("attempt.stuck", pods.client.inode, 1, SEEN_SECONDS)
        client.go()
        tracer.wait_count("attempt.end", pods.client.inode, 1, SEEN_SECONDS)
        tracer.stop()
        lines = tracer.stdout.splitlines()

    events = [json.loads(line)["event"] for line in lines]
    assert {"tracer.start", "attempt.stuck", "attempt.end", "tracer.stop"} <= set(events)


def test_a_full_disk_is_said_once_and_the_trace_goes_on(tmp_path: Path) -> None:
    with pod_pair() as pods, Tracer(tmp_path, jsonl="/dev/full") as tracer:
        client = stuck_client(pods)
        destination = f"{SERVER_V4}:{PORT}"
        tracer.wait(lambda: destination in tracer.stdout, SEEN_SECONDS, "a line about it")
        client.go()
        tracer.wait(lambda: "aborted" in tracer.stdout, SEEN_SECONDS, "a line about its end")
        tracer.stop()

    complaints = [line for line in tracer.stderr.splitlines() if "No space left" in line]
    assert len(complaints) == 1, tracer.stderr
    assert "/dev/full" in complaints[0]


# --- what it leaves out --------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
def test_only_the_process_asked_for_is_reported(tmp_path: Path, backend: str) -> None:
    with pod_pair() as pods:
        drop_forwarded(pods)
        wanted = Client(pods.client, SERVER_V4, PORT, "--wait", "--hold")
        wanted.wait_ready()
        earlier = stuck_client(pods)
        what = ("--pid", str(wanted.pid))
        with Tracer(tmp_path, "--backend", backend, what=what) as tracer:
            # The others are stuck first, and over first.
            later = stuck_client(pods)
            later.wait_opened()
            wanted.go()
            tracer.wait_count("attempt.stuck", pods.client.inode, 1, SEEN_SECONDS)
            for client in (earlier, later, wanted):
                client.go()
                client.finish()
            tracer.wait_count("attempt.end", pods.client.inode, 1, SEEN_SECONDS)
            events = [event for event in tracer.stop() if "attempt" in event]

    assert {get(event, "process.pid") for event in events} == {wanted.pid}
    assert len({get(event, "attempt.id") for event in events}) == 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_only_the_namespace_asked_for_is_reported(tmp_path: Path, backend: str) -> None:
    with pod_pair() as wanted, pod_pair() as other:
        what = ("--netns", str(wanted.client.inode))
        with Tracer(tmp_path, "--backend", backend, what=what) as tracer:
            clients = [stuck_client(pods) for pods in (other, wanted)]
            tracer.wait_count("attempt.stuck", wanted.client.inode, 1, SEEN_SECONDS)
            wait_until(
                lambda: other.client.counter("TCPSynRetrans"), SEEN_SECONDS, "the other's SYN"
            )
            for client in clients:
                client.go()
                client.finish()
            tracer.wait_count("attempt.end", wanted.client.inode, 1, SEEN_SECONDS)
            events = [event for event in tracer.stop() if "attempt" in event]

    assert {event["netns"] for event in events} == {wanted.client.inode}


def stuck_client(pods: PodPair) -> Client:
    """An application that waits for an answer that never comes, until it is told to go."""
    drop_forwarded(pods)
    return Client(pods.client, SERVER_V4, PORT, "--hold")


def tracing_mounts() -> list[str]:
    """Mounts of this machine that tracing needs."""
    mounts = Path("/proc/self/mounts").read_text().splitlines()
    return [mount for mount in mounts if mount.split()[2] in {"tracefs", "debugfs"}]


def bpf_programs_of(pid: int) -> set[int]:
    """Ids of the BPF programs that a process holds open."""
    programs: set[int] = set()
    for path in Path(f"/proc/{pid}/fdinfo").iterdir():
        with suppress(FileNotFoundError):  # It was closed meanwhile.
            programs.update(map(int, PROGRAM_ID.findall(path.read_text())))
    return programs


def loaded_bpf_programs() -> set[int]:
    listing = subprocess.run(
        ["bpftool", "prog", "show", "--json"], capture_output=True, check=True, timeout=20
    )
    return {program["id"] for program in json.loads(listing.stdout)}
