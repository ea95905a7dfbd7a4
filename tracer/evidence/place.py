"""What attempts of one namespace to one destination share: the place, and the facts about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from tracer.evidence.ledger import Ledger
from tracer.facts import (
    ConntrackTable,
    Listener,
    LocalPorts,
    Neighbour,
    ReversePath,
    Route,
)
from tracer.model import Endpoint


class PlaceKey(NamedTuple):
    """One namespace's attempts to one destination, which NAT on the node leads to one `backend`;
    None where it does not, or is not known to.
    """

    netns: int
    destination: Endpoint
    backend: Endpoint | None = None


@dataclass(frozen=True, slots=True)
class PlaceFacts:
    """The facts that attempts of a place share; see facts.Facts.

    What counters grew by differs by attempt: since() fills it in, from the namespaces' ledgers.
    """

    neighbour: Neighbour | None = None
    route: Route | None = None
    host_route: Route | None = None
    host_neighbour: Neighbour | None = None
    conntrack: tuple[ConntrackTable, ...] = ()
    listener: Listener | None = None
    reverse_paths: tuple[ReversePath, ...] = ()
    ports: LocalPorts | None = None
    by_mark: bool = False
    ledgers: Mapping[int, Ledger] = field(default_factory=dict, compare=False)

    def grown(self, since_ns: int) -> tuple[tuple[bool, ...], ...]:
        """Which counters grew since a time of CLOCK_MONOTONIC: a verdict turns on that, while they
        go on growing.
        """
        return tuple(
            tuple(count > 0 for count in ledger.growth(since_ns))
            for ledger in self.ledgers.values()
        )

    def since(self, since_ns: int, stopped: Mapping[int, int] | None = None) -> PlaceFacts:
        """With what counters grew by since a time of CLOCK_MONOTONIC, and `stopped`, the packets of
        watched attempts that netfilter dropped, by namespace.
        """
        if not self.ledgers:
            return self
        growth = {netns: ledger.growth(since_ns) for netns, ledger in self.ledgers.items()}
        conntrack = tuple(
            replace(
                table,
                refused=growth[table.netns].refused,
                stopped=None if stopped is None else stopped.get(table.netns, 0),
            )
            if table.netns in growth
            else table
            for table in self.conntrack
        )
        listener = self.listener
        if listener is not None and listener.netns in growth:
            grown = growth[listener.netns]
            listener = replace(
                listener,
                overflows=grown.overflows,
                drops=grown.drops,
                syn_queue_drops=grown.syn_queue_drops,
                syn_cookies=grown.syn_cookies,
            )
        reverse_paths = tuple(
            replace(path, dropped=growth[path.netns].reverse_path) if path.netns in growth else path
            for path in self.reverse_paths
        )
        return replace(self, conntrack=conntrack, listener=listener, reverse_paths=reverse_paths)

    @property
    def gist(self) -> object:
        """What a verdict may turn on beside grown(); times and numbers that only grow are left
        out.
        """
        return (
            self.route and replace(self.route, at_ns=0),
            self.host_route and replace(self.host_route, at_ns=0),
            self.neighbour and replace(self.neighbour, at_ns=0),
            self.host_neighbour and replace(self.host_neighbour, at_ns=0),
            tuple(table.count >= table.maximum for table in self.conntrack),
            self.listener and _pressure(self.listener),
            self.reverse_paths,
            self.ports and (self.ports.used >= self.ports.available),
            self.by_mark,
        )


def _pressure(found: Listener) -> object:
    full = found.queued is not None and found.backlog is not None and found.queued > found.backlog
    return found.listening, full, found.on_the_way
