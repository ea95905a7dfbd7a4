"""What servers that play the Kubernetes API have in common: certificates, TLS, their clients."""

from __future__ import annotations

import base64
import json
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

_PATIENCE_SECONDS = 20

Document = dict[str, Any]


class Left(Exception):
    """The client has gone."""


@dataclass(frozen=True)
class Certificates:
    """A certificate authority, and what it signed: for a server on 127.0.0.1, and for a user."""

    authority: Path
    certificate: Path
    key: Path
    user_certificate: Path
    user_key: Path


def make_certificates(directory: Path) -> Certificates:
    """Made by the openssl program: Python's standard library cannot."""

    def openssl(*arguments: str) -> None:
        subprocess.run(
            ["openssl", *arguments], cwd=directory, check=True, capture_output=True, timeout=60
        )

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl(
        *("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.crt", "-days", "2"),
        *("-subj", "/CN=test-authority", "-addext", "keyUsage=critical,keyCertSign"),
    )
    signed = {
        "server": "subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth\n",
        "user": "extendedKeyUsage=clientAuth\n",
    }
    for name, extensions in signed.items():
        (directory / f"{name}.ext").write_text(
            f"{extensions}authorityKeyIdentifier=keyid\nbasicConstraints=CA:FALSE\n"
            "keyUsage=critical,digitalSignature\n"
        )
        openssl(
            *("req", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        )
        openssl(
            *("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key"),
            *("-CAcreateserial", "-days", "2", "-extfile", f"{name}.ext", "-out", f"{name}.crt"),
        )
    return Certificates(
        authority=directory / "ca.crt",
        certificate=directory / "server.crt",
        key=directory / "server.key",
        user_certificate=directory / "user.crt",
        user_key=directory / "user.key",
    )


def status(code: int, reason: str, message: str, **details: object) -> Document:
    """A metav1.Status that tells of a failure, as the API server writes it."""
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reason,
        "details": details,
        "code": code,
    }


def kubeconfig(
    server: str,
    user: Mapping[str, object],
    authority: Path | None = None,
    cluster: Mapping[str, object] | None = None,
) -> str:
    """The text of a kubeconfig, in JSON, which is YAML; `cluster` are further settings of it."""
    settings: Document = {"server": server}
    if authority is not None:
        data = base64.b64encode(authority.read_bytes()).decode()
        settings["certificate-authority-data"] = data
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "contexts": [{"name": "test", "context": {"cluster": "here", "user": "me"}}],
            "clusters": [{"name": "here", "cluster": settings | dict(cluster or {})}],
            "users": [{"name": "me", "user": user}],
        }
    )


class TlsServer(ThreadingHTTPServer):
    """Serves HTTP on 127.0.0.1, each client in a thread of its own, until close().

    connections  of clients that are there
    errors       what went wrong in it: a client that does not speak the protocol
    """

    daemon_threads = False  # so that closing waits for every handler

    def __init__(
        self, handler: type[BaseHTTPRequestHandler], tls: ssl.SSLContext | None, port: int = 0
    ) -> None:
        self.tls = tls
        self.connections: set[socket.socket] = set()
        self.errors: list[BaseException] = []
        super().__init__(("127.0.0.1", port), handler)

    def finish_request(self, request: socket.socket, client_address: object) -> None:  # type: ignore[override]
        request.settimeout(_PATIENCE_SECONDS)
        with self._secured(request) as connection:
            if connection is None:
                return
            self.connections.add(connection)
            try:
                super().finish_request(connection, client_address)
            except (Left, OSError):
                pass
            finally:
                self.connections.discard(connection)

    @contextmanager
    def _secured(self, request: socket.socket) -> Iterator[socket.socket | None]:
        if self.tls is None:
            yield request
            return
        try:
            connection = self.tls.wrap_socket(request, server_side=True)
        except OSError:  # the client does not trust the certificate, or has left
            yield None
            return
        with connection:
            yield connection

    def handle_error(self, request: object, client_address: object) -> None:  # noqa: ARG002
        error = sys.exception()
        assert error is not None
        self.errors.append(error)

    def close(self) -> None:
        """Ends every connection and waits for its handler. serve_forever() must have ended."""
        for connection in tuple(self.connections):
            # Of the plain class: that of SSLSocket would pull TLS from under its handler.
            with suppress(OSError):
                socket.socket.shutdown(connection, socket.SHUT_RDWR)
        self.server_close()


def server_tls(certificates: Certificates, *, by_certificate: bool = False) -> ssl.SSLContext:
    """For a server that asks its clients for a certificate with `by_certificate`."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificates.certificate, certificates.key)
    if by_certificate:
        tls.verify_mode = ssl.CERT_REQUIRED
        tls.load_verify_locations(certificates.authority)
    return tls
