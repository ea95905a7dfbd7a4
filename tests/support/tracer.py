"""The program under test, started as a user would, and read through the JSONL it writes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import jsonschema

from tests.support.wait import wait_until

PROGRAM = Path(sys.executable).with_name("synsent-trace")
READY_SECONDS = 20
STOP_SECONDS = 15
SHOWN_CHARACTERS = 4_000
CHECKED = 200

Event = Mapping[str, Any]


def get(event: Event, path: str) -> Any:  # noqa: ANN401 - a JSON value
    """The value at a dotted path ("process.executable.name"), None where there is none."""
    value: Any = event
    for key in path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def environment(*options: str) -> dict[str, str]:
    """That of the tests, without options of the program in it; lines are not wrapped.

    Unless the options say how to reach an API server, none is asked: the user who runs the tests
    may have one.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("SYNSENT_") and name not in {"KUBECONFIG", "NODE_NAME"}
    }
    if not any(option in {"--kubeconfig", "--cache-dir"} for option in options):
        kept["SYNSENT_NO_KUBE"] = "1"
    return kept | {"COLUMNS": "250"}


class JsonLines:
    """A growing file of JSON lines; a line that is still being written is left for later."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._events: list[Event] = []

    def read(self) -> Sequence[Event]:
        if self._path.exists():
            with self._path.open("rb") as file:
                file.seek(self._offset)
                complete, newline, _ = file.read().rpartition(b"\n")
            self._offset += len(complete) + len(newline)
            self._events.extend(json.loads(line) for line in complete.splitlines())
        return self._events


class Tracer:
    """A running `synsent-trace`, from its ready-file until stop() or the block's end.

    Its files are in `folder`: events.jsonl, stdout, stderr.
    """

    def __init__(
        self,
        folder: Path,
        *options: str,
        what: Sequence[str] = ("--node",),
        jsonl: str | None = None,
        netns: Collection[int] = (),
        prefix: Sequence[str] = (),
    ) -> None:
        """`what` is to be traced; `jsonl` replaces the file of that option; `prefix` is a program
        that becomes it.

        `netns` names the namespaces of which stop() checks every line; empty: of all. On a busy
        machine the lines of others are theirs to check.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._netns = frozenset(netns)
        self._ready = folder / "ready"
        self._lines = JsonLines(folder / "stdout" if jsonl == "-" else folder / "events.jsonl")
        self._argv = [
            *prefix,
            str(PROGRAM),
            *what,
            *("--jsonl", jsonl or str(folder / "events.jsonl")),
            *("--ready-file", str(self._ready)),
            *options,
        ]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        with self._create("stdout") as stdout, self._create("stderr") as stderr:
            self._process = subprocess.Popen(
                self._argv,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                env=environment(*self._argv),
            )
        try:
            self.wait(self._ready.exists, READY_SECONDS, "the tracer's ready-file")
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None and self._running:
            self.stop()
        self.kill()

    @property
    def pid(self) -> int:
        return self._started.pid

    @property
    def stdout(self) -> str:
        return (self._folder / "stdout").read_text(errors="replace")

    @property
    def stderr(self) -> str:
        return (self._folder / "stderr").read_text(errors="replace")

    def events(
        self, *, netns: int | Collection[int] | None = None, event: str | None = None
    ) -> list[Event]:
        """The events written so far, in their order, of these namespaces and of this kind."""
        wanted = {netns} if isinstance(netns, int) else netns
        return [
            found
            for found in self._lines.read()
            if (wanted is None or found.get("netns") in wanted)
            and (event is None or found["event"] == event)
        ]

    def wait(self, predicate: Callable[[], object], deadline_seconds: float, what: str) -> None:
        """wait_until() that ends early where the program does, and shows what it said."""
        try:
            wait_until(lambda: predicate() or not self._running, deadline_seconds, what)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self._said()}") from None
        if not predicate():
            raise AssertionError(
                f"ended with {self._started.returncode} before {what}\n{self._said()}"
            )

    def wait_for(
        self, predicate: Callable[[Event], object], deadline_seconds: float, what: str
    ) -> Event:
        """Waits for the first event for which `predicate` is true."""

        def matching() -> list[Event]:
            return [event for event in self._lines.read() if predicate(event)]

        self.wait(matching, deadline_seconds, what)
        return matching()[0]

    def wait_count(self, event: str, netns: int, count: int, deadline_seconds: float) -> None:
        """Waits until `count` events of a kind were written for a namespace."""
        found: int = 0
        read = 0

        def enough() -> bool:  # of ten thousand lines each is looked at once
            nonlocal found, read
            lines = self._lines.read()
            found += sum(
                line["event"] == event and line.get("netns") == netns
                for line in islice(lines, read, None)
            )
            read = len(lines)
            return found >= count

        self.wait(enough, deadline_seconds, f"{count} x {event} in namespace {netns}")

    def stop(self, signal_number: int = signal.SIGTERM) -> list[Event]:
        """Ends it as a user would, which must succeed; returns all events, checked."""
        self._started.send_signal(signal_number)
        assert self.wait_ended() == 0, self._said()
        assert "Traceback" not in self.stderr, self._said()
        self.check_events()
        return self.events()

    def wait_ended(self) -> int:
        """Waits for its end; returns the exit code."""
        try:
            return self._started.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still there after {STOP_SECONDS} s\n{self._said()}") from None

    def check_events(self) -> None:
        """Holds the events against the JSON Schema that the program ships.

        Of thousands of a kind CHECKED, from the first to the last: each takes a millisecond.
        """
        kinds: dict[str, list[Event]] = {}
        for event in self.events():
            if not self._netns or event.get("netns", -1) in {*self._netns, -1}:
                kinds.setdefault(event["event"], []).append(event)
        for events in kinds.values():
            step = -(-len(events) // CHECKED)
            for event in (*events[::step], events[-1]):
                check_event(event)

    def kill(self) -> None:
        """SIGKILL: it cannot clean up after itself."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(STOP_SECONDS)

    @property
    def _started(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "not started"
        return self._process

    @property
    def _running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _create(self, name: str) -> IO[bytes]:
        return (self._folder / name).open("wb")

    def _said(self) -> str:
        lines = "\n".join(json.dumps(event) for event in self.events()[-10:])
        return (
            f"command: {' '.join(self._argv)}\n"
            f"stderr: {self.stderr[-SHOWN_CHARACTERS:]}\n"
            f"stdout: {self.stdout[-SHOWN_CHARACTERS:]}\n"
            f"last events: {lines[-SHOWN_CHARACTERS:]}"
        )


def run_program(
    *options: str, prefix: Sequence[str] = (), cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs the program to its end, which must come soon; `prefix` is a program that runs it."""
    return subprocess.run(
        [*prefix, str(PROGRAM), *options],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=READY_SECONDS,
        check=False,
        env=environment(*options),
        cwd=cwd,
    )


def check_event(event: Event) -> None:
    """Raises AssertionError where an event is not what the program's JSON Schema allows."""
    problems = [
        f"{'.'.join(map(str, error.absolute_path)) or 'event'}: {error.message}"
        for error in _validator().iter_errors(event)
    ]
    assert not problems, f"{problems} in {json.dumps(event)}"


@cache
def _validator() -> jsonschema.Draft202012Validator:
    # The package's own schema is the contract: imported where it is used, so that everything else
    # here runs without the package.
    from tracer.schema import json_schema

    return jsonschema.Draft202012Validator(json_schema())
