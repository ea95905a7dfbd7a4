"""Whose an ICMP error is, and when nobody can say that none came; the kernel is a fake."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

import pytest

from tests.support.reports import CLIENT, POD, THERE, stuck
from tracer.evidence import ears as ears_module
from tracer.evidence.ears import MAX_HEARD, MAX_NAMESPACES, Ears
from tracer.facts import IcmpError
from tracer.host.icmp import AboutPacket
from tracer.model import Attempt, Endpoint

HOUR_NS = 3_600 * 1_000_000_000
ISN = 77
ROUTER = "10.4.0.9"


@dataclass
class Network:
    """What comes next, by the namespace's path; the listeners that were opened."""

    coming: dict[str, list[AboutPacket]] = field(default_factory=dict)
    opened: list[str] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)
    refusal: OSError | None = None
    failure: OSError | None = None

    def listener(self, path: str) -> Listener:
        if self.refusal is not None:
            raise self.refusal
        self.opened.append(path)
        return Listener(self, path)


@dataclass
class Listener:
    network: Network
    path: str

    def read(self) -> list[AboutPacket]:
        if self.network.failure is not None:
            raise self.network.failure
        return self.network.coming.pop(self.path, [])

    def close(self) -> None:
        self.network.closed.append(self.path)


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Network:
    made = Network()
    monkeypatch.setattr(ears_module, "IcmpListener", made.listener)
    return made


def attempt(*, sent_ns: int | None = None, isn: int | None = ISN) -> Attempt:
    """One whose last SYN was sent an hour from now, unless said otherwise."""
    made = stuck().change.attempt
    return replace(made, isn=isn, last_syn_ns=sent_ns or time.monotonic_ns() + HOUR_NS)


def error(
    code: int = 1,
    *,
    sender: str = ROUTER,
    isn: int = ISN,
    source: Endpoint = CLIENT,
    destination: Endpoint = THERE,
) -> AboutPacket:
    return AboutPacket(4, source, destination, isn, IcmpError(4, 3, code, sender, 1, 5))


def test_an_error_about_its_syn_is_an_attempts(network: Network) -> None:
    ears = Ears()
    ears.listen(POD, "/pod")
    network.coming["/pod"] = [error(), error(), error(13)]
    ears.hear()
    heard = ears.errors_about(attempt())
    assert heard is not None
    assert [(one.code, one.sender, one.count) for one in heard] == [(1, ROUTER, 2), (13, ROUTER, 1)]


@pytest.mark.parametrize(
    "other",
    [
        error(isn=ISN + 1),
        error(source=Endpoint(CLIENT.address, 40_001)),
        error(destination=Endpoint(THERE.address, 444)),
        error(destination=Endpoint("10.4.100.51", 443)),
    ],
)
def test_an_error_about_another_packet_is_not(network: Network, other: AboutPacket) -> None:
    ears = Ears()
    ears.listen(POD, "/pod")
    network.coming["/pod"] = [other]
    ears.hear()
    assert ears.errors_about(attempt()) == ()


def test_of_an_unknown_sequence_number_the_ends_decide(network: Network) -> None:
    ears = Ears()
    ears.listen(POD, "/pod")
    network.coming["/pod"] = [error()]
    ears.hear()
    assert len(ears.errors_about(attempt(isn=None)) or ()) == 1


def test_the_same_ends_in_another_namespace_are_others(network: Network) -> None:
    ears = Ears()
    ears.listen(POD, "/pod")
    ears.listen(POD + 1, "/other")
    network.coming["/other"] = [error()]
    ears.hear()
    assert ears.errors_about(attempt()) == ()


def test_where_nobody_listens_nothing_is_known(network: Network) -> None:
    ears = Ears()
    assert ears.errors_about(attempt()) is None
    assert network.opened == []


def test_who_listens_since_after_the_last_syn_cannot_say_that_nothing_came(
    network: Network,
) -> None:
    ears = Ears()
    late = attempt(sent_ns=time.monotonic_ns())
    ears.listen(POD, "/pod")
    assert ears.errors_about(late) is None
    assert ears.errors_about(replace(late, last_syn_ns=None, started_ns=None)) is None
    network.coming["/pod"] = [error()]
    ears.hear()
    assert len(ears.errors_about(late) or ()) == 1


def test_what_came_until_now_is_heard_where_that_is_asked_for(network: Network) -> None:
    ears = Ears()
    ears.listen(POD, "/pod")
    network.coming["/pod"] = [error()]
    assert ears.errors_about(attempt()) == ()
    assert len(ears.errors_about(attempt(), now=True) or ()) == 1


def test_a_namespace_is_listened_to_once_and_let_go_when_nobody_asks(network: Network) -> None:
    ears = Ears()
    ears.listen(POD, "/pod")
    ears.listen(POD, "/pod")
    assert network.opened == ["/pod"]
    ears.quiet(3_600)
    assert network.closed == []
    ears.quiet(0)
    assert network.closed == ["/pod"]
    assert not ears.open_now
    assert ears.errors_about(attempt()) is None


def test_without_the_right_to_listen_that_is_said_and_not_tried_again(network: Network) -> None:
    network.refusal = PermissionError(1, "no")
    ears = Ears()
    ears.listen(POD, "/pod")
    assert ears.lacking is not None
    assert "CAP_NET_RAW" in ears.lacking
    network.refusal = None
    ears.listen(POD, "/pod")
    assert network.opened == []


def test_a_namespace_that_is_gone_is_no_trouble(network: Network) -> None:
    network.refusal = FileNotFoundError(2, "gone")
    ears = Ears()
    ears.listen(POD, "/pod")
    assert ears.lacking is None
    network.refusal = None
    ears.listen(POD, "/pod")
    network.failure = OSError(100, "network is down")
    ears.hear()
    assert network.closed == ["/pod"]
    assert ears.errors_about(attempt(), now=True) is None


def test_beyond_the_bounds_the_oldest_go(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    ears = Ears()
    for number in range(MAX_NAMESPACES + 1):
        ears.listen(number, f"/{number}")
    assert network.closed == ["/0"]
    monkeypatch.setattr(ears_module, "MAX_HEARD", 2)
    assert MAX_HEARD > 2
    sources = [Endpoint(CLIENT.address, port) for port in (1, 2, 3)]
    network.coming["/1"] = [error(source=source) for source in sources]
    ears.hear()
    flows = [
        replace(attempt(), flow=replace(attempt().flow, netns=1, source=one)) for one in sources
    ]
    assert [len(ears.errors_about(one) or ()) for one in flows] == [0, 1, 1]


def test_of_one_attempt_eight_kinds_are_kept(network: Network) -> None:
    ears = Ears()
    ears.listen(POD, "/pod")
    network.coming["/pod"] = [error(sender=f"10.9.0.{number}") for number in range(20)]
    ears.hear()
    assert len(ears.errors_about(attempt()) or ()) == 8


def test_closing_closes_everything(network: Network) -> None:
    ears = Ears()
    ears.listen(POD, "/pod")
    network.coming["/pod"] = [error()]
    ears.hear()
    ears.close()
    assert network.closed == ["/pod"]
    assert ears.errors_about(attempt()) is None
