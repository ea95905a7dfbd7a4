"""Which process holds a socket, told by the links in /proc/PID/fd.

The link of a socket's descriptor reads `socket:[inode]` (proc_pid_fd(5)); sock_diag and
/proc/net/tcp give the same inode number.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable


def owners_of(
    inodes: Collection[int], pids: Iterable[int], *, proc: str = "/proc"
) -> dict[int, int]:
    """Socket inode -> pid, for those of `inodes` that one of `pids` holds.

    Of several holders (a socket inherited over fork) the first in the order of `pids` is given.
    Ends as soon as all are found. Processes that go away or may not be read are skipped: what is
    missing from the answer is unknown. Descriptors are those of a process's main thread, which its
    other threads share unless one has called unshare(CLONE_FILES). Inode 0 stands for a socket
    without a file, which no process holds any more.
    """
    # The link's text is looked up as it is: cheaper than parsing thousands of them.
    wanted = {f"socket:[{inode}]": inode for inode in inodes if inode != 0}
    owners: dict[int, int] = {}
    if not wanted:
        return owners
    for pid in pids:
        for inode in _take_held(f"{proc}/{pid}/fd", wanted):
            owners[inode] = pid
        if not wanted:
            break
    return owners


def _take_held(folder: str, wanted: dict[str, int]) -> list[int]:
    """Remove from `wanted` what the descriptors in `folder` show, and return it."""
    taken: list[int] = []
    try:
        with os.scandir(folder) as descriptors:
            for descriptor in descriptors:
                try:
                    link = os.readlink(descriptor.path)  # noqa: PTH115 - thousands of them
                except OSError:  # closed since it was listed
                    continue
                if link in wanted:
                    taken.append(wanted.pop(link))
                    if not wanted:
                        break
    except OSError:  # gone, or another user's
        pass
    return taken
