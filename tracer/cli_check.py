"""The options of `synsent-trace check`, and what it prints."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from tracer.errors import UsageError
from tracer.finding import CheckResult, Step
from tracer.options import Options

_TARGETS: Final = ("node", "pod", "pid", "file")
_FORMATS: Final = ("text", "json", "jsonl", "markdown")
_VIA: Final = ("auto", "node", "exec")

_DESCRIPTION: Final = """\
Looks once for connections in SYN_SENT, says where to, and what to check next.
"""
_EPILOG: Final = """\
exit status: 0 none found, 1 some found, 2 wrong usage, 3 not permitted, 4 nothing here can observe
sockets, 5 an input, or the API server, could not be read
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `check` to a parser."""
    parser.description, parser.epilog = _DESCRIPTION, _EPILOG
    what = parser.add_argument_group("what to look at (one of)")
    what.add_argument("--node", action="store_true", help="every network namespace of this node")
    what.add_argument("--pod", metavar="NAMESPACE/NAME", help="one pod")
    what.add_argument("--pid", metavar="PID", help="one process")
    what.add_argument(
        "--file",
        metavar="FILE",
        action="append",
        help="text of ss, netstat, /proc/net/tcp or conntrack; - is stdin (repeatable)",
    )
    how = parser.add_argument_group("how")
    how.add_argument(
        "--via",
        metavar="auto|node|exec",
        help="look at a pod from its node, or from inside through the API server; auto (the "
        "default) does the first where the pod is on this node",
    )
    how.add_argument("--container", metavar="NAME", help="container to look from, with --via exec")
    how.add_argument("--kubeconfig", metavar="FILE", help="how to reach the API server")
    show = parser.add_argument_group("what to show")
    show.add_argument("--format", metavar="text|json|jsonl|markdown", help="(default text)")
    show.add_argument(
        "--vpc-cidr",
        metavar="CIDR",
        action="append",
        help="count these addresses as VPC/internal, beside the private ranges (repeatable)",
    )
    show.add_argument("--node-name", metavar="NAME", help="name of this node in the output")


def run(given: Mapping[str, object], environment: Mapping[str, str]) -> int:
    """Runs the check and prints its answer; returns the exit status."""
    options = Options(given, environment, exclusive=_TARGETS)
    answer_format = _choice(options, "format", _FORMATS)
    result = _collect(options, environment)
    from tracer.check import steps_for

    steps = steps_for(result)
    sys.stdout.write(_rendered(answer_format, result, steps))
    sys.stdout.flush()
    return 1 if result.findings else 0


def _collect(options: Options, environment: Mapping[str, str]) -> CheckResult:
    from tracer import check
    from tracer.enrich.destination import Destinations, parse_cidrs

    node_name = options.text("node_name") or environment.get("NODE_NAME") or os.uname().nodename
    cidrs = parse_cidrs(options.several("vpc_cidr"), options.label("vpc_cidr"))
    context = check.Context(node_name, Destinations(cidrs))
    pod, pid, files = options.text("pod"), options.text("pid"), options.several("file")
    chosen = [options.flag("node"), pod is not None, pid is not None, bool(files)].count(True)
    if chosen != 1:
        raise UsageError(
            "nothing to check" if chosen == 0 else "more than one thing to check",
            hint="give one of --node, --pod NAMESPACE/NAME, --pid PID, --file FILE",
        )
    if files:
        return check.check_files(context, files)
    if pid is not None:
        if not pid.isascii() or not pid.isdigit() or not os.path.isdir(f"/proc/{pid}"):  # noqa: PTH112
            raise UsageError(f"{options.label('pid')}: no process has the id {pid!r}")
        return check.check_node(context, pid=int(pid))
    if pod is not None:
        via = _choice(options, "via", _VIA)
        inside: Callable[[], CheckResult] = lambda: check.check_pod_inside(  # noqa: E731
            context,
            pod,
            container=options.text("container"),
            kubeconfig=options.text("kubeconfig"),
        )
        if via == "exec":
            return inside()
        try:
            return check.check_pod_here(context, pod)
        except UsageError:
            if via == "node":
                raise
            return inside()
    return check.check_node(context)


def _choice(options: Options, name: str, allowed: Sequence[str]) -> str:
    value = options.text(name) or allowed[0]
    if value not in allowed:
        raise UsageError(f"{options.label(name)}: {value!r} is not one of {', '.join(allowed)}")
    return value


def _rendered(answer_format: str, result: CheckResult, steps: Sequence[Step]) -> str:
    from tracer.sinks import report

    if answer_format == "json":
        return report.as_json(result, steps)
    if answer_format == "jsonl":
        return report.as_jsonl(result)
    if answer_format == "markdown":
        return report.as_markdown(result, steps)
    color = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    return report.text(result, steps, color=color)
