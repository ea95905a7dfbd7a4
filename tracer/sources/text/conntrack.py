"""What `conntrack -L` prints, with or without -o extended, and the text of /proc/net/nf_conntrack.

    [L3NAME L3NUM] L4NAME L4NUM [TIMEOUT] [STATE]
        src= dst= sport= dport= [packets= bytes=] [[UNREPLIED]]
        src= dst= sport= dport= [packets= bytes=] [[ASSURED]] [mark=] [secctx=] [zone=] ... use=

That is __snprintf_conntrack_default() of libnetfilter_conntrack and ct_seq_show() in the kernel's
nf_conntrack_standalone.c, which writes IPv6 addresses at their full length. The first tuple is what
the connection's opener sent, the second what replies look like: its source is the backend behind a
translated destination.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Final

from tracer.model import Endpoint
from tracer.sources.text.connection import ConntrackEntry, ConntrackTuple, Problem
from tracer.sources.text.endpoints import parse_address, parse_port
from tracer.sources.text.reader import NOTHING, is_number, run

_HEAD: Final = re.compile(
    r"\s*(?:ipv[46]\s+[0-9]{1,3}\s+)?"
    r"(?P<protocol>[a-z][a-z0-9-]{1,15})\s+(?P<number>[0-9]{1,3})\s+"
    r"(?:(?P<timeout>[0-9]{1,10})\s+)?"
    r"(?:(?P<state>[A-Z][A-Z0-9_]{1,20})\s+)?"
    r"(?=src=)"
)
_TCP: Final = "6"
_FOOTER: Final = re.compile(r"conntrack v\S+ \(conntrack-tools\): [0-9]+ flow entries")
_OFFLOADED: Final = frozenset({"[OFFLOAD]", "[HW_OFFLOAD]"})
_TUPLE_KEYS: Final = ("src", "dst", "sport", "dport")


def parse(
    lines: Iterable[str], *, name: str = "conntrack", states: Collection[str] | None = None
) -> Iterator[ConntrackEntry | Problem]:
    """TCP entries of conntrack; only those in `states`, where that is not None."""
    return run(ConntrackReader(name, states=states), lines, name)


class ConntrackReader:
    """Reader of conntrack entries; see reader.Reader."""

    format = "conntrack"

    def __init__(self, name: str, *, states: Collection[str] | None = None) -> None:
        self.rows = 0
        self.skipped = 0
        self.headed = False
        self._name = name
        self._wanted = None if states is None else frozenset(states)

    def feed(self, number: int, line: str) -> Sequence[ConntrackEntry | Problem] | None:
        head = _HEAD.match(line)
        if head is None:
            if _FOOTER.match(line):
                self.headed = True
                return NOTHING
            return None
        if head["number"] != _TCP:
            self.skipped += 1
            return NOTHING
        if self._wanted is not None and head["state"] not in self._wanted:
            self.rows += 1
            return NOTHING
        try:
            entry = _entry(head, line[head.end() :].split())
        except ValueError as error:
            return (Problem(self._name, number, line, str(error)),)
        self.rows += 1
        return (entry,)

    def finish(self) -> Sequence[ConntrackEntry | Problem]:
        return NOTHING


def _entry(head: re.Match[str], tokens: list[str]) -> ConntrackEntry:
    """Raises ValueError where it is not two whole tuples of one family."""
    values: dict[str, list[str]] = {}
    for token in tokens:
        key, equals, value = token.partition("=")
        if equals:
            values.setdefault(key, []).append(value)
    if any(len(values.get(key, ())) != 2 for key in _TUPLE_KEYS):
        raise ValueError("not the two tuples of an entry")
    original, reply = _tuple(values, 0), _tuple(values, 1)
    families = {
        6 if ":" in end.address else 4
        for way in (original, reply)
        for end in (way.source, way.destination)
    }
    if len(families) != 1:
        raise ValueError("addresses of two families")
    offloaded = not _OFFLOADED.isdisjoint(tokens)
    return ConntrackEntry(
        family=families.pop(),
        original=original,
        reply=reply,
        state=head["state"],
        unreplied="[UNREPLIED]" in tokens,
        assured=None if offloaded else "[ASSURED]" in tokens,
        timeout_seconds=None if head["timeout"] is None else int(head["timeout"]),
        mark=_number(values, "mark"),
        zone=_number(values, "zone"),
    )


def _tuple(values: dict[str, list[str]], way: int) -> ConntrackTuple:
    source, destination, source_port, destination_port = (values[key][way] for key in _TUPLE_KEYS)
    return ConntrackTuple(
        Endpoint(parse_address(source)[0], parse_port(source_port)),
        Endpoint(parse_address(destination)[0], parse_port(destination_port)),
    )


def _number(values: dict[str, list[str]], key: str) -> int | None:
    texts = values.get(key)
    if texts is None:
        return None
    if not is_number(texts[0]):
        raise ValueError(f"{key} is no number")
    return int(texts[0])
