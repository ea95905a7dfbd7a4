"""The thread that finds out, while attempts are stuck, where their handshakes die.

Nothing of it is attached, opened or asked while nothing is stuck, and until QUIET_SECONDS later
everything is closed again. What is looked up is looked up per namespace and destination; what is
judged is judged when something about it is new. All of it lives on a budget of CPU time.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final, Protocol

from tracer.diagnose.comparison import Comparison, seen, sender
from tracer.diagnose.rules import judge
from tracer.errors import SynsentError
from tracer.evidence.budget import Budget
from tracer.evidence.case import Case, Seen, facts_of
from tracer.evidence.ears import Ears
from tracer.evidence.heap import share_heap
from tracer.evidence.place import PlaceFacts, PlaceKey, Places
from tracer.facts import Backend, Peers, PolicyFinding
from tracer.model import (
    NANOSECONDS,
    Cause,
    ChangeKind,
    Endpoint,
    Evidence,
    Kind,
    Nat,
    Outcome,
    Report,
    Scope,
    Verdict,
)
from tracer.sources.drops import DropProbe

QUIET_SECONDS: Final = 10.0
"""How long after the last stuck attempt the probes stay: an application tries again."""

ROUND_SECONDS: Final = 0.4

STILL_SECONDS: Final = 2.0
"""The same while no SYN is sent and nothing ends: only late answers can be new then."""

PLACE_SECONDS: Final = 3.0
"""How old what is known of a place may be while something there is stuck."""

_PLACES_PER_ROUND: Final = 40
_JUDGED_PER_ROUND: Final = 400
_MAX_FAILED: Final = 256
_MAX_PLACES: Final = 4_096
_MAX_SHARED: Final = 4_096
_SHARED_SECONDS: Final = 1.0

HANDED_SECONDS: Final = 8.0
"""How long the hand-over of SYNs is watched for a newly stuck attempt: every packet of the node is
looked at meanwhile. With the first retransmissions a second or two apart it sees three or four."""

_POST_MORTEM: Final = frozenset({Outcome.REFUSED, Outcome.UNREACHABLE, Outcome.LOCAL_ERROR})
"""Ends that come at once: what they are about can only be looked at afterwards."""


class Cluster(Protocol):
    """What the API server tells that bears on a verdict."""

    def policies(self, report: Report, nat: Nat | None) -> tuple[PolicyFinding, ...]: ...
    def backend(self, report: Report, nat: Nat | None) -> Backend | None: ...


class Investigator:
    """Verdicts by attempt. `note`, `final` and `news` are for the session's thread.

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
    ) -> None:
        """`sees_packets` tells whether the source knows attempts' sequence numbers: without, no
        drop can be told to be an attempt's, and the probe is not loaded.
        """
        self._host_netns = host_netns
        self._nat_of = nat_of
        self._cluster = cluster
        self._sees_packets = sees_packets
        self._places = Places(host_netns, host_path)
        self._ears = Ears()
        self._probe: DropProbe | None = None
        self._probe_failure: str | None = None
        self._probe_lacks: tuple[str, ...] = ()
        self._lost_before = 0
        self._comparison = Comparison()
        self._lock = threading.Lock()
        """Over cases, failed and the comparison; never held while the kernel is asked."""
        self._cases: OrderedDict[str, Case] = OrderedDict()
        self._failed: deque[Case] = deque(maxlen=_MAX_FAILED)
        self._asked_of: OrderedDict[PlaceKey, float] = OrderedDict()
        self._known: OrderedDict[PlaceKey, tuple[float, PlaceFacts]] = OrderedDict()
        self._shared: OrderedDict[object, tuple[float, Verdict]] = OrderedDict()
        self._news: deque[tuple[Report, Verdict]] = deque(maxlen=65_536)
        self._watched_ids: frozenset[tuple[str, int, int | None]] = frozenset()
        self._handed_since_ns: int | None = None
        self._noted = 0
        """How often something was noted that bears on what is stuck."""
        self._busy_until = 0.0
        self._translated: frozenset[tuple[int, Endpoint]] = frozenset()
        """Namespaces and destinations of which some are known to be led elsewhere by NAT."""
        self._budget = Budget()
        self._wake = threading.Event()
        self._stopping = False
        share_heap()
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
        found = [self._probe_failure, self._ears.lacking, *self._probe_lacks]
        if self._places.refused:
            found.append(f"routes, neighbours and counters of pods: {self._places.refused}")
        return tuple(text for text in found if text)

    @property
    def lost(self) -> int:
        """Attempts and drops that the probe had no room for, since the start."""
        probe, before = self._probe, self._lost_before
        return before if probe is None else before + probe.lost

    def note(self, reports: Sequence[Report]) -> list[Report]:
        """Takes in what happened; the same reports, with the verdict as far as there is one."""
        told: list[Report] = []
        with self._lock:
            for report in reports:
                event = seen(report)
                if event is not None:
                    self._comparison.note(event)
                told.append(self._with_verdict(report))
        if self._cases or self._failed:
            self._noted += 1
            self._wake.set()
        return told

    def _with_verdict(self, report: Report) -> Report:
        change = report.change
        attempt = change.attempt
        if change.kind is ChangeKind.END:
            case = self._cases.pop(attempt.id, None)
            report = replace(report, verdict=self._final(report, case))
            if attempt.outcome in _POST_MORTEM:
                self._ask_again(report, case)
            return report
        case = self._cases.get(attempt.id)
        if case is not None:
            case.take(report)
            return replace(report, verdict=case.verdict)
        key = self._key(report)
        if attempt.stuck and key is not None:
            self._cases[attempt.id] = Case(report, key, time.monotonic_ns(), attempt.syns_sent)
        return report

    def news(self) -> list[tuple[Report, Verdict]]:
        """Attempts whose verdict is new since the last time, with their latest report."""
        found = []
        while self._news:
            found.append(self._news.popleft())
        return found

    def _final(self, report: Report, case: Case | None) -> Verdict | None:
        """What is known at the end, without a look at anything but ICMP errors that came. Ends of
        one place that are alike within a second share it: a client that is refused 15,000 times a
        second learns nothing new.
        """
        attempt = report.change.attempt
        key = self._key(report)
        if key is None:
            return None
        _, place = self._known.get(key, (0.0, PlaceFacts()))
        if case is not None:
            case.take(report)
            case.seen = replace(case.seen, icmp=self._ears.errors_about(attempt, now=True))
            return self._judge(place, case)
        alike = (key, attempt.outcome, attempt.errno, attempt.soft_errno, report.destination)
        now = time.monotonic()
        shared = self._shared.get(alike)
        if shared is not None and now - shared[0] < _SHARED_SECONDS:
            return shared[1]
        ended = Case(report, key, 0, None)
        ended.seen = Seen(icmp=self._ears.errors_about(attempt, now=True))
        verdict = self._judge(place, ended)
        self._shared.pop(alike, None)
        self._shared[alike] = (now, verdict)
        if len(self._shared) > _MAX_SHARED:
            self._shared.popitem(last=False)
        return verdict

    def _ask_again(self, report: Report, case: Case | None) -> None:
        """Has a failure looked into, once per place in a while. What the probe saw of its `case`
        since its last look comes to light too.
        """
        key = self._key(report)
        if key is None:
            return
        now = time.monotonic()
        if now - self._asked_of.get(key, -PLACE_SECONDS) < PLACE_SECONDS:
            return
        self._asked_of.pop(key, None)
        self._asked_of[key] = now
        if len(self._asked_of) > _MAX_PLACES:
            self._asked_of.popitem(last=False)
        self._failed.append(case or Case(report, key, 0, None))

    def _judge(self, place: PlaceFacts, case: Case) -> Verdict:
        report = case.report
        nat = self._nat_of(report.change.attempt.id) or report.destination.nat
        policies: tuple[PolicyFinding, ...] = ()
        backend = None
        if self._cluster is not None:
            policies = self._cluster.policies(report, nat)
            backend = self._cluster.backend(report, nat)
        verdict = judge(
            facts_of(
                report,
                host_netns=self._host_netns,
                place=place,
                seen=case.seen,
                nat=nat,
                peers=self._peers(report),
                policies=policies,
                backend=backend,
                watched_ns=case.watched_ns,
                syns_before=case.syns_before,
                syns_handed=case.syns_handed,
            )
        )
        compared = self._comparison.sentence(*_about(report))
        if compared is None:
            return verdict
        return replace(verdict, evidence=(*verdict.evidence, Evidence("comparison", compared)))

    def _peers(self, report: Report) -> Peers | None:
        return self._comparison.peers(*_about(report))

    # --- the thread ----------------------------------------------------------------------------

    def _guarded(self) -> None:
        _name_thread("evidence")
        try:
            self._run()
        except Exception as error:  # noqa: BLE001  told to whoever reads `lacking`
            self._probe_failure = (
                f"evidence: its thread has failed: {type(error).__name__}: {error}"
            )
        finally:
            self._close()

    def _run(self) -> None:
        while not self._stopping:
            if not self._cases and not self._failed:
                if self._watched_ids or self._handed_since_ns is not None:
                    self._watch((), ())
                idle_for = self._busy_until + QUIET_SECONDS - time.monotonic()
                if self._attached and idle_for <= 0:
                    self._close()
                self._wake.wait(max(0.05, idle_for) if self._attached else None)
                self._wake.clear()
                continue
            noted = self._noted
            loaded = self._probe is not None
            began = time.thread_time()
            self._round()
            took = time.thread_time() - began
            self._busy_until = time.monotonic()
            if loaded is not (self._probe is not None):
                took = 0.0  # what the compiler takes, it takes once
            self._rest(max(ROUND_SECONDS, self._budget.wait_after(took)))
            if self._noted == noted and not self._stopping:
                self._wake.wait(STILL_SECONDS - ROUND_SECONDS)

    def _rest(self, seconds: float) -> None:
        """Not cut short by news: attempts come by the thousand."""
        deadline = time.monotonic() + seconds
        while not self._stopping and (left := deadline - time.monotonic()) > 0:
            self._wake.wait(left)
            self._wake.clear()

    @property
    def _attached(self) -> bool:
        return self._probe is not None or self._ears.open_now

    def _close(self) -> None:
        probe, self._probe = self._probe, None
        if probe is not None:
            self._lost_before += probe.lost
            probe.close()
        self._ears.close()
        self._watched_ids = frozenset()
        self._handed_since_ns = None
        with self._lock:
            self._known.clear()
        self._places.forget(frozenset())

    def _round(self) -> None:
        with self._lock:
            cases = list(self._cases.values())
            failed = list(self._failed)
            self._failed.clear()
        every = [*cases, *failed]
        self._listen(every)
        self._watch(cases, [case for case in failed if case.watched_ns is not None])
        self._place(every)
        self._look(cases, failed)
        self._read(every)
        self._judge_cases(cases)
        self._judge_failed(failed)

    def _listen(self, cases: Iterable[Case]) -> None:
        """Opens ears and notes counters where something is stuck or has failed."""
        for netns in {case.place.netns for case in cases}:
            path = self._places.path_of(netns)
            if path is not None:
                self._ears.listen(netns, path)
                self._places.watch(netns)
        if self._host_netns is not None:
            self._places.watch(self._host_netns)
        self._ears.quiet(QUIET_SECONDS)
        self._ears.hear()

    def _watch(self, cases: Sequence[Case], ended: Sequence[Case]) -> None:
        """Has the probe look for the packets of exactly these attempts; for those that have ended
        while it looked, until it has been read once more.
        """
        if not self._sees_packets or self._probe_failure is not None:
            return
        if self._probe is None:
            if not cases:
                return
            try:
                self._probe = DropProbe()
                self._probe_lacks = self._probe.lacking
            except SynsentError as error:
                self._probe_failure = f"drops on this node: {error}"
                return
        attempts = [case.report.change.attempt for case in (*cases, *ended)]
        wanted = frozenset(
            (one.id, one.isn, one.flow.source.port) for one in attempts if one.isn is not None
        )
        if wanted != self._watched_ids:
            self._probe.watch(attempts)
            self._watched_ids = wanted
            for case in cases:
                self._began(case)
        self._watch_handed(cases)

    def _began(self, case: Case) -> None:
        if case.watched_ns is None and self._probe is not None:
            since = self._probe.watched_ns(case.report.change.attempt.id)
            with self._lock:
                case.watch(since)

    def _watch_handed(self, cases: Iterable[Case]) -> None:
        """For newly stuck attempts: it costs something for every packet that the node sends."""
        now = time.monotonic_ns()
        recent = any(now - case.began_ns < HANDED_SECONDS * NANOSECONDS for case in cases)
        if self._probe is None or recent == (self._handed_since_ns is not None):
            return
        try:
            self._probe.watch_handed(recent)
        except SynsentError:
            return
        self._handed_since_ns = now if recent else None

    def _place(self, cases: Iterable[Case]) -> None:
        """Tells apart attempts that NAT sends to different backends."""
        translated = set()
        for case in cases:
            key = self._key(case.report)
            if key is not None and key != case.place:
                with self._lock:
                    case.place = key
            if case.place.backend is not None:
                translated.add(case.place[:2])
        self._translated = frozenset(translated)

    def _key(self, report: Report) -> PlaceKey | None:
        flow = report.change.attempt.flow
        if flow.netns is None:
            return None
        nat = self._nat_of(report.change.attempt.id) or report.destination.nat
        backend = None if nat is None or nat.destination == flow.destination else nat.destination
        return PlaceKey(flow.netns, flow.destination, backend)

    def _look(self, cases: Iterable[Case], failed: Iterable[Case]) -> None:
        """Looks up the places that are stale, those of failures first, so many a round."""
        wanted: OrderedDict[PlaceKey, Report] = OrderedDict()
        ports = set()
        for case in failed:
            wanted[case.place] = case.report
            if case.report.change.attempt.outcome is Outcome.LOCAL_ERROR:
                ports.add(case.place)
        now = time.monotonic()
        for case in cases:
            at, _ = self._known.get(case.place, (-PLACE_SECONDS, None))
            if now - at >= PLACE_SECONDS:
                wanted.setdefault(case.place, case.report)
        for key, report in list(wanted.items())[:_PLACES_PER_ROUND]:
            known = report.destination
            found = self._places.look(
                report.change.attempt.flow,
                known.scope,
                key.backend,
                ports=key in ports,
                translated=known.kind is Kind.SERVICE or key[:2] in self._translated,
            )
            with self._lock:
                self._known.pop(key, None)
                self._known[key] = (time.monotonic(), found)
                while len(self._known) > _MAX_PLACES:
                    self._known.popitem(last=False)

    def _read(self, cases: Iterable[Case]) -> None:
        """Gives each attempt what the probes saw of it."""
        counted = {} if self._probe is None else self._probe.read()
        for case in cases:
            attempt = case.report.change.attempt
            drops, handed = counted.get(attempt.id, (None, ()))
            case.seen = Seen(
                drops=drops,
                handed=case.handed(handed, since_ns=self._handed_since_ns, host=self._host_netns),
                icmp=self._ears.errors_about(attempt),
            )

    def _judge_cases(self, cases: Sequence[Case]) -> None:
        """Judges those about which something is new; the newest attempts first."""
        judged = 0
        gists: dict[PlaceKey, object] = {}
        for case in reversed(cases):
            if judged >= _JUDGED_PER_ROUND:
                return
            _, place = self._known.get(case.place, (0.0, None))
            if place is None:
                continue
            nat = self._nat_of(case.report.change.attempt.id)
            known = case.report.destination
            shared = gists.get(case.place)
            if shared is None:
                shared = gists[case.place] = place.gist
            gist = (case.seen.gist, case.pace, shared, nat, known.endpoints, case.report.pod)
            if gist == case.gist:
                continue
            judged += 1
            with self._lock:
                case.gist = gist
                self._say(case.report, self._judge(place, case), case)

    def _judge_failed(self, failed: Iterable[Case]) -> None:
        """Judges what has ended, now that its place was looked at."""
        for case in failed:
            _, place = self._known.get(case.place, (0.0, PlaceFacts()))
            with self._lock:
                verdict = self._judge(place, case)
                if _differ(case.report.verdict, verdict):
                    self._news.append((case.report, verdict))

    def _say(self, report: Report, verdict: Verdict, case: Case) -> None:
        if verdict.cause is Cause.UNKNOWN and self._probe is not None and not case.syns_seen:
            return  # no SYN was sent since somebody looks: that nothing was seen is no news
        news = _differ(case.verdict, verdict)
        case.verdict = verdict
        if news and report.change.attempt.id in self._cases:
            self._news.append((report, verdict))


def _name_thread(name: str) -> None:
    """For `top -H` and whoever else looks at the process's tasks; Python does so since 3.14."""
    with suppress(OSError):
        Path(f"/proc/self/task/{threading.get_native_id()}/comm").write_text(name)


def _differ(before: Verdict | None, after: Verdict) -> bool:
    """Whether a verdict is news: another sentence or more evidence alone is none."""
    return before is None or (before.cause, before.confidence) != (after.cause, after.confidence)


def _about(report: Report) -> tuple[str, Endpoint, Scope]:
    """What the comparison knows it by."""
    return sender(report), report.change.attempt.flow.destination, report.destination.scope
