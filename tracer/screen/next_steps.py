"""What to do next about a row, and in two lines what it is and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rich.cells import cell_len
from rich.text import Text

from tracer.diagnose.advice import Subject, steps_for_cause
from tracer.facts import facts_behind
from tracer.finding import Step
from tracer.model import COMPARISON, Cause, Report, Verdict
from tracer.screen.glyphs import Glyphs
from tracer.screen.page import wrapped
from tracer.screen.rows import Row
from tracer.screen.words import because

_HINT: Final = "  (y copies it, Enter shows more)"
_LABEL: Final = 5
"""Cells of "why" and "next", with the space behind them."""


def subject_of(report: Report, node: str) -> Subject:
    """What commands are filled in with."""
    flow, pod = report.change.attempt.flow, report.pod
    named = pod if pod is not None and pod.name is not None else None
    return Subject(
        destination=flow.destination,
        scope=report.destination.scope,
        namespace=named.namespace if named else None,
        pod=named.name if named else None,
        node=node,
        source_address=flow.source.address,
        eni_id=pod.eni_id if pod else None,
        pid=_pid(report) if report.change.attempt.outcome is None else None,
    )


def steps(verdict: Verdict | None, report: Report, node: str) -> tuple[Step, ...]:
    """The next steps for a verdict, by the facts behind it where they are still known."""
    cause = Cause.UNKNOWN if verdict is None else verdict.cause
    return steps_for_cause(cause, subject_of(report, node), facts_behind(verdict))


def steps_of(row: Row, node: str) -> tuple[Step, ...]:
    """What to do next about a row, with everything known filled in."""
    return steps(row.verdict, row.report, node)


def _pid(report: Report) -> int | None:
    return report.process.pid if report.process is not None else report.change.attempt.owner.pid


def first_command(row: Row, node: str) -> str | None:
    """The first command of the advice; lines that only say where to run one are passed over."""
    for step in steps_of(row, node):
        for command in step.commands:
            if not command.startswith("#"):
                return command
    return None


def in_brief(row: Row, *, node: str, width: int, lines: int, glyphs: Glyphs) -> list[Text]:
    """Why, and what next, of the row under the cursor, in `lines` lines (two at least)."""
    verdict = row.verdict
    if verdict is not None:
        said = [f"{because(verdict)}: {verdict.summary}"]
        if lines > 3:  # else the sentence itself needs them
            said += [piece.summary for piece in verdict.evidence if piece.kind == COMPARISON][:1]
    else:
        said = ["it is being looked into" if row.stuck else "not known"]
    command = first_command(row, node)
    then = command or "Enter shows what to do"
    if command is not None and cell_len(then) + len(_HINT) + _LABEL <= width:
        then += _HINT
    found = list(_labelled("why", said[0], width, lines - len(said), glyphs))
    for sentence in said[1:]:
        found += _labelled("", sentence, width, 1, glyphs)
    found += _labelled("next", then, width, 1, glyphs)
    return found


def _labelled(label: str, text: str, width: int, lines: int, glyphs: Glyphs) -> Sequence[Text]:
    """A text beside its label in at most so many lines; the last of them may be cut."""
    room = max(10, width - _LABEL)
    parts = wrapped(glyphs.clean(text), room, 0)
    if len(parts) > lines:
        parts = [*parts[: lines - 1], glyphs.fit(" ".join(parts[lines - 1 :]), room)]
    found = []
    for index, part in enumerate(parts):
        head = f"{label if index == 0 else '':<{_LABEL}}"
        line = Text.assemble((head, "bold"), glyphs.fit(part, room), no_wrap=True, end="")
        found.append(line)
    return found
