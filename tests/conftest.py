"""Rules for the whole run: no silent skips in CI, no green run without a test, root for kernel/."""

from __future__ import annotations

import gc
import os
import shutil
import sys
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Images of machines that build often forbid to keep bytecode: each start of the program would
# compile its source anew, and each worker rewrite every test.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# What Hypothesis tries of each property; HYPOTHESIS_PROFILE=thorough takes minutes instead. A busy
# machine is no failure of what is tested.
for profile, examples in {"ordinary": 40, "thorough": 2_000}.items():
    settings.register_profile(
        profile,
        max_examples=examples,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ordinary"))

KERNEL_TESTS = Path(__file__).parent / "kernel"
NEEDED_PROGRAMS = (
    *("bpftool", "ip", "iptables", "ip6tables", "nft"),
    *("nsenter", "setpriv", "tmux", "unshare"),
)

# Set by CI services. A machine that is meant to run everything must not skip in silence.
SKIPS_FAIL = os.environ.get("CI") == "true"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks everything under kernel/, and skips it where it cannot run."""
    reason = why_not_kernel_tests()
    for item in items:
        if KERNEL_TESTS in item.path.parents:
            item.add_marker(pytest.mark.kernel)
            if reason:
                item.add_marker(pytest.mark.skip(reason=reason))


def pytest_collection_finish() -> None:
    """5,000 tests and what they import stay to the end: collections need not look at them."""
    gc.collect()
    gc.freeze()


def why_not_kernel_tests() -> str | None:
    if os.geteuid() != 0:
        return "needs root: run make test"
    missing = [program for program in NEEDED_PROGRAMS if not shutil.which(program)]
    return f"not installed: {', '.join(missing)}: run make install" if missing else None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,  # noqa: ARG001
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turns every skip into a failure in CI."""
    report = yield
    if SKIPS_FAIL and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"Skipped, which fails in CI: {_skip_reason(report)}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """The same for whole modules that skip themselves."""
    report = yield
    if SKIPS_FAIL and report.skipped:
        report.outcome = "failed"
        report.longrepr = f"Module skipped, which fails in CI: {_skip_reason(report)}"
    return report


def _skip_reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    return str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """A run in which nothing was executed has shown nothing."""
    if exitstatus == pytest.ExitCode.OK and not session.config.option.collectonly:
        reporter = session.config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None and not any(map(reporter.stats.get, ("passed", "failed"))):
            session.exitstatus = pytest.ExitCode.NO_TESTS_COLLECTED
