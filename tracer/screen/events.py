"""The log of events as lines, the newest last, and the state of the tracer above it."""

from __future__ import annotations

import time
from functools import lru_cache
from typing import Final

from rich.text import Text

from tracer.model import (
    NANOSECONDS,
    ChangeKind,
    Health,
    Lifecycle,
    LifecycleKind,
    Outcome,
    Report,
)
from tracer.screen.glyphs import Glyphs
from tracer.screen.page import Page
from tracer.screen.words import whose
from tracer.sinks.wording import because, duration, endpoint, errors, names, process_name, totals
from tracer.snapshot import Notice

_WORDS: Final = {
    ChangeKind.STUCK: ("STUCK", "bold red"),
    ChangeKind.RETRANSMIT: ("RETRY", "yellow"),
    ChangeKind.EVIDENCE: ("WHY", "bold cyan"),
    ChangeKind.END: ("END", "red"),
}
_LIFE: Final = {
    LifecycleKind.START: "started",
    LifecycleKind.HEALTH: "health",
    LifecycleKind.STOP: "stopped",
}


def line(event: Report | Lifecycle | Notice, width: int, glyphs: Glyphs) -> Text:
    """One event; an end that does not fit is cut, the detail of a row has it."""
    at = _clock(event.wall_ns // NANOSECONDS) + f".{event.wall_ns % NANOSECONDS // 10**6:03d}"
    if isinstance(event, Report):
        word, style = _WORDS[event.change.kind]
        if event.change.attempt.outcome is Outcome.ESTABLISHED and word == "END":
            style = "green"
        said = _said(event)
    elif isinstance(event, Notice):
        word, style, said = "NOTE", "bold", event.text
    else:
        word, style = "--", "bold"
        said = ". ".join(
            part
            for part in (
                _LIFE[event.kind],
                event.message,
                *(f"lacking: {text}" for text in event.health.lacking),
                names(event.health.kube),
                totals(event.health) if event.kind is not LifecycleKind.START else None,
            )
            if part
        )
    text = glyphs.fit(glyphs.clean(said), max(1, width - 19))
    return Text.assemble((f"{at} ", "dim"), (f"{word:<5} ", style), text, no_wrap=True, end="")


def state(health: Health, width: int, glyphs: Glyphs) -> list[Text]:
    """What the trace lacks now, where names come from, and every count, in full."""
    page = Page(width, glyphs)
    for text in health.lacking:
        page.add(f"! {text}", "yellow")
    if said := names(health.kube):
        page.add(f"! {said}", "yellow")
    page.add(f"{totals(health)}.")
    return page.lines


def _said(report: Report) -> str:
    """What matters comes first: the end of a line may have no room."""
    attempt = report.change.attempt
    where = f"{endpoint(attempt.flow.destination)} ({report.destination.scope.tag})"
    if report.change.kind is ChangeKind.EVIDENCE:
        return f"{where} {because(report.verdict)} [{whose(report)}]"
    syns = "?" if attempt.syns_sent is None else attempt.syns_sent
    if report.change.kind is ChangeKind.END:
        what = f"{attempt.outcome}{errors(attempt)}"
    else:
        what = f"next {duration(report.next_retry_seconds)}"
    age = duration(report.age_seconds)
    return f"{where} {what} {age} {syns} SYN from {whose(report)} {process_name(report)}"


@lru_cache(maxsize=4_096)
def _clock(second: int) -> str:
    return time.strftime("%H:%M:%S", time.localtime(second))
