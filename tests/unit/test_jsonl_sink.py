from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest

from tests.support.wait import wait_until
from tracer.errors import UsageError
from tracer.model import (
    Attempt,
    Change,
    ChangeKind,
    Destination,
    Endpoint,
    Flow,
    Health,
    Lifecycle,
    LifecycleKind,
    Owner,
    Process,
    Report,
    Scope,
    SourceName,
)
from tracer.schema import json_schema
from tracer.sinks.jsonl import JsonlSink

VALIDATOR = jsonschema.Draft202012Validator(json_schema())
STDOUT = 1
HEALTH = Lifecycle(
    LifecycleKind.HEALTH, 1_700_000_000_000_000_000, Health(SourceName.BPF, (), (), 0, 0), 1.0
)


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class BrokenWrite:
    """Stands in for os.write: takes `takes` bytes of the first call, then fails as it is told."""

    def __init__(self, takes: int, error: OSError) -> None:
        self.takes = takes
        self.error: OSError | None = error
        self.calls = 0
        self._write = os.write

    def __call__(self, fd: int, data: bytes | memoryview) -> int:
        self.calls += 1
        if self.error is None:
            return self._write(fd, data)
        if self.takes:
            taken, self.takes = self.takes, 0
            return self._write(fd, data[:taken])
        raise self.error


def report(number: int = 0, comm: str | None = "curl", process: Process | None = None) -> Report:
    attempt = Attempt(
        id=f"attempt-{number}",
        flow=Flow(4026532201, 4, Endpoint("10.4.7.21", 41822), Endpoint("52.94.10.112", 443)),
        owner=Owner(pid=4123, uid=1000, comm=comm),
        detected_by=SourceName.BPF,
        first_seen_ns=1,
        stuck_ns=2,
    )
    return Report(
        change=Change(ChangeKind.STUCK, attempt, 2),
        destination=Destination(Scope.EXTERNAL),
        process=process,
        wall_ns=1_700_000_000_000_000_000,
        age_seconds=1.0,
        next_retry_seconds=1.0,
    )


def batch(first: int, count: int) -> list[Report]:
    return [report(number) for number in range(first, first + count)]


def ids(text: str | bytes) -> list[str]:
    """The attempt of each whole line; "torn" for what is no JSON."""
    found = []
    for line in text.splitlines() if isinstance(text, str) else text.decode().split("\n"):
        if not line:
            continue
        try:
            record = json.loads(line)
        except ValueError:
            found.append("torn")
        else:
            if len(found) < 20:
                VALIDATOR.validate(record)
            found.append(record["attempt"]["id"] if "attempt" in record else record["event"])
    return found


def names(first: int, count: int) -> list[str]:
    return [f"attempt-{number}" for number in range(first, first + count)]


@pytest.fixture
def said() -> list[str]:
    return []


@contextmanager
def stdout_as(writer: int) -> Iterator[None]:
    """Puts `writer` in the place of standard output; not in a fixture, whose end pytest's own
    capturing would not wait for."""
    kept = os.dup(STDOUT)
    os.dup2(writer, STDOUT)
    os.close(writer)
    try:
        yield
    finally:
        os.dup2(kept, STDOUT)
        os.close(kept)


@contextmanager
def stdout_pipe() -> Iterator[int]:
    """Puts a pipe there and gives its reading end, which the test may close."""
    reader, writer = os.pipe()
    with stdout_as(writer):
        yield reader
    with suppress(OSError):
        os.close(reader)


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def drain(reader: int) -> bytes:
    """What is in the pipe now."""
    os.set_blocking(reader, False)
    data = b""
    try:
        while piece := os.read(reader, 1 << 20):
            data += piece
    except BlockingIOError:
        pass
    return data


def broken(monkeypatch: pytest.MonkeyPatch, takes: int, number: int) -> BrokenWrite:
    write = BrokenWrite(takes, OSError(number, os.strerror(number)))
    monkeypatch.setattr(os, "write", write)
    return write


def test_each_event_is_one_line_that_fits_the_schema(tmp_path: Path, said: list[str]) -> None:
    path = tmp_path / "events.jsonl"
    sink = JsonlSink(str(path), node="node-1", notify=said.append)

    sink.write(batch(0, 3))
    sink.lifecycle(HEALTH)

    assert ids(path.read_text()) == [*names(0, 3), "tracer.health"]
    assert path.read_text().endswith("\n")
    assert (sink.dropped, sink.finished, said) == (0, False, [])


def test_a_batch_is_handed_to_the_kernel_in_one_write(
    tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    write = os.write

    def counting(fd: int, data: bytes) -> int:
        sizes.append(len(data))
        return write(fd, data)

    monkeypatch.setattr(os, "write", counting)
    path = tmp_path / "events.jsonl"
    sink = JsonlSink(str(path), node="node-1", notify=said.append)

    sink.write(batch(0, 500))
    sink.write([])

    assert sizes == [path.stat().st_size]


def test_an_event_is_in_the_file_as_soon_as_write_returns(tmp_path: Path, said: list[str]) -> None:
    path = tmp_path / "events.jsonl"
    sink = JsonlSink(str(path), node="node-1", notify=said.append)

    sink.write([report()])

    assert ids(path.read_text()) == names(0, 1)


def test_a_new_file_is_for_its_owner_alone(tmp_path: Path, said: list[str]) -> None:
    path = tmp_path / "events.jsonl"
    before = os.umask(0)
    try:
        JsonlSink(str(path), node="node-1", notify=said.append).close()
    finally:
        os.umask(before)

    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_events_are_added_to_a_file_that_exists(tmp_path: Path, said: list[str]) -> None:
    path = tmp_path / "events.jsonl"
    for number in (0, 1):
        sink = JsonlSink(str(path), node="node-1", notify=said.append)
        sink.write([report(number)])
        sink.close()

    assert ids(path.read_text()) == names(0, 2)


def test_a_file_cut_to_nothing_by_logrotate_is_written_from_its_start(
    tmp_path: Path, said: list[str]
) -> None:
    path = tmp_path / "events.jsonl"
    sink = JsonlSink(str(path), node="node-1", notify=said.append)
    sink.write(batch(0, 3))

    os.truncate(path, 0)
    sink.write(batch(3, 1))

    assert ids(path.read_bytes()) == names(3, 1)


def test_the_file_is_not_handed_to_child_processes(tmp_path: Path, said: list[str]) -> None:
    path = tmp_path / "events.jsonl"
    sink = JsonlSink(str(path), node="node-1", notify=said.append)

    mine = [
        int(entry.name)
        for entry in Path("/proc/self/fd").iterdir()
        if entry.is_symlink() and entry.exists() and entry.samefile(path)
    ]

    assert len(mine) == 1
    assert fcntl.fcntl(mine[0], fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    assert fcntl.fcntl(mine[0], fcntl.F_GETFL) & os.O_APPEND
    sink.close()


@pytest.mark.parametrize(
    ("name", "cause"), [("missing/events.jsonl", "No such file"), (".", "Is a directory")]
)
def test_a_path_that_cannot_be_opened_is_refused_by_name_and_cause(
    tmp_path: Path, said: list[str], name: str, cause: str
) -> None:
    with pytest.raises(UsageError, match=cause) as caught:
        JsonlSink(str(tmp_path / name), node="node-1", notify=said.append)

    assert str(tmp_path / name) in str(caught.value)
    assert caught.value.hint


def test_a_fifo_without_a_reader_is_refused_instead_of_waited_for(
    tmp_path: Path, said: list[str]
) -> None:
    fifo = tmp_path / "events.fifo"
    os.mkfifo(fifo)

    with pytest.raises(UsageError) as caught:
        JsonlSink(str(fifo), node="node-1", notify=said.append)

    assert "reader" in caught.value.hint


def test_a_full_disk_is_said_once_and_its_events_are_counted(said: list[str]) -> None:
    sink = JsonlSink("/dev/full", node="node-1", notify=said.append)

    sink.write(batch(0, 3))
    sink.write(batch(3, 2))
    sink.lifecycle(HEALTH)

    assert sink.dropped == 6
    assert not sink.finished
    assert said == [
        (
            "cannot write events to /dev/full: No space left on device; tracing goes on;"
            " events are counted as dropped"
        )
    ]


def test_what_was_lost_in_the_end_is_said_at_the_close(said: list[str]) -> None:
    sink = JsonlSink("/dev/full", node="node-1", notify=said.append)
    sink.write(batch(0, 3))

    sink.close()
    sink.close()

    assert said[1:] == ["3 events could not be written to /dev/full"]


@pytest.mark.parametrize("cause", ["ENOSPC", "EIO", "EDQUOT", "EROFS"])
def test_writing_goes_on_when_the_disk_has_room_again(
    tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch, cause: str
) -> None:
    path = tmp_path / "events.jsonl"
    sink = JsonlSink(str(path), node="node-1", notify=said.append)
    write = broken(monkeypatch, 0, getattr(errno, cause))
    sink.write(batch(0, 4))

    write.error = None
    sink.write(batch(4, 2))
    sink.write(batch(6, 1))

    assert ids(path.read_text()) == names(4, 3)
    assert sink.dropped == 4
    assert said[1:] == [f"writing to {path} works again; 4 events were lost"]


def test_a_second_failure_is_said_again_with_its_own_count(
    tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "events.jsonl"
    sink = JsonlSink(str(path), node="node-1", notify=said.append)
    write = broken(monkeypatch, 0, 28)
    failure = write.error

    for count in (4, 2):
        write.error = failure
        sink.write(batch(0, count))
        write.error = None
        sink.write(batch(0, 1))

    assert sink.dropped == 6
    assert [sentence.split("; ")[-1] for sentence in said if "again" in sentence] == [
        "4 events were lost",
        "2 events were lost",
    ]


def test_a_short_write_is_continued_where_it_stopped(
    tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:100]))
    path = tmp_path / "events.jsonl"
    sink = JsonlSink(str(path), node="node-1", notify=said.append)

    sink.write(batch(0, 20))

    assert ids(path.read_text()) == names(0, 20)
    assert sink.dropped == 0


def test_a_line_that_was_cut_does_not_spoil_the_next_one(
    tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "events.jsonl"
    sink = JsonlSink(str(path), node="node-1", notify=said.append)
    sink.write(batch(0, 1))
    line = path.stat().st_size
    write = broken(monkeypatch, line * 2 + line // 2, 28)  # two lines and a half

    sink.write(batch(1, 5))
    sink.write(batch(6, 1))
    write.error = None
    sink.write(batch(7, 2))

    assert ids(path.read_text()) == [*names(0, 3), "torn", *names(7, 2)]
    assert sink.dropped == 3 + 1


def test_a_write_cut_between_two_lines_leaves_no_torn_line(
    tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "events.jsonl"
    sink = JsonlSink(str(path), node="node-1", notify=said.append)
    sink.write(batch(0, 1))
    write = broken(monkeypatch, path.stat().st_size * 2, 28)

    sink.write(batch(1, 5))
    write.error = None
    sink.write(batch(6, 1))

    assert ids(path.read_text()) == [*names(0, 3), *names(6, 1)]
    assert "\n\n" not in path.read_text()
    assert sink.dropped == 3


def test_a_limit_met_in_the_middle_of_a_line_costs_that_line_alone(tmp_path: Path) -> None:
    """The kernel itself cuts the write: RLIMIT_FSIZE, in a process of its own."""
    path = tmp_path / "events.jsonl"
    program = f"""
import resource
from tests.unit.test_jsonl_sink import batch
from tracer.sinks.jsonl import JsonlSink

sink = JsonlSink({str(path)!r}, node="node-1", notify=lambda sentence: None)
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))
sink.write(batch(0, 10))
print(sink.dropped)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
sink.write(batch(10, 2))
print(sink.dropped)
"""

    result = subprocess.run(
        [sys.executable, "-c", program],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )

    dropped, after = map(int, result.stdout.split())
    assert 0 < dropped < 10
    assert after == dropped
    assert ids(path.read_text()) == [*names(0, 10 - dropped), "torn", *names(10, 2)]


def test_a_line_left_by_a_run_that_was_killed_does_not_spoil_the_first_one(
    tmp_path: Path, said: list[str]
) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text('{"schema_ver')
    sink = JsonlSink(str(path), node="node-1", notify=said.append)

    sink.write(batch(0, 2))

    assert ids(path.read_text()) == ["torn", *names(0, 2)]
    assert sink.dropped == 0


@pytest.mark.parametrize("way", ["renamed", "removed", "replaced"])
def test_a_rotated_file_is_opened_anew_and_said_once(
    tmp_path: Path, said: list[str], way: str
) -> None:
    clock = Clock()
    path = tmp_path / "events.jsonl"
    sink = JsonlSink(str(path), node="node-1", notify=said.append, clock=clock)
    sink.write(batch(0, 1))
    if way == "renamed":
        path.rename(tmp_path / "events.jsonl.1")
    else:
        path.unlink()
    if way == "replaced":
        path.touch()

    clock.now += 1
    sink.write(batch(1, 1))
    clock.now += 1
    sink.write(batch(2, 1))

    assert ids(path.read_text()) == names(1, 2)
    assert said == [f"{path} was removed or replaced: events now go to the new file"]
    assert sink.dropped == 0


def test_each_rotation_is_said(tmp_path: Path, said: list[str]) -> None:
    clock = Clock()
    path = tmp_path / "events.jsonl"
    sink = JsonlSink(str(path), node="node-1", notify=said.append, clock=clock)

    for number in range(3):
        path.unlink()
        clock.now += 1
        sink.write(batch(number, 1))

    assert len(said) == 3


def test_the_file_is_looked_for_once_a_second_at_most(
    tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    path = tmp_path / "events.jsonl"
    sink = JsonlSink(str(path), node="node-1", notify=said.append, clock=clock)
    looks = []
    look = Path.stat

    def counting(self: Path) -> os.stat_result:
        looks.append(self)
        return look(self)

    monkeypatch.setattr(Path, "stat", counting)
    for _ in range(30):
        clock.now += 0.1
        sink.write(batch(0, 1))

    assert 2 <= len(looks) <= 3


def test_a_rotated_file_is_closed(tmp_path: Path, said: list[str]) -> None:
    clock = Clock()
    path = tmp_path / "events.jsonl"
    sink = JsonlSink(str(path), node="node-1", notify=said.append, clock=clock)
    before = open_files()

    for number in range(5):
        path.unlink()
        clock.now += 1
        sink.write(batch(number, 1))

    assert open_files() == before


def test_a_file_that_cannot_be_opened_again_costs_events_until_it_can(
    tmp_path: Path, said: list[str]
) -> None:
    clock = Clock()
    folder = tmp_path / "recordings"
    folder.mkdir()
    path = folder / "events.jsonl"
    sink = JsonlSink(str(path), node="node-1", notify=said.append, clock=clock)
    path.unlink()
    folder.rmdir()

    clock.now += 1
    sink.write(batch(0, 2))
    sink.write(batch(2, 1))
    folder.mkdir()
    clock.now += 1
    sink.write(batch(3, 1))

    assert ids(path.read_text()) == names(3, 1)
    assert sink.dropped == 3
    assert said == [
        (
            f"cannot write events to {path}: No such file or directory; tracing goes on;"
            " events are counted as dropped"
        ),
        f"writing to {path} works again; 3 events were lost",
    ]


def test_a_file_that_cannot_be_looked_for_is_taken_to_be_in_its_place(
    tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    path = tmp_path / "events.jsonl"
    sink = JsonlSink(str(path), node="node-1", notify=said.append, clock=clock)

    def denied(_self: Path) -> os.stat_result:
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "stat", denied)
        clock.now += 1
        sink.write(batch(0, 2))

    assert ids(path.read_text()) == names(0, 2)
    assert (sink.dropped, said) == (0, [])


def test_standard_output_gets_nothing_but_json_lines(said: list[str]) -> None:
    with stdout_pipe() as reader:
        sink = JsonlSink("-", node="node-1", notify=said.append)

        sink.write(batch(0, 3))
        sink.close()

        assert ids(drain(reader)) == names(0, 3)


def test_a_file_as_standard_output_is_written_too(tmp_path: Path, said: list[str]) -> None:
    path = tmp_path / "out"
    with stdout_as(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)):
        sink = JsonlSink("-", node="node-1", notify=said.append)
        sink.write(batch(0, 2))
        sink.close()
        os.fstat(STDOUT)  # it is not the sink's to close

    assert ids(path.read_bytes()) == names(0, 2)


def test_a_reader_that_left_is_noticed_without_writing(said: list[str]) -> None:
    with stdout_pipe() as reader:
        sink = JsonlSink("-", node="node-1", notify=said.append)
        before = sink.finished
        os.close(reader)
        after = sink.finished

    assert (before, after) == (False, True)
    assert said == []


def test_writing_for_a_reader_that_left_finishes_the_output_in_silence(said: list[str]) -> None:
    with stdout_pipe() as reader:
        sink = JsonlSink("-", node="node-1", notify=said.append)
        os.close(reader)

        sink.write(batch(0, 2))
        sink.write(batch(2, 1))
        sink.close()

        assert sink.finished
        assert sink.dropped == 3
        assert said == []


def test_a_socket_whose_peer_left_is_noticed_without_writing(said: list[str]) -> None:
    mine, peer = socket.socketpair()
    with stdout_as(mine.detach()):
        sink = JsonlSink("-", node="node-1", notify=said.append)
        before = sink.finished
        peer.close()
        after = sink.finished

    assert (before, after) == (False, True)


def test_a_standard_output_closed_from_the_start_is_finished(
    said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "__stdout__", None)
    sink = JsonlSink("-", node="node-1", notify=said.append)

    sink.write(batch(0, 1))

    assert sink.finished
    assert sink.dropped == 1


def test_a_file_never_finishes(tmp_path: Path, said: list[str]) -> None:
    sink = JsonlSink(str(tmp_path / "events.jsonl"), node="node-1", notify=said.append)

    assert not sink.finished


def test_a_reader_that_stalls_costs_events_and_not_the_trace(said: list[str]) -> None:
    with stdout_pipe() as reader:
        sink = JsonlSink("-", node="node-1", notify=said.append, stall_seconds=0.05)

        started = time.monotonic()
        sink.write(batch(0, 1000))
        sink.write(batch(1000, 1000))
        waited = time.monotonic() - started
        first = ids(drain(reader))
        sink.write(batch(2000, 10))
        second = ids(drain(reader))

        assert waited < 10
        whole = len(first) - 1
        assert 0 < whole < 1000
        assert first == [*names(0, whole), "torn"]
        assert second == names(2000, 10)
        assert sink.dropped == 2000 - whole
        assert said == [
            (
                "cannot write events to standard output: its reader does not keep up;"
                " tracing goes on; events are counted as dropped"
            ),
            f"writing to standard output works again; {2000 - whole} events were lost",
        ]


def test_a_reader_that_stalls_is_waited_for_once(
    said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with stdout_pipe():
        waits = []

        def counting(_fd: int, seconds: float) -> bool:
            waits.append(seconds)
            return False

        monkeypatch.setattr("tracer.sinks.jsonl.wait_writable", counting)
        sink = JsonlSink("-", node="node-1", notify=said.append)

        sink.write(batch(0, 1000))
        for _ in range(5):
            sink.write(batch(0, 1))

        assert len(waits) == 1
        assert 0 < waits[0] <= 2.0


def test_a_reader_that_keeps_up_loses_nothing_of_a_large_batch(said: list[str]) -> None:
    with stdout_pipe() as reader:
        read: list[bytes] = []
        sink = JsonlSink("-", node="node-1", notify=said.append, stall_seconds=30)
        copy = os.dup(reader)

        def consume() -> None:
            while b"".join(read[-2:]).find(b"tracer.health") < 0:
                read.append(os.read(copy, 1 << 16))

        consumer = threading.Thread(target=consume, daemon=True)
        consumer.start()
        sink.write(batch(0, 3000))
        sink.lifecycle(HEALTH)
        consumer.join(30)
        os.close(copy)

        assert ids(b"".join(read)) == [*names(0, 3000), "tracer.health"]
        assert sink.dropped == 0
        assert said == []


def test_a_reader_that_comes_back_gets_a_batch_larger_than_the_pipe(
    said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[bytes] = []
    with stdout_pipe() as reader:
        sink = JsonlSink("-", node="node-1", notify=said.append, stall_seconds=0.05)
        sink.write(batch(0, 1000))
        dropped = sink.dropped
        drain(reader)

        def reading(_fd: int, _seconds: float) -> bool:
            read.append(drain(reader))
            return True

        monkeypatch.setattr("tracer.sinks.jsonl.wait_writable", reading)
        sink.write(batch(1000, 500))
        read.append(drain(reader))

    assert dropped > 0
    assert sink.dropped == dropped
    assert len(read) > 2
    assert ids(b"".join(read)) == names(1000, 500)


def test_the_pipe_that_others_share_keeps_its_flags(said: list[str]) -> None:
    with stdout_pipe():
        before = fcntl.fcntl(STDOUT, fcntl.F_GETFL)

        sink = JsonlSink("-", node="node-1", notify=said.append)
        sink.write(batch(0, 1))

        assert fcntl.fcntl(STDOUT, fcntl.F_GETFL) == before
        sink.close()


def test_the_descriptor_made_of_standard_output_is_closed(said: list[str]) -> None:
    with stdout_pipe():
        before = open_files()

        JsonlSink("-", node="node-1", notify=said.append).close()

        assert open_files() == before


@pytest.mark.parametrize(
    ("comm", "parsed"),
    [
        ('quote " backslash \\ newline \n', 'quote " backslash \\ newline \n'),
        ("\x1b[2J", "\x1b[2J"),
        ("\x7f", "\x7f"),
        ("\x9b31m", "\x9b31m"),
        ("bidi \u202e line \u2028 tag \U000e0041", "bidi \u202e line \u2028 tag \U000e0041"),
        ("日本語", "日本語"),
        ("lone \udc80 \ud83d", "lone \\udc80 \\ud83d"),
    ],
)
def test_any_text_makes_one_valid_line_that_no_terminal_obeys(
    tmp_path: Path, said: list[str], comm: str, parsed: str
) -> None:
    path = tmp_path / "events.jsonl"
    sink = JsonlSink(str(path), node="node-1", notify=said.append)

    sink.write([report(comm=comm, process=Process(1, command_line=(comm, "x")))])

    line = path.read_bytes().decode("utf-8")
    assert line.removesuffix("\n").isprintable()
    assert json.loads(line)["process"]["command"] == parsed
    assert json.loads(line)["process"]["command_args"] == [parsed, "x"]


def test_letters_of_every_script_are_written_as_themselves(tmp_path: Path, said: list[str]) -> None:
    path = tmp_path / "events.jsonl"
    JsonlSink(str(path), node="node-1", notify=said.append).write([report(comm="日本語")])

    assert "日本語" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_json_does_not_have_is_never_written(
    tmp_path: Path, said: list[str], value: float
) -> None:
    path = tmp_path / "events.jsonl"
    sink = JsonlSink(str(path), node="node-1", notify=said.append)

    sink.write([replace(report(), age_seconds=value, next_retry_seconds=value)])
    sink.lifecycle(replace(HEALTH, uptime_seconds=value))

    assert len(ids(path.read_text())) == 2
    assert "NaN" not in path.read_text()
    assert "Infinity" not in path.read_text()


def test_nothing_is_written_after_the_close(tmp_path: Path, said: list[str]) -> None:
    path = tmp_path / "events.jsonl"
    sink = JsonlSink(str(path), node="node-1", notify=said.append)
    sink.close()

    sink.write(batch(0, 2))

    assert path.read_text() == ""
    assert sink.dropped == 2
    assert said == []


def test_a_name_with_an_escape_sequence_is_harmless_in_messages(
    tmp_path: Path, said: list[str]
) -> None:
    with pytest.raises(UsageError) as caught:
        JsonlSink(str(tmp_path / "\x1b[2J" / "x"), node="node-1", notify=said.append)

    assert "\x1b" not in str(caught.value)


def test_serialising_a_full_batch_leaves_time_for_the_trace(said: list[str]) -> None:
    """5,000 events take some 80 ms; 250 ms of the processor is what they may take at worst."""
    sink = JsonlSink("/dev/null", node="node-1", notify=said.append)
    reports = batch(0, 5000)

    def seconds(measured: Callable[[], None]) -> float:
        started = time.thread_time()
        measured()
        return time.thread_time() - started

    assert min(seconds(lambda: sink.write(reports)) for _ in range(3)) < 0.25


def test_a_process_ends_cleanly_when_head_has_seen_enough() -> None:
    """As a user would: a pipe to a reader that takes one line and goes."""
    program = """
from tests.unit.test_jsonl_sink import batch
from tracer.sinks.jsonl import JsonlSink

sink = JsonlSink("-", node="node-1", notify=lambda sentence: None)
while not sink.finished:
    sink.write(batch(0, 10))
sink.close()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert ids(process.stdout.readline()) == names(0, 1)

    process.stdout.close()

    status = wait_until(lambda: [process.poll()] if process.poll() is not None else None, 20, "end")
    with process.stderr as errors:
        assert (status, errors.read()) == ([0], b"")
