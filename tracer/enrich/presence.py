"""Whether the pods that a trace is about are on this node: said first, and when it changes."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from tracer.enrich.scope import PodScope
from tracer.host.nodepods import NodePods
from tracer.kube.names import Names, Resource
from tracer.kube.pod import PodInfo


class Presence:
    """What is news of the pods of a scope. For one thread."""

    def __init__(self, scope: PodScope, names: Names | None, node: NodePods) -> None:
        self._scope = scope
        self._names = names
        self._node = node
        self._absent: frozenset[tuple[str, str]] | None = None
        self._any: bool | None = None
        self._waited = False  # for labels, without which nothing can be said

    def news(self) -> str | None:
        """A sentence where something has changed since the last call, at the first what is absent.

        Never raises. Where a pod is not known to the API server, the processes of the node are
        asked, at 20 µs each.
        """
        told = [*self._of_named(), *self._of_others()]
        return "; ".join(told) or None

    def _of_named(self) -> list[str]:
        before, absent = self._absent, self._scope.named
        if absent:
            absent -= self._listed().keys()
        if absent:
            absent -= self._node.running()
        self._absent = absent
        if before is None:
            return [f"not on this node yet: {_pods(absent)}"] if absent else []
        came, gone = before - absent, absent - before
        return [
            *([f"on this node now: {_pods(came)}"] if came else []),
            *([f"no longer on this node: {_pods(gone)}"] if gone else []),
        ]

    def _of_others(self) -> list[str]:
        if not self._scope.by_properties:
            return []
        before, found = self._any, self._find_any()
        if found is None:
            self._waited = True
        if found is None or found == before:
            return []
        self._any = found
        if found:
            first = before is None and not self._waited
            return [] if first else ["a pod of the scope is on this node now"]
        return [f"no pod of the scope is on this node {'yet' if before is None else 'any more'}"]

    def _find_any(self) -> bool | None:
        """Whether any pod matches; None where labels would have to be known."""
        listed = self._listed()
        if any(self._scope.matches(space, labels) for (space, _), labels in listed.items()):
            return True
        if self._scope.by_labels:
            known = self._names is not None and self._names.listed(Resource.PODS)
            return False if known else None
        return any(self._scope.matches(space, None) for space, _ in self._node.running())

    def _listed(self) -> dict[tuple[str, str], Mapping[str, str]]:
        """Labels of this node's pods, as the API server tells them."""
        if self._names is None:
            return {}
        return {
            (pod.namespace, pod.name): pod.labels
            for pod in self._names.records(Resource.PODS)
            if isinstance(pod, PodInfo) and not pod.gone
        }


def _pods(pods: Collection[tuple[str, str]]) -> str:
    return f"pod {', '.join(f'{space}/{name}' for space, name in sorted(pods))}"
