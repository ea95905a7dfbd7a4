"""Connects to a server, through its proxy and with TLS, on sockets that others can cut meanwhile.

http.client and urllib3 show a socket once it is connected and its handshake done: whoever wants to
end a connect before its timeout has nothing to shut down. Here each socket is handed out before
anything is waited for.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final

Keep = Callable[[socket.socket], None]
"""Takes each socket as it is made; it replaces the one before, which may be closed."""

# A watch may be silent for minutes. A server or path that is gone answers no probe: with these it
# is noticed 30 s after its last packet (tcp(7)).
_KEEPALIVE: Final = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
)
_MAX_HEAD_BYTES: Final = 64 << 10


@dataclass(frozen=True, slots=True)
class Target:
    """What to connect to. `tls` is None for plain HTTP; `server_name` is the certificate's."""

    host: str
    port: int
    tls: ssl.SSLContext | None = None
    server_name: str | None = None
    proxy: tuple[str, int] | None = None
    proxy_headers: Mapping[str, str] = field(default_factory=dict)


def dial(target: Target, connect_seconds: float, read_seconds: float, keep: Keep) -> socket.socket:
    """A connected socket, with TLS where `target` has it; later reads get `read_seconds`.

    Raises OSError (ssl.SSLError is one). Closing is left to whoever keeps the sockets, also where
    this raises.
    """
    host, port = target.proxy or (target.host, target.port)
    connected = _connect(host, port, connect_seconds, keep)
    connected.settimeout(read_seconds)
    if target.proxy is not None:
        _tunnel(connected, target)
    if target.tls is None:
        return connected
    secured = secure(connected, target.tls, target.server_name or target.host)
    keep(secured)
    secured.do_handshake()
    return secured


class _Socket(ssl.SSLSocket):
    """Closed where it cannot be made because the server has reset the connection already.

    wrap_socket() takes the descriptor over, reads to find out why nobody is connected any longer,
    and leaves closing to the garbage collector where that fails (CPython 3.11).
    """

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        try:
            return super().recv(buflen, flags)
        except OSError:
            if self.version() is None:
                self.close()
            raise


def secure(connected: socket.socket, tls: ssl.SSLContext, server_name: str) -> ssl.SSLSocket:
    """A socket for TLS in place of `connected`, before the handshake. Raises OSError."""
    tls.sslsocket_class = _Socket
    return tls.wrap_socket(connected, server_hostname=server_name, do_handshake_on_connect=False)


def _connect(host: str, port: int, seconds: float, keep: Keep) -> socket.socket:
    """Tries the addresses of a name one after the other, as socket.create_connection does."""
    failure: OSError = OSError(f"{host} has no address")
    for family, kind, protocol, _, address in socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM
    ):
        connected = socket.socket(family, kind, protocol)
        keep(connected)
        connected.settimeout(seconds)
        for option in _KEEPALIVE:
            connected.setsockopt(*option)
        try:
            connected.connect(address)
        except OSError as error:
            failure = error
        else:
            return connected
    raise failure


def _tunnel(connected: socket.socket, target: Target) -> None:
    """Has the proxy connect to the server (CONNECT: RFC 9110, section 9.3.6)."""
    host = f"[{target.host}]" if ":" in target.host else target.host
    lines = (
        f"CONNECT {host}:{target.port} HTTP/1.1",
        f"Host: {host}:{target.port}",
        *(f"{name}: {value}" for name, value in target.proxy_headers.items()),
    )
    connected.sendall(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        # One byte at a time: what follows the head belongs to the server.
        byte = connected.recv(1)
        head += byte
        if not byte or len(head) > _MAX_HEAD_BYTES:
            raise OSError("the proxy gave no answer to CONNECT")
    _, _, answer = head.partition(b"\r\n")[0].decode("latin-1").partition(" ")
    code = answer[:3]
    if not code.isdigit() or not HTTPStatus.OK <= int(code) < HTTPStatus.MULTIPLE_CHOICES:
        raise OSError(f"Tunnel connection failed: {answer.strip()}")
