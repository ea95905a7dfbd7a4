"""An API server on loopback that lists and watches, with TLS and tokens, and fails on command.

What it holds is edited by the test; every edit has a resourceVersion and reaches those who watch.
It answers as kube-apiserver 1.36 does (recorded in /work/shared/data/kube, copied to
tests/fixtures/kube): objects in a list have no kind, a bookmark has no name, `continue` is void
once the list's version is compacted, a watch from a version that is yet to come is silent until it
comes.
"""

from __future__ import annotations

import json
import queue
import select
import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Self
from urllib.parse import parse_qsl, urlsplit

from tests.support.kube_server import (
    Certificates,
    Document,
    Left,
    TlsServer,
    kubeconfig,
    server_tls,
    status,
)

TOKEN = "a-token-of-this-test"  # noqa: S105
USER = "system:serviceaccount:kube-system:synsent-trace"
_POLL_SECONDS = 0.01

PODS, SERVICES, SLICES, NODES = "pods", "services", "endpointslices", "nodes"
POLICIES, NAMESPACES = "networkpolicies", "namespaces"
_PATHS = {
    "/api/v1/pods": PODS,
    "/api/v1/services": SERVICES,
    "/apis/discovery.k8s.io/v1/endpointslices": SLICES,
    "/api/v1/nodes": NODES,
    "/apis/networking.k8s.io/v1/networkpolicies": POLICIES,
    "/api/v1/namespaces": NAMESPACES,
}
_KINDS = {
    PODS: ("Pod", "v1"),
    SERVICES: ("Service", "v1"),
    SLICES: ("EndpointSlice", "discovery.k8s.io/v1"),
    NODES: ("Node", "v1"),
    POLICIES: ("NetworkPolicy", "networking.k8s.io/v1"),
    NAMESPACES: ("Namespace", "v1"),
}

_LISTS_OMIT = {"kind", "apiVersion"}

Key = tuple[str, str]
Objects = dict[Key, Document]
Query = Mapping[str, str]


@dataclass(frozen=True)
class Asked:
    """A request that was let in. `verb` is "list" or "watch"."""

    resource: str
    verb: str
    query: Query


@dataclass
class Fault:
    """What happens to requests instead of, or before, what they asked for.

    `do` returns whether the request is over. `times` is how often it still happens, None: always.
    """

    do: Callable[[Handler], bool]
    resource: str | None
    verb: str | None
    times: int | None
    hits: int = 0

    def lift(self) -> None:
        self.times = 0

    def takes(self, asked: Asked) -> bool:
        if (
            self.times == 0
            or self.resource not in {None, asked.resource}
            or self.verb not in {None, asked.verb}
        ):
            return False
        self.hits += 1
        if self.times is not None:
            self.times -= 1
        return True


def answers(
    code: int, body: Document | str, headers: Mapping[str, str] | None = None
) -> Callable[[Handler], bool]:
    """The server answers otherwise."""

    def do(handler: Handler) -> bool:
        handler.answer(code, body, headers or {})
        return True

    return do


def forbids(verb: str, resource: str) -> Callable[[Handler], bool]:
    """RBAC does."""
    message = (
        f'{resource} is forbidden: User "{USER}" cannot {verb} resource "{resource}" in API group '
        '"" at the cluster scope'
    )
    return answers(403, status(403, "Forbidden", message, kind=resource))


def hangs(handler: Handler) -> bool:
    """There is no answer for as long as anybody waits for it."""
    handler.pause(None)
    raise Left


def slow(seconds: float) -> Callable[[Handler], bool]:
    """Every answer takes its time."""

    def do(handler: Handler) -> bool:
        handler.pause(seconds)
        return False

    return do


def drips(handler: Handler) -> bool:
    """The answer comes, a byte at a time, and never ends."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Drip: ")
    while True:
        handler.wfile.write(b".")
        handler.pause(_POLL_SECONDS)


def cuts(handler: Handler) -> bool:
    """The connection ends inside the answer."""
    handler.wfile.write(b'HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{"kind":')
    raise Left


class Stream:
    """One watch. What is put into it is sent; None ends it in good order, an exception at once."""

    def __init__(self, resource: str, query: Query) -> None:
        self.resource = resource
        self.waiting: queue.SimpleQueue[bytes | BaseException | None] = queue.SimpleQueue()
        self.muted = False
        self._selector = query.get("fieldSelector")
        self._since = int(query["resourceVersion"])

    def mute(self) -> None:
        """From now on it hangs."""
        self.waiting = queue.SimpleQueue()
        self.muted = True

    def event(self, kind: str, document: Document) -> bytes | None:
        """The line that tells of an edit; None where it is none of this watch's."""
        if _version(document) <= self._since:
            return None
        if not selected(document, self._selector):
            kind = "DELETED" if kind == "MODIFIED" else ""
        return json.dumps({"type": kind, "object": document}).encode() + b"\n" if kind else None


class KubeApi:
    """The server, from start() to stop(), as often as wanted, on one port.

    objects         what it holds, per resource by namespace and name
    tokens          those that it accepts
    asked, streams  what it was asked for, and the watches there are
    gone_as_event   whether a watch from before the last compaction is told so by an ERROR event
                    instead of by the answer's status: both occur
    page_objects    how many objects a page has at most, whatever is asked for
    """

    def __init__(
        self, certificates: Certificates | None, *, version: int = 1_000, prefix: str = ""
    ) -> None:
        self.objects: dict[str, Objects] = {resource: {} for resource in _KINDS}
        self.version = version
        self.prefix = prefix
        self.compacted = 0
        self.tokens = {TOKEN}
        self.gone_as_event = True
        self.page_objects = 500
        self.asked: list[Asked] = []
        self.streams: list[Stream] = []
        self.lock = threading.RLock()
        self.running = threading.Event()
        self.pages: dict[str, tuple[int, list[Document]]] = {}
        self.port = 0
        self._certificates = certificates
        self._edits: list[tuple[int, str, str, Document]] = []
        self._faults: list[Fault] = []
        self._half: set[str] = set()
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    # -- running -----------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Listens, on the port it had before."""
        tls = None if self._certificates is None else server_tls(self._certificates)
        self._server = _Server(self, tls, self.port)
        self.port = int(self._server.server_address[1])
        self.running.set()
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_POLL_SECONDS,), name="kube-api"
        )
        self._thread.start()

    def stop(self) -> None:
        """Ends every connection; from now on they are refused."""
        if self._server is None or self._thread is None:
            return
        self.running.clear()
        self._server.shutdown()
        self._thread.join()
        self._server.close()
        errors, self._server = self._server.errors, None
        assert errors == [], "what went wrong in the server"

    @property
    def connections(self) -> int:
        return 0 if self._server is None else len(self._server.connections)

    @property
    def url(self) -> str:
        return f"{'http' if self._certificates is None else 'https'}://127.0.0.1:{self.port}{self.prefix}"

    def kubeconfig(self, user: Mapping[str, object] | None = None) -> str:
        """The text of one for this server; the user has TOKEN if not given."""
        authority = None if self._certificates is None else self._certificates.authority
        return kubeconfig(self.url, {"token": TOKEN} if user is None else user, authority)

    def write_kubeconfig(self, folder: Path, user: Mapping[str, object] | None = None) -> Path:
        """The file of one; it can be written while the server is stopped, once it has a port."""
        path = folder / "kubeconfig"
        path.write_text(self.kubeconfig(user))
        return path

    # -- what it holds -----------------------------------------------------------------------------

    def load(self, resource: str, recorded: Document) -> None:
        """Takes in a list as it was recorded, with its version; nobody is told."""
        with self.lock:
            for item in recorded["items"]:
                self.objects[resource][_key(item)] = _with_kind(resource, item)
            self.version = int(recorded["metadata"]["resourceVersion"])

    def put(self, resource: str, document: Document) -> None:
        """Adds an object, or exchanges it."""
        with self.lock:
            known = _key(document) in self.objects[resource]
            self._edit(resource, "MODIFIED" if known else "ADDED", document)

    def delete(self, resource: str, namespace: str, name: str) -> None:
        with self.lock:
            self._edit(resource, "DELETED", self.objects[resource][namespace, name])

    def replay(self, resource: str, recorded: Document) -> None:
        """An event of a watch as it was recorded."""
        with self.lock:
            if recorded["type"] == "BOOKMARK":
                self._tell(resource, json.dumps(recorded).encode() + b"\n")
                return
            self.version = _version(recorded["object"]) - 1
            self._edit(resource, recorded["type"], recorded["object"])

    def bookmark(self, resource: str) -> None:
        """Tells those who watch how far they have come."""
        kind, api_version = _KINDS[resource]
        bookmark: Document = {
            "kind": kind,
            "apiVersion": api_version,
            "metadata": {"resourceVersion": str(self.version)},
            "spec": {"containers": None},
        }
        self._tell(resource, json.dumps({"type": "BOOKMARK", "object": bookmark}).encode() + b"\n")

    def compact(self) -> None:
        """Forgets every edit until now, and every list that is being read page by page."""
        with self.lock:
            self.compacted = self.version
            self._edits.clear()
            self.pages.clear()

    def restore(self, version: int, objects: Mapping[str, Sequence[Document]]) -> None:
        """Puts back a backup: objects, and a version that may be older than what was told."""
        with self.lock:
            self.compact()
            self.version, self.compacted = version, 0
            self.objects = {
                resource: {_key(each): each for each in objects.get(resource, ())}
                for resource in _KINDS
            }

    def _edit(self, resource: str, kind: str, document: Document) -> None:
        self.version += 1
        told = _with_kind(resource, deepcopy(document))
        told["metadata"]["resourceVersion"] = str(self.version)
        if kind == "DELETED":
            self.objects[resource].pop(_key(told), None)
        else:
            self.objects[resource][_key(told)] = told
        self._edits.append((self.version, resource, kind, told))
        for stream in self.streams:
            if stream.muted:
                continue
            if stream.resource == resource and (line := stream.event(kind, told)) is not None:
                if resource in self._half:
                    stream.waiting.put(line[: len(line) // 2])
                    stream.waiting.put(Left())
                else:
                    stream.waiting.put(line)
        self._half.discard(resource)

    def _tell(self, resource: str | None, *what: bytes | BaseException | None) -> None:
        with self.lock:
            for stream in self.streams:
                if resource in {None, stream.resource} and not stream.muted:
                    for each in what:
                        stream.waiting.put(each)

    def follow(self, stream: Stream) -> None:
        """Adds a watch, with what it has missed."""
        with self.lock:
            for _, resource, kind, document in self._edits:
                if resource == stream.resource and (line := stream.event(kind, document)):
                    stream.waiting.put(line)
            self.streams.append(stream)

    # -- faults ------------------------------------------------------------------------------------

    def fault(
        self,
        do: Callable[[Handler], bool],
        *,
        resource: str | None = None,
        verb: str | None = None,
        times: int | None = None,
    ) -> Fault:
        """What happens to requests from now on: `times` of them, or until it is lifted."""
        made = Fault(do, resource, verb, times)
        self._faults.append(made)
        return made

    def fault_of(self, asked: Asked) -> Fault | None:
        with self.lock:
            return next((fault for fault in self._faults if fault.takes(asked)), None)

    def cut_next_event(self, resource: str) -> None:
        """Has the connection of those who watch end in the middle of the next event."""
        self._half.add(resource)

    def cut_watches(self, resource: str | None = None) -> None:
        """Has the connection of those who watch end between two events, without a word."""
        self._tell(resource, Left())

    def end_watches(self, resource: str | None = None) -> None:
        """Ends watches in good order, as when their time is over."""
        self._tell(resource, None)

    def fail_watches(self, error: Document, resource: str | None = None) -> None:
        """Ends watches with an ERROR event."""
        self._tell(resource, json.dumps({"type": "ERROR", "object": error}).encode() + b"\n", None)

    def mutter(self, line: bytes, resource: str | None = None) -> None:
        """Sends those who watch anything."""
        self._tell(resource, line)


class _Server(TlsServer):
    def __init__(self, api: KubeApi, tls: ssl.SSLContext | None, port: int) -> None:
        self.api = api
        super().__init__(Handler, tls, port)


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass

    def do_GET(self) -> None:
        api = self.server.api
        scheme, _, token = self.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or token not in api.tokens:
            self.answer(401, status(401, "Unauthorized", "Unauthorized"))
            return
        url = urlsplit(self.path)
        resource = _PATHS.get(url.path.removeprefix(api.prefix))
        if resource is None:
            self.answer(404, "404 page not found\n")
            return
        query = dict(parse_qsl(url.query))
        asked = Asked(resource, "watch" if query.get("watch") == "true" else "list", query)
        api.asked.append(asked)
        fault = api.fault_of(asked)
        if fault is not None and fault.do(self):
            return
        if asked.verb == "watch":
            self._watch(resource, query)
        else:
            self._list(resource, query)

    def _list(self, resource: str, query: Query) -> None:
        api = self.server.api
        with api.lock:
            if "continue" not in query:
                objects = [
                    {name: value for name, value in each.items() if name not in _LISTS_OMIT}
                    for _, each in sorted(api.objects[resource].items())
                    if selected(each, query.get("fieldSelector"))
                ]
                version = api.version
            elif query["continue"] in api.pages:
                version, objects = api.pages[query["continue"]]
            else:
                self.answer(410, expired())
                return
            limit = min(int(query.get("limit", api.page_objects)), api.page_objects)
            metadata: Document = {"resourceVersion": str(version)}
            if len(objects) > limit:
                position = f"{resource}-{version}-{len(objects) - limit}"
                api.pages[position] = (version, objects[limit:])
                metadata |= {
                    "continue": position,
                    "remainingItemCount": len(objects) - limit,
                }
        kind, api_version = _KINDS[resource]
        self.answer(
            200,
            {
                "kind": f"{kind}List",
                "apiVersion": api_version,
                "metadata": metadata,
                "items": objects[:limit] or None,
            },
        )

    def _watch(self, resource: str, query: Query) -> None:
        api = self.server.api
        stream = Stream(resource, query)
        with api.lock:
            gone = int(query["resourceVersion"]) < api.compacted
            if gone and not api.gone_as_event:
                self.answer(410, expired())
                return
            api.follow(stream)
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            if gone:
                self._chunk(json.dumps({"type": "ERROR", "object": expired()}).encode() + b"\n")
            else:
                self._send(stream, time.monotonic() + float(query["timeoutSeconds"]))
            self._chunk(b"")
        finally:
            with api.lock:
                api.streams.remove(stream)

    def _send(self, stream: Stream, deadline: float) -> None:
        while stream.muted or time.monotonic() < deadline:
            self.check_client()
            try:
                told = stream.waiting.get(timeout=_POLL_SECONDS)
            except queue.Empty:
                continue
            if told is None:
                return
            if isinstance(told, BaseException):
                raise told
            self._chunk(told)

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    def pause(self, seconds: float | None) -> None:
        """Waits, as long as the client is there and the server runs."""
        deadline = None if seconds is None else time.monotonic() + seconds
        while deadline is None or time.monotonic() < deadline:
            self.check_client()
            time.sleep(_POLL_SECONDS)

    def check_client(self) -> None:
        """Raises Left once the client has closed the connection, or the server has."""
        if select.select([self.connection], [], [], 0)[0]:
            raise Left

    def answer(
        self, code: int, body: Document | str, headers: Mapping[str, str] | None = None
    ) -> None:
        plain = isinstance(body, str)
        data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", "text/plain" if plain else "application/json")
        self.send_header("Content-Length", str(len(data)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


def expired(version: int = 1) -> Document:
    """What is said of a version that was compacted."""
    return status(410, "Expired", f"too old resource version: {version} (1000)")


def too_large(version: int, current: int) -> Document:
    """What is said of a version that is yet to come (k8s.io/apiserver, storage/errors.go)."""
    return status(
        504,
        "Timeout",
        f"Too large resource version: {version}, current: {current}",
        causes=[{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
        retryAfterSeconds=1,
    )


def selected(document: Document, selector: str | None) -> bool:
    """Whether an object is of the node that a field selector names."""
    if selector is None:
        return True
    name, _, value = selector.partition("=")
    assert name == "spec.nodeName"
    return bool(document["spec"].get("nodeName") == value)


def _key(document: Document) -> Key:
    metadata = document["metadata"]
    return metadata.get("namespace", ""), metadata["name"]


def _version(document: Document) -> int:
    return int(document["metadata"]["resourceVersion"])


def _with_kind(resource: str, document: Document) -> Document:
    kind, api_version = _KINDS[resource]
    return {"kind": kind, "apiVersion": api_version} | document
