"""What follows from an answer, how long to wait, and connections that others can cut."""

from __future__ import annotations

import gc
import json
import select
import socket
import ssl
import struct
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.kube_api import TOKEN
from tests.support.kube_server import kubeconfig, status
from tracer.errors import InputError
from tracer.kube.access import Access
from tracer.kube.client import KubeClient, connect
from tracer.kube.dial import secure
from tracer.kube.heap import settled, uncollected
from tracer.kube.line import Cut, Line
from tracer.kube.trouble import (
    DENIED_PAUSE_SECONDS,
    FIRST_PAUSE_SECONDS,
    MAX_PAUSE_SECONDS,
    MAX_RETRY_AFTER_SECONDS,
    Asked,
    Backoff,
    Problem,
    Remedy,
    Trouble,
    refused,
)

SERVER = "https://10.0.0.1:6443"
LIST = Asked("pods", "list")
SECONDS = 20.0
TRIES = 200


def problem(code: int, body: object = "", headers: dict[str, str] | None = None) -> Problem:
    data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    return refused(code, headers or {}, data, LIST, SERVER)


# -- what follows from an answer -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        (301, Remedy.RELIST),
        (400, Remedy.RELIST),
        (401, Remedy.RENEW),
        (403, Remedy.ASK),
        (404, Remedy.ASK),
        (410, Remedy.EXPIRED),
        (429, Remedy.RETRY),
        (500, Remedy.RETRY),
        (502, Remedy.RETRY),
        (503, Remedy.RETRY),
        (504, Remedy.RETRY),
    ],
)
def test_every_status_has_its_remedy(code: int, remedy: Remedy) -> None:
    assert problem(code).remedy is remedy
    assert problem(code, "<html>a page of a proxy</html>").remedy is remedy


def test_nothing_of_a_body_is_told_but_known_words() -> None:
    secret = "hunter2"  # noqa: S105
    for code in (400, 401, 403, 404, 410, 429, 500, 503):
        for body in (secret, status(code, f"{secret}!", secret), status(code, "Fine", secret)):
            assert secret not in problem(code, body).sentence


def test_the_user_who_lacks_a_permission_is_named_and_made_safe() -> None:
    message = 'pods is forbidden: User "eve\x1b[2J" cannot list resource "pods" in API group ""'
    assert problem(403, status(403, "Forbidden", message)).sentence == (
        r"not permitted: pods: list, to eve\x1b[2J"
    )
    assert problem(403).sentence == "not permitted: pods: list"


def test_a_status_that_is_not_known_is_told_by_its_number() -> None:
    assert problem(599).sentence == f"{SERVER} answered 599 (no reason given)"


@pytest.mark.parametrize(
    ("headers", "body", "seconds"),
    [
        ({"Retry-After": "7"}, "", 7.0),
        ({"Retry-After": "86400"}, "", MAX_RETRY_AFTER_SECONDS),
        ({"Retry-After": "Fri, 31 Dec 1999 23:59:59 GMT"}, "", None),
        ({"Retry-After": "-1"}, "", None),
        ({"Retry-After": "nan"}, "", None),
        ({"Retry-After": "inf"}, "", MAX_RETRY_AFTER_SECONDS),
        ({}, status(429, "TooManyRequests", "", retryAfterSeconds=3), 3.0),
        ({}, status(429, "TooManyRequests", "", retryAfterSeconds="soon"), None),
        ({}, "", None),
    ],
)
def test_the_time_that_a_server_asks_for_is_read_and_bounded(
    headers: dict[str, str], body: object, seconds: float | None
) -> None:
    assert problem(429, body, headers).retry_after_seconds == seconds


# -- how long to wait ------------------------------------------------------------------------------


def pauses(what: Problem, failures: int, *, was_permitted: bool = False) -> list[float]:
    found = []
    for _ in range(TRIES):
        backoff = Backoff()
        backoff.failures = failures
        found.append(backoff.pause(what, was_permitted=was_permitted))
    return found


FAILED = Problem(Remedy.RETRY, "it failed")


def test_pauses_grow_are_spread_from_nothing_on_and_are_bounded() -> None:
    for failures, ceiling in ((0, FIRST_PAUSE_SECONDS), (3, 4.0), (9, 30.0), (10_000, 30.0)):
        found = pauses(FAILED, failures)
        assert max(found) <= ceiling <= MAX_PAUSE_SECONDS
        assert max(found) > 0.8 * ceiling
        assert min(found) < 0.2 * ceiling


def test_a_success_has_pauses_begin_anew() -> None:
    backoff = Backoff()
    for _ in range(9):
        backoff.pause(FAILED, was_permitted=True)
    backoff.reset()
    assert backoff.pause(FAILED, was_permitted=True) <= FIRST_PAUSE_SECONDS


def test_a_server_that_asks_for_time_gets_at_least_that_and_never_more_than_a_minute() -> None:
    found = pauses(Problem(Remedy.RETRY, "busy", 7.0), 0)
    assert 7.0 <= min(found) <= max(found) <= 7.0 + FIRST_PAUSE_SECONDS
    found = pauses(Problem(Remedy.RETRY, "busy", 60.0), 9)
    assert set(found) == {60.0}


@pytest.mark.parametrize("remedy", [Remedy.EXPIRED, Remedy.RENEW])
def test_what_is_mended_at_once_is_not_waited_for_the_first_time(remedy: Remedy) -> None:
    assert set(pauses(Problem(remedy, ""), 0)) == {0.0}
    assert max(pauses(Problem(remedy, ""), 5)) > 1


def test_what_was_never_permitted_is_asked_for_twice_a_minute_at_most() -> None:
    low, high = DENIED_PAUSE_SECONDS
    found = pauses(Problem(Remedy.ASK, ""), 0)
    assert low <= min(found) <= max(found) <= high
    # A server that starts up does not know its roles yet.
    assert max(pauses(Problem(Remedy.ASK, ""), 0, was_permitted=True)) <= FIRST_PAUSE_SECONDS


# -- connections that others can cut ---------------------------------------------------------------


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    """A server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(SECONDS)
        yield server


@pytest.fixture
def client(
    listening: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[KubeClient]:
    for name in ("HTTP_PROXY", "http_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    config = tmp_path / "kubeconfig"
    config.write_text(
        kubeconfig(f"http://127.0.0.1:{listening.getsockname()[1]}", {"token": TOKEN})
    )
    with connect(str(config)) as client:
        yield client


def test_a_connection_notices_that_its_server_is_gone(
    client: KubeClient, listening: socket.socket
) -> None:
    with client.dial(SECONDS) as connected, listening.accept()[0]:
        for option, at_most in ((socket.TCP_KEEPIDLE, 30), (socket.TCP_KEEPINTVL, 10)):
            assert 0 < connected.getsockopt(socket.IPPROTO_TCP, option) <= at_most
        assert connected.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


def test_a_line_that_is_cut_ends_what_is_waited_for(
    client: KubeClient, listening: socket.socket
) -> None:
    line, ended = Line(), threading.Event()

    def wait_for_an_answer() -> None:
        with pytest.raises(Cut):
            line.get(client, "/", {}, SECONDS)
        line.close()
        ended.set()

    thread = threading.Thread(target=wait_for_an_answer)
    thread.start()
    with listening.accept()[0] as accepted:
        assert accepted.recv(4_096).startswith(b"GET / HTTP/1.1\r\n")
        assert not ended.is_set()
        line.cut()
        thread.join(SECONDS)
        assert ended.is_set()
        assert accepted.recv(1) == b""
    with pytest.raises(Cut):
        line.dial(client, SECONDS)
    assert line._socket is None


def test_a_line_whose_time_is_over_says_so(client: KubeClient, listening: socket.socket) -> None:
    line = Line()
    found: list[Problem] = []

    def wait_for_an_answer() -> None:
        with pytest.raises(Trouble) as caught:
            line.get(client, "/", {}, SECONDS)
        found.append(caught.value.problem)
        line.close()

    thread = threading.Thread(target=wait_for_an_answer)
    thread.start()
    with listening.accept()[0] as accepted:
        accepted.recv(4_096)
        accepted.sendall(b"HTTP/1.1 200 OK\r\nX-Never: ")
        line.expire(time.monotonic())
        assert found == []
        line.expire(time.monotonic() + SECONDS)
        thread.join(SECONDS)
    sentence = f"lost the API server {client.server}: no answer in time"
    assert found == [Problem(Remedy.RETRY, sentence)]


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_connection_that_is_reset_before_its_handshake_is_closed(
    listening: socket.socket,
) -> None:
    with socket.create_connection(listening.getsockname()) as connected:
        accepted = listening.accept()[0]
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        accepted.close()
        poll = select.poll()
        poll.register(connected, select.POLLIN)
        assert poll.poll(SECONDS * 1_000)
        before = descriptors()
        with pytest.raises(ConnectionResetError) as caught:
            secure(connected, ssl.create_default_context(), "localhost")
        # While its frames keep whatever was made alive.
        assert descriptors() == before - 1
        assert caught.tb is not None


@pytest.mark.parametrize("lines", [False, True], ids=["read as a whole", "read by line"])
@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}",
        b"HTTP/1.1 2",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"",
    ],
)
def test_an_answer_that_ends_too_early_is_none(
    client: KubeClient, listening: socket.socket, reply: bytes, lines: bool
) -> None:
    line = Line()

    def serve() -> None:
        with listening.accept()[0] as accepted:
            accepted.recv(4_096)
            accepted.sendall(reply)

    def read() -> None:
        answer = line.get(client, "/", {}, SECONDS)
        while answer.readline() if lines else answer.read(SECONDS):
            pass

    thread = threading.Thread(target=serve)
    thread.start()
    with pytest.raises(Trouble) as caught:
        read()
    assert caught.value.problem.remedy is Remedy.RETRY
    line.close()
    thread.join(SECONDS)


def test_a_server_whose_name_cannot_be_looked_up_is_out_of_reach(
    client: KubeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> socket.socket:
        return socket.create_connection(("a..b", 6443))

    monkeypatch.setattr(KubeClient, "dial", refuse)
    with pytest.raises(Trouble) as caught:
        Line().dial(client, SECONDS)
    assert caught.value.problem.remedy is Remedy.REACH


@pytest.mark.parametrize(
    "server",
    [
        "https://127.0.0.1:abc",
        "https://127.0.0.1:65536",
        "https://a..b:6443",
        "10.0.0.1:6443",
        "ftp://10.0.0.1",
        "https://:6443",
    ],
)
def test_an_address_that_is_none_of_a_server_is_an_error_of_the_input(
    server: str, tmp_path: Path
) -> None:
    config = tmp_path / "kubeconfig"
    config.write_text(kubeconfig(server, {"token": TOKEN}))
    with pytest.raises(InputError) as caught:
        connect(str(config))
    assert str(caught.value) == f"{server} is no address of an API server"
    assert "https://10.0.0.1:6443" in str(caught.value.hint)


def test_the_password_in_an_address_is_not_told(tmp_path: Path) -> None:
    config = tmp_path / "kubeconfig"
    config.write_text(kubeconfig("https://me:hunter2@10.0.0.1:abc", {"token": TOKEN}))
    with pytest.raises(InputError) as caught:
        connect(str(config))
    assert "hunter2" not in str(caught.value)


# -- who asks --------------------------------------------------------------------------------------


def test_credentials_are_renewed_once_and_hold_up_nobody_else(
    client: KubeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    renewing, done = threading.Event(), threading.Event()
    made: list[KubeClient] = [client]

    def run_a_plugin(_: object) -> KubeClient:
        if made:
            return made.pop()
        renewing.set()
        assert done.wait(SECONDS)
        return client

    monkeypatch.setattr("tracer.kube.access.connect", run_a_plugin)
    access = Access(None)
    access.load()
    _, before = access.headers()
    threads = [threading.Thread(target=access.renew, args=(before,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        assert renewing.wait(SECONDS)
        others = threading.Thread(target=access.headers, daemon=True)
        others.start()
        others.join(SECONDS)
        assert not others.is_alive()
    finally:
        done.set()
        for thread in threads:
            thread.join(SECONDS)
    assert access.headers()[1] == before + 1


@pytest.mark.parametrize("young_seconds", [0.0, 600.0])
def test_knocks_follow_each_other_soon_however_long_the_outage(
    monkeypatch: pytest.MonkeyPatch, young_seconds: float
) -> None:
    monkeypatch.setattr("tracer.kube.access.YOUNG_SECONDS", young_seconds)
    access = Access(None)
    access.lost(Problem(Remedy.REACH, "gone"))
    found = [access.knock_pause() for _ in range(TRIES)]
    # And what was sent before the server was back may be waited for: half a second, see there.
    assert 0 < min(found) <= max(found) <= 1.5


# -- the garbage collector -------------------------------------------------------------------------


@pytest.fixture
def _unfrozen() -> Iterator[None]:
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("_unfrozen")
def test_a_list_that_is_read_again_leaves_no_garbage() -> None:
    class Cycle:
        def __init__(self) -> None:
            self.itself = self

    settled(again=False)
    frozen = gc.get_freeze_count()
    assert frozen > 0
    left = weakref.ref(Cycle())
    with uncollected():
        pass
    assert abs(gc.get_freeze_count() - frozen) < 100, "a list of a large cluster has 100,000"
    settled(again=True)
    assert left() is None
    assert gc.get_freeze_count() > 0


def test_nothing_is_collected_while_lists_are_read_and_everything_after() -> None:
    assert gc.isenabled()
    inside = threading.Barrier(3)

    def read_a_list() -> None:
        with uncollected():
            inside.wait(SECONDS)
            assert not gc.isenabled()
            inside.wait(SECONDS)

    threads = [threading.Thread(target=read_a_list) for _ in range(2)]
    for thread in threads:
        thread.start()
    inside.wait(SECONDS)
    assert not gc.isenabled()
    inside.wait(SECONDS)
    for thread in threads:
        thread.join(SECONDS)
    assert gc.isenabled()
    gc.disable()
    try:
        with uncollected():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
