"""BPF programs of two instructions that let nothing pass, loaded and attached by the bare system
call: no compiler, no library.
"""

from __future__ import annotations

import ctypes
import os
import platform
import secrets
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.support.netns import Namespace
from tests.support.sockets import path_of
from tests.support.wait import wait_until
from tracer.host.netns import enter

# <linux/bpf.h>
_PROG_LOAD, _PROG_ATTACH, _LINK_CREATE = 5, 8, 28
_XDP_PROGRAM, _CGROUP_SKB_PROGRAM = 6, 8
_CGROUP_INET_EGRESS, _XDP = 1, 37
_XDP_DROP, _DENY = 1, 0
_BPF_SYSCALL: Final = {"x86_64": 321, "aarch64": 280}[platform.machine()]

HIERARCHIES: Final = (Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup"))
"""Where cgroup v2 is mounted: beside v1, or alone."""

_libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def xdp_drops(namespace: Namespace, device: str) -> Iterator[None]:
    """Lets the driver of `device` drop all that it receives, before the kernel sees a packet."""
    program = _load(_XDP_PROGRAM, _XDP_DROP)
    try:
        with enter(path_of(namespace)):
            index = socket.if_nametoindex(device)
            # The namespace is the calling thread's.
            link = _bpf(_LINK_CREATE, struct.pack("=IIII", program, index, _XDP, 0))
        try:
            yield
        finally:
            os.close(link)
    finally:
        os.close(program)


@contextmanager
def deaf_cgroup() -> Iterator[Path]:
    """A cgroup whose processes' sockets get nothing out. Raises StopIteration without cgroup v2."""
    root = next(one for one in HIERARCHIES if (one / "cgroup.controllers").exists())
    folder = root / f"syn{secrets.token_hex(4)}"
    folder.mkdir()
    program = _load(_CGROUP_SKB_PROGRAM, _DENY)
    try:
        cgroup = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            _bpf(_PROG_ATTACH, struct.pack("=IIII", cgroup, program, _CGROUP_INET_EGRESS, 0))
        finally:
            os.close(cgroup)
        yield folder
    finally:
        os.close(program)
        wait_until(
            lambda: not (folder / "cgroup.procs").read_text(), 15, "the cgroup's last process"
        )
        folder.rmdir()


def _load(kind: int, result: int) -> int:
    """A program that returns `result`; its descriptor."""
    # Move to register 0; exit.
    code = ctypes.create_string_buffer(struct.pack("=BBhiBBhi", 0xB7, 0, 0, result, 0x95, 0, 0, 0))
    name = ctypes.create_string_buffer(b"GPL")
    attributes = struct.pack(
        "=IIQQIIQII16sII",
        *(kind, 2, ctypes.addressof(code), ctypes.addressof(name), 0, 0, 0, 0, 0),
        b"syn_test",
        *(0, _CGROUP_INET_EGRESS if kind == _CGROUP_SKB_PROGRAM else _XDP),
    )
    return _bpf(_PROG_LOAD, attributes)


def _bpf(command: int, attributes: bytes) -> int:
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    result = int(_libc.syscall(_BPF_SYSCALL, command, buffer, len(attributes)))
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"bpf({command}): {os.strerror(number)}")
    return result
