"""The live screen: asks for a snapshot a few times a second, and draws what is in sight of it.

Nothing here is done per event.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, Final, Protocol

from rich.text import Text
from textual import work
from textual.app import App
from textual.binding import Binding, BindingType
from textual.driver import Driver
from textual.screen import Screen

from tracer.errors import OutputError
from tracer.screen import help as help_page
from tracer.screen.glyphs import Glyphs
from tracer.screen.main import MainScreen
from tracer.screen.next_steps import first_command
from tracer.screen.pages import CopyScreen, PageScreen
from tracer.screen.rows import Row, Rows
from tracer.screen.table import FLASH_SECONDS
from tracer.screen.view import View
from tracer.snapshot import Snapshot

TICK_SECONDS: Final = 0.2
SETTLE_SECONDS: Final = 5.0
NOTICE_SECONDS: Final = 8.0
_STILL_SECONDS: Final = 1.0
"""Between pictures when nothing happens: ages and countdowns are shown in seconds."""
_REST: Final = 2.0
"""Times the CPU time of a picture in which none is made: a third of a core at the worst."""


class Source(Protocol):
    """Where pictures come from: a Board."""

    @property
    def version(self) -> int: ...
    def snapshot(self) -> Snapshot: ...


class Services(Protocol):
    """What the screen asks of the program around it."""

    @property
    def recording(self) -> str | None:
        """The file that events are being written to."""

    @property
    def note(self) -> str | None:
        """What the picture is, where it is not the present."""

    def toggle_recording(self) -> str:
        """Starts or stops a recording; returns a sentence for people."""

    def write_report(self, snapshot: Snapshot) -> str:
        """Writes a report, which may take seconds; returns a sentence for people."""

    def terminal_gone(self) -> bool:
        """Whether nobody can see the screen any more."""

    def terminal_stalled(self) -> bool:
        """Whether the terminal takes nothing at present."""

    def copy_allowed(self) -> bool:
        """Whether the terminal may be sent what is to be copied (OSC 52)."""


def picture(app: App[None]) -> str:
    """What is on the screen, as SVG that loads nothing from anywhere."""
    svg = app.export_screenshot(title=app.title)
    svg = re.sub(r"@font-face\s*{[^}]*}", "", svg)
    return svg.replace("Fira Code", "DejaVu Sans Mono")


class TraceApp(App[None]):
    """The live screen.

    tick_seconds  between looks at the source; None: only tick() looks, for tests
    settle        seconds in which rows are put in order as they come, before they stay
    clock         seconds, for notices
    """

    CSS = """
    Screen { layout: vertical; background: ansi_default; color: ansi_default; }
    #table, #page { height: 1fr; scrollbar-size: 0 0; overflow-x: hidden;
                    background: ansi_default; color: ansi_default; }
    #empty { height: 1fr; }
    #filter { height: 1; border: none; padding: 0; background: ansi_default;
              color: ansi_default; }
    """
    ENABLE_COMMAND_PALETTE = False
    ALLOW_SELECT = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+c,ctrl+q", "quit", show=False, priority=True),
    ]

    def __init__(
        self,
        source: Source,
        services: Services,
        *,
        node: str,
        watched: str,
        glyphs: Glyphs,
        tick_seconds: float | None = TICK_SECONDS,
        settle: float = SETTLE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        driver_class: type[Driver] | None = None,
    ) -> None:
        super().__init__(driver_class=driver_class, ansi_color=True)
        self.source, self.services = source, services
        self.node, self.watched, self.glyphs = glyphs.clean(node), glyphs.clean(watched), glyphs
        self.rows = Rows()
        self.shown: Snapshot | None = None
        self.failure: Exception | None = None
        self.screenshot: Path | None = None
        self._leaving = False
        self.title = f"synsent-trace on {self.node}"
        self.when_left: Callable[[], None] = lambda: None
        self.pictures = 0
        self._tick_seconds = tick_seconds
        self._settled_at = clock() + settle
        self._clock = clock
        self._frozen_since: float | None = None
        self._notice: tuple[float, str] | None = None
        self._not_before = 0.0
        self._drawn_at = 0.0
        self._changed_at = 0.0

    @property
    def frozen_seconds(self) -> float | None:
        return None if self._frozen_since is None else self._clock() - self._frozen_since

    def on_mount(self) -> None:
        self.theme = "ansi-dark"
        self.open(MainScreen())
        self._look()
        if self._tick_seconds is not None:
            self.set_interval(self._tick_seconds, self.tick)

    # --- pictures ------------------------------------------------------------------------------

    def tick(self) -> None:
        """Draws a new picture where there is one to draw."""
        if self.services.terminal_gone():
            self.exit()
            return
        now = self._clock()
        # What a stalled terminal has not taken would be all it shows later.
        if now < self._not_before or self.services.terminal_stalled():
            return
        shown = self.shown
        still = shown is not None and shown.version == self.source.version
        since = now - self._drawn_at
        if still and since < (FLASH_SECONDS / 2 if self._flashing() else _STILL_SECONDS):
            return
        if self._frozen_since is not None:
            if since >= _STILL_SECONDS:
                self._redraw()
            return
        began = time.thread_time()
        self._look()
        self._not_before = self._clock() + _REST * (time.thread_time() - began)

    def _flashing(self) -> bool:
        return self.shown is not None and self._clock() - self._changed_at < FLASH_SECONDS * 2

    def _look(self) -> None:
        snapshot = self.source.snapshot()
        if self.shown is None or snapshot.version != self.shown.version:
            self._changed_at = self._clock()
        self.shown = snapshot
        self.rows.update(snapshot)
        if self._clock() < self._settled_at and self.rows.unsorted:
            self.rows.sort()
        self._redraw()

    def _redraw(self) -> None:
        self._drawn_at = self._clock()
        self.pictures += 1
        screen = self.screen
        if isinstance(screen, MainScreen | PageScreen) and screen.is_mounted:
            screen.redraw()

    def change(self, view: View) -> None:
        """Shows the same picture in another way."""
        if self.shown is not None:
            self.rows.change(view, self.shown)
            self._redraw()

    def freeze(self) -> None:
        if self._frozen_since is None:
            self._frozen_since = self._clock()
            self._redraw()
        else:
            self._frozen_since = None
            self._look()

    def open(self, screen: Screen[None]) -> None:
        """Shows a screen over the present one."""
        _ = self.push_screen(screen)

    # --- what is said --------------------------------------------------------------------------

    def say(self, sentence: str) -> None:
        """Shows a sentence in the last line for a while."""
        self._notice = (self._clock() + NOTICE_SECONDS, sentence)
        self._redraw()

    def foot(self, hint: str | None, position: str = "") -> Text:
        """The last line: a notice, else what the keys do, as far as there is room."""
        width, glyphs = self.size.width, self.glyphs
        if self._notice is not None and self._clock() < self._notice[0]:
            text = glyphs.fit(glyphs.clean(self._notice[1]), width)
            return Text(text, "bold reverse", no_wrap=True, end="")
        if hint is not None:
            return Text(glyphs.fit(hint, width), "dim", no_wrap=True, end="")
        room = width - len(position)
        shown: set[str] = set()
        # How to leave and where to look it up come first, then the others in their order.
        for key, word, _ in sorted(help_page.KEYS, key=lambda one: one[0] not in {"?", "q"}):
            room -= len(key) + len(word) + 3
            if room < 0:
                break
            shown.add(key)
        line = Text(no_wrap=True, end="")
        for key, word, _ in help_page.KEYS:
            if key in shown:
                line.append(key, "bold")
                line.append(f" {word}  ")
        line.append(" " * max(0, width - line.cell_len - len(position)))
        line.append(position, "dim")
        return line

    def copy_command(self, row: Row) -> None:
        """Sends the row's first command to the terminal's clipboard, and shows it."""
        command = first_command(row, self.node)
        if command is None:
            self.say("there is no command for this row")
            return
        sent = self.services.copy_allowed()
        if sent:
            self.copy_to_clipboard(command)
        self.open(CopyScreen(command, sent=sent))

    def report(self) -> None:
        """Writes a report of the picture, without holding up the screen."""
        if self.shown is not None:
            self.say("writing a report ...")
            self._write_report(self.shown)

    @work(thread=True, exclusive=True)
    def _write_report(self, snapshot: Snapshot) -> None:
        said = self.services.write_report(snapshot)
        self.call_from_thread(self.say, said)

    async def action_quit(self) -> None:
        self.when_left()
        self.leave()

    def leave(self) -> None:
        """Ends the screen; its last picture is kept where one is asked for."""
        if self.screenshot is None:
            self.exit()
        elif isinstance(self.screen, MainScreen | PageScreen) and not self._leaving:
            self._leaving = True
            self._look()
            self.rows.sort()
            self._redraw()
            # What was drawn is laid out by then.
            self.call_after_refresh(self._keep_picture, self.screenshot)

    def _keep_picture(self, path: Path) -> None:
        try:
            path.write_text(picture(self), encoding="utf-8")
        except OSError as error:
            self.failure = OutputError(
                f"the picture could not be written to {path}: {error.strerror or error}"
            )
        self.exit()

    # --- the end -------------------------------------------------------------------------------

    def _handle_exception(self, error: Exception) -> None:
        """Ends the screen without a traceback; whoever ran it tells what happened."""
        if self.failure is None:
            self.failure = error
        super()._handle_exception(error)

    def _fatal_error(self) -> None:
        self._close_messages_no_wait()
