"""The options of `synsent-trace check`, and what it prints."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from tracer.errors import OutputError, SynsentError, UsageError
from tracer.finding import CheckResult, Step
from tracer.options import Options
from tracer.text import safe

if TYPE_CHECKING:
    from tracer.check.context import Context
    from tracer.sources.raw import Raw

_TARGETS: Final = ("node", "pod", "pid", "file", "bundle")
_FORMATS: Final = ("text", "json", "jsonl", "markdown")
_VIA: Final = ("auto", "node", "exec")

_DESCRIPTION: Final = """\
Looks once for connections in SYN_SENT, says where to, on the node also why (as far as one look
tells), and what to check next.
"""
_EPILOG: Final = """\
--report DIR writes the whole answer into a new directory, which appears once it is complete:
  report.md, report.json          the answer
  events.jsonl                    what is stuck, as events of the live trace
  environment.txt                 when, where, on what machine
  pod_connections.txt             TCP sockets in every state, as they were read
  pod_conntrack_connections.txt   conntrack's entries about the addresses in question
It holds addresses, names of pods and processes, and command lines, in which what looks like a
secret is masked, as in lines that are quoted; --redact leaves only the program of each, and quotes
no line. Text given by --file, and what a tool printed in a container, is copied as it is.

exit status: 0 none found, 1 some found, 2 wrong usage, 3 not permitted, 4 nothing here can observe
sockets, or the answer or the report could not be written, 5 an input, or the API server, could not
be read, or what was to be looked at has ended

examples:
  synsent-trace check --node
  synsent-trace check --pod shop/web-0 --report ./web-0
  synsent-trace check --bundle ./web-0 --format markdown
  ss -tanpo | synsent-trace check --file -
  ss -Htn state syn-sent | synsent-trace check --file - --state syn-sent
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
    what.add_argument(
        "--bundle",
        metavar="DIR",
        help="a report that --report wrote, or a directory with pod_connections.txt or "
        "pod_conntrack_connections.txt",
    )
    how = parser.add_argument_group("how")
    how.add_argument(
        "--via",
        metavar="auto|node|exec",
        help="look at a pod from its node, or from inside through the API server; auto (the "
        "default) does the first where the pod is on this node",
    )
    how.add_argument(
        "--container", metavar="NAME", help="look at a pod from inside this container of it"
    )
    how.add_argument("--kubeconfig", metavar="FILE", help="how to reach the API server")
    how.add_argument(
        "--state",
        metavar="STATE",
        help="the state that ss was asked for (ss -tn state syn-sent), which it then does not "
        "print; for --file",
    )
    show = parser.add_argument_group("what to show")
    show.add_argument("--format", metavar="text|json|jsonl|markdown", help="(default text)")
    show.add_argument(
        "--vpc-cidr",
        metavar="CIDR",
        action="append",
        help="count these addresses as VPC/internal, beside the private ranges (repeatable); with "
        "--bundle, instead of as it is recorded",
    )
    show.add_argument("--node-name", metavar="NAME", help="name of this node in the output")
    show.add_argument(
        "--redact",
        action="store_true",
        help="of command lines show the program alone, and quote no line of a text; without it "
        "what looks like a secret is masked",
    )
    show.add_argument(
        "--report", metavar="DIR", help="write everything into a new directory too; see below"
    )


def run(given: Mapping[str, object], environment: Mapping[str, str]) -> int:
    """Runs the check and prints its answer; returns the exit status."""
    options = Options(given, environment, exclusive=_TARGETS)
    answer_format = _choice(options, "format", _FORMATS)
    directory = options.text("report")
    if directory is None:
        result, steps = _answer(options, environment, None)
        _print(_rendered(answer_format, result, steps))
    else:
        result = _run_with_report(options, environment, answer_format, directory)
    return 1 if result.findings else 0


def _run_with_report(
    options: Options, environment: Mapping[str, str], answer_format: str, directory: str
) -> CheckResult:
    from tracer.host.environment import describe
    from tracer.sinks.bundle import Bundle

    # Before anything is looked at: a name that cannot be had is said at once.
    with Bundle(directory) as bundle:
        result, steps = _answer(options, environment, bundle)
        unprinted: OutputError | None = None
        try:
            _print(_rendered(answer_format, result, steps))
        except OutputError as error:  # the report is wanted all the same
            unprinted = error
        bundle.finish(result, steps, describe())
    with suppress(OSError):  # closed
        sys.stderr.write(f"synsent-trace: the report is in {safe(directory)}\n")
    if unprinted is not None:
        raise unprinted
    return result


def _answer(
    options: Options, environment: Mapping[str, str], raw: Raw | None
) -> tuple[CheckResult, Sequence[Step]]:
    """What was found, fit to be passed on, and what to check next."""
    from tracer.check.answer import with_command_lines, with_lines
    from tracer.diagnose.steps import steps_for
    from tracer.redact import masked, masked_text, program_only, without_quotations

    found = _collect(options, environment, raw)
    redact = options.flag("redact")
    result = with_command_lines(found, program_only if redact else masked)
    result = with_lines(result, without_quotations if redact else masked_text)
    return result, steps_for(result, here=options.text("bundle") is None)


def _print(pieces: Iterable[str]) -> None:
    """Raises OutputError where it cannot be written. Nobody reading on is no error."""
    try:
        sys.stdout.writelines(pieces)
        sys.stdout.flush()
    except OSError as error:
        # What is left in the buffer is written at the program's end, and fails again.
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            raise OutputError(
                f"the answer could not be written: {error.strerror or error}"
            ) from error


def _collect(options: Options, environment: Mapping[str, str], raw: Raw | None) -> CheckResult:
    from tracer.check import node, texts
    from tracer.check.context import Context
    from tracer.enrich.destination import Destinations, parse_cidrs

    node_name = options.text("node_name") or environment.get("NODE_NAME") or os.uname().nodename
    cidrs = parse_cidrs(options.several("vpc_cidr"), options.label("vpc_cidr"))
    context = Context(node_name, Destinations(cidrs), raw)
    pod, pid, files = options.text("pod"), options.text("pid"), options.several("file")
    bundle, via = options.text("bundle"), _choice(options, "via", _VIA)
    chosen = [
        *(options.flag("node"), pod is not None, pid is not None, bool(files)),
        bundle is not None,
    ].count(True)
    if chosen != 1:
        raise UsageError(
            "nothing to check" if chosen == 0 else "more than one thing to check",
            hint="give one of --node, --pod NAMESPACE/NAME, --pid PID, --file FILE, --bundle DIR",
        )
    _refuse_idle(options, pod=pod is not None, files=bool(files))
    if bundle is not None:
        if raw is not None:
            raise UsageError(
                f"{options.label('report')}: a bundle is not written into another",
                hint="copy it; of text files that somebody sent, --file makes a report",
            )
        return texts.check_bundle(context, bundle, reclassify=bool(cidrs))
    if files:
        if files.count("-") > 1:
            raise UsageError(f"{options.label('file')} -: standard input can be read once only")
        return texts.check_files(context, files, state=_state(options))
    if pid is not None:
        if not pid.isascii() or not pid.isdigit() or not os.path.isdir(f"/proc/{pid}"):  # noqa: PTH112
            raise UsageError(f"{options.label('pid')}: no process has the id {pid!r}")
        return node.check_node(context, pid=int(pid))
    if pod is not None:
        return _check_pod(context, options, pod, via)
    return node.check_node(context)


def _refuse_idle(options: Options, *, pod: bool, files: bool) -> None:
    """Refuses what the command line says and nothing would come of."""
    for name, needed, is_there in (
        *((name, "pod", pod) for name in ("via", "container", "kubeconfig")),
        ("state", "file", files),
    ):
        if options.on_command_line(name) and not is_there:
            raise UsageError(f"--{name} is for --{needed} alone")
    if options.text("via") == "node":
        for name in ("container", "kubeconfig"):
            if options.on_command_line(name):
                raise UsageError(f"--{name} is of no use with {options.label('via')} node")


def _state(options: Options) -> str | None:
    """The state of rows that show none, by the kernel's name."""
    from tracer.sources.text.ss import FILTERS

    given = options.text("state")
    if given is None:
        return None
    state = FILTERS.get(given.lower().replace("_", "-"))
    if state is None:
        raise UsageError(
            f"{options.label('state')}: {given!r} is no state that ss can be asked for",
            hint=f"it is one of {', '.join(FILTERS)}",
        )
    return state


def _check_pod(context: Context, options: Options, pod: str, via: str) -> CheckResult:
    from tracer.check.node import check_pod_here

    container = options.text("container")
    not_here: UsageError | None = None
    # Only from inside one container looks different from another.
    if via == "node" or (via == "auto" and container is None):
        try:
            return check_pod_here(context, pod)
        except UsageError as error:
            if via == "node":
                raise
            not_here = error
    # The client for Kubernetes takes a while to load.
    from tracer.check.container import check_pod_inside

    try:
        return check_pod_inside(
            context, pod, container=container, kubeconfig=options.text("kubeconfig")
        )
    except SynsentError as error:
        # Wrong usage is the same both ways.
        if not_here is not None and not isinstance(error, UsageError):
            error.args = (f"{error}; nor was it found here: {not_here}",)
        raise


def _choice(options: Options, name: str, allowed: Sequence[str]) -> str:
    value = options.text(name) or allowed[0]
    if value not in allowed:
        raise UsageError(f"{options.label(name)}: {value!r} is not one of {', '.join(allowed)}")
    return value


def _rendered(answer_format: str, result: CheckResult, steps: Sequence[Step]) -> Iterable[str]:
    """The answer, in pieces."""
    from tracer.sinks import report

    if answer_format == "json":
        return report.as_json(result, steps)
    if answer_format == "jsonl":
        return report.as_jsonl(result)
    if answer_format == "markdown":
        return [report.as_markdown(result, steps)]
    color = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    return [report.text(result, steps, color=color)]
