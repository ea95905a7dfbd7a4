"""What kubelet leaves of a pod on its node: a cgroup and a folder of logs."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOGS = Path("/var/log/pods")
HIERARCHIES = (Path("/sys/fs/cgroup/pids"), Path("/sys/fs/cgroup"))


@contextmanager
def kubepods_cgroup(uid: str) -> Iterator[Path]:
    """A container's cgroup as kubelet's cgroupfs driver makes it, gone afterwards."""
    root = next(folder for folder in HIERARCHIES if (folder / "cgroup.procs").exists())
    pod = root / "kubepods" / "burstable" / f"pod{uid}"
    container = pod / secrets.token_hex(32)
    container.mkdir(parents=True)
    try:
        yield container
    finally:
        for folder in (container, pod, pod.parent, pod.parent.parent):
            try:
                folder.rmdir()
            except OSError:
                break  # others use it


@contextmanager
def log_folder(name: str) -> Iterator[None]:
    created = [path for path in (LOGS, *LOGS.parents) if not path.exists()]
    folder = LOGS / name
    folder.mkdir(parents=True)
    try:
        yield
    finally:
        for path in (folder, *created):
            path.rmdir()
