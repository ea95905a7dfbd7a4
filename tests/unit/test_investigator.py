"""When stuck attempts are looked into, how often, and what is said of them; nothing is probed."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.reports import CLIENT, HOST, SECOND, THERE, ended, sent_again, stuck
from tests.support.wait import wait_until
from tracer.errors import NoSource
from tracer.evidence import investigator as investigator_module
from tracer.evidence.investigator import PLACE_SECONDS, Investigator
from tracer.evidence.place import PlaceFacts
from tracer.facts import Direction, Drop, Handed, IcmpError, Neighbour, Route
from tracer.model import (
    Attempt,
    Cause,
    Confidence,
    Destination,
    Endpoint,
    Flow,
    Kind,
    Nat,
    Outcome,
    Report,
    Scope,
    Verdict,
)

SECONDS = 10
LATER = 1_000 * SECOND
OPEN = PlaceFacts(
    route=Route("unicast", "10.4.0.1", "eth0", None, 1),
    neighbour=Neighbour("10.4.0.1", "eth0", "REACHABLE", 1),
)
BACKENDS = [Endpoint(f"10.4.7.{number}", 8443) for number in (1, 2)]


class Probe:
    """What a DropProbe would see, as the test says."""

    def __init__(self) -> None:
        self.watched: dict[str, Attempt] = {}
        self.drops: dict[str, tuple[Drop, ...]] = {}
        self.handed: dict[str, tuple[Handed, ...]] = {}
        self.handing = False
        self.closed = False
        self.lost = 0
        self.lacking = ("something",)

    def watch(self, attempts: Iterable[Attempt]) -> None:
        self.watched = {one.id: one for one in attempts}

    def watched_ns(self, attempt_id: str) -> int | None:
        return 11 * SECOND if attempt_id in self.watched else None

    def watch_handed(self, on: bool) -> None:
        self.handing = on

    def read(self) -> dict[str, tuple[tuple[Drop, ...], tuple[Handed, ...]]]:
        return {
            name: (self.drops.get(name, ()), self.handed.get(name, ())) for name in self.watched
        }

    def close(self) -> None:
        self.closed = True


class Look:
    """Stands for Places.look; `backends` are those that were looked up."""

    def __init__(self) -> None:
        self.found = OPEN
        self.asked: list[tuple[Endpoint, Endpoint | None, bool]] = []
        self.failure: Exception | None = None

    def __call__(
        self, flow: Flow, _scope: Scope, backend: Endpoint | None, **options: bool
    ) -> PlaceFacts:
        if self.failure is not None:
            raise self.failure
        self.asked.append((flow.destination, backend, options["translated"]))
        return self.found


class Bench:
    """An investigator without its thread: the test says when a round is due."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **options: Any) -> None:  # noqa: ANN401
        self.probes: list[Probe] = []
        self.nat: dict[str, Nat] = {}
        self.heard: tuple[IcmpError, ...] | None = ()
        self.look = Look()
        self.refusal: NoSource | None = None
        monkeypatch.setattr(investigator_module, "DropProbe", self._probe)
        self.it = Investigator(host_netns=HOST, host_path=None, nat_of=self.nat.get, **options)
        monkeypatch.setattr(self.it, "_places", self)
        monkeypatch.setattr(self.it, "_ears", self)

    # Places and Ears, as far as they matter here.
    refused = lacking = None
    open_now = False

    def path_of(self, _netns: int) -> str | None:
        return None

    def watch(self, _netns: int) -> None: ...
    def forget(self, _keep: frozenset[int]) -> None: ...
    def quiet(self, _seconds: float) -> None: ...
    def hear(self) -> None: ...
    def close(self) -> None: ...

    def errors_about(self, _attempt: Attempt, **_options: bool) -> tuple[IcmpError, ...] | None:
        return self.heard

    def _probe(self) -> Probe:
        if self.refusal is not None:
            raise self.refusal
        self.probes.append(Probe())
        return self.probes[-1]

    @property
    def probe(self) -> Probe:
        return self.probes[-1]

    def note(self, *reports: Report) -> list[Report]:
        return self.it.note(reports)

    def round(self) -> list[tuple[str, Verdict]]:
        """One round of the thread; what it has to say."""
        self.it._round()
        return [(report.change.attempt.id, verdict) for report, verdict in self.it.news()]

    def causes(self) -> list[tuple[str, Cause]]:
        return [(name, verdict.cause) for name, verdict in self.round()]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(monkeypatch)


def dropped(count: int = 1, at_ns: int = LATER) -> tuple[Drop, ...]:
    one = Drop(Direction.SYN, "NETFILTER_DROP", None, HOST, "veth1", 2, count, at_ns, at_ns)
    return (one,)


# --- what is loaded, and when --------------------------------------------------------------------


def test_what_is_not_stuck_is_not_looked_into(bench: Bench) -> None:
    pending = stuck(was_stuck=False)
    assert bench.note(pending) == [pending]
    assert bench.round() == []
    assert bench.probes == []
    assert bench.look.asked == []


def test_the_packets_of_what_is_stuck_are_watched_and_of_nothing_else(bench: Bench) -> None:
    bench.note(stuck("a"), stuck("b"))
    bench.round()
    assert bench.probe.watched.keys() == {"a", "b"}
    assert bench.probe.handing
    bench.note(ended(Outcome.ABORTED, "a"))
    bench.round()
    assert bench.probe.watched.keys() == {"b"}


def test_a_port_that_is_learnt_later_is_watched_too(bench: Bench) -> None:
    bench.note(stuck(source=Endpoint(CLIENT.address, None)))
    bench.round()
    bench.note(sent_again())
    bench.round()
    assert bench.probe.watched["a"].flow.source == CLIENT


def test_hand_overs_are_watched_for_a_while_only(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.note(stuck())
    bench.round()
    monkeypatch.setattr(investigator_module, "HANDED_SECONDS", 0)
    bench.round()
    assert not bench.probe.handing


def test_a_source_that_knows_no_sequence_numbers_gets_no_probe(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench(monkeypatch, sees_packets=False)
    bench.look.found = replace(OPEN, route=Route("none", None, None, None, 1))
    bench.note(stuck())
    assert bench.causes() == [("a", Cause.DROPPED_HERE)]
    assert bench.probes == []


def test_without_a_probe_the_rest_is_looked_up_and_the_lack_is_told(bench: Bench) -> None:
    bench.refusal = NoSource("no BPF here", hint="none")
    bench.look.found = replace(OPEN, route=Route("none", None, None, None, 1))
    bench.note(stuck())
    assert bench.causes() == [("a", Cause.DROPPED_HERE)]
    (lacking,) = bench.it.lacking
    assert "no BPF here" in lacking
    bench.refusal = None
    bench.note(stuck("b"))
    bench.round()
    assert bench.probes == []


# --- what is looked up, and how often ------------------------------------------------------------


def test_a_place_is_looked_up_once_for_all_its_attempts(bench: Bench) -> None:
    places = [Endpoint(THERE.address, port) for port in (1, 2, 3)]
    bench.note(*(stuck(f"a{number}", destination=places[number % 3]) for number in range(1_000)))
    for _ in range(5):
        bench.round()
    assert sorted(asked[0].port or 0 for asked in bench.look.asked) == [1, 2, 3]


def test_it_is_looked_up_again_when_it_is_old(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.note(stuck())
    bench.round()
    began = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: began + PLACE_SECONDS + 1)
    bench.round()
    assert len(bench.look.asked) == 2


def test_attempts_that_nat_leads_elsewhere_are_looked_up_apart(bench: Bench) -> None:
    for name, backend in zip("ab", BACKENDS, strict=True):
        bench.nat[name] = Nat(backend, "SYN_SENT", replied=False)
    bench.note(stuck("a"), stuck("b"), stuck("c"))
    bench.round()
    # Of the third nobody knows which of them it is led to.
    assert set(bench.look.asked) == {
        (THERE, BACKENDS[0], True),
        (THERE, BACKENDS[1], True),
        (THERE, None, True),
    }


def test_a_backend_that_is_learnt_later_is_looked_up_at_once(bench: Bench) -> None:
    bench.note(stuck())
    bench.round()
    bench.nat["a"] = Nat(BACKENDS[0], "SYN_SENT", replied=False)
    bench.round()
    assert [asked[1] for asked in bench.look.asked] == [None, BACKENDS[0]]


def test_what_is_tracked_and_not_translated_is_at_its_own_place(bench: Bench) -> None:
    bench.nat["a"] = Nat(THERE, "SYN_SENT", replied=False)
    bench.note(stuck())
    bench.round()
    assert bench.look.asked == [(THERE, None, False)]


def test_a_services_address_is_led_somewhere(bench: Bench) -> None:
    bench.note(stuck(about=Destination(Scope.VPC, Kind.SERVICE, "shop/db:5432")))
    bench.round()
    assert bench.look.asked == [(THERE, None, True)]


def test_failures_of_one_place_are_looked_into_once_in_a_while(bench: Bench) -> None:
    for number in range(100):
        bench.note(ended(Outcome.REFUSED, f"a{number}", was_stuck=False))
    bench.round()
    assert len(bench.look.asked) == 1
    assert bench.probes == []


# --- what is said --------------------------------------------------------------------------------


def test_a_verdict_is_news_once_and_then_with_every_report(bench: Bench) -> None:
    bench.note(stuck())
    assert bench.round() == [], "no SYN was sent since somebody looks"
    bench.note(sent_again(syns_sent=3, last_syn_ns=12 * SECOND))
    bench.probe.drops["a"] = dropped()
    assert bench.causes() == [("a", Cause.DROPPED_HERE)]
    assert bench.round() == []
    (report,) = bench.note(sent_again(syns_sent=4, last_syn_ns=13 * SECOND))
    assert report.verdict is not None
    assert report.verdict.cause is Cause.DROPPED_HERE


def test_syns_that_went_out_before_the_watching_are_not_held_against_it(bench: Bench) -> None:
    bench.note(stuck(syns_sent=2, last_syn_ns=None))
    bench.round()
    # Told late: they had been sent before.
    bench.note(sent_again(syns_sent=5, last_syn_ns=10 * SECOND))
    bench.note(sent_again(syns_sent=6, last_syn_ns=12 * SECOND))
    bench.probe.drops["a"] = dropped()
    ((_, verdict),) = bench.round()
    assert (verdict.cause, verdict.confidence) == (Cause.DROPPED_HERE, Confidence.HIGH)


def test_drops_that_cease_take_the_verdict_back(bench: Bench) -> None:
    bench.note(stuck())
    bench.round()
    bench.note(sent_again(syns_sent=3, last_syn_ns=12 * SECOND))
    bench.probe.drops["a"] = dropped(at_ns=12 * SECOND)
    ((_, first),) = bench.round()
    bench.note(sent_again(syns_sent=6, last_syn_ns=20 * SECOND))
    ((_, later),) = bench.round()
    assert (first.confidence, later.confidence) == (Confidence.HIGH, Confidence.LOW)


def test_hand_overs_are_held_against_the_syns_of_that_time(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tracer.evidence.case.leads_out", lambda _device: True)
    soon = time.monotonic_ns() + 60 * SECOND
    bench.note(stuck())
    bench.round()
    bench.note(sent_again(syns_sent=3, last_syn_ns=soon))
    bench.probe.handed["a"] = (Handed("ens5", HOST, 1, soon),)
    ((_, verdict),) = bench.round()
    assert (verdict.cause, verdict.confidence) == (Cause.NO_REPLY, Confidence.HIGH)
    monkeypatch.setattr(investigator_module, "HANDED_SECONDS", 0)
    bench.round()
    bench.note(sent_again(syns_sent=9, last_syn_ns=soon + 60 * SECOND))
    bench.round()
    (report,) = bench.note(ended(Outcome.TIMED_OUT, syns_sent=9, last_syn_ns=soon + 60 * SECOND))
    assert report.verdict is not None
    assert (report.verdict.cause, report.verdict.confidence) == (Cause.NO_REPLY, Confidence.HIGH)


def test_the_end_is_judged_with_what_was_seen_and_with_errors_that_came_since(bench: Bench) -> None:
    bench.note(stuck())
    bench.round()
    bench.heard = (IcmpError(4, 3, 13, "10.4.0.9", 1, LATER),)
    (report,) = bench.note(ended(Outcome.UNREACHABLE))
    assert report.verdict is not None
    assert report.verdict.cause is Cause.REFUSED_BY_FIREWALL


def test_the_last_drop_comes_to_light_after_the_end(bench: Bench) -> None:
    bench.note(stuck())
    bench.round()
    bench.probe.drops["a"] = dropped()
    (report,) = bench.note(ended(Outcome.UNREACHABLE, syns_sent=3, last_syn_ns=LATER, errno=113))
    assert report.verdict is not None
    assert report.verdict.cause is Cause.UNREACHABLE
    assert bench.causes() == [("a", Cause.REFUSED_BY_FIREWALL)]
    bench.round()
    assert bench.probe.watched == {}


def test_failures_at_once_share_a_verdict_and_errors_are_told_with_the_next(bench: Bench) -> None:
    bench.heard = None
    first, second = bench.note(
        *(ended(Outcome.REFUSED, name, was_stuck=False, errno=111) for name in "ab")
    )
    assert first.verdict is second.verdict
    assert first.verdict is not None
    assert first.verdict.confidence is Confidence.MEDIUM
    bench.heard = ()
    assert bench.causes() == [("a", Cause.REFUSED)]


def test_an_attempt_without_a_namespace_has_no_verdict(bench: Bench) -> None:
    reports = bench.note(stuck(netns=None), ended(Outcome.REFUSED, netns=None))
    assert [report.verdict for report in reports] == [None, None]
    assert bench.round() == []


# --- the thread ----------------------------------------------------------------------------------


@pytest.fixture
def running(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setattr(investigator_module, "ROUND_SECONDS", 0.001)
    monkeypatch.setattr(investigator_module, "QUIET_SECONDS", 0.01)
    bench.it.start()
    yield bench
    bench.it.stop()
    assert not bench.it._thread.is_alive()


def test_what_is_stuck_wakes_the_thread_and_quiet_lets_go_of_everything(running: Bench) -> None:
    running.note(stuck())
    wait_until(lambda: running.probes and running.probe.watched, SECONDS, "a watched attempt")
    running.probe.lost = 3
    running.note(ended(Outcome.ABORTED))
    wait_until(lambda: running.probe.closed, SECONDS, "the probe to be closed")
    assert running.probe.watched == {}
    assert not running.probe.handing
    assert running.it.lost == 3
    assert running.it.lacking == ("something",)
    running.note(stuck("b"))
    wait_until(lambda: len(running.probes) == 2, SECONDS, "another probe")
    assert running.it.lost == 3


def test_stopping_takes_the_probe_off(running: Bench) -> None:
    running.note(stuck())
    wait_until(lambda: running.probes, SECONDS, "the probe")
    running.it.stop()
    assert running.probe.closed


def test_a_defect_ends_the_evidence_and_is_told(running: Bench) -> None:
    running.look.failure = ZeroDivisionError("oops")
    running.note(stuck())
    wait_until(lambda: running.it.lacking, SECONDS, "the failure to be told")
    assert any("ZeroDivisionError: oops" in text for text in running.it.lacking)
    (report,) = running.note(ended(Outcome.REFUSED, errno=111))
    assert report.verdict is not None


@pytest.mark.usefixtures("running")
def test_the_thread_can_be_told_from_others() -> None:
    (thread,) = (one for one in threading.enumerate() if one.name == "evidence")
    comm = Path(f"/proc/self/task/{thread.native_id}/comm")
    wait_until(lambda: comm.read_text() == "evidence\n", SECONDS, "the thread's name")
