"""A trace that is made up, below the real screen on the real terminal: what the screen costs.

    python -m tests.support.busy_screen ATTEMPTS PAIRS CHANGES_PER_SECOND STATISTICS_FILE

Writes CPU and pictures, beside those of making the events without a screen, about once a second.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

from tests.support.picture import EXTERNAL, HEALTH, pod, verdict
from tracer.board import Board
from tracer.model import (
    NANOSECONDS,
    Attempt,
    Change,
    ChangeKind,
    Endpoint,
    Flow,
    Owner,
    Report,
    SourceName,
)
from tracer.screen import app as app_module
from tracer.screen.run import run
from tracer.sinks.recorder import Recorder

STEP_SECONDS = 0.05
STATISTICS_SECONDS = 1.0
SETTLED = 5
"""Pictures after which what it takes to begin is over."""


class MadeUp:
    """A session that changes attempts in turn, so many a second."""

    def __init__(self, board: Board, attempts: int, pairs: int, changes: int) -> None:
        self._board, self._changes, self._stopping = board, changes, False
        self._at = 0
        self.written = 0
        self.cpu = 0.0
        now = time.monotonic_ns()
        self._reports = [_report(number, number % pairs, now) for number in range(attempts)]
        board.write(self._reports)
        self._health = replace(HEALTH, stuck_now=attempts)
        board.pulse(self._health, 0.0)

    def stop(self) -> None:
        self._stopping = True

    def run(self) -> None:
        began = pulsed = time.monotonic()
        while not self._stopping:
            time.sleep(STEP_SECONDS)
            before = time.thread_time()
            due = int((time.monotonic() - began) * self._changes) - self.written
            if due > 0:
                self._board.write([self._next() for _ in range(due)])
                self.written += due
            if time.monotonic() - pulsed >= 1:
                pulsed = time.monotonic()
                self._board.pulse(self._health, pulsed - began)
            self.cpu += time.thread_time() - before

    def _next(self) -> Report:
        index = self._at % len(self._reports)
        self._at += 7
        before = self._reports[index]
        now = time.monotonic_ns()
        attempt = before.change.attempt
        syns = (attempt.syns_sent or 1) + 1
        changed = replace(
            attempt, syns_sent=syns, last_syn_ns=now, next_retry_ns=now + 4 * NANOSECONDS
        )
        report = replace(
            before, change=Change(ChangeKind.RETRANSMIT, changed, now), wall_ns=time.time_ns()
        )
        self._reports[index] = report
        return report


def _report(number: int, pair: int, now: int) -> Report:
    attempt = Attempt(
        id=f"a-{number}",
        flow=Flow(
            4026532201,
            4,
            Endpoint("10.4.7.21", 1_024 + number % 60_000),
            Endpoint(f"10.9.{pair // 250}.{pair % 250}", 443),
        ),
        owner=Owner(pid=number + 2, uid=0, comm="php-fpm"),
        detected_by=SourceName.BPF,
        first_seen_ns=now,
        started_ns=now - NANOSECONDS,
        stuck_ns=now,
        syns_sent=2,
        last_syn_ns=now,
        next_retry_ns=now + 2 * NANOSECONDS,
    )
    return Report(
        change=Change(ChangeKind.STUCK, attempt, now),
        destination=EXTERNAL,
        process=None,
        wall_ns=time.time_ns(),
        age_seconds=1.0,
        next_retry_seconds=2.0,
        pod=pod(name=f"web-{pair}"),
        verdict=verdict(),
    )


def main() -> None:
    attempts, pairs, changes = map(int, sys.argv[1:4])
    statistics = Path(sys.argv[4])
    board = Board()
    pictures: list[float] = []
    written = [0.0]
    drawn = app_module.TraceApp._redraw

    def counted(self: app_module.TraceApp) -> None:
        pictures.append(time.monotonic())
        drawn(self)
        if len(pictures) >= SETTLED and pictures[-1] - written[0] >= STATISTICS_SECONDS:
            written[0] = pictures[-1]
            write()

    app_module.TraceApp._redraw = counted  # type: ignore[method-assign]
    session = MadeUp(board, attempts, pairs, changes) if attempts else Idle(board)

    def write() -> None:
        told = {
            "at": time.monotonic(),
            "cpu": time.process_time(),
            "session_cpu": session.cpu,
            "written": session.written,
            "pictures": len(pictures),
        }
        part = statistics.with_suffix(".part")
        part.write_text(json.dumps(told))
        part.replace(statistics)

    run(
        session,
        board,
        Recorder(node="n", before=lambda: (), notify=board.notice),
        node="node-1",
        watched="what is made up",
        recording=None,
        notice=board.notice,
        environment=os.environ,
    )


class Idle:
    """A session in which nothing happens."""

    cpu = 0.0
    written = 0

    def __init__(self, board: Board) -> None:
        self._board, self._stopping = board, False
        board.pulse(HEALTH, 0.0)

    def stop(self) -> None:
        self._stopping = True

    def run(self) -> None:
        began = time.monotonic()
        while not self._stopping:
            time.sleep(1)
            self._board.pulse(HEALTH, time.monotonic() - began)


if __name__ == "__main__":
    main()
