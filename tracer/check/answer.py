"""Text of a check's answer, made fit to be passed on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from tracer.finding import CheckResult, Finding, Rung


def with_command_lines(
    result: CheckResult, rewrite: Callable[[Sequence[str]], tuple[str, ...]]
) -> CheckResult:
    """The result with every command line, and what follows from it, rewritten."""

    def rewritten(found: Finding) -> Finding:
        process = found.process
        if process is None:
            return found
        name, arguments = process.name, process.command_line
        return replace(
            found,
            process=replace(
                process,
                # psutil completes a cut-off name from the command line.
                name=None if name is None else rewrite((name,))[0],
                command_line=None if arguments is None else rewrite(arguments),
            ),
        )

    return replace(result, findings=tuple(map(rewritten, result.findings)))


def with_lines(result: CheckResult, rewrite: Callable[[str], str]) -> CheckResult:
    """The result with every line of prose rewritten that may quote what was read."""
    return replace(
        result,
        tried=tuple(Rung(rung.method, rewrite(rung.reason)) for rung in result.tried),
        notes=tuple(map(rewrite, result.notes)),
    )
