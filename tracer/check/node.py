"""The check of this node, or of a pod or a process on it, through the kernel."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from tracer.check.context import Context
from tracer.check.why import explained
from tracer.enrich.pod import Pods
from tracer.errors import InputError, NotPermitted
from tracer.finding import CheckResult, Finding, Rung
from tracer.host.netns import Namespace, inode_of_process, list_namespaces
from tracer.host.nodepods import NodePods
from tracer.host.pods import PodOnNode, find_pod, host_netns
from tracer.host.process import ProcessTable
from tracer.host.rights import (
    CAP_SYS_ADMIN,
    CAP_SYS_PTRACE,
    has_capability,
    in_host_pid_namespace,
)
from tracer.host.sockets import owners_of
from tracer.model import NANOSECONDS, Owner, PodIdentity, Process, SourceName, Sweep, SweptSocket
from tracer.sources.poll import Poller
from tracer.sources.raw import Raw, addresses_in, aside, copy_conntrack, copy_sockets


def check_node(
    context: Context, *, netns: frozenset[int] | None = None, pid: int | None = None
) -> CheckResult:
    """Looks into every network namespace of this node, or only at some, or at one process.

    Raises NotPermitted where this user may not look, InputError where what was to be looked at has
    ended.
    """
    return _check(context, netns=netns, pid=pid, pod=None)


def _check(
    context: Context, *, netns: frozenset[int] | None, pid: int | None, pod: PodOnNode | None
) -> CheckResult:
    """The same of `pod`, whose namespace is `netns`; None: of whatever is there."""
    if pid is None and not (has_capability(CAP_SYS_ADMIN) or has_capability(CAP_SYS_PTRACE)):
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
    # Afterwards: a process that is still there was there all the time.
    wanted = netns if pid is None else frozenset({_netns_of(pid)})
    notes: list[str] = []
    if wanted is not None:
        _require_looked(wanted, sweep, denied=poller.unreadable > 0)
        if not poller.unreadable:
            notes += map(_gone, sorted(wanted - sweep.looked))
    elif not in_host_pid_namespace():
        notes.append(
            "processes outside this container, and their network namespaces: run with "
            "hostPID: true (Kubernetes) or --pid=host (Docker)"
        )
    if poller.unreadable:
        notes.append(f"{poller.unreadable} network namespaces that could not be looked into")
    if poller.denied:
        notes.append(f"the network namespace of {poller.denied} process(es) that may not be read")
    tried: tuple[Rung, ...] = ()
    if sweep.source is not SourceName.SOCK_DIAG:
        tried = tuple(Rung("sock_diag", reason) for reason in poller.lacking)
    wall_ns = time.time_ns()
    findings = tuple(_from_node(context, sweep.sockets, sweep.finished_ns))
    result = explained(
        CheckResult(
            target=_target(context.node_name, netns, pid, pod),
            node=context.node_name,
            method=sweep.source.value,
            wall_ns=wall_ns,
            findings=findings if pod is None else _of_pod(context, pod, findings),
            tried=tried,
            notes=tuple(notes),
        )
    )
    notes = list(result.notes)
    if context.raw is not None:
        # Last: thousands of namespaces take a while, and processes end meanwhile.
        notes += _keep_raw(context.raw, sweep.sockets, netns=netns, pid=pid)
    return replace(result, notes=tuple(dict.fromkeys(notes)))


def _target(node: str, netns: frozenset[int] | None, pid: int | None, pod: PodOnNode | None) -> str:
    if pod is not None:
        return f"pod {pod.namespace}/{pod.name}, from its node {node}"
    if pid is not None:
        return f"process {pid} on node {node}"
    if netns is not None:
        return f"node {node}, network namespace {', '.join(map(str, sorted(netns)))}"
    if in_host_pid_namespace():
        return f"node {node}, every network namespace"
    return f"node {node}, the network namespaces of this container's processes"


def _netns_of(pid: int) -> int:
    """The network namespace of a process whose sockets may be seen."""
    try:
        with os.scandir(f"/proc/{pid}/fd"):
            return inode_of_process(pid)
    except PermissionError:
        raise NotPermitted(
            f"this user may not see the sockets of process {pid}",
            hint="run as root (sudo), with CAP_SYS_PTRACE and every capability that it has",
        ) from None
    except OSError:
        raise InputError(f"process {pid} has ended meanwhile") from None


def _require_looked(wanted: frozenset[int], sweep: Sweep, *, denied: bool) -> None:
    """Raises where nothing of what was wanted was seen, of which nothing follows."""
    if wanted & sweep.looked:
        return
    named = f"network namespace {', '.join(map(str, sorted(wanted)))}"
    if denied:
        raise NotPermitted(
            f"{named} could not be looked into", hint="run as root (sudo) with CAP_SYS_ADMIN"
        )
    raise InputError(f"{named} has ended meanwhile")


def _gone(netns: int) -> str:
    return f"network namespace {netns}, which is gone"


def check_pod_here(context: Context, spec: str) -> CheckResult:
    """Looks at a pod of this node through its network namespace.

    Raises UsageError where it is not on this node.
    """
    return check_found_pod(context, find_pod(spec))


def check_found_pod(context: Context, pod: PodOnNode) -> CheckResult:
    """Looks at a pod that was found on this node. Raises NotPermitted."""
    return _check(context, netns=pod.netns, pid=None, pod=pod)


def _of_pod(context: Context, pod: PodOnNode, findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """The findings of a pod, out of all in its namespace, each with its name."""
    identity = PodIdentity(pod.namespace, pod.name, pod.uid, context.node_name)
    if pod.host_network:
        findings = (
            found for found in findings if found.pod is not None and found.pod.uid == pod.uid
        )
    return tuple(replace(found, pod=found.pod or identity) for found in findings)


def _from_node(context: Context, sockets: Iterable[SweptSocket], now_ns: int) -> Iterator[Finding]:
    swept = list(sockets)
    pid_of = _owners(swept)
    processes = ProcessTable()
    pods = Pods(context.node_name, NodePods(), None, lambda: None)
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
            pod=pods.identify(process, socket.flow),
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


def _seconds_between(start_ns: int | None, end_ns: int | None) -> float | None:
    if start_ns is None or end_ns is None:
        return None
    return max(0, end_ns - start_ns) / NANOSECONDS


# --- the text of it ------------------------------------------------------------------------------


def _keep_raw(
    raw: Raw, sockets: Sequence[SweptSocket], *, netns: frozenset[int] | None, pid: int | None
) -> list[str]:
    """Hands on what the kernel lists of the namespaces looked into; returns what it could not.

    In conntrack it is looked for the addresses that something waits at, and for all of a pod's.
    """
    listing = list_namespaces()
    inodes = _scope(netns, pid)
    scope = [one for one in listing.values() if inodes is None or one.inode in inodes]
    notes = list(copy_sockets(scope, raw))
    for inode in sorted((inodes or frozenset()) - listing.keys()):
        notes.append(_gone(inode))
        raw.connections(aside(notes[-1]))
    addresses = {socket.flow.source.address for socket in sockets}
    if netns is not None:
        addresses |= _addresses_of_pods(scope)
    if inodes is None:
        concerned = {socket.flow.netns for socket in sockets}
        scope = [one for one in scope if one.inode in concerned]
    copy_conntrack(scope, addresses, raw)
    return notes


def _scope(netns: frozenset[int] | None, pid: int | None) -> frozenset[int] | None:
    """The namespaces looked into; None: all."""
    if pid is None:
        return netns
    try:
        return frozenset({inode_of_process(pid)})
    except OSError:  # gone meanwhile
        return frozenset()


def _addresses_of_pods(namespaces: Iterable[Namespace]) -> set[str]:
    """All addresses of the namespaces, but for the node's own, whose addresses are no pod's."""
    node = host_netns()
    return {
        address
        for namespace in namespaces
        if namespace.inode != node
        for address in addresses_in(namespace)
    }
