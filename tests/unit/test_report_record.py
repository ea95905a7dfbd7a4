"""report.json there and back, and what anybody else may have written into one."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracer import report_record
from tracer.errors import InputError
from tracer.finding import CheckResult, Clue, Finding, Judged, Rung
from tracer.model import (
    Cause,
    Confidence,
    Destination,
    Endpoint,
    Flow,
    PodIdentity,
    Process,
    Scope,
)
from tracer.report_record import document, load, result_from

Json = dict[str, Any]

EMPTY_POD = PodIdentity()

texts = st.none() | st.text()
numbers = st.integers(0, 2**32 - 1)
ports = st.none() | st.integers(0, 65_535)
# Times are rounded to milliseconds.
seconds = st.none() | st.integers(0, 10**9).map(lambda ms: ms / 1000)
flows = st.one_of(
    [
        st.builds(
            Flow,
            netns=st.none() | numbers,
            family=st.just(family),
            source=st.builds(Endpoint, addresses, ports),
            destination=st.builds(Endpoint, addresses, ports),
            mapped=st.booleans(),
        )
        for family, addresses in (
            (4, st.ip_addresses(v=4).map(str)),
            (6, st.ip_addresses(v=6).map(str)),
        )
    ]
)
findings = st.builds(
    Finding,
    flow=flows,
    destination=st.builds(Destination, name=texts),
    age_seconds=seconds,
    syns_sent=st.none() | numbers,
    next_retry_seconds=seconds,
    uid=st.none() | numbers,
    process=st.none()
    | st.builds(
        Process,
        pid=numbers,
        name=texts,
        executable=texts,
        command_line=st.none() | st.lists(st.text()).map(tuple),
        container_id=texts,
        pod_uid=texts,
    ),
    pod=st.none()
    | st.builds(PodIdentity, texts, texts, texts, texts, texts).filter(EMPTY_POD.__ne__),
)
# Microseconds, from 1970 to 2096.
times = st.integers(0, 4 * 10**15).map(lambda us: us * 1_000)
verdicts = st.builds(
    Judged,
    pod=texts,
    destination=st.builds(Endpoint, st.ip_addresses().map(str), ports),
    evidence=st.lists(st.builds(Clue, st.text(), st.text(), st.none() | times), max_size=3).map(
        tuple
    ),
    facts=st.none(),
)
results = st.builds(
    CheckResult,
    wall_ns=times,
    findings=st.lists(findings, max_size=3).map(tuple),
    tried=st.lists(st.builds(Rung)).map(tuple),
    notes=st.lists(st.text()).map(tuple),
    verdicts=st.lists(verdicts, max_size=3).map(tuple),
)


def written(result: CheckResult) -> Json:
    """What is read of a report that was written."""
    whole: Json = json.loads("".join(document(result, ())))
    return whole


def report(**changes: object) -> Json:
    """A report with one connection, as decoded from JSON."""
    found = Finding(
        Flow(4026532201, 4, Endpoint("10.4.7.21", 40_000), Endpoint("10.4.100.50", 443)),
        Destination(Scope.VPC),
        process=Process(7, "curl", "/usr/bin/curl", ("curl", "x")),
    )
    verdict = Judged(
        "a/b",
        found.flow.destination,
        Cause.NO_NEIGHBOUR,
        Confidence.HIGH,
        "The next hop does not answer ARP.",
        (Clue("neighbour", "FAILED", 1_000),),
    )
    result = CheckResult("pod a/b", "node-1", "ss", 0, (found,), verdicts=(verdict,))
    return written(result) | changes


@given(results)
def test_what_is_written_is_read_again_without_loss(result: CheckResult) -> None:
    assert result_from(written(result)) == result


def set_at(whole: Json, path: str, value: object) -> None:
    """Sets, or with ... removes, what is at a path such as "connections.0.netns"."""
    *above, last = path.split(".")
    at: Any = whole
    for key in above:
        at = at[int(key)] if isinstance(at, list) else at[key]
    if value is ...:
        del at[last]
    else:
        at[last] = value


FIRST = "connections.0"
WHY = "verdicts.0"


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        ("report_version", ..., "report_version is missing"),
        ("report_version", "1", "report_version is not a whole number"),
        ("report_version", 0, "report_version is not a whole number"),
        ("report_version", True, "report_version is not a whole number"),
        ("target", None, "target is not a text"),
        ("time", "yesterday", "time is not a time"),
        ("time", "2026-02-30T00:00:00.000000Z", "time is not a time"),
        ("notes", "one", "notes is not a list"),
        ("notes", [1], "notes[0] is not a text"),
        ("tried", [{}], "tried[0].method is missing"),
        ("connections", {}, "connections is not a list"),
        ("connections", [7], "connections[0] is not an object"),
        (f"{FIRST}.netns", 2**32, "connections[0].netns is not a whole number"),
        (f"{FIRST}.netns", 1.5, "connections[0].netns is not a whole number"),
        (f"{FIRST}.source.port", 65_536, "source.port is not a whole number"),
        (f"{FIRST}.source.address", "10.0.0.300", "source.address is not an IPv4 address"),
        (f"{FIRST}.source.address", "::1", "source.address is not an IPv4 address"),
        (f"{FIRST}.network.type", "ipx", "network.type is not one of ipv4, ipv6"),
        (f"{FIRST}.network.type", [], "network.type is not one of ipv4, ipv6"),
        (f"{FIRST}.destination.scope", "moon", "destination.scope is not one of"),
        (f"{FIRST}.destination.kind", ..., "destination.kind is missing"),
        (f"{FIRST}.attempt.mapped", 1, "attempt.mapped is neither true nor false"),
        (f"{FIRST}.attempt.age_seconds", -1, "attempt.age_seconds is not a number of seconds"),
        (f"{FIRST}.attempt.age_seconds", 10**400, "age_seconds is not a number of seconds"),
        (f"{FIRST}.attempt.age_seconds", True, "age_seconds is not a number of seconds"),
        (f"{FIRST}.process", "curl", "connections[0].process is not an object"),
        (f"{FIRST}.process.pid", None, "process.pid is not a whole number"),
        (f"{FIRST}.process.command_args", "curl x", "process.command_args is not a list"),
        (f"{FIRST}.user", ..., "connections[0].user is missing"),
        (f"{FIRST}.k8s.pod", [], "k8s.pod is not an object"),
        ("verdicts", None, "verdicts is not a list"),
        ("verdicts", {}, "verdicts is not a list"),
        ("verdicts", [None], "verdicts[0] is not an object"),
        ("verdicts", [{}] * 1_001, "verdicts has more than 1000 members"),
        (f"{WHY}.pod", 7, "verdicts[0].pod is not a text"),
        (f"{WHY}.destination", "10.0.0.1:80", "verdicts[0].destination is not an object"),
        (f"{WHY}.destination.address", "$(reboot)", "destination.address is not an IP address"),
        (f"{WHY}.destination.address", "fe80::1%x", "destination.address is not an IP address"),
        (f"{WHY}.destination.port", -1, "destination.port is not a whole number"),
        (f"{WHY}.cause", "gremlins", "verdicts[0].cause is not one of dropped-here, "),
        (f"{WHY}.cause", None, "verdicts[0].cause is not one of dropped-here, "),
        (f"{WHY}.confidence", "sure", "verdicts[0].confidence is not one of high, medium, low"),
        (f"{WHY}.summary", None, "verdicts[0].summary is not a text"),
        (f"{WHY}.summary", ..., "verdicts[0].summary is missing"),
        (f"{WHY}.evidence", "much", "verdicts[0].evidence is not a list"),
        (f"{WHY}.evidence", [{}] * 101, "verdicts[0].evidence has more than 100 members"),
        (f"{WHY}.evidence.0.kind", [], "evidence[0].kind is not a text"),
        (f"{WHY}.evidence.0.summary", 1, "evidence[0].summary is not a text"),
        (f"{WHY}.evidence.0.time", 0, "evidence[0].time is not a text"),
        (f"{WHY}.evidence.0.time", "now", "evidence[0].time is not a time"),
    ],
)
def test_what_is_not_as_it_must_be_is_named_by_file_and_key(
    tmp_path: Path, path: str, value: object, named: str
) -> None:
    file, whole = tmp_path / "report.json", report()
    set_at(whole, path, value)
    file.write_text(json.dumps(whole))
    with pytest.raises(InputError) as caught:
        load(str(file))
    assert str(file) in str(caught.value)
    assert named in str(caught.value)


@pytest.mark.parametrize(
    "address", ["fe80::1%eth0", "fe80::1%$(reboot)", "fe80::1\n", "x" * 10_000_000]
)
def test_an_address_is_never_anything_else(address: str) -> None:
    whole = report()
    set_at(whole, f"{FIRST}.network.type", "ipv6")
    set_at(whole, f"{FIRST}.source.address", "fe80::1")
    set_at(whole, f"{FIRST}.destination.address", address)
    with pytest.raises(ValueError, match=r"destination\.address is not an IPv6 address"):
        result_from(whole)


@pytest.mark.parametrize(
    ("contents", "why"),
    [
        (b"", "is not JSON"),
        (b'{"report_version": 1', "is not JSON"),
        (b"\xff\xfe\xff", "is not JSON"),
        (b"[" * 1_000_000, "nested too deeply"),
        (b'{"a":' * 1_000_000, "nested too deeply"),
        (b"NaN", "NaN is no number"),
        (b"[-Infinity]", "-Infinity is no number"),
        (b"9" * 1_000_000, "is not JSON: a number in it has too many digits"),
        (b"9" * 5_000, "is not JSON: a number in it has too many digits"),
        (b'{"a": -' + b"9" * 5_000 + b"}", "is not JSON: a number in it has too many digits"),
        (b"[]", "the whole is not an object"),
        (b"null", "the whole is not an object"),
    ],
)
def test_what_is_no_report_at_all_is_an_input_error(
    tmp_path: Path, contents: bytes, why: str
) -> None:
    file = tmp_path / "report.json"
    file.write_bytes(contents)
    with pytest.raises(InputError, match=why) as caught:
        load(str(file))
    assert str(file) in str(caught.value)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


def paths_of(value: object, above: str = "") -> list[str]:
    """The paths to every member of every object."""
    found: list[str] = []
    if isinstance(value, dict):
        for key, one in value.items():
            found += [f"{above}{key}", *paths_of(one, f"{above}{key}.")]
    elif isinstance(value, list):
        for index, one in enumerate(value):
            found += paths_of(one, f"{above}{index}.")
    return found


@given(st.sampled_from(paths_of(report())), json_values)
def test_a_report_with_anything_anywhere_is_read_or_refused(path: str, value: object) -> None:
    whole = report()
    set_at(whole, path, value)
    try:
        result = result_from(whole)
    except ValueError:
        return
    assert "NaN" not in str(written(result)["connections"])


def test_a_report_of_a_newer_release_is_told_from_a_damaged_one(tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    file.write_text(json.dumps(report(report_version=2, connections="of another kind")))
    with pytest.raises(InputError, match="newer release: report_version is 2") as caught:
        load(str(file))
    assert caught.value.hint


def test_keys_that_are_not_known_are_no_error() -> None:
    assert result_from(report(colour="red")) == result_from(report())


def test_a_report_of_before_there_were_verdicts_is_read() -> None:
    whole = report()
    del whole["verdicts"]
    assert result_from(whole).verdicts == ()


def a_directory(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize("make", [a_directory, os.mkfifo, lambda path: path.symlink_to("nowhere")])
def test_what_is_no_ordinary_file_is_an_input_error_and_no_wait(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    file = tmp_path / "report.json"
    make(file)
    with pytest.raises(InputError, match=r"report\.json"):
        load(str(file))


def test_a_report_beyond_the_bound_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report_record, "MAX_REPORT_BYTES", 1 << 20)
    file = tmp_path / "report.json"
    file.write_bytes(b" " * ((1 << 20) + 1))
    with pytest.raises(InputError, match="larger than 1 MiB"):
        load(str(file))


@pytest.mark.parametrize("bound", [4_500, 50_000])
@pytest.mark.parametrize("destinations", [1, 999])
def test_what_is_written_can_be_read_again_however_much_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bound: int, destinations: int
) -> None:
    monkeypatch.setattr(report_record, "MAX_REPORT_BYTES", bound)
    found = tuple(
        Finding(
            Flow(None, 4, Endpoint("10.4.7.21", n), Endpoint("10.4.100.50", n % destinations)),
            Destination(Scope.VPC),
        )
        for n in range(1, 1_000)
    )
    file = tmp_path / "report.json"
    result = CheckResult("pod a/b", "n", "ss", 0, found, notes=("one",))
    file.write_text("".join(document(result, ())))
    assert bound / 2 < file.stat().st_size <= bound
    again = load(str(file))
    kept = len(again.findings)
    assert 0 < kept < len(found)
    assert again.findings == found[:kept]
    assert again.notes[0] == "one"
    assert again.notes[-1] == (
        f"connections beyond the first {kept} of 999: report.json would be too large to be read"
    )
    assert len(again.notes) == (2 if destinations == 1 else 3)
    assert json.loads(file.read_text())["found"] == 999
