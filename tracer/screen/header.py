"""The lines above the table: is it still happening, and can the picture be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath
from typing import Final

from rich.cells import cell_len
from rich.text import Text

from tracer import __version__
from tracer.model import Health, KubeState, SourceName
from tracer.screen.glyphs import Glyphs
from tracer.screen.rows import Rows
from tracer.screen.view import Scopes
from tracer.screen.words import ends
from tracer.sinks.wording import crosscheck_failed, date_and_time, disagreements, losses, span
from tracer.snapshot import Snapshot, Totals

Part = tuple[str, str]
"""Text and its style."""

_WEIGHTS: Final = {"bold red": 0, "bold yellow": 1, "yellow": 2}
"""Styles of what is wrong, the worst first."""

_CALM_LINES: Final = 3
_LEAST_FILE: Final = 24
"""Lines that what is in order may reach to, and cells that the name of a file is left with."""


def flow(parts: Sequence[Part], width: int, glyphs: Glyphs, most: int | None = None) -> list[Text]:
    """Parts side by side, on as many lines as they need; none is broken unless it is too long."""
    lines: list[Text] = []
    line = Text(no_wrap=True, end="")
    for part, style in parts:
        text = glyphs.clean(part)
        if line.plain and line.cell_len + 2 + cell_len(text) > width:
            lines.append(line)
            line = Text(no_wrap=True, end="")
        if line.plain:
            line.append("  ")
        line.append(text if cell_len(text) <= width else glyphs.fit(text, width), style)
    lines.append(line)
    return lines[:most]


def header(
    snapshot: Snapshot,
    rows: Rows,
    *,
    node: str,
    width: int,
    glyphs: Glyphs,
    recording: str | None = None,
    note: str | None = None,
    frozen_seconds: float | None = None,
    roomy: bool = True,
) -> list[Text]:
    """All lines above the table, for a screen that is `width` cells wide, and has lines to spare
    where it is `roomy`.
    """
    health = snapshot.health
    up = snapshot.uptime_seconds
    first: list[Part] = [(f"synsent-trace {__version__}", "bold"), (node, "bold")]
    if frozen_seconds is not None:
        first.append((f"FROZEN {span(frozen_seconds)} ago, space goes on", "bold reverse"))
    if note is not None:
        first.append((note, "bold reverse"))
    if health is None:
        return [
            *flow([*first, ("starting", "")], width, glyphs, 2),
            *_sums(snapshot, width, glyphs),
        ]
    state = sorted(_state(health, snapshot), key=_weight)
    first += [part for part in state if part[1] in _WEIGHTS]
    if recording is not None:
        name = PurePath(recording).name or recording
        room = max(_LEAST_FILE, width // 2 - len("REC "))
        first.append((f"REC {glyphs.squeeze(name, room)}", "bold red"))
    # What is wrong is never cut, whatever the names need; what is in order may be.
    most = max(_CALM_LINES, len(flow(first, width, glyphs)))
    first.append((f"up {span(up)}", ""))
    first += [part for part in state if part[1] not in _WEIGHTS]
    lines = flow(first, width, glyphs, most)
    lines += _sums(snapshot, width, glyphs)
    lines += _troubles(health, width, glyphs, 2 if roomy else 1)
    return [*lines, _view(rows, width, glyphs)]


def _weight(part: Part) -> int:
    return _WEIGHTS.get(part[1], len(_WEIGHTS))


def _state(health: Health, snapshot: Snapshot) -> list[Part]:
    if not health.recorded:
        return [("state of the trace not recorded", "yellow")]
    parts: list[Part] = []
    if health.backend is SourceName.BPF:
        parts.append(("BPF ok", "green"))
        found = disagreements(health.crosscheck)
        if crosscheck_failed(health):
            found = f"{found}, then failed" if found else "failed"
            parts.append((f"cross-check: {found}", "bold yellow"))
        elif not health.crosscheck.sweeps:
            parts.append(("not cross-checked", "dim"))
        elif found:
            parts.append((f"cross-check: {found}", "bold yellow"))
        else:
            parts.append((f"cross-check agrees ({health.crosscheck.sweeps})", "green"))
    else:
        parts.append((f"polling {health.backend}, which misses what is short", "yellow"))
    lost = losses(health.losses)
    if lost:
        parts.append((f"lost: {lost}", "bold red"))
    elif health.backend is SourceName.BPF:
        parts.append(("nothing lost", "green"))
    if snapshot.totals.unheld:
        parts.append((f"{snapshot.totals.unheld} found no room since the start", "bold red"))
    if health.withheld:
        parts.append((f"{health.withheld} withheld, pod not known", "yellow"))
    kube = health.kube
    if kube.state is KubeState.OFF:
        parts.append(("no API server asked", "dim"))
    elif kube.state is KubeState.SYNCED:
        parts.append(("names from the API", "green"))
    elif kube.names_wall_ns is not None:
        old = max(0, snapshot.wall_ns - kube.names_wall_ns) / 1e9
        parts.append((f"API {kube.state}, names {span(old)} old", "yellow"))
    else:
        parts.append((f"API {kube.state}", "yellow"))
    return parts


def _sums(snapshot: Snapshot, width: int, glyphs: Glyphs) -> list[Text]:
    totals = snapshot.totals
    now: Part = (
        (f"STUCK {totals.stuck_now}", "bold red")
        if totals.stuck_now
        else ("nothing is stuck", "bold green")
    )
    parts = [now, (f"peak {totals.peak}", ""), (f"{totals.new_per_minute} new in 1 min", "")]
    ended = ends(totals.outcomes, short_words=False)
    parts.append((f"ended: {ended}" if ended else "none ended", ""))
    known = snapshot.health is not None and snapshot.health.recorded
    if totals.success is not None and known:
        parts.append(_success(totals.success, bool(totals.stuck_now)))
    return [*flow(parts, width, glyphs, 2), _spark(totals, width, glyphs)]


def _success(share: float, stuck: bool) -> Part:
    """Of what ended alone: nothing to be calm about while something is stuck."""
    calm = "" if stuck else "green"
    whose = "connects that ended succeeded" if stuck else "connects succeed"
    return f"{_percent(share)} of {whose}", calm if share >= 0.99 else "bold yellow"


def _percent(share: float) -> str:
    """Never 100 % where one failed."""
    if 0.9995 <= share < 1:
        return ">99.9%"
    return f"{share * 100:.1f}%" if share < 1 else "100%"


def _spark(totals: Totals, width: int, glyphs: Glyphs) -> Text:
    """Stuck attempts over the last ten minutes; the scale is said beside it."""
    known = [value for value in totals.history if value is not None]
    most = max(known, default=0)
    line = Text(no_wrap=True, end="")
    line.append("10 min ", "dim")
    bars = glyphs.bars
    steps = totals.history[-max(10, width - 24) :]
    for value in steps:
        if value is None:
            line.append(" ")
        elif not value or not most:
            line.append(bars[0], "dim")
        else:
            line.append(bars[max(1, round(value / most * (len(bars) - 1)))], "red")
    line.append(f" now {totals.stuck_now}, most {most}", "dim")
    return line


def _troubles(health: Health, width: int, glyphs: Glyphs, most: int) -> list[Text]:
    """What the trace lacks, a line each; how many more there are."""
    troubles = list(health.lacking)
    kube = health.kube
    if kube.message:
        as_of = f" (names as of {date_and_time(kube.names_wall_ns)})" if kube.names_wall_ns else ""
        troubles.append(f"names: {kube.message}{as_of}")
    more = f"  (+{len(troubles) - most}: e)" if len(troubles) > most else ""
    lines = []
    for index, text in enumerate(troubles[:most]):
        tail = more if index == most - 1 else ""
        line = glyphs.clean(f"! {text}")
        room = width - len(tail)
        line = glyphs.fit(line, room) if cell_len(line) > room else line
        lines.append(Text(f"{line}{tail}", "yellow", no_wrap=True, end=""))
    return lines


def _view(rows: Rows, width: int, glyphs: Glyphs) -> Text:
    view = rows.view
    order = f"{glyphs.upwards if view.reverse else glyphs.downwards} {view.sort}"
    parts: list[Part] = [(f"by {view.group}", "bold"), (f"sort {order}", "")]
    if view.scopes is not Scopes.ALL:
        parts.append((f"only {view.scopes}", "bold yellow"))
    if view.query.text:
        parts.append((f"/{view.query.text}", "bold yellow"))
    parts.append((f"{len(rows.rows)} rows", "dim"))
    if rows.unsorted:
        parts.append((f"{rows.unsorted} new at the end, o orders", "dim"))
    return flow(parts, width, glyphs, 1)[0]
