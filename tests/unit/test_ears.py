"""Whose an ICMP error is, and when nobody can say that none came; the kernel is a fake."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.support.evidence import Clock, Network
from tests.support.reports import CLIENT, POD, SECOND, THERE, stuck
from tracer.evidence.ears import MAX_KINDS, REFUSED_SECONDS, Ears
from tracer.facts import IcmpError
from tracer.host.icmp import AboutPacket, NoRawSocket
from tracer.model import Attempt, Endpoint

HOUR_NS = 3_600 * SECOND
ISN = 77
ROUTER = "10.4.0.9"


@pytest.fixture
def network() -> Network:
    return Network()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ears(network: Network, clock: Clock) -> Ears:
    return Ears(network.listener, clock=clock)


def attempt(*, sent_ns: int | None = None, isn: int | None = ISN) -> Attempt:
    """One whose last SYN was sent an hour from now, unless said otherwise."""
    made = stuck().change.attempt
    return replace(made, isn=isn, last_syn_ns=sent_ns or HOUR_NS)


def error(
    code: int = 1,
    *,
    sender: str = ROUTER,
    isn: int = ISN,
    source: Endpoint = CLIENT,
    destination: Endpoint = THERE,
) -> AboutPacket:
    return AboutPacket(4, source, destination, isn, IcmpError(4, 3, code, sender, 1, 5))


def test_an_error_about_its_syn_is_an_attempts(network: Network, ears: Ears) -> None:
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
def test_an_error_about_another_packet_is_not(
    network: Network, ears: Ears, other: AboutPacket
) -> None:
    ears.listen(POD, "/pod")
    network.coming["/pod"] = [other]
    ears.hear()
    assert ears.errors_about(attempt()) == ()


def test_of_an_unknown_sequence_number_the_ends_decide(network: Network, ears: Ears) -> None:
    ears.listen(POD, "/pod")
    network.coming["/pod"] = [error()]
    ears.hear()
    (heard,) = ears.errors_about(attempt(isn=None)) or ()
    assert not heard.proven, "anybody may have guessed them"
    (quoted,) = ears.errors_about(attempt()) or ()
    assert quoted.proven


def test_the_same_ends_in_another_namespace_are_others(network: Network, ears: Ears) -> None:
    ears.listen(POD, "/pod")
    ears.listen(POD + 1, "/other")
    network.coming["/other"] = [error()]
    ears.hear()
    assert ears.errors_about(attempt()) == ()


def test_where_nobody_listens_nothing_is_known(network: Network, ears: Ears) -> None:
    assert ears.errors_about(attempt()) is None
    assert network.opened == []


def test_who_listens_since_after_the_last_syn_cannot_say_that_nothing_came(
    network: Network, ears: Ears
) -> None:
    late = attempt(sent_ns=99 * SECOND)
    ears.listen(POD, "/pod")
    assert ears.errors_about(late) is None
    assert ears.errors_about(replace(late, last_syn_ns=None, started_ns=None)) is None
    network.coming["/pod"] = [error()]
    ears.hear()
    assert len(ears.errors_about(late) or ()) == 1


def test_what_the_buffer_lost_may_have_been_about_any_syn_before(
    network: Network, ears: Ears, clock: Clock
) -> None:
    ears.listen(POD, "/pod")
    clock.now += 5
    before, after = attempt(sent_ns=105 * SECOND - 1), attempt(sent_ns=106 * SECOND)
    assert ears.errors_about(before, now=True) == ()
    network.lost["/pod"] = 3
    network.coming["/pod"] = [error(source=Endpoint(CLIENT.address, 40_001))]
    assert ears.errors_about(before, now=True) is None
    assert ears.errors_about(after, now=True) == ()
    assert ears.lost == 3
    ears.hear()
    assert ears.lost == 3, "counted once"


def test_losses_stay_counted_when_the_listener_is_gone(network: Network, ears: Ears) -> None:
    ears.listen(POD, "/pod")
    network.lost["/pod"] = 3
    ears.quiet(0)
    ears.listen(POD, "/pod")
    network.lost["/pod"] = 1
    ears.hear()
    assert ears.lost == 4


def test_a_kernel_that_does_not_tell_what_it_lost_never_says_that_nothing_came(
    network: Network, ears: Ears
) -> None:
    ears.listen(POD, "/pod")
    network.lost["/pod"] = None
    network.coming["/pod"] = [error(source=Endpoint(CLIENT.address, 40_001))]
    ears.hear()
    assert ears.errors_about(attempt()) is None


def test_what_came_until_now_is_heard_where_that_is_asked_for(network: Network, ears: Ears) -> None:
    ears.listen(POD, "/pod")
    network.coming["/pod"] = [error()]
    assert ears.errors_about(attempt()) == ()
    assert len(ears.errors_about(attempt(), now=True) or ()) == 1


def test_a_namespace_is_listened_to_once_and_let_go_when_nobody_asks(
    network: Network, ears: Ears
) -> None:
    ears.listen(POD, "/pod")
    ears.listen(POD, "/pod")
    assert network.opened == ["/pod"]
    ears.quiet(3_600)
    assert network.closed == []
    ears.quiet(0)
    assert network.closed == ["/pod"]
    assert not ears.open_now
    assert ears.errors_about(attempt()) is None


def test_without_the_right_to_listen_that_is_said_and_not_tried_again(
    network: Network, ears: Ears
) -> None:
    network.refusals["/pod"] = NoRawSocket(1, "no")
    ears.listen(POD, "/pod")
    (lacking,) = ears.lacking
    assert "CAP_NET_RAW" in lacking
    network.refusals.clear()
    ears.listen(POD, "/pod")
    assert network.opened == []


def test_a_namespace_that_may_not_be_entered_is_one_among_others(
    network: Network, ears: Ears, clock: Clock
) -> None:
    network.refusals["/pod"] = PermissionError(1, "no")
    ears.listen(POD, "/pod")
    ears.listen(POD + 1, "/other")
    assert network.opened == ["/other"]
    (lacking,) = ears.lacking
    assert "1 network namespace that may not be entered" in lacking
    network.refusals.clear()
    ears.listen(POD, "/pod")
    assert network.opened == ["/other"], "too soon"
    clock.now += REFUSED_SECONDS
    ears.listen(POD, "/pod")
    assert network.opened == ["/other", "/pod"]
    assert ears.lacking == ()


def test_a_namespace_that_is_gone_is_no_trouble(network: Network, ears: Ears) -> None:
    network.refusals["/pod"] = FileNotFoundError(2, "gone")
    ears.listen(POD, "/pod")
    assert ears.lacking == ()
    network.refusals.clear()
    ears.listen(POD, "/pod")
    network.failure = OSError(100, "network is down")
    ears.hear()
    assert network.closed == ["/pod"]
    assert ears.errors_about(attempt(), now=True) is None


def test_beyond_the_bound_the_last_namespaces_are_not_heard_and_told(
    network: Network, clock: Clock
) -> None:
    ears = Ears(network.listener, max_namespaces=3, clock=clock)
    for _ in range(10):  # rounds
        for number in range(5):
            ears.listen(number, f"/{number}")
        ears.quiet(10)
        clock.now += 1
    assert network.opened == ["/0", "/1", "/2"]
    assert network.closed == []
    (lacking,) = ears.lacking
    assert "2 network namespaces beyond the 3" in lacking
    for _ in range(11):
        for number in (3, 4):
            ears.listen(number, f"/{number}")
        ears.quiet(10)
        clock.now += 1
    assert ears.lacking == ()
    assert sorted(network.closed) == ["/0", "/1", "/2"]


def test_beyond_the_bound_the_oldest_errors_go_and_nobody_can_say_that_none_came(
    network: Network, clock: Clock
) -> None:
    ears = Ears(network.listener, max_heard=2, clock=clock)
    ears.listen(POD, "/pod")
    sources = [Endpoint(CLIENT.address, port) for port in (1, 2, 3)]
    network.coming["/pod"] = [error(source=source) for source in sources]
    clock.now += 1
    ears.hear()
    sent = attempt(sent_ns=101 * SECOND - 1)
    flows = [replace(sent, flow=replace(sent.flow, source=one)) for one in sources]
    told = [ears.errors_about(one) for one in flows]
    assert told[0] is None
    assert [len(one or ()) for one in told] == [0, 1, 1]
    assert ears.lost == 1


def test_forged_errors_do_not_take_the_place_of_the_true_one(network: Network, ears: Ears) -> None:
    ears.listen(POD, "/pod")
    true = error(13)
    forged = [error(13, isn=1), error(1, isn=2)]
    for coming in ([true, *forged], [*forged, true]):
        network.coming["/pod"] = coming
        ears.hear()
    (heard,) = ears.errors_about(attempt()) or ()
    assert (heard.code, heard.count) == (13, 2)


def test_after_very_many_forged_errors_nobody_can_say_that_none_came(
    network: Network, ears: Ears
) -> None:
    ears.listen(POD, "/pod")
    forged = [error(isn=number) for number in range(MAX_KINDS)]
    network.coming["/pod"] = forged
    ears.hear()
    assert ears.errors_about(attempt()) == ()
    network.coming["/pod"] = [error(13)]
    ears.hear()
    assert ears.errors_about(attempt()) is None
    assert ears.lost == 1


def test_of_one_attempt_eight_kinds_are_kept(network: Network, ears: Ears) -> None:
    ears.listen(POD, "/pod")
    network.coming["/pod"] = [error(sender=f"10.9.0.{number}") for number in range(20)]
    ears.hear()
    assert len(ears.errors_about(attempt()) or ()) == MAX_KINDS


def test_closing_closes_everything(network: Network, ears: Ears) -> None:
    ears.listen(POD, "/pod")
    network.coming["/pod"] = [error()]
    ears.hear()
    ears.close()
    assert network.closed == ["/pod"]
    assert ears.errors_about(attempt()) is None
