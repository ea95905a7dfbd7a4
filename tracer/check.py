"""The one-shot check: collects what is in SYN_SENT now, from a node, a pod or a file."""

from __future__ import annotations

import io
import json
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from tracer.diagnose.advice import Subject, advise
from tracer.enrich.destination import Destinations
from tracer.errors import NotPermitted, UsageError
from tracer.finding import CheckResult, Finding, PodIdentity, Rung, Step, rows
from tracer.host.netns import list_namespaces
from tracer.host.pods import find_pod, pods_by_uid
from tracer.host.process import ProcessTable
from tracer.host.rights import CAP_SYS_ADMIN, CAP_SYS_PTRACE, has_capability
from tracer.host.sockets import owners_of
from tracer.kube.client import connect
from tracer.kube.ladder import read_sockets
from tracer.kube.pod import POD_ENI, PodInfo
from tracer.model import NANOSECONDS, Endpoint, Flow, Owner, Process, SourceName, SweptSocket
from tracer.sources.poll import Poller
from tracer.sources.text.connection import Connection, ConntrackEntry
from tracer.sources.text.lines import file_lines, text_lines
from tracer.sources.text.recognise import Parsed, read

_SYN_SENT = frozenset({"SYN_SENT"})
_SHOWN_PROBLEMS = 5


@dataclass(frozen=True, slots=True)
class Context:
    """What every way of collecting needs to know."""

    node_name: str
    destinations: Destinations


def check_node(
    context: Context, *, netns: frozenset[int] | None = None, pid: int | None = None
) -> CheckResult:
    """Looks into every network namespace of this node, or only at some, or at one process.

    Raises NotPermitted where this user may not look.
    """
    if not (has_capability(CAP_SYS_ADMIN) or has_capability(CAP_SYS_PTRACE)):
        raise NotPermitted(
            "this user may not look into the network namespaces of other users' processes",
            hint="run as root (sudo), or check a pod with --pod NAMESPACE/NAME --via exec",
        )
    poller = Poller(threshold_seconds=1.0, netns=netns, pid=pid)
    try:
        namespaces = list_namespaces()
        sweep = poller.sweep(namespaces)
    finally:
        poller.close()
    notes: list[str] = []
    if poller.unreadable:
        notes.append(f"{poller.unreadable} network namespaces that could not be looked into")
    if poller.denied:
        notes.append(f"the network namespace of {poller.denied} process(es) that may not be read")
    tried: tuple[Rung, ...] = ()
    if sweep.source is not SourceName.SOCK_DIAG:
        tried = tuple(Rung("sock_diag", reason) for reason in poller.lacking)
    target = f"node {context.node_name}, every network namespace"
    if pid is not None:
        target = f"process {pid} on node {context.node_name}"
    return CheckResult(
        target=target,
        node=context.node_name,
        method=sweep.source.value,
        wall_ns=time.time_ns(),
        findings=tuple(_from_node(context, sweep.sockets, sweep.finished_ns)),
        tried=tried,
        notes=tuple(notes),
    )


def check_pod_here(context: Context, spec: str) -> CheckResult:
    """Looks at a pod of this node through its network namespace.

    Raises UsageError where it is not on this node.
    """
    pod = find_pod(spec)
    result = check_node(context, netns=pod.netns)
    identity = PodIdentity(pod.namespace, pod.name, pod.uid, context.node_name)
    findings = result.findings
    if pod.host_network:
        findings = tuple(
            found for found in findings if found.pod is not None and found.pod.uid == pod.uid
        )
    return replace(
        result,
        target=f"pod {spec}, from its node {context.node_name}",
        findings=tuple(replace(found, pod=identity) for found in findings),
    )


def check_pod_inside(
    context: Context, spec: str, *, container: str | None, kubeconfig: str | None
) -> CheckResult:
    """Looks at a pod from inside, through the API server. Raises KubeError and its kin."""
    namespace, _, name = spec.partition("/")
    if not namespace or not name:
        raise UsageError(f"--pod {spec!r} does not name a pod", hint="give it as NAMESPACE/NAME")
    with connect(kubeconfig) as client:
        pod = client.pod(namespace, name)
        read_text = read_sockets(client, pod, container)
    shown = f"{read_text.method.value} in pod {spec}"
    parsed = read(
        text_lines(io.BytesIO(read_text.text), shown),
        shown,
        states=_SYN_SENT,
    )
    identity = _identity(pod)
    findings = tuple(_from_text(context, parsed, identity))
    notes = list(_problems(parsed))
    if read_text.truncated:
        notes.append("sockets beyond the first 64 MiB of what the container printed")
    return CheckResult(
        target=f"pod {spec}, from inside its container",
        node=pod.node or context.node_name,
        method=read_text.method.value,
        wall_ns=time.time_ns(),
        findings=findings,
        tried=tuple(Rung(method, reason) for method, reason in read_text.tried),
        notes=tuple(notes),
    )


def check_files(context: Context, names: Sequence[str]) -> CheckResult:
    """Reads text that somebody sent; "-" is standard input. Raises InputError."""
    findings: list[Finding] = []
    notes: list[str] = []
    formats: list[str] = []
    for name in names:
        if name == "-":
            lines, shown = text_lines(sys.stdin.buffer, "standard input"), "standard input"
        else:
            lines, shown = file_lines(name), name
        parsed = read(lines, shown, states=_SYN_SENT)
        findings += _from_text(context, parsed, None)
        notes += _problems(parsed)
        formats += parsed.formats
    return CheckResult(
        target=", ".join("standard input" if name == "-" else name for name in names),
        node=context.node_name,
        method=", ".join(dict.fromkeys(formats)),
        wall_ns=time.time_ns(),
        findings=tuple(findings),
        notes=tuple(notes),
    )


def steps_for(result: CheckResult) -> tuple[Step, ...]:
    """What to check next, filled in with what was found."""
    subjects = []
    for row in rows(result.findings):
        pod = row.pod or PodIdentity()
        flow = row.findings[0].flow
        subjects.append(
            Subject(
                destination=row.endpoint,
                scope=row.destination.scope,
                namespace=pod.namespace,
                pod=pod.name,
                node=pod.node,
                source_address=flow.source.address,
                eni_id=pod.eni_id,
                pid=row.processes[0].pid if row.processes and flow.netns is not None else None,
            )
        )
    return advise(subjects)


# --- from the kernel ---------------------------------------------------------------------------


def _from_node(context: Context, sockets: Iterable[SweptSocket], now_ns: int) -> Iterator[Finding]:
    swept = list(sockets)
    pid_of = _owners(swept)
    processes = ProcessTable()
    pods = pods_by_uid()
    for socket in swept:
        process: Process | None = None
        pid = pid_of.get(socket.owner.inode) if socket.owner.inode is not None else None
        if pid is not None:
            process = processes.describe(Owner(pid=pid, uid=socket.owner.uid))
        yield Finding(
            flow=socket.flow,
            destination=context.destinations.classify(socket.flow.destination.address),
            age_seconds=_seconds_between(socket.started_ns, now_ns),
            syns_sent=socket.retransmissions + 1,
            next_retry_seconds=_seconds_between(now_ns, socket.next_retry_ns),
            uid=socket.owner.uid,
            process=process,
            pod=_pod_of(process, pods, context.node_name),
        )


def _owners(sockets: Sequence[SweptSocket]) -> dict[int, int]:
    wanted: dict[int, set[int]] = {}
    for socket in sockets:
        if socket.owner.inode is not None and socket.flow.netns is not None:
            wanted.setdefault(socket.flow.netns, set()).add(socket.owner.inode)
    namespaces = list_namespaces() if wanted else {}
    found: dict[int, int] = {}
    for netns, inodes in wanted.items():
        if netns in namespaces:
            found |= owners_of(inodes, namespaces[netns].pids)
    return found


def _pod_of(
    process: Process | None, pods: dict[str, tuple[str, str]], node: str
) -> PodIdentity | None:
    if process is None or process.pod_uid is None:
        return None
    namespace, name = pods.get(process.pod_uid, (None, None))
    return PodIdentity(namespace, name, process.pod_uid, node)


def _seconds_between(start_ns: int | None, end_ns: int | None) -> float | None:
    if start_ns is None or end_ns is None:
        return None
    return max(0, end_ns - start_ns) / NANOSECONDS


# --- from text ---------------------------------------------------------------------------------


def _identity(pod: PodInfo) -> PodIdentity:
    return PodIdentity(pod.namespace, pod.name, pod.uid, pod.node, eni_id(pod.annotations))


def eni_id(annotations: Mapping[str, str]) -> str | None:
    """The pod's own network interface, which the VPC CNI plugin notes as JSON; None without one."""
    try:
        interfaces = json.loads(annotations.get(POD_ENI, ""))
    except ValueError:
        return None
    first = interfaces[0] if isinstance(interfaces, list) and interfaces else None
    found = first.get("eniId") if isinstance(first, dict) else None
    return found if isinstance(found, str) else None


def _from_text(context: Context, parsed: Parsed, pod: PodIdentity | None) -> Iterator[Finding]:
    """A finding for each connection, and for each conntrack entry of which there is none."""
    connections: set[tuple[Endpoint, Endpoint]] = set()
    tracked: dict[tuple[Endpoint, Endpoint], ConntrackEntry] = {}
    for entry in parsed:
        if isinstance(entry, ConntrackEntry):
            tracked[entry.original.source, entry.original.destination] = entry
            continue
        connections.add((entry.source, entry.destination))
        yield _finding(context, entry, pod)
    for ends, entry in tracked.items():
        if ends not in connections:
            yield _finding(context, entry, pod)


def _finding(
    context: Context, entry: Connection | ConntrackEntry, pod: PodIdentity | None
) -> Finding:
    if isinstance(entry, ConntrackEntry):
        source, destination = entry.original.source, entry.original.destination
        return Finding(
            flow=Flow(None, entry.family, source, destination),
            destination=context.destinations.classify(destination.address),
            pod=pod,
        )
    process = None
    if entry.pid is not None:
        process = Process(pid=entry.pid, name=entry.process)
    return Finding(
        flow=Flow(None, entry.family, entry.source, entry.destination, entry.mapped),
        destination=context.destinations.classify(entry.destination.address),
        syns_sent=None if entry.retransmissions is None else entry.retransmissions + 1,
        next_retry_seconds=entry.next_retry_seconds,
        uid=entry.uid,
        process=process,
        pod=pod,
    )


def _problems(parsed: Parsed) -> Iterator[str]:
    """The first lines that could not be read, and how many more there are."""
    shown = parsed.problems[:_SHOWN_PROBLEMS]
    yield from map(str, shown)
    more = parsed.problem_count - len(shown)
    if more > 0:
        yield f"{more} more lines of {parsed.name} that could not be read"
