"""The main screen: header, table, the filter's field, and a line that says what the keys do."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from enum import StrEnum
from typing import TYPE_CHECKING, ClassVar, Final, TypeVar, cast

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import Screen
from textual.widgets import Input

from tracer.model import NANOSECONDS
from tracer.screen.header import header
from tracer.screen.next_steps import in_brief
from tracer.screen.page import Page
from tracer.screen.pages import DetailScreen, EventsScreen, HelpScreen
from tracer.screen.query import NoQuery, Query, parse
from tracer.screen.rows import Row
from tracer.screen.table import Widths, layout, measured
from tracer.screen.view import Group, Scopes, Sort, View
from tracer.screen.widgets import Block, Table
from tracer.screen.words import ends
from tracer.snapshot import Snapshot

if TYPE_CHECKING:
    from tracer.screen.app import TraceApp

_WIDTHS_SECONDS: Final = 1.0
_LEAST_FOR_BRIEF: Final = 20
_USUAL: Final = 24
_ROOMY: Final = 30
"""Rows of a terminal that has two, three, and more of them for what is under the cursor."""


class MainScreen(Screen[None]):
    """Header, table, and a line that says what the keys do."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "filter", show=False),
        Binding("g", "group", show=False),
        Binding("s", "sort", show=False),
        Binding("S,shift+s", "reverse", show=False),
        Binding("o", "order", show=False),
        Binding("t", "scope", show=False),
        Binding("space", "freeze", show=False),
        Binding("e", "events", show=False),
        Binding("w", "report", show=False),
        Binding("r", "record", show=False),
        Binding("y", "copy", show=False),
        Binding("question_mark", "help", show=False),
        Binding("q", "app.quit", show=False),
        Binding("escape", "unfilter", show=False),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._widths = Widths()
        self._measured_ns = 0
        self._before: Query = Query()

    @property
    def trace(self) -> TraceApp:
        return cast("TraceApp", self.app)

    @property
    def table(self) -> Table:
        return self.query_one("#table", Table)

    def compose(self) -> ComposeResult:
        yield Block(id="header")
        yield Block(id="titles")
        yield Table()
        yield Block(id="empty", fill=True)
        yield Block(id="brief")
        yield Input(id="filter", placeholder="text pod: ns: dst: tag: cause: age>5s", compact=True)
        yield Block(id="foot")

    def on_mount(self) -> None:
        self.query_one("#filter", Input).display = False
        self.table.focus()
        self.redraw()

    def on_resize(self) -> None:
        self.call_after_refresh(self.redraw)

    def measure_again(self) -> None:
        self._widths, self._measured_ns = Widths(), 0

    def redraw(self) -> None:
        app, snapshot = self.trace, self.trace.shown
        if snapshot is None:
            return
        width = app.size.width
        rows = app.rows.rows
        group = app.rows.view.group
        now = snapshot.now_ns
        if not self._measured_ns or now - self._measured_ns > _WIDTHS_SECONDS * NANOSECONDS:
            self._widths = measured(rows, group, app.glyphs, self._widths)
            self._measured_ns = now
        columns = layout(width, self._widths, group, app.glyphs)
        lines = header(
            snapshot,
            app.rows,
            node=app.node,
            width=width,
            glyphs=app.glyphs,
            recording=app.services.recording,
            note=app.services.note,
            frozen_seconds=app.frozen_seconds,
            roomy=app.size.height >= _ROOMY,
        )
        self.query_one("#header", Block).show(lines)
        empty = self.query_one("#empty", Block)
        self.table.display, empty.display = bool(rows), not rows
        if rows:
            self.query_one("#titles", Block).show([columns.head(app.rows.view.sort)])
            self.table.take(rows, columns, now)
        else:
            self.query_one("#titles", Block).show([Text(end="")])
            self.table.take(rows, columns, now)
            empty.show(_nothing(app, snapshot, width))
        self.on_table_moved()

    def on_table_moved(self) -> None:
        """The last lines say where the cursor is, and what is there."""
        self.query_one("#foot", Block).show([self.trace.foot(None, self._position())])
        self._tell_of(self.table.row)

    def _tell_of(self, row: Row | None) -> None:
        """Why, and what next, of the row under the cursor, where there is room for it."""
        app = self.trace
        width, height = app.size
        brief = self.query_one("#brief", Block)
        brief.display = row is not None and height >= _LEAST_FOR_BRIEF
        if row is None or not brief.display:
            return
        roomy = height >= _ROOMY
        count = 4 if roomy else 3 if height >= _USUAL else 2
        lines = in_brief(row, node=app.node, width=width, lines=count, glyphs=app.glyphs)
        rule = Text(app.glyphs.rule * width, "dim", no_wrap=True, end="")
        brief.show([rule, *lines] if roomy else lines)

    def _position(self) -> str:
        table = self.table
        return f"{table.cursor + 1}/{len(table.rows)}" if table.rows else ""

    # --- keys ----------------------------------------------------------------------------------

    def on_table_chosen(self) -> None:
        row = self.table.row
        if row is not None:
            self.trace.open(DetailScreen(row))

    def _change(self, view: View) -> None:
        self.measure_again()
        self.trace.change(view)
        self.table.home()

    def action_group(self) -> None:
        view = self.trace.rows.view
        self._change(replace(view, group=_next(Group, view.group)))

    def action_scope(self) -> None:
        view = self.trace.rows.view
        self._change(replace(view, scopes=_next(Scopes, view.scopes)))

    def action_sort(self) -> None:
        view = self.trace.rows.view
        self._change(replace(view, sort=_next(Sort, view.sort), reverse=False))

    def action_reverse(self) -> None:
        view = self.trace.rows.view
        self._change(replace(view, reverse=not view.reverse))

    def action_order(self) -> None:
        self.trace.rows.sort()
        self.redraw()
        self.table.home()

    def action_freeze(self) -> None:
        self.trace.freeze()

    def action_events(self) -> None:
        self.trace.open(EventsScreen())

    def action_help(self) -> None:
        self.trace.open(HelpScreen())

    def action_report(self) -> None:
        self.trace.report()

    def action_record(self) -> None:
        self.trace.say(self.trace.services.toggle_recording())
        self.redraw()

    def action_copy(self) -> None:
        row = self.table.row
        if row is None:
            self.trace.say("there is no row to copy a command of")
        else:
            self.trace.copy_command(row)

    # --- the filter ----------------------------------------------------------------------------

    def action_filter(self) -> None:
        field = self.query_one("#filter", Input)
        self._before = self.trace.rows.view.query
        field.value = self._before.text
        field.display = True
        field.focus()

    def action_unfilter(self) -> None:
        """Esc leaves the field as it was; outside of it, it shows everything again."""
        field = self.query_one("#filter", Input)
        if field.display:
            self._filter(self._before)
            self._leave_filter()
        elif self.trace.rows.view.query.text:
            self._filter(Query())

    def on_input_changed(self, event: Input.Changed) -> None:
        if not event.input.display:
            return
        with suppress(NoQuery):  # not typed to its end
            self._filter(parse(event.value))

    def on_input_submitted(self, event: Input.Submitted) -> None:
        try:
            self._filter(parse(event.value))
        except NoQuery as error:
            self.trace.say(f"no filter: {error}")
            return
        self._leave_filter()

    def _leave_filter(self) -> None:
        self.query_one("#filter", Input).display = False
        self.table.focus()

    def _filter(self, query: Query) -> None:
        view = self.trace.rows.view
        if query.text != view.query.text:
            self._change(replace(view, query=query))


_Choice = TypeVar("_Choice", bound=StrEnum)


def _next(choices: type[_Choice], now: _Choice) -> _Choice:
    """The choice after this one, the first after the last."""
    found = list(choices)
    return found[(found.index(now) + 1) % len(found)]


def _nothing(app: TraceApp, snapshot: Snapshot, width: int) -> list[Text]:
    """What is said instead of an empty table."""
    page = Page(width, app.glyphs)
    totals, health = snapshot.totals, snapshot.health
    page.add("")
    view = app.rows.view
    if view.query.text or view.scopes is not Scopes.ALL:
        page.add("Nothing that is shown matches.", "bold")
        page.add("Esc takes the filter away, t shows all destinations.")
    elif totals.stuck_now:
        yet = "" if totals.unheld else " yet"
        page.add(f"{totals.stuck_now:,} stuck, but not in the picture{yet}.", "bold red")
        if totals.unheld:
            page.add(f"{totals.unheld:,} attempts found no room in it since the start.", "bold red")
    else:
        page.add("Watching. Nothing is stuck.", "bold green")
    page.add(f"Watched: {app.watched}.")
    if health is not None:
        rates = health.rates
        if rates.started is not None:
            at_once = "?" if rates.established is None else f"{rates.established:,}"
            begun = f"{rates.started:,} connects begun"
            where = "On the whole node: " if totals.scoped else ""
            page.add(f"{where}{begun}, {at_once} established at once.")
        else:
            page.add("Connects that succeed at once are not counted by polling.", "dim")
        if totals.became_stuck:
            most = f"at most {totals.peak:,} at once"
            page.add(f"{totals.became_stuck:,} became stuck since the start, {most}.")
        else:
            page.add("None became stuck since the start.")
        ended = ends(totals.outcomes, short_words=False)
        if ended:
            page.add(f"Ended: {ended}.")
        if health.withheld:
            page.add(
                f"Not shown, since their pod's name or labels are not known: {health.withheld:,}.",
                "yellow",
            )
        if health.own_connects:
            page.add(f"The tracer's own connects, not shown: {health.own_connects:,}.", "dim")
    return page.lines
