"""The command line: options, environment variables, exit codes. The only place that exits."""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn, TypeVar

from tracer import __version__
from tracer.errors import SynsentError, UsageError
from tracer.settings import Backend, Settings

if TYPE_CHECKING:
    from tracer.sinks import Sink

_PROGRAM: Final = "synsent-trace"
_ENVIRONMENT: Final = "SYNSENT_"
_TRUE: Final = ("1", "true", "yes", "on")
_FALSE: Final = ("", "0", "false", "no", "off")

_DESCRIPTION: Final = """\
Shows, while it happens, which pods of this node are stuck in TCP connect, to where and since when:
they sent a SYN and nothing answers.
"""
_EPILOG: Final = """\
Every option can be set by an environment variable too: --vpc-cidr by SYNSENT_VPC_CIDR (several
separated by commas), --plain by SYNSENT_PLAIN=1. The command line wins.

exit status:
  0  done; a trace ended by Ctrl-C, SIGTERM or --duration ends so too
  2  wrong usage
  3  not permitted
  4  nothing on this machine can observe sockets
  5  an input could not be read

examples:
  synsent-trace --node
  synsent-trace --node --jsonl events.jsonl
  synsent-trace --node --jsonl - | jq 'select(.event == "attempt.stuck") | .destination'
  synsent-trace --pod shop/cart-7d4b9 --duration 60
"""

_Value = TypeVar("_Value")


class _Parser(argparse.ArgumentParser):
    """Raises instead of exiting, so that `main` alone ends the program."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, hint=f"see {_PROGRAM} --help")


def _parser() -> _Parser:
    parser = _Parser(
        prog=_PROGRAM,
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument("--version", action="version", version=f"{_PROGRAM} {__version__}")
    what = parser.add_argument_group("what to trace (one of)")
    what.add_argument("--node", action="store_true", help="every pod and process of this node")
    what.add_argument("--pod", metavar="NAMESPACE/NAME", help="one pod that runs on this node")
    what.add_argument("--pid", metavar="PID", help="one process")
    what.add_argument(
        "--netns",
        metavar="NETNS",
        help="one network namespace: its inode number, its file, or its name in /run/netns",
    )
    how = parser.add_argument_group("how to observe")
    how.add_argument(
        "--backend",
        metavar="auto|bpf|poll",
        help="bpf sees everything as it happens; poll works where BPF does not; "
        "auto (the default) takes bpf if it can, and says so if it can not",
    )
    how.add_argument(
        "--threshold",
        metavar="SECONDS",
        help="call an attempt stuck that is older than this even without a retransmission "
        "(default 1.0)",
    )
    how.add_argument(
        "--crosscheck",
        metavar="SECONDS",
        help="compare BPF with the kernel's socket table this often (default 10; 0 is off)",
    )
    how.add_argument("--duration", metavar="SECONDS", help="end after this time")
    show = parser.add_argument_group("what to show")
    show.add_argument(
        "--vpc-cidr",
        metavar="CIDR",
        action="append",
        help="count these addresses as VPC/internal, beside the private ranges (repeatable)",
    )
    show.add_argument(
        "--jsonl",
        metavar="FILE|-",
        help="write every event as a line of JSON; with - to stdout, which then holds nothing else",
    )
    show.add_argument("--plain", action="store_true", help="lines without colour")
    show.add_argument(
        "--node-name",
        metavar="NAME",
        help="name of this node in the output (default: $NODE_NAME, else the host name)",
    )
    show.add_argument(
        "--ready-file", metavar="FILE", help="create this file once every probe is attached"
    )
    return parser


class _Options:
    """Values by option name: from the command line, else from the environment."""

    def __init__(self, given: Mapping[str, object], environment: Mapping[str, str]) -> None:
        self._given = given
        self._environment = environment

    def _source(self, name: str) -> tuple[str, object] | None:
        """How the user would name the option, and its value; None where it was not given."""
        if name in self._given:
            return f"--{name.replace('_', '-')}", self._given[name]
        variable = _ENVIRONMENT + name.upper()
        value = self._environment.get(variable)
        return None if value is None or value == "" else (variable, value)

    def flag(self, name: str) -> bool:
        found = self._source(name)
        if found is None or isinstance(found[1], bool):
            return found is not None
        text = str(found[1]).lower()
        if text not in _TRUE + _FALSE:
            raise UsageError(f"{found[0]}: {found[1]!r} is neither yes nor no")
        return text in _TRUE

    def text(self, name: str) -> str | None:
        found = self._source(name)
        return None if found is None else str(found[1])

    def several(self, name: str) -> list[str]:
        found = self._source(name)
        if found is None:
            return []
        if isinstance(found[1], list):
            return found[1]
        return [part.strip() for part in str(found[1]).split(",") if part.strip()]

    def parsed(
        self, name: str, parse: Callable[[str], _Value], what: str, default: _Value
    ) -> _Value:
        found = self._source(name)
        if found is None:
            return default
        try:
            return parse(str(found[1]))
        except ValueError:
            raise UsageError(f"{found[0]}: {found[1]!r} is not {what}") from None


def _seconds(*, allow_zero: bool) -> Callable[[str], float]:
    def parse(text: str) -> float:
        value = float(text)
        # A day and more is a mistake; a comparison with NaN is false.
        if not (0 <= value <= 86_400 * 365) or (value == 0 and not allow_zero):
            raise ValueError(text)
        return value

    return parse


def _pid(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


def settings_from(arguments: Sequence[str], environment: Mapping[str, str]) -> Settings:
    """Settings from the command line and the environment. Raises UsageError, naming the value."""
    from tracer.enrich.destination import parse_cidrs

    options = _Options(vars(_parser().parse_args(arguments)), environment)
    node, pod = options.flag("node"), options.text("pod")
    pid: int | None = options.parsed("pid", _pid, "a process id", None)
    netns_text = options.text("netns")
    chosen = [node, pod is not None, pid is not None, netns_text is not None].count(True)
    if chosen != 1:
        raise UsageError(
            "nothing to trace" if chosen == 0 else "more than one thing to trace",
            hint="give one of --node, --pod NAMESPACE/NAME, --pid PID, --netns NETNS",
        )
    ready_file = options.text("ready_file")
    return Settings(
        node_name=options.text("node_name") or environment.get("NODE_NAME") or socket.gethostname(),
        backend=options.parsed("backend", Backend, "one of auto, bpf, poll", Backend.AUTO),
        threshold_seconds=options.parsed(
            "threshold", _seconds(allow_zero=False), "a number of seconds above 0", 1.0
        ),
        crosscheck_seconds=options.parsed(
            "crosscheck", _seconds(allow_zero=True), "a number of seconds", 10.0
        ),
        duration_seconds=options.parsed(
            "duration", _seconds(allow_zero=False), "a number of seconds above 0", None
        ),
        vpc_cidrs=parse_cidrs(options.several("vpc_cidr")),
        pid=pid,
        netns=_namespaces(netns_text, pod),
        pod=pod,
        jsonl=options.text("jsonl"),
        plain=options.flag("plain"),
        ready_file=None if ready_file is None else Path(ready_file),
    )


def _namespaces(netns: str | None, pod: str | None) -> frozenset[int] | None:
    """Inodes of the network namespaces to trace; None: all."""
    if netns is not None:
        from tracer.host.netns import inode_of

        return frozenset({inode_of(netns)})
    if pod is None:
        return None
    from tracer.host.pods import find_pod

    found = find_pod(pod)
    if found.host_network:
        raise UsageError(
            f"pod {pod} uses the node's own network, which it shares with others",
            hint="trace its process with --pid, or the whole node with --node",
        )
    return found.netns


def _notify(message: str) -> None:
    """Says something on stderr, which may be closed."""
    try:
        sys.stderr.write(f"{_PROGRAM}: {message}\n")
        sys.stderr.flush()
    except (OSError, ValueError):
        pass


def _sinks(settings: Settings) -> list[Sink]:
    sinks: list[Sink] = []
    if settings.jsonl is not None:
        from tracer.sinks.jsonl import JsonlSink

        sinks.append(JsonlSink(settings.jsonl, node=settings.node_name, notify=_notify))
    if settings.jsonl != "-":
        from tracer.sinks.lines import LinesSink

        color = sys.stdout.isatty() and not settings.plain and not os.environ.get("NO_COLOR")
        sinks.append(LinesSink(sys.stdout, node=settings.node_name, color=color, notify=_notify))
    return sinks


def _trace(settings: Settings) -> None:
    from tracer.session import Session

    session: Session | None = None
    stopped_early = False

    def on_signal(_number: int, _frame: object) -> None:
        nonlocal stopped_early
        stopped_early = True
        if session is not None:
            session.stop()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, on_signal)
    sinks = _sinks(settings)
    try:
        session = Session(settings, sinks, _notify)
        if stopped_early:
            session.stop()
        session.run()
    finally:
        for sink in sinks:
            sink.close()


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the program and returns its exit status."""
    try:
        _trace(settings_from(sys.argv[1:] if arguments is None else arguments, os.environ))
    except SynsentError as error:
        _notify(f"{error}{f'; {error.hint}' if error.hint else ''}")
        return error.exit_code
    except OSError as error:
        _notify(f"the trace had to end: {error}")
        return 4
    return 0


if __name__ == "__main__":
    sys.exit(main())
