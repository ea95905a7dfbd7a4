"""Recordings read back, and played."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.picture import WALL_NS, Fake, outage
from tracer import cli_replay
from tracer.board import Board
from tracer.cli import main
from tracer.errors import InputError, UsageError
from tracer.event import attempt_record, lifecycle_record
from tracer.model import Lifecycle, LifecycleKind, Outcome, Report
from tracer.recording import Event, Recording
from tracer.replay import Clock, Replay
from tracer.screen import run as run_module
from tracer.sinks.jsonl import encoded

SECOND = 1_000_000_000


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def recorded(fake: Fake, path: Path, *, tail: bytes = b"") -> Path:
    """Everything in the fake's log as a recording."""
    lines = []
    for event in fake.snapshot().log:
        if isinstance(event, Report):
            lines.append(encoded(attempt_record(event, "node-1")))
        elif isinstance(event, Lifecycle):
            lines.append(encoded(lifecycle_record(event, "node-1")))
    path.write_bytes(b"".join(lines) + tail)
    return path


def stopped(fake: Fake) -> None:
    wall = WALL_NS + fake.now_ns - fake.began_ns
    fake.board.lifecycle(Lifecycle(LifecycleKind.STOP, wall, fake.health, 9.0, None))


def read(path: Path) -> tuple[list[Event], Recording]:
    """The events of a recording, and it, closed."""
    with closing(Recording(str(path))) as recording:
        return list(recording), recording


# --- reading -------------------------------------------------------------------------------------


def test_what_is_written_is_read_back_the_same(tmp_path: Path) -> None:
    fake = outage()
    stopped(fake)
    path = recorded(fake, tmp_path / "r.jsonl")
    events, recording = read(path)
    again = [
        encoded(
            attempt_record(event, "node-1")
            if isinstance(event, Report)
            else lifecycle_record(event, "node-1")
        )
        for event in events
    ]
    assert again == path.read_bytes().splitlines(keepends=True)
    assert recording.node == "node-1"
    assert recording.skipped == 0


@pytest.mark.parametrize(
    "tail",
    [
        b'{"schema_version":1,"time":"2026',
        b"\n\x00\xff garbage\n",
        b"[1,2]\n",
        b'"text"\n',
        b'{"schema_version":1,"event":"attempt.dance"}\n',
        b'{"schema_version":1,"event":"attempt.end"}\n',
        b'{"schema_version":1,"event":"tracer.health","tracer":7,"time":null}\n',
        b"[" * 100_000 + b"\n",
        b'{"x":"' + b"y" * (1 << 20) + b'"}\n',
    ],
)
def test_what_is_no_event_is_skipped_counted_and_said(tmp_path: Path, tail: bytes) -> None:
    events, recording = read(recorded(outage(), tmp_path / "r.jsonl", tail=tail))
    assert len(events) == len(outage().snapshot().log)
    assert recording.skipped == 1
    assert recording.first_skipped.startswith("line 1")


def test_every_field_may_be_of_the_wrong_kind(tmp_path: Path) -> None:
    record = json.loads(encoded(attempt_record(outage().attempts[0], "n")))

    def spoiled(value: object) -> Iterator[object]:
        if isinstance(value, dict):
            for key in value:
                yield {**value, key: ["wrong"]}
                yield {name: kept for name, kept in value.items() if name != key}
                for inner in spoiled(value[key]):
                    yield {**value, key: inner}

    path = tmp_path / "r.jsonl"
    path.write_text(
        "".join(
            json.dumps(one) + "\n"
            for one in spoiled(record)
            if isinstance(one, dict) and one.get("schema_version") == 1
        )
    )
    read(path)


def test_an_unknown_version_of_the_schema_is_refused_with_its_line(tmp_path: Path) -> None:
    path = recorded(outage(), tmp_path / "r.jsonl", tail=b'{"schema_version":2,"event":"x"}\n')
    with pytest.raises(InputError, match=r"line 15: its schema_version is 2"):
        read(path)


def test_what_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read"):
        Recording(str(tmp_path / "none"))
    with pytest.raises(InputError, match="no ordinary file"):
        Recording("/dev/null")


# --- playing -------------------------------------------------------------------------------------


class Own:
    """A clock of ours that stands still."""

    def __init__(self) -> None:
        self.ns = 5 * SECOND

    def __call__(self) -> int:
        return self.ns


def test_the_clock_of_a_recording_goes_as_fast_as_is_asked_and_stops_at_its_end() -> None:
    own = Own()
    clock = Clock(100 * SECOND, 10.0, own)
    assert clock.now() == 100 * SECOND
    clock.start()
    own.ns += SECOND
    assert clock.now() == 110 * SECOND
    clock.stop(105 * SECOND)
    assert clock.now() == 105 * SECOND


def play(path: Path, *, at_ns: int | None = None) -> tuple[Board, Replay]:
    with closing(Recording(str(path))) as recording:
        events = iter(recording)
        first = next(events)
        clock = Clock(first.wall_ns, 10_000.0)
        board = Board(clock=clock.now, wall=clock.now, keep=True)
        replay = Replay(
            recording, [board], clock, first=first, rest=events, at_ns=at_ns, pulse=board.pulse
        )
        replay.run()
    return board, replay


def test_a_replay_gives_the_picture_that_was_recorded(tmp_path: Path) -> None:
    fake = outage()
    live = fake.snapshot()
    board, _ = play(recorded(fake, tmp_path / "r.jsonl"))
    played = board.snapshot()

    assert {name: held.live for name, held in played.attempts.items()} == {
        name: held.live for name, held in live.attempts.items()
    }
    assert played.totals.stuck_now == live.totals.stuck_now == 5
    assert played.totals.peak == live.totals.peak
    assert {how: n for how, n in played.totals.outcomes.items() if n} == {
        Outcome.ESTABLISHED: 1,
        Outcome.UNREACHABLE: 1,
    }
    assert [len(held.points) for held in played.attempts.values()] == [
        len(held.points) for held in live.attempts.values()
    ]


def test_a_recording_without_its_end_says_so_and_one_with_it_does_not(tmp_path: Path) -> None:
    fake = outage()
    board, _ = play(recorded(fake, tmp_path / "cut.jsonl", tail=b'{"schem'))
    said = board.snapshot().log[-1]
    assert isinstance(said, Lifecycle)
    assert "1 lines could not be read (line 15 is not whole)" in str(said.message)
    assert "has no end" in str(said.message)

    stopped(fake)
    board, _ = play(recorded(fake, tmp_path / "whole.jsonl"))
    said = board.snapshot().log[-1]
    assert isinstance(said, Lifecycle)
    assert said.message is None


def test_what_another_trace_left_in_the_same_file_has_vanished(tmp_path: Path) -> None:
    fake = outage()
    fake.advance(10)
    wall = WALL_NS + fake.now_ns - fake.began_ns
    fake.board.lifecycle(Lifecycle(LifecycleKind.START, wall, fake.health, 0.0, "again"))
    board, _ = play(recorded(fake, tmp_path / "r.jsonl"))
    totals = board.snapshot().totals
    assert (totals.stuck_now, totals.outcomes[Outcome.VANISHED]) == (0, 5)


def test_a_replay_from_the_middle_has_what_was_before_at_once(tmp_path: Path) -> None:
    fake = outage()
    fake.advance(100_000)
    fake.retry(0)
    began = time.monotonic()
    board, _ = play(recorded(fake, tmp_path / "r.jsonl"), at_ns=WALL_NS + 100_005 * SECOND)
    assert time.monotonic() - began < 5  # at 10,000 times the speed it would take ten seconds
    assert board.snapshot().totals.stuck_now == 5


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("+90s", 90),
        ("+1.5", 1.5),
        ("22:15", 100),
        ("22:15:30", 130),
        ("22:13:19", 86_399),
        ("2023-11-14T22:15:00Z", 100),
        ("2023-11-14T23:15:00+01:00", 100),
    ],
)
def test_a_time_is_understood(text: str, meant: float) -> None:
    assert cli_replay._at(text, WALL_NS) == WALL_NS + int(meant * SECOND)


@pytest.mark.parametrize("text", ["soon", "25:00", "+x", "2023-13-01T00:00:00Z", ""])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is no time"):
        cli_replay._at(text, WALL_NS)


# --- at the command line -------------------------------------------------------------------------


def test_lines_are_those_of_the_live_trace_with_the_sums_at_the_end(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = recorded(outage(), tmp_path / "r.jsonl")
    assert main(["replay", str(path), "--speed", "10000", "--plain"]) == 0
    out = capfd.readouterr().out
    assert "22:13:20.000 STUCK 10.4.7.21:40000" in out
    assert "22:13:25.000 END   10.4.7.21:40006" in out
    assert "-- still stuck 5 (peak 7)" in out
    assert "-- top destinations" in out


def test_the_sums_alone_come_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = recorded(outage(), tmp_path / "r.jsonl", tail=b'{"sch')
    assert main(["replay", str(path), "--summary"]) == 0
    out = capsys.readouterr().out
    assert "15 lines of node node-1, 2023-11-14T22:13:20.000000Z to" in out
    assert "still stuck 5 (peak 7)" in out
    assert "7 attempt.stuck" in out
    assert "1 lines could not be read (line 15 is not whole)" in out
    assert "10.100.7.9:5432 (VPC/internal, service shop/db:5432 0/3 ready)" in out


def test_the_sums_in_brief_are_those_of_every_event_in_full(tmp_path: Path) -> None:
    path = recorded(outage(), tmp_path / "r.jsonl")
    told = []
    for in_brief in (True, False):
        with closing(Recording(str(path))) as recording:
            records = list(recording.records(in_brief=in_brief))
        told.append([(one["event"], one.get("attempt", {}).get("id")) for one in records])
    brief, whole = told
    assert brief == whole


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        ([], 2),
        (["FILE", "--speed", "0"], 2),
        (["FILE", "--speed", "fast"], 2),
        (["FILE", "--at", "soon"], 2),
        (["/no/such/file"], 5),
        (["/dev/null"], 5),
        (["EMPTY"], 5),
        (["EMPTY", "--summary"], 5),
    ],
)
def test_what_cannot_be_played_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], status: int
) -> None:
    path = recorded(outage(), tmp_path / "r.jsonl")
    (tmp_path / "empty").touch()
    names = {"FILE": str(path), "EMPTY": str(tmp_path / "empty")}
    assert main(["replay", *(names.get(word, word) for word in arguments)]) == status
    assert capsys.readouterr().err.startswith("synsent-trace: ")


def test_the_summary_of_many_lines_is_quick(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A twentieth of the million lines that may take 20 s, with room for a busy machine."""
    lines = recorded(outage(), tmp_path / "r.jsonl").read_bytes()
    path = tmp_path / "many.jsonl"
    path.write_bytes(lines * (50_000 // lines.count(b"\n")))
    began = time.process_time()
    assert main(["replay", str(path), "--summary"]) == 0
    assert time.process_time() - began < 1.5
    assert "still stuck" in capsys.readouterr().out


def test_a_picture_of_a_recording_is_drawn_without_a_terminal(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "STALL_SECONDS", 0.0)  # as on a machine that takes its time
    path = recorded(outage(), tmp_path / "r.jsonl")
    svg = tmp_path / "screen.svg"
    assert main(["replay", str(path), "--speed", "10000", "--screenshot", str(svg)]) == 0
    assert "shop/web-0" in svg.read_text()
    assert "REPLAY" in svg.read_text()
    assert "\x1b" not in capfd.readouterr().out


def test_evidence_keeps_its_times(tmp_path: Path) -> None:
    fake = outage()
    path = recorded(fake, tmp_path / "r.jsonl")
    events, _ = read(path)
    reports = [event for event in events if isinstance(event, Report)]
    verdict = reports[0].verdict
    assert verdict is not None
    assert verdict.evidence[0].at_ns == WALL_NS
