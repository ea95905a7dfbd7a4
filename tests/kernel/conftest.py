"""Runs a module's scenarios, or its tests themselves, side by side: mostly they wait."""

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


# --- tests that are side by side themselves ------------------------------------------------------


@pytest.fixture(scope="module")
def side_by_side(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[None]]]:
    """The module's selected tests that use this fixture, all under way since the first.

    Such a test gets its parameters, and `folder`, a directory of its own; no other fixtures.
    """
    pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="test")
    runs: dict[str, Future[None]] = {}
    try:
        for item in request.session.items:
            if not isinstance(item, pytest.Function) or item.path != request.path:
                continue
            if "side_by_side" in item.fixturenames:
                given = dict(item.callspec.params) if hasattr(item, "callspec") else {}
                given["folder"] = tmp_path_factory.mktemp("beside")
                runs[item.nodeid] = pool.submit(item.function, **given)
        yield runs
    finally:
        pool.shutdown(cancel_futures=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Waits for a test that is under way already."""
    runs = pyfuncitem.funcargs.get("side_by_side")
    if not isinstance(runs, dict):
        return None
    runs[pyfuncitem.nodeid].result()
    return True
