"""Runs the scenarios of a module's tests side by side: they mostly wait for TCP's timers."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.kernel.scenarios import Observation, Scenario, Stage

BACKENDS = ("bpf", "poll")
AT_ONCE = 6

Run = tuple[Scenario, str]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test of a scenario runs once per backend, or for those that its marker names."""
    marker = metafunc.definition.get_closest_marker("scenario")
    if marker is not None:
        metafunc.parametrize("observed", marker.kwargs.get("backends", BACKENDS), indirect=True)


@pytest.fixture(scope="module")
def runs(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[Run, Future[Observation]]]:
    """Every scenario that the module's selected tests ask for, all under way since the first."""
    pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="scenario")
    folder = tmp_path_factory.mktemp("scenarios")
    items = request.session.items
    try:
        yield {
            run: pool.submit(_perform, run, folder)
            for run in dict.fromkeys(
                filter(None, (run_of(item) for item in items if item.path == request.path))
            )
        }
    finally:
        pool.shutdown(cancel_futures=True)


@pytest.fixture
def observed(request: pytest.FixtureRequest, runs: dict[Run, Future[Observation]]) -> Observation:
    """What the test's own scenario gave; raises what went wrong in it."""
    run = run_of(request.node)
    assert run is not None, "the test has no @pytest.mark.scenario"
    return runs[run].result()


def run_of(item: pytest.Item) -> Run | None:
    marker = item.get_closest_marker("scenario")
    if marker is None or not isinstance(item, pytest.Function):
        return None
    return marker.kwargs["run"], str(item.callspec.params["observed"])


def _perform(run: Run, folder: Path) -> Observation:
    scenario, backend = run
    return scenario(Stage(backend, folder / f"{scenario.__name__}-{backend}"))
