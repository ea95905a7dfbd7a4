"""Chooses what observes sockets on this machine, and says why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tracer.errors import NoSource, NotPermitted, SynsentError
from tracer.host.rights import (
    CAP_SYS_ADMIN,
    CAP_SYS_PTRACE,
    has_capability,
    in_host_pid_namespace,
)
from tracer.model import SourceName
from tracer.settings import Backend, Settings

if TYPE_CHECKING:
    from tracer.sources.bpf import BpfSource
    from tracer.sources.poll import Poller


@dataclass(frozen=True, slots=True)
class Sources:
    """What runs: a poller, alone or beside BPF, which it then checks."""

    bpf: BpfSource | None
    poller: Poller
    lacking: tuple[str, ...]

    @property
    def backend(self) -> SourceName:
        if self.bpf is not None:
            return SourceName.BPF
        return self.poller.source

    @property
    def hooks(self) -> tuple[str, ...]:
        return self.bpf.hooks if self.bpf is not None else ()


def choose(settings: Settings) -> Sources:
    """Opens the sources that the settings ask for and the machine allows.

    Raises NotPermitted where this user may use none of them, NoSource where there is none.
    """
    bpf: BpfSource | None = None
    lacking: list[str] = []
    if settings.backend is not Backend.POLL:
        try:
            bpf = _open_bpf(settings)
            lacking += bpf.lacking
        except SynsentError as error:
            if settings.backend is Backend.BPF:
                raise
            # Whatever the reason: polling without rights would find that nothing is stuck.
            _require_polling_rights(error)
            lacking.append(f"BPF ({_with_remedy(error)}): {_LIMITS_OF_POLLING}")
    else:
        _require_polling_rights(None)
        lacking.append(f"BPF (--backend poll): {_LIMITS_OF_POLLING}")
    poller = _open_poller(settings)
    lacking += poller.lacking
    if not in_host_pid_namespace():
        lacking.append(_OWN_PID_NAMESPACE.format(_SEEN_BY_BOTH if bpf else _SEEN_BY_POLLING))
    if bpf is None and settings.threshold_seconds < 1:
        lacking.append(
            "a threshold below 1 s: polling sees an attempt from its first retransmission on"
        )
    return Sources(bpf, poller, tuple(lacking))


_LIMITS_OF_POLLING = (
    "attempts that fail within a second are not seen, the end of a stuck one is seen only as "
    "established or vanished"
)
_OWN_PID_NAMESPACE = (
    "the host's PID namespace: {}; run with hostPID: true (Kubernetes) or --pid=host (Docker)"
)
_SEEN_BY_POLLING = "polling sees this container's processes alone"
_SEEN_BY_BOTH = (
    "the cross-check sees this container's processes alone, and process ids told by BPF are "
    "not those of this /proc"
)


def _open_bpf(settings: Settings) -> BpfSource:
    if settings.pid is not None and not in_host_pid_namespace():
        raise NoSource(
            f"--pid {settings.pid} is an id of this container, and BPF knows those of the host",
            hint="run with hostPID: true (Kubernetes) or --pid=host (Docker)",
        )
    from tracer.sources.bpf import BpfSource

    return BpfSource(
        threshold_seconds=settings.threshold_seconds,
        limits=settings.limits,
        pid=settings.pid,
        netns=settings.netns,
    )


def _open_poller(settings: Settings) -> Poller:
    from tracer.sources.poll import Poller

    return Poller(
        threshold_seconds=settings.threshold_seconds, netns=settings.netns, pid=settings.pid
    )


def _with_remedy(error: SynsentError) -> str:
    return f"{error}; {error.hint.rstrip('.')}" if error.hint else str(error)


def _require_polling_rights(bpf_error: SynsentError | None) -> None:
    """Polling must enter other network namespaces, or read them through other users' /proc."""
    if has_capability(CAP_SYS_ADMIN) or has_capability(CAP_SYS_PTRACE):
        return
    instead_of_bpf = f" ({bpf_error})" if bpf_error else ""
    raise NotPermitted(
        "this user may not look into the network namespaces of other users' processes"
        f"{instead_of_bpf}",
        hint="run as root (sudo), or with CAP_BPF and CAP_PERFMON for BPF, CAP_SYS_ADMIN and "
        "CAP_SYS_PTRACE for polling",
    )
