"""What is done with descriptor 2 while several want what is written there."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest

from tracer import stderr


def test_what_is_written_meanwhile_is_in_the_list_afterwards(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with stderr.captured() as lines:
        os.write(2, b"one\n\n  two\n")
    assert lines == ["one", "two"]
    os.write(2, b"three\n")
    assert capfd.readouterr().err == "three\n"


def test_what_is_said_gets_past_it(capfd: pytest.CaptureFixture[str]) -> None:
    with stderr.captured() as lines:
        stderr.say("the trace had to end\n")
    assert lines == []
    stderr.say("again\n")
    assert capfd.readouterr().err == "the trace had to end\nagain\n"


def test_whoever_lets_go_first_does_not_take_it_from_the_other(
    capfd: pytest.CaptureFixture[str],
) -> None:
    first, second = stderr.captured(), stderr.captured()
    early = first.__enter__()
    os.write(2, b"a\n")
    late = second.__enter__()
    os.write(2, b"b\n")
    first.__exit__(None, None, None)
    os.write(2, b"c\n")
    second.__exit__(None, None, None)
    os.write(2, b"d\n")
    assert (early, late) == (["a"], ["b", "c"])
    assert capfd.readouterr().err == "d\n"


ON_A_TERMINAL = """
import os
from tracer import stderr
compiler = stderr.captured()
compiler.__enter__()
screen = stderr.held_back()
screen.__enter__()
os.write(2, b"noise\\n")
compiler.__exit__(None, None, None)
os.write(1, b"before ")
screen.__exit__(None, None, None)
stderr.say("after")
"""


def test_a_screen_keeps_it_off_its_terminal_whoever_had_it_before() -> None:
    master, slave = pty.openpty()
    try:
        argv = [sys.executable, "-c", ON_A_TERMINAL]
        subprocess.run(argv, stdout=slave, stderr=slave, check=True, timeout=30)
        said = os.read(master, 1_000).decode()
    finally:
        os.close(slave)
        os.close(master)
    assert said == "before noise\r\nafter"


def test_where_it_is_no_terminal_it_is_left_alone(capfd: pytest.CaptureFixture[str]) -> None:
    with stderr.held_back():
        os.write(2, b"at once\n")
        assert capfd.readouterr().err == "at once\n"
