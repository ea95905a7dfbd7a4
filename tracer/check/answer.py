"""What is made of a check's findings: advice, and command lines fit to be passed on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from tracer.diagnose.advice import Subject, advise
from tracer.finding import CheckResult, Finding, PodIdentity, Step, rows


def steps_for(result: CheckResult) -> tuple[Step, ...]:
    """What to check next, filled in with what was found."""
    subjects = []
    for row in rows(result.findings):
        pod = row.pod or PodIdentity()
        flow = row.findings[0].flow
        subjects.append(
            Subject(
                destination=row.endpoint,
                scope=row.destination.scope,
                namespace=pod.namespace,
                pod=pod.name,
                node=pod.node,
                source_address=flow.source.address,
                eni_id=pod.eni_id,
                pid=row.processes[0].pid if row.processes and flow.netns is not None else None,
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
