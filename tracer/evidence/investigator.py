"""The thread that finds out, while attempts are stuck, where their handshakes die.

Nothing of it is attached, opened or asked while nothing is stuck, and until QUIET_SECONDS later
everything is closed again. What is looked up is looked up per namespace and destination; what is
judged is judged when something about it is new. All of it lives on a budget of CPU time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tracer.evidence.budget import Budget
from tracer.evidence.case import Case
from tracer.evidence.cluster import Cluster, Told
from tracer.evidence.docket import Docket
from tracer.evidence.ears import Ears
from tracer.evidence.gathering import Gathering
from tracer.evidence.judging import Judging
from tracer.evidence.known import Known
from tracer.evidence.places import Places
from tracer.evidence.watching import Watching
from tracer.model import (
    Nat,
    Reached,
    Report,
    Scope,
    Verdict,
)

_JUDGED_PER_ROUND: Final = 400
_FEW_CASES: Final = 64
"""Up to so many are judged again after each SYN, so that what is told of them counts on."""

_LONGEST_REST_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class Pace:
    """When something is done, in seconds.

    round     from one round to the next
    still     the same while no SYN is sent and nothing ends: only late answers can be new then
    quiet     after the last stuck attempt, for which the probes stay: applications try again
    failed    after a defect, before the thread goes on; twice as long each time
    """

    round: float = 0.4
    still: float = 2.0
    quiet: float = 10.0
    failed: float = 1.0


class Investigator:
    """Verdicts by attempt. `note` and `news` are for the session's thread.

    `lacking` says what of the evidence cannot be had here, and what that costs.
    """

    def __init__(
        self,
        *,
        host_netns: int | None,
        host_path: str | None,
        nat_of: Callable[[str], Nat | None] = lambda _attempt: None,
        cluster: Cluster | None = None,
        sees_packets: bool = True,
        places: Places | None = None,
        ears: Ears | None = None,
        watching: Watching | None = None,
        pace: Pace | None = None,
        clock: Callable[[], float] = time.monotonic,
        cpu: Callable[[], float] = time.thread_time,
    ) -> None:
        """`sees_packets` tells whether the source knows attempts' sequence numbers: without, no
        drop can be told to be an attempt's, and the probe is not loaded. `clock` is in seconds, of
        CLOCK_MONOTONIC, for what is known and how old it is; `cpu` is the time that the calling
        thread has used.
        """
        self._pace = pace or Pace()
        self._judging = Judging(host_netns=host_netns, nat_of=nat_of, cluster=cluster, clock=clock)
        self._lock = threading.Lock()
        """Over cases, what the cluster says and the comparison; never held while the kernel is
        asked.
        """
        self._gathering = Gathering(
            host_netns=host_netns,
            places=places or Places(host_netns, host_path),
            ears=ears or Ears(),
            watching=(watching or Watching()) if sees_packets else None,
            lock=self._lock,
            clock=clock,
            cpu=cpu,
        )
        self._docket = Docket(
            lock=self._lock, gathering=self._gathering, judging=self._judging, clock=clock
        )
        self._defects = 0
        self._defect: str | None = None
        self._busy_until = 0.0
        self._budget = Budget()
        self._wake = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._guarded, name="evidence", daemon=True)

    # --- the session's side --------------------------------------------------------------------

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread and takes its probes off."""
        self._stopping = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(5)

    @property
    def lacking(self) -> tuple[str, ...]:
        found = self._gathering.lacking
        return found if self._defect is None else (self._defect, *found)

    @property
    def lost(self) -> int:
        """What found no room, since the start: attempts and drops in the probe, ICMP errors,
        failures that were to be looked into, verdicts to be told; and how often the thread failed.
        """
        return self._gathering.lost + self._docket.no_room + self._defects

    def note(self, reports: Sequence[Report]) -> list[Report]:
        """Takes in what happened; the same reports, with the verdict as far as there is one."""
        told = self._docket.note(reports)
        if not self._docket.empty:
            self._wake.set()
        return told

    def reached(self, found: Iterable[tuple[Reached, Scope]], wall_offset_ns: int) -> None:
        """Takes in what namespaces with stuck attempts have connected to, with its scope."""
        with self._lock:
            self._judging.compared.reached(found, wall_offset_ns)

    def news(self) -> list[tuple[Report, Verdict]]:
        """Attempts whose verdict is new since the last time, with their latest report."""
        return self._docket.news()

    # --- the thread ----------------------------------------------------------------------------

    def _guarded(self) -> None:
        """A defect costs a round, and what was open; then it is tried again."""
        _name_thread("evidence")
        wait = self._pace.failed
        while not self._stopping:
            try:
                self._run()
            except Exception as error:  # noqa: BLE001  told to whoever reads `lacking`
                wait = self._pace.failed if self._defect is None else 2 * wait
                wait = min(_LONGEST_REST_SECONDS, wait)
                self._defects += 1
                self._defect = (
                    f"evidence: its thread failed, and tries again in {wait:.0f} s:"
                    f" {type(error).__name__}: {error}"
                )
                with suppress(Exception):
                    self._gathering.close()
                self._rest(wait)
        self._gathering.close()

    def _run(self) -> None:
        while not self._stopping:
            if self._docket.empty:
                self._gathering.let_go()
                idle_for = self._busy_until + self._pace.quiet - time.monotonic()
                if self._gathering.attached and idle_for <= 0:
                    self._gathering.close()
                self._wake.wait(max(0.05, idle_for) if self._gathering.attached else None)
                self._wake.clear()
                continue
            noted = self._docket.noted, self._judging.version
            loaded = self._gathering.loaded
            began = time.thread_time()
            self.round()
            took = time.thread_time() - began
            self._busy_until = time.monotonic()
            if loaded is not self._gathering.loaded:
                took = 0.0  # what the compiler takes, it takes once
            self._rest(max(self._pace.round, self._budget.wait_after(took)))
            self._keep_still(noted)

    def _keep_still(self, noted: tuple[int, object]) -> None:
        """Waits while nothing is noted and the cluster has no news. Nobody wakes this thread for
        the latter: changes come by the hundred, and mostly while nothing is stuck.
        """
        if self._gathering.known.waiting or self._docket.waits:
            return
        deadline = time.monotonic() + self._pace.still - self._pace.round
        while not self._stopping and (self._docket.noted, self._judging.version) == noted:
            left = deadline - time.monotonic()
            if left <= 0:
                return
            self._wake.wait(min(left, self._pace.round))

    def _rest(self, seconds: float) -> None:
        """Not cut short by news: attempts come by the thousand."""
        deadline = time.monotonic() + seconds
        while not self._stopping and (left := deadline - time.monotonic()) > 0:
            self._wake.wait(left)
            self._wake.clear()

    def round(self) -> None:
        """One round of gathering and judging, as the thread does them by itself."""
        cases, failed = self._docket.taking()
        self._place(cases)
        self._gathering.quiet(self._pace.quiet)
        looked = self._gathering.gather(cases, failed)
        self._judge_cases(cases)
        self._judge_failed([case for case in failed if case.place in looked])
        self._docket.again(case for case in failed if case.place not in looked)
        self._defect = None

    def _place(self, cases: Iterable[Case]) -> None:
        """Tells apart attempts that NAT sends to different backends."""
        for case in cases:
            key = self._judging.place_of(case.report)
            if key is not None and key != case.place:
                with self._lock:
                    case.place = key

    def _judge_cases(self, cases: Sequence[Case]) -> None:
        """Judges those about which something is new; the newest attempts first."""
        judged = 0
        few = len(cases) <= _FEW_CASES
        cluster: dict[object, Told] = {}
        turns: dict[object, int] = {}
        for case in reversed(cases):
            if judged >= _JUDGED_PER_ROUND:
                return
            known = self._gathering.known.of(case.place)
            place = None if known is None else _turn(known, case.counts_from_ns, turns)
            told = self._told(case, cluster)
            nat = self._judging.nat_of(case.report)
            # Kept by the thousand: of all that, a number.
            gist = hash((case.seen.gist, case.pace, place, nat, told, case.report.pod))
            syns = case.report.change.attempt.syns_sent
            if gist == case.gist and not (few and syns != case.told_syns):
                continue
            judged += 1
            with self._lock:
                if case.report.change.attempt.outcome is not None:
                    continue  # it has ended meanwhile, and was told as it ended
                facts = known and known.facts.since(case.counts_from_ns, self._gathering.stopped)
                verdict = self._judging.verdict(facts, case, told)
                if gist != case.gist:
                    case.gist = gist
                    self._docket.say(case, verdict)
                else:
                    self._docket.count_on(case, verdict)
                case.told_syns = syns

    def _told(self, case: Case, known: dict[object, Told]) -> Told:
        """What the cluster says of an attempt; `known` is what it has said in this round."""
        report = case.report
        pod = None if report.pod is None else report.pod.uid
        alike = (case.place, report.change.attempt.flow.source.address, pod)
        found = known.get(alike)
        if found is None:
            with self._lock:
                found = known[alike] = self._judging.told(report)
        return found

    def _judge_failed(self, failed: Iterable[Case]) -> None:
        """Judges what has ended, now that its place was looked at."""
        for case in failed:
            known = self._gathering.known.of(case.place)
            with self._lock:
                facts = known and known.facts.since(case.counts_from_ns, self._gathering.stopped)
                verdict = self._judging.verdict(facts, case)
                self._docket.say_after(case, verdict)


def _turn(known: Known, since_ns: int, turns: dict[object, int]) -> int:
    """What a verdict turns on of a place, for attempts that are watched since then; `turns` are
    those of this round.
    """
    alike = id(known), since_ns
    found = turns.get(alike)
    if found is None:
        found = turns[alike] = hash((known.gist, known.facts.grown(since_ns)))
    return found


def _name_thread(name: str) -> None:
    """For `top -H` and whoever else looks at the process's tasks; Python does so since 3.14."""
    with suppress(OSError):
        Path(f"/proc/self/task/{threading.get_native_id()}/comm").write_text(name)
