"""What real programs printed of one moment: each format tells the truth, and all tell the same.

The files and the truth beside them are made by tests/fixtures/text/make.py.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from tracer.model import Endpoint
from tracer.sources.text import conntrack, netstat, procnet, ss
from tracer.sources.text.connection import Connection, ConntrackEntry, Problem
from tracer.sources.text.lines import file_lines
from tracer.sources.text.recognise import Parsed, read

FOLDER = Path(__file__).parents[1] / "fixtures/text"
FILES = sorted(path.name for path in FOLDER.glob("*.txt"))
COMPOSED = {"session.txt", "pod_connections.txt", "pod_conntrack_connections.txt"}
SINGLE = [name for name in FILES if name not in COMPOSED]
# The kernel's timers are late by up to an eighth, so that later ones start later.
TIMER_SECONDS = 0.5
LONGEST_TIMEOUT = 5 * 24 * 3600

Key = tuple[str, int | None, str, int | None]


def parsed(name: str, states: set[str] | None = None) -> Parsed:
    # Nothing in the output of `ss -H state syn-sent` tells which state it is.
    assume = "SYN_SENT" if "state-syn-sent" in name else None
    return read(file_lines(str(FOLDER / name)), name, states=states, assume_state=assume)


def expected(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    return content


def shown(connection: Connection) -> dict[str, Any]:
    """Only what is known, with endpoints as in the JSON."""
    known = {key: value for key, value in asdict(connection).items() if value is not None}
    return known | {
        end: [known[end]["address"], known[end]["port"]] for end in ("source", "destination")
    }


def rank(row: dict[str, Any]) -> str:
    return json.dumps([row["source"], row["destination"], row["state"], sorted(row)])


def test_there_are_fixtures_of_every_format() -> None:
    formats = {name: tuple(exhausted(name).formats) for name in FILES}
    assert set(formats.values()) >= {("ss",), ("netstat",), ("/proc/net/tcp",), ("conntrack",)}
    assert formats["session.txt"] == ("ss", "netstat", "/proc/net/tcp", "conntrack")


def exhausted(name: str) -> Parsed:
    result = parsed(name)
    for _ in result:
        pass
    return result


@pytest.mark.parametrize("name", FILES)
def test_a_file_gives_the_connections_that_were_there(name: str) -> None:
    truth = expected(name)
    result = parsed(name)
    found = [shown(row) for row in result if isinstance(row, Connection)]
    wanted = [
        {key: value for key, value in row.items() if value is not None}
        for row in truth.get("connections", [])
    ]
    assert len(found) == len(wanted)
    for row, right in zip(sorted(found, key=rank), sorted(wanted, key=rank), strict=True):
        if "pid" in right:
            assert row.pop("pid") in right.pop("pid")
        if "next_retry_seconds" in right:
            seconds = right.pop("next_retry_seconds")
            assert row.pop("next_retry_seconds") == pytest.approx(seconds, abs=TIMER_SECONDS)
        assert row == right
    assert result.problem_count == truth["problems"], result.problems


@pytest.mark.parametrize("name", FILES)
def test_a_file_gives_the_conntrack_entries_that_were_there(name: str) -> None:
    found = [row for row in parsed(name) if isinstance(row, ConntrackEntry)]
    wanted = [entry_of(row) for row in expected(name).get("conntrack", [])]
    assert sorted(map(repr, map(timeless, found))) == sorted(map(repr, wanted))
    assert all(0 < (row.timeout_seconds or 0) <= LONGEST_TIMEOUT for row in found)


@pytest.mark.parametrize("indentation", ["    ", "\t"])
@pytest.mark.parametrize("name", FILES)
def test_an_indented_file_gives_the_same(name: str, indentation: str) -> None:
    def told(lines: Iterable[str]) -> tuple[list[str], int]:
        assume = "SYN_SENT" if "state-syn-sent" in name else None
        result = read(lines, name, assume_state=assume)
        rows = [
            # A name that goes on in the next line has the indentation in it.
            replace(row, process=None) if isinstance(row, Connection) else row
            for row in result
        ]
        return list(map(repr, rows)), result.problem_count

    lines = list(file_lines(str(FOLDER / name)))
    assert told(indentation + line for line in lines) == told(lines)


def entry_of(row: dict[str, Any]) -> dict[str, Any]:
    def ends(pair: list[list[Any]]) -> list[Endpoint]:
        return [Endpoint(*end) for end in pair]

    return row | {"original": ends(row["original"]), "reply": ends(row["reply"])}


def timeless(entry: ConntrackEntry) -> dict[str, Any]:
    values: dict[str, Any] = {
        "family": entry.family,
        "original": [entry.original.source, entry.original.destination],
        "reply": [entry.reply.source, entry.reply.destination],
        "state": entry.state,
        "unreplied": entry.unreplied,
        "assured": entry.assured,
        "nat": entry.nat,
        "mark": entry.mark,
        "zone": entry.zone,
    }
    return dict(sorted(values.items()))


# --- agreement -----------------------------------------------------------------------------------


def key_of(row: Connection | ConntrackEntry) -> Key:
    ends = row if isinstance(row, Connection) else row.original
    source, destination = ends.source, ends.destination
    return source.address, source.port, destination.address, destination.port


def told_by(names: list[str]) -> Iterator[tuple[str, float, Connection]]:
    for name in names:
        captured_at = expected(name)["captured_at"]
        for row in parsed(name):
            if isinstance(row, Connection):
                yield name, captured_at, row


@pytest.mark.parametrize(
    "member",
    ["state", "family", "mapped", "interface", "retransmissions", "uid", "inode", "processes"],
)
def test_all_formats_tell_the_same_of_one_moment(member: str) -> None:
    told: dict[Key, dict[Any, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name, _, row in told_by(SINGLE):
        value = getattr(row, member)
        if value is not None:
            told[key_of(row)][value].append(name)
    assert told
    assert {key: dict(values) for key, values in told.items() if len(values) > 1} == {}


def test_all_formats_tell_of_the_same_timers() -> None:
    told: dict[Key, set[str]] = defaultdict(set)
    for _, _, row in told_by(SINGLE):
        if row.timer not in {None, "off"}:
            told[key_of(row)].add(str(row.timer))
    assert {"on", "keepalive", "timewait"} == set().union(*told.values())
    assert all(len(timers) == 1 for timers in told.values())


def test_all_formats_expect_the_next_retransmission_at_the_same_time() -> None:
    due: dict[Key, list[float]] = defaultdict(list)
    for _, captured_at, row in told_by(SINGLE):
        if row.next_retry_seconds is not None:
            due[key_of(row)].append(captured_at + row.next_retry_seconds)
    assert all(len(times) > 10 for times in due.values())
    # Ticks of 10 ms, and the time that a program took.
    assert all(max(times) - min(times) < 0.1 for times in due.values())


def test_every_format_knows_of_every_stuck_connection() -> None:
    stuck = {
        name: {key_of(row) for row in parsed(name, states={"SYN_SENT"}) if is_stuck(row)}
        for name in SINGLE
    }
    whole = stuck["ss-tan.txt"]
    assert len(whole) == 10
    tables = {"proc-net-tcp.txt", "proc-net-tcp6.txt"}
    assert stuck["proc-net-tcp.txt"] | stuck["proc-net-tcp6.txt"] == whole
    for name in set(SINGLE) - tables:
        missing = whole - stuck[name]
        assert stuck[name] <= whole
        # What netstat cuts is a problem, not a connection.
        assert len(missing) == (2 if is_cut(name) else 0), (name, missing)


def is_stuck(row: Connection | ConntrackEntry) -> bool:
    return row.state == "SYN_SENT"


def is_cut(name: str) -> bool:
    return name.startswith("netstat") and "W" not in name


def test_only_what_is_asked_for_is_given() -> None:
    for name in SINGLE:
        every = [row for row in parsed(name) if is_stuck(row)]
        assert list(parsed(name, states={"SYN_SENT"})) == every


# --- the parsers by themselves -------------------------------------------------------------------


@pytest.mark.parametrize("name", SINGLE)
def test_a_format_s_own_parser_reads_what_the_recogniser_reads(name: str) -> None:
    lines = list(file_lines(str(FOLDER / name)))
    assume = "SYN_SENT" if "state-syn-sent" in name else None
    own: list[Connection | ConntrackEntry | Problem]
    if name.startswith("ss"):
        own = list(ss.parse(lines, name=name, assume_state=assume))
    elif "netstat" in name:
        own = list(netstat.parse(lines, name=name))
    elif "conntrack" in name:
        own = list(conntrack.parse(lines, name=name))
    else:
        own = list(procnet.parse(lines, name=name))
    result = parsed(name)
    rows = list(result)
    assert [item for item in own if not isinstance(item, Problem)] == rows
    assert [item for item in own if isinstance(item, Problem)] == result.problems
