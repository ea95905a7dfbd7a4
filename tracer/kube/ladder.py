"""Reads a container's sockets from inside, by the first of three ways that it has.

In the seed's order: `ss`, `netstat` (of net-tools or busybox), and /proc/net/tcp and tcp6 as they
are. Each is run directly: a container may have any of them without a shell. What counts is what
they print: a container may also have a program of the same name.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Final

from tracer.errors import KubeError
from tracer.kube.client import KubeClient
from tracer.kube.exec import ExecResult, ExecutableMissing, exec_in_pod
from tracer.kube.pod import PodInfo
from tracer.text import safe

TIMEOUT_SECONDS: Final = 30.0
"""For one command: 100,000 sockets take `ss -p` some seconds, a slow link adds its own."""
MAX_BYTES: Final = 64 << 20
"""400,000 lines of /proc/net/tcp, which is more sockets than a pod has ports."""
_MAX_REASON_CHARACTERS: Final = 200

# ss keeps its header: it tells the columns, which differ between releases.
_SS: Final = ("ss", "-tanpo")
_NETSTAT: Final = ("netstat", "-tanp")
_NETSTAT_WITHOUT_PROCESSES: Final = ("netstat", "-tan")
_PROC: Final = ("cat", "/proc/net/tcp")
_PROC6: Final = ("cat", "/proc/net/tcp6")

# busybox may be built without FEATURE_NETSTAT_PRG: "invalid option -- 'p'" of getopt (glibc),
# "unrecognized option: p" (musl); "Unknown option" is toybox's.
_OPTION_REFUSED = re.compile(r"(?:invalid|unrecognized|unknown|illegal) option", re.IGNORECASE)


class Method(StrEnum):
    """What a container's sockets were read with; the value is what people are shown."""

    SS = "ss"
    NETSTAT = "netstat"
    PROC = "/proc/net/tcp"


class Listing(Enum):
    """What a text is."""

    SOCKETS = "at least one socket"
    EMPTY = "a list of sockets, with none in it"
    UNKNOWN = "no list of sockets"


@dataclass(frozen=True, slots=True)
class PodText:
    """What the sockets of a container look like, as a tool printed it.

    `tried` are commands that did not do, in order, each with the reason. With `truncated` there
    was more than MAX_BYTES; the text ends after its last whole line.
    """

    method: Method
    text: bytes
    tried: tuple[tuple[str, str], ...]
    truncated: bool = False


class NoReader(KubeError):
    """Nothing in the container can read its sockets. `tried` is as in PodText."""

    def __init__(self, message: str, tried: tuple[tuple[str, str], ...], *, hint: str) -> None:
        super().__init__(message, hint=hint)
        self.tried = tried


def read_sockets(
    client: KubeClient,
    pod: PodInfo,
    container: str | None = None,
    *,
    listing: Callable[[bytes], Listing],
    timeout_seconds: float = TIMEOUT_SECONDS,
    max_bytes: int = MAX_BYTES,
) -> PodText:
    """The sockets of a container's network namespace, as text, by the first way that works.

    `listing` tells what a command has printed. Raises NoReader where no way works; what
    exec_in_pod raises where the container cannot be entered at all, which no other tool would
    change. `timeout_seconds` is for each command.
    """
    ladder = _Ladder(client, pod, container, listing, timeout_seconds, max_bytes)
    if (ss := ladder.run(_SS)) is not None:
        return ladder.text(Method.SS, ss)
    netstat = ladder.run(_NETSTAT)
    if netstat is None and ladder.option_refused:
        netstat = ladder.run(_NETSTAT_WITHOUT_PROCESSES)
    if netstat is not None:
        return ladder.text(Method.NETSTAT, netstat)
    if (proc := ladder.run(_PROC)) is not None:
        # Not there where the kernel has no IPv6: `tried` says so.
        proc6 = None if proc.truncated else ladder.run_besides(_PROC6)
        return ladder.text(Method.PROC, *filter(None, (proc, proc6)))
    raise ladder.failed()


class _Ladder:
    """Runs commands in one container and remembers why they did not do."""

    def __init__(
        self,
        client: KubeClient,
        pod: PodInfo,
        container: str | None,
        listing: Callable[[bytes], Listing],
        timeout_seconds: float,
        max_bytes: int,
    ) -> None:
        self._client = client
        self._pod = pod
        self._container = container
        self._listing = listing
        self._timeout_seconds = timeout_seconds
        self._max_bytes = max_bytes
        self._tried: list[tuple[str, str]] = []
        self._all_missing = True
        self.option_refused = False

    def run(self, argv: tuple[str, ...]) -> ExecResult | None:
        """What the command wrote; None, and the reason kept, where it did not do."""
        try:
            result = exec_in_pod(
                self._client,
                self._pod,
                self._container,
                argv,
                timeout_seconds=self._timeout_seconds,
                max_bytes=self._max_bytes,
            )
        except ExecutableMissing as missing:
            self._tried.append((shlex.join(argv), missing.reason))
            return None
        complaint = result.stderr.decode("utf-8", "replace")
        reason = _why_not(result, complaint, self._listing)
        if reason is None:
            return result
        self._all_missing = False
        self.option_refused = _OPTION_REFUSED.search(complaint) is not None
        self._tried.append((shlex.join(argv), reason))
        return None

    def run_besides(self, argv: tuple[str, ...]) -> ExecResult | None:
        """As `run`, for what is no reason to give up what was read before."""
        try:
            return self.run(argv)
        except KubeError as error:
            self._tried.append((shlex.join(argv), str(error)))
            return None

    def text(self, method: Method, *results: ExecResult) -> PodText:
        truncated = any(result.truncated for result in results)
        text = b"".join(result.stdout for result in results)
        if truncated:
            text = text[: text.rfind(b"\n") + 1]
        return PodText(method, text, tuple(self._tried), truncated)

    def failed(self) -> NoReader:
        pod = self._pod
        where = (
            f"container {self._container or pod.default_container} of pod "
            f"{pod.namespace}/{pod.name}"
        )
        if self._all_missing:
            message = f"{where} has neither ss nor netstat nor cat: nothing in it reads its sockets"
        else:
            reasons = "; ".join(f"{command}: {reason}" for command, reason in self._tried)
            message = f"nothing in {where} could read its sockets: {reasons}"
        return NoReader(
            message,
            tuple(self._tried),
            hint=f"its node sees them: on {pod.node or 'its node'} run `synsent-trace check "
            f"--pod {pod.namespace}/{pod.name} --via node`",
        )


def _why_not(result: ExecResult, complaint: str, listing: Callable[[bytes], Listing]) -> str | None:
    """Why what a command wrote does not do; None where it does."""
    told = safe(next(filter(None, map(str.strip, complaint.splitlines())), ""))
    told = told[:_MAX_REASON_CHARACTERS]
    if result.exit_code:
        reason = f"exit status {result.exit_code}"
    elif not result.stdout:
        reason = "printed nothing"
    else:
        found = listing(result.stdout)
        if found is Listing.SOCKETS or (found is Listing.EMPTY and not told):
            return None
        # ss prints its header before it finds that it may not ask the kernel.
        reason = (
            "listed nothing" if found is Listing.EMPTY else "what it printed is no list of sockets"
        )
    return f"{reason}: {told}" if told else reason
