"""An API server on loopback: GET of a pod, and exec over WebSocket as API server and kubelet do it.

It speaks TLS and asks for a bearer token. What a command does is told per argv by a `Behaviour`;
any other command is missing from the container, as in one without a shell or anything else.

The protocol: messages of v4.channel.k8s.io and v5.channel.k8s.io start with the channel's number.
An empty one on stdout says that the session is open; a metav1.Status on channel 3 says how it
ended; then the server closes the WebSocket and waits for the client to leave. Frames are those of
RFC 6455.
"""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from typing import Self
from urllib.parse import parse_qs, urlsplit

from tests.support.kube_server import (
    Certificates,
    Document,
    Left,
    TlsServer,
    kubeconfig,
    server_tls,
    status,
)

V4 = "v4.channel.k8s.io"
V5 = "v5.channel.k8s.io"

STDOUT, STDERR, ERROR = 1, 2, 3
_CONTINUATION, _TEXT, _BINARY, _CLOSE, _PING, _PONG = 0, 1, 2, 8, 9, 10
_HANDSHAKE_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, section 1.3
_FRAME_BYTES = 32 * 1024  # the buffer of Go's io.Copy, by which the kubelet cuts output up


def forbidden(verb: str, resource: str, name: str, namespace: str, user: str) -> Document:
    """What RBAC answers to a user who may not."""
    return status(
        403,
        "Forbidden",
        f'pods "{name}" is forbidden: User "{user}" cannot {verb} resource "{resource}" in API '
        f'group "" in the namespace "{namespace}"',
        name=name,
        kind="pods",
    )


def internal_error(message: str) -> Document:
    """An error of the node, as it goes over the error channel."""
    return status(
        500, "InternalError", f"Internal error occurred: {message}", causes=[{"message": message}]
    )


def exited(exit_code: int, argv: Sequence[str]) -> Document:
    """The Status at the end of a command, as the kubelet writes it."""
    if exit_code == 0:
        return {"metadata": {}, "status": "Success"}
    return {
        "metadata": {},
        "status": "Failure",
        "message": "command terminated with non-zero exit code: error executing command "
        f"{list(argv)}, exit code {exit_code}",
        "reason": "NonZeroExitCode",
        "details": {"causes": [{"reason": "ExitCode", "message": str(exit_code)}]},
    }


@dataclass(frozen=True)
class Executed:
    """An exec request that the server got."""

    argv: tuple[str, ...]
    container: str
    query: Mapping[str, list[str]]
    protocol: str | None


class Exchange:
    """One exec request, from the server's side. The WebSocket opens with the first message."""

    def __init__(self, handler: _Handler, executed: Executed) -> None:
        self.argv = executed.argv
        self.container = executed.container
        self._handler = handler
        self._protocol = executed.protocol
        self._open = False

    def refuse(self, code: int, body: Document | str) -> None:
        """Answers without taking up the WebSocket."""
        self._handler.answer(code, body)

    def upgrade(self) -> None:
        if not self._open:
            self._open = True
            self._handler.upgrade(self._protocol)
            self.message(STDOUT, b"")

    def message(self, channel: int, data: bytes, *, opcode: int = _BINARY) -> None:
        self.upgrade()
        self.raw(frame(opcode, bytes([channel]) + data))

    def write(self, channel: int, data: bytes, frame_bytes: int = _FRAME_BYTES) -> None:
        for start in range(0, len(data), frame_bytes):
            self.message(channel, data[start : start + frame_bytes])

    def raw(self, data: bytes) -> None:
        self.upgrade()
        try:
            self._handler.connection.sendall(data)
        except OSError as error:
            raise Left from error

    def before_the_handshake(self, data: bytes) -> None:
        """Sends bytes in place of the answer that takes up the WebSocket."""
        self._open = True
        self.raw(data)

    def finish(self, status: Document) -> None:
        """The Status, the closing handshake, and patience until the client has left."""
        self.message(ERROR, json.dumps(status).encode())
        self.close()

    def close(self) -> None:
        self.raw(frame(_CLOSE, struct.pack("!H", 1000)))
        self.wait_until_left()

    def ping(self, data: bytes) -> None:
        """Sends a ping and waits for its pong."""
        self.raw(frame(_PING, data))
        opcode, answer = self._handler.read_frame()
        assert (opcode, answer) == (_PONG, data)

    def wait_until_left(self) -> None:
        try:
            while self._handler.read_frame()[0] != _CLOSE:
                pass
        except Left:
            pass

    def reset(self) -> None:
        """Has the connection end with a reset once the behaviour is over, not with a FIN."""
        self._handler.connection.setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
        )


Behaviour = Callable[[Exchange], None]


def prints(
    stdout: bytes = b"",
    stderr: bytes = b"",
    *,
    exit_code: int = 0,
    frame_bytes: int = _FRAME_BYTES,
) -> Behaviour:
    """The command runs and ends."""

    def behave(exchange: Exchange) -> None:
        exchange.upgrade()
        exchange.write(STDOUT, stdout, frame_bytes)
        exchange.write(STDERR, stderr, frame_bytes)
        exchange.finish(exited(exit_code, exchange.argv))

    return behave


def fails(message: str) -> Behaviour:
    """The node could not run the command and says why on the error channel."""
    return lambda exchange: exchange.finish(internal_error(message))


def refuses(code: int, body: Document | str) -> Behaviour:
    """The server answers instead of taking up the WebSocket."""
    return lambda exchange: exchange.refuse(code, body)


def missing_in_containerd(exchange: Exchange) -> None:
    """containerd's CRI plugin with runc."""
    exchange.finish(
        internal_error(
            "error executing command in container: failed to exec in container: failed to start "
            f'exec "{"5e" * 32}": OCI runtime exec failed: exec failed: unable to start container '
            f'process: exec: "{exchange.argv[0]}": executable file not found in $PATH: unknown'
        )
    )


def missing_in_crio(exchange: Exchange) -> None:
    """CRI-O runs `runc exec`: what that complains of is stderr, how it ends the exit status."""
    complaint = (
        'time="2026-01-02T03:04:05Z" level=error msg="exec failed: unable to start container '
        f'process: exec: \\"{exchange.argv[0]}\\": executable file not found in $PATH"\n'
    )
    prints(stderr=complaint.encode(), exit_code=255)(exchange)


def missing_in_crio_with_crun(exchange: Exchange) -> None:
    complaint = (
        f"executable file `{exchange.argv[0]}` not found in $PATH: No such file or directory\n"
    )
    prints(stderr=complaint.encode(), exit_code=1)(exchange)


def missing_in_docker(exchange: Exchange) -> None:
    """Docker writes the complaint to the command's output."""
    complaint = (
        "OCI runtime exec failed: exec failed: unable to start container process: exec: "
        f'"{exchange.argv[0]}": executable file not found in $PATH: unknown\r\n'
    )
    prints(stdout=complaint.encode(), exit_code=126)(exchange)


def cuts(stdout: bytes = b"", *, reset: bool = False, inside_a_frame: bool = False) -> Behaviour:
    """The connection ends while the command runs."""

    def behave(exchange: Exchange) -> None:
        exchange.upgrade()
        exchange.write(STDOUT, stdout)
        exchange.ping(b"as far as here")  # a reset throws away what was not read yet
        if inside_a_frame:
            exchange.raw(frame(_BINARY, bytes([STDOUT]) + b"x" * 1000)[:500])
        if reset:
            exchange.reset()

    return behave


def hangs(stdout: bytes = b"") -> Behaviour:
    """The command writes something and does not end."""

    def behave(exchange: Exchange) -> None:
        exchange.upgrade()
        exchange.write(STDOUT, stdout)
        exchange.wait_until_left()

    return behave


def floods(exchange: Exchange) -> None:
    """The command writes for as long as anybody listens."""
    while True:
        exchange.write(STDOUT, b"0123456789abcde\n" * 2048)


def frame(opcode: int, payload: bytes, *, final: bool = True) -> bytes:
    """A frame of a server, which masks nothing (RFC 6455, section 5.2)."""
    size = len(payload)
    first = (0x80 if final else 0) | opcode
    if size < 126:
        head = struct.pack("!BB", first, size)
    elif size < 1 << 16:
        head = struct.pack("!BBH", first, 126, size)
    else:
        head = struct.pack("!BBQ", first, 127, size)
    return head + payload


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # 40 ms for every small message otherwise
    server: _Server

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass

    def do_GET(self) -> None:
        kube = self.server.kube
        url = urlsplit(self.path)
        path = url.path.removeprefix(kube.prefix)
        kube.paths.append(url.path)
        scheme, _, token = self.headers.get("Authorization", "").partition(" ")
        if not kube.by_certificate and (scheme.lower(), token) != ("bearer", kube.token):
            self.answer(401, status(401, "Unauthorized", "Unauthorized"))
            return
        match path.split("/")[1:]:
            case ["api", "v1", "namespaces", namespace, "pods", name]:
                self._get_pod(namespace, name)
            case ["api", "v1", "namespaces", namespace, "pods", name, "exec"]:
                self._exec(namespace, name, parse_qs(url.query, keep_blank_values=True))
            case _:
                self.answer(404, "404 page not found\n")

    def _get_pod(self, namespace: str, name: str) -> None:
        kube = self.server.kube
        if kube.instead_of_pods is not None:
            self.answer(*kube.instead_of_pods)
        elif (pod := kube.pods.get((namespace, name))) is None:
            self.answer(404, _no_pod(name))
        else:
            self.answer(200, pod)

    def _exec(self, namespace: str, name: str, query: dict[str, list[str]]) -> None:
        kube = self.server.kube
        offered = [
            each.strip() for each in self.headers.get("Sec-WebSocket-Protocol", "").split(",")
        ]
        executed = Executed(
            argv=tuple(query.get("command", ())),
            container=query.get("container", [""])[0],
            query=query,
            protocol=next((each for each in offered if each in kube.protocols), None),
        )
        kube.executed.append(executed)
        if (namespace, name) not in kube.pods:
            self.answer(404, _no_pod(name))
        elif self.headers.get("Upgrade", "").lower() != "websocket":
            self.answer(400, status(400, "BadRequest", "Upgrade request required"))
        else:
            behave = kube.commands.get(executed.argv, kube.otherwise)
            behave(Exchange(self, executed))
            self.close_connection = True

    def answer(self, code: int, body: Document | str) -> None:
        plain = isinstance(body, str)
        data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", "text/plain" if plain else "application/json")
        self.send_header("Content-Length", str(len(data)))
        if 300 <= code < 400:
            url = f"{self.server.kube.url}/elsewhere"
            self.send_header(
                "Location", url.replace("http", "ws", 1) if "Upgrade" in self.headers else url
            )
        self.end_headers()
        self.wfile.write(data)

    def upgrade(self, protocol: str | None) -> None:
        assert self.headers["Sec-WebSocket-Version"] == "13"
        key = self.headers["Sec-WebSocket-Key"] + _HANDSHAKE_GUID
        accept = base64.b64encode(hashlib.sha1(key.encode(), usedforsecurity=False).digest())
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", accept.decode())
        if protocol is not None:
            self.send_header("Sec-WebSocket-Protocol", protocol)
        self.end_headers()

    def read_frame(self) -> tuple[int, bytes]:
        """A frame of the client, which masks all of them. Raises Left where there is none."""
        first, second = self._read(2)
        assert second & 0x80, "a client's frame must be masked"
        size = second & 0x7F
        if size >= 126:
            size = int.from_bytes(self._read(2 if size == 126 else 8))
        mask = self._read(4)
        payload = bytes(byte ^ mask[place % 4] for place, byte in enumerate(self._read(size)))
        return first & 0x0F, payload

    def _read(self, size: int) -> bytes:
        try:
            data = self.rfile.read(size)
        except OSError as error:
            raise Left from error
        if len(data) < size:
            raise Left
        return data


def _no_pod(name: str) -> Document:
    return status(404, "NotFound", f'pods "{name}" not found', name=name, kind="pods")


class _Server(TlsServer):
    def __init__(self, kube: KubeServer, tls: ssl.SSLContext | None) -> None:
        self.kube = kube
        super().__init__(_Handler, tls)


class KubeServer:
    """The server, from `with` on; what it was asked can be read from it.

    pods             documents by (namespace, name)
    commands         what an argv does; any other does `otherwise`
    instead_of_pods  an answer to every GET of a pod
    protocols        what it speaks
    by_certificate   whether a user shows a certificate instead of a token
    errors           what went wrong in it: a client that does not speak the protocol
    """

    def __init__(
        self,
        certificates: Certificates | None = None,
        *,
        prefix: str = "",
        by_certificate: bool = False,
    ) -> None:
        self.pods: dict[tuple[str, str], Document] = {}
        self.commands: dict[tuple[str, ...], Behaviour] = {}
        self.otherwise: Behaviour = missing_in_containerd
        self.instead_of_pods: tuple[int, Document | str] | None = None
        self.protocols: tuple[str, ...] = (V5, V4)
        self.token = "a-token-of-this-test"  # noqa: S105
        self.prefix = prefix
        self.by_certificate = by_certificate
        self.paths: list[str] = []
        self.executed: list[Executed] = []
        self._certificates = certificates
        tls = None
        if certificates is not None:
            tls = server_tls(certificates, by_certificate=by_certificate)
        self._server = _Server(self, tls)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.01,), name="kube-server"
        )

    @property
    def connections(self) -> set[socket.socket]:
        return self._server.connections

    @property
    def errors(self) -> list[BaseException]:
        return self._server.errors

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        scheme = "http" if self._certificates is None else "https"
        return f"{scheme}://127.0.0.1:{self.port}{self.prefix}"

    def when(self, *argv: str, does: Behaviour) -> None:
        self.commands[argv] = does

    @property
    def ran(self) -> list[tuple[str, ...]]:
        return [each.argv for each in self.executed]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.close()

    def kubeconfig(
        self,
        user: Mapping[str, object] | None = None,
        cluster: Mapping[str, object] | None = None,
    ) -> str:
        """The text of a kubeconfig for this server; the user has its token if not given."""
        return kubeconfig(
            self.url,
            {"token": self.token} if user is None else user,
            None if self._certificates is None else self._certificates.authority,
            cluster or {},
        )


def pod_document(
    namespace: str = "shop", name: str = "web-0", containers: Sequence[str] = ("app", "sidecar")
) -> Document:
    """A running pod of a StatefulSet."""
    return {
        "kind": "Pod",
        "apiVersion": "v1",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "uid": "0d9b2c44-58f1-4c3e-9f0a-2f9f0f6f7a10",
            "annotations": {},
            "ownerReferences": [
                {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "web", "controller": True}
            ],
        },
        "spec": {
            "nodeName": "node-a",
            "containers": [{"name": each, "image": f"example/{each}:1"} for each in containers],
        },
        "status": {
            "phase": "Running",
            "podIP": "10.4.7.21",
            "podIPs": [{"ip": "10.4.7.21"}, {"ip": "fd00:10:4::15"}],
            "containerStatuses": [
                {
                    "name": each,
                    "containerID": f"containerd://{index:064x}",
                    "state": {"running": {}},
                }
                for index, each in enumerate(containers, start=0xC0)
            ],
        },
    }
