"""The options of `synsent-trace replay`, and what plays a recording back."""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tracer.errors import InputError, UsageError
from tracer.model import NANOSECONDS
from tracer.options import Options
from tracer.settings import Settings

if TYPE_CHECKING:
    from tracer.recording import Event, Recording
    from tracer.replay import Clock, Replay

_DESCRIPTION: Final = """\
Plays a recording (--jsonl, or r on the screen) back: on a terminal on the live screen, elsewhere as
lines, and sums it up at the end as a live trace does.
"""
_EPILOG: Final = """\
A line that is no event is skipped, counted and said; so is a last line that is not whole.

exit status: 0 done, 2 wrong usage, 4 the replay broke off, 5 the recording could not be read

examples:
  synsent-trace replay events.jsonl
  synsent-trace replay events.jsonl --at 03:12 --speed 10
  synsent-trace replay events.jsonl --summary
"""
# `inf` and the ends of the calendar raise OverflowError.
_NO_TIME: Final = (ValueError, OverflowError, OSError)
_LEAST_SPEED, _MOST_SPEED = 0.01, 10_000.0
_TIME_OF_DAY: Final = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2}(?:\.\d+)?))?")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `replay` to a parser."""
    parser.description, parser.epilog = _DESCRIPTION, _EPILOG
    parser.add_argument("file", metavar="FILE.jsonl", help="the recording")
    parser.add_argument("--speed", metavar="N", help="times as fast as it happened (default 1)")
    parser.add_argument(
        "--at",
        metavar="TIME",
        help="begin with the picture of that time: 2026-11-21T03:12:00Z, 03:12:30 (local time, the "
        "first there is in the recording), or +90s from its begin",
    )
    parser.add_argument("--summary", action="store_true", help="only sum it up, at once")
    parser.add_argument("--plain", action="store_true", help="lines without colour, no screen")
    parser.add_argument("--keep", action="store_true", help="keep rows in which all has ended")
    parser.add_argument("--ascii", action="store_true", help="draw with ASCII characters alone")
    parser.add_argument("--screenshot", metavar="FILE.svg", help="write the last picture")


def run(
    given: Mapping[str, object],
    environment: Mapping[str, str],
    *,
    notify: Callable[[str], None],
    hand_over: Callable[[Replay], None],
) -> None:
    """Plays it. `hand_over` gets what a signal is to stop. Raises SynsentError."""
    from tracer.recording import Recording

    options = Options(given, environment)
    speed = options.parsed(
        "speed", _speed, f"a number from {_LEAST_SPEED} to {_MOST_SPEED:.0f}", 1.0
    )
    recording = Recording(str(given["file"]))
    try:
        if options.flag("summary"):
            from tracer.replay_summary import summarised

            sys.stdout.write("\n".join(summarised(recording)) + "\n")
            sys.stdout.flush()
            return
        events = iter(recording)
        first = next(events, None)
        if first is None:
            raise InputError(
                f"{given['file']} holds no event"
                f"{f': {recording.first_skipped}' if recording.skipped else ''}",
                hint="a recording is what --jsonl writes",
            )
        at = options.text("at")
        at_ns = None if at is None else _at(at, first.wall_ns)
        screenshot = options.text("screenshot")
        settings = Settings(
            node_name=recording.node or "?",
            plain=options.flag("plain"),
            keep=options.flag("keep"),
            ascii=options.flag("ascii"),
            screenshot=None if screenshot is None else Path(screenshot),
        )
        _play(recording, first, events, settings, environment, speed, at_ns, notify, hand_over)
    finally:
        recording.close()


def _play(
    recording: Recording,
    first: Event,
    events: Iterator[Event],
    settings: Settings,
    environment: Mapping[str, str],
    speed: float,
    at_ns: int | None,
    notify: Callable[[str], None],
    hand_over: Callable[[Replay], None],
) -> None:
    from tracer.cli_trace import has_terminal, wants_color, wants_screen
    from tracer.replay import Clock, Replay

    clock = Clock(first.wall_ns, speed)
    if wants_screen(settings, environment):
        from tracer.screen.parts import Past, ScreenParts

        parts = ScreenParts(
            settings,
            environment,
            headless=not has_terminal(environment),
            past=Past(clock.now, lambda: _note(clock, speed, replay)),
        )
        replay = Replay(
            recording, parts.sinks, clock, first=first, rest=events, at_ns=at_ns,
            pulse=parts.pulse, notify=parts.log, stay=has_terminal(environment),
        )  # fmt: skip
        hand_over(replay)
        try:
            parts.run(replay)
        finally:
            parts.farewell(notify)
        return
    from tracer.sinks.lines import LinesSink

    color = wants_color(environment) and not settings.plain
    sink = LinesSink(
        sys.stdout,
        node=settings.node_name,
        color=color,
        notify=notify,
        wall=clock.now,
        waits=lambda: not replay.stopping,
    )
    replay = Replay(
        recording, [sink], clock, first=first, rest=events, at_ns=at_ns, pulse=sink.pulse
    )
    hand_over(replay)
    try:
        replay.run()
    finally:
        sink.close()


def _note(clock: Clock, speed: float, replay: Replay) -> str:
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(clock.now() // NANOSECONDS))
    skipped = f", {replay.skipped} lines could not be read: e" if replay.skipped else ""
    if replay.over:
        return f"REPLAY, END OF RECORDING at {at}{skipped}"
    return f"REPLAY of {at}{'' if speed == 1 else f' x{speed:g}'}{skipped}"


def _speed(text: str) -> float:
    value = float(text)
    if not _LEAST_SPEED <= value <= _MOST_SPEED:
        raise ValueError(text)
    return value


def _at(text: str, first_ns: int) -> int:
    """The time that is meant, as nanoseconds since the epoch. Raises UsageError."""
    if text.startswith("+"):
        with suppress(*_NO_TIME):
            return first_ns + int(float(text[1:].removesuffix("s")) * NANOSECONDS)
    day = _TIME_OF_DAY.fullmatch(text)
    if day is not None:
        with suppress(*_NO_TIME):
            began = datetime.fromtimestamp(first_ns // NANOSECONDS).astimezone()
            seconds = float(day[3] or 0)
            meant = began.replace(hour=int(day[1]), minute=int(day[2]), second=0, microsecond=0)
            at_ns = int((meant.timestamp() + seconds) * NANOSECONDS)
            return at_ns if at_ns >= first_ns else at_ns + 86_400 * NANOSECONDS
    else:
        with suppress(*_NO_TIME):
            when = datetime.fromisoformat(text)
            return int(when.astimezone(when.tzinfo).timestamp() * NANOSECONDS)
    raise UsageError(
        f"--at: {text!r} is no time", hint="write 2026-11-21T03:12:00Z, 03:12:30 or +90s"
    )
