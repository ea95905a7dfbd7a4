"""Options, environment variables and messages, without starting a trace."""

from __future__ import annotations

import os
import subprocess
import sys
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from tracer.cli import main, settings_from
from tracer.errors import UsageError
from tracer.settings import Backend


def test_the_defaults_are_those_of_the_help_text() -> None:
    settings = settings_from(["--node"], {})
    assert settings.backend is Backend.AUTO
    assert settings.threshold_seconds == 1.0
    assert settings.crosscheck_seconds == 10.0
    assert settings.duration_seconds is None
    assert settings.netns is None


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--node", "--threshold", "0"], "--threshold: '0'"),
        (["--node", "--threshold", "nan"], "--threshold: 'nan'"),
        (["--node", "--threshold", "-1"], "--threshold: '-1'"),
        (["--node", "--crosscheck", "often"], "--crosscheck: 'often'"),
        (["--node", "--duration", "inf"], "--duration: 'inf'"),
        (["--node", "--backend", "xdp"], "--backend: 'xdp'"),
        (["--node", "--vpc-cidr", "10.0.0.0/99"], "10.0.0.0/99"),
        (["--pid", "0"], "--pid: '0'"),
        (["--pid", "abc"], "--pid: 'abc'"),
        (["--netns", "no-such-namespace"], "no-such-namespace"),
        (["--pod", "without-a-slash"], "without-a-slash"),
        (["--frobnicate"], "--frobnicate"),
        (["--node", "surplus"], "surplus"),
        ([], "nothing to trace"),
        (["--node", "--pid", "1"], "more than one thing to trace"),
    ],
)
def test_a_value_that_makes_no_sense_is_named(arguments: list[str], named: str) -> None:
    with pytest.raises(UsageError) as caught:
        settings_from(arguments, {})
    assert named in str(caught.value)


def test_wrong_usage_ends_with_status_2_and_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--node", "--vpc-cidr", "nonsense"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert "nonsense" in captured.err


def test_every_option_can_be_set_in_the_environment() -> None:
    settings = settings_from(
        [],
        {
            "SYNSENT_NODE": "1",
            "SYNSENT_BACKEND": "poll",
            "SYNSENT_THRESHOLD": "2.5",
            "SYNSENT_CROSSCHECK": "0",
            "SYNSENT_DURATION": "60",
            "SYNSENT_VPC_CIDR": "203.0.113.0/24, 198.51.100.0/24",
            "SYNSENT_JSONL": "/tmp/events.jsonl",
            "SYNSENT_PLAIN": "true",
            "SYNSENT_NODE_NAME": "node-7",
            "SYNSENT_READY_FILE": "/tmp/ready",
        },
    )
    assert settings.backend is Backend.POLL
    assert settings.threshold_seconds == 2.5
    assert settings.crosscheck_seconds == 0
    assert settings.duration_seconds == 60
    assert settings.vpc_cidrs == (IPv4Network("203.0.113.0/24"), IPv4Network("198.51.100.0/24"))
    assert settings.jsonl == "/tmp/events.jsonl"
    assert settings.plain
    assert settings.node_name == "node-7"
    assert settings.ready_file == Path("/tmp/ready")


def test_the_command_line_wins_over_the_environment() -> None:
    environment = {"SYNSENT_THRESHOLD": "5", "SYNSENT_VPC_CIDR": "203.0.113.0/24"}
    settings = settings_from(
        ["--node", "--threshold", "2", "--vpc-cidr", "198.51.100.0/24"], environment
    )
    assert settings.threshold_seconds == 2
    assert settings.vpc_cidrs == (IPv4Network("198.51.100.0/24"),)


def test_a_bad_value_in_the_environment_is_named_by_its_variable() -> None:
    with pytest.raises(UsageError, match="SYNSENT_THRESHOLD: 'soon'"):
        settings_from(["--node"], {"SYNSENT_THRESHOLD": "soon"})
    with pytest.raises(UsageError, match="SYNSENT_PLAIN: 'maybe'"):
        settings_from(["--node"], {"SYNSENT_PLAIN": "maybe"})


def test_a_flag_can_be_switched_off_in_the_environment() -> None:
    assert not settings_from(["--node"], {"SYNSENT_PLAIN": "0"}).plain


def test_the_node_is_named_by_the_option_then_node_name_then_the_host() -> None:
    assert settings_from(["--node", "--node-name", "a"], {"NODE_NAME": "b"}).node_name == "a"
    assert settings_from(["--node"], {"NODE_NAME": "b"}).node_name == "b"
    assert settings_from(["--node"], {}).node_name == os.uname().nodename


def test_a_namespace_can_be_given_by_its_file() -> None:
    inode = Path("/proc/self/ns/net").stat().st_ino
    settings = settings_from(["--netns", "/proc/self/ns/net"], {})
    assert settings.netns == frozenset({inode})


def test_help_and_version_answer_without_root_and_without_loading_what_is_slow() -> None:
    slow = ("bcc", "psutil", "rich", "tracer.sources.bpf", "tracer.session")
    program = (
        "import sys\n"
        "from tracer.cli import main\n"
        "try:\n"
        "    main([sys.argv[1]])\n"
        "except SystemExit as end:\n"
        f"    loaded = [name for name in {slow!r} if name in sys.modules]\n"
        "    print('LOADED', loaded, 'STATUS', end.code or 0)\n"
    )
    for option in ("--help", "--version"):
        answer = subprocess.run(
            [sys.executable, "-c", program, option], capture_output=True, text=True, check=True
        )
        assert answer.stdout.endswith("LOADED [] STATUS 0\n")
        assert "synsent-trace" in answer.stdout
