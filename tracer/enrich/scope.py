"""Which pods a trace is about: --pod, --namespace and --selector, judged anew for each event.

Nothing is resolved to namespaces or processes at the start: every attempt of the node is followed,
and what is told is chosen by what is known of its pod by then. So pods that appear later join, and
those that go leave.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Final

from tracer.kube.names import Names, Resource
from tracer.kube.selector import parse
from tracer.model import ChangeKind, Health, Outcome, PodIdentity, Report

MAX_TOLD: Final = 65_536
"""Stuck attempts of the scope at a time: as many as the tracker follows."""

_NO_LABELS: Final = "labels are not known: --selector selects nothing until the API server answers"


class PodScope:
    """The pods that were asked for: those named, and those of the namespaces and the selector.

    A selector narrows the namespaces, where both are given; named pods are wanted in any case.
    """

    def __init__(
        self,
        pods: Collection[tuple[str, str]] = (),
        namespaces: Collection[str] = (),
        selector: str | None = None,
    ) -> None:
        """`pods` are namespaces and names. Raises UsageError for a malformed `selector`."""
        self._pods = frozenset(pods)
        self._namespaces = frozenset(namespaces)
        self._selector = None if selector is None else parse(selector)

    @property
    def named(self) -> frozenset[tuple[str, str]]:
        """The pods that were asked for by name."""
        return self._pods

    @property
    def by_properties(self) -> bool:
        """Whether pods were asked for by what they have in common."""
        return bool(self._namespaces) or self._selector is not None

    @property
    def by_labels(self) -> bool:
        """Whether labels decide, which the API alone knows."""
        return self._selector is not None

    def wants(self, identity: PodIdentity | None, labels: Mapping[str, str] | None) -> bool | None:
        """Whether a pod is in the scope, by what is known of it now; `labels` None is unknown.

        What is no pod's is in none. None where the pod's name or labels would have to be known.
        """
        if identity is None:
            return False
        if identity.namespace is None or identity.name is None:
            return None
        if (identity.namespace, identity.name) in self._pods:
            return True
        return self.matches(identity.namespace, labels)

    def matches(self, namespace: str, labels: Mapping[str, str] | None) -> bool | None:
        """Whether a pod was asked for by its properties; None where labels are not known."""
        if not self.by_properties or (self._namespaces and namespace not in self._namespaces):
            return False
        if self._selector is None:
            return True
        return None if labels is None else self._selector.matches(labels)


class ScopeFilter:
    """Lets the reports of a scope through, and counts them for themselves. For one thread.

    An attempt that was told once is told to its end, whatever becomes of its pod. One that enters
    late, since its pod's name became known late, begins with STUCK as every other. Those that may
    be of the scope, for all that is known of their pod, are counted.
    """

    def __init__(self, scope: PodScope, names: Names | None, max_told: int = MAX_TOLD) -> None:
        """`names` knows the labels of pods; without it, a selector selects nothing."""
        self._scope = scope
        self._names = names
        self._max_told = max_told
        # A dict for its order: ids of attempts that are told and have not ended.
        self._told: dict[str, None] = {}
        # The same of attempts that cannot be judged yet, and how many never could be.
        self._unjudged: dict[str, None] = {}
        self._never_judged = 0
        self._outcomes: Counter[Outcome] = Counter()
        self._became_stuck = 0

    def filter(self, reports: Iterable[Report]) -> list[Report]:
        """The reports that are of the scope, in their order."""
        return [kept for report in reports if (kept := self._kept(report)) is not None]

    def narrowed(self, health: Health) -> Health:
        """A node's health with the scope's own counts of attempts in place of the node's.

        What the kernel counts (`rates`) and what was lost is known of the node alone, and stays.
        """
        return replace(
            health,
            lacking=(*health.lacking, *self._lacking()),
            stuck_now=len(self._told),
            tracked_now=len(self._told),
            became_stuck=self._became_stuck,
            outcomes=dict(self._outcomes),
            withheld=len(self._unjudged) + self._never_judged,
        )

    def _lacking(self) -> tuple[str, ...]:
        names = self._names
        known = names is not None and names.listed(Resource.PODS)
        return () if known or not self._scope.by_labels else (_NO_LABELS,)

    def _kept(self, report: Report) -> Report | None:
        change = report.change
        attempt = change.attempt
        told = attempt.id in self._told
        if not told:
            wanted = self._scope.wants(report.pod, self._labels(report.pod))
            self._note(attempt.id, wanted is None, change.kind is ChangeKind.END)
            if not wanted:
                return None
        if change.kind is ChangeKind.EVIDENCE and attempt.outcome is not None:
            return report
        if change.kind is ChangeKind.END:
            self._told.pop(attempt.id, None)
            if attempt.outcome is not None:
                self._outcomes[attempt.outcome] += 1
            if not told and attempt.stuck:
                self._became_stuck += 1
        elif not told:
            self._tell(attempt.id)
            if change.kind is not ChangeKind.STUCK:
                return replace(report, change=replace(change, kind=ChangeKind.STUCK))
        return report

    def _note(self, attempt_id: str, unjudged: bool, ended: bool) -> None:
        """Counts an attempt that is not told for as long as it cannot be judged."""
        self._unjudged.pop(attempt_id, None)
        if not unjudged:
            return
        if ended:
            self._never_judged += 1
            return
        if len(self._unjudged) >= self._max_told:
            del self._unjudged[next(iter(self._unjudged))]
            self._never_judged += 1
        self._unjudged[attempt_id] = None

    def _tell(self, attempt_id: str) -> None:
        if len(self._told) >= self._max_told:
            del self._told[next(iter(self._told))]
        self._told[attempt_id] = None
        self._became_stuck += 1

    def _labels(self, identity: PodIdentity | None) -> Mapping[str, str] | None:
        if not self._scope.by_labels or self._names is None:
            return None
        if identity is None or identity.uid is None:
            return None
        pod = self._names.pod(identity.uid)
        return None if pod is None else pod.labels
