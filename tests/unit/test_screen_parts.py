"""What is around the screen: recording, reports, the session in its thread, what the end says."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.support.picture import HEALTH, Fake, outage, pod
from tests.support.tracer import check_event
from tracer.cli_trace import settings_from, wants_screen
from tracer.errors import UsageError
from tracer.model import Lifecycle, LifecycleKind, Outcome, Process, Report
from tracer.screen.parts import ScreenParts, watched
from tracer.screen.report import report_name, write
from tracer.screen.run import ScreenServices, _InThread
from tracer.settings import Settings
from tracer.sinks import recorder as recorder_module
from tracer.sinks.jsonl import JsonlSink
from tracer.sinks.recorder import Recorder

REPOSITORY = Path(__file__).parents[2]


def events(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# --- recording -----------------------------------------------------------------------------------


def recorder(before: Callable[[], list[Report]] = list) -> tuple[Recorder, list[str]]:
    said: list[str] = []
    return Recorder(node="node-1", before=before, notify=said.append), said


def test_a_recording_begins_with_what_is_stuck_and_ends_when_it_is_told_to(tmp_path: Path) -> None:
    fake = Fake()
    already, later, last = (fake.stuck(number, pod()) for number in range(3))
    made, said = recorder(lambda: [already])
    path = tmp_path / "events.jsonl"
    made.write([later])
    made.start(str(path))
    assert made.path == str(path)
    assert not path.exists()
    made.tick(HEALTH, 1.0)
    made.write([later])
    made.stop()
    made.tick(HEALTH, 2.0)
    made.write([last])

    begin, *between, end = events(path)
    assert [event["attempt"]["id"] for event in between] == ["a-0", "a-1"]  # type: ignore[index]
    assert [begin["event"], end["event"]] == ["tracer.health", "tracer.health"]
    assert "the recording was stopped here" in str(end["tracer"])
    for event in events(path):
        check_event(event)
    assert said == [f"events were recorded to {path}"]
    assert made.dropped == 0
    assert made.path is None


def test_what_was_stuck_is_recorded_bit_by_bit_and_before_what_happens_to_it_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    real = JsonlSink.write

    def write(sink: JsonlSink, reports: Sequence[Report]) -> None:
        sizes.append(len(reports))
        real(sink, reports)

    monkeypatch.setattr(JsonlSink, "write", write)
    monkeypatch.setattr(recorder_module, "_TICK_SECONDS", 0.0)
    fake = Fake()
    stuck = [fake.stuck(number, pod()) for number in range(1_000)]
    made, _ = recorder(lambda: stuck)
    path = tmp_path / "events.jsonl"
    made.start(str(path))
    made.tick(HEALTH, 1.0)
    told = len(events(path))
    assert told < 600
    made.write([fake.retry(999), fake.end(998, Outcome.TIMED_OUT)])
    made.stop()
    while made.under_way:
        made.tick(HEALTH, 2.0)

    assert max(sizes) == 256
    kinds: dict[str, list[object]] = {}
    for event in events(path)[1:-1]:
        kinds.setdefault(event["attempt"]["id"], []).append(event["event"])  # type: ignore[index]
    assert len(kinds) == 1_000
    assert kinds["a-999"] == ["attempt.stuck", "attempt.retransmit"]
    assert kinds["a-998"] == ["attempt.stuck", "attempt.end"]
    assert kinds["a-997"] == ["attempt.stuck"]


def test_the_end_of_the_trace_leaves_nothing_that_was_stuck_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder_module, "_TICK_SECONDS", 0.0)
    fake = Fake()
    stuck = [fake.stuck(number, pod()) for number in range(1_000)]
    made, said = recorder(lambda: stuck)
    path = tmp_path / "events.jsonl"
    made.start(str(path))
    made.tick(HEALTH, 1.0)
    made.lifecycle(Lifecycle(LifecycleKind.STOP, 1, HEALTH, 2.0))
    made.close()
    found = [event["event"] for event in events(path)]
    assert found == ["tracer.health", *["attempt.stuck"] * 1_000, "tracer.stop"]
    assert said == [f"events were recorded to {path}"]


def test_a_recording_that_cannot_be_made_is_said_and_nothing_else_happens(tmp_path: Path) -> None:
    made, said = recorder()
    made.start(str(tmp_path / "no" / "such" / "folder"))
    made.tick(HEALTH, 1.0)
    made.write([Fake().stuck(1, pod())])

    assert made.path is None
    assert len(said) == 1
    assert "cannot write events" in said[0]


def test_news_of_the_tracer_is_recorded_too_and_closing_ends_it(tmp_path: Path) -> None:
    made, _ = recorder()
    made.start(str(tmp_path / "e"))
    made.lifecycle(Lifecycle(LifecycleKind.HEALTH, 1, HEALTH, 1.0))
    made.close()
    made.lifecycle(Lifecycle(LifecycleKind.STOP, 1, HEALTH, 1.0))

    assert [event["event"] for event in events(tmp_path / "e")] == ["tracer.health"] * 2


# --- reports -------------------------------------------------------------------------------------


def test_a_report_is_a_directory_that_check_reads_with_verdicts_in_its_events(
    tmp_path: Path,
) -> None:
    fake = outage()
    secret = Process(1, "curl", command_line=("curl", "--password", "hunter2", "x"))
    fake.stuck(90, pod(), process=secret)
    path = write(fake.snapshot(), node="node-1", watched="node node-1", folder=tmp_path)

    assert [found.name for found in tmp_path.iterdir()] == [path.name]
    assert {found.name for found in path.iterdir()} >= {"report.md", "report.json", "events.jsonl"}
    found = events(path / "events.jsonl")
    assert len(found) == 8
    for event in found:
        check_event(event)
    assert {event["verdict"]["cause"] for event in found} >= {"dropped-here", "no-reply"}  # type: ignore[index]
    markdown = (path / "report.md").read_text()
    assert "dropped-here \\(high\\)" in markdown or "dropped-here (high)" in markdown
    assert "iptables-save" in markdown
    assert "stuck_now: 6" in (path / "environment.txt").read_text()
    for file in path.iterdir():
        assert "hunter2" not in file.read_text()


def test_a_report_is_never_written_over_another(tmp_path: Path) -> None:
    snapshot = outage().snapshot()
    write(snapshot, node="n", watched="w", folder=tmp_path)
    with pytest.raises(UsageError, match="exists already"):
        write(snapshot, node="n", watched="w", folder=tmp_path)


@pytest.mark.parametrize("node", ["../../etc", "a b;rm -rf /", "\x1b[2J", "", "." * 300])
def test_a_report_has_a_name_that_harms_nothing(node: str) -> None:
    name = report_name(node, 1_700_000_000 * 10**9, "report")
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-.")
    assert name.startswith("synsent-report-")
    assert len(name) < 100


def services(made: Recorder, recording: str | None = None) -> tuple[ScreenServices, list[str]]:
    said: list[str] = []
    return (
        ScreenServices(
            made, node="n", watched="w", recording=recording, gone=lambda: False,
            stalled=lambda: False, copies=True, notice=said.append,
        ),
        said,
    )  # fmt: skip


def test_r_and_w_write_where_one_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made, _ = recorder()
    asked, said = services(made)
    assert str(tmp_path) in asked.toggle_recording()
    assert str(asked.recording).startswith(str(tmp_path))
    assert asked.toggle_recording().startswith("recorded to ")
    assert asked.recording is None
    assert asked.write_report(outage().snapshot()).startswith(f"report written to {tmp_path}")
    assert asked.write_report(outage().snapshot()).count("exists already") == 1
    assert len(said) == 2


def test_r_and_w_write_elsewhere_where_the_working_directory_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone, elsewhere = tmp_path / "gone", tmp_path / "elsewhere"
    for folder in (gone, elsewhere):
        folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(elsewhere))
    monkeypatch.chdir(gone)
    gone.rmdir()
    asked, _ = services(recorder()[0])
    assert asked.toggle_recording().startswith(f"recording to {elsewhere}")
    assert asked.write_report(outage().snapshot()).startswith(f"report written to {elsewhere}")


def test_r_says_where_there_is_no_folder_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> Path:
        raise FileNotFoundError(2, "No usable temporary directory")

    monkeypatch.setattr("tracer.screen.run.writable_folder", none)
    made, _ = recorder()
    assert "no folder to record to" in services(made)[0].toggle_recording()
    assert made.path is None


def test_r_says_that_jsonl_records_everything_anyway() -> None:
    made, _ = recorder()
    asked, _ = services(made, "all.jsonl")
    assert "all.jsonl since the start" in asked.toggle_recording()
    assert made.path is None
    assert asked.recording == "all.jsonl"


# --- the session in its thread -------------------------------------------------------------------


class Once:
    def __init__(self, error: Exception | None = None) -> None:
        self.error = error

    def run(self) -> None:
        if self.error is not None:
            raise self.error

    def stop(self) -> None:
        pass


@pytest.mark.parametrize("error", [None, OSError("gone"), RuntimeError("defect")])
def test_the_end_of_a_session_is_told_with_its_error_however_early(error: Exception | None) -> None:
    thread = _InThread(Once(error))
    thread.start()
    thread.join()
    told = threading.Event()
    thread.when_over = told.set
    assert told.is_set()
    assert thread.failure is error


# --- what the end says ---------------------------------------------------------------------------


def settings(**changes: object) -> Settings:
    return Settings(node_name="node-1", **changes)  # type: ignore[arg-type]


def test_what_was_on_the_screen_is_summed_up_where_it_was(
    capsys: pytest.CaptureFixture[str],
) -> None:
    parts = ScreenParts(settings(), {"NO_COLOR": "1"})
    fake = Fake()
    for sink in parts.sinks:
        sink.write([fake.stuck(1, pod()), fake.end(1, Outcome.TIMED_OUT)])
        sink.lifecycle(Lifecycle(LifecycleKind.STOP, 1, HEALTH, 61.0))
    parts.notify("the disk is full")
    said: list[str] = []
    parts.farewell(said.append)

    out = capsys.readouterr().out
    assert "after 1m01s" in out
    assert "52.94.10.112:443 (external)" in out
    assert "\x1b" not in out
    assert said == ["the disk is full"]


@pytest.mark.parametrize(
    ("scope", "known"),
    [
        ({}, True),
        ({"pods": (("a", "b"),)}, False),
        ({"namespaces": ("x",)}, False),
        ({"selector": "app=y"}, False),
    ],
)
def test_connects_of_the_node_make_no_share_for_a_scope(
    scope: dict[str, object], known: bool
) -> None:
    parts = ScreenParts(settings(**scope), {})
    parts.pulse(HEALTH, 1.0)
    assert (parts._board.snapshot().totals.success is not None) is known


def test_what_is_watched_is_said() -> None:
    assert watched(settings()) == "every pod and process of node node-1"
    assert watched(settings(pods=(("a", "b"),), netns=frozenset({7}))) == (
        "pod a/b, network namespace 7"
    )
    assert watched(settings(namespaces=("x",), selector="app=y")) == "pods of x, pods with app=y"
    assert watched(settings(pid=5)) == "process 5"


@pytest.mark.parametrize(
    ("options", "term", "terminal", "screen"),
    [
        ([], "xterm", True, True),
        ([], "linux", True, True),
        ([], "xterm", False, False),
        ([], "dumb", True, False),
        (["--plain"], "xterm", True, False),
        (["--jsonl", "-"], "xterm", True, False),
        (["--jsonl", "file"], "xterm", True, True),
    ],
)
def test_the_screen_is_for_terminals(
    monkeypatch: pytest.MonkeyPatch, options: list[str], term: str, terminal: bool, screen: bool
) -> None:
    monkeypatch.setattr("os.isatty", lambda _fd: terminal)
    chosen = settings_from(["--node", *options], {})
    assert wants_screen(chosen, {"TERM": term}) is screen
    assert not wants_screen(chosen, {})


def test_keep_and_ascii_are_options_and_variables() -> None:
    assert settings_from(["--node", "--keep", "--ascii"], {}).keep
    chosen = settings_from(["--node"], {"SYNSENT_ASCII": "1"})
    assert (chosen.keep, chosen.ascii) == (False, True)


def test_neither_rich_nor_textual_is_loaded_before_the_trace_begins() -> None:
    script = (
        "import sys; import tracer.session, tracer.screen.parts; "
        "print([name for name in ('textual', 'rich') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=REPOSITORY
    )
    assert done.stdout.strip() == "[]"
