"""What one types behind "/": words that must all be true of what is shown.

curl                 in any name, address, process or cause
pod:cart ns:shop     part of the pod's name; of its namespace
dst:443 dst:10.4.    part of the destination's address and port, or of its name
tag:external         how the scope begins
cause:no-reply       part of the verdict's cause
age>5s age<2m        of the attempt (ms, s, m, h)
!tag:vpc             what it does not say
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tracer.model import NANOSECONDS, Report, Verdict
from tracer.sinks.wording import endpoint

KEYS: Final = ("pod", "ns", "dst", "tag", "cause")

_AGE: Final = re.compile(r"age([<>])=?(\d+(?:\.\d+)?)(ms|s|m|h)?", re.IGNORECASE)
_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}

Test = Callable[[Report, Verdict | None], bool]


class NoQuery(ValueError):
    """The text is no filter; the message says where."""


@dataclass(frozen=True, slots=True)
class Query:
    """A filter, ready to be asked. `oldest` and `youngest` bound the age, in nanoseconds."""

    text: str = ""
    tests: tuple[Test, ...] = ()
    older_than_ns: int | None = None
    younger_than_ns: int | None = None

    @property
    def by_age(self) -> bool:
        """Whether what it is true of changes by itself."""
        return self.older_than_ns is not None or self.younger_than_ns is not None

    def matches(self, report: Report, verdict: Verdict | None) -> bool:
        """Whether everything but the age is as it should be."""
        return all(test(report, verdict) for test in self.tests)

    def age_matches(self, report: Report, now_ns: int) -> bool:
        """Whether the age is; of an unknown one nothing is true."""
        if not self.by_age:
            return True
        age = report.change.attempt.age_seconds(now_ns)
        if age is None:
            return False
        age_ns = age * NANOSECONDS
        if self.older_than_ns is not None and age_ns <= self.older_than_ns:
            return False
        return self.younger_than_ns is None or age_ns < self.younger_than_ns


def parse(text: str) -> Query:
    """The filter that `text` says. Raises NoQuery."""
    tests: list[Test] = []
    older: int | None = None
    younger: int | None = None
    for word in text.split():
        age = _AGE.fullmatch(word)
        if age is not None:
            seconds = float(age[2]) * _UNITS[(age[3] or "s").lower()]
            if age[1] == ">":
                older = max(older or 0, int(seconds * NANOSECONDS))
            else:
                limit = int(seconds * NANOSECONDS)
                younger = limit if younger is None else min(younger, limit)
            continue
        if word.lower().lstrip("!").startswith(("age<", "age>", "age:", "age=")):
            raise NoQuery(f"{word}: an age is written age>5s or age<2m")
        tests.append(_test(word))
    return Query(" ".join(text.split()), tuple(tests), older, younger)


def _test(word: str) -> Test:
    wanted = word.removeprefix("!")
    key, colon, value = wanted.partition(":")
    if colon and key.lower() in KEYS:
        if not value:
            raise NoQuery(f"{word}: what should it be?")
        asked = _ASKED[key.lower()]
    else:
        value, asked = wanted, _anything
    if not value:
        raise NoQuery(f"{word}: what should it not be?")
    value = value.lower()
    if word.startswith("!"):
        return lambda report, verdict: not asked(report, verdict, value)
    return lambda report, verdict: asked(report, verdict, value)


def _pod(report: Report, _verdict: Verdict | None, value: str) -> bool:
    return report.pod is not None and value in (report.pod.label or "").lower()


def _namespace(report: Report, _verdict: Verdict | None, value: str) -> bool:
    return report.pod is not None and value in (report.pod.namespace or "").lower()


def _destination(report: Report, _verdict: Verdict | None, value: str) -> bool:
    where = endpoint(report.change.attempt.flow.destination).lower()
    return value in where or value in (report.destination.name or "").lower()


def _tag(report: Report, _verdict: Verdict | None, value: str) -> bool:
    scope = report.destination.scope
    return scope.tag.lower().startswith(value) or scope.value.startswith(value)


def _cause(_report: Report, verdict: Verdict | None, value: str) -> bool:
    return value in ("unknown" if verdict is None else verdict.cause.value)


def _anything(report: Report, verdict: Verdict | None, value: str) -> bool:
    if _destination(report, verdict, value) or _pod(report, verdict, value):
        return True
    pod, process, owner = report.pod, report.process, report.change.attempt.owner
    texts = [owner.comm, report.destination.scope.tag, None if verdict is None else verdict.cause]
    if pod is not None:
        texts += [pod.container, pod.workload.name if pod.workload else None]
    if process is not None:
        texts += [process.name, process.executable, process.unit]
    return any(value in text.lower() for text in texts if text)


_ASKED: Final[dict[str, Callable[[Report, Verdict | None, str], bool]]] = {
    "pod": _pod,
    "ns": _namespace,
    "dst": _destination,
    "tag": _tag,
    "cause": _cause,
}
