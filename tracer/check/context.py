"""What every way of collecting needs to know."""

from __future__ import annotations

from dataclasses import dataclass

from tracer.enrich.destination import Destinations
from tracer.sources.raw import Raw


@dataclass(frozen=True, slots=True)
class Context:
    """Who looks, how addresses are judged, and who gets the text that the findings come from.

    `raw` is for a report; None where none is made.
    """

    node_name: str
    destinations: Destinations
    raw: Raw | None = None
