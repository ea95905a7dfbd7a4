"""The screen without a terminal: on a board whose clock stands still, driven by keys."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import textual._wait
from textual.pilot import Pilot

from tests.support.picture import Fake
from tracer.screen.app import TraceApp
from tracer.screen.glyphs import Glyphs
from tracer.snapshot import Snapshot

# Pilot waits until the process has been idle for this long, several times for every key. Nothing
# here happens by itself: a quarter of Textual's 20 ms does.
textual._wait.SLEEP_GRANULARITY = 1 / 200
textual._wait.SLEEP_IDLE = textual._wait.SLEEP_GRANULARITY / 20


@dataclass
class FakeServices:
    """Remembers what it was asked for."""

    recording: str | None = None
    note: str | None = None
    gone: bool = False
    stalled: bool = False
    copies: bool = True
    reports: list[Snapshot] = field(default_factory=list)

    def toggle_recording(self) -> str:
        self.recording = None if self.recording else "events.jsonl"
        return "recording to events.jsonl" if self.recording else "recorded"

    def write_report(self, snapshot: Snapshot) -> str:
        self.reports.append(snapshot)
        return "report written to ./report"

    def terminal_gone(self) -> bool:
        return self.gone

    def terminal_stalled(self) -> bool:
        return self.stalled

    def copy_allowed(self) -> bool:
        return self.copies


@dataclass
class Stage:
    """A screen that is shown, and what it is shown of."""

    fake: Fake
    app: TraceApp
    services: FakeServices
    pilot: Pilot[None]

    async def press(self, *keys: str) -> str:
        """Presses keys; the screen's text afterwards."""
        await self.pilot.press(*keys)
        return await self.text()

    async def tick(self, seconds: float = 0.0) -> str:
        """Lets time pass and the screen look."""
        if seconds:
            self.fake.advance(seconds)
        self.app.tick()
        return await self.text()

    async def text(self) -> str:
        await self.pilot.pause()
        await self.app.workers.wait_for_complete()
        await self.pilot.pause()
        return shown(self.app)


def shown(app: TraceApp) -> str:
    """What is on the screen, as text."""
    strips = app.screen._compositor.render_strips()
    lines = ["".join(segment.text for segment in strip).rstrip() for strip in strips]
    return "\n".join(lines).rstrip() + "\n"


def on_screen(
    fake: Fake,
    act: Callable[[Stage], Awaitable[None]],
    *,
    size: tuple[int, int] = (120, 40),
    unicode: bool = True,
) -> None:
    """Shows a board's picture and runs `act` on it."""

    async def run() -> None:
        services = FakeServices()
        app = TraceApp(
            fake.board,
            services,
            node="node-1",
            watched="every pod and process of node node-1",
            glyphs=Glyphs(unicode=unicode),
            tick_seconds=None,
            settle=0,
            clock=fake.seconds,
        )
        async with app.run_test(size=size) as pilot:
            await pilot.pause()
            await act(Stage(fake, app, services, pilot))

    asyncio.run(run())
