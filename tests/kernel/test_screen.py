"""The screen in real terminals: what it shows of real sockets, and what it leaves behind."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import product
from pathlib import Path

import pytest

from tests.support.client import Client, listen
from tests.support.netns import (
    SERVER_EXTERNAL,
    SERVER_V4,
    PodPair,
    drop_forwarded,
    pod_pair,
)
from tests.support.terminal import Pty, Tmux, command, tmux
from tests.support.tracer import PROGRAM, JsonLines, environment, get, run_program
from tests.support.wait import wait_until

REPOSITORY = Path(__file__).parents[2]
PORT = 8443
SEEN_SECONDS = 30
END_SECONDS = 15
TERMS = ("xterm-256color", "screen", "linux")
SIZES = ((80, 24), (140, 40))

SESSION_BREAKS = """
import sys
from pathlib import Path
from tracer import session
from tracer.cli import main
taken, now = session.Session._take, Path(__file__).with_name("now")
def take(self, batches):
    taken(self, batches)
    if now.exists():
        raise RuntimeError("made to fail")
session.Session._take = take
sys.exit(main(sys.argv[1:]))
"""
SCREEN_BREAKS = """
import sys
from pathlib import Path
from tracer.screen import main as screen
from tracer.cli import main
header, now = screen.header, Path(__file__).with_name("now")
def broken(*arguments, **options):
    if now.exists():
        raise RuntimeError("made to fail")
    return header(*arguments, **options)
screen.header = broken
sys.exit(main(sys.argv[1:]))
"""
"""Programs that break once there is a file called "now" beside them."""

SURE = "why  dropped-here (high): "
"""What the screen says once two SYNs of the row under the cursor were seen to be dropped."""

beside = pytest.mark.usefixtures("side_by_side")


@contextmanager
def silent_pods() -> Iterator[PodPair]:
    """A pod that nothing will answer."""
    with pod_pair() as made:
        drop_forwarded(made)
        yield made


def stick(pods: PodPair) -> None:
    """Four sockets that are stuck."""
    Client(pods.client, SERVER_V4, PORT, "--count", "3", "--hold")
    Client(pods.client, SERVER_EXTERNAL, 443, "--hold")


@contextmanager
def stuck_pods() -> Iterator[PodPair]:
    with silent_pods() as made:
        stick(made)
        yield made


def plain_environment(**more: str) -> dict[str, str]:
    kept = environment()
    for name in ("COLUMNS", "LINES", "NO_COLOR", "TMUX", "LC_ALL"):
        kept.pop(name, None)
    return kept | {"LANG": "C.UTF-8"} | more


def options_for(pods: PodPair, *more: str) -> list[str]:
    """Only the test's own namespace: the machine is shared."""
    return ["--netns", str(pods.client.inode), "--node-name", "node-1", *more]


def begin(terminal: Tmux, pods: PodPair, *more: str, first: bool = False) -> str:
    """Starts the program in the shell; the screen once it shows what is stuck.

    With `first` the sockets are opened once it traces: of those that are older it may see one SYN
    in half a minute, and is sure after two.
    """
    terminal.type(f"{command(PROGRAM, *options_for(pods, *more))}; echo status=$?")
    if first:
        terminal.wait_for("BPF ok", SEEN_SECONDS)
        stick(pods)
    text = terminal.wait_for(f"{SERVER_EXTERNAL}:443", SEEN_SECONDS)
    wait_until(lambda: "STUCK 4" in terminal.text(), SEEN_SECONDS, "all that are stuck")
    return text


def is_sane(terminal: Tmux, status: str = "status=0", *, left: bool = True) -> str:
    """Whether the shell can be worked with, and nothing of the screen is left.

    `left` is whether the program left it: tmux stays on the alternate screen for `reset`.
    """
    terminal.wait_for(status, END_SECONDS)
    if left:
        wait_until(lambda: terminal.flag("alternate_on") == "0", END_SECONDS, "the first screen")
    for flag in ("mouse_any_flag", "mouse_sgr_flag", "mouse_standard_flag", "mouse_all_flag"):
        assert terminal.flag(flag) == "0", flag
    assert terminal.flag("cursor_flag") == "1"
    assert terminal.flag("wrap_flag") == "1"
    text = terminal.text()
    assert "q quit" not in text
    assert "Traceback" not in text
    terminal.type("clear; stty -a; echo typed-$((40 + 2))")
    said = terminal.wait_for("typed-42")
    # reset(1) does not think of iexten: ^V and ^O, which no shell's line editor leaves to it.
    words = [" icanon", " echo", " isig", " icrnl", " ixon", " opost"]
    for word in [*words, " iexten"] if left else words:
        assert word in said.replace("\n", " "), word
    return text


# --- what it shows, and how it ends --------------------------------------------------------------

ENDS = ("q", "C-c", signal.SIGTERM, "q", "C-c", signal.SIGINT)


@beside
@pytest.mark.parametrize(
    ("term", "size", "end"),
    [(term, size, end) for (term, size), end in zip(product(TERMS, SIZES), ENDS, strict=True)],
)
def test_real_stuck_sockets_are_on_the_screen_of_every_terminal_which_is_sane_afterwards(
    folder: Path, term: str, size: tuple[int, int], end: str | signal.Signals
) -> None:
    events = folder / "events.jsonl"
    with (
        silent_pods() as pods,
        tmux(folder, plain_environment(), size=size, term=term) as terminal,
    ):
        begin(terminal, pods, "--jsonl", str(events), first=True)
        text = terminal.wait_for(SURE, SEEN_SECONDS)
        keep(text, f"{term}-{size[0]}x{size[1]}")
        assert f"{SERVER_V4}:{PORT}" in text
        assert "BPF ok" in text
        assert re.search(r"drop-here(?!\?)|dropped-here \(high\)", text)
        assert text.isascii() == (term == "linux")
        terminal.wait_for("next lsns -t net")  # by the facts: it died in no namespace of its own
        terminal.press("Enter")
        text = terminal.wait_for("attempts over time")
        terminal.press("End")
        text += terminal.wait_for("course of the first attempt")
        keep(text, f"{term}-{size[0]}x{size[1]}-detail")
        terminal.press("Escape")
        terminal.wait_for("q quit")
        if isinstance(end, signal.Signals):
            os.kill(pid_of(pods, folder), end)
        else:
            terminal.press(end)
        text = is_sane(terminal)
        assert "-- stopped" in text
        assert "-- still stuck 4" in text
    assert JsonLines(events).read()[-1]["event"] == "tracer.stop"


@beside
def test_without_colours_none_is_sent_and_the_set_duration_ends_the_screen(folder: Path) -> None:
    with stuck_pods() as pods, tmux(folder, plain_environment(NO_COLOR="1")) as terminal:
        begin(terminal, pods, "--duration", "6")
        assert not re.findall(r"\x1b\[(?:[0-9;]*;)?[34][0-8](?:;[0-9;]+)?m", terminal.colours())
        is_sane(terminal)


@beside
def test_a_resized_terminal_gets_a_screen_of_its_size_and_who_is_helped_is_established(
    folder: Path,
) -> None:
    with pod_pair() as own, tmux(folder, plain_environment(), size=(140, 40)) as terminal:
        drop_forwarded(own)
        listen(own.server, PORT)
        Client(own.client, SERVER_V4, PORT, "--hold")
        terminal.type(f"{command(PROGRAM, *options_for(own))}; echo status=$?")
        terminal.wait_for("STUCK 1", SEEN_SECONDS)
        assert "VPC/internal" in terminal.text()
        terminal.resize(80, 24)
        wait_until(
            lambda: "VPC/internal" not in terminal.text() and "q quit" in terminal.text(),
            END_SECONDS,
            "the narrow table",
        )
        own.router.run(["iptables", "-F", "FORWARD"])
        terminal.wait_for("1 established", SEEN_SECONDS)
        terminal.wait_for("nothing is stuck", SEEN_SECONDS)
        terminal.press("q")
        is_sane(terminal)


@beside
@pytest.mark.parametrize("broken", [SESSION_BREAKS, SCREEN_BREAKS], ids=["trace", "screen"])
def test_a_defect_is_told_in_a_sane_terminal(folder: Path, broken: str) -> None:
    script = folder / "broken.py"
    script.write_text(broken)
    with (
        stuck_pods() as pods,
        tmux(folder, plain_environment(PYTHONPATH=str(REPOSITORY))) as terminal,
    ):
        terminal.type(
            f"{command(Path(sys.executable), str(script), *options_for(pods))}; echo status=$?"
        )
        terminal.wait_for("q quit", SEEN_SECONDS)
        (folder / "now").touch()
        text = is_sane(terminal, "status=4")
        assert "made to fail" in text
        assert "this is a defect" in text.replace("\n", "")


@beside
def test_after_kill_9_reset_makes_the_terminal_sane(folder: Path) -> None:
    with stuck_pods() as pods, tmux(folder, plain_environment()) as terminal:
        begin(terminal, pods, "--jsonl", str(folder / "events.jsonl"))
        os.kill(pid_of(pods, folder), signal.SIGKILL)
        wait_until(lambda: terminal.flag("mouse_any_flag") == "1", END_SECONDS, "what is left")
        # What `reset` cannot be seen to type into: a raw terminal wants a line feed.
        terminal.press("C-j")
        terminal.press(*"reset")
        terminal.press("C-j")
        wait_until(lambda: terminal.flag("mouse_any_flag") == "0", END_SECONDS, "reset")
        wait_until(lambda: terminal.text().strip(), END_SECONDS, "the shell's prompt")

        def answers() -> bool:  # reset(1) throws away what is typed meanwhile
            terminal.type("echo status=$((0))")
            return "status=0" in terminal.text()

        wait_until(answers, END_SECONDS, "the shell")
        is_sane(terminal, left=False)


@beside
def test_a_terminal_that_is_closed_ends_the_trace(folder: Path) -> None:
    with stuck_pods() as pods, tmux(folder, plain_environment()) as terminal:
        begin(terminal, pods, "--jsonl", str(folder / "events.jsonl"))
        pid = pid_of(pods, folder)
        terminal.kill()
        wait_until(lambda: not Path(f"/proc/{pid}").exists(), END_SECONDS, "its end")
    assert JsonLines(folder / "events.jsonl").read()[-1]["event"] == "tracer.stop"


# --- a terminal that does not read ---------------------------------------------------------------


@beside
def test_a_terminal_that_stops_reading_costs_no_event(folder: Path) -> None:
    """As after Ctrl-S: the trace goes on, and ends when it is told to."""
    file = folder / "events.jsonl"
    stopped_seconds = float(os.environ.get("STOPPED_SECONDS", "8"))
    with pod_pair() as own:
        drop_forwarded(own)
        argv = [str(PROGRAM), *options_for(own, "--jsonl", str(file))]
        with Pty(argv, plain_environment(TERM="xterm-256color")) as terminal:
            terminal.wait_for(b"quit", SEEN_SECONDS)
            terminal.stop_reading()
            events = JsonLines(file)
            began = time.monotonic()
            for batch in range(1, 4):
                Client(own.client, SERVER_V4, PORT + batch, "--count", "150", "--hold")
                wait_until(
                    lambda wanted=150 * batch: stuck_in(events) >= wanted,  # type: ignore[misc]
                    SEEN_SECONDS,
                    "the events of clients while nobody reads",
                )
            wait_until(lambda: time.monotonic() - began > stopped_seconds, 60, "that time")
            os.kill(terminal.process.pid, signal.SIGTERM)
            assert terminal.process.wait(END_SECONDS) == 0
    last = events.read()[-1]
    assert last["event"] == "tracer.stop"
    assert get(last, "tracer.losses.output_dropped") == 0
    assert get(last, "tracer.became_stuck") == stuck_in(events) >= 450


@beside
def test_a_terminal_that_reads_again_shows_the_present(folder: Path) -> None:
    events = folder / "events.jsonl"
    with stuck_pods() as pods:
        argv = [str(PROGRAM), *options_for(pods, "--jsonl", str(events))]
        with Pty(argv, plain_environment(TERM="xterm-256color")) as terminal:
            terminal.wait_for(b"STUCK 4", SEEN_SECONDS)
            terminal.stop_reading()
            Client(pods.client, SERVER_V4, PORT + 1, "--count", "5", "--hold")
            wait_until(lambda: stuck_in(JsonLines(events)) >= 9, SEEN_SECONDS, "five more")
            terminal.forget()
            terminal.go_on_reading()
            terminal.wait_for(b"STUCK 9", END_SECONDS)
            terminal.press(b"q")
            assert terminal.process.wait(END_SECONDS) == 0
            assert b"\x1b[?1049l" in terminal.said


# --- keys that write -----------------------------------------------------------------------------


@beside
def test_r_records_and_w_writes_a_report_that_check_reads(folder: Path) -> None:
    here = folder / "here"
    here.mkdir()
    with silent_pods() as pods, tmux(folder, plain_environment(), size=(140, 40)) as terminal:
        terminal.type(f"cd {here}")
        begin(terminal, pods, first=True)
        terminal.wait_for(SURE, SEEN_SECONDS)
        terminal.press("r")
        terminal.wait_for("REC ")
        wait_until(lambda: list(here.glob("*.jsonl")), END_SECONDS, "the recording")
        (recording,) = here.glob("*.jsonl")
        wait_until(lambda: stuck_in(JsonLines(recording), kind=None) >= 4, END_SECONDS, "events")
        terminal.press("r")
        wait_until(lambda: "REC " not in terminal.text(), END_SECONDS, "its end")
        terminal.press("w")
        terminal.wait_for("report written", END_SECONDS)
        terminal.press("q")
        is_sane(terminal)
    (report,) = [path for path in here.iterdir() if path.is_dir()]
    told = (report / "report.md").read_text()
    assert "dropped-here (high)" in told
    assert "nsenter" in told  # the node is another namespace than the one the SYN died in
    verdicts = {
        json.loads(line)["verdict"]["cause"]
        for line in (report / "events.jsonl").read_text().splitlines()
    }
    assert "dropped-here" in verdicts
    done = run_program("check", "--bundle", str(report))
    assert "[ISSUE] Found 4 connection(s)" in done.stdout
    assert "dropped-here (high)" in done.stdout


# --- where there is no screen --------------------------------------------------------------------


@beside
@pytest.mark.parametrize(
    ("more", "term"),
    [(["--plain"], "xterm-256color"), ([], "dumb"), (["--jsonl", "-"], "xterm")],
    ids=["plain", "dumb", "jsonl"],
)
def test_lines_are_written_where_no_screen_is_wanted(
    folder: Path, more: list[str], term: str
) -> None:
    del folder
    with stuck_pods() as pods:
        argv = [str(PROGRAM), *options_for(pods, "--duration", "12", *more)]
        with Pty(argv, plain_environment(TERM=term)) as terminal:
            word = b"attempt.stuck" if more == ["--jsonl", "-"] else b"STUCK"
            terminal.wait_for(word, SEEN_SECONDS)
            assert terminal.process.wait(SEEN_SECONDS) == 0
            assert b"\x1b" not in terminal.said
    if word == b"STUCK":  # sums, after ten seconds and at the end
        said = terminal.said.decode()
        assert re.search(r"^-- \d\d:\d\d:\d\d stuck 4 \(peak 4\)", said, re.MULTILINE), said
        assert "-- still stuck 4 (peak 4)" in said


# --- help ----------------------------------------------------------------------------------------


def keep(text: str, name: str) -> None:
    """SHOW_SCREEN names a folder for pictures to look at."""
    folder = os.environ.get("SHOW_SCREEN")
    if folder:
        Path(folder, f"{name}.txt").write_text(text, encoding="utf-8")


def pid_of(pods: PodPair, folder: Path) -> int:
    """The program with this test's files and namespace in its command line."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            words = path.read_bytes().decode(errors="replace").split("\0")
            wanted = {str(pods.client.inode), str(folder / "events.jsonl")}
            if wanted <= set(words):  # a shell has them in one word
                return int(path.parent.name)
    raise AssertionError("the program is not there")


def stuck_in(events: JsonLines, kind: str | None = "attempt.stuck") -> int:
    found = events.read()
    return sum(
        event["event"] == kind if kind else event["event"].startswith("attempt.") for event in found
    )


@pytest.mark.parametrize("hidden", [[], ["/dev/pts"], ["/dev/pts", "/proc"]])
def test_a_terminal_that_takes_nothing_is_given_up_though_it_has_no_name(hidden: list[str]) -> None:
    """As in the mount namespace of another, where the terminal's name leads nowhere."""
    script = (
        "import os, sys, threading\n"
        "from tracer.screen.terminal import Terminal\n"
        "terminal = Terminal(1)\n"
        "terminal.write('x' * 200_000)\n"
        "thread = threading.Thread(target=terminal.flush, daemon=True)\n"
        "thread.start()\n"
        "while not terminal.stalled: thread.join(0.02)\n"
        "terminal.abandon()\n"
        "thread.join(10)\n"
        "sys.stderr.write(f'{thread.is_alive()} {os.get_blocking(1)}')\n"
    )
    hide = "".join(f"mount -t tmpfs none {folder}; " for folder in hidden)
    master, slave = pty.openpty()
    try:
        done = subprocess.run(
            ["unshare", "-m", "sh", "-c", f'{hide}exec "$@"', "sh", sys.executable, "-c", script],
            stdout=slave,
            stderr=subprocess.PIPE,
            text=True,
            timeout=20,
            check=True,
        )
    finally:
        os.close(master)
        os.close(slave)
    assert done.stderr == "False True"
