"""What the screen costs, below the real thing on a real terminal; the trace is made up."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tests.kernel.test_screen import REPOSITORY, SEEN_SECONDS, plain_environment
from tests.support.terminal import Pty

PICTURES_A_SECOND = 4
KEY_SECONDS = 0.2
MEASURED_SECONDS = 5


def test_ten_thousand_attempts_leave_it_quick_and_cheap(tmp_path: Path) -> None:
    """Others use this machine too: pictures are counted in what they cost, and four a second beside
    the changes must fit into 60 % of a core. The cheapest second, and the quickest key, are told.
    """
    with busy(tmp_path, 10_000, 2_000, 1_000) as terminal:
        told = [cost(terminal, tmp_path, 2) for _ in range(3)]
        waits = sorted(key_seconds(terminal) for _ in range(7))
    for one in told:
        print(f"{one.share:.0%} of a core, {one.rate:.1f} pictures a second, {one.each:.3f} s each")
    print(f"keys {waits}")
    assert min(one.share for one in told) < 0.6
    assert min(PICTURES_A_SECOND * one.each + one.changes / one.seconds for one in told) < 0.6
    assert waits[0] < KEY_SECONDS


def test_an_idle_screen_costs_next_to_nothing(tmp_path: Path) -> None:
    """The best of some: beside other work every instruction takes longer."""
    with busy(tmp_path, 0, 0, 0) as terminal:
        shares = [cost(terminal, tmp_path).share for _ in range(3)]
    print([f"{share:.1%} of a core" for share in shares])
    assert min(shares) < 0.03


def busy(folder: Path, attempts: int, pairs: int, changes: int) -> Pty:
    numbers = map(str, (attempts, pairs, changes))
    argv = [sys.executable, "-m", "tests.support.busy_screen", *numbers, str(folder / "statistics")]
    return Pty(argv, plain_environment(TERM="xterm-256color"), cwd=REPOSITORY)


@dataclass(frozen=True)
class Cost:
    """CPU seconds, those of them that the changes took, and pictures, in so many seconds."""

    cpu: float
    changes: float
    pictures: int
    seconds: float

    @property
    def share(self) -> float:
        return self.cpu / self.seconds

    @property
    def each(self) -> float:
        """CPU seconds of a picture."""
        return (self.cpu - self.changes) / self.pictures

    @property
    def rate(self) -> float:
        return self.pictures / self.seconds


def cost(terminal: Pty, folder: Path, seconds: float = MEASURED_SECONDS) -> Cost:
    """What it costs once it has begun."""
    file = folder / "statistics"
    terminal.wait(file.exists, SEEN_SECONDS, "the first pictures")
    first = json.loads(file.read_text())

    def later() -> bool:
        return bool(json.loads(file.read_text())["at"] - first["at"] >= seconds)

    terminal.wait(later, SEEN_SECONDS, "more pictures")
    last = json.loads(file.read_text())
    cpu, changes, pictures, took = (
        last[name] - first[name] for name in ("cpu", "session_cpu", "pictures", "at")
    )
    return Cost(cpu, changes, pictures, took)


def key_seconds(terminal: Pty) -> float:
    """From a key to the page it opens."""
    terminal.forget()
    began = time.monotonic()
    terminal.press(b"?")
    terminal.wait_for(b"goes back")
    took = time.monotonic() - began
    terminal.forget()
    terminal.press(b"\x1b")
    terminal.wait_for(b"quit")
    return took
