"""Makes verdicts of what is known of an attempt, its place, the cluster and other attempts."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from tracer.diagnose.outbound import SENT_BY_ROUTING
from tracer.diagnose.rules import judge
from tracer.diagnose.sight import weaker
from tracer.diagnose.wording import of_attempt
from tracer.evidence.case import Case, Seen, facts_of
from tracer.evidence.cluster import Cluster, Told, told_of
from tracer.evidence.common import Common
from tracer.evidence.compared import Compared
from tracer.evidence.place import PlaceFacts, PlaceKey
from tracer.model import Confidence, Evidence, Nat, Outcome, Report, Verdict

MAX_SHARED: Final = 4_096
SHARED_SECONDS: Final = 1.0

_NOWHERE: Final = PlaceFacts()
_NOT_YET: Final = Evidence(
    "place", "routes, next hops and tables on its way have not been looked up yet"
)


class Judging:
    """Verdicts. For whoever holds the lock over what is known."""

    def __init__(
        self,
        *,
        host_netns: int | None,
        nat_of: Callable[[str], Nat | None],
        cluster: Cluster | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._host_netns = host_netns
        self._nat_of = nat_of
        self._cluster = cluster
        self._clock = clock
        self.compared = Compared()
        self._common = Common()
        self._shared: OrderedDict[object, tuple[float, Verdict]] = OrderedDict()

    @property
    def version(self) -> object:
        """Another one when anything that the cluster says may have changed."""
        return None if self._cluster is None else self._cluster.version

    def place_of(self, report: Report) -> PlaceKey | None:
        """Where an attempt is stuck, as far as NAT is known; None where its namespace is not."""
        flow = report.change.attempt.flow
        if flow.netns is None:
            return None
        nat = self.nat_of(report)
        backend = None if nat is None or nat.destination == flow.destination else nat.destination
        return PlaceKey(flow.netns, flow.destination, backend)

    def nat_of(self, report: Report) -> Nat | None:
        return self._nat_of(report.change.attempt.id) or report.destination.nat

    def told(self, report: Report) -> Told:
        """What the cluster says of an attempt now."""
        return told_of(self._cluster, report, self.nat_of(report))

    def verdict(self, place: PlaceFacts | None, case: Case, told: Told | None = None) -> Verdict:
        """With what the cluster says now, unless that is `told`. Of a place that was not looked up
        yet packets alone tell, and nothing for sure but that it connected.
        """
        report = case.report
        if told is None:
            told = self.told(report)
        facts = facts_of(
            report,
            host_netns=self._host_netns,
            place=place or _NOWHERE,
            seen=case.seen if place is not None else _without_own_errors(case.seen),
            nat=self.nat_of(report),
            peers=self.compared.peers(report),
            told=told,
            watched_ns=case.watched_ns,
            syns_before=case.syns_before,
            syns_handed=case.syns_handed,
        )
        verdict = replace(judge(facts), facts=facts)
        if place is None and report.change.attempt.outcome is not Outcome.ESTABLISHED:
            verdict = replace(
                verdict,
                confidence=weaker(verdict.confidence, Confidence.MEDIUM),
                evidence=(*verdict.evidence, _NOT_YET),
            )
        return self._common.shared(verdict)

    def at_once(
        self, place: PlaceFacts | None, report: Report, key: PlaceKey, seen: Seen
    ) -> Verdict:
        """Of an attempt that ended before it was looked into. Those of one place that are alike
        within a second share what is said: a client that is refused 15,000 times a second learns
        nothing new. Its own ICMP errors are nobody else's.
        """
        place = place or _NOWHERE
        case = Case(report, key, 0, None)
        case.seen = seen
        if seen.icmp:
            return self.verdict(place, case)
        attempt = report.change.attempt
        pod = None if report.pod is None else report.pod.uid
        alike = (
            *(key, pod, attempt.outcome, attempt.errno, attempt.soft_errno, attempt.syns_sent),
            *(seen.icmp is None, self.nat_of(report), report.destination),
        )
        now = self._clock()
        shared = self._shared.get(alike)
        if shared is not None and now - shared[0] < SHARED_SECONDS:
            return _of_its_own(shared[1], report)
        verdict = self.verdict(place, case)
        self._shared.pop(alike, None)
        self._shared[alike] = (now, verdict)
        if len(self._shared) > MAX_SHARED:
            self._shared.popitem(last=False)
        return verdict


def _without_own_errors(seen: Seen) -> Seen:
    """Of an ICMP error that this node's own routing may have sent, its routes tell first."""
    own = any((one.family, one.kind, one.code) in SENT_BY_ROUTING for one in seen.icmp or ())
    return replace(seen, icmp=None) if own else seen


def _of_its_own(verdict: Verdict, report: Report) -> Verdict:
    """Another attempt's verdict with this one's times."""
    own = of_attempt(facts_of(report, host_netns=None))
    return replace(
        verdict,
        evidence=tuple(
            own if one.kind == "attempt" and own is not None else one for one in verdict.evidence
        ),
    )
