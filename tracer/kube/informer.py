"""Keeps the names up to date: lists and watches what they follow from, through any outage.

Seven daemon threads: one per resource (tracer.kube.watch), and one that reads the configuration,
knocks at the start and during an outage, ends what takes too long, and keeps the cache on disk.
Nothing that the tracer does waits for any of them.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from tracer.errors import InputError
from tracer.kube import cache
from tracer.kube.access import Access
from tracer.kube.config import NoCredentials
from tracer.kube.feed import View
from tracer.kube.heap import settled, uncollected
from tracer.kube.line import Cut, Line
from tracer.kube.names import Names, Resource
from tracer.kube.trouble import Remedy, told
from tracer.kube.watch import COLLECTIONS, Watcher
from tracer.model import KubeHealth, KubeState

STOP_SECONDS: Final = 2.0
_CUT_SECONDS: Final = 0.02
"""Between two cuts of a line whose thread has not ended."""
_TICK_SECONDS: Final = 0.25
_CREDENTIALS_PAUSE_SECONDS: Final = (5.0, 15.0)
"""Between two runs of a credential plugin that fails."""

SAVE_DELAY_SECONDS: Final = 5.0
"""From the first list on: what else is to be listed comes soon."""
SAVE_SECONDS: Final = 30.0
MAX_SAVE_SHARE: Final = 0.01
"""Of one CPU, that saving may take: of 10,000 services it takes most of a second."""
SAVE_UNCHANGED_SECONDS: Final = 600.0
"""Names that have not changed are saved again, so that their age in the cache is not overstated."""


class Informer:
    """Threads that fill `names` from the API server, and from the cache until it answers."""

    def __init__(
        self,
        names: Names,
        *,
        node_name: str,
        kubeconfig: str | None = None,
        cache_dir: Path | None = None,
    ) -> None:
        self._names = names
        self._node_name = node_name
        self._stopping = threading.Event()
        self._access = Access(kubeconfig)
        self._knocking = Line()
        self._cache = None if cache_dir is None else _Cache(cache_dir, node_name, names)
        self._gave_up: str | None = None
        selectors = {Resource.PODS: f"spec.nodeName={node_name}"}
        self._watchers = {
            collection.resource: Watcher(
                collection,
                names,
                self._access,
                self._stopping,
                field_selector=selectors.get(collection.resource),
            )
            for collection in COLLECTIONS
        }
        self._threads = [
            threading.Thread(target=self._run, name="kube", daemon=True),
            *(
                threading.Thread(target=watcher.run, name=f"kube-{resource}", daemon=True)
                for resource, watcher in self._watchers.items()
            ),
        ]

    def start(self) -> None:
        """Returns at once; nothing of the `kubernetes` package is loaded before, or here."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Ends every thread and connection, within two seconds whatever the server does.

        Only what cannot be ended may be left behind: a look-up of the server's name, or a
        credential plugin, in a daemon thread that ends with it.
        """
        deadline = time.monotonic() + STOP_SECONDS
        self._stopping.set()
        for thread in self._threads:
            while thread.is_alive() and time.monotonic() < deadline:
                self._access.release()
                for line in self._lines:
                    line.cut()
                thread.join(_CUT_SECONDS)

    @property
    def _lines(self) -> list[Line]:
        return [self._knocking, *(watcher.line for watcher in self._watchers.values())]

    # -- health ------------------------------------------------------------------------------------

    @property
    def health(self) -> KubeHealth:
        """Now. For any thread, at any time; after stop() as it was then."""
        views = self._views
        message = self._message(views)
        if message is not None:
            state = KubeState.DEGRADED
        elif all(view.current for view in views):
            state = KubeState.SYNCED
        else:
            state = KubeState.CONNECTING
        if message is None:
            message = self._remark
        return KubeHealth(state, message, self._stale_wall_ns(views))

    # For whoever asks at every attempt: a microsecond each, and no lock.

    @property
    def pods_wall_ns(self) -> int | None:
        """When the names of pods were last known to be true; None where they are, or none is."""
        return self._stale_wall_ns([self._watchers[Resource.PODS].feed.view])

    @property
    def destinations_wall_ns(self) -> int | None:
        """As pods_wall_ns, of services, their endpoints and nodes."""
        return self._stale_wall_ns(
            self._watchers[one.resource].feed.view
            for one in COLLECTIONS
            if one.evidence is None and one.resource is not Resource.PODS
        )

    @property
    def names_wall_ns(self) -> int | None:
        """The older of both, as in `health`."""
        return self._stale_wall_ns(self._views)

    @property
    def _views(self) -> list[View]:
        """Of what names follow from."""
        return [
            self._watchers[one.resource].feed.view for one in COLLECTIONS if one.evidence is None
        ]

    def _message(self, views: list[View]) -> str | None:
        """What is wrong, the worst alone where it explains the rest."""
        if self._gave_up is not None:
            return self._gave_up
        if (outage := self._access.outage) is not None:
            return outage.sentence
        problems = [view.problem for view in views if view.problem is not None]
        worst = [each for each in problems if each.remedy is not Remedy.REACH] or problems
        return told(worst, len(views)) or self._no_such_node()

    @property
    def _remark(self) -> str | None:
        """What is short of perfect, though all is known that names follow from."""
        found = [] if self._cache is None else [self._cache.problem]
        if overflow := self._names.overflow:
            found = [
                f"the cluster is larger than there is room for: {overflow} objects are unknown"
            ]
        return "; ".join(one for one in (*found, *self._lacking_evidence) if one) or None

    @property
    def _lacking_evidence(self) -> list[str]:
        """What is asked for beyond names and cannot be had; an outage is told by the names."""
        found = []
        for one in COLLECTIONS:
            problem = self._watchers[one.resource].feed.view.problem
            if one.evidence is None or problem is None or problem.remedy is Remedy.REACH:
                continue
            found.append(f"no evidence from {one.evidence}: {problem.sentence}")
        return found

    def _no_such_node(self) -> str | None:
        """That no node has the name, where that is certain: no pod will ever be on it."""
        pods, nodes = (self._watchers[each].feed.view for each in (Resource.PODS, Resource.NODES))
        if not (pods.current and nodes.current):
            return None
        if self._names.has_pods or self._names.has_node(self._node_name):
            return None
        return f"the cluster has no node called {self._node_name}: give --node-name"

    # -- the first thread --------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._load_cache()
            if self._load_configuration():
                while not self._stopping.wait(self._tick()):
                    pass
            self._save(last=True)
        except Exception as error:  # noqa: BLE001  nobody would miss this thread
            self._gave_up = f"cannot follow the API server: {type(error).__name__}, which is a bug"
            self._end()

    def _end(self) -> None:
        """Lets every other thread end too."""
        self._stopping.set()
        self._access.release()

    def _load_cache(self) -> None:
        if self._cache is None:
            return
        with uncollected():
            cached = self._cache.load()
        if cached is not None:
            settled(again=False)
            for resource in cached.records:
                self._watchers[resource].feed.cached(cached.saved_wall_ns)

    def _load_configuration(self) -> bool:
        """Whether there is one, in the end; where there is none, every thread ends."""
        while not self._stopping.is_set():
            try:
                self._access.load()
            except NoCredentials as error:
                self._gave_up = str(error)
                low, high = _CREDENTIALS_PAUSE_SECONDS
                self._stopping.wait(random.uniform(low, high))  # noqa: S311 - spreads load
            except InputError as error:
                self._gave_up = str(error)
                self._end()
            else:
                self._gave_up = None
                return True
        return False

    def _tick(self) -> float:
        """What is due now; returns the seconds until the next time."""
        now = time.monotonic()
        for watcher in self._watchers.values():
            watcher.line.expire(now)
        self._save()
        if self._access.is_open:
            return _TICK_SECONDS
        try:
            self._access.knock(self._knocking)
        except Cut:
            return 0.0
        return self._access.knock_pause()

    def _save(self, *, last: bool = False) -> None:
        """Keeps the names, once everything that can be known is, if that is due."""
        views = self._views
        known = any(view.listed for view in views) and all(
            view.denied or view.true_wall_ns is not None for view in views
        )
        if self._cache is not None and known:
            self._cache.save(self._stale_wall_ns(views), last=last)

    def _stale_wall_ns(self, views: Iterable[View]) -> int | None:
        """When all was last known to be true; None where it is, or where nothing is known.

        In an outage nothing is heard, by those watchers either that have not met it yet.
        """
        everything = self._access.outage is not None
        times = (view.true_wall_ns if everything else view.stale_wall_ns for view in views)
        return min((ns for ns in times if ns is not None), default=None)


class _Cache:
    """When the names are written to disk. `problem` is a sentence where that fails."""

    def __init__(self, directory: Path, node_name: str, names: Names) -> None:
        self._directory = directory
        self._node_name = node_name
        self._names = names
        self._due: float | None = None
        self._saved_version: int | None = None
        self.problem: str | None = None

    def load(self) -> cache.Cached | None:
        """Fills the names with what was saved."""
        cached = cache.load(self._directory, self._node_name)
        if cached is not None:
            cached.fill(self._names)
        return cached

    def save(self, stale_wall_ns: int | None, *, last: bool) -> None:
        """Writes the names, if it is time to, or there is no later time.

        `stale_wall_ns` is when they were last known to be true, None where they are.
        """
        version = self._names.version
        changed = version != self._saved_version
        if not changed and stale_wall_ns is not None:
            return
        now = time.monotonic()
        if self._due is None:
            self._due = now + SAVE_DELAY_SECONDS
        if not last and now < self._due + (0 if changed else SAVE_UNCHANGED_SECONDS):
            return
        began = time.thread_time()
        try:
            cache.save(self._directory, self._node_name, self._names, stale_wall_ns)
        except OSError as error:
            self.problem = f"names cannot be kept in {self._directory}: {error.strerror or error}"
        else:
            self._saved_version, self.problem = version, None
        took = time.thread_time() - began
        self._due = time.monotonic() + max(SAVE_SECONDS, took / MAX_SAVE_SHARE)
