"""One thread's connection to the API server, which other threads can cut at any moment.

A read that waits for a server ends in no other way than by its timeout, or by shutdown(2) of its
socket. Each thread of the informer has one Line; whoever stops the informer cuts them all.
"""

from __future__ import annotations

import http.client
import math
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

from tracer.kube.client import KubeClient, why
from tracer.kube.trouble import Problem, Remedy, Trouble

DIAL_SECONDS: Final = 30.0
"""For a connect, of all addresses, and its handshake together."""
MAX_ANSWER_BYTES: Final = 8 << 20
"""Of one page of a list, or one event. An object is 1.5 MiB at most (etcd, --max-request-bytes)."""
_PIECE_BYTES: Final = 64 << 10


class Cut(Exception):
    """The line was cut: the thread is to end."""


class Line:
    """The connection. cut() and expire() are for other threads, all else for the line's own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # held while a socket is closed or shut: fds are used again
        self._socket: socket.socket | None = None
        self._connection: http.client.HTTPConnection | None = None
        self._response: http.client.HTTPResponse | None = None
        self._deadline = math.inf
        self._late = False
        self._is_cut = False

    def cut(self) -> None:
        """Ends whatever is waited for, now and later. To be repeated until the thread has ended.

        A socket that is not connecting yet cannot be shut down: it is at the next call.
        """
        with self._lock:
            self._is_cut = True
            self._shut()

    def expire(self, now: float) -> None:
        """Ends what is waited for where its time (until()) has passed by `now` (monotonic)."""
        with self._lock:
            if now >= self._deadline and not self._late:
                self._late = True
                self._shut()

    def close(self) -> None:
        """The thread is done with the connection; the next dial() makes another."""
        with self._lock:
            self._close()

    def dial(self, client: KubeClient, limit_seconds: float) -> http.client.HTTPConnection:
        """A new connection. Raises Trouble (REACH, RENEW) where there is none, Cut once cut."""
        self.close()
        self.until(time.monotonic() + DIAL_SECONDS)
        try:
            connected = client.dial(limit_seconds, self._keep)
        except (OSError, ValueError) as error:  # ValueError: a name that cannot be looked up
            self._check()
            problem = Problem(
                Remedy.RENEW if _is_mistrust(error) else Remedy.REACH,
                f"cannot reach the API server {client.server}: {why(error)}",
            )
        else:
            connection = http.client.HTTPConnection(client.url.netloc.rpartition("@")[2])
            connection.auto_open = 0  # it would connect in its own way
            connection.sock = connected
            with self._lock:
                self._connection = connection
            return connection
        self.close()
        raise Trouble(problem)

    def get(
        self, client: KubeClient, path: str, headers: Mapping[str, str], seconds: float
    ) -> Answer:
        """The answer to GET `path`, whose head must be there within `seconds`.

        On the same connection as before, as long as the server keeps it. Raises Trouble, Cut.
        """
        connection = self._connection
        if connection is None or connection.sock is None:
            connection = self.dial(client, seconds)
        self.until(time.monotonic() + seconds)
        connected = connection.sock
        try:
            connection.request("GET", path, headers=headers)
            response = connection.getresponse()
        except (http.client.HTTPException, OSError, ValueError) as error:
            problem = self.lost(client, error)
        else:
            with self._lock:
                self._response = response
            self.check_whole(client)
            return Answer(self, client, response, connected)
        raise Trouble(problem)

    def lost(self, client: KubeClient, error: Exception) -> Problem:
        """What an error on an established connection means. Raises Cut where it is our doing."""
        self._check()
        reason, remedy = why(error), Remedy.RETRY
        if _is_mistrust(error):
            remedy = Remedy.RENEW
        elif self._late or isinstance(error, TimeoutError):
            reason = "no answer in time"
        elif isinstance(error, http.client.HTTPException):
            reason = "the connection was cut"
        return Problem(remedy, f"lost the API server {client.server}: {reason}")

    def check_whole(self, client: KubeClient) -> None:
        """Raises Cut or Trouble where an end that was read is none of the server's doing."""
        self._check()
        if self._late:
            raise Trouble(self.lost(client, TimeoutError()))

    def until(self, deadline: float) -> None:
        """How long (monotonic) what follows may take: see expire()."""
        with self._lock:
            self._deadline, self._late = deadline, False

    def _check(self) -> None:
        if self._is_cut:
            raise Cut

    def _keep(self, made: socket.socket) -> None:
        with self._lock:
            self._close()
            self._socket = made
            if not self._is_cut:
                return
            self._close()
        raise Cut

    def _close(self) -> None:
        for each in (self._response, self._connection, self._socket):
            if each is not None:
                with suppress(OSError):
                    each.close()
        self._response = self._connection = self._socket = None

    def _shut(self) -> None:
        if self._socket is not None:
            with suppress(OSError):
                # Of the plain class: that of SSLSocket would pull TLS from under its reader.
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)


class Answer:
    """What a server says to one request. Whatever reads more of it raises Trouble, Cut."""

    def __init__(
        self,
        line: Line,
        client: KubeClient,
        response: http.client.HTTPResponse,
        connected: socket.socket,
    ) -> None:
        self.status = response.status
        self.headers: Mapping[str, str] = dict(response.headers)
        self._line = line
        self._client = client
        self._response = response
        self._connected = connected
        self._come = bytearray()  # and was not handed out yet
        self._searched = 0  # of it, without finding an end of a line

    def read(self, seconds: float) -> bytes | None:
        """The whole body, within `seconds`; None where it is too large."""
        self._line.until(time.monotonic() + seconds)
        try:
            body = self._response.read(MAX_ANSWER_BYTES + 1)
        except (http.client.HTTPException, OSError, ValueError) as error:
            problem = self._line.lost(self._client, error)
        else:
            self._line.check_whole(self._client)
            if len(body) > MAX_ANSWER_BYTES:
                return None
            if not self._response.length:
                return body
            problem = self._line.lost(self._client, http.client.IncompleteRead(b""))
        raise Trouble(problem)

    def listen(self, seconds: float) -> None:
        """Lets the server take this long for the next lines, and for all of them together."""
        with suppress(OSError):  # it was shut meanwhile
            self._connected.settimeout(seconds)
        self._line.until(time.monotonic() + seconds)

    def readline(self) -> bytes:
        """The next line, with its end; b"" where the answer has ended in good order."""
        while (end := self._come.find(b"\n", self._searched)) < 0:
            self._searched = len(self._come)
            if self._searched > MAX_ANSWER_BYTES:
                sentence = f"{self._client.server} sent an event that is too large"
                raise Trouble(Problem(Remedy.RELIST, sentence))
            if not self._read_more():
                return b""
        line = bytes(self._come[: end + 1])
        del self._come[: end + 1]
        self._searched = 0
        return line

    def _read_more(self) -> bool:
        """Whether anything has come. Not HTTPResponse.readline(): to that every end is a good one.

        It takes a connection that is cut between two chunks for the last of them.
        """
        try:
            data = self._response.read1(_PIECE_BYTES)
        except (http.client.HTTPException, OSError, ValueError) as error:
            problem = self._line.lost(self._client, error)
        else:
            self._line.check_whole(self._client)
            self._come += data
            if data or not self._come:
                return bool(data)
            problem = self._line.lost(self._client, http.client.IncompleteRead(b""))
        raise Trouble(problem)


def _is_mistrust(error: Exception) -> bool:
    """Whether one side did not accept the other's certificate; TLS 1.3 tells of it in a read."""
    ended = (ssl.SSLEOFError, ssl.SSLZeroReturnError)
    return isinstance(error, ssl.SSLError) and not isinstance(error, ended)
