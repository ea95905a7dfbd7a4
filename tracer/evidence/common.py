"""Keeps what many verdicts have in common once: thousands of attempts to one destination have the
same routes, neighbours and policies.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from tracer.model import Evidence, Verdict

_MAX_KEPT: Final = 4_096

_OF_A_PLACE: Final = frozenset(
    {
        "backend",
        "conntrack",
        "listener",
        "nat",
        "neighbour",
        "peers",
        "policy",
        "route",
        "rp_filter",
        "service",
    }
)
"""Kinds of evidence that are not an attempt's own: those would fill this up to no use."""


class Common:
    """Pieces of evidence, each kept once while it is of use. For one thread at a time."""

    def __init__(self) -> None:
        self._kept: dict[Evidence, Evidence] = {}
        self._sentences: dict[str, str] = {}

    def shared(self, verdict: Verdict) -> Verdict:
        """The same verdict, made of what earlier ones were made of."""
        if len(self._kept) >= _MAX_KEPT:
            self._kept.clear()
        if len(self._sentences) >= _MAX_KEPT:
            self._sentences.clear()
        keep = self._kept.setdefault
        return replace(
            verdict,
            summary=self._sentences.setdefault(verdict.summary, verdict.summary),
            evidence=tuple(
                keep(one, one) if one.kind in _OF_A_PLACE else one for one in verdict.evidence
            ),
        )
