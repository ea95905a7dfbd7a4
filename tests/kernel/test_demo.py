"""make demo: shows what it promises, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests.kernel.test_screen import plain_environment
from tests.support.netns import NETNS_FOLDER
from tests.support.terminal import Pty
from tests.support.wait import wait_until

REPOSITORY = Path(__file__).parents[2]
SEEN_SECONDS = 60
END_SECONDS = 30


@pytest.mark.usefixtures("side_by_side")
@pytest.mark.parametrize("how", ["q", "ctrl-c", "sigterm", "sigint to all"])
def test_six_ways_to_be_stuck_are_shown_and_gone_afterwards(folder: Path, how: str) -> None:
    del folder
    with Pty(
        [sys.executable, "-m", "tests.demo"],
        plain_environment(TERM="xterm-256color"),
        cwd=REPOSITORY,
    ) as terminal:
        for name in (b"silent-drop", b"dropped-here", b"dropped-reply", b"dead-host", b"refused"):
            terminal.wait_for(name, SEEN_SECONDS)
        if how == "q":
            for cause in (b"reply-dropped-here", b"no-neighbour", b"no-reply", b"slow"):
                terminal.wait_for(cause, SEEN_SECONDS)
        apps = applications(terminal.process.pid)
        assert len(apps) >= 8
        inodes = {Path(f"/proc/{pid}/ns/net").stat().st_ino for pid in apps}
        if how == "q":
            terminal.press(b"q")
        elif how == "ctrl-c":
            terminal.press(b"\x03")
        elif how == "sigterm":
            terminal.process.send_signal(signal.SIGTERM)
        else:
            os.killpg(terminal.process.pid, signal.SIGINT)
        assert terminal.process.wait(END_SECONDS) == 0
        assert b"Traceback" not in terminal.said
        assert b"\x1b[?1049l" in terminal.said
    for pid in apps:
        wait_until(lambda pid=pid: not Path(f"/proc/{pid}").exists(), END_SECONDS, f"end of {pid}")  # type: ignore[misc]
    assert not inodes & namespaces()


def namespaces() -> set[int]:
    """Inodes of the namespaces that have a name."""
    found = set()
    for path in NETNS_FOLDER.iterdir():
        with suppress(OSError):
            found.add(path.stat().st_ino)
    return found


def applications(parent: int) -> list[int]:
    """Processes of the demo's applications."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError, IndexError):
            words = (path / "cmdline").read_bytes().split(b"\0")
            ppid = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            if ppid == parent and any(word.endswith(b"demo/app.py") for word in words):
                found.append(int(path.name))
    return found
