"""Textual's widgets around lines that others make: only what is in sight is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.segment import Segment
from rich.text import Text
from textual import events
from textual.app import App
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip
from textual.widget import Widget

from tracer.screen.rows import Row, RowKey
from tracer.screen.table import Layout


class Block(Widget):
    """Some lines of text, as many as there are; or what room there is, where it is to `fill` it."""

    DEFAULT_CSS = "Block { height: auto; }"

    def __init__(self, *, id: str, fill: bool = False) -> None:  # noqa: A002 - Textual's name
        super().__init__(id=id)
        self._fill = fill
        self.lines: Sequence[Text] = ()

    def show(self, lines: Sequence[Text]) -> None:
        if len(lines) != len(self.lines) and not self._fill:
            self.styles.height = len(lines)
        self.lines = lines
        self.refresh()

    def render_line(self, y: int) -> Strip:
        width = self.size.width
        if y >= len(self.lines):
            return Strip.blank(width)
        return _strip(self.lines[y], self.app, width)


def _strip(text: Text, app: App[None], width: int) -> Strip:
    if not text.spans:  # rich renders a text without spans without its own style
        style = app.console.get_style(text.style)
        return Strip([Segment(text.plain, style)]).adjust_cell_length(width)
    return Strip(text.render(app.console)).adjust_cell_length(width)


class Lines(ScrollView, can_focus=True):
    """A page of lines that is scrolled by keys and wheel."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "scroll_up", show=False),
        Binding("down,j", "scroll_down", show=False),
        Binding("pageup", "page_up", show=False),
        Binding("pagedown", "page_down", show=False),
        Binding("home", "scroll_home", show=False),
        Binding("end", "scroll_end", show=False),
    ]

    def __init__(self, *, id: str) -> None:  # noqa: A002 - Textual's name
        super().__init__(id=id)
        self.lines: Sequence[Text] = ()

    @property
    def bottom(self) -> bool:
        """Whether the last line is in sight."""
        return self.scroll_offset.y + self.size.height >= self.virtual_size.height

    def show(self, lines: Sequence[Text]) -> None:
        self.lines = lines
        size = Size(self.size.width, len(lines))
        if size != self.virtual_size:
            self.virtual_size = size
        self.refresh()

    def line_at(self, index: int) -> Text | None:
        return self.lines[index] if index < len(self.lines) else None

    def render_line(self, y: int) -> Strip:
        width = self.size.width
        text = self.line_at(y + self.scroll_offset.y)
        return Strip.blank(width) if text is None else _strip(text, self.app, width)

    def _to(self, y: int) -> None:
        self.scroll_to(y=y, animate=False, force=True)

    def action_scroll_up(self) -> None:
        self._to(self.scroll_offset.y - 1)

    def action_scroll_down(self) -> None:
        self._to(self.scroll_offset.y + 1)

    def action_page_up(self) -> None:
        self._to(self.scroll_offset.y - max(1, self.size.height - 1))

    def action_page_down(self) -> None:
        self._to(self.scroll_offset.y + max(1, self.size.height - 1))

    def action_scroll_home(self) -> None:
        self._to(0)

    def action_scroll_end(self) -> None:
        self._to(self.virtual_size.height)


class Table(Lines):
    """The rows. The cursor stays with its row, wherever that goes."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("enter", "choose", show=False)]

    class Chosen(Message):
        """A row was asked for in full."""

    class Moved(Message):
        """The cursor is on another row."""

    def __init__(self) -> None:
        super().__init__(id="table")
        self.rows: tuple[Row, ...] = ()
        self.layout_now: Layout | None = None
        self.now_ns = 0
        self.cursor = 0
        self.cursor_key: RowKey | None = None

    @property
    def row(self) -> Row | None:
        return self.rows[self.cursor] if self.cursor < len(self.rows) else None

    def take(self, rows: tuple[Row, ...], columns: Layout, now_ns: int) -> None:
        """Shows rows; the cursor finds its own again, else stays where it is."""
        if rows is not self.rows:
            self.rows = rows
            self._find()
        self.layout_now, self.now_ns = columns, now_ns
        size = Size(self.size.width, len(rows))
        if size != self.virtual_size:
            self.virtual_size = size
        self.refresh()

    def home(self) -> None:
        self.cursor_key = None
        self._move_to(0)

    def _find(self) -> None:
        at = self.cursor
        if at < len(self.rows) and self.rows[at].key == self.cursor_key:
            return
        if self.cursor_key is not None:
            for index, row in enumerate(self.rows):
                if row.key == self.cursor_key:
                    moved = index - at
                    self.cursor = index
                    self._to(self.scroll_offset.y + moved)
                    return
        self.cursor = max(0, min(at, len(self.rows) - 1))
        self._remember()

    def _remember(self) -> None:
        """The row is what the cursor stays with, even at the top of a list nobody has moved in."""
        row = self.row
        self.cursor_key = None if row is None else row.key

    def line_at(self, index: int) -> Text | None:
        if self.layout_now is None or index >= len(self.rows):
            return None
        return self.layout_now.line(self.rows[index], self.now_ns, chosen=index == self.cursor)

    def _move_to(self, index: int) -> None:
        self.cursor = max(0, min(index, len(self.rows) - 1))
        self._remember()
        top, height = self.scroll_offset.y, max(1, self.size.height)
        if self.cursor < top:
            self._to(self.cursor)
        elif self.cursor >= top + height:
            self._to(self.cursor - height + 1)
        self.refresh()
        self.post_message(self.Moved())

    def action_scroll_up(self) -> None:
        self._move_to(self.cursor - 1)

    def action_scroll_down(self) -> None:
        self._move_to(self.cursor + 1)

    def action_page_up(self) -> None:
        self._move_to(self.cursor - max(1, self.size.height - 1))

    def action_page_down(self) -> None:
        self._move_to(self.cursor + max(1, self.size.height - 1))

    def action_scroll_home(self) -> None:
        self._move_to(0)

    def action_scroll_end(self) -> None:
        self._move_to(len(self.rows) - 1)

    def action_choose(self) -> None:
        if self.row is not None:
            self.post_message(self.Chosen())

    def on_click(self, event: events.Click) -> None:
        index = event.y + self.scroll_offset.y
        if index < len(self.rows):
            again = index == self.cursor
            self._move_to(index)
            if again or event.chain > 1:
                self.action_choose()
