"""What a device's driver says of itself (ETHTOOL_GDRVINFO, <linux/ethtool.h>)."""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
from errno import ENODEV
from typing import Final

from tracer.host.netns import enter

_SIOCETHTOOL: Final = 0x8946
_ETHTOOL_GDRVINFO: Final = 0x03
_IFNAMSIZ: Final = 16

# struct ifreq: name, pointer
_IFREQ: Final = struct.Struct(f"@{_IFNAMSIZ}sP16x")
# struct ethtool_drvinfo: command, driver, version, firmware's version, bus_info, the rest
_DRIVER_INFO: Final = struct.Struct("=I32s32s32s32s64x")


def driver_of(path: str, device: str) -> tuple[str, str]:
    """A device's driver, and its place on a bus, "" where it is on none: dev_ethtool() fills it in
    for whatever has a parent device, as hardware and what a hypervisor gives have.

    Raises OSError where the namespace whose file is `path` cannot be entered, with ENODEV where it
    has no such device, EOPNOTSUPP where nothing is told of it.
    """
    name = device.encode("utf-8", "surrogateescape")
    if not 0 < len(name) < _IFNAMSIZ:
        raise OSError(ENODEV, os.strerror(ENODEV), device)
    answer = ctypes.create_string_buffer(_DRIVER_INFO.pack(_ETHTOOL_GDRVINFO, *[b""] * 4))
    with enter(path):
        asked = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    with asked:
        fcntl.ioctl(asked.fileno(), _SIOCETHTOOL, _IFREQ.pack(name, ctypes.addressof(answer)))
    _command, driver, _version, _firmware, bus = _DRIVER_INFO.unpack_from(answer)
    return _text(driver), _text(bus)


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode("utf-8", "backslashreplace")
