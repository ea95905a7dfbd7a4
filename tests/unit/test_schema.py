from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import cast

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tracer
from tracer import schema
from tracer.event import attempt_record, lifecycle_record, timestamp
from tracer.model import (
    Attempt,
    Cause,
    Change,
    ChangeKind,
    Confidence,
    CrossCheck,
    Destination,
    Endpoint,
    Endpoints,
    Evidence,
    Flow,
    Health,
    Kind,
    KubeHealth,
    KubeState,
    Lifecycle,
    LifecycleKind,
    Losses,
    NameSource,
    Nat,
    Outcome,
    Owner,
    PodEvidence,
    PodIdentity,
    Process,
    Rates,
    Report,
    Scope,
    SourceName,
    Verdict,
    Workload,
)
from tracer.schema import FIELDS, Field, Record, json_schema

VALIDATOR = jsonschema.Draft202012Validator(json_schema())
WALL_NS = 1_700_000_000_123_456_789

ATTEMPT = Attempt(
    id="bpf-1f",
    flow=Flow(4026532201, 4, Endpoint("10.4.7.21", 41822), Endpoint("52.94.10.112", 443)),
    owner=Owner(pid=4123, uid=1000, comm="curl"),
    detected_by=SourceName.BPF,
    first_seen_ns=1,
    started_wall_ns=WALL_NS - 1_000_000_000,
    stuck_ns=2,
    syns_sent=2,
    backoff=3,
)
REPORT = Report(
    change=Change(ChangeKind.STUCK, ATTEMPT, 2),
    destination=Destination(
        Scope.EXTERNAL,
        Kind.SERVICE,
        "shop/db:443",
        endpoints=Endpoints(0, 3),
        names_wall_ns=WALL_NS - 60_000_000_000,
        nat=Nat(Endpoint("10.4.100.50", 5432), "SYN_SENT", replied=False),
    ),
    process=Process(
        pid=4123,
        name="curl-name",
        executable="/usr/bin/curl",
        command_line=("curl", "https://example.com"),
        container_id="c0ffee",
        pod_uid="9f2c1a7e-0000-4000-8000-000000000001",
    ),
    wall_ns=WALL_NS,
    age_seconds=1.0004,
    next_retry_seconds=0.99951,
    pod=PodIdentity(
        "shop",
        "web-0",
        "9f2c1a7e-0000-4000-8000-000000000001",
        container="php",
        workload=Workload("StatefulSet", "web"),
        evidence=PodEvidence.CGROUP,
        name_source=NameSource.CACHE,
        names_wall_ns=WALL_NS - 60_000_000_000,
    ),
    verdict=Verdict(
        Cause.DROPPED_HERE,
        Confidence.HIGH,
        "A rule drops it.",
        (Evidence("drop", "twice", at_ns=-998), Evidence("route", "by eth0")),
    ),
)
BARE = Report(
    change=Change(
        ChangeKind.END,
        Attempt(
            id="x",
            flow=Flow(None, 6, Endpoint("2001:db8::1", None), Endpoint("2001:db8::2", None)),
            owner=Owner(),
            detected_by=SourceName.PROCFS,
            first_seen_ns=1,
        ),
        2,
    ),
    destination=Destination(Scope.VPC),
    process=None,
    wall_ns=WALL_NS,
    age_seconds=None,
    next_retry_seconds=None,
)
HEALTH = Health(
    backend=SourceName.BPF,
    hooks=("tcp_connect", "sock:inet_sock_set_state"),
    lacking=("kprobes: the source port is learnt late",),
    stuck_now=3,
    tracked_now=4,
    outcomes={Outcome.REFUSED: 7},
    became_stuck=52,
    rates=Rates(20311, 20290),
    losses=Losses(1, 2, 3, 4, 5, 6, 7, 8, 9),
    crosscheck=CrossCheck(9, 8, 7, 6, 5),
    kube=KubeHealth(KubeState.DEGRADED, "not permitted: pods: list", WALL_NS),
    withheld=5,
    own_connects=6,
)
LIFECYCLE = Lifecycle(LifecycleKind.HEALTH, WALL_NS, HEALTH, 10.00049, "a sentence")

texts = st.none() | st.text()
counts = st.integers(0, 2**40)
ports = st.none() | st.integers(0, 65535)
seconds = st.none() | st.floats(min_value=0)
wall_times = st.integers(0, 4_000_000_000_000_000_000)

reports = st.builds(
    Report,
    change=st.builds(
        Change,
        kind=st.sampled_from(ChangeKind),
        attempt=st.builds(
            Attempt,
            flow=st.builds(
                Flow,
                netns=st.none() | counts,
                family=st.sampled_from((4, 6)),
                source=st.builds(Endpoint, port=ports),
                destination=st.builds(Endpoint, port=ports),
            ),
            owner=st.builds(Owner, pid=st.none() | counts, uid=st.none() | counts, comm=texts),
            started_wall_ns=st.none() | wall_times,
            syns_sent=st.none() | counts,
            backoff=st.none() | counts,
            errno=st.none() | st.integers(0, 200),
            soft_errno=st.none() | st.integers(0, 200),
        ),
    ),
    destination=st.builds(
        Destination,
        endpoints=st.none() | st.builds(Endpoints, counts, counts),
        names_wall_ns=st.none() | wall_times,
        name=texts,
        nat=st.none() | st.builds(Nat, destination=st.builds(Endpoint, port=ports)),
    ),
    process=st.none() | st.builds(Process, pid=counts),
    pod=st.none() | st.builds(PodIdentity, names_wall_ns=st.none() | wall_times),
    verdict=st.none() | st.builds(Verdict),
    wall_ns=wall_times,
    age_seconds=seconds,
    next_retry_seconds=st.none() | st.floats(),
)
lifecycles = st.builds(
    Lifecycle,
    wall_ns=wall_times,
    health=st.builds(
        Health,
        backend=st.sampled_from([one for one in SourceName if one is not SourceName.TEXT]),
        stuck_now=counts,
        tracked_now=counts,
        became_stuck=counts,
        outcomes=st.dictionaries(st.sampled_from(Outcome), counts),
        rates=st.builds(Rates, st.none() | counts, st.none() | counts),
        losses=st.builds(Losses, *[counts] * len(fields(Losses))),
        crosscheck=st.builds(CrossCheck, counts, counts, counts, counts, counts),
        kube=st.builds(KubeHealth, message=texts, names_wall_ns=st.none() | wall_times),
    ),
    uptime_seconds=st.floats(min_value=0),
)


def keys_of(record: Record, prefix: str = "") -> Iterator[str]:
    for name, value in record.items():
        if isinstance(value, dict):
            yield from keys_of(value, f"{prefix}{name}.")
        else:
            yield prefix + name


def at(record: Record, key: str) -> object:
    value: object = record
    for name in key.split("."):
        value = cast("Record", value)[name]
    return value


def with_attempt(report: Report, **changes: object) -> Report:
    attempt = replace(report.change.attempt, **changes)  # type: ignore[arg-type]
    return replace(report, change=replace(report.change, attempt=attempt))


def test_the_shipped_schema_is_the_one_that_follows_from_the_table() -> None:
    shipped = Path(schema.__file__).with_name("synsent-events.schema.json")

    assert json.loads(shipped.read_text()) == json_schema(), "run python -m tracer.schema"


def test_the_schema_is_itself_a_valid_json_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(json_schema())


def test_every_key_is_in_the_table_once_and_described() -> None:
    keys = [field.key for field in FIELDS]

    assert len(keys) == len(set(keys))
    assert all(field.description.endswith(".") for field in FIELDS)


@pytest.mark.parametrize("kind", ChangeKind)
@pytest.mark.parametrize("report", [REPORT, BARE])
def test_an_attempts_record_has_exactly_the_fields_of_the_table(
    report: Report, kind: ChangeKind
) -> None:
    record = attempt_record(replace(report, change=replace(report.change, kind=kind)), "node-1")

    VALIDATOR.validate(record)
    assert list(keys_of(record)) == [field.key for field in FIELDS if kind in field.events]


@pytest.mark.parametrize("kind", LifecycleKind)
def test_a_lifecycle_record_has_exactly_the_fields_of_the_table(kind: LifecycleKind) -> None:
    record = lifecycle_record(replace(LIFECYCLE, kind=kind), "node-1")

    VALIDATOR.validate(record)
    assert list(keys_of(record)) == [field.key for field in FIELDS if kind in field.events]


@given(reports)
def test_whatever_is_reported_of_an_attempt_fits_the_schema(report: Report) -> None:
    record = attempt_record(report, "node-1")

    VALIDATOR.validate(record)
    json.dumps(record, allow_nan=False)


@given(lifecycles)
def test_whatever_is_reported_of_the_tracer_fits_the_schema(event: Lifecycle) -> None:
    record = lifecycle_record(event, "node-1")

    VALIDATOR.validate(record)
    json.dumps(record, allow_nan=False)


def test_an_attempts_record_says_what_is_known() -> None:
    assert attempt_record(REPORT, "node-1") == {
        "schema_version": 1,
        "time": "2023-11-14T22:13:20.123456Z",
        "event": "attempt.stuck",
        "k8s": {
            "node": {"name": "node-1"},
            "namespace": {"name": "shop"},
            "pod": {
                "name": "web-0",
                "uid": "9f2c1a7e-0000-4000-8000-000000000001",
                "evidence": "cgroup",
                "name_source": "cache",
                "names_as_of": "2023-11-14T22:12:20.123456Z",
            },
            "container": {"name": "php"},
            "workload": {"kind": "StatefulSet", "name": "web"},
        },
        "systemd": {"unit": None},
        "container": {"id": "c0ffee"},
        "process": {
            "pid": 4123,
            "executable": {"name": "curl", "path": "/usr/bin/curl"},
            "command": "curl",
            "command_args": ["curl", "https://example.com"],
        },
        "user": {"id": 1000},
        "source": {"address": "10.4.7.21", "port": 41822},
        "destination": {
            "address": "52.94.10.112",
            "port": 443,
            "scope": "external",
            "tag": "external",
            "kind": "service",
            "name": "shop/db:443",
            "ambiguous": False,
            "endpoints": {"ready": 0, "total": 3},
            "names_as_of": "2023-11-14T22:12:20.123456Z",
        },
        "nat": {
            "destination": {"address": "10.4.100.50", "port": 5432},
            "state": "SYN_SENT",
            "replied": False,
        },
        "network": {"type": "ipv4", "transport": "tcp"},
        "netns": 4026532201,
        "attempt": {
            "id": "bpf-1f",
            "started_at": "2023-11-14T22:13:19.123456Z",
            "age_seconds": 1.0,
            "syns_sent": 2,
            "next_retry_seconds": 1.0,
            "backoff": 3,
            "outcome": None,
            "stuck": True,
            "mapped": False,
        },
        "error": {"type": None, "soft_type": None},
        "verdict": {
            "cause": "dropped-here",
            "confidence": "high",
            "summary": "A rule drops it.",
            "evidence": [
                {"kind": "drop", "summary": "twice", "time": "2023-11-14T22:13:20.123455Z"},
                {"kind": "route", "summary": "by eth0", "time": None},
            ],
        },
        "detected_by": "bpf",
    }


def test_a_lifecycle_record_says_what_is_known() -> None:
    assert lifecycle_record(LIFECYCLE, "node-1") == {
        "schema_version": 1,
        "time": "2023-11-14T22:13:20.123456Z",
        "event": "tracer.health",
        "k8s": {"node": {"name": "node-1"}},
        "tracer": {
            "version": tracer.__version__,
            "backend": "bpf",
            "hooks": ["tcp_connect", "sock:inet_sock_set_state"],
            "lacking": ["kprobes: the source port is learnt late"],
            "uptime_seconds": 10.0,
            "lost_events": 1 + 2 + 3 + 4 + 5,
            "dropped_events": 7 + 8,
            "losses": {
                "ring_full": 1,
                "untracked": 2,
                "unseen_ends": 3,
                "queue_full": 4,
                "undecodable": 5,
                "evidence": 6,
                "table_full": 7,
                "output_dropped": 8,
                "lines_not_shown": 9,
            },
            "stuck_now": 3,
            "tracked_now": 4,
            "became_stuck": 52,
            "withheld": 5,
            "own_connects": 6,
            "outcomes": {
                "established": 0,
                "refused": 7,
                "unreachable": 0,
                "timed_out": 0,
                "aborted": 0,
                "local_error": 0,
                "vanished": 0,
            },
            "connects": {"started": 20311, "established": 20290},
            "crosscheck": {
                "sweeps": 9,
                "agreed": 8,
                "before_start": 7,
                "missed": 6,
                "unended": 5,
            },
            "kube": {
                "state": "degraded",
                "message": "not permitted: pods: list",
                "names_as_of": "2023-11-14T22:13:20.123456Z",
            },
            "message": "a sentence",
        },
    }


def test_what_is_unknown_is_null_and_never_left_out() -> None:
    record = attempt_record(BARE, "node-1")

    known = {key for key in keys_of(record) if at(record, key) is not None}
    assert known == {
        "schema_version",
        "time",
        "event",
        "k8s.node.name",
        "source.address",
        "destination.address",
        "destination.ambiguous",
        "destination.scope",
        "destination.tag",
        "destination.kind",
        "network.type",
        "network.transport",
        "attempt.id",
        "attempt.stuck",
        "attempt.mapped",
        "verdict.evidence",
        "detected_by",
    }


def test_the_tag_is_the_word_for_people() -> None:
    record = attempt_record(BARE, "node-1")

    assert (at(record, "destination.scope"), at(record, "destination.tag")) == (
        "vpc",
        "VPC/internal",
    )


def test_an_end_carries_its_outcome_and_the_symbols_of_its_errors() -> None:
    report = with_attempt(REPORT, outcome=Outcome.TIMED_OUT, errno=110, soft_errno=113)

    record = attempt_record(report, "node-1")

    assert at(record, "attempt.outcome") == "timed_out"
    assert at(record, "error") == {"type": "ETIMEDOUT", "soft_type": "EHOSTUNREACH"}


def test_the_socket_owner_stands_in_for_a_process_that_could_not_be_read() -> None:
    record = attempt_record(replace(REPORT, process=None), "node-1")

    assert at(record, "process") == {
        "pid": 4123,
        "executable": {"name": None, "path": None},
        "command": "curl",
        "command_args": None,
    }


def test_the_process_that_was_read_goes_before_the_socket_owner() -> None:
    process = Process(pid=99, name="worker")

    record = attempt_record(replace(REPORT, process=process), "node-1")

    assert at(record, "process.pid") == 99
    assert at(record, "process.executable") == {"name": "worker", "path": None}


def test_an_empty_command_line_is_known_to_be_empty() -> None:
    record = attempt_record(replace(REPORT, process=Process(1, command_line=())), "node-1")

    assert at(record, "process.command_args") == []


def test_an_ipv6_socket_that_speaks_ipv4_is_ipv4_and_mapped() -> None:
    record = attempt_record(with_attempt(REPORT, flow=replace(ATTEMPT.flow, mapped=True)), "node-1")

    assert at(record, "network.type") == "ipv4"
    assert at(record, "attempt.mapped") is True


def test_an_ipv6_attempt_is_ipv6() -> None:
    assert at(attempt_record(BARE, "node-1"), "network.type") == "ipv6"


@pytest.mark.parametrize(
    ("wall_ns", "text"),
    [
        (0, "1970-01-01T00:00:00.000000Z"),
        (-62_135_596_800 * 10**9, "0001-01-01T00:00:00.000000Z"),
        (WALL_NS, "2023-11-14T22:13:20.123456Z"),
        (WALL_NS // 10**9 * 10**9 + 999_999_999, "2023-11-14T22:13:20.999999Z"),
    ],
)
def test_a_time_is_cut_to_microseconds_and_never_rounded_into_the_next_second(
    wall_ns: int, text: str
) -> None:
    assert timestamp(wall_ns) == text


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_number_that_json_does_not_have_is_null(value: float) -> None:
    record = attempt_record(replace(REPORT, age_seconds=value, next_retry_seconds=value), "node-1")

    assert at(record, "attempt.age_seconds") is None
    assert at(record, "attempt.next_retry_seconds") is None


def test_seconds_are_rounded_to_milliseconds() -> None:
    record = attempt_record(replace(REPORT, age_seconds=3.14159), "node-1")

    assert at(record, "attempt.age_seconds") == 3.142


@pytest.mark.parametrize("part", ["", "k8s", "destination", "attempt"])
def test_a_misspelt_key_does_not_pass(part: str) -> None:
    record = attempt_record(REPORT, "node-1")
    cast("Record", at(record, part) if part else record)["adress"] = "10.0.0.1"

    with pytest.raises(jsonschema.ValidationError, match="adress"):
        VALIDATOR.validate(record)


@pytest.mark.parametrize("key", [field.key for field in FIELDS if "attempt.end" in field.events])
def test_a_missing_key_does_not_pass(key: str) -> None:
    record = attempt_record(REPORT, "node-1")
    *parents, name = key.split(".")
    del cast("Record", at(record, ".".join(parents)) if parents else record)[name]

    with pytest.raises(jsonschema.ValidationError, match=name):
        VALIDATOR.validate(record)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("event", "attempt.begin"),
        ("event", "tracer.health"),
        ("time", "2023-11-14 22:13:20"),
        ("schema_version", 2),
        ("source.port", "41822"),
        ("destination.port", 70_000),
        ("destination.scope", "internet"),
        ("attempt.outcome", "succeeded"),
        ("attempt.stuck", None),
        ("process.command_args", [1]),
    ],
)
def test_a_value_outside_its_set_does_not_pass(key: str, value: object) -> None:
    record = attempt_record(REPORT, "node-1")
    *parents, name = key.split(".")
    cast("Record", at(record, ".".join(parents)) if parents else record)[name] = value

    with pytest.raises(jsonschema.ValidationError):
        VALIDATOR.validate(record)


def test_a_field_that_is_not_required_may_be_missing() -> None:
    events = schema.ATTEMPT_EVENTS
    optional = jsonschema.Draft202012Validator(
        json_schema(
            (
                Field("event", ("string",), "What happened.", schema.ALL_EVENTS),
                Field("nat.address", ("string",), "Where to.", events, required=False),
            )
        )
    )

    optional.validate({"event": "attempt.end"})
    optional.validate({"event": "attempt.end", "nat": {"address": "10.0.0.1"}})
    with pytest.raises(jsonschema.ValidationError):
        optional.validate({"event": "tracer.stop", "nat": {"address": "10.0.0.1"}})


@pytest.mark.parametrize(
    ("prefix", "names"),
    [
        ("tracer.losses.", [field.name for field in fields(Losses)]),
        ("tracer.crosscheck.", [field.name for field in fields(CrossCheck)]),
        ("tracer.connects.", [field.name for field in fields(Rates)]),
        ("tracer.outcomes.", list(Outcome)),
    ],
)
def test_everything_the_model_counts_is_in_the_table(prefix: str, names: list[str]) -> None:
    keys = [field.key for field in FIELDS if field.key.startswith(prefix)]

    assert keys == [prefix + name for name in names]
