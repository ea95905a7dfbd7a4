"""The main table as lines: which columns there is room for, and what stands in them.

An address is never cut: where the longest one needs the room, columns of less weight go.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from rich.cells import cell_len
from rich.text import Text

from tracer.model import NANOSECONDS, Cause, Confidence, Kind, Scope
from tracer.screen.glyphs import Glyphs
from tracer.screen.rows import Row
from tracer.screen.view import Group
from tracer.screen.words import (
    SHORT_TAGS,
    TAG_STYLES,
    age,
    ago,
    because,
    called,
    ends,
    in_short,
    since,
    until,
    whose,
    workload,
)
from tracer.sinks.wording import endpoint, process_name
from tracer.snapshot import FADE_SECONDS
from tracer.text import safe

FLASH_SECONDS: Final = 1.0
OLD_SECONDS: Final = 10.0
_LEAST_WHO: Final = 10
_WORDS: Final = 24
"""Cells in which nearly every cause stands with its confidence in words."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column with its width in cells; `key` also names what flashes in it."""

    key: str
    title: str
    width: int
    right: bool = False


@dataclass(frozen=True, slots=True)
class Layout:
    """The columns of a table that is `width` cells wide."""

    columns: tuple[Column, ...]
    width: int
    group: Group
    glyphs: Glyphs

    def head(self, sorted_by: str) -> Text:
        """The line of titles; what the order follows is underlined."""
        line = Text(no_wrap=True, end="")
        for index, column in enumerate(self.columns):
            if index:
                line.append(" ")
            title = self.glyphs.fit(column.title, column.width, right=column.right)
            style = "bold underline" if column.title.strip() == sorted_by else "bold"
            line.append(title, style)
        return line

    def line(self, row: Row, now_ns: int, *, chosen: bool = False) -> Text:
        """One row. Everything fits: nothing wraps. The chosen one is reversed, without colours."""
        line = Text(no_wrap=True, end="")
        faded = _faded(row, now_ns)
        for index, column in enumerate(self.columns):
            if index:
                line.append(" ")
            text, style = _CELLS[column.key](row, now_ns, self)
            text = self.glyphs.fit(text, column.width, right=column.right)
            if faded:
                style = faded
            at_ns = row.changed.get(column.key)
            flashes = at_ns is not None and now_ns - at_ns < FLASH_SECONDS * NANOSECONDS
            if chosen:
                style = "bold" if flashes or "bold" in style else ""
            elif flashes:
                style = f"{style} bold".strip()
            value = text.strip()
            before, _, after = text.partition(value) if value else (text, "", "")
            line.append(before, style)
            line.append(value, f"{style} reverse" if flashes and not chosen else style)
            line.append(after, style)
        if chosen:
            line.stylize("reverse")
        return line


@dataclass(frozen=True, slots=True)
class Widths:
    """The widest texts there have been, in cells, so that columns do not jump about."""

    where: int = 0
    who: int = 0
    name: int = 0


def measured(
    rows: Sequence[Row],
    group: Group,
    glyphs: Glyphs,
    before: Widths = Widths(),
) -> Widths:
    """How wide the texts of rows are, and of those before."""
    where, who, name = before.where, before.who, before.name
    for row in rows:
        where = max(where, cell_len(_where_text(row, group, glyphs)))
        who = max(who, cell_len(_who_text(row, group, glyphs)))
        name = max(name, cell_len(glyphs.clean(_name_text(row))))
    return Widths(where, who, name)


def layout(width: int, widths: Widths, group: Group, glyphs: Glyphs) -> Layout:
    """The columns for a table.

    The width of addresses is that of the longest; names take what is left.
    """
    where = max(widths.where, 15 if width < 100 else 21)
    who_wanted = widths.who
    roomy = width >= 120
    columns: dict[str, Column] = {
        "who": Column("who", _TITLES[group], _LEAST_WHO),
        "where": Column("where", "destination", where),
        "stuck": Column("stuck", "stuck", 5, right=True),
        "oldest": Column("oldest", "oldest", 7, right=True),
    }
    # By weight: what comes first stays when there is little room.
    optional = [
        Column("verdict", "verdict", 12),
        Column("next", "next", 5, right=True),
        Column("tag", "tag", 12 if roomy else 4),
        Column("syns", "SYNs", 4, right=True),
        Column("name", "name", 16),
        Column("ended", "ended", 8),
        Column("trend", "1 min", 6, right=True),
    ]
    unwanted = {"name"} if not widths.name else set()
    if group in {Group.POD, Group.WORKLOAD}:
        unwanted = {"name", "tag"}
    left = width - sum(column.width + 1 for column in columns.values()) + 1
    # Names of pods come before the columns of little weight.
    wanted = max(0, min(who_wanted, 18 if width < 100 else 40) - _LEAST_WHO)
    for column in optional:
        reserve = wanted if column.key not in {"verdict", "next"} else wanted // 2
        if column.key not in unwanted and left - (column.width + 1) >= reserve:
            columns[column.key] = column
            left -= column.width + 1
    grow: dict[str, int] = {}
    for key, most in (
        ("who", who_wanted - _LEAST_WHO),
        ("name", widths.name - 16),
        ("verdict", 26 - 12),
        ("ended", 24 - 8),
        ("verdict", 1_000),
        ("who", 1_000),
    ):
        if key in columns:
            more = min(max(0, left), max(0, most))
            grow[key] = grow.get(key, 0) + more
            left -= more
    made = []
    for key in (
        "who",
        "where",
        "tag",
        "name",
        "stuck",
        "oldest",
        "syns",
        "next",
        "ended",
        "trend",
        "verdict",
    ):
        if key in columns:
            column = columns[key]
            made.append(Column(key, column.title, column.width + grow.get(key, 0), column.right))
    return Layout(tuple(made), width, group, glyphs)


_TITLES: Final = {
    Group.PAIR: "pod",
    Group.DESTINATION: "from",
    Group.POD: "pod",
    Group.WORKLOAD: "workload",
    Group.ATTEMPT: "process",
}


def _faded(row: Row, now_ns: int) -> str:
    """What has ended gets fainter, then goes."""
    if row.ended_ns is None:
        return ""
    gone = (now_ns - row.ended_ns) / NANOSECONDS
    return "dim" if gone < FADE_SECONDS / 2 else "dim italic"


# --- cells: text and style -----------------------------------------------------------------------

Cell = tuple[str, str]


def _who_text(row: Row, group: Group, glyphs: Glyphs) -> str:
    if group is Group.DESTINATION:
        return whose(row.report) if row.whos == 1 else f"{row.whos} pods or processes"
    if group is Group.WORKLOAD:
        more = f" ({row.whos} pods)" if row.whos > 1 else ""
        return glyphs.clean(workload(row.report)) + more
    if group is Group.ATTEMPT:
        pod = f"{whose(row.report)} " if row.report.pod is not None else ""
        return glyphs.clean(pod + process_name(row.report))
    return glyphs.clean(whose(row.report))


def _where_text(row: Row, group: Group, glyphs: Glyphs) -> str:
    if row.wheres > 1 and group not in {Group.ATTEMPT, Group.PAIR, Group.DESTINATION}:
        return f"{row.wheres} destinations"
    if group is Group.ATTEMPT:
        flow = row.report.change.attempt.flow
        port = "?" if flow.source.port is None else flow.source.port
        return f":{port} {glyphs.arrow} {endpoint(flow.destination)}"
    return endpoint(row.destination)


def _name_text(row: Row) -> str:
    return called(row.report.destination)


def _who(row: Row, _now: int, to: Layout) -> Cell:
    width = next(column.width for column in to.columns if column.key == "who")
    text = _who_text(row, to.group, to.glyphs)
    # Pods differ at their ends; of what is none the beginning tells most.
    cut = to.glyphs.squeeze if row.report.pod is not None else to.glyphs.fit
    return cut(text, width), ""


def _where(row: Row, _now: int, to: Layout) -> Cell:
    text = to.glyphs.clean(_where_text(row, to.group, to.glyphs))
    if row.wheres > 1 and text.endswith("destinations"):
        return text, "dim"
    return text, TAG_STYLES[row.report.destination.scope]


def _tag(row: Row, _now: int, to: Layout) -> Cell:
    scope: Scope = row.report.destination.scope
    width = next(column.width for column in to.columns if column.key == "tag")
    return (scope.tag if width >= 12 else SHORT_TAGS[scope]), TAG_STYLES[scope]


def _name(row: Row, _now: int, to: Layout) -> Cell:
    text = to.glyphs.clean(_name_text(row))
    width = next(column.width for column in to.columns if column.key == "name")
    if cell_len(text) > width and row.report.destination.kind is not Kind.ADDRESS:
        text = text.partition(" ")[2]  # "service", "pod", "node"
    return to.glyphs.squeeze(text, width), "bold red" if "WITHOUT ENDPOINTS" in text else ""


def _stuck(row: Row, _now: int, _to: Layout) -> Cell:
    return (str(row.stuck), "bold red") if row.stuck else ("0", "dim")


def _oldest(row: Row, now: int, _to: Layout) -> Cell:
    if not row.stuck:
        return ago(since(row.ended_ns, now)), "dim"
    seconds = since(row.oldest_ns, now)
    return age(seconds), "bold" if seconds is not None and seconds >= OLD_SECONDS else ""


def _syns(row: Row, _now: int, _to: Layout) -> Cell:
    return ("?" if row.syns is None else str(row.syns)), ""


def _next(row: Row, now: int, _to: Layout) -> Cell:
    return (until(row.next_ns, now), "") if row.stuck else ("", "")


def _ended(row: Row, _now: int, to: Layout) -> Cell:
    width = next(column.width for column in to.columns if column.key == "ended")
    long = ends(row.ended, short_words=False)
    return (long if cell_len(long) <= width else ends(row.ended, short_words=True)), ""


def _trend(row: Row, now: int, to: Layout) -> Cell:
    moved = row.trend(now)
    if not moved:
        return "=", "dim"
    mark, style = (to.glyphs.up, "red") if moved > 0 else (to.glyphs.down, "green")
    return f"{mark}{abs(moved)}", style


def _verdict(row: Row, _now: int, to: Layout) -> Cell:
    verdict = row.verdict
    if verdict is None:
        return ("", "") if not row.stuck else ("looking", "dim")
    width = next(column.width for column in to.columns if column.key == "verdict")
    more = f" +{row.causes - 1}" if row.causes > 1 else ""
    text = because(verdict) + more
    if width >= 60:
        text = f"{text}: {safe(verdict.summary)}"
    elif width < _WORDS or cell_len(text) > width:  # the same way in all rows
        text = in_short(verdict) + more
    sure = verdict.confidence is Confidence.HIGH and verdict.cause is not Cause.UNKNOWN
    return to.glyphs.clean(text), "bold" if sure else (
        "dim" if verdict.cause is Cause.UNKNOWN else ""
    )


_CELLS: Final[dict[str, Callable[[Row, int, Layout], Cell]]] = {
    "who": _who,
    "where": _where,
    "tag": _tag,
    "name": _name,
    "stuck": _stuck,
    "oldest": _oldest,
    "syns": _syns,
    "next": _next,
    "ended": _ended,
    "trend": _trend,
    "verdict": _verdict,
}
