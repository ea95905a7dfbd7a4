"""The application under observation, run in a namespace, and what it says of its connections."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from tests.support.netns import Namespace
from tests.support.wait import wait_until

EXECUTABLE = Path(sys.executable).resolve()
CONNECT = Path(__file__).with_name("connect.py")

LISTEN = """
import socket, sys
with socket.create_server(("::", int(sys.argv[1])), family=socket.AF_INET6, dualstack_ipv6=True):
    print(flush=True)
    sys.stdin.read()
"""

STEP_SECONDS = 15
"""For a step that takes milliseconds on an idle machine."""


@dataclass(frozen=True)
class ClientReport:
    """What the application itself knows: the truth that the tracer is measured against.

    `ports` are source ports in the order of opening (none where it connects in blocking mode),
    `results` those of connect.py. Times are epoch seconds: just after the first connect() was
    under way, and when the last result was known.
    """

    pid: int
    executable: Path
    ports: tuple[int, ...]
    results: tuple[str, ...]
    opened_at: float | None
    ended_at: float | None


class Client:
    """A process in `namespace` that connects to an address; see connect.py for its options."""

    def __init__(self, namespace: Namespace, address: str, port: int, *options: str) -> None:
        self._output = TemporaryFile()  # noqa: SIM115 - closed with the namespace
        namespace.cleanup.callback(self._output.close)
        self._process = namespace.popen(
            [*_python(), str(CONNECT), address, str(port), *options],
            stdin=subprocess.PIPE,
            stdout=self._output,
        )
        self.pid = self._process.pid
        wait_until(self._python_running, STEP_SECONDS, "the client's start")

    def wait_ready(self) -> None:
        """Waits until a client with --wait waits."""
        self._wait_for("ready", 1, STEP_SECONDS)

    def wait_opened(self, count: int = 1) -> None:
        """Waits until `count` connects are under way."""
        self._wait_for("opened", count, STEP_SECONDS)

    def wait_results(self, count: int = 1, seconds: float = STEP_SECONDS) -> None:
        """Waits until `count` connections are over, however they ended."""
        self._wait_for("result", count, seconds)

    def go(self) -> None:
        """Sends the line for which --wait or --hold waits."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(STEP_SECONDS)

    def finish(self) -> None:
        """Waits for its own end, which must not be an error's."""
        assert self._process.wait(STEP_SECONDS) == 0, "connect.py failed, see its stderr"

    def report(self) -> ClientReport:
        opened, results = self._steps("opened"), self._steps("result")
        return ClientReport(
            pid=self.pid,
            executable=EXECUTABLE,
            ports=tuple(step["port"] for step in opened),
            results=tuple(step["result"] for step in results),
            opened_at=opened[0]["time"] if opened else None,
            ended_at=results[-1]["time"] if results else None,
        )

    def _python_running(self) -> bool:
        """Whether nsenter has become Python, so that the process looks as it will."""
        try:
            return Path(f"/proc/{self.pid}/exe").resolve(strict=True) == EXECUTABLE
        except OSError:
            return True  # It is already done.

    def _wait_for(self, step: str, count: int, seconds: float) -> None:
        wait_until(
            lambda: len(self._steps(step)) >= count, seconds, f"{count} x {step!r} of the client"
        )

    def _steps(self, step: str) -> list[dict[str, Any]]:
        """The steps of one kind, from the output so far."""
        size = os.fstat(self._output.fileno()).st_size
        lines = os.pread(self._output.fileno(), size, 0).splitlines(keepends=True)
        steps = [json.loads(line) for line in lines if line.endswith(b"\n")]
        return [found for found in steps if found["step"] == step]


def listen(namespace: Namespace, port: int) -> None:
    """Lets the kernel of `namespace` accept connections to a port until the topology ends."""
    process = namespace.popen(
        [*_python(), "-c", LISTEN, str(port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"\n", f"cannot listen on port {port}"


def _python() -> list[str]:
    """Without site packages and environment: starts in 15 ms."""
    return [sys.executable, "-S", "-E"]
