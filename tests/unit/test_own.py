"""This program's own connects are left out, and counted for themselves."""

from __future__ import annotations

from dataclasses import replace

from tracer.enrich.own import OwnConnects
from tracer.model import (
    Attempt,
    Change,
    ChangeKind,
    Destination,
    Endpoint,
    Flow,
    Health,
    Outcome,
    Owner,
    Process,
    Report,
    Scope,
    SourceName,
)

OWN, OTHER = 4123, 4124
STUCK, RETRANSMIT, END = ChangeKind.STUCK, ChangeKind.RETRANSMIT, ChangeKind.END
HEALTH = Health(
    SourceName.BPF, (), (), 3, 5, outcomes={Outcome.REFUSED: 2, Outcome.ABORTED: 1}, became_stuck=4
)


def report(
    kind: ChangeKind,
    attempt_id: str = "a",
    pid: int | None = OWN,
    *,
    read_pid: int | None = None,
    stuck: bool = True,
    source: SourceName = SourceName.BPF,
) -> Report:
    flow = Flow(1, 4, Endpoint("10.4.7.21", 40_000), Endpoint("10.4.0.1", 443))
    outcome = Outcome.REFUSED if kind is END else None
    attempt = Attempt(
        *(attempt_id, flow, Owner(pid=pid), source, 1),
        stuck_ns=2 if stuck else None,
        outcome=outcome,
    )
    process = None if read_pid is None else Process(read_pid)
    return Report(Change(kind, attempt, 3), Destination(Scope.VPC), process, 4, None, None)


def own_connects(*, as_the_kernel_counts: bool = True) -> OwnConnects:
    return OwnConnects(OWN, as_the_kernel_counts=as_the_kernel_counts)


def test_own_attempts_are_left_out_from_their_first_to_their_last_change() -> None:
    own, others = own_connects(), [report(STUCK, "b", OTHER), report(END, "b", OTHER)]
    mine = [report(STUCK), report(RETRANSMIT), report(END)]
    assert own.leave_out([*mine, *others, *mine]) == others
    assert own._live == {}


def test_own_attempts_are_taken_off_every_count_and_counted_once() -> None:
    own = own_connects()
    own.leave_out([report(STUCK), report(RETRANSMIT), report(END, "b", stuck=False)])
    assert own.without(HEALTH) == replace(
        HEALTH,
        stuck_now=2,
        tracked_now=4,
        became_stuck=3,
        outcomes={Outcome.REFUSED: 1, Outcome.ABORTED: 1},
        own_connects=2,
    )


def test_polls_own_sockets_are_known_by_the_process_that_was_found() -> None:
    own = own_connects(as_the_kernel_counts=False)
    found = report(STUCK, pid=None, read_pid=OWN, source=SourceName.SOCK_DIAG)
    assert own.leave_out([found]) == []


def test_attempt_that_was_told_before_its_process_was_known_is_told_to_its_end() -> None:
    own = own_connects()
    told = [report(STUCK, pid=None), report(RETRANSMIT), report(END)]
    assert own.leave_out(told) == told
    assert own.without(HEALTH) == HEALTH


def test_number_of_another_pid_namespace_hides_nobody() -> None:
    told = [report(STUCK)]
    assert own_connects(as_the_kernel_counts=False).leave_out(told) == told
