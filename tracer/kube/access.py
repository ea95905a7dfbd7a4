"""The API server as all threads of an informer share it: who asks, and whether it answers at all.

Until it can be connected to, one thread knocks and the others wait: a tracer of connects that hang
should not add four of its own, and when the server is back all go on at once.
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
"""For a connect: its first SYN and the one a second later; and as much for its handshake."""
PATIENT_KNOCK: Final = 10
"""Every so many knocks one is given READ_SECONDS: a server may be back, and slow."""
KNOCK_PAUSE_SECONDS: Final = (0.2, 0.8)
"""Between two connects. A server that is back just after the second SYN of one gets the next half a
second and a pause later: with what a list takes, names are back within two seconds."""
YOUNG_SECONDS: Final = 600.0
OLD_PAUSE_SECONDS: Final = (0.7, 1.3)


class Access:
    """The client that all share, its renewal, and the gate that is shut during an outage."""

    def __init__(self, kubeconfig: str | None) -> None:
        self._kubeconfig = kubeconfig
        self._lock = threading.Lock()  # never held for long
        self._renewing = threading.Lock()  # one at a time: a credential plugin may run
        self._client: KubeClient | None = None
        self._generation = 0
        self._open = threading.Event()  # set: go ahead, also to find that it is over
        self._outage: Problem | None = None
        self._outage_since = 0.0
        self._knocks = 0

    def load(self) -> None:
        """Finds the cluster, whose gate knock() opens. Raises InputError; may take seconds.

        The first to import the client library in most runs: 0.4 s.
        """
        self._client = connect(self._kubeconfig)

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
    def is_open(self) -> bool:
        """Whether the server can be asked, as far as is known."""
        return self._open.is_set()

    @property
    def outage(self) -> Problem | None:
        """Why the server cannot be connected to, None while it can."""
        return self._outage

    def headers(self) -> tuple[dict[str, str], int]:
        """Of a request, with which credentials they are: see renew(). Raises Trouble."""
        with self._lock:
            client, generation = self.client, self._generation
        try:
            return client.ask(client.headers), generation
        except KubeError as error:
            problem = Problem(Remedy.RETRY, f"no credentials: {error}")
        raise Trouble(problem)

    def renew(self, generation: int) -> None:
        """Reads the configuration again, where `generation` is still that in use.

        Bound tokens are replaced on disk; a kubeconfig may be another by now. What is there now
        stays where nothing can be read. Waits where another thread renews them.
        """
        with self._renewing:
            if generation != self._generation:
                return
            client = self._client
            with suppress(InputError):  # what the server says of the old ones says it all
                client = connect(self._kubeconfig)
            with self._lock:
                self._client, self._generation = client, generation + 1

    def lost(self, problem: Problem) -> None:
        """The server could not be connected to: shuts the gate."""
        with self._lock:
            if self._outage is None:
                self._outage_since = time.monotonic()
            self._outage = problem
            self._open.clear()

    def knock(self, line: Line) -> None:
        """Tries to connect while the gate is shut, and opens it where that works. Raises Cut."""
        self._knocks += 1
        patient = self._knocks % PATIENT_KNOCK == 0
        try:
            line.dial(self.client, READ_SECONDS if patient else KNOCK_SECONDS)
        except Trouble as trouble:
            if trouble.problem.remedy is Remedy.REACH:
                self.lost(trouble.problem)
                return
        finally:
            line.close()
        with self._lock:
            self._outage = None
            self._open.set()

    def knock_pause(self) -> float:
        """Seconds between two knocks."""
        young = time.monotonic() - self._outage_since < YOUNG_SECONDS
        low, high = KNOCK_PAUSE_SECONDS if young else OLD_PAUSE_SECONDS
        return random.uniform(low, high)  # noqa: S311 - spreads load, guards nothing
