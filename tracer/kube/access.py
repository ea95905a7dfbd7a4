"""The API server as all threads of an informer share it: who asks, and whether it answers at all.

While it cannot be connected to, one thread knocks and the others wait: a tracer of connects that
hang should not add four of its own, and when the server is back all go on at once.
"""

from __future__ import annotations

import random
import threading
import time
from contextlib import suppress
from typing import Final

from tracer.errors import InputError, KubeError
from tracer.kube.client import READ_SECONDS, KubeClient, connect
from tracer.kube.line import Line
from tracer.kube.trouble import Problem, Remedy, Trouble

KNOCK_SECONDS: Final = 1.5
"""For a connect while the outage is young: its first SYN and the one a second later."""
KNOCK_PAUSE_SECONDS: Final = (0.2, 0.8)
"""Between two connects: with what a list takes, names are back within two seconds."""
YOUNG_SECONDS: Final = 600.0
OLD_PAUSE_SECONDS: Final = (2.0, 5.0)


class Access:
    """The client that all share, its renewal, and the gate that is shut during an outage."""

    def __init__(self, kubeconfig: str | None) -> None:
        self._kubeconfig = kubeconfig
        self._lock = threading.Lock()
        self._client: KubeClient | None = None
        self._generation = 0
        self._open = threading.Event()  # set: go ahead, also to find that it is over
        self._outage: Problem | None = None
        self._outage_since = 0.0

    def load(self) -> None:
        """Finds the cluster, and lets everyone ask. Raises InputError; may take seconds.

        The first to import the client library in most runs: 0.4 s.
        """
        self._client = connect(self._kubeconfig)
        self._open.set()

    def wait(self) -> None:
        """Returns once the server can be asked, or release() was called."""
        self._open.wait()

    def release(self) -> None:
        """Lets everyone through who waits, to find that the informer has stopped."""
        self._open.set()

    @property
    def client(self) -> KubeClient:
        if self._client is None:
            raise RuntimeError("load() comes first")
        return self._client

    @property
    def outage(self) -> Problem | None:
        """Why the server cannot be connected to, None while it can."""
        return self._outage

    def headers(self) -> tuple[dict[str, str], int]:
        """Of a request, with which credentials they are: see renew(). Raises Trouble."""
        with self._lock:  # not while they are renewed
            client, generation = self.client, self._generation
        try:
            return client.ask(client.headers), generation
        except KubeError as error:
            problem = Problem(Remedy.RETRY, f"no credentials: {error}")
        raise Trouble(problem)

    def renew(self, generation: int) -> None:
        """Reads the configuration again, where `generation` is still that in use.

        Bound tokens are replaced on disk; a kubeconfig may be another by now. What is there now
        stays where nothing can be read.
        """
        with self._lock:
            if generation != self._generation:
                return
            self._generation += 1
            with suppress(InputError):  # what the server says of the old ones says it all
                self._client = connect(self._kubeconfig)

    def lost(self, problem: Problem) -> None:
        """The server could not be connected to: shuts the gate."""
        with self._lock:
            if self._outage is None:
                self._outage_since = time.monotonic()
            self._outage = problem
            self._open.clear()

    def knock(self, line: Line) -> None:
        """Tries to connect during an outage, and opens the gate where that works. Raises Cut."""
        young = self._is_young()
        try:
            line.dial(self.client, KNOCK_SECONDS if young else READ_SECONDS)
        except Trouble as trouble:
            if trouble.problem.remedy is Remedy.REACH:
                self._outage = trouble.problem
                return
        finally:
            line.close()
        with self._lock:
            self._outage = None
            self._open.set()

    def knock_pause(self) -> float:
        """Seconds between two knocks."""
        low, high = KNOCK_PAUSE_SECONDS if self._is_young() else OLD_PAUSE_SECONDS
        return random.uniform(low, high)  # noqa: S311 - spreads load, guards nothing

    def _is_young(self) -> bool:
        return time.monotonic() - self._outage_since < YOUNG_SECONDS
