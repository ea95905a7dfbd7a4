"""The check of a pod from inside one of its containers, through the API server."""

from __future__ import annotations

import io
import time
from dataclasses import replace

from tracer.check.context import Context
from tracer.check.node import check_found_pod
from tracer.check.texts import Texts
from tracer.errors import InputError, SynsentError, UsageError
from tracer.finding import CheckResult, Rung
from tracer.host.pods import find_pod
from tracer.kube.client import connect
from tracer.kube.ladder import Listing, NoReader, read_sockets
from tracer.kube.pod import PodInfo, eni_id
from tracer.model import PodIdentity
from tracer.sources.raw import aside
from tracer.sources.text.connection import Connection
from tracer.sources.text.lines import text_lines
from tracer.sources.text.recognise import read


def check_pod_inside(
    context: Context, spec: str, *, container: str | None, kubeconfig: str | None
) -> CheckResult:
    """Looks at a pod from inside, through the API server. Raises KubeError and its kin.

    A pod in which nothing can read sockets is looked at from its node, where that is this one.
    """
    namespace, _, name = spec.partition("/")
    if not namespace or not name:
        raise UsageError(f"--pod {spec!r} does not name a pod", hint="give it as NAMESPACE/NAME")
    with connect(kubeconfig) as client:
        pod = client.pod(namespace, name)
        try:
            found = read_sockets(client, pod, container, listing=listing)
        except NoReader as nothing:
            return _from_outside(context, spec, pod, nothing)
    shown = f"{found.method.value} in pod {spec}"
    if context.raw is not None:
        context.raw.connections(aside(shown))
        context.raw.connections(found.text)
        context.raw.conntrack(aside("not read: conntrack is the node's, and not to be seen inside"))
    texts = Texts(context, _identity(pod))
    texts.read(text_lines(io.BytesIO(found.text), shown), shown)
    if found.truncated:
        texts.notes.append("sockets beyond the first 64 MiB of what the container printed")
    return CheckResult(
        target=f"pod {spec}, from inside its container",
        node=pod.node or context.node_name,
        method=found.method.value,
        wall_ns=time.time_ns(),
        findings=texts.findings(),
        tried=tuple(Rung(method, reason) for method, reason in found.tried),
        notes=tuple(texts.notes),
    )


def listing(text: bytes) -> Listing:
    """What a command in a container printed. Reads no further than to the first socket."""
    try:
        first = next(read(text_lines(io.BytesIO(text), ""), ""), None)
    except InputError:
        return Listing.UNKNOWN
    if first is None:
        return Listing.EMPTY
    return Listing.SOCKETS if isinstance(first, Connection) else Listing.UNKNOWN


def _from_outside(context: Context, spec: str, pod: PodInfo, nothing: NoReader) -> CheckResult:
    """Looks at a pod without tools through its namespace. Raises `nothing` where it is not here.

    It is the same pod only by its uid: the kubeconfig may be that of another cluster, with a pod
    of the same name.
    """
    try:
        here = find_pod(spec)
        if here.uid != pod.uid:
            raise nothing
        result = check_found_pod(context, here)
    except SynsentError:
        raise nothing from None
    identity = _identity(pod)
    return replace(
        result,
        target=f"{result.target}, since nothing in its container reads sockets",
        findings=tuple(replace(found, pod=identity) for found in result.findings),
        verdicts=tuple(replace(one, pod=identity.label) for one in result.verdicts),
        tried=(*(Rung(method, reason) for method, reason in nothing.tried), *result.tried),
    )


def _identity(pod: PodInfo) -> PodIdentity:
    return PodIdentity(pod.namespace, pod.name, pod.uid, pod.node, eni_id(pod.annotations))
