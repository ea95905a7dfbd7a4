"""Makes the kernel's tracing files readable, without changing the host.

BCC takes a tracepoint's record layout and id from tracefs. Where it is not mounted, this process
gives itself a mount namespace of its own and mounts it there: nothing is left behind, and nobody
else sees it.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Final

from tracer.errors import NoSource, NotPermitted

MOUNT_POINTS: Final = (Path("/sys/kernel/tracing"), Path("/sys/kernel/debug/tracing"))

# <linux/sched.h> and <linux/mount.h>
_CLONE_NEWNS: Final = 0x00020000
_MS_REC: Final = 0x4000
_MS_SLAVE: Final = 0x80000


def mounted_at() -> Path | None:
    """The folder where tracefs is already mounted, if any.

    Raises NotPermitted where this user may not look: tracefs is root's alone unless mounted so.
    """
    for folder in MOUNT_POINTS:
        try:
            if (folder / "events").is_dir():
                return folder
        except PermissionError:
            raise NotPermitted(
                f"{folder} may not be read by this user", hint="run as root"
            ) from None
    return None


def ensure_tracefs() -> Path:
    """Where tracefs is mounted, mounting it for this process alone if need be.

    Must run before the process has a second thread: a mount namespace is entered by one thread,
    and threads started later inherit it. Raises NoSource where it cannot be mounted, NotPermitted
    where it may not be read.
    """
    existing = mounted_at()
    if existing is not None:
        return existing
    target = MOUNT_POINTS[0]
    try:
        _mount_privately(target)
    except OSError as error:
        raise NoSource(
            f"tracefs is not mounted at {target} and cannot be mounted: {error.strerror}",
            hint=f"mount it (mount -t tracefs tracefs {target}) or run with --backend poll",
        ) from None
    return target


def _mount_privately(target: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)

    def checked(result: int) -> None:
        if result != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    checked(libc.unshare(_CLONE_NEWNS))
    # Slave: what the host mounts later still arrives here, what is mounted here stays here.
    checked(libc.mount(None, b"/", None, ctypes.c_ulong(_MS_REC | _MS_SLAVE), None))
    checked(libc.mount(b"tracefs", os.fsencode(target), b"tracefs", ctypes.c_ulong(0), None))
