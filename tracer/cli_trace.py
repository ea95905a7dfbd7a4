"""The options of a live trace, and the settings that follow from them."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NoReturn

from tracer import __version__
from tracer.errors import UsageError
from tracer.options import Options
from tracer.settings import Backend, Settings

PROGRAM: Final = "synsent-trace"

_TARGETS: Final = ("node", "pod", "namespace", "selector", "pid", "netns")
_ROOT_CACHE: Final = "/var/cache/synsent-trace"

_LEAST_SECONDS: Final = 0.01
_MOST_SECONDS: Final = 365 * 86_400.0
# PID_MAX_LIMIT of <linux/threads.h> where a long has 64 bits.
_MOST_PID: Final = 1 << 22
# `unsigned int inum` of struct ns_common.
_MOST_INODE: Final = (1 << 32) - 1

_DESCRIPTION: Final = """\
Shows, while it happens, which pods of this node are stuck in TCP connect, to where and since when:
they sent a SYN and nothing answers.
"""
_EPILOG: Final = """\
Every option can be set by an environment variable too: --vpc-cidr by SYNSENT_VPC_CIDR (several
separated by commas), --plain by SYNSENT_PLAIN=1. The command line wins: what it says to trace
replaces all that the environment says to trace. SYNSENT_DEBUG=1 shows where a defect is.

On a terminal the trace is a screen with keys: ? there explains them. Elsewhere, and with --plain,
it is lines; so it is where TERM is dumb.

synsent-trace replay FILE.jsonl plays a recording back, on the same screen.

synsent-trace check looks once instead, and says what to check next: see
synsent-trace check --help.

exit status:
  0  done; a trace ended by Ctrl-C, SIGTERM or --duration ends so too
  1  check found connections in SYN_SENT
  2  wrong usage
  3  not permitted
  4  nothing on this machine can observe sockets, or the trace broke off; the report of a check
     could not be written
  5  an input could not be read

examples:
  synsent-trace --node
  synsent-trace --node --jsonl events.jsonl
  synsent-trace --node --jsonl - | jq 'select(.event == "attempt.stuck") | .destination'
  synsent-trace --pod shop/cart-7d4b9 --duration 60
  synsent-trace check --node
"""


class Parser(argparse.ArgumentParser):
    """Raises instead of exiting, so that `main` alone ends the program."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, hint=f"see {PROGRAM} --help")


def new_parser(program: str) -> Parser:
    return Parser(
        prog=program,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )


def _parser() -> Parser:
    parser = new_parser(PROGRAM)
    parser.description, parser.epilog = _DESCRIPTION, _EPILOG
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    what = parser.add_argument_group("what to trace (one of)")
    what.add_argument("--node", action="store_true", help="every pod and process of this node")
    what.add_argument(
        "--pod",
        metavar="NAMESPACE/NAME",
        action="append",
        help="one pod of this node, whenever it is there (repeatable)",
    )
    what.add_argument(
        "-n",
        "--namespace",
        metavar="NAMESPACE",
        action="append",
        help="the pods of a namespace on this node, whenever they come and go (repeatable, or "
        "several separated by commas)",
    )
    what.add_argument(
        "-l",
        "--selector",
        metavar="SELECTOR",
        help="the pods whose labels match, such as app=web,tier!=db; may narrow --namespace",
    )
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
        "(default 1.0, at least 0.01)",
    )
    how.add_argument(
        "--crosscheck",
        metavar="SECONDS",
        help="compare BPF with the kernel's socket table this often (default 10; 0 is off)",
    )
    how.add_argument(
        "--no-evidence",
        action="store_true",
        help="do not look for where stuck handshakes die: no probe of drops, no look-ups",
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
    show.add_argument(
        "--plain",
        action="store_true",
        help="lines without colour, where a terminal would get the live screen",
    )
    show.add_argument(
        "--keep", action="store_true", help="the screen keeps rows in which all has ended"
    )
    show.add_argument(
        "--screenshot",
        metavar="FILE.svg",
        help="write the screen as it is at the end; without a terminal one is drawn for it",
    )
    show.add_argument(
        "--ascii", action="store_true", help="draw the screen with ASCII characters alone"
    )
    show.add_argument(
        "--node-name",
        metavar="NAME",
        help="name of this node in the output (default: $NODE_NAME, else the host name)",
    )
    names = parser.add_argument_group("where names come from")
    names.add_argument(
        "--kubeconfig",
        metavar="FILE",
        help="how to reach the API server (default: as in this pod, else as kubectl finds it)",
    )
    names.add_argument(
        "--no-kube",
        action="store_true",
        help="ask no API server: pods get the names that this node knows, services none",
    )
    names.add_argument(
        "--cache-dir",
        metavar="FOLDER|none",
        help="where names are kept for when the API server does not answer (default: "
        f"{_ROOT_CACHE}, or a user's own cache folder)",
    )
    show.add_argument(
        "--ready-file",
        metavar="FILE",
        help="create this file once every probe is attached; an old one is removed first",
    )
    return parser


def _seconds(text: str) -> float:
    value = float(text)
    if not _LEAST_SECONDS <= value <= _MOST_SECONDS:  # so is NaN, which no comparison is true of
        raise ValueError(text)
    return value


def _seconds_or_off(text: str) -> float:
    return 0.0 if float(text) == 0 else _seconds(text)


def _pid(text: str) -> int:
    # int() takes "1_0", signs and digits of every script.
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= _MOST_PID):
        raise ValueError(text)
    return int(text)


def settings_from(arguments: Sequence[str], environment: Mapping[str, str]) -> Settings:
    """Settings from the command line and the environment. Raises UsageError, naming the value."""
    from tracer.enrich.destination import parse_cidrs

    options = Options(vars(_parser().parse_args(arguments)), environment, exclusive=_TARGETS)
    pid: int | None = options.parsed("pid", _pid, f"a process id from 1 to {_MOST_PID}", None)
    netns, pods = options.text("netns"), options.several("pod")
    namespaces, selector = options.several("namespace"), options.text("selector")
    some_pods = bool(namespaces) or selector is not None
    # --namespace and --selector say which pods of the node: --node may stand beside them.
    chosen = [
        options.flag("node") or some_pods,
        bool(pods),
        pid is not None,
        netns is not None,
    ].count(True)
    if chosen != 1:
        raise UsageError(
            "nothing to trace" if chosen == 0 else "more than one thing to trace",
            hint="give one of --node, --pod NAMESPACE/NAME, --namespace NAMESPACE, "
            "--selector SELECTOR, --pid PID, --netns NETNS",
        )
    if selector is not None and options.flag("no_kube"):
        raise UsageError(
            f"{options.label('selector')} needs the labels of pods, which only the API server has",
            hint="leave --no-kube away, or name the pods with --pod or --namespace",
        )
    if pid is not None:
        _require_process(pid, options.label("pid"))
    ready_file = options.text("ready_file")
    seconds = f"a number of seconds from {_LEAST_SECONDS} to {_MOST_SECONDS:.0f} (a year)"
    return Settings(
        node_name=options.text("node_name") or environment.get("NODE_NAME") or os.uname().nodename,
        backend=options.parsed("backend", Backend, "one of auto, bpf, poll", Backend.AUTO),
        threshold_seconds=options.parsed("threshold", _seconds, seconds, 1.0),
        crosscheck_seconds=options.parsed(
            "crosscheck", _seconds_or_off, f"{seconds}, or 0 for off", 10.0
        ),
        duration_seconds=options.parsed("duration", _seconds, seconds, None),
        vpc_cidrs=parse_cidrs(options.several("vpc_cidr"), options.label("vpc_cidr")),
        pid=pid,
        netns=None if netns is None else frozenset({_inode(netns, options.label("netns"))}),
        pods=_pods(pods),
        namespaces=_namespaces(namespaces, options.label("namespace")),
        selector=_selector(selector, options.label("selector")),
        evidence=not options.flag("no_evidence"),
        kube=not options.flag("no_kube"),
        kubeconfig=options.text("kubeconfig"),
        cache_dir=_cache_dir(options.text("cache_dir"), environment),
        jsonl=options.text("jsonl"),
        plain=options.flag("plain"),
        keep=options.flag("keep"),
        ascii=options.flag("ascii"),
        screenshot=_new_file(options.text("screenshot"), options.label("screenshot")),
        ready_file=None if ready_file is None else Path(ready_file),
    )


def wants_screen(settings: Settings, environment: Mapping[str, str]) -> bool:
    """Whether the trace is shown on the live screen: there is a terminal that can, and keys, or a
    picture is asked for.
    """
    if settings.screenshot is not None:
        return True
    return not settings.plain and settings.jsonl != "-" and has_terminal(environment)


def has_terminal(environment: Mapping[str, str]) -> bool:
    """Whether standard input and output are one that can show more than lines."""
    if environment.get("TERM", "dumb") == "dumb":
        return False
    try:
        return os.isatty(0) and os.isatty(1)
    except OSError:
        return False


def wants_color(environment: Mapping[str, str]) -> bool:
    """Whether standard output is a terminal that has colours, and nobody objects."""
    if environment.get("NO_COLOR") or environment.get("TERM", "dumb") == "dumb":
        return False
    try:
        return os.isatty(1)
    except OSError:
        return False


def _new_file(text: str | None, label: str) -> Path | None:
    """A file that can be made, as far as that can be known. Raises UsageError."""
    if text is None:
        return None
    path = Path(text)
    if not path.parent.is_dir() or path.is_dir():
        raise UsageError(
            f"{label}: {text!r} cannot be written",
            hint="name a file in a folder that exists, such as ./screen.svg",
        )
    return path


def _require_process(pid: int, label: str) -> None:
    from tracer.host.netns import pids_in

    # The listing, since /proc/TID can be opened for every thread.
    if pid not in pids_in():
        raise UsageError(
            f"{label}: no process has the id {pid}", hint="`ps -e` lists those that there are"
        )


def _inode(netns: str, label: str) -> int:
    """Inode of the network namespace that `netns` names; `label` is the option's name."""
    from tracer.host.netns import inode_of

    inode = inode_of(netns)
    if not 1 <= inode <= _MOST_INODE:
        raise UsageError(
            f"{label}: {netns!r} is no inode number of a namespace: those have 32 bits",
            hint="`ls -L -i /proc/PID/ns/net` shows that of a process",
        )
    return inode


def _pods(specs: Sequence[str]) -> tuple[tuple[str, str], ...]:
    if not specs:
        return ()
    from tracer.host.pods import parse_spec

    return tuple(parse_spec(spec) for spec in specs)


def _namespaces(given: Sequence[str], label: str) -> tuple[str, ...]:
    if not given:
        return ()
    from tracer.host.kubelet import is_namespace

    names = dict.fromkeys(part.strip() for text in given for part in text.split(","))
    for name in names:
        if not is_namespace(name):
            raise UsageError(
                f"{label}: {name!r} is no namespace's name",
                hint="`kubectl get namespaces` lists those that there are",
            )
    return tuple(names)


def _selector(text: str | None, label: str) -> str | None:
    """The selector as it was given, once it is known to be one."""
    if text is not None:
        from tracer.kube.selector import parse

        if not text.strip():
            raise UsageError(
                f"{label} is empty", hint="give --node to trace every pod and process of this node"
            )
        parse(text, label)
    return text


def _cache_dir(given: str | None, environment: Mapping[str, str]) -> Path | None:
    if given is not None:
        return None if given == "none" else Path(given)
    if os.geteuid() == 0:
        return Path(_ROOT_CACHE)
    home = environment.get("XDG_CACHE_HOME") or f"{environment.get('HOME') or ''}/.cache"
    # The specification of base directories has relative ones ignored.
    return Path(home, PROGRAM) if home.startswith("/") else None
