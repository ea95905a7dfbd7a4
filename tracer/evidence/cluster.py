"""What the cluster says of a stuck attempt, asked anew while it is stuck: policies and endpoints
change during an outage, sometimes because of it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

from tracer.facts import Backend, PolicyFinding
from tracer.model import Destination, Nat, Report


class Cluster(Protocol):
    """What the API server tells that bears on a verdict.

    `version` is another one when anything of it may have changed.
    """

    @property
    def version(self) -> object: ...
    def destination(self, report: Report) -> Destination: ...
    def policies(self, report: Report, nat: Nat | None) -> tuple[PolicyFinding, ...]: ...
    def backend(self, report: Report, nat: Nat | None) -> Backend | None: ...


@dataclass(frozen=True, slots=True)
class Told:
    """Its answers about one attempt. `destination` is without NAT, which differs by attempt."""

    destination: Destination
    policies: tuple[PolicyFinding, ...] = ()
    backend: Backend | None = None


def told_of(cluster: Cluster | None, report: Report, nat: Nat | None) -> Told:
    """As things are now; without a cluster what the report knows."""
    if cluster is None:
        return Told(_without_nat(report.destination))
    known = cluster.destination(report)
    report = replace(report, destination=known)
    return Told(_without_nat(known), cluster.policies(report, nat), cluster.backend(report, nat))


def _without_nat(destination: Destination) -> Destination:
    return destination if destination.nat is None else replace(destination, nat=None)
