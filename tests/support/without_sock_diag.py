"""Runs a command to which the kernel refuses sock_diag: `python without_sock_diag.py COMMAND ...`.

A seccomp filter answers socket(AF_NETLINK, ..., NETLINK_SOCK_DIAG) with EPERM, as policies of
container runtimes do; see seccomp(2). Every other call is allowed. Needs root.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import socket
import struct
import sys
from typing import Final

_NETLINK_SOCK_DIAG: Final = 4
# <linux/prctl.h>, <linux/seccomp.h>
_PR_SET_SECCOMP: Final = 22
_SECCOMP_MODE_FILTER: Final = 2
_RET_ALLOW: Final = 0x7FFF0000
_RET_ERRNO: Final = 0x00050000
# <linux/bpf_common.h>: BPF_LD | BPF_W | BPF_ABS, BPF_JMP | BPF_JEQ | BPF_K, BPF_RET | BPF_K
_LOAD: Final = 0x20
_JUMP_IF_EQUAL: Final = 0x15
_RETURN: Final = 0x06
# struct seccomp_data: nr at 0, the low halves of args[0] and args[2] on little-endian machines.
_NUMBER_AT: Final = 0
_FAMILY_AT: Final = 16
_PROTOCOL_AT: Final = 32

_SOCKET_CALL: Final = {"x86_64": 41, "aarch64": 198}


class _Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def _filter() -> list[bytes]:
    """Jumps to the last instruction but one, unless all three are equal."""
    wanted = (
        (_NUMBER_AT, _SOCKET_CALL[platform.machine()]),
        (_FAMILY_AT, int(socket.AF_NETLINK)),
        (_PROTOCOL_AT, _NETLINK_SOCK_DIAG),
    )
    code: list[tuple[int, int, int, int]] = []
    for index, (offset, value) in enumerate(wanted):
        further = 2 * (len(wanted) - index - 1)
        code += [(_LOAD, 0, 0, offset), (_JUMP_IF_EQUAL, 0, further + 1, value)]
    code += [(_RETURN, 0, 0, _RET_ERRNO | errno.EPERM), (_RETURN, 0, 0, _RET_ALLOW)]
    # struct sock_filter: code, jt, jf, k
    return [struct.pack("=HBBI", *instruction) for instruction in code]


def main(command: list[str]) -> None:
    instructions = _filter()
    program = _Program(len(instructions), b"".join(instructions))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_SECCOMP)")
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
