"""Settings of a trace, checked once at the edge, immutable afterwards."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path


class Backend(StrEnum):
    """Which source observes sockets; AUTO takes BPF and falls back to polling."""

    AUTO = "auto"
    BPF = "bpf"
    POLL = "poll"


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of every map, queue and cache.

    max_attempts    attempts followed at once, in the kernel and here: a SYN black hole holds
                    10,000; 65,536 take 9 MB of kernel memory
    ring_bytes      ring buffer: 23,000 records, five seconds of a black hole's worst second
    queue_batches   batches between a source and the tracker
    """

    max_attempts: int = 65_536
    ring_bytes: int = 4 << 20
    queue_batches: int = 1_024


@dataclass(frozen=True, slots=True)
class Settings:
    """What the user asked for.

    threshold_seconds   SYN_SENT for longer is stuck; 1.0 is the first retransmission's time
    crosscheck_seconds  between sweeps beside BPF; 0 is off
    poll_seconds        between rounds where polling is the source
    duration_seconds    ends the trace; None: until a signal
    pods, namespaces    pods to trace, as (namespace, name), and namespaces of pods; empty: all
    selector            label selector of the pods to trace, as kubectl takes it
    kube                ask the API server for names
    kubeconfig          how to reach it; None: as kubectl finds it
    evidence            find out where stuck handshakes die, with probes that are attached meanwhile
    plain               lines, never the screen, and without colour
    keep                the screen keeps what has ended
    screenshot          where the last picture of the screen goes, as SVG; without a terminal one is
                        drawn for it alone
    ascii               the screen is drawn with ASCII alone
    cache_dir           where names are kept for an outage of the API server; None: nowhere
    """

    node_name: str
    backend: Backend = Backend.AUTO
    threshold_seconds: float = 1.0
    crosscheck_seconds: float = 10.0
    poll_seconds: float = 1.0
    duration_seconds: float | None = None
    vpc_cidrs: tuple[IPv4Network | IPv6Network, ...] = ()
    pid: int | None = None
    netns: frozenset[int] | None = None
    pods: tuple[tuple[str, str], ...] = ()
    namespaces: tuple[str, ...] = ()
    selector: str | None = None
    kube: bool = True
    kubeconfig: str | None = None
    cache_dir: Path | None = None
    evidence: bool = True
    jsonl: str | None = None
    plain: bool = False
    keep: bool = False
    ascii: bool = False
    screenshot: Path | None = None
    ready_file: Path | None = None
    limits: Limits = Limits()
