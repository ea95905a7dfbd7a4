"""Real pods as a kernel sees them: cgroups, namespaces, a sandbox, and files of their names.

There is no kubelet and no runtime: what those would make is made here, in the layouts of
tests/unit/test_cgroup.py and tracer/host/runtime.py, and is gone after the test. Folders that
others may use too (/sys/fs/cgroup/.../kubepods, /var/log/pods) stay as long as they do.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from tests.support.netns import Namespace
from tests.support.wait import wait_until

HIERARCHIES = (Path("/sys/fs/cgroup/pids"), Path("/sys/fs/cgroup"))
"""Where cgroup.procs is: a v1 hierarchy, or the only one of v2."""

POD_LOGS = Path("/var/log/pods")
CONTAINER_LOGS = Path("/var/log/containers")
CONTAINERD = Path("/run/containerd/io.containerd.runtime.v2.task/k8s.io")

LEAVE_SECONDS = 15
TRIES = 50


class Driver(Enum):
    """The kubelet's cgroup drivers."""

    CGROUPFS = "cgroupfs"
    SYSTEMD = "systemd"


@dataclass(frozen=True)
class Container:
    """A container's cgroup. `name` is None for the sandbox."""

    name: str | None
    id: str
    cgroup: Path

    def add(self, pid: int) -> None:
        """Puts a process into it; its attempts from then on are the container's."""
        (self.cgroup / "cgroup.procs").write_text(str(pid))


@dataclass
class KubePod:
    """A pod. `uid` is what its cgroups carry."""

    namespace: str
    name: str
    uid: str
    sandbox: Container
    containers: dict[str, Container] = field(default_factory=dict)

    @property
    def label(self) -> str:
        return f"{self.namespace}/{self.name}"


@contextmanager
def kube_pod(
    netns: Namespace | None,
    *,
    namespace: str = "shop",
    name: str | None = None,
    uid: str | None = None,
    containers: Sequence[str] = ("app",),
    driver: Driver = Driver.CGROUPFS,
    logs: bool = False,
    runtime: bool = False,
) -> Iterator[KubePod]:
    """A pod in a network namespace, with its sandbox process; in the node's own where it is None.

    `logs` and `runtime` write its names where the kubelet and containerd would. With the pod ends
    whatever is left in its containers.
    """
    uid = uid or str(uuid.uuid4())
    name = name or f"cart-{secrets.token_hex(4)}"
    with ExitStack() as stack:
        made: dict[str | None, Container] = {}
        for one in (None, *containers):
            container_id = secrets.token_hex(32)
            cgroup = stack.enter_context(container_cgroup(uid, container_id, driver))
            made[one] = Container(one, container_id, cgroup)
        pod = KubePod(namespace, name, uid, made[None], {each: made[each] for each in containers})
        if logs:
            write_logs(stack, pod)
        if runtime:
            write_containerd(stack, pod)
        stack.enter_context(_sandbox(netns, pod.sandbox))
        yield pod


@contextmanager
def container_cgroup(uid: str, container_id: str, driver: Driver) -> Iterator[Path]:
    """A container's cgroup as the kubelet's driver lays it out, gone afterwards."""
    root = next(folder for folder in HIERARCHIES if (folder / "cgroup.procs").exists())
    below = _layout(uid, container_id, driver)
    folder = root / below
    _make(folder)
    try:
        yield folder
    finally:
        wait_until(lambda: _is_emptied(folder), LEAVE_SECONDS, f"empty {below}")
        _unmake([folder, *[root / part for part in below.parents if part.name]])


def write_logs(stack: ExitStack, pod: KubePod) -> None:
    """The pod's names as the kubelet's log folders hold them."""
    folder = POD_LOGS / f"{pod.namespace}_{pod.name}_{pod.uid}"
    _make_for(stack, folder)
    _make_for(stack, CONTAINER_LOGS)
    for container in pod.containers.values():
        link = f"{pod.name}_{pod.namespace}_{container.name}-{container.id}.log"
        path = CONTAINER_LOGS / link
        path.symlink_to(folder / str(container.name) / "0.log")
        stack.callback(path.unlink)


def write_containerd(stack: ExitStack, pod: KubePod) -> None:
    """The pod's names as containerd 1.7 notes them for each container and the sandbox."""
    for container in (pod.sandbox, *pod.containers.values()):
        annotations = {
            "io.kubernetes.cri.container-type": "sandbox",
            "io.kubernetes.cri.sandbox-id": pod.sandbox.id,
            "io.kubernetes.cri.sandbox-name": pod.name,
            "io.kubernetes.cri.sandbox-namespace": pod.namespace,
            "io.kubernetes.cri.sandbox-uid": pod.uid,
        }
        if container.name is not None:
            annotations["io.kubernetes.cri.container-type"] = "container"
            annotations["io.kubernetes.cri.container-name"] = container.name
        bundle = CONTAINERD / container.id
        _make_for(stack, bundle)
        file = bundle / "config.json"
        file.write_text(json.dumps({"ociVersion": "1.1.0", "annotations": annotations}))
        stack.callback(file.unlink)


@contextmanager
def _sandbox(netns: Namespace | None, sandbox: Container) -> Iterator[None]:
    """The pause container's process, which holds the pod's namespaces."""
    pause = ["sleep", "infinity"]
    process = subprocess.Popen(pause) if netns is None else netns.popen(pause)
    try:
        # In the namespace before it is in the pod, as a runtime starts it.
        wait_until(lambda: _is_sleep(process.pid), LEAVE_SECONDS, "the sandbox's start")
        sandbox.add(process.pid)
        yield
    finally:
        process.kill()
        process.wait()


def _is_sleep(pid: int) -> bool:
    return Path(f"/proc/{pid}/comm").read_text() == "sleep\n"


def _layout(uid: str, container_id: str, driver: Driver) -> Path:
    if driver is Driver.CGROUPFS:
        return Path("kubepods/burstable", f"pod{uid}", container_id)
    slices = ("kubepods.slice", "kubepods-burstable.slice")
    pod = f"kubepods-burstable-pod{uid.replace('-', '_')}.slice"
    return Path(*slices, pod, f"cri-containerd-{container_id}.scope")


def _is_emptied(cgroup: Path) -> bool:
    """Kills what is left in a cgroup, as the end of a pod does; the kernel takes a moment."""
    pids = (cgroup / "cgroup.procs").read_text().split()
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    return not pids


def _make(folder: Path) -> None:
    """Makes a folder and those above it, while other tests remove theirs."""
    for left in reversed(range(TRIES)):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            return
        except FileNotFoundError:
            if not left:
                raise


def _unmake(folders: Sequence[Path]) -> None:
    """Removes folders, the innermost first, up to one that others use."""
    with suppress(OSError):
        for folder in folders:
            folder.rmdir()


def _make_for(stack: ExitStack, folder: Path) -> None:
    """Makes a folder for the length of a test, and those above it that were missing."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    _make(folder)
    stack.callback(_unmake, missing)
