"""Runs a command in a container through the API server and reads what it writes.

The protocol is that of `kubectl exec`: a WebSocket whose binary messages start with a channel
number, 1 for stdout, 2 for stderr, 3 for a metav1.Status that ends the session; v5.channel.k8s.io
(Kubernetes 1.30) adds to v4 that a channel can be closed (KEP-4006). The Status is written once
all output was: with it the output is whole, without it nothing is known of what is missing.

`kubernetes.stream` is not used. It opens its WebSocket without a timeout, reads for as long as data
keeps coming into a buffer without a bound, ends in silence where the time is over, and loses the
status of a refusal in a text (kubernetes-client/python issues 1086 and 2156). Of websocket-client
neither the timeout, which is for one read of many, nor the size of a frame, which is what its head
says, is a bound: `_Wire` is.
"""

from __future__ import annotations

import json
import re
import shlex
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol, cast
from urllib.parse import urlencode

from tracer.errors import KubeError
from tracer.kube.client import KubeClient, Request, parse_status, pod_path, why
from tracer.kube.pod import PodInfo
from tracer.text import safe

if TYPE_CHECKING:
    import socket

    from websocket import WebSocketBadStatusException

PROTOCOLS: Final = ("v5.channel.k8s.io", "v4.channel.k8s.io")

_STDOUT, _STDERR, _ERROR = 1, 2, 3
# RFC 6455, section 5.2.
_TEXT, _BINARY, _CLOSE = 1, 2, 8
MAX_STATUS_BYTES: Final = 64 << 10
MAX_MESSAGE_BYTES: Final = 4 << 20
"""Of one message with all its frames, and of the handshake: a kubelet's have 32 KiB (io.Copy)."""
_MAX_MESSAGE_CHARACTERS: Final = 300

_CANNOT_EXECUTE, _NOT_FOUND = 126, 127
"""Exit statuses of a command that was not run (POSIX, Exit Status for Commands; Docker too)."""

# What runtimes say of a command that is not in the container:
#   runc     exec: "ss": executable file not found in $PATH
#            exec: "/sbin/ss": stat /sbin/ss: no such file or directory (or: permission denied)
#   crun     executable file `ss` not found in $PATH: No such file or directory
#   Kata     the file ss was not found
#   gVisor   error finding executable "ss" in PATH
_MISSING = re.compile(
    r"executable file (?:\S{1,256} )?not found"
    r'|exec: \\*"[^"]{1,256}": (?:stat [^:]{1,256}: )?'
    r"(?:no such file or directory|permission denied)"
    r"|the file \S{1,256} was not found"
    r"|error finding executable "
)
# The API server, which knows the specification (pkg/registry/core/pod/strategy.go).
_NO_SUCH_CONTAINER = re.compile(r"container \S{1,256} is not valid for pod ")
# The kubelet, containerd and CRI-O, which know what runs.
_NOT_RUNNING = re.compile(
    r'container not found \(\\*"'
    r"|container is in CONTAINER_[A-Z]+"
    r"|container is not created or running"
    r"|does not have a host assigned"
)
_POD_GONE = re.compile(r"pod does not exist")


class ExecutableMissing(KubeError):
    """The container has no such program, or may not run it."""

    def __init__(self, argv: tuple[str, ...], where: str, reason: str) -> None:
        super().__init__(f"{argv[0]} cannot be run in {where}: {reason}")
        self.argv = argv
        self.reason = reason


@dataclass(frozen=True, slots=True)
class ExecResult:
    """What a command wrote, and how it ended.

    With `truncated` it wrote more than was asked for and was left alone: the exit code is None.
    """

    exit_code: int | None
    stdout: bytes
    stderr: bytes
    truncated: bool


class _WebSocket(Protocol):
    """What is used of websocket.WebSocket, which is typed in part."""

    sock: _Wire

    def connect(self, url: str, **options: object) -> None: ...
    def recv_data(self, *, control_frame: bool) -> tuple[int, bytes]: ...
    def send_close(self) -> None: ...
    def shutdown(self) -> None: ...


@dataclass(frozen=True, slots=True)
class _Command:
    """What runs where, until when (time.monotonic), for messages too."""

    pod: PodInfo
    container: str
    argv: tuple[str, ...]
    timeout_seconds: float
    deadline: float

    @property
    def request(self) -> Request:
        return Request("pods/exec", "create", self.pod.namespace, self.pod.name)

    @property
    def where(self) -> str:
        return f"container {self.container} of pod {self.pod.namespace}/{self.pod.name}"

    @property
    def what(self) -> str:
        return f"`{safe(shlex.join(self.argv))}` in {self.where}"

    def left_seconds(self) -> float:
        """Until the deadline. Raises KubeError once it has passed."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise self.late()
        return left

    def late(self) -> KubeError:
        return KubeError(
            f"{self.what} did not end within {self.timeout_seconds:g} s",
            hint="the node or its kubelet may not answer; what had come until then is left out, "
            "since it is not the whole",
        )


class _Wire:
    """A socket that keeps to the command's deadline and to a number of bytes for each message."""

    def __init__(self, connected: socket.socket, command: _Command) -> None:
        self._socket = connected
        self._command = command
        self.next_message(connected.gettimeout())

    def next_message(self, patience_seconds: float | None = None) -> None:
        """Allows another message's bytes; a read may take so long, with None to the deadline."""
        self._left_bytes = MAX_MESSAGE_BYTES
        self._patience_seconds = patience_seconds

    def recv(self, size: int) -> bytes:
        """As of a socket. Raises KubeError where the time is over, or the message too large."""
        left = self._command.left_seconds()
        self._socket.settimeout(min(left, self._patience_seconds or left))
        data = self._socket.recv(size)
        self._left_bytes -= len(data)
        if self._left_bytes < 0:
            raise KubeError(
                f"what the server sent of {self._command.what} was more than "
                f"{MAX_MESSAGE_BYTES / (1 << 20):g} MiB in one message",
                hint="no kubelet does: what is in between, a proxy or a gateway?",
            )
        return data

    def send(self, data: bytes) -> int:
        self._socket.settimeout(self._command.left_seconds())
        return self._socket.send(data)

    def __getattr__(self, name: str) -> object:
        return getattr(self._socket, name)


def exec_in_pod(
    client: KubeClient,
    pod: PodInfo,
    container: str | None,
    argv: Sequence[str],
    *,
    timeout_seconds: float,
    max_bytes: int,
) -> ExecResult:
    """Run `argv`, without a shell and without input, in a container and return what it wrote.

    Without `container` the pod's default one is taken. `timeout_seconds` is for all of it, from
    the connect on; what still runs then keeps running in the container, as with kubectl. More
    than `max_bytes` of stdout and stderr together are not read.

    Raises ExecutableMissing where the container lacks the program; KubeForbidden where exec is
    not permitted; KubeError where the pod or the container is gone or does not run, where the
    time is over, and where the connection ends before the command does. A result is never short
    without saying so.
    """
    from websocket import WebSocketException, WebSocketTimeoutException

    name = container or pod.default_container
    if name is None:
        raise KubeError(f"pod {pod.namespace}/{pod.name} has no container to run a command in")
    command = _Command(pod, name, tuple(argv), timeout_seconds, time.monotonic() + timeout_seconds)
    output = _Output(max_bytes)
    websocket = _open(client, command)
    try:
        while output.status is None and not output.truncated:
            websocket.sock.next_message()
            opcode, message = websocket.recv_data(control_frame=True)
            if opcode == _CLOSE:
                raise _cut(command, output, "the server closed it")
            if opcode in {_TEXT, _BINARY}:
                output.take(message)
        with suppress(WebSocketException, OSError):
            websocket.send_close()
    except WebSocketTimeoutException:
        raise command.late() from None
    except WebSocketException:
        raise _cut(command, output, "it ended before the command did") from None
    except OSError as error:
        raise _cut(command, output, why(error)) from None
    finally:
        websocket.shutdown()
    return _result(command, output)


def _open(client: KubeClient, command: _Command) -> _WebSocket:
    """A WebSocket on which the command's output comes. Raises KubeError."""
    from websocket import (
        WebSocketBadStatusException,
        WebSocketConnectionClosedException,
        WebSocketException,
        WebSocketTimeoutException,
    )

    try:
        return client.ask(lambda: _connect(client, command))
    except WebSocketBadStatusException as error:
        problem = _refusal(client, command, error)
    except (WebSocketTimeoutException, WebSocketConnectionClosedException):
        problem = KubeError(
            f"{client.server} gave no answer to exec in {command.where}",
            hint="it may wait for an admission webhook or for the kubelet of node "
            f"{command.pod.node or '(unknown)'}",
        )
    except WebSocketException:
        problem = KubeError(
            f"{client.server} does not speak {' or '.join(PROTOCOLS)}",
            hint="a proxy in between may not pass WebSockets on",
        )
    raise problem


def _connect(client: KubeClient, command: _Command) -> _WebSocket:
    from websocket import WebSocket

    websocket = cast("_WebSocket", WebSocket(skip_utf8_validation=True))
    websocket.connect(
        _url(client, command),
        socket=_Wire(client.dial(command.left_seconds()), command),
        header=client.headers(),
        subprotocols=list(PROTOCOLS),
        suppress_origin=True,
        redirect_limit=0,  # the token is for this server alone
    )
    return websocket


def _url(client: KubeClient, command: _Command) -> str:
    """Of the exec subresource (PodExecOptions in the v1 API)."""
    query = urlencode(
        [
            ("container", command.container),
            *(("command", argument) for argument in command.argv),
            ("stdin", "false"),
            ("stdout", "true"),
            ("stderr", "true"),
            ("tty", "false"),  # a terminal would turn newlines into CRLF and mix both outputs
        ]
    )
    base = client.url
    return (
        f"{'wss' if base.scheme == 'https' else 'ws'}://{base.netloc.rpartition('@')[2]}"
        f"{base.path}{pod_path(command.pod.namespace, command.pod.name)}/exec?{query}"
    )


class _Output:
    """Collects what comes on the channels, up to a bound."""

    def __init__(self, max_bytes: int) -> None:
        self._left = max_bytes
        self._parts: dict[int, list[bytes]] = {_STDOUT: [], _STDERR: [], _ERROR: []}
        self.came = 0
        self.truncated = False
        self.status: object = None

    def take(self, message: bytes) -> None:
        """One message: the channel's number and bytes of it, none where it only says hello."""
        channel, data = message[:1], message[1:]
        if not data or channel[0] not in self._parts:
            return  # 255 closes a channel (v5); the Status that follows says all of it
        parts = self._parts[channel[0]]
        if channel[0] == _ERROR:
            parts.append(data)
            self._end()
        else:
            self.came += len(data)
            parts.append(data[: self._left])
            self.truncated = len(data) > self._left
            self._left -= len(parts[-1])

    def _end(self) -> None:
        """Whether the Status is whole: it is one message today, but nothing says it must."""
        text = self.bytes(_ERROR)
        try:
            self.status = json.loads(text)
        except (ValueError, RecursionError):
            if len(text) > MAX_STATUS_BYTES:
                self.status = {}

    def bytes(self, channel: int) -> bytes:
        return b"".join(self._parts[channel])


def _result(command: _Command, output: _Output) -> ExecResult:
    exit_code = None if output.truncated else _exit_code(command, output)
    result = ExecResult(exit_code, output.bytes(_STDOUT), output.bytes(_STDERR), output.truncated)
    # CRI-O runs runc or crun for it and passes on their exit status and what they complained of;
    # Docker has the complaint in stdout.
    complaint = (result.stderr or result.stdout)[-MAX_STATUS_BYTES:].decode("utf-8", "replace")
    if exit_code in (_CANNOT_EXECUTE, _NOT_FOUND) or (
        exit_code and not result.stdout and _MISSING.search(complaint)
    ):
        raise _missing(command, complaint)
    return result


def _exit_code(command: _Command, output: _Output) -> int:
    """The exit code that the Status tells (metav1.Status as kubelet and API server write it)."""
    status = parse_status(output.bytes(_ERROR))
    if status.get("status") == "Success":
        return 0
    details = status.get("details")
    causes = details.get("causes") if isinstance(details, dict) else None
    for cause in causes if isinstance(causes, list) else []:
        if isinstance(cause, dict) and cause.get("reason") == "ExitCode":
            with suppress(ValueError):
                return int(str(cause.get("message")))
    raise _failure(command, str(status.get("message") or "no reason given"))


def _failure(command: _Command, message: str) -> KubeError:
    """The error for a command that could not be run, by what the node says of it."""
    if _MISSING.search(message):
        return _missing(command, message)
    return _container_problem(command, message) or KubeError(
        f"cannot run {command.what}: {_short(message)}"
    )


def _container_problem(command: _Command, message: str) -> KubeError | None:
    pod = command.pod
    named = f"{pod.namespace}/{pod.name}"
    look = f"`kubectl get pod -n {pod.namespace} {pod.name}` shows its state"
    if _NO_SUCH_CONTAINER.search(message):
        names = ", ".join(each.name for each in pod.containers)
        return KubeError(
            f"pod {named} has no container {command.container}", hint=f"it has: {names}"
        )
    if _NOT_RUNNING.search(message):
        return KubeError(f"{command.where} is not running", hint=look)
    if _POD_GONE.search(message):
        return KubeError(f"pod {named} is no longer on node {pod.node or '(none)'}", hint=look)
    return None


def _refusal(
    client: KubeClient, command: _Command, error: WebSocketBadStatusException
) -> KubeError:
    """The error for a server that did not take up the WebSocket but answered otherwise."""
    body: bytes | None = error.resp_body
    told = str(parse_status(body).get("message") or (body or b"").decode("utf-8", "replace"))
    problem = _container_problem(command, told)
    if problem is not None:
        return problem
    return client.refusal(error.status_code, body, command.request)


def _missing(command: _Command, message: str) -> ExecutableMissing:
    reason = "permission denied" if "permission denied" in message else "not in the container"
    return ExecutableMissing(command.argv, command.where, reason)


def _cut(command: _Command, output: _Output, reason: str) -> KubeError:
    return KubeError(
        f"the connection was cut while {command.what} ran: {reason}; the {output.came} bytes that "
        "had come are not all, and are left out",
        hint="try again; if it keeps happening, look at the API server and the kubelet of node "
        f"{command.pod.node or '(unknown)'}",
    )


def _short(message: str) -> str:
    text = safe(" ".join(message.split()))
    return text if len(text) <= _MAX_MESSAGE_CHARACTERS else text[:_MAX_MESSAGE_CHARACTERS] + "…"
