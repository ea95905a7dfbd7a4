"""A node's files below one folder, as procfs, container runtimes and the kubelet lay them out.

What a test says of it is written down by nobody else: cgroups come from recordings or from the
layouts in tests/unit/test_cgroup.py, annotations and names of files from the sources that
tracer/host/runtime.py and kubelet.py name.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

HOST = 4026531840
"""The node's own network namespace."""

CONTAINERD = "run/containerd/io.containerd.runtime.v2.task/k8s.io"
CRIO = "run/containers/storage/overlay-containers"
DOCKER = "var/lib/docker/containers"


def kubepods(uid: str, container_id: str) -> str:
    """A container's /proc/PID/cgroup under cgroup v2 and the kubelet's cgroupfs driver."""
    return f"0::/kubepods/burstable/pod{uid}/{container_id}\n"


class NodeTree:
    """`root` is the node's file system, `proc` its /proc."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.proc = root / "proc"
        self.proc.mkdir()
        self.add_process(1, HOST, "0::/init.scope\n")

    def add_process(self, pid: int, netns: int | None, cgroup: str) -> None:
        """A process; without a namespace it is one that is just ending."""
        folder = self.proc / str(pid)
        (folder / "ns").mkdir(parents=True)
        (folder / "cgroup").write_text(cgroup)
        if netns is not None:
            (folder / "ns/net").symlink_to(f"net:[{netns}]")

    def end_process(self, pid: int) -> None:
        shutil.rmtree(self.proc / str(pid))

    def add_recorded(self, recording: Path) -> None:
        """The processes of a recording such as tests/fixtures/kube/proc-cgroups-*.txt."""
        for record in recording.read_text().split("pid=")[1:]:
            head, cgroup = record.split("\n", 1)
            pid, _, netns = head.split(" ")
            self.add_process(int(pid), int(netns.removeprefix("netns=net:[").rstrip("]")), cgroup)

    def add_containerd(
        self, container_id: str, *, state: str = CONTAINERD, **annotations: str
    ) -> Path:
        """Annotations are given by the last part of their keys: sandbox_name="cart-0"."""
        keys = {
            f"io.kubernetes.cri.{key.replace('_', '-')}": annotations[key] for key in annotations
        }
        return self.write(f"{state}/{container_id}/config.json", {"annotations": keys})

    def add_crio(self, container_id: str, annotations: dict[str, str]) -> Path:
        return self.write(
            f"{CRIO}/{container_id}/userdata/config.json", {"annotations": annotations}
        )

    def add_docker(self, container_id: str, labels: dict[str, str]) -> Path:
        return self.write(f"{DOCKER}/{container_id}/config.v2.json", {"Config": {"Labels": labels}})

    def add_pod_logs(self, folder: str) -> None:
        (self.root / "var/log/pods" / folder).mkdir(parents=True)

    def add_container_log(self, name: str) -> None:
        folder = self.root / "var/log/containers"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to("/nowhere")

    def write(self, path: str, document: object) -> Path:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(document))
        return file
