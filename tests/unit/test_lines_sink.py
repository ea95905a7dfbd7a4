from __future__ import annotations

import fcntl
import io
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TextIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.wait import wait_until
from tracer import __version__
from tracer.model import (
    Attempt,
    Change,
    ChangeKind,
    CrossCheck,
    Destination,
    Endpoint,
    Endpoints,
    Flow,
    Health,
    Kind,
    KubeHealth,
    KubeState,
    Lifecycle,
    LifecycleKind,
    Losses,
    NameSource,
    Nat,
    Outcome,
    Owner,
    PodIdentity,
    Process,
    Rates,
    Report,
    Scope,
    SourceName,
)
from tracer.sinks import lines as lines_module
from tracer.sinks.lines import LinesSink
from tracer.sinks.wording import date_and_time

SECOND = 1_000_000_000
WALL_NS = 1_700_000_000_402_000_000  # 2023-11-14 22:13:20.402 UTC
REPOSITORY = Path(__file__).parents[2]
ANY_TEXT = st.text(st.characters(exclude_categories=()))
SGR = re.compile(r"\x1b\[[0-9;]*m")

SOURCE = Endpoint("10.4.7.21", 41822)
DESTINATION = Endpoint("52.94.10.112", 443)
EXTERNAL = Destination(Scope.EXTERNAL)
HEALTH = Health(
    backend=SourceName.BPF,
    hooks=("tcp_connect", "sock:inet_sock_set_state"),
    lacking=(),
    stuck_now=12,
    tracked_now=12,
    outcomes={Outcome.TIMED_OUT: 1, Outcome.REFUSED: 3},
    became_stuck=52,
    rates=Rates(20311, 20290),
    losses=Losses(),
    crosscheck=CrossCheck(sweeps=4, agreed=40),
)


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Local time is what the machine says: here it says UTC."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


class Gate(io.StringIO):
    """A terminal that takes nothing until it is opened."""

    def __init__(self) -> None:
        super().__init__()
        self.reached = threading.Event()
        self.open = threading.Event()

    def write(self, text: str) -> int:
        self.reached.set()
        assert self.open.wait(20)
        return super().write(text)


def report(
    kind: ChangeKind = ChangeKind.STUCK,
    *,
    source: Endpoint = SOURCE,
    destination: Endpoint = DESTINATION,
    known: Destination = EXTERNAL,
    outcome: Outcome | None = None,
    errno: int | None = None,
    soft_errno: int | None = None,
    comm: str | None = "curl",
    pod_uid: str | None = "9f2c1a7e-0000-4000-8000-000000000001",
    netns: int | None = 4026532201,
    age_seconds: float | None = 1.0,
    wall_ns: int = WALL_NS,
) -> Report:
    attempt = Attempt(
        id="a",
        flow=Flow(netns, 4, source, destination),
        owner=Owner(pid=4123, uid=0, comm=comm),
        detected_by=SourceName.BPF,
        first_seen_ns=1,
        stuck_ns=2,
        syns_sent=2,
        outcome=outcome,
        errno=errno,
        soft_errno=soft_errno,
    )
    return Report(
        change=Change(kind, attempt, 2),
        destination=known,
        process=Process(4123, "curl", pod_uid=pod_uid),
        wall_ns=wall_ns,
        age_seconds=age_seconds,
        next_retry_seconds=None if kind is ChangeKind.END else 1.0,
        pod=None if pod_uid is None else PodIdentity(uid=pod_uid),
    )


def end(outcome: Outcome, errno: int | None = None, *, soft_errno: int | None = None) -> Report:
    return report(
        ChangeKind.END, outcome=outcome, errno=errno, soft_errno=soft_errno, age_seconds=3.0
    )


def lifecycle(
    kind: LifecycleKind,
    health: Health = HEALTH,
    *,
    message: str | None = None,
    uptime_seconds: float = 0.0,
) -> Lifecycle:
    return Lifecycle(kind, WALL_NS, health, uptime_seconds, message)


def shown(*events: Report | Lifecycle, color: bool = False) -> list[str]:
    """The lines of a whole trace."""
    stream = io.StringIO()
    sink = LinesSink(stream, node="node-1", color=color)
    for event in events:
        if isinstance(event, Report):
            sink.write([event])
        else:
            sink.lifecycle(event)
    sink.close()
    assert (sink.dropped, sink.finished) == (0, False)
    return stream.getvalue().splitlines()


def line_of(event: Report) -> str:
    (line,) = shown(event)
    return line


WHOLE_TRACE = (
    lifecycle(LifecycleKind.START, replace(HEALTH, lacking=("kprobes: ports come late",))),
    report(),
    report(ChangeKind.RETRANSMIT),
    end(Outcome.REFUSED, 111),
    end(Outcome.ESTABLISHED),
    lifecycle(LifecycleKind.HEALTH, replace(HEALTH, losses=Losses(ring_full=1))),
    lifecycle(LifecycleKind.STOP, uptime_seconds=170.0, message="stopped by SIGTERM"),
)


def test_an_attempt_that_becomes_stuck_is_one_line_with_all_that_is_known() -> None:
    assert line_of(report()) == (
        "22:13:20.402 STUCK 10.4.7.21:41822       -> 52.94.10.112:443 (external)         "
        "   1.0s 2 SYNs  next 1.0s   curl[4123]         netns 4026532201 pod 9f2c1a7e.."
    )


def test_a_retransmission_is_called_retry() -> None:
    assert " RETRY 10.4.7.21:41822 " in line_of(report(ChangeKind.RETRANSMIT))


@pytest.mark.parametrize(
    ("outcome", "errno", "words"),
    [
        (Outcome.ESTABLISHED, None, " 3.0s 2 SYNs  established curl["),
        (Outcome.REFUSED, 111, " 3.0s 2 SYNs  refused     curl["),
        (Outcome.UNREACHABLE, 113, " 3.0s 2 SYNs  unreachable EHOSTUNREACH curl["),
        (Outcome.TIMED_OUT, 110, " 3.0s 2 SYNs  timed_out   curl["),
        (Outcome.ABORTED, None, " 3.0s 2 SYNs  aborted     curl["),
        (Outcome.LOCAL_ERROR, 99, " 3.0s 2 SYNs  local_error EADDRNOTAVAIL curl["),
        (Outcome.VANISHED, None, " 3.0s 2 SYNs  vanished    curl["),
    ],
)
def test_an_end_says_how_and_with_what_error_where_that_is_news(
    outcome: Outcome, errno: int | None, words: str
) -> None:
    line = line_of(end(outcome, errno))

    assert line.split()[1] == "END"
    assert words in line


def test_an_icmp_error_that_came_before_the_end_is_shown_beside_it() -> None:
    assert " timed_out (soft error EHOSTUNREACH) " in line_of(
        end(Outcome.TIMED_OUT, 110, soft_errno=113)
    )


def test_columns_stand_in_the_same_place_in_every_line() -> None:
    lines = shown(
        report(),
        report(ChangeKind.RETRANSMIT, source=Endpoint("10.0.0.1", None)),
        end(Outcome.REFUSED, 111),
        report(known=Destination(Scope.VPC), destination=Endpoint("255.255.255.255", 65535)),
    )

    places = {
        tuple(line.index(word) for word in (" -> ", " SYNs ", " curl[", " netns ", " pod "))
        for line in lines
    }
    assert len(lines) == 4
    assert len(places) == 1


def test_what_is_unknown_is_a_question_mark() -> None:
    unknown = report(
        source=Endpoint("10.4.7.21", None), comm=None, pod_uid=None, netns=None, age_seconds=None
    )
    attempt = replace(unknown.change.attempt, syns_sent=None, owner=Owner())
    unknown = replace(
        unknown,
        change=replace(unknown.change, attempt=attempt),
        process=None,
        next_retry_seconds=None,
    )

    assert re.sub(" +", " ", line_of(unknown)) == (
        "22:13:20.402 STUCK 10.4.7.21:? -> 52.94.10.112:443 (external) ? ? SYNs next ? ?[?] netns ?"
    )


def test_the_process_name_stands_in_for_an_unknown_comm() -> None:
    assert " curl[4123] " in line_of(report(comm=None))


def test_ipv6_addresses_are_bracketed_and_never_cut() -> None:
    address = "2001:db8:1111:2222:3333:4444:5555:6666"

    line = line_of(report(source=Endpoint(address, 1), destination=Endpoint(address, 443)))

    assert f" [{address}]:1 -> [{address}]:443 (external) " in line
    assert line.endswith("netns 4026532201 pod 9f2c1a7e..")


@pytest.mark.parametrize(
    ("known", "tag"),
    [
        (Destination(Scope.VPC), "(VPC/internal)"),
        (Destination(Scope.LOOPBACK), "(loopback)"),
        (Destination(Scope.LINK_LOCAL), "(link-local)"),
        (
            Destination(Scope.LINK_LOCAL, name="instance metadata"),
            "(link-local, instance metadata)",
        ),
    ],
)
def test_a_destination_is_tagged_with_its_scope_and_its_name(known: Destination, tag: str) -> None:
    assert f":443 {tag} " in line_of(report(known=known))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0ms"),
        (0.0414, "41ms"),
        (0.999, "999ms"),
        (0.9996, "1.0s"),
        (127.26, "127.3s"),
        (-0.2, "0ms"),
        (float("nan"), "?"),
    ],
)
def test_times_below_a_second_are_given_in_milliseconds(seconds: float, text: str) -> None:
    assert f" {text} 2 SYNs " in line_of(report(age_seconds=seconds))


@given(
    comm=ANY_TEXT,
    name=ANY_TEXT,
    pod_uid=ANY_TEXT,
    address=ANY_TEXT,
    kind=st.sampled_from(Kind),
    unit=st.none() | ANY_TEXT,
)
def test_no_text_from_outside_reaches_the_terminal_unescaped(
    comm: str, name: str, pod_uid: str, address: str, kind: Kind, unit: str | None
) -> None:
    stream = io.StringIO()
    sink = LinesSink(stream, node="node-1", color=False)
    nat = Nat(Endpoint(name, 2), comm, replied=False)
    known = Destination(Scope.EXTERNAL, kind, name, nat=nat)
    made = report(comm=comm, pod_uid=pod_uid, known=known, destination=Endpoint(address, 1))
    pod = PodIdentity(name, comm, pod_uid, container=name, name_source=NameSource.CACHE)
    process = Process(4123, comm, unit=unit)

    sink.write([replace(made, pod=None if unit else pod, process=process)])
    sink.lifecycle(with_kube(lifecycle(LifecycleKind.HEALTH), KubeState.DEGRADED, name))
    sink.lifecycle(lifecycle(LifecycleKind.STOP, message=name))
    sink.close()

    lines = stream.getvalue().removesuffix("\n").split("\n")
    assert all(line.isprintable() for line in lines)
    assert [line.startswith("--") for line in lines].count(False) == 1


def with_kube(
    event: Lifecycle, state: KubeState, message: str | None = None, as_of_ns: int | None = None
) -> Lifecycle:
    return replace(event, health=replace(event.health, kube=KubeHealth(state, message, as_of_ns)))


def test_a_pod_is_shown_by_its_name_its_container_and_who_told_it() -> None:
    pod = PodIdentity("shop", "web-0", "9f2c1a7e", container="php", name_source=NameSource.API)

    told = line_of(replace(report(), pod=pod))
    kept = line_of(replace(report(), pod=replace(pod, name_source=NameSource.CACHE)))

    assert told.endswith(" netns 4026532201 pod shop/web-0[php]")
    assert kept.endswith(" netns 4026532201 pod shop/web-0[php] (by cache)")


def test_a_process_of_the_node_is_shown_by_its_unit() -> None:
    process = Process(4123, "curl", unit="sshd.service")

    assert line_of(replace(report(pod_uid=None), process=process)).endswith(" host sshd.service")


@pytest.mark.parametrize(
    ("known", "shown_as"),
    [
        (
            Destination(Scope.VPC, Kind.SERVICE, "shop/db:5432", endpoints=Endpoints(2, 3)),
            "(VPC/internal, service shop/db:5432 2/3 ready)",
        ),
        (
            Destination(Scope.VPC, Kind.SERVICE, "shop/db:5432", endpoints=Endpoints(0, 0)),
            "(VPC/internal, service shop/db:5432 WITHOUT ENDPOINTS)",
        ),
        (Destination(Scope.VPC, Kind.SERVICE, "shop/db"), "(VPC/internal, service shop/db)"),
        (Destination(Scope.VPC, Kind.POD, "shop/db-0"), "(VPC/internal, pod shop/db-0)"),
        (
            Destination(Scope.VPC, Kind.NODE, "n1", ambiguous=True),
            "(VPC/internal, node n1 or a hostNetwork pod on it)",
        ),
        (
            Destination(Scope.VPC, Kind.SERVICE, "shop/db:80", True, Endpoints(0, 3)),
            "(VPC/internal, service shop/db:80 0/3 ready or another service with this address)",
        ),
        (
            Destination(Scope.VPC, Kind.POD, "shop/db-0", ambiguous=True),
            "(VPC/internal, pod shop/db-0 or another pod, or a node's own address)",
        ),
        (
            Destination(
                *(Scope.VPC, Kind.SERVICE, "shop/db:80", False, Endpoints(0, 0)),
                names_wall_ns=WALL_NS,
            ),
            "(VPC/internal, service shop/db:80 without endpoints (as of 2023-11-14 22:13:20))",
        ),
        (
            Destination(
                Scope.VPC,
                Kind.SERVICE,
                "shop/db:5432",
                nat=Nat(Endpoint("10.4.100.50", 5432), "SYN_SENT", replied=False),
            ),
            "(VPC/internal, service shop/db:5432 -> 10.4.100.50:5432)",
        ),
        (
            Destination(Scope.VPC, nat=Nat(DESTINATION, "SYN_SENT", replied=False)),
            "(VPC/internal)",
        ),
    ],
)
def test_a_destination_is_shown_by_what_is_known_of_it(known: Destination, shown_as: str) -> None:
    assert f" -> 52.94.10.112:443 {shown_as} " in line_of(report(known=known))


def test_where_names_come_from_is_told_when_it_changes() -> None:
    health = lifecycle(LifecycleKind.HEALTH)
    lines = shown(
        with_kube(health, KubeState.CONNECTING),
        with_kube(health, KubeState.DEGRADED, "the API server does not answer", WALL_NS),
        with_kube(health, KubeState.DEGRADED, "the API server does not answer", WALL_NS),
        with_kube(health, KubeState.SYNCED),
        lifecycle(LifecycleKind.STOP),
    )

    assert [line for line in lines if line.startswith("-- names: ")] == [
        f"-- names: the API server does not answer; as of {date_and_time(WALL_NS)}",
        "-- names: from the API server, up to date",
    ]


def test_stale_name_of_today_is_told_with_its_time_alone() -> None:
    now_ns = time.time_ns()
    known = Destination(Scope.VPC, Kind.POD, "shop/db-0", names_wall_ns=now_ns)
    clock = time.strftime("%H:%M:%S", time.localtime(now_ns // 10**9))

    assert f"pod shop/db-0 (as of {clock})) " in line_of(report(known=known))


def test_what_is_short_of_perfect_is_told_of_names_that_are_up_to_date() -> None:
    health = lifecycle(LifecycleKind.HEALTH)
    lines = shown(
        *(with_kube(health, KubeState.SYNCED, f"{count} objects have no name") for count in (7, 8)),
        with_kube(health, KubeState.SYNCED),
    )

    assert [line for line in lines if line.startswith("-- names: ")] == [
        "-- names: 7 objects have no name",
        "-- names: from the API server, up to date",
    ]


def test_attempts_that_no_line_tells_of_are_counted_at_the_end() -> None:
    *_, line = shown(lifecycle(LifecycleKind.STOP, replace(HEALTH, withheld=5, own_connects=3)))

    assert (
        " 1 timed_out; not shown, since their pod's name or labels are not known: 5;"
        " its own connects to the API server: 3; connects 20311 begun,"
    ) in line


def test_markup_in_a_name_is_shown_as_it_is() -> None:
    known = Destination(Scope.EXTERNAL, name="[red]x[/red] :smile:")

    lines = shown(report(known=known), lifecycle(LifecycleKind.STOP), color=True)

    assert sum("(external, [red]x[/red] :smile:)" in line for line in lines) == 2


def test_without_colour_no_control_sequence_is_written() -> None:
    assert all(line.isprintable() for line in shown(*WHOLE_TRACE))


def test_colour_changes_nothing_but_the_colours() -> None:
    coloured = shown(*WHOLE_TRACE, color=True)

    assert any(SGR.search(line) for line in coloured)
    assert [SGR.sub("", line).rstrip() for line in coloured] == shown(*WHOLE_TRACE)


def test_words_are_coloured_by_what_they_mean() -> None:
    stuck, retry, refused, established = shown(*WHOLE_TRACE[1:5], color=True)

    assert "\x1b[1;31mSTUCK\x1b[0m" in stuck
    assert "\x1b[33mRETRY\x1b[0m" in retry
    assert "\x1b[31mEND  \x1b[0m" in refused
    assert "\x1b[32mEND  \x1b[0m" in established


def test_the_plain_path_does_not_pay_for_rich_before_the_end() -> None:
    program = """
import sys
from tests.unit.test_lines_sink import WHOLE_TRACE, Report
from tracer.sinks.lines import LinesSink
from tracer.sinks.wording import date_and_time

sink = LinesSink(sys.stdout, node="node-1", color=False)
for event in WHOLE_TRACE[:-1]:
    if isinstance(event, Report):
        sink.write([event])
    else:
        sink.lifecycle(event)
assert "rich" not in sys.modules
sink.close()
"""

    result = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, cwd=REPOSITORY
    )

    assert result.stdout.count("\n") == 9


def test_the_banner_says_where_since_when_and_through_what() -> None:
    health = replace(HEALTH, stuck_now=0, lacking=("kprobes: ports come late", "x: y"))

    assert shown(lifecycle(LifecycleKind.START, health, message="a sentence")) == [
        f"-- synsent-trace {__version__} on node-1",
        (
            "-- started 2023-11-14 22:13:20 +0000; observing through bpf"
            " (tcp_connect, sock:inet_sock_set_state)"
        ),
        "-- lacking: kprobes: ports come late",
        "-- lacking: x: y",
        "-- a sentence",
        "-- watching; nothing is stuck",
    ]


def test_the_banner_says_what_was_stuck_before() -> None:
    assert shown(lifecycle(LifecycleKind.START))[-1] == "-- watching; 12 stuck already"


def test_health_is_one_calm_line_when_nothing_is_lost() -> None:
    assert shown(lifecycle(LifecycleKind.HEALTH)) == [
        (
            "-- 22:13:20 stuck 12 (peak 12), became stuck 52, ended: 3 refused, 1 timed_out;"
            " connects 20311 begun, 20290 established at once; cross-check agrees; losses: none"
        )
    ]


def test_what_has_happened_is_summed_up_every_ten_seconds_whether_there_is_news_or_not() -> None:
    stream = io.StringIO()
    wall = iter(range(WALL_NS, WALL_NS + 100 * SECOND, SECOND))
    sink = LinesSink(stream, node="node-1", color=False, wall=lambda: next(wall))
    for second in range(1, 36):
        sink.pulse(HEALTH, float(second))
        if second == 15:
            sink.lifecycle(lifecycle(LifecycleKind.HEALTH, uptime_seconds=15.0))
    sink.close()

    lines = stream.getvalue().splitlines()
    assert len(lines) == 4, "after 10, 15 (there was news), 25 and 35 seconds"
    assert all(line.endswith(shown(lifecycle(LifecycleKind.HEALTH))[0][11:]) for line in lines)


def test_sums_go_on_where_another_trace_begins_in_a_recording() -> None:
    stream = io.StringIO()
    sink = LinesSink(stream, node="node-1", color=False)
    for seconds in (900.0, 1.0, 5.0, 11.0):
        sink.pulse(HEALTH, seconds)
    sink.close()
    assert len(stream.getvalue().splitlines()) == 2


def test_health_names_every_loss_and_disagreement_that_is_not_zero() -> None:
    health = replace(
        HEALTH,
        outcomes={},
        rates=Rates(),
        losses=Losses(ring_full=7, output_dropped=3),
        crosscheck=CrossCheck(sweeps=4, missed=2, unended=1),
    )

    (line,) = shown(lifecycle(LifecycleKind.HEALTH, health))

    assert line.endswith(
        "ended: none; connects ? begun, ? established at once; cross-check: 2 missed, 1 unended;"
        " losses: 7 ring_full, 3 output_dropped"
    )


@pytest.mark.parametrize(
    ("health", "alarming"),
    [
        (HEALTH, False),
        (replace(HEALTH, losses=Losses(undecodable=1)), True),
        (replace(HEALTH, crosscheck=CrossCheck(sweeps=1, missed=1)), True),
        (replace(HEALTH, crosscheck=CrossCheck(sweeps=1, before_start=1)), False),
    ],
)
def test_health_draws_the_eye_only_when_something_is_lost(health: Health, alarming: bool) -> None:
    (line,) = shown(lifecycle(LifecycleKind.HEALTH, health), color=True)

    assert ("\x1b[" in line) is alarming


def test_a_trace_that_was_never_cross_checked_does_not_claim_to_agree() -> None:
    health = replace(HEALTH, crosscheck=CrossCheck())

    (line,) = shown(lifecycle(LifecycleKind.HEALTH, health))

    assert "; no cross-check; " in line


def test_polling_alone_has_nothing_that_a_cross_check_could_agree_with() -> None:
    health = replace(HEALTH, backend=SourceName.SOCK_DIAG, crosscheck=CrossCheck(sweeps=3))

    (line,) = shown(lifecycle(LifecycleKind.HEALTH, health))

    assert line.endswith("established at once; losses: none")


@pytest.mark.parametrize("kind", [LifecycleKind.HEALTH, LifecycleKind.STOP])
def test_what_is_lacking_since_the_start_is_said_once(kind: LifecycleKind) -> None:
    def lacking(kind: LifecycleKind, *texts: str) -> Lifecycle:
        return lifecycle(kind, replace(HEALTH, lacking=texts))

    lines = shown(
        lacking(LifecycleKind.START, "kprobes: late"),
        lacking(kind, "kprobes: late", "2 namespaces: unreadable"),
        lacking(kind, "kprobes: late", "2 namespaces: unreadable"),
    )

    assert [line for line in lines if "lacking" in line] == [
        "-- lacking: kprobes: late",
        "-- lacking: 2 namespaces: unreadable",
    ]
    assert lines.index("-- lacking: 2 namespaces: unreadable") > lines.index(
        "-- watching; 12 stuck already"
    )


def test_a_number_that_moves_is_no_news_of_what_is_lacking() -> None:
    counted = (
        lifecycle(LifecycleKind.HEALTH, replace(HEALTH, lacking=(f"{count} namespaces",)))
        for count in (3, 4, 11)
    )

    lines = shown(*counted)

    assert [line for line in lines if "lacking" in line] == ["-- lacking: 3 namespaces"]


def test_the_peak_is_the_most_that_were_stuck_at_once_even_between_health_lines() -> None:
    before = lifecycle(LifecycleKind.HEALTH, replace(HEALTH, stuck_now=2))
    after = lifecycle(LifecycleKind.HEALTH, replace(HEALTH, stuck_now=1))
    refused = end(Outcome.REFUSED, 111)

    lines = shown(before, refused, report(), report(), refused, refused, after)

    assert "stuck 1 (peak 3)" in lines[-1]


def test_a_new_day_is_announced() -> None:
    two_hours = 7200 * 10**9

    lines = shown(
        lifecycle(LifecycleKind.START),
        report(),
        report(wall_ns=WALL_NS + two_hours),
        report(wall_ns=WALL_NS + two_hours),
    )

    assert [line for line in lines if line.startswith("-- 2023")] == ["-- 2023-11-15"]
    assert lines[-3] == "-- 2023-11-15"
    assert lines[-2].startswith("00:13:20.402 STUCK")


def test_a_day_that_began_after_the_banner_is_announced_before_the_first_change() -> None:
    later = report(wall_ns=WALL_NS + 7200 * 10**9)

    assert shown(lifecycle(LifecycleKind.START), later)[-2] == "-- 2023-11-15"


def test_the_end_sums_up_the_trace() -> None:
    assert shown(*WHOLE_TRACE)[-5:] == [
        "-- stopped 2023-11-14 22:13:20 +0000 after 2m50s",
        "-- stopped by SIGTERM",
        (
            "-- still stuck 12 (peak 13), became stuck 52, ended: 3 refused, 1 timed_out;"
            " connects 20311 begun, 20290 established at once; cross-check agrees; losses: none"
        ),
        "-- top destinations             netns  pods  became stuck  ended",
        "-- 52.94.10.112:443 (external)      1     1             1  1 established, 1 refused",
    ]


def test_a_trace_without_attempts_ends_without_a_table() -> None:
    assert len(shown(lifecycle(LifecycleKind.STOP, uptime_seconds=3723.0))) == 2


def test_the_worst_destinations_come_first_and_the_rest_is_counted() -> None:
    reports = [
        report(destination=Endpoint(f"10.0.0.{number}", 443), netns=number)
        for number in range(15)
        for _ in range(number + 1)
    ]

    lines = shown(*reports, lifecycle(LifecycleKind.STOP))

    table = lines[next(i for i, line in enumerate(lines) if "top destinations" in line) + 1 :]
    assert [line.split()[1] for line in table[:-1]] == [
        f"10.0.0.{number}:443" for number in range(14, 4, -1)
    ]
    assert table[-1] == "-- and 5 more destinations"


def test_the_table_counts_the_pods_and_namespaces_of_a_destination() -> None:
    address = "2001:db8:1111:2222:3333:4444:5555:6666"
    reports = [
        report(destination=Endpoint(address, 443), netns=number % 3, pod_uid=f"uid-{number % 2}")
        for number in range(6)
    ]
    unknown = report(netns=None, pod_uid=None)

    lines = shown(*reports, unknown, lifecycle(LifecycleKind.STOP))

    assert lines[-2].split() == ["--", f"[{address}]:443", "(external)", "3", "2", "6", "none"]
    assert lines[-1].split() == ["--", "52.94.10.112:443", "(external)", "?", "?", "1", "none"]


def test_the_table_calls_a_destination_by_what_was_known_of_it_last() -> None:
    named = Destination(Scope.EXTERNAL, Kind.SERVICE, "shop/db:443")

    lines = shown(report(), report(known=named), lifecycle(LifecycleKind.STOP))

    assert "(external, service shop/db:443) " in lines[-1]


def test_many_members_of_a_destination_are_said_to_be_at_least_so_many() -> None:
    reports = [report(netns=number) for number in range(150)]

    assert shown(*reports, lifecycle(LifecycleKind.STOP))[-1].split()[3] == "100+"


def test_destinations_beyond_the_bound_are_summed_as_other() -> None:
    stream = io.StringIO()
    sink = LinesSink(stream, node="node-1", color=False)
    everywhere = [
        report(destination=Endpoint(f"10.0.{number // 250}.{number % 250}", 443))
        for number in range(1004)
    ]

    sink.write(everywhere)
    sink.write(
        [report(ChangeKind.END, destination=Endpoint("10.9.9.9", 1), outcome=Outcome.REFUSED)]
    )
    sink.lifecycle(lifecycle(LifecycleKind.STOP))
    sink.close()

    *_, other, more = stream.getvalue().splitlines()
    assert re.fullmatch(
        r"-- other \(beyond the first 1000 destinations\) +1 +1 +4  1 refused", other
    )
    assert more == "-- and 990 more destinations"


def test_a_terminal_that_takes_nothing_does_not_hold_up_the_trace() -> None:
    gate = Gate()
    sink = LinesSink(gate, node="node-1", color=False)
    sink.write([report()])
    assert gate.reached.wait(20)

    sink.write([report()] * 10_500)
    sink.write([report()] * 3)
    sink.lifecycle(lifecycle(LifecycleKind.HEALTH))

    assert sink.dropped == 504
    assert gate.getvalue() == ""
    gate.open.set()
    sink.close()


def test_a_gap_is_marked_where_it_is_with_its_size() -> None:
    gate = Gate()
    sink = LinesSink(gate, node="node-1", color=False)
    sink.write([report()])
    assert gate.reached.wait(20)
    sink.write([report()] * 10_500)

    gate.open.set()
    wait_until(lambda: gate.getvalue().count("STUCK") == 10_001, 20, "the queue to be written")
    sink.write([report(ChangeKind.RETRANSMIT)])
    sink.close()

    lines = gate.getvalue().splitlines()
    assert lines[10_001] == "-- ... 500 lines not shown"
    assert " RETRY " in lines[10_002]
    assert len(lines) == 10_003
    assert sink.dropped == 500


def test_a_gap_at_the_very_end_is_marked_too() -> None:
    gate = Gate()
    sink = LinesSink(gate, node="node-1", color=False)
    sink.write([report()])
    assert gate.reached.wait(20)
    sink.write([report()] * 10_001)

    gate.open.set()
    sink.close()

    assert gate.getvalue().endswith("\n-- ... 1 lines not shown\n")


def test_the_summary_is_shown_even_when_the_queue_is_full() -> None:
    gate = Gate()
    sink = LinesSink(gate, node="node-1", color=False)
    sink.write([report()])
    assert gate.reached.wait(20)
    sink.write([report()] * 10_001)
    sink.lifecycle(lifecycle(LifecycleKind.STOP))

    gate.open.set()
    sink.close()

    assert "\n-- still stuck 12 " in gate.getvalue()
    assert sink.dropped == 1


def writing_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "lines"]


def pipe() -> tuple[int, TextIO]:
    reader, writer = os.pipe()
    return reader, os.fdopen(writer, "w")


def test_closing_does_not_wait_for_a_stopped_terminal_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lines_module, "CLOSE_SECONDS", 0.05)
    reader, stream = pipe()
    sink = LinesSink(stream, node="node-1", color=False)
    sink.write([report()] * 5_000)

    started = time.monotonic()
    sink.close()

    assert time.monotonic() - started < 10
    dropped = sink.dropped
    taken = fcntl.fcntl(reader, fcntl.F_GETPIPE_SZ) // len(line_of(report()) + "\n")
    assert 5_000 - taken <= dropped < 5_000
    os.close(reader)  # lets the thread go
    wait_until(lambda: not writing_threads(), 20, "the thread to end")
    stream.close()
    assert sink.dropped == dropped


@pytest.mark.parametrize("error", [BrokenPipeError(32, "gone"), OSError(28, "full")])
def test_lines_given_up_at_the_close_are_counted_once(
    error: OSError, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing(Gate):
        def write(self, text: str) -> int:
            super().write(text)
            raise error

    monkeypatch.setattr(lines_module, "CLOSE_SECONDS", 0.05)
    gate = Failing()
    sink = LinesSink(gate, node="node-1", color=False)
    sink.write([report()])
    assert gate.reached.wait(20)
    sink.write([report()] * 2)

    sink.close()
    sink.close()
    gate.open.set()
    wait_until(lambda: not writing_threads(), 20, "the thread to end")

    assert sink.dropped == 3


def test_a_pipe_without_a_reader_finishes_the_output() -> None:
    reader, stream = pipe()
    sink = LinesSink(stream, node="node-1", color=False)
    os.close(reader)

    sink.write([report()] * 3)
    wait_until(lambda: sink.finished, 20, "the closed pipe to be noticed")
    sink.write([report()] * 2)
    sink.lifecycle(lifecycle(LifecycleKind.STOP))
    sink.close()

    assert sink.dropped >= 5
    stream.close()  # nothing is left in it that would complain


def test_a_reader_that_went_away_is_noticed_without_writing() -> None:
    reader, stream = pipe()
    sink = LinesSink(stream, node="node-1", color=False)
    before = sink.finished
    os.close(reader)

    assert (before, sink.finished) == (False, True)
    sink.close()
    stream.close()


def test_a_closed_stream_finishes_the_output() -> None:
    stream = io.StringIO()
    sink = LinesSink(stream, node="node-1", color=False)
    stream.close()

    sink.write([report()])

    wait_until(lambda: sink.finished, 20, "the closed stream to be noticed")
    assert sink.dropped == 1
    sink.close()


def test_a_full_disk_is_said_once_and_its_lines_are_counted() -> None:
    said: list[str] = []
    with open("/dev/full", "w") as stream:
        sink = LinesSink(stream, node="node-1", color=False, notify=said.append)
        sink.write([report()])
        wait_until(lambda: sink.dropped == 1, 20, "the first line to be counted")
        sink.write([report()])
        wait_until(lambda: sink.dropped == 2, 20, "the second line to be counted")
        sink.close()

    assert not sink.finished
    assert said == [
        "cannot write lines: No space left on device; tracing goes on; lines are counted as dropped"
    ]


def test_a_stream_that_fails_to_the_end_is_not_tried_again_and_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls: list[int] = []

    def failing(fd: int, _data: bytes) -> int:
        calls.append(fd)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", failing)
    with (tmp_path / "out").open("w") as stream:
        sink = LinesSink(stream, node="node-1", color=False)
        sink.write([report()])
        wait_until(lambda: sink.dropped == 1, 20, "the line to be counted")
        sink.close()

    assert len(calls) == 1


def test_lines_lost_to_a_full_disk_are_marked_once_there_is_room(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "out"
    write = os.write
    full = threading.Event()
    full.set()

    def writing(fd: int, data: bytes) -> int:
        if full.is_set():
            raise OSError(28, "No space left on device")
        return write(fd, data)

    monkeypatch.setattr(os, "write", writing)
    with path.open("w") as stream:
        sink = LinesSink(stream, node="node-1", color=False)
        sink.write([report()] * 3)
        wait_until(lambda: sink.dropped == 3, 20, "the lines to be counted")
        full.clear()
        sink.write([report()])
        sink.close()

    lines = path.read_text().splitlines()
    assert lines[0] == "-- ... 3 lines not shown"
    assert len(lines) == 2
    assert sink.dropped == 3


def test_a_line_cut_by_a_full_disk_does_not_spoil_the_next_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "out"
    write = os.write
    answers: list[int | None] = [20, None]

    def writing(fd: int, data: bytes) -> int:
        if not answers:
            return write(fd, data)
        size = answers.pop(0)
        if size is None:
            raise OSError(28, "No space left on device")
        return write(fd, data[:size])

    monkeypatch.setattr(os, "write", writing)
    with path.open("w") as stream:
        sink = LinesSink(stream, node="node-1", color=False)
        sink.write([report()])
        wait_until(lambda: sink.dropped == 1, 20, "the line to be counted")
        sink.write([report()])
        sink.close()

    assert path.read_text().splitlines() == [
        line_of(report())[:20],
        "-- ... 1 lines not shown",
        line_of(report()),
    ]


def test_a_terminal_without_utf_8_shows_escapes() -> None:
    data = io.BytesIO()
    stream = io.TextIOWrapper(data, encoding="ascii")
    sink = LinesSink(stream, node="node-1", color=False)

    sink.write([report(comm="日本")])
    sink.close()

    assert rb" \u65e5\u672c[4123] " in data.getvalue()
    assert sink.dropped == 0


def test_a_terminal_that_others_made_non_blocking_gets_everything() -> None:
    reader, stream = pipe()
    os.set_blocking(stream.fileno(), False)
    sink = LinesSink(stream, node="node-1", color=False)
    sink.write([report()] * 5_000)

    read = b""
    while read.count(b"\n") < 5_000:
        read += os.read(reader, 1 << 16)
    sink.close()

    assert sink.dropped == 0
    stream.close()
    os.close(reader)


def test_what_was_in_the_stream_before_comes_before() -> None:
    reader, stream = pipe()
    stream.write("before\n")
    sink = LinesSink(stream, node="node-1", color=False)
    sink.write([report()])
    sink.close()
    stream.close()

    with os.fdopen(reader) as written:
        assert written.readline() == "before\n"


def test_nothing_is_written_after_the_close() -> None:
    stream = io.StringIO()
    sink = LinesSink(stream, node="node-1", color=False)
    sink.close()

    sink.write([report()])
    sink.close()

    assert stream.getvalue() == ""
    assert sink.dropped == 1


@pytest.mark.parametrize("leaves", [True, False], ids=["leaves", "stops reading"])
def test_a_process_ends_cleanly_when_its_reader(leaves: bool) -> None:
    program = """
import sys
from tests.unit.test_lines_sink import report
from tracer.sinks import lines

lines.CLOSE_SECONDS = 0.1
sink = lines.LinesSink(sys.stdout, node="node-1", color=False)
while not sink.finished and not sink.dropped:
    sink.write([report()] * 100)
sink.close()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=REPOSITORY,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert b" STUCK " in process.stdout.readline()

    if leaves:
        process.stdout.close()

    wait_until(lambda: process.poll() is not None, 20, "the process to end")
    assert (process.returncode, process.stderr.read()) == (0, b"")
    process.stdout.close()
    process.stderr.close()
