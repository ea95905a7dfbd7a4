"""What may go wrong between an informer and the API server, and what to do about each."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from http import HTTPStatus
from typing import Final

from tracer.kube.client import RBAC_REFUSAL, parse_status, reason_of
from tracer.kube.pod import mapping, text
from tracer.text import safe

MAX_RETRY_AFTER_SECONDS: Final = 60.0
"""A server that wants more time is asked again all the same: names are of use while they miss."""
FIRST_PAUSE_SECONDS: Final = 0.5
MAX_PAUSE_SECONDS: Final = 30.0
DENIED_PAUSE_SECONDS: Final = (30.0, 60.0)
"""Between two questions for what is not permitted: roles are granted by people, by hand."""

# k8s.io/apiserver, storage/errors.go; also as the cause ResourceVersionTooLarge.
_TOO_LARGE = re.compile(r"Too large resource version|ResourceVersionTooLarge")


class Remedy(Enum):
    """What to do next.

    REACH   wait until the server can be connected to
    RETRY   wait, then go on from where it was
    RELIST  wait, then list everything again
    EXPIRED list everything again, at once where it is the first time
    RENEW   read the credentials again
    ASK     ask again much later: a permission or the whole resource is missing
    """

    REACH = auto()
    RETRY = auto()
    RELIST = auto()
    EXPIRED = auto()
    RENEW = auto()
    ASK = auto()


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong, in a sentence that holds no secret, and what to do.

    `asked` is what was asked for, where the sentence does not say it.
    """

    remedy: Remedy
    sentence: str
    retry_after_seconds: float | None = None
    asked: str | None = None


class Trouble(Exception):
    """Nothing more comes of what was asked. Never leaves tracer.kube."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.sentence)
        self.problem = problem


@dataclass(frozen=True, slots=True)
class Asked:
    """What was asked for, in the words of RBAC: "pods", "list"; `group` is "" for v1."""

    resource: str
    verb: str
    group: str = ""


def refused(
    status: int, headers: Mapping[str, str], body: bytes, asked: Asked, server: str
) -> Problem:
    """What follows from an answer that is no success.

    `body` is a metav1.Status in JSON, or a page of a proxy in between. `server` is its name.
    """
    answer = parse_status(body)
    if status == HTTPStatus.UNAUTHORIZED:
        return Problem(Remedy.RENEW, f"{server} does not accept the credentials")
    if status == HTTPStatus.FORBIDDEN:
        return Problem(Remedy.ASK, _not_permitted(text(answer.get("message")) or "", asked))
    if status == HTTPStatus.NOT_FOUND:
        group = f" ({asked.group})" if asked.group else ""
        return Problem(Remedy.ASK, f"{server} has no {asked.resource}{group}")
    if status == HTTPStatus.GONE:
        sentence = f"{server} no longer has the changes that were missed"
        return Problem(Remedy.EXPIRED, sentence, asked=f"{asked.resource}: {asked.verb}")
    return Problem(
        _remedy(status, body),
        f"{server} answered {status} ({reason_of(status, answer)})",
        _retry_after(headers, answer),
        f"{asked.resource}: {asked.verb}",
    )


def told(problems: Iterable[Problem], resources: int) -> str:
    """What is wrong with some of so many resources: each sentence once, after what it is about."""
    about: dict[str, list[str]] = {}
    for problem in problems:
        about.setdefault(problem.sentence, []).append(problem.asked or "")
    return "; ".join(
        sentence if len(asked) == resources or not all(asked) else f"{', '.join(asked)}: {sentence}"
        for sentence, asked in about.items()
    )


def _remedy(status: int, body: bytes) -> Remedy:
    """RETRY keeps the resourceVersion, which must not be what the server minds."""
    if _TOO_LARGE.search(body.decode("utf-8", "replace")):
        return Remedy.RELIST
    if status == HTTPStatus.TOO_MANY_REQUESTS or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return Remedy.RETRY
    return Remedy.RELIST


def _not_permitted(message: str, asked: Asked) -> str:
    refusal = RBAC_REFUSAL.search(message)
    what = f"not permitted: {asked.resource}: {asked.verb}"
    return what if refusal is None else f"{what}, to {safe(refusal['user'])}"


def _retry_after(headers: Mapping[str, str], answer: Mapping[str, object]) -> float | None:
    """Of the header (RFC 9110, section 10.2.3), else of the Status, whose watch has no header."""
    told: object = headers.get("Retry-After")  # as the API server and every proxy spells it
    if told is None:
        told = mapping(answer.get("details")).get("retryAfterSeconds")
    try:
        seconds = float(str(told))
    except ValueError:
        return None  # a date: whose clock would be right?
    return min(seconds, MAX_RETRY_AFTER_SECONDS) if seconds > 0 else None


class Backoff:
    """How long to wait after failures in a row: exponential, with full jitter.

    Full jitter, so that a thousand nodes that lost a server together do not come back together.
    """

    def __init__(self) -> None:
        self.failures = 0

    def reset(self) -> None:
        self.failures = 0

    def pause(self, problem: Problem, *, was_permitted: bool) -> float:
        """Seconds to wait now that `problem` was met, which is counted.

        What was permitted until now is asked for sooner: a server that starts up does not know its
        roles yet.
        """
        failures = self.failures
        self.failures += 1
        if problem.remedy is Remedy.ASK and not was_permitted:
            return _uniform(*DENIED_PAUSE_SECONDS)
        if problem.remedy in {Remedy.EXPIRED, Remedy.RENEW} and failures == 0:
            return 0.0
        ceiling = min(MAX_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** min(failures, 16))
        pause = _uniform(0, ceiling)
        asked_for = problem.retry_after_seconds
        return pause if asked_for is None else min(asked_for + pause, MAX_RETRY_AFTER_SECONDS)


def _uniform(low: float, high: float) -> float:
    return random.uniform(low, high)  # noqa: S311 - spreads load, guards nothing
