"""What to check next for everything that was found, and on which node."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from tracer.diagnose.advice import MAX_DESTINATIONS, Subject, advise, steps_for_cause
from tracer.diagnose.commands import checked, on_nodes
from tracer.finding import CheckResult, Judged, Row, Step, rows
from tracer.model import Cause, Confidence, PodIdentity

_SURE: Final = frozenset({Confidence.HIGH, Confidence.MEDIUM})
"""Verdicts that advice follows. A guess is no reason to look at nothing else."""

_ON: Final = "# on "
"""What the line begins with that names the node of the commands below it; see on_nodes()."""

_ANYWHERE: Final = ("kubectl ", "aws ", "#")
"""What runs on no particular node."""


def steps_for(result: CheckResult, *, here: bool) -> tuple[Step, ...]:
    """What to check next, filled in with what was found: for what a verdict explains, the steps of
    its cause; for the rest, those by where the destination lies.

    `here` says that it was collected just now: of a report nobody knows whose process has the id.
    """
    verdicts = {one.key: one for one in result.verdicts}
    explained: dict[Cause, list[tuple[Subject, Judged]]] = {}
    rest: list[Subject] = []
    for row in rows(result.findings):
        subject, verdict = _subject(result, row, here=here), verdicts.get(row.key)
        if verdict is not None and verdict.known and verdict.confidence in _SURE:
            explained.setdefault(verdict.cause, []).append((subject, verdict))
        else:
            rest.append(subject)
    steps = [
        _placed(step, subject)
        for cause, members in explained.items()
        for subject, verdict in members[:MAX_DESTINATIONS]
        for step in steps_for_cause(cause, subject, verdict.facts)
    ]
    return _merged((*steps, *advise(rest)))


def _subject(result: CheckResult, row: Row, *, here: bool) -> Subject:
    pod = row.pod or PodIdentity()
    flow = row.findings[0].flow
    # Without a namespace it was read from a text, or inside a container: of another machine.
    from_kernel = flow.netns is not None
    return Subject(
        destination=row.endpoint,
        scope=row.destination.scope,
        namespace=pod.namespace,
        pod=pod.name,
        node=pod.node or (result.node if from_kernel else None),
        source_address=flow.source.address,
        eni_id=pod.eni_id,
        pid=row.processes[0].pid if row.processes and from_kernel and here else None,
    )


def _placed(step: Step, subject: Subject) -> Step:
    """The step with its node named above what runs there: a cause's steps leave it out."""
    if any(command.startswith(_ON) for command in step.commands):
        return step
    anywhere = [command for command in step.commands if command.startswith(_ANYWHERE)]
    on_node = [command for command in step.commands if not command.startswith(_ANYWHERE)]
    return replace(
        step, commands=(*anywhere, *on_nodes([(checked(subject), on_node)] if on_node else []))
    )


def _merged(steps: Iterable[Step]) -> tuple[Step, ...]:
    """Each step once, with every command once, below the line that names its node."""
    # Dictionaries for their order: steps by title and reason, commands by the line above them.
    merged: dict[tuple[str, str], dict[str, dict[str, None]]] = {}
    for step in steps:
        by_place = merged.setdefault((step.title, step.reason), {"": {}})
        place = ""
        for command in step.commands:
            if command.startswith(_ON):
                place = command
            else:
                by_place.setdefault(place, {})[command] = None
    return tuple(
        Step(title, reason, tuple(_lines(by_place))) for (title, reason), by_place in merged.items()
    )


def _lines(by_place: dict[str, dict[str, None]]) -> Iterable[str]:
    for place, commands in by_place.items():
        if place and commands:
            yield place
        yield from commands
