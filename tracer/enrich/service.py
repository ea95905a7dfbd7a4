"""What a destination is called: the service, pod or node of the cluster that has its address."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from tracer.enrich.destination import Destinations
from tracer.kube.names import Names
from tracer.model import Destination, Endpoint

REMEMBERED: Final = 16_384
"""Destinations; a port scan by a pod must not fill the memory."""


class NamedDestinations:
    """Scope by address, and the cluster's name for it. For one thread."""

    def __init__(
        self,
        destinations: Destinations,
        names: Names | None,
        names_wall_ns: Callable[[], int | None] = lambda: None,
    ) -> None:
        """`names_wall_ns` tells when `names` were last known to be true; None: they are."""
        self._destinations = destinations
        self._names = names
        self._names_wall_ns = names_wall_ns
        self._made_from: tuple[int, int | None] = (-1, None)
        self._remembered: dict[Endpoint, Destination] = {}

    def describe(self, endpoint: Endpoint) -> Destination:
        """What is known of it now. Never raises."""
        names = self._names
        if names is None:
            return self._destinations.classify(endpoint.address)
        now = (names.version, self._names_wall_ns())
        if now != self._made_from or len(self._remembered) >= REMEMBERED:
            self._remembered.clear()
            self._made_from = now
        found = self._remembered.get(endpoint)
        if found is None:
            found = self._remembered[endpoint] = self._named(names, endpoint, now[1])
        return found

    def _named(self, names: Names, endpoint: Endpoint, wall_ns: int | None) -> Destination:
        judged = self._destinations.classify(endpoint.address)
        named = names.destination(endpoint.address, endpoint.port)
        if named is None:
            return judged
        return replace(
            judged,
            kind=named.kind,
            name=named.name,
            ambiguous=named.ambiguous,
            endpoints=named.endpoints,
            names_wall_ns=wall_ns,
        )
