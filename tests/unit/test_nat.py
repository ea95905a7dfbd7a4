"""Which stuck attempts are looked up, and what becomes of the answers; the kernel is a fake."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.wait import wait_until
from tracer.enrich import nat as nat_module
from tracer.enrich.nat import NatLimits, NatLookups, Sample
from tracer.host import netns as netns_module
from tracer.host.ctnetlink import Entry
from tracer.model import Attempt, Endpoint, Flow, Nat, Owner, SourceName

HOST = "/proc/self/ns/net"
NETNS, OTHER_NETNS = 1, 2
CLIENT, SERVICE, BACKEND = "10.4.7.21", "10.96.0.10", "10.4.100.50"
SECONDS = 10

LIMITS = NatLimits(again_seconds=3.0, per_destination=2, attempts=4)


def attempt(
    name: str,
    *,
    port: int | None = 40_000,
    destination: str = SERVICE,
    source: str = CLIENT,
    netns: int | None = None,
) -> Attempt:
    family = 6 if ":" in destination else 4
    flow = Flow(netns, family, Endpoint(source, port), Endpoint(destination, 5432))
    return Attempt(name, flow, Owner(), SourceName.BPF, 0)


ENTRY = Entry(
    reply_source=Endpoint(BACKEND, 5432),
    reply_destination=Endpoint(CLIENT, 40_000),
    state="SYN_SENT",
    replied=False,
    assured=False,
    timeout_seconds=120,
)


class Kernel:
    """Answers like Conntrack, with what the test says; `gate` closed holds the answers back."""

    def __init__(self) -> None:
        self.opened: list[str] = []
        self.open_now = 0
        self.asked: list[tuple[float, Flow]] = []
        self.answer: Callable[[Flow], Entry | None] = lambda _flow: ENTRY
        self.gate = threading.Event()
        self.gate.set()

    def conntrack(self, path: str) -> Socket:
        self.opened.append(path)
        self.open_now += 1
        return Socket(self)


class Socket:
    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def get(self, flow: Flow) -> Entry | None:
        self._kernel.asked.append((time.monotonic(), flow))
        assert self._kernel.gate.wait(SECONDS)
        return self._kernel.answer(flow)

    def close(self) -> None:
        self._kernel.open_now -= 1


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernel]:
    kernel = Kernel()
    monkeypatch.setattr(nat_module, "Conntrack", kernel.conntrack)
    yield kernel
    kernel.gate.set()


@pytest.fixture
def start() -> Iterator[Callable[..., NatLookups]]:
    started: list[NatLookups] = []

    def start(limits: NatLimits | None = None, host: str = HOST) -> NatLookups:
        lookups = NatLookups(host, limits)
        started.append(lookups)
        lookups.start()
        return lookups

    yield start
    for lookups in started:
        lookups.stop()


Start = Callable[..., NatLookups]


def ended(lookups: NatLookups) -> bool:
    return not lookups._thread.is_alive()


def refuse(number: int) -> Callable[[Flow], Entry | None]:
    def answer(_flow: Flow) -> Entry | None:
        raise OSError(number, os.strerror(number))

    return answer


# --- the sample ----------------------------------------------------------------------------------


def test_an_attempt_is_looked_up_again_after_a_while_and_not_before() -> None:
    sample = Sample(LIMITS)
    assert sample.wants(attempt("a"), 100.0)
    sample.note(attempt("a"), 100.0)
    assert not sample.wants(attempt("a"), 102.9)
    assert sample.wants(attempt("a"), 103.0)


def test_a_destination_has_a_few_attempts_looked_up_and_no_more() -> None:
    sample = Sample(LIMITS)
    for name in "ab":
        sample.note(attempt(name), 100.0)
    assert not sample.wants(attempt("c"), 200.0)
    assert sample.wants(attempt("a"), 200.0)
    assert sample.wants(attempt("c", destination="10.96.0.11"), 200.0)
    assert sample.wants(attempt("c", netns=OTHER_NETNS), 200.0)


def test_an_attempt_that_is_over_makes_room_for_another() -> None:
    sample = Sample(LIMITS)
    for name in "ab":
        sample.note(attempt(name), 100.0)
        sample.note(attempt(name), 104.0)
    sample.forget("a")
    sample.forget("a")
    assert "a" not in sample
    assert sample.wants(attempt("c"), 104.0)


def test_a_sample_that_forgets_everything_keeps_nothing() -> None:
    sample = Sample(LIMITS)
    sample.note(attempt("a"), 100.0)
    sample.forget("a")
    sample.forget("never known")
    assert (sample._due, sample._key_of, sample._taken) == ({}, {}, {})


def test_a_sample_is_full_at_its_limit() -> None:
    sample = Sample(LIMITS)
    for number in range(LIMITS.attempts):
        assert not sample.full
        sample.note(attempt(str(number), destination=f"10.96.0.{number}"), 100.0)
    assert sample.full


# --- lookups -------------------------------------------------------------------------------------


def test_what_the_kernel_says_is_kept_until_it_is_forgotten(kernel: Kernel, start: Start) -> None:
    lookups = start()
    lookups.ask(attempt("a"))
    wait_until(lambda: lookups.nat_of("a"), SECONDS, "the answer")
    assert lookups.nat_of("a") == Nat(Endpoint(BACKEND, 5432), "SYN_SENT", replied=False)
    assert lookups.nat_of("b") is None
    lookups.forget("a")
    assert lookups.nat_of("a") is None
    assert kernel.opened == [HOST]


def test_an_attempt_without_a_source_port_is_asked_about_once_it_has_one(
    kernel: Kernel, start: Start
) -> None:
    lookups = start()
    lookups.ask(attempt("a", port=None))
    lookups.ask(attempt("a"))
    wait_until(lambda: lookups.nat_of("a"), SECONDS, "the answer")
    assert [flow.source.port for _, flow in kernel.asked] == [40_000]


def test_an_answer_that_comes_after_the_end_is_not_kept(kernel: Kernel, start: Start) -> None:
    kernel.gate.clear()
    lookups = start()
    lookups.ask(attempt("a"))
    wait_until(lambda: kernel.asked, SECONDS, "the question")
    lookups.forget("a")
    lookups.ask(attempt("b"))
    kernel.gate.set()
    wait_until(lambda: lookups.nat_of("b"), SECONDS, "the next answer")
    assert lookups.nat_of("a") is None


def test_an_attempt_that_ended_while_it_waited_is_not_asked_about(
    kernel: Kernel, start: Start
) -> None:
    kernel.gate.clear()
    lookups = start()
    for port, name in enumerate("abc", 1):
        lookups.ask(attempt(name, port=port))
    wait_until(lambda: kernel.asked, SECONDS, "the first question")
    lookups.forget("b")
    kernel.gate.set()
    wait_until(lambda: lookups.nat_of("c"), SECONDS, "the last answer")
    assert [flow.source.port for _, flow in kernel.asked] == [1, 3]


def test_what_finds_no_room_is_counted_and_never_waits(kernel: Kernel, start: Start) -> None:
    kernel.gate.clear()
    lookups = start(NatLimits(queue=2))
    lookups.ask(attempt("first"))
    wait_until(lambda: kernel.asked, SECONDS, "the first question")
    for name in "abcd":
        lookups.ask(attempt(name))
    assert lookups.dropped == 2
    assert "c" not in lookups._sample, "it may be asked about later"


def test_attempts_beyond_what_is_remembered_are_counted(kernel: Kernel, start: Start) -> None:
    lookups = start(NatLimits(attempts=2, again_seconds=0))
    for name in "abc":
        lookups.ask(attempt(name))
    assert lookups.dropped == 1
    lookups.forget("a")
    lookups.ask(attempt("c"))
    wait_until(lambda: lookups.nat_of("c"), SECONDS, "the answer")
    assert lookups.dropped == 1
    assert kernel.opened == [HOST]


def test_questions_to_the_kernel_come_no_faster_than_the_limit(
    kernel: Kernel, start: Start
) -> None:
    rate, count = 100, 30
    lookups = start(NatLimits(requests_per_second=rate))
    for number in range(count):
        lookups.ask(attempt(str(number), destination=f"10.96.0.{number}"))
    wait_until(lambda: len(kernel.asked) == count, SECONDS, "every question")
    times = [when for when, _ in kernel.asked]
    assert times[-1] - times[0] >= (count - 2) / rate
    assert lookups.requests == count


def test_the_first_of_an_attempts_questions_does_not_wait(kernel: Kernel, start: Start) -> None:
    lookups = start(NatLimits(requests_per_second=0.01))
    lookups.ask(attempt("a"))
    wait_until(lambda: lookups.nat_of("a"), SECONDS, "the answer")
    assert len(kernel.asked) == 1


@pytest.mark.parametrize("number", [errno.EPERM, errno.EPROTONOSUPPORT])
def test_a_lasting_refusal_is_told_and_nothing_is_asked_again(
    kernel: Kernel, start: Start, number: int
) -> None:
    kernel.answer = refuse(number)
    lookups = start()
    lookups.ask(attempt("a"))
    wait_until(lambda: ended(lookups), SECONDS, "the thread's end")
    assert lookups.lacking == (
        f"connection tracking ({os.strerror(number)}): which backend of a service an attempt is "
        "sent to is not known"
    )
    lookups.ask(attempt("b"))
    assert (len(kernel.asked), lookups.dropped, kernel.open_now) == (1, 0, 0)


def test_a_refusal_that_may_pass_is_no_reason_to_stop_asking(kernel: Kernel, start: Start) -> None:
    kernel.answer = refuse(errno.ENOBUFS)
    lookups = start(NatLimits(again_seconds=0))
    lookups.ask(attempt("a"))
    wait_until(lambda: kernel.asked and not kernel.open_now, SECONDS, "the socket to be closed")
    kernel.answer = lambda _flow: ENTRY
    lookups.ask(attempt("a"))
    wait_until(lambda: lookups.nat_of("a"), SECONDS, "an answer from a new socket")
    assert kernel.opened == [HOST, HOST]
    assert lookups.lacking is None


def test_a_namespace_that_nothing_leads_to_leaves_its_attempts_unknown(
    kernel: Kernel, start: Start
) -> None:
    kernel.answer = lambda flow: ENTRY if flow.netns is None else None
    lookups = start()
    lookups.ask(attempt("gone", netns=NETNS))
    lookups.ask(attempt("a"))
    wait_until(lambda: lookups.nat_of("a"), SECONDS, "the answer")
    assert lookups.nat_of("gone") is None
    assert lookups.lacking is None
    assert kernel.opened == [HOST]


@pytest.mark.parametrize(
    ("source", "destination"),
    [("127.0.0.1", "127.0.0.1"), ("::1", "::1"), ("fe80::1", "fe80::2"), ("odd", SERVICE)],
)
def test_the_node_is_not_asked_about_what_never_leaves_its_namespace(
    kernel: Kernel, start: Start, source: str, destination: str
) -> None:
    lookups = start()
    lookups.ask(attempt("inside", source=source, destination=destination, netns=NETNS))
    lookups.ask(attempt("a"))
    wait_until(lambda: lookups.nat_of("a"), SECONDS, "the answer")
    assert [flow.source.address for _, flow in kernel.asked] == [CLIENT]


def test_the_node_is_asked_about_its_own_loopback(kernel: Kernel, start: Start) -> None:
    lookups = start()
    own = Path(HOST).stat().st_ino
    lookups.ask(attempt("a", source="127.0.0.1", destination="127.0.0.1", netns=own))
    wait_until(lambda: lookups.nat_of("a"), SECONDS, "the answer")
    assert len(kernel.asked) == 1


def test_an_attempt_of_the_node_is_asked_about_once(kernel: Kernel, start: Start) -> None:
    kernel.answer = lambda flow: ENTRY if flow.netns is None else None
    lookups = start()
    lookups.ask(attempt("node's", netns=Path(HOST).stat().st_ino))
    lookups.ask(attempt("a"))
    wait_until(lambda: lookups.nat_of("a"), SECONDS, "the answer")
    assert len(kernel.asked) == 2


def test_a_socket_is_closed_when_it_was_not_used_for_a_while(kernel: Kernel, start: Start) -> None:
    lookups = start(NatLimits(idle_seconds=0.1))
    lookups.ask(attempt("a"))
    wait_until(lambda: lookups.nat_of("a"), SECONDS, "the answer")
    wait_until(lambda: kernel.open_now == 0, SECONDS, "the socket to be closed")
    lookups.ask(attempt("b"))
    wait_until(lambda: lookups.nat_of("b"), SECONDS, "the answer of a new socket")
    assert kernel.opened == [HOST, HOST]


def test_few_sockets_are_open_at_a_time_and_the_oldest_goes_first(kernel: Kernel) -> None:
    sockets = nat_module._Sockets(NatLimits(open_sockets=2))
    places = [nat_module._Place(inode, f"/run/netns/{inode}") for inode in range(3)]
    for now, place in enumerate((places[0], places[1], places[0], places[2])):
        sockets.to(place, float(now))
        assert kernel.open_now <= 2
    assert list(sockets._open) == [0, 2]
    sockets.close()
    assert kernel.open_now == 0


@pytest.mark.usefixtures("kernel")
def test_lookups_end_at_once_while_they_wait_for_their_turn(start: Start) -> None:
    lookups = start(NatLimits(requests_per_second=0.01))
    for name in "ab":
        lookups.ask(attempt(name))
    wait_until(lambda: lookups.nat_of("a"), SECONDS, "the first answer")
    began = time.monotonic()
    lookups.stop()
    assert time.monotonic() - began < 1
    assert ended(lookups)


@pytest.mark.usefixtures("kernel")
def test_lookups_end_at_once_while_nothing_is_asked(start: Start) -> None:
    lookups = start()
    began = time.monotonic()
    lookups.stop()
    lookups.stop()
    assert time.monotonic() - began < 1
    assert ended(lookups)


@pytest.mark.usefixtures("kernel")
def test_lookups_that_never_began_can_be_stopped() -> None:
    lookups = NatLookups(HOST)
    lookups.ask(attempt("a"))
    lookups.stop()
    assert lookups.nat_of("a") is None


@pytest.mark.usefixtures("kernel")
def test_a_node_whose_namespace_is_not_there_is_told(start: Start) -> None:
    lookups = start(host="/proc/self/ns/not-there")
    wait_until(lambda: ended(lookups), SECONDS, "the thread's end")
    assert lookups.lacking is not None
    assert "No such file or directory" in lookups.lacking


def test_the_node_is_where_its_first_process_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(netns_module, "inode_of_process", lambda _pid, _proc: 4026531840)
    assert netns_module.host_path() == "/proc/1/ns/net"


def test_the_node_is_where_the_trace_runs_if_its_first_process_may_not_be_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def denied(_pid: int, _proc: str) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(netns_module, "inode_of_process", denied)
    assert netns_module.host_path() == "/proc/self/ns/net"
