"""Names with terminal escapes, markup and characters that are none, through everything that shows
or writes them: they are shown as they are, and harm nothing.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.picture import HEALTH, WALL_NS, Fake, verdict
from tests.support.screen import Stage, on_screen
from tracer.cli import main
from tracer.model import (
    Cause,
    Confidence,
    Destination,
    Kind,
    KubeHealth,
    KubeState,
    Lifecycle,
    LifecycleKind,
    NameSource,
    Outcome,
    PodIdentity,
    Process,
    Report,
    Scope,
    Workload,
)
from tracer.screen.detail import detail
from tracer.screen.events import line as event_line
from tracer.screen.events import state
from tracer.screen.glyphs import Glyphs
from tracer.screen.header import header
from tracer.screen.next_steps import in_brief
from tracer.screen.report import write
from tracer.screen.rows import Rows
from tracer.screen.table import layout, measured
from tracer.screen.view import Group, View
from tracer.sinks import Sink
from tracer.sinks.jsonl import JsonlSink
from tracer.sinks.lines import LinesSink

ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=40)
NASTY = (
    "[red]x[/red]",
    "[/]",
    "[link=http://x]y",
    "\x1b[2J\x1b[H",
    "\x1b]0;title\x07",
    "a\nb\rc\td",
    "\u202etxt.exe",
    "\u2066\u2069",
    "e\u0301\u0301\u0301",
    "\u200b\u200d\ufeff",
    "漢字漢字漢字",
    "👩‍👩‍👧‍👦🏳️‍🌈",
    "\ud800",
    "\x00\x7f\x9b31m",
    "x" * 300,
    "<script>alert(\"1\" & '2')</script>]]>",
)


def hostile(text: str) -> Fake:
    """An attempt of which everything that comes from outside is `text`."""
    fake = Fake(health=replace(HEALTH, lacking=(text,), kube=KubeHealth(KubeState.DEGRADED, text)))
    who = PodIdentity(
        namespace=text, name=text, uid=text, node=text, eni_id=text, container=text,
        workload=Workload(text, text), name_source=NameSource.CACHE,
    )  # fmt: skip
    process = Process(1, text, text, (text, text), text, text, text)
    known = Destination(Scope.EXTERNAL, Kind.SERVICE, text)
    told = verdict(Cause.SLOW, Confidence.LOW, summary=text)
    fake.stuck(1, who, known=known, comm=text, process=process, verdict=told)
    fake.stuck(2, None, known=known, comm=text, process=process)
    fake.stuck(3, None, known=known, comm=text)
    fake.board.notice(text)
    return fake


def every_line(fake: Fake, width: int, glyphs: Glyphs) -> Iterator[tuple[str, int]]:
    snapshot = fake.snapshot()
    for group in Group:
        rows = Rows(View(group=group))
        rows.update(snapshot)
        lines = header(snapshot, rows, node="n", width=width, glyphs=glyphs)
        columns = layout(width, measured(rows.rows, group, glyphs), group, glyphs)
        for row in rows.rows:
            lines.append(columns.line(row, fake.now_ns))
            lines += detail(row, snapshot, node="n", width=width, glyphs=glyphs)
            lines += in_brief(row, node="n", width=width, lines=4, glyphs=glyphs)
        lines += [event_line(event, width, glyphs) for event in snapshot.log]
        lines += state(fake.health, width, glyphs)
        for line in lines:
            yield line.plain, line.cell_len


@given(ANY_TEXT | st.sampled_from(NASTY), st.sampled_from([80, 140]), st.booleans())
def test_whatever_names_hold_every_line_is_printable_and_fits(
    text: str, width: int, unicode: bool
) -> None:
    for line, cells in every_line(hostile(text), width, Glyphs(unicode=unicode)):
        assert line.isprintable()
        assert cells <= width
        assert unicode or line.isascii()


@pytest.mark.parametrize("text", NASTY)
def test_nasty_names_are_shown_as_they_are_and_harm_nothing(text: str) -> None:
    async def act(stage: Stage) -> None:
        for keys in ([], ["g"], ["g"], ["g"], ["g"], ["g"], ["enter"], ["escape", "e"]):
            said = await stage.press(*keys)
            assert said.replace("\n", "").isprintable()
            assert "\x1b" not in said
        await stage.press("escape", "y")
        stage.app.export_screenshot()

    on_screen(hostile(text), act, size=(80, 24))


def test_markup_in_a_name_is_shown_as_it_is() -> None:
    async def act(stage: Stage) -> None:
        assert "[red]x[/red]" in await stage.text()
        assert "[red]x[/red]" in await stage.press("enter")

    on_screen(hostile("[red]x[/red]"), act, size=(200, 60))


# --- the other outputs ---------------------------------------------------------------------------


def harmless(text: str) -> None:
    """Lines of printable characters, and no more."""
    for line in text.split("\n"):
        assert line.isprintable(), ascii(line)


def events_of(fake: Fake) -> list[Report | Lifecycle]:
    fake.lifecycle(LifecycleKind.START, "begun")
    fake.end(1, Outcome.UNREACHABLE, 113)
    fake.lifecycle(LifecycleKind.HEALTH, fake.health.lacking[0])
    return [one for one in fake.snapshot().log if isinstance(one, Report | Lifecycle)]


@pytest.mark.parametrize("text", NASTY)
def test_nasty_names_are_harmless_in_every_other_output(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], text: str
) -> None:
    fake = hostile(text)
    events = events_of(fake)
    recording = tmp_path / "events.jsonl"
    stream = io.StringIO()
    sinks: list[Sink] = [
        LinesSink(stream, node=text, color=False),
        JsonlSink(str(recording), node=text, notify=lambda _sentence: None),
    ]
    last = Lifecycle(LifecycleKind.STOP, WALL_NS, fake.health, 9.0, text)
    for sink in sinks:
        for event in [*events, last]:
            if isinstance(event, Report):
                sink.write([event])
            else:
                sink.lifecycle(event)
        sink.close()

    # Lines, with the summary at their end.
    harmless(stream.getvalue())
    assert "-- top destinations" in stream.getvalue()
    # JSON: a line each, fit for a terminal too, which holds the name itself.
    told = recording.read_text(encoding="utf-8")
    harmless(told)
    records = [json.loads(line) for line in told.split("\n")[:-1]]
    assert len(records) == len(events) + 1
    written = text.encode(errors="backslashreplace").decode()  # JSON has no lone surrogates
    assert records[0]["process"]["command"] == written
    # What the recording plays and sums up.
    for options in (["--speed", "10000", "--plain"], ["--summary"]):
        assert main(["replay", str(recording), *options]) == 0
        out, err = capfd.readouterr()
        harmless(out + err)
        assert "-- top destinations" in out
    svg = tmp_path / "screen.svg"
    assert main(["replay", str(recording), "--speed", "10000", "--screenshot", str(svg)]) == 0
    harmless("".join(capfd.readouterr()))
    harmless(svg.read_text())
    picture = ET.fromstring(svg.read_text())  # noqa: S314 - of our own making
    elements = list(picture.iter())
    drawn = {element.tag.rpartition("}")[2] for element in elements}
    assert drawn <= {"svg", "style", "defs", "clipPath", "rect", "g", "text", "circle"}
    if text.startswith("<script>"):
        shown = "".join(element.text or "" for element in elements).replace("\xa0", " ")
        assert text in shown
    # The report that w writes, and what check makes of it.
    folder = write(fake.snapshot(), node=text, watched=text, folder=tmp_path)
    for file in folder.iterdir():
        harmless(file.read_text())
    assert main(["check", "--bundle", str(folder)]) == 1
    harmless("".join(capfd.readouterr()))
