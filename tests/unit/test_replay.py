"""Recordings read back, and played."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.picture import WALL_NS, Fake, outage, pod
from tests.support.tracer import PROGRAM, environment
from tests.support.wait import wait_until
from tracer import cli_replay
from tracer.board import Board
from tracer.cli import main
from tracer.errors import InputError, UsageError
from tracer.event import attempt_record, lifecycle_record
from tracer.model import Lifecycle, LifecycleKind, Outcome, Report
from tracer.recording import Event, Recording
from tracer.replay import Clock, Replay
from tracer.screen import run as run_module
from tracer.screen.glyphs import glyphs_for
from tracer.screen.header import header
from tracer.screen.parts import Past, ScreenParts
from tracer.screen.rows import Rows
from tracer.settings import Settings
from tracer.sinks.jsonl import encoded
from tracer.sinks.recorder import Recorder

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


WRONG: tuple[object, ...] = (
    ["wrong"], {"x": 1}, "errorcode", -1, 10**4000, 1e308, True, math.inf, math.nan, "\ud800\x1b[2J"
)  # fmt: skip


@pytest.mark.parametrize("kind", [Report, Lifecycle])
def test_every_field_may_be_of_the_wrong_kind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: type
) -> None:
    fake = outage()
    stopped(fake)
    event = next(event for event in fake.snapshot().log if isinstance(event, kind))
    record = json.loads(
        encoded(
            attempt_record(event, "n")
            if isinstance(event, Report)
            else lifecycle_record(event, "n")  # type: ignore[arg-type]
        )
    )

    def spoiled(value: object) -> Iterator[object]:
        if isinstance(value, dict):
            for key in value:
                for wrong in WRONG:
                    yield {**value, key: wrong}
                yield {name: kept for name, kept in value.items() if name != key}
                for inner in spoiled(value[key]):
                    yield {**value, key: inner}

    whole = recorded(outage(), tmp_path / "whole.jsonl").read_text()
    spoiled_lines = "".join(
        json.dumps(one).replace("1e+308", "1e999") + "\n"
        for one in spoiled(record)
        if isinstance(one, dict) and one.get("schema_version") == 1
    )
    path = tmp_path / "r.jsonl"
    path.write_text(whole + spoiled_lines)
    board, _ = play(path)
    assert "lines could not be read" in str(board.snapshot().log[-1])
    for option in (["--summary"], ["--plain", "--speed", "10000"]):
        assert main(["replay", str(path), *option]) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_what_is_held_of_a_recording_has_a_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tracer.replay.MOST_LIVE", 3)
    board, replay = play(recorded(outage(), tmp_path / "r.jsonl"))
    assert len(replay._live) <= 3
    assert "found no room to be counted" in str(board.snapshot().log[-1])


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


def test_a_recording_that_says_nothing_of_its_tracer_claims_nothing_of_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "r.jsonl"
    path.write_bytes(encoded(attempt_record(outage().attempts[0], "n")))
    board, _ = play(path)
    rows = Rows()
    rows.update(board.snapshot())
    lines = header(board.snapshot(), rows, node="n", width=140, glyphs=glyphs_for({}))
    shown = "\n".join(line.plain for line in lines)
    assert "state of the trace not recorded" in shown
    for claim in ("BPF ok", "nothing lost", "API"):
        assert claim not in shown
    assert main(["replay", str(path), "--plain"]) == 0
    out = capfd.readouterr().out
    assert "the state of the trace is not recorded" in out
    assert "losses: none" not in out


def test_what_r_recorded_has_its_state_and_its_end(tmp_path: Path) -> None:
    fake = outage()
    path = tmp_path / "r.jsonl"
    made = Recorder(node="n", before=lambda: list(fake.attempts.values()), notify=lambda _: None)
    made.start(str(path))
    made.tick(replace(fake.health, withheld=3, own_connects=4), 7.0)
    made.stop()
    made.tick(fake.health, 8.0)
    with closing(Recording(str(path))) as recording:
        begin, *_ = recording
    assert isinstance(begin, Lifecycle)
    assert (begin.health.withheld, begin.health.own_connects) == (3, 4)
    board, _ = play(path)
    said = board.snapshot().log[-1]
    assert isinstance(said, Lifecycle)
    assert (said.kind, said.message) == (LifecycleKind.STOP, None)
    assert said.health.recorded


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


@pytest.mark.parametrize("told", [False, True])
def test_a_replay_from_the_middle_has_the_history_of_what_was_before(
    tmp_path: Path, told: bool
) -> None:
    fake = Fake()
    for number in range(5):
        fake.stuck(number, pod())
    fake.advance(4)
    for number in range(5):
        fake.end(number, Outcome.TIMED_OUT)
    for _ in range(9):
        fake.advance(60)
        if told:  # as a trace does once a minute
            wall = WALL_NS + fake.now_ns - fake.began_ns
            fake.board.lifecycle(Lifecycle(LifecycleKind.HEALTH, wall, fake.health, 60.0))
    fake.stuck(9, pod())
    board, _ = play(recorded(fake, tmp_path / "r.jsonl"), at_ns=WALL_NS + 544 * SECOND)
    history = [value for value in board.snapshot().totals.history if value is not None]
    assert history == [5, *[0] * (len(history) - 2), 1]
    assert 54 <= len(history) <= 56


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


@pytest.mark.parametrize(
    "text", ["soon", "25:00", "+x", "+inf", "+nan", "2023-13-01T00:00:00Z", ""]
)
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
        told.append(
            [(one["event"], one["time"], one.get("attempt", {}).get("id")) for one in records]
        )
    brief, whole = told
    assert brief == whole


def test_a_recording_of_nothing_but_what_goes_on_is_summed_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = Fake()
    fake.stuck(1, pod())
    told = []
    for _ in range(2):
        fake.advance(10)
        told.append(encoded(attempt_record(fake.retry(1), "node-1")))
    path = tmp_path / "r.jsonl"
    path.write_bytes(b"".join(told))
    assert main(["replay", str(path), "--summary"]) == 0
    out = capsys.readouterr().out
    span = "2023-11-14T22:13:30.000000Z to 2023-11-14T22:13:40.000000Z"
    assert f"2 lines of node node-1, {span}" in out
    assert "2 attempt.retransmit" in out
    assert "still stuck 1" in out


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


def many_lines(path: Path) -> Path:
    """More than a pipe and the queue hold together."""
    fake = Fake()
    line = encoded(attempt_record(fake.stuck(1, pod()), "n"))
    path.write_bytes(line * 20_000)
    return path


@contextmanager
def held_up(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A replay whose reader has taken a byte, and which has gone as far as it can by then."""
    with subprocess.Popen(
        [PROGRAM, "replay", str(path), "--plain"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment(),
        pipesize=4096,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.read(1)
            used = deque([-100.0], maxlen=10)

            def rests() -> bool:
                fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
                used.append(float(fields[11]) + float(fields[12]))
                return len(used) == 10 and used[-1] - used[0] <= 2

            wait_until(rests, 30, "a replay that waits")
            yield process
        finally:
            process.kill()


def test_a_slow_reader_gets_every_line_of_a_recording(tmp_path: Path) -> None:
    with held_up(many_lines(tmp_path / "r.jsonl")) as process:
        assert process.stdout is not None
        told = process.stdout.read()
        assert process.wait(20) == 0
    assert told.count(b" STUCK ") == 20_000
    assert b"lines not shown" not in told


def test_a_replay_whose_reader_takes_nothing_ends_when_it_is_told_to(tmp_path: Path) -> None:
    with held_up(many_lines(tmp_path / "r.jsonl")) as process:
        process.terminate()
        assert process.wait(20) in {0, 128 + signal.SIGTERM, -signal.SIGTERM}


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


def test_the_end_of_a_recording_and_what_was_skipped_are_said_while_somebody_still_looks(
    tmp_path: Path,
) -> None:
    path = recorded(outage(), tmp_path / "r.jsonl", tail=b'{"sch')
    told = threading.Event()
    with closing(Recording(str(path))) as recording:
        events = iter(recording)
        first = next(events)
        clock = Clock(first.wall_ns, 10_000.0)
        parts = ScreenParts(
            Settings(node_name="n"),
            {"NO_COLOR": "1"},
            past=Past(clock.now, lambda: cli_replay._note(clock, 1.0, replay)),
        )

        def notify(sentence: str) -> None:
            parts.log(sentence)
            told.set()

        replay = Replay(
            recording, parts.sinks, clock, first=first, rest=events,
            notify=notify, stay=True,
        )  # fmt: skip
        assert "END OF RECORDING" not in cli_replay._note(clock, 1.0, replay)
        thread = threading.Thread(target=replay.run)
        thread.start()
        try:
            assert told.wait(20)
            assert thread.is_alive()
            note = cli_replay._note(clock, 1.0, replay)
            assert note.startswith("REPLAY, END OF RECORDING at 2023-11-14 22:13:29")
            assert "1 lines could not be read" in note
        finally:
            replay.stop()
            thread.join()
    lines = parts._sums.lines(color=False)
    assert any("line 15 is not whole" in line and "has no end" in line for line in lines)


def test_evidence_keeps_its_times(tmp_path: Path) -> None:
    fake = outage()
    path = recorded(fake, tmp_path / "r.jsonl")
    events, _ = read(path)
    reports = [event for event in events if isinstance(event, Report)]
    verdict = reports[0].verdict
    assert verdict is not None
    assert verdict.evidence[0].at_ns == WALL_NS
