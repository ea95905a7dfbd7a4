"""Keeps one resource up to date: lists it, then watches it, for as long as the informer runs.

The protocol is that of https://kubernetes.io/docs/reference/using-api/api-concepts/: a list, in
pages, tells the resourceVersion it is of; a watch tells every change since one. A bookmark tells of
no change but how far the watch has come: its object has a resourceVersion and no more.

Lists do not name a resourceVersion: then the answer is never older than what was seen before, and
from Kubernetes 1.31 on it does not cost the server more (ConsistentListFromCache).
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final
from urllib.parse import urlencode

from tracer.kube.access import Access
from tracer.kube.client import READ_SECONDS
from tracer.kube.feed import Feed
from tracer.kube.heap import settled, uncollected
from tracer.kube.line import Answer, Cut, Line
from tracer.kube.names import Names, Record, Resource
from tracer.kube.pod import mapping, read_pod, text
from tracer.kube.policy_records import read_namespace, read_policy
from tracer.kube.records import read_node, read_service, read_slice
from tracer.kube.trouble import Asked, Backoff, Problem, Remedy, Trouble, refused

PAGE_OBJECTS: Final = 500
LIST_SECONDS: Final = 60.0
"""For one page: as long as the API server works on a request (--request-timeout)."""
WATCH_SECONDS: Final = (240.0, 300.0)
"""How long the server is to keep a watch; spread, so that not all are begun anew at once."""
SLACK_SECONDS: Final = 30.0
"""A watch that has not ended this long after its time hangs."""
STEADY_SECONDS: Final = 5.0
"""A watch that lasted for this long worked: what fails next is the first failure."""
QUIET_SECONDS: Final = 1.0
"""A first failure that will be mended sooner than this is not worth a message."""
MAX_OBJECTS: Final = 300_000
"""Of one resource: six times what the largest supported cluster has of slices or services.

There is room for fewer in any case: see tracer.kube.names.ROOM, which counts them.
"""


@dataclass(frozen=True, slots=True)
class Collection:
    """Where a resource is in the API, and what reads its objects; `group` is "" for v1.

    `read` returns None where nothing of an object is to be kept. `evidence` is what cannot be had
    without the resource where no name follows from it; None: names do.
    """

    resource: Resource
    path: str
    read: Callable[[object], Record | None]
    group: str = ""
    evidence: str | None = None


COLLECTIONS: Final = (
    Collection(Resource.PODS, "/api/v1/pods", read_pod),
    Collection(Resource.SERVICES, "/api/v1/services", read_service),
    Collection(
        Resource.ENDPOINT_SLICES,
        "/apis/discovery.k8s.io/v1/endpointslices",
        read_slice,
        "discovery.k8s.io/v1",
    ),
    Collection(Resource.NODES, "/api/v1/nodes", read_node),
    Collection(
        Resource.NETWORK_POLICIES,
        "/apis/networking.k8s.io/v1/networkpolicies",
        read_policy,
        "networking.k8s.io/v1",
        evidence="NetworkPolicies",
    ),
    Collection(
        Resource.NAMESPACES,
        "/api/v1/namespaces",
        read_namespace,
        evidence="the labels of namespaces",
    ),
)
"""What the tracer asks for. RBAC: a ClusterRole with the verbs list and watch for each."""


@dataclass(frozen=True, slots=True)
class _Page:
    """Objects, the version of the list, and where its next page begins: None at its end."""

    items: list[object]
    version: str
    position: str | None


class Watcher:
    """The work of one thread: run(). It alone writes its feed, and its resource in `names`."""

    def __init__(
        self,
        collection: Collection,
        names: Names,
        access: Access,
        stopping: threading.Event,
        *,
        field_selector: str | None = None,
    ) -> None:
        self.feed = Feed(collection.resource)
        self.line = Line()
        self._collection = collection
        self._resource = collection.resource
        self._names = names
        self._access = access
        self._stopping = stopping
        self._selector = {} if field_selector is None else {"fieldSelector": field_selector}
        self._backoff = Backoff()
        self._page_objects = PAGE_OBJECTS
        self._generation = 0
        self._version: str | None = None  # of what is known; None: nothing that could be resumed
        self._doubtful = False  # whether the server may have gone back behind it

    def run(self) -> None:
        """Returns soon after `stopping` is set, the access released and the line cut."""
        while not self._stopping.is_set():
            outage = self._access.outage
            if outage is not None:
                self.feed.troubled(outage)  # whichever thread it was that found it
            self._access.wait()
            self._stopping.wait(self._round())

    def _round(self) -> float:
        """Follows the resource until that ends; returns the seconds to wait before the next."""
        try:
            self._follow()
            return 0.0
        except Cut:
            return 0.0
        except Trouble as trouble:
            problem = trouble.problem
        except Exception as error:  # noqa: BLE001  a thread that ends would be missed by nobody
            # Not its text: that may quote what was read.
            what = f"{self._resource}: {type(error).__name__}"
            problem = Problem(Remedy.RELIST, f"cannot follow {what}, which is a bug")
        finally:
            self.line.close()
        return 0.0 if self._stopping.is_set() else self._mend(problem)

    def _follow(self) -> None:
        if self._doubtful and self._version is not None:
            self._look_back()
        if self._version is None:
            self._version = self._list()
        self._doubtful = False
        began = time.monotonic()
        try:
            self._watch(self._version)
        finally:
            self._names.follows(self._resource, current=False)
            if time.monotonic() - began >= STEADY_SECONDS:
                self._backoff.reset()

    def _mend(self, problem: Problem) -> float:
        """Takes the remedy; returns the seconds to wait."""
        self._doubtful = True
        if problem.remedy is Remedy.REACH:
            self._access.lost(problem)
            self.feed.troubled(problem)
            return 0.0  # the access lets nobody through until it can be reached
        if problem.remedy is Remedy.RENEW:
            self.feed.troubled(problem)  # first: a credential plugin takes as long as it likes
            self._access.renew(self._generation)
        if problem.remedy in {Remedy.RELIST, Remedy.EXPIRED, Remedy.ASK}:
            self._version = None
        first = self._backoff.failures == 0
        pause = self._backoff.pause(problem, was_permitted=self.feed.view.listed)
        if not (first and self.feed.view.current and pause <= QUIET_SECONDS):
            self.feed.troubled(problem)
        return pause

    # -- list --------------------------------------------------------------------------------------

    def _list(self) -> str:
        """Replaces all that is known; returns the resourceVersion that it is of."""
        records: list[Record] = []
        position: str | None = None
        while True:
            body = self._page(position, self._page_objects)
            if body is None:
                self._page_objects = max(1, self._page_objects // 8)
                continue
            with uncollected():
                page = self._parsed(body)
                self._keep(page.items, records)
                if page.position is None:
                    self._names.replace(self._resource, records)
            if page.position is None:
                settled(again=self.feed.view.listed)
                self.feed.listed()
                return page.version
            position = page.position

    def _page(self, position: str | None, objects: int) -> bytes | None:
        """The next objects, as they come; None: too large to be read."""
        query = {"limit": str(objects)} | ({} if position is None else {"continue": position})
        body = self._ask("list", query).read(LIST_SECONDS)
        if body is None:
            self.line.close()
            if objects == 1:
                raise Trouble(Problem(Remedy.RELIST, f"one of the {self._resource} is too large"))
        return body

    def _parsed(self, body: bytes) -> _Page:
        answer = mapping(_decoded(body))
        metadata = mapping(answer.get("metadata"))
        items, version = answer.get("items"), text(metadata.get("resourceVersion"))
        if items is None and "items" in answer:
            items = []  # an empty slice of Go may be null
        if not isinstance(items, list) or version is None:
            what = f"what {self._access.client.server} answered is no list"
            hint = "is it an API server, or a login page in front of one?"
            raise Trouble(Problem(Remedy.RETRY, f"{what}: {hint}"))
        return _Page(items, version, text(metadata.get("continue")))

    def _keep(self, items: list[object], records: list[Record]) -> None:
        """Adds to `records` what names follow from."""
        for item in items:
            record = self._collection.read(item)
            if record is not None and len(records) < MAX_OBJECTS:
                records.append(self._names.same(self._resource, record))

    def _look_back(self) -> None:
        """Forgets the resourceVersion where the server is older: restored from a backup.

        A watch from a version that is yet to come is not refused: it stays silent until then (the
        watch cache passes over events that are older). Versions are compared as numbers, as
        Kubernetes allows since 1.35 (KEP-5504).
        """
        body, known = self._page(None, 1), self._version
        there = None if body is None else self._parsed(body).version
        if (
            there is None
            or known is None
            or not (known.isdecimal() and there.isdecimal())
            or int(there) < int(known)
        ):
            self._version = None

    # -- watch -------------------------------------------------------------------------------------

    def _watch(self, version: str) -> None:
        """Takes in changes since `version` until the server ends the watch in good order."""
        seconds = random.uniform(*WATCH_SECONDS)  # noqa: S311 - spreads load, guards nothing
        answer = self._ask(
            "watch",
            {
                "watch": "true",
                "resourceVersion": version,
                "allowWatchBookmarks": "true",
                "timeoutSeconds": str(int(seconds)),
            },
        )
        self._names.follows(self._resource, current=True)
        self.feed.current()
        answer.listen(seconds + SLACK_SECONDS)
        began = time.monotonic()
        while line := answer.readline():
            self._take(line)
            self.feed.heard()
        lasted = time.monotonic() - began
        if lasted < STEADY_SECONDS:
            raise Trouble(Problem(Remedy.RETRY, f"{self._access.client.server} ends every watch"))
        self._doubtful = lasted < seconds - 1  # before its time: the server may be shutting down

    def _take(self, line: bytes) -> None:
        """One event. Raises Trouble for one that ends the watch."""
        event = mapping(_decoded(line))
        kind, document = event.get("type"), event.get("object")
        if kind == "ERROR":
            raise Trouble(self._error(document))
        metadata = mapping(mapping(document).get("metadata"))
        if kind in {"ADDED", "MODIFIED", "DELETED"}:
            self._change(kind == "DELETED", document, text(metadata.get("name")))
        elif not isinstance(kind, str):
            raise Trouble(Problem(Remedy.RETRY, f"{self._access.client.server} sent no event"))
        self._version = text(metadata.get("resourceVersion")) or self._version

    def _change(self, deleted: bool, document: object, name: str | None) -> None:
        record = None if deleted else self._collection.read(document)
        if record is not None:
            self._names.put(self._resource, record)
        elif name is not None:
            # Also what was modified so that no name follows from it any longer.
            namespace = text(mapping(mapping(document).get("metadata")).get("namespace")) or ""
            self._names.remove(self._resource, namespace, name)

    def _error(self, status: object) -> Problem:
        """An ERROR event: its object is the Status that an answer would have had."""
        code = mapping(status).get("code")
        return refused(
            code if isinstance(code, int) else HTTPStatus.INTERNAL_SERVER_ERROR,
            {},
            json.dumps(status).encode(),
            self._asked("watch"),
            self._access.client.server,
        )

    # -- both --------------------------------------------------------------------------------------

    def _asked(self, verb: str) -> Asked:
        return Asked(self._resource, verb, self._collection.group)

    def _ask(self, verb: str, query: dict[str, str]) -> Answer:
        """The answer to a question for the resource, if it is a good one. Raises Trouble, Cut."""
        headers, self._generation = self._access.headers()
        client = self._access.client
        path = f"{client.url.path}{self._collection.path}?{urlencode(self._selector | query)}"
        answer = self.line.get(
            client, path, {**headers, "Accept": "application/json"}, READ_SECONDS
        )
        if answer.status == HTTPStatus.OK:
            return answer
        body = answer.read(READ_SECONDS) or b""
        problem = refused(answer.status, answer.headers, body, self._asked(verb), client.server)
        raise Trouble(problem)


def _decoded(body: bytes) -> object:
    """JSON; None for what is none."""
    try:
        document: object = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return document
