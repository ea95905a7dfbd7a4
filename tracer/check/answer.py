"""What is made of a check's findings: advice, and text fit to be passed on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from tracer.diagnose.advice import Subject, advise
from tracer.finding import CheckResult, Finding, Rung, Step, rows
from tracer.model import PodIdentity


def steps_for(result: CheckResult, *, here: bool) -> tuple[Step, ...]:
    """What to check next, filled in with what was found.

    `here` says that it was collected just now: of a report nobody knows whose process has the id.
    """
    subjects = []
    for row in rows(result.findings):
        pod = row.pod or PodIdentity()
        flow = row.findings[0].flow
        # Without a namespace it was read from a text, or inside a container: of another machine.
        from_kernel = flow.netns is not None
        subjects.append(
            Subject(
                destination=row.endpoint,
                scope=row.destination.scope,
                namespace=pod.namespace,
                pod=pod.name,
                node=pod.node or (result.node if from_kernel else None),
                source_address=flow.source.address,
                eni_id=pod.eni_id,
                pid=row.processes[0].pid if row.processes and from_kernel and here else None,
            )
        )
    return advise(subjects)


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
