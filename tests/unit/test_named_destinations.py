"""What a destination is called, and since when that is no longer kept up to date."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tracer.enrich.destination import Destinations
from tracer.enrich.service import NamedDestinations
from tracer.kube.names import Names, Resource
from tracer.kube.pod import read_pod
from tracer.model import Destination, Endpoint, Kind, Scope

RECORDED = Path(__file__).parents[1] / "fixtures/kube/pods-on-node1.json"
DB, UNKNOWN = Endpoint("10.88.64.4", 5432), Endpoint("10.88.99.99", 5432)


@pytest.fixture
def names() -> Names:
    names = Names()
    items = json.loads(RECORDED.read_text())["items"]
    names.replace(Resource.PODS, [pod for pod in map(read_pod, items) if pod is not None])
    return names


def test_names_that_are_no_longer_kept_up_to_date_say_since_when(names: Names) -> None:
    stale_ns: list[int | None] = [None]
    known = NamedDestinations(Destinations(), names, lambda: stale_ns[0])
    current = Destination(Scope.VPC, Kind.POD, "shop/db-0")
    assert known.describe(DB) == current
    stale_ns[0] = 7
    assert known.describe(DB).names_wall_ns == 7
    assert known.describe(UNKNOWN) == Destination(Scope.VPC)
    stale_ns[0] = None
    assert known.describe(DB) == current
