"""What flows through the pipeline: immutable values, None where something is unknown.

Times named `*_ns` are CLOCK_MONOTONIC nanoseconds, the clock of the kernel's records; `*_wall_ns`
are nanoseconds since the epoch.
"""

from __future__ import annotations

import errno as errno_module
from dataclasses import dataclass, field
from enum import Enum, StrEnum

NANOSECONDS = 1_000_000_000


class Outcome(StrEnum):
    """How an attempt left SYN_SENT."""

    ESTABLISHED = "established"
    REFUSED = "refused"
    UNREACHABLE = "unreachable"
    TIMED_OUT = "timed_out"
    ABORTED = "aborted"
    LOCAL_ERROR = "local_error"
    VANISHED = "vanished"


class SourceName(StrEnum):
    """What observes sockets. TEXT is what another program printed, which only `check` reads."""

    BPF = "bpf"
    SOCK_DIAG = "sock_diag"
    PROCFS = "procfs"
    TEXT = "text"


class TcpState(Enum):
    """TCP states by their number in include/net/tcp_states.h."""

    ESTABLISHED = 1
    SYN_SENT = 2
    SYN_RECV = 3
    FIN_WAIT1 = 4
    FIN_WAIT2 = 5
    TIME_WAIT = 6
    CLOSE = 7
    CLOSE_WAIT = 8
    LAST_ACK = 9
    LISTEN = 10
    CLOSING = 11
    NEW_SYN_RECV = 12


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One side of a connection. `port` is None until the kernel has chosen it."""

    address: str
    port: int | None


@dataclass(frozen=True, slots=True)
class Flow:
    """The tuple of an attempt in its network namespace.

    `family` is 4 or 6: that of the addresses on the wire. `mapped` is true for an IPv6 socket that
    speaks IPv4 (::ffff:a.b.c.d); its addresses are kept in IPv4 form. `netns` is an inode number.
    """

    netns: int | None
    family: int
    source: Endpoint
    destination: Endpoint
    mapped: bool = False


@dataclass(frozen=True, slots=True)
class Owner:
    """The process an attempt belongs to, as the observer of the socket saw it.

    `inode` is the socket's inode, by which a poller's socket can be traced to a process.
    """

    pid: int | None = None
    uid: int | None = None
    comm: str | None = None
    cgroup_id: int | None = None
    inode: int | None = None


@dataclass(frozen=True, slots=True)
class Process:
    """What /proc tells of the owner. Every text in it is untrusted."""

    pid: int
    name: str | None = None
    executable: str | None = None
    command_line: tuple[str, ...] | None = None
    container_id: str | None = None
    pod_uid: str | None = None
    unit: str | None = None


class PodEvidence(StrEnum):
    """What ties an attempt to a pod, the surest first."""

    CGROUP = "cgroup"
    NETNS = "netns"
    ADDRESS = "address"


class NameSource(StrEnum):
    """Who told a pod's name, the surest first: the API server now, what it said earlier and is kept
    on disk, the container runtime's state, the kubelet's log folders.
    """

    API = "api"
    CACHE = "cache"
    RUNTIME = "runtime"
    KUBELET = "kubelet"


@dataclass(frozen=True, slots=True)
class Workload:
    """What a pod belongs to, for people: Deployment web, CronJob backup, StatefulSet db."""

    kind: str
    name: str


@dataclass(frozen=True, slots=True)
class PodIdentity:
    """What is known of a pod, and of the container in it that connects.

    eni_id         its own network interface, where it has one (Amazon VPC CNI)
    container      name of the container, of a process whose cgroup was read
    evidence       what ties the attempt to this pod
    name_source    who told its name; None where it has none
    names_wall_ns  when that was heard, where it is no longer kept up to date; None: current
    """

    namespace: str | None = None
    name: str | None = None
    uid: str | None = None
    node: str | None = None
    eni_id: str | None = None
    container: str | None = None
    workload: Workload | None = None
    host_network: bool | None = None
    evidence: PodEvidence | None = None
    name_source: NameSource | None = None
    names_wall_ns: int | None = None

    @property
    def label(self) -> str | None:
        """NAMESPACE/NAME, else the uid."""
        if self.namespace is not None and self.name is not None:
            return f"{self.namespace}/{self.name}"
        return self.uid


class Scope(StrEnum):
    """Where a destination lies, judged by its address alone."""

    LOOPBACK = "loopback"
    LINK_LOCAL = "link-local"
    VPC = "vpc"
    EXTERNAL = "external"

    @property
    def tag(self) -> str:
        """The word shown to people: the seed's "VPC/internal", else the scope itself."""
        return "VPC/internal" if self is Scope.VPC else self.value


class Kind(StrEnum):
    """What a destination is known to be."""

    ADDRESS = "address"
    SERVICE = "service"
    POD = "pod"
    NODE = "node"


@dataclass(frozen=True, slots=True)
class Endpoints:
    """How many endpoints a service has for an address family and port, and how many are ready."""

    ready: int
    total: int


@dataclass(frozen=True, slots=True)
class Nat:
    """Where connection tracking sends an attempt, and how far it got there.

    `state` is netfilter's (SYN_SENT ...), `replied` whether any packet came back.
    """

    destination: Endpoint
    state: str | None
    replied: bool


@dataclass(frozen=True, slots=True)
class Destination:
    """What is known of a destination. `name` is None where nothing is known for certain.

    name           "shop/db:5432" of a service (its port), "shop/db-0" of a pod, a node's name, or
                   what a well-known address stands for
    ambiguous      others may answer at this address too: a node's is shared by its hostNetwork pods
    endpoints      of a service; None where they are not known
    names_wall_ns  when the name was last known to be true, where it is no longer kept up to date;
                   None: current
    """

    scope: Scope
    kind: Kind = Kind.ADDRESS
    name: str | None = None
    ambiguous: bool = False
    endpoints: Endpoints | None = None
    names_wall_ns: int | None = None
    nat: Nat | None = None


@dataclass(frozen=True, slots=True)
class Attempt:
    """One TCP active open, from entering SYN_SENT until it leaves it.

    `stuck_ns` is when it became stuck: the first SYN retransmission, or the threshold's passing.
    `syns_sent` counts the first SYN too, `backoff` how often the kernel doubled the interval
    between two of them. `errno` is the socket's error at the end, `soft_errno` an ICMP error that
    did not end it. `isn` is the SYN's sequence number: what names its packets even where addresses
    and ports are translated.
    """

    id: str
    flow: Flow
    owner: Owner
    detected_by: SourceName
    first_seen_ns: int
    started_ns: int | None = None
    started_wall_ns: int | None = None
    stuck_ns: int | None = None
    syns_sent: int | None = None
    last_syn_ns: int | None = None
    next_retry_ns: int | None = None
    backoff: int | None = None
    outcome: Outcome | None = None
    ended_ns: int | None = None
    errno: int | None = None
    soft_errno: int | None = None
    isn: int | None = None

    @property
    def stuck(self) -> bool:
        return self.stuck_ns is not None

    def age_seconds(self, now_ns: int) -> float | None:
        """Time spent in SYN_SENT until `now_ns` or its end; None if its start is unknown."""
        if self.started_ns is None:
            return None
        end = self.ended_ns if self.ended_ns is not None else now_ns
        return max(0, end - self.started_ns) / NANOSECONDS


class Cause(StrEnum):
    """Where the handshake died."""

    DROPPED_HERE = "dropped-here"
    REPLY_DROPPED_HERE = "reply-dropped-here"
    REFUSED = "refused"
    REFUSED_BY_FIREWALL = "refused-by-firewall"
    UNREACHABLE = "unreachable"
    NO_NEIGHBOUR = "no-neighbour"
    NO_REPLY = "no-reply"
    LISTENER_OVERLOADED = "listener-overloaded"
    SERVICE_WITHOUT_ENDPOINTS = "service-without-endpoints"
    STALE_NAT = "stale-nat"
    PORT_EXHAUSTION = "port-exhaustion"
    CONNTRACK_FULL = "conntrack-full"
    NETWORK_POLICY = "network-policy"
    APPLICATION_GAVE_UP = "application-gave-up"
    SLOW = "slow"
    UNKNOWN = "unknown"


class Confidence(StrEnum):
    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"


CROSSCHECK_FAILED = "the cross-check, which has failed"
"""How the sentence begins by which a Health lacks its cross-check from then on."""

COMPARISON = "comparison"
"""The kind of evidence that is the sentence about what other attempts met."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """One piece of what a verdict rests on, worded for people. `kind` names the kind of fact."""

    kind: str
    summary: str
    at_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """Where the handshake died, how sure that is, in one sentence, and on what it rests.

    `facts` is what it was judged by, which advice is filled in with (facts.facts_behind). It is not
    recorded, and verdicts that say the same are equal without it.
    """

    cause: Cause
    confidence: Confidence
    summary: str
    evidence: tuple[Evidence, ...] = ()
    facts: object | None = field(default=None, compare=False, repr=False)


class ChangeKind(StrEnum):
    """What happened to an attempt; the value is the JSONL event's name."""

    STUCK = "attempt.stuck"
    RETRANSMIT = "attempt.retransmit"
    EVIDENCE = "attempt.evidence"
    END = "attempt.end"


@dataclass(frozen=True, slots=True)
class Change:
    """One step of an attempt: its state after it, and when it happened."""

    kind: ChangeKind
    attempt: Attempt
    time_ns: int


@dataclass(frozen=True, slots=True)
class Report:
    """A change with everything that is known of its process and destination: what sinks get."""

    change: Change
    destination: Destination
    process: Process | None
    wall_ns: int
    age_seconds: float | None
    next_retry_seconds: float | None
    pod: PodIdentity | None = None
    verdict: Verdict | None = None


class TransitionKind(Enum):
    """What a stream of kernel records tells of one socket."""

    RETRANSMIT = "retransmit"
    OVERDUE = "overdue"
    END = "end"


@dataclass(frozen=True, slots=True)
class Transition:
    """One record of a stream. `key` names the socket for as long as it lives.

    `new_state`, `errno`, `soft_errno` and `no_syn_sent` belong to END alone. `errno` 0 means that
    the kernel had no error on the socket. `isn` is the SYN's sequence number.
    """

    kind: TransitionKind
    key: int
    time_ns: int
    flow: Flow
    owner: Owner
    started_ns: int | None
    syns_sent: int | None
    last_syn_ns: int | None
    next_retry_ns: int | None
    backoff: int | None = None
    new_state: TcpState | None = None
    errno: int = 0
    soft_errno: int = 0
    no_syn_sent: bool = False
    isn: int | None = None


@dataclass(frozen=True, slots=True)
class SweptSocket:
    """One socket in SYN_SENT, as a poller read it from the kernel.

    `cookie` identifies the socket (sock_diag's cookie, or its inode in /proc). `started_ns` and
    `next_retry_ns` are derived from the kernel's retransmission timer.
    """

    cookie: int
    flow: Flow
    owner: Owner
    retransmissions: int
    started_ns: int | None
    last_syn_ns: int | None
    next_retry_ns: int | None
    backoff: int | None = None


@dataclass(frozen=True, slots=True)
class Reached:
    """A namespace connected to that destination, at `after_ns` or later (CLOCK_MONOTONIC)."""

    netns: int
    destination: Endpoint
    after_ns: int


@dataclass(frozen=True, slots=True)
class Sweep:
    """Everything in SYN_SENT in the namespaces that were looked into, at one time.

    A namespace that is not in `looked` was not read: nothing follows from a socket's absence.
    `gone` holds namespaces that were there at an earlier sweep and are no longer, and their sockets
    with them.
    `established` holds cookies of sockets that earlier sweeps saw in SYN_SENT and that were now
    seen connected.
    `reached` is what else namespaces with stuck attempts have connected to since an earlier sweep,
    as far as that is known: not where a connection was over before the next one, nor from /proc.
    """

    source: SourceName
    started_ns: int
    finished_ns: int
    looked: frozenset[int]
    sockets: tuple[SweptSocket, ...]
    gone: frozenset[int] = frozenset()
    established: frozenset[int] = frozenset()
    reached: tuple[Reached, ...] = ()


@dataclass(frozen=True, slots=True)
class Rates:
    """Connects counted in the kernel since the start; None where the source cannot count them."""

    started: int | None = None
    established: int | None = None


@dataclass(frozen=True, slots=True)
class Losses:
    """Everything that was not seen, and why. All zero is the healthy state.

    ring_full        records the kernel could not hand over
    untracked        attempts begun while the kernel's table was full
    unseen_ends      attempts of which the kernel skipped the probe that sees the end
    queue_full       records user space had no room for
    undecodable      records that made no sense
    evidence         attempts, drops, ICMP errors, failures and verdicts that the evidence had no
                     room for, and how often its thread failed
    table_full       attempts the tracker had no room for
    output_dropped   events that could not be recorded
    lines_not_shown  lines that a slow terminal had no room for; the events are recorded elsewhere
    """

    ring_full: int = 0
    untracked: int = 0
    unseen_ends: int = 0
    queue_full: int = 0
    undecodable: int = 0
    evidence: int = 0
    table_full: int = 0
    output_dropped: int = 0
    lines_not_shown: int = 0

    @property
    def lost(self) -> int:
        """Observations that never reached the tracker."""
        return (
            self.ring_full + self.untracked + self.unseen_ends + self.queue_full + self.undecodable
        )

    @property
    def dropped(self) -> int:
        """Events that were known here but not written."""
        return self.table_full + self.output_dropped


@dataclass(frozen=True, slots=True)
class CrossCheck:
    """How the stream and the sweeps agree, since the start.

    sweeps        sweeps compared
    agreed        stuck sockets that both knew, summed over sweeps
    before_start  sockets stuck before the tracer, found by a sweep
    missed        sockets that the stream should have reported and did not
    unended       attempts that were gone without the stream reporting their end
    """

    sweeps: int = 0
    agreed: int = 0
    before_start: int = 0
    missed: int = 0
    unended: int = 0


class KubeState(StrEnum):
    """How much the API server tells.

    OFF nothing is asked of it, CONNECTING nothing was heard yet, SYNCED all that is asked for is
    kept up to date, DEGRADED some of it is not: out of reach, or not permitted.
    """

    OFF = "off"
    CONNECTING = "connecting"
    SYNCED = "synced"
    DEGRADED = "degraded"


@dataclass(frozen=True, slots=True)
class KubeHealth:
    """The state of the names that the API server gives.

    `message` says in a sentence what is wrong, None where nothing is. `names_wall_ns` is when the
    names were last known to be true, None where they are or where there are none.
    """

    state: KubeState = KubeState.OFF
    message: str | None = None
    names_wall_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Health:
    """The tracer's own state, for every output.

    withheld      attempts that are not told since their pod's name or labels are not known: they
                  may be of the scope that was asked for
    own_connects  attempts of the tracer itself, which are not told and counted nowhere else
    recorded      false in a replay whose recording has said nothing of its tracer yet: what is
                  counted here comes from the events alone, and the rest is not known
    """

    backend: SourceName
    hooks: tuple[str, ...]
    lacking: tuple[str, ...]
    stuck_now: int
    tracked_now: int
    outcomes: dict[Outcome, int] = field(default_factory=dict)
    became_stuck: int = 0
    rates: Rates = Rates()
    losses: Losses = Losses()
    crosscheck: CrossCheck = CrossCheck()
    kube: KubeHealth = KubeHealth()
    withheld: int = 0
    own_connects: int = 0
    recorded: bool = True


class LifecycleKind(StrEnum):
    """What happens to the tracer itself; the value is the JSONL event's name."""

    START = "tracer.start"
    HEALTH = "tracer.health"
    STOP = "tracer.stop"


@dataclass(frozen=True, slots=True)
class Lifecycle:
    """News of the tracer itself. `message` is a sentence for people, or None."""

    kind: LifecycleKind
    wall_ns: int
    health: Health
    uptime_seconds: float
    message: str | None = None


def errno_name(number: int | None) -> str | None:
    """The symbol of an errno ("ECONNREFUSED"), None for none; unnamed numbers as "errno N"."""
    if not number:
        return None
    return errno_module.errorcode.get(number, f"errno {number}")
