"""Pages over the table: a row in full, the log of events, help, what was copied."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, cast

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import Screen

from tracer.screen import help as help_page
from tracer.screen.detail import detail
from tracer.screen.events import line as event_line
from tracer.screen.events import state as state_lines
from tracer.screen.page import Page, continued
from tracer.screen.rows import Row
from tracer.screen.widgets import Block, Lines

if TYPE_CHECKING:
    from tracer.screen.app import TraceApp


class PageScreen(Screen[None]):
    """A page over the table; Esc, q or Enter leave it."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,enter,question_mark", "leave", show=False),
    ]
    hint = "Esc back  arrows, PgUp, PgDn move"

    def __init__(self, title: str) -> None:
        super().__init__()
        self._title = title

    @property
    def trace(self) -> TraceApp:
        return cast("TraceApp", self.app)

    def compose(self) -> ComposeResult:
        yield Block(id="page-title")
        yield Lines(id="page")
        yield Block(id="page-foot")

    def on_mount(self) -> None:
        self.query_one("#page", Lines).focus()
        self.redraw()

    def on_resize(self) -> None:
        self.call_after_refresh(self.redraw)

    def redraw(self) -> None:
        width = self.app.size.width
        self.query_one("#page-title", Block).show(self.head(width))
        self.query_one("#page", Lines).show(self.content(width))
        self.query_one("#page-foot", Block).show([self.trace.foot(self.hint)])

    def head(self, width: int) -> Sequence[Text]:
        """What stays above the page."""
        glyphs = self.trace.glyphs
        title = glyphs.fit(f" {glyphs.clean(self._title)}", width)
        return [Text(title, "bold reverse", end="")]

    def content(self, width: int) -> Sequence[Text]:  # noqa: ARG002 - of those who override it
        return ()

    def action_leave(self) -> None:
        _ = self.dismiss()


class HelpScreen(PageScreen):
    def __init__(self) -> None:
        super().__init__("help")

    def content(self, width: int) -> Sequence[Text]:
        glyphs = self.trace.glyphs
        page = Page(width, glyphs)
        for key, _, what in help_page.KEYS:
            page.add(f"{key:<6} {what}", indent=0)
        page.add("")
        for line in help_page.TEXT.splitlines():
            page.add(line)
        return page.lines


class CopyScreen(PageScreen):
    """What was copied, whole, and as a shell takes it from where it was marked with the mouse."""

    def __init__(self, command: str, *, sent: bool) -> None:
        super().__init__("copied" if sent else "to copy")
        self._command, self._sent = command, sent

    def content(self, width: int) -> Sequence[Text]:
        page = Page(width, self.trace.glyphs)
        for line in continued(self.trace.glyphs.clean(self._command), width):
            page.line(Text(line, "bold", no_wrap=True, end=""))
        page.add("")
        if self._sent:
            page.add(
                "It was sent to the terminal's clipboard (OSC 52). Not every terminal takes it, "
                "tmux with `set -g set-clipboard on`: where it does not, mark it with Shift and "
                "the mouse."
            )
        else:
            page.add("This terminal has no clipboard that could be written to.")
        return page.lines


class DetailScreen(PageScreen):
    """A row in full, as it goes on."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("y", "copy", show=False)]
    hint = "Esc back  arrows, PgUp, PgDn move  y copy the first command"

    def __init__(self, row: Row) -> None:
        super().__init__("detail")
        self._row = row

    def content(self, width: int) -> Sequence[Text]:
        app = self.trace
        for row in app.rows.rows:
            if row.key == self._row.key:
                self._row = row
                break
        snapshot = app.shown
        if snapshot is None:
            return ()
        return detail(self._row, snapshot, node=app.node, width=width, glyphs=app.glyphs)

    def action_copy(self) -> None:
        self.trace.copy_command(self._row)


class EventsScreen(PageScreen):
    """The log; it follows what comes for as long as its end is in sight.

    Above it stands what the trace lacks now: of that, the log may hold nothing any more.
    """

    BINDINGS: ClassVar[list[BindingType]] = [Binding("e", "leave", show=False)]

    def __init__(self) -> None:
        super().__init__("events, the newest last")
        self._entries: tuple[object, ...] | None = None
        self._drawn: dict[int, Text] = {}
        self._width = 0

    def head(self, width: int) -> Sequence[Text]:
        state = self._state(width)
        if self._fits(state):
            return [*super().head(width), *state]
        where = Text("! Home shows what the trace lacks", "yellow", no_wrap=True, end="")
        return [*super().head(width), where]

    def _state(self, width: int) -> list[Text]:
        health = self.trace.shown.health if self.trace.shown is not None else None
        return [] if health is None else state_lines(health, width, self.trace.glyphs)

    def _fits(self, state: Sequence[Text]) -> bool:
        """Whether it leaves the log half of the screen; else it is the log's beginning."""
        return len(state) <= self.app.size.height // 2

    def redraw(self) -> None:
        lines = self.query_one("#page", Lines)
        follow = lines.bottom or self._entries is None
        super().redraw()
        if follow:
            lines.call_after_refresh(lines.action_scroll_end)

    def content(self, width: int) -> Sequence[Text]:
        snapshot = self.trace.shown
        if snapshot is None:
            return ()
        if width != self._width:
            self._drawn, self._width = {}, width
        before, glyphs = self._drawn, self.trace.glyphs
        # An event is drawn once: they never change.
        self._drawn = {
            id(event): before.get(id(event)) or event_line(event, width, glyphs)
            for event in snapshot.log
        }
        self._entries = snapshot.log
        log = [self._drawn[id(event)] for event in snapshot.log]
        state = self._state(width)
        return log if self._fits(state) else [*state, *log]
