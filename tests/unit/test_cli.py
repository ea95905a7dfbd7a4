"""Options, environment variables and messages, without starting a trace."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from ipaddress import IPv4Network
from pathlib import Path
from typing import NoReturn, Self

import pytest

from tracer import cli, session
from tracer.cli import main
from tracer.cli_trace import settings_from
from tracer.errors import NoSource, NotPermitted, SynsentError, UsageError
from tracer.host import rights
from tracer.model import SourceName
from tracer.settings import Backend, Settings
from tracer.sources import select

ENDING_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """main() keeps its signal handlers: the process is its own."""
    before = [signal.getsignal(number) for number in ENDING_SIGNALS]
    yield
    for number, handler in zip(ENDING_SIGNALS, before, strict=True):
        signal.signal(number, handler)


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
        (["--pid", "1_0"], "--pid: '1_0'"),
        (["--pid", "4194305"], "--pid: '4194305' is not a process id"),
        (["--pid", "12345678901234567890"], "--pid: '12345678901234567890' is not a process id"),
        (["--netns", "4294967296"], "--netns: '4294967296'"),
        (["--netns", "net:[0]"], "--netns: 'net:[0]'"),
        (["--node", "--threshold", "0.009"], "from 0.01 "),
        (["--netns", "no-such-namespace"], "no-such-namespace"),
        (["--pod", "without-a-slash"], "without-a-slash"),
        (["-n", "Shop"], "--namespace: 'Shop'"),
        (["-n", ""], "--namespace: ''"),
        (["-n", "a,"], "--namespace: ''"),
        (["-n", "a,b.c"], "--namespace: 'b.c'"),
        (["-l", ""], "--selector is empty"),
        (["-l", " "], "--selector is empty"),
        (["-n", "shop", "-l", ""], "--selector is empty"),
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


def test_namespaces_may_be_separated_by_commas() -> None:
    settings = settings_from(["-n", "shop, pay", "-n", "shop"], {})
    assert settings.namespaces == ("shop", "pay")


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


def test_a_bad_network_in_the_environment_is_named_by_its_variable() -> None:
    with pytest.raises(UsageError, match="SYNSENT_VPC_CIDR 'nonsense'") as caught:
        settings_from(["--node"], {"SYNSENT_VPC_CIDR": "10.0.0.0/8,nonsense"})
    assert "--vpc-cidr" not in str(caught.value)


@pytest.mark.parametrize(
    "environment",
    [
        {"SYNSENT_NODE": "1"},
        {"SYNSENT_PID": "nonsense"},
        {"SYNSENT_POD": "shop/cart", "SYNSENT_NETNS": "no-such-namespace"},
    ],
)
def test_a_target_on_the_command_line_replaces_every_target_of_the_environment(
    environment: dict[str, str],
) -> None:
    settings = settings_from(["--pid", str(os.getpid())], environment)
    assert (settings.pid, settings.netns) == (os.getpid(), None)


def test_two_targets_in_the_environment_are_one_too_many() -> None:
    with pytest.raises(UsageError, match="more than one thing to trace"):
        settings_from([], {"SYNSENT_NODE": "1", "SYNSENT_PID": str(os.getpid())})


def test_a_process_that_does_not_exist_is_named() -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    with pytest.raises(UsageError, match=f"--pid: no process has the id {gone.pid}"):
        settings_from(["--pid", str(gone.pid)], {})
    with pytest.raises(UsageError, match="SYNSENT_PID: no process"):
        settings_from([], {"SYNSENT_PID": str(gone.pid)})


def test_the_lowest_threshold_is_accepted() -> None:
    assert settings_from(["--node", "--threshold", "0.01"], {}).threshold_seconds == 0.01


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


# --- how it begins and ends ----------------------------------------------------------------------


def raising(error: Exception) -> Callable[..., NoReturn]:
    def function(*_arguments: object, **_options: object) -> NoReturn:
        raise error

    return function


@pytest.mark.parametrize("number", ENDING_SIGNALS)
def test_a_signal_that_comes_before_anything_is_opened_ends_with_success(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_arguments: object) -> Settings:
        signal.raise_signal(number)
        return Settings(node_name="node-1")

    monkeypatch.setattr(cli, "settings_from", interrupted)
    monkeypatch.setattr(cli, "_sinks", raising(AssertionError("went on")))

    assert main(["--node"]) == 0
    assert capsys.readouterr() == ("", "")


def test_a_signal_while_probes_are_attached_stops_the_trace_that_they_are_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: list[str] = []

    class Interrupted:
        def __init__(self, *_arguments: object) -> None:
            signal.raise_signal(signal.SIGINT)

        def stop(self) -> None:
            said.append("stop")

        def run(self) -> None:
            said.append("run")

    monkeypatch.setattr(session, "Session", Interrupted)

    assert main(["--node"]) == 0
    assert said == ["stop", "run"]


def test_a_defect_is_one_line_and_status_4(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("SYNSENT_DEBUG", raising=False)
    monkeypatch.setattr(cli, "_trace", raising(LookupError("nothing\nthere")))

    assert main(["--node"]) == 4
    assert capsys.readouterr().err == (
        "synsent-trace: the trace had to end: LookupError: nothing\\nthere;"
        " this is a defect of synsent-trace\n"
    )


def test_a_defect_shows_where_it_is_when_debugging(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SYNSENT_DEBUG", "1")
    monkeypatch.setattr(cli, "_trace", raising(LookupError("nothing there")))

    assert main(["--node"]) == 4
    error = capsys.readouterr().err
    assert "Traceback" in error
    assert error.endswith("this is a defect of synsent-trace\n")


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
def test_with_a_closed_standard_descriptor_it_answers_as_ever(closed: str) -> None:
    script = f'exec "$0" -m tracer.cli --node --vpc-cidr nonsense {closed}'
    assert subprocess.run(["sh", "-c", script, sys.executable], check=False).returncode == 2


def test_missing_standard_descriptors_are_the_null_device_for_whoever_writes_there() -> None:
    program = """
import os, sys
from tracer import cli
cli._trace = lambda *_: print("out", flush=True) or print("error", file=sys.stderr, flush=True)
status = cli.main(["--node"])
sys.exit(status or [os.readlink(f"/proc/self/fd/{fd}") for fd in range(3)] != ["/dev/null"] * 3)
"""
    script = 'exec "$0" -c "$1" <&- >&- 2>&-'
    done = subprocess.run(["sh", "-c", script, sys.executable, program], check=False)
    assert done.returncode == 0


# --- the ready-file ------------------------------------------------------------------------------


def test_the_ready_file_of_an_earlier_run_is_gone_before_anything_attaches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "ready"
    file.touch()
    there: list[bool] = []

    def refused(*_arguments: object) -> NoReturn:
        there.append(file.exists())
        raise NoSource("none here")

    monkeypatch.setattr(session, "Session", refused)

    assert main(["--node", "--ready-file", str(file)]) == 4
    assert there == [False]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("path", "cause"),
    [
        ("/no/such/folder/ready", "No such file or directory"),
        ("/proc/ready", ""),
        ("/dev/null/ready", "Not a directory"),
        ("/tmp", "no ordinary file"),
        ("/dev/null", "no ordinary file"),
    ],
)
def test_a_ready_file_that_cannot_be_made_is_wrong_usage_at_once(
    path: str, cause: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(session, "Session", raising(AssertionError("went on")))

    assert main(["--node", "--ready-file", path]) == 2
    error = capsys.readouterr().err
    assert f"--ready-file {path}: " in error
    assert cause in error
    assert Path("/dev/null").exists()


# --- what observes -------------------------------------------------------------------------------

NO_BCC = NoSource("bcc is not installed", hint="install python3-bpfcc.")


class FakeSource:
    lacking = ()
    source = SourceName.SOCK_DIAG
    hooks = ()

    @classmethod
    def opened(cls, _settings: Settings) -> Self:
        return cls()


@pytest.fixture
def allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select, "has_capability", lambda _number: True)
    monkeypatch.setattr(select, "in_host_pid_namespace", lambda: True)
    monkeypatch.setattr(select, "_open_bpf", FakeSource.opened)
    monkeypatch.setattr(select, "_open_poller", FakeSource.opened)


def lacking_of(backend: Backend = Backend.AUTO) -> Sequence[str]:
    return select.choose(Settings(node_name="node-1", backend=backend)).lacking


@pytest.mark.usefixtures("allowed")
@pytest.mark.parametrize("error", [NO_BCC, NotPermitted("this user may not load BPF programs")])
def test_without_the_rights_to_poll_no_fallback_claims_that_nothing_is_stuck(
    error: SynsentError, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(select, "_open_bpf", raising(error))
    monkeypatch.setattr(select, "has_capability", lambda _number: False)

    with pytest.raises(NotPermitted) as caught:
        lacking_of()
    assert str(error) in str(caught.value)


@pytest.mark.usefixtures("allowed")
def test_the_fallback_says_why_bpf_failed_and_what_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select, "_open_bpf", raising(NO_BCC))

    (text,) = lacking_of()
    assert text.startswith("BPF (bcc is not installed; install python3-bpfcc): ")


@pytest.mark.usefixtures("allowed")
@pytest.mark.parametrize(
    ("backend", "words"),
    [(Backend.BPF, "process ids told by BPF"), (Backend.POLL, "this container's processes")],
)
def test_outside_the_host_s_pid_namespace_it_says_what_it_cannot_see(
    backend: Backend, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not any("PID namespace" in text for text in lacking_of(backend))

    monkeypatch.setattr(select, "in_host_pid_namespace", lambda: False)

    (text,) = (text for text in lacking_of(backend) if "PID namespace" in text)
    assert words in text
    assert "hostPID: true" in text


def test_a_process_of_another_pid_namespace_is_not_looked_for_by_bpf_under_its_id(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(select, "in_host_pid_namespace", lambda: False)

    with pytest.raises(NoSource, match="--pid 7 is an id of this container"):
        select.choose(Settings(node_name="node-1", backend=Backend.BPF, pid=7))


def test_the_host_s_pid_namespace_is_known_by_its_inode(tmp_path: Path) -> None:
    namespace = tmp_path / "self/ns/pid"
    assert rights.in_host_pid_namespace(str(tmp_path)), "a kernel without PID namespaces"

    namespace.parent.mkdir(parents=True)
    namespace.touch()
    assert not rights.in_host_pid_namespace(str(tmp_path))

    here = Path("/proc/self/ns/pid").stat().st_ino
    assert rights.in_host_pid_namespace() is (here == 4026531836)
