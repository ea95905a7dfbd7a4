"""Reports of attempts as the session hands them on, for tests of what comes after it."""

from __future__ import annotations

from typing import Any

from tracer.model import (
    Attempt,
    Change,
    ChangeKind,
    Destination,
    Endpoint,
    Flow,
    Outcome,
    Owner,
    Report,
    Scope,
    SourceName,
)

SECOND = 1_000_000_000
POD, HOST = 4_026_532_100, 4_026_531_840
CLIENT = Endpoint("10.4.7.21", 40_000)
THERE = Endpoint("10.4.100.50", 443)


def stuck(name: str = "a", **known: Any) -> Report:  # noqa: ANN401 - see report()
    return report(ChangeKind.STUCK, name, **known)


def sent_again(name: str = "a", **known: Any) -> Report:  # noqa: ANN401
    return report(ChangeKind.RETRANSMIT, name, **known)


def ended(outcome: Outcome, name: str = "a", **known: Any) -> Report:  # noqa: ANN401
    return report(ChangeKind.END, name, outcome=outcome, **known)


def report(
    kind: ChangeKind,
    name: str,
    *,
    netns: int | None = POD,
    destination: Endpoint = THERE,
    source: Endpoint = CLIENT,
    about: Destination | None = None,
    was_stuck: bool = True,
    **known: Any,  # noqa: ANN401 - members of Attempt
) -> Report:
    """`about` is what is known of the destination; the attempt's second SYN is out."""
    attempt = Attempt(
        id=name,
        flow=Flow(netns, 6 if ":" in destination.address else 4, source, destination),
        owner=Owner(),
        detected_by=SourceName.BPF,
        first_seen_ns=0,
        **{
            "started_ns": 10 * SECOND,
            "stuck_ns": 11 * SECOND if was_stuck else None,
            "syns_sent": 2,
            "last_syn_ns": 11 * SECOND,
            "isn": hash(name) & 0xFFFFFFFF,
            **known,
        },
    )
    return Report(
        change=Change(kind, attempt, 11 * SECOND),
        destination=about or Destination(Scope.VPC),
        process=None,
        wall_ns=1_700_000_000 * SECOND,
        age_seconds=1.0,
        next_retry_seconds=1.0,
    )
