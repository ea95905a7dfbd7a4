"""What the real program says of handshakes that die for real: cause, confidence, evidence; and what
finding that out costs.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest

from tests.kernel.cluster_deaths import CLUSTER_DEATHS
from tests.kernel.deaths import (
    DEATHS,
    PORT,
    TOLD_SECONDS,
    Death,
    Scene,
    Told,
    delay_of,
    drop_forwarded,
    is_said,
    perform,
)
from tests.kernel.scenarios import SEEN_SECONDS
from tests.support.client import Client
from tests.support.node import deep_pair
from tests.support.programs import names_of_programs
from tests.support.tracer import Event, Tracer, get
from tests.support.wait import stays_true, wait_until

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(150)]

ALL_DEATHS = (*DEATHS, *CLUSTER_DEATHS)
AT_ONCE = 8
PROBES = {"on_kfree_skb", "on_receive_reset", "on_start_xmit"}

PROMISED_SECONDS = 2
START_SECONDS = 1
"""Other work on the machine is no delay of ours: what takes the program longer than this to start
takes its evidence longer too.
"""
TRIES = 3
"""The best of so many counts."""

SIDE_BY_SIDE_SECONDS = 4
"""The same where eight traces compile and judge at once."""

STUCK = 1_000
SETTLE_SECONDS = 5
MEASURED_SECONDS = 15
WINDOWS = 5
"""Of that time; what the kernel's symbols take to read, they take once, in one of them."""
CPU_SHARE = 0.10
QUIET_SECONDS = 10
"""How long the probes stay after the last stuck attempt."""


def test_evidence_is_there_within_two_seconds(tmp_path: Path) -> None:
    delays: list[float] = []
    for number in range(TRIES):
        told = perform(DEATHS[0], tmp_path / str(number))
        first = next(one for one in told.events if one["event"] == "attempt.evidence")
        assert verdict_of(first)[0] == DEATHS[0].cause
        delay, busy = delay_of(first, told.events, None), told.start_seconds / START_SECONDS
        print(f"{delay:.2f} s after it became stuck; it started in {told.start_seconds:.2f} s")
        delays.append(delay / max(1.0, busy))
        if delays[-1] < PROMISED_SECONDS:
            return
    raise AssertionError(f"evidence came after {min(delays):.2f} s at best")


# --- side by side --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Costs:
    """What the evidence about many stuck attempts cost, and when its programs were loaded.

    `thread_share` and `process_share` are of one core: what its thread took, and how much more the
    whole program took than one that traced the same without evidence meanwhile. `looks` are reads
    of files by its thread in the calmest window: each look at a place takes several.
    """

    before: set[str]
    during: set[str]
    thread_share: float
    process_share: float
    looks: int
    gone_after_seconds: float
    verdicts: int


@dataclass(frozen=True)
class Performed:
    deaths: Mapping[str, Future[Told]]
    costs: Sequence[Future[Costs]]
    without: Sequence[Future[tuple[set[str], set[str | None]]]]
    """One of each, where a test asks for it."""


@pytest.fixture(scope="module")
def performed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Performed]:
    """What the selected tests ask for, side by side: it mostly waits for TCP's timers."""
    folder = tmp_path_factory.mktemp("deaths")
    selected = [item.name for item in request.session.items]
    pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="death")
    try:
        yield Performed(
            costs=[
                pool.submit(many_stuck, folder / "many")
                for _ in [name for name in selected if name in OF_COSTS][:1]
            ],
            without=[
                pool.submit(without_evidence, folder / "without")
                for _ in [name for name in selected if name in WITHOUT][:1]
            ],
            deaths={
                death.name: pool.submit(perform, death, folder / str(number))
                for number, death in enumerate(ALL_DEATHS)
                if any(f"[{death.name}]" in name for name in selected)
            },
        )
    finally:
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("death", ALL_DEATHS, ids=lambda death: death.name)
def test_the_cause_is_named_with_the_evidence_that_decides(
    performed: Performed, death: Death
) -> None:
    told = performed.deaths[death.name].result()
    first = told.event["verdict"]["evidence"][0]
    print(f"{told.event['verdict']['summary']} [{first['kind']}: {first['summary']}]")
    if told.delay_seconds is not None:
        print(f"{told.delay_seconds:.1f} s after it became stuck")
    assert is_said(first, *death.decisive), first
    assert get(told.event, "destination.address") == told.address
    said = map(verdict_of, about(told, death))
    assert [one for one in said if one[0] not in allowed(death, one)] == []


def about(told: Told, death: Death) -> list[Event]:
    return [event for event in told.events if get(event, "destination.port") == death.port]


def verdict_of(event: Event) -> tuple[str | None, str | None, str | None]:
    verdict = event["verdict"]
    return verdict["cause"], verdict["confidence"], verdict["summary"]


def allowed(death: Death, said: tuple[str | None, str | None, str | None]) -> set[str | None]:
    """What may be said on the way: nothing for sure that turns out to be something else."""
    on_the_way = death.also if said[1] != "high" or death.ended else frozenset[str]()
    return {None, "unknown", death.cause, death.before, *on_the_way}


@pytest.mark.parametrize(
    "death", [death for death in ALL_DEATHS if death.before], ids=lambda death: death.name
)
def test_what_changes_during_the_outage_changes_the_verdict_soon(
    performed: Performed, death: Death
) -> None:
    told = performed.deaths[death.name].result()
    causes = [verdict_of(event)[0] for event in about(told, death)]
    assert death.before in causes
    assert death.before not in causes[causes.index(death.cause) :]
    assert told.delay_seconds is not None
    print(f"{told.delay_seconds:.2f} s after the change")
    assert told.delay_seconds < SIDE_BY_SIDE_SECONDS


@pytest.mark.parametrize(
    "death",
    [death for death in ALL_DEATHS if death.decisive[0] == "rst"],
    ids=lambda death: death.name,
)
def test_the_reset_that_ended_an_attempt_is_in_the_record_of_its_end(
    performed: Performed, death: Death
) -> None:
    told = performed.deaths[death.name].result()
    reset, ended = told.event["verdict"]["evidence"][0], told.event
    assert ended["event"] == "attempt.end"
    assert f"a RST from {told.address}:{PORT}" in reset["summary"]
    before = [get(one, "attempt.started_at") for one in about(told, death)]
    assert before[0] < reset["time"] <= ended["time"]


# --- what it costs -------------------------------------------------------------------------------


def many_stuck(folder: Path) -> Costs:
    """A thousand attempts of one pod to one destination that nobody answers, beside a trace that
    gathers no evidence.
    """
    with deep_pair() as deep, ExitStack() as resources:
        scene = Scene(deep, 4, resources, bool)
        drop_forwarded(scene)
        scene.trace(folder / "without", "--no-evidence")
        without = scene.tracer
        scene.trace(folder / "with")
        tracer, inode = scene.tracer, scene.client.inode
        before = names_of_programs(tracer.pid)
        client = Client(scene.client, scene.address, PORT, "--hold", "--count", str(STUCK))
        tracer.wait_count("attempt.evidence", inode, 1, TOLD_SECONDS)
        during = names_of_programs(tracer.pid)
        pause(SETTLE_SECONDS)
        thread = evidence_thread(tracer.pid)
        began, used, looked = time.monotonic(), cpu_seconds(thread), [reads(thread)]
        whole = cpu_seconds(process(tracer)) - cpu_seconds(process(without))
        for _ in range(WINDOWS):
            pause(MEASURED_SECONDS / WINDOWS)
            looked.append(reads(thread))
        elapsed = time.monotonic() - began
        used = cpu_seconds(thread) - used
        whole = cpu_seconds(process(tracer)) - cpu_seconds(process(without)) - whole
        client.go()
        client.finish()
        tracer.wait_count("attempt.end", inode, STUCK, SEEN_SECONDS)
        ended = time.monotonic()
        wait_until(
            lambda: not PROBES & names_of_programs(tracer.pid),
            2 * QUIET_SECONDS,
            "the evidence's programs to be gone",
        )
        gone = time.monotonic() - ended
        judged = {get(event, "attempt.id") for event in scene.events("attempt.evidence")}
        without.stop()
        tracer.stop()
    looks = min(later - earlier for earlier, later in pairwise(looked))
    return Costs(before, during, used / elapsed, whole / elapsed, looks, gone, len(judged))


def pause(duration: float) -> None:
    """Time that is measured, not waited for anything in."""
    stays_true(lambda: True, duration, "time passes")


def process(tracer: Tracer) -> Path:
    return Path(f"/proc/{tracer.pid}")


def evidence_thread(pid: int) -> Path:
    """The program's thread that gathers evidence, in /proc."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        if (task / "comm").read_text() == "evidence\n":
            return task
    raise AssertionError("no thread is called evidence")


def cpu_seconds(task: Path) -> float:
    """CPU time of a process or a thread (proc_pid_stat(5))."""
    fields = (task / "stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def reads(task: Path) -> int:
    """Reads of files by a thread (proc_pid_io(5))."""
    counted = dict(line.split(": ") for line in (task / "io").read_text().splitlines())
    return int(counted["syscr"])


def test_nothing_is_loaded_until_something_is_stuck_and_soon_after_it_is_not(
    performed: Performed,
) -> None:
    (costs,) = (one.result() for one in performed.costs)
    print(f"gone {costs.gone_after_seconds:.1f} s after the last stuck attempt")
    assert costs.before
    assert not costs.before & PROBES
    assert costs.before | PROBES == costs.during
    assert QUIET_SECONDS - 5 < costs.gone_after_seconds < QUIET_SECONDS + 5


def test_a_thousand_stuck_attempts_take_less_than_a_tenth_of_a_core(performed: Performed) -> None:
    (costs,) = (one.result() for one in performed.costs)
    print(
        f"{costs.thread_share:.1%} of a core by its thread, {costs.process_share:.1%} in all with"
        f" {STUCK} stuck; {costs.verdicts} verdicts"
    )
    assert costs.thread_share < CPU_SHARE
    assert costs.process_share < CPU_SHARE
    assert costs.verdicts == STUCK


def test_what_is_looked_up_grows_with_destinations_and_not_with_attempts(
    performed: Performed,
) -> None:
    (costs,) = (one.result() for one in performed.costs)
    window = MEASURED_SECONDS / WINDOWS
    print(f"{costs.looks} reads in {window:.0f} s with {STUCK} stuck to one destination")
    assert 0 < costs.looks < STUCK / 5


def without_evidence(folder: Path) -> tuple[set[str], set[str | None]]:
    """The programs that were loaded, and the causes that were named."""
    with deep_pair() as deep, ExitStack() as resources:
        scene = Scene(deep, 4, resources, bool)
        drop_forwarded(scene)
        scene.trace(folder, "--no-evidence")
        scene.connect()
        scene.tracer.wait_count("attempt.retransmit", scene.client.inode, 2, SEEN_SECONDS)
        loaded = names_of_programs(scene.tracer.pid)
        scene.tracer.stop()
        return loaded, {verdict_of(event)[0] for event in scene.events()}


def test_without_evidence_nothing_is_loaded_and_nothing_said(performed: Performed) -> None:
    ((loaded, causes),) = (one.result() for one in performed.without)
    assert loaded
    assert not loaded & PROBES
    assert causes == {None}


WITHOUT = {test_without_evidence_nothing_is_loaded_and_nothing_said.__name__}
OF_COSTS = {
    test_nothing_is_loaded_until_something_is_stuck_and_soon_after_it_is_not.__name__,
    test_a_thousand_stuck_attempts_take_less_than_a_tenth_of_a_core.__name__,
    test_what_is_looked_up_grows_with_destinations_and_not_with_attempts.__name__,
}
