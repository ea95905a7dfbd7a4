"""A board with a clock that stands still, and attempts to put on it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from tracer.board import Board, BoardLimits
from tracer.model import (
    NANOSECONDS,
    Attempt,
    Cause,
    Change,
    ChangeKind,
    Confidence,
    CrossCheck,
    Destination,
    Endpoint,
    Endpoints,
    Evidence,
    Flow,
    Health,
    Kind,
    KubeHealth,
    KubeState,
    Lifecycle,
    LifecycleKind,
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
    Verdict,
    Workload,
)
from tracer.snapshot import Snapshot

WALL_NS = 1_700_000_000 * NANOSECONDS  # 2023-11-14 22:13:20 UTC
START_NS = 10_000 * NANOSECONDS
EXTERNAL = Destination(Scope.EXTERNAL)
HEALTH = Health(
    backend=SourceName.BPF,
    hooks=("sock:inet_sock_set_state", "tcp:tcp_retransmit_skb"),
    lacking=(),
    stuck_now=0,
    tracked_now=0,
    rates=Rates(20_311, 20_290),
    crosscheck=CrossCheck(sweeps=4, agreed=40),
    kube=KubeHealth(KubeState.SYNCED),
)


def pod(namespace: str = "shop", name: str = "web-0", workload: str | None = "web") -> PodIdentity:
    return PodIdentity(
        namespace=namespace,
        name=name,
        uid=f"uid-{namespace}-{name}",
        node="node-1",
        container="main",
        workload=Workload("Deployment", workload) if workload else None,
        name_source=NameSource.API,
    )


def verdict(
    cause: Cause = Cause.NO_REPLY,
    confidence: Confidence = Confidence.HIGH,
    *evidence: Evidence,
    summary: str = "the SYN left this node and nothing came back",
) -> Verdict:
    return Verdict(cause, confidence, summary, evidence)


@dataclass
class Fake:
    """A tracer whose time is told. Attempts are begun, go on and end by their number."""

    now_ns: int = START_NS
    limits: BoardLimits = BoardLimits()  # noqa: RUF009 - immutable
    keep: bool = False
    scoped: bool = False
    health: Health = HEALTH
    attempts: dict[int, Report] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.began_ns = self.now_ns
        self.board = Board(
            keep=self.keep,
            scoped=self.scoped,
            limits=self.limits,
            clock=lambda: self.now_ns,
            wall=lambda: WALL_NS + self.now_ns - START_NS,
        )
        self.pulse()

    def snapshot(self) -> Snapshot:
        return self.board.snapshot()

    def seconds(self) -> float:
        return self.now_ns / NANOSECONDS

    def advance(self, seconds: float) -> None:
        self.now_ns += int(seconds * NANOSECONDS)
        self.pulse()

    def pulse(self) -> None:
        up = (self.now_ns - self.began_ns) / NANOSECONDS
        live = [one for one in self.attempts.values() if one.change.attempt.outcome is None]
        self.health = replace(self.health, stuck_now=len(live))
        self.board.pulse(self.health, up)

    def lifecycle(self, kind: LifecycleKind = LifecycleKind.START, said: str | None = None) -> None:
        self.board.lifecycle(Lifecycle(kind, WALL_NS, self.health, 0.0, said))

    def stuck(
        self,
        number: int,
        who: PodIdentity | None = None,
        to: str = "52.94.10.112",
        port: int = 443,
        *,
        known: Destination = EXTERNAL,
        age: float = 1.0,
        comm: str = "curl",
        process: Process | None = None,
        verdict: Verdict | None = None,
        netns: int = 4026532201,
    ) -> Report:
        attempt = Attempt(
            id=f"a-{number}",
            flow=Flow(
                netns,
                6 if ":" in to else 4,
                Endpoint("fd77:1::2" if ":" in to else "10.4.7.21", 40_000 + number % 20_000),
                Endpoint(to, port),
            ),
            owner=Owner(pid=4_000 + number, uid=0, comm=comm),
            detected_by=SourceName.BPF,
            first_seen_ns=self.now_ns,
            started_ns=self.now_ns - int(age * NANOSECONDS),
            stuck_ns=self.now_ns,
            syns_sent=2,
            last_syn_ns=self.now_ns,
            next_retry_ns=self.now_ns + 2 * NANOSECONDS,
        )
        return self._write(
            number,
            Report(
                change=Change(ChangeKind.STUCK, attempt, self.now_ns),
                destination=known,
                process=process,
                wall_ns=self._wall_ns,
                age_seconds=age,
                next_retry_seconds=2.0,
                pod=who,
                verdict=verdict,
            ),
        )

    def retry(self, number: int) -> Report:
        before = self.attempts[number]
        attempt = before.change.attempt
        syns = (attempt.syns_sent or 1) + 1
        return self._again(
            number,
            ChangeKind.RETRANSMIT,
            replace(
                attempt,
                syns_sent=syns,
                last_syn_ns=self.now_ns,
                next_retry_ns=self.now_ns + 2 ** (syns - 1) * NANOSECONDS,
            ),
        )

    def why(self, number: int, found: Verdict) -> Report:
        before = self.attempts[number]
        self.attempts[number] = replace(before, verdict=found)
        return self._again(number, ChangeKind.EVIDENCE, before.change.attempt)

    def named(self, number: int, who: PodIdentity) -> Report:
        """Whose it is comes to light, with the next SYN."""
        self.attempts[number] = replace(self.attempts[number], pod=who)
        return self.retry(number)

    def end(self, number: int, outcome: Outcome, errno: int | None = None) -> Report:
        attempt = self.attempts[number].change.attempt
        over = replace(
            attempt, outcome=outcome, ended_ns=self.now_ns, next_retry_ns=None, errno=errno
        )
        return self._again(number, ChangeKind.END, over)

    @property
    def _wall_ns(self) -> int:
        return WALL_NS + self.now_ns - START_NS

    def _again(self, number: int, kind: ChangeKind, attempt: Attempt) -> Report:
        report = replace(
            self.attempts[number],
            change=Change(kind, attempt, self.now_ns),
            wall_ns=self._wall_ns,
            age_seconds=attempt.age_seconds(self.now_ns),
        )
        return self._write(number, report)

    def _write(self, number: int, report: Report) -> Report:
        self.attempts[number] = report
        self.board.write([report])
        return report


DB = Destination(
    Scope.VPC,
    Kind.SERVICE,
    "shop/db:5432",
    endpoints=Endpoints(0, 3),
    nat=Nat(Endpoint("10.4.100.50", 5432), "SYN_SENT", replied=False),
)
DROP = verdict(
    Cause.DROPPED_HERE,
    Confidence.HIGH,
    Evidence("drop", "the SYN was dropped by a rule of netfilter (NETFILTER_DROP)", START_NS),
    summary="a netfilter rule of this node drops the SYN",
)


def outage() -> Fake:
    """What a bad minute looks like: several pods, several causes, some ends."""
    fake = Fake()
    fake.lifecycle(said="BPF attached 0.52 s after the program's start")
    web, cart = pod(), pod(name="cart-7d4b9c6f5-x2kzp", workload="cart")
    job = pod("batch", "export-28931-9xk2m", "export")
    for number in range(3):
        fake.stuck(number, web, "10.100.7.9", 5432, known=DB, verdict=DROP)
    fake.stuck(3, cart, verdict=verdict())
    fake.stuck(4, job, "fd77:2::3", 8443, known=Destination(Scope.VPC))
    fake.stuck(5, None, "169.254.169.254", 80, known=Destination(Scope.LINK_LOCAL, name="metadata"))
    fake.advance(2)
    for number in (0, 1, 3):
        fake.retry(number)
    fake.stuck(6, cart, verdict=verdict(Cause.SLOW, Confidence.LOW, summary="it took long"))
    fake.advance(3)
    fake.end(6, Outcome.ESTABLISHED)
    fake.end(5, Outcome.UNREACHABLE, 113)
    fake.advance(4)
    fake.retry(0)
    return fake
