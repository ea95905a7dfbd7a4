"""The rule about the peer's answer that dies on this node."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tracer.diagnose import wording as say
from tracer.diagnose.drops import RST, Role
from tracer.diagnose.sight import (
    DEADLY,
    Death,
    answers_keep_pace,
    came_back_by_conntrack,
    deaths,
    icmp_errors,
)
from tracer.facts import Direction, Facts, ReversePath
from tracer.model import Cause, Confidence, Evidence, Outcome, Verdict
from tracer.text import safe

HIGH, MEDIUM, LOW = Confidence.HIGH, Confidence.MEDIUM, Confidence.LOW

_REPEATED: Final = 2
"""Answers that TCP takes for another connection's: one is chance, the next follows a SYN again."""


@dataclass(frozen=True, slots=True)
class _Lost:
    """Answers that were dropped, how surely that is the cause, and by what."""

    death: Death
    confidence: Confidence
    what: str
    evidence: tuple[Evidence, ...]


def reply_dropped_here(facts: Facts) -> Verdict | None:
    """The peer answered, and the answer died on this node.

    A dropped SYN+ACK of a socket still in SYN_SENT is decisive: the peer is up, the way there is
    open. Netfilter does it (a rule, often one for connection tracking's state INVALID), the reverse
    path filter on an asymmetric path, or the lack of a way back to the client. An answer that finds
    no socket in the client's namespace came after its end, and one that TCP takes for another
    connection's is chance: only where every SYN gets such an answer is it likely the cause. Without
    a drop, connection tracking in state SYN_RECV shows an answer that did not arrive.
    """
    if facts.outcome is Outcome.REFUSED:
        return None
    lost = [one for death in _answers(facts) if (one := _lost(death, facts)) is not None]
    if lost:
        order = list(Confidence)
        best = min(lost, key=lambda one: order.index(one.confidence))
        drop = best.death.drop
        back = "refused it, and its RST" if drop.flags & RST else "answered, and the answer"
        return Verdict(
            Cause.REPLY_DROPPED_HERE,
            best.confidence,
            f"{say.peer(facts)} {back} was dropped on this node by {best.what}:"
            f" {say.label(drop)}, {say.times(best.death.count)}, {say.place(drop, facts)}.",
            best.evidence,
        )
    return _lost_unseen(facts)


def _answers(facts: Facts) -> list[Death]:
    return deaths(
        facts,
        Direction.REPLY,
        *DEADLY,
        Role.NOBODY,
        Role.TCP,
    )


def _lost(death: Death, facts: Facts) -> _Lost | None:
    read, drop = death.meaning, death.drop
    evidence = [say.of_drop(drop, facts)]
    pace = answers_keep_pace(death, facts)
    if read.role is Role.NOBODY:
        # In the client's namespace it came after the socket was gone; elsewhere it was led astray.
        astray = None not in {drop.netns, facts.netns} and drop.netns != facts.netns
        if not astray:
            return None
        return _Lost(death, MEDIUM if pace else LOW, read.what, tuple(evidence))
    if read.role is Role.TCP:
        if death.count < _REPEATED or not pace:
            return None
        return _Lost(death, MEDIUM, read.what, tuple(evidence))
    asymmetric = _asymmetric(facts, drop.netns, drop.device)
    by_routing = read.role is Role.REVERSE_PATH or "rp_filter" in read.what
    if by_routing and asymmetric is not None:
        evidence.append(say.of_reverse_path(asymmetric, facts))
        what = "the reverse path filter (rp_filter)"
        return _Lost(death, HIGH if pace else MEDIUM, what, tuple(evidence))
    if read.role is Role.UNCLEAR:
        return _Lost(death, MEDIUM if pace else LOW, read.what, tuple(evidence))
    return _Lost(death, HIGH if pace else MEDIUM, read.what, tuple(evidence))


def _asymmetric(facts: Facts, netns: int | None, device: str | None) -> ReversePath | None:
    """The strict filter of that device, where the way back to the peer leads elsewhere."""
    for path in facts.reverse_paths:
        same = netns in {None, path.netns} and device in {None, path.device}
        if same and path.mode == 1 and path.symmetric is False:
            return path
    return None


def _lost_unseen(facts: Facts) -> Verdict | None:
    """What shows a lost answer where its drop was not seen."""
    if (
        facts.resets
        or icmp_errors(facts)
        or facts.outcome
        in {
            Outcome.UNREACHABLE,
            Outcome.LOCAL_ERROR,
        }
    ):
        return None
    entry = say.of_nat(facts)
    if entry is not None and came_back_by_conntrack(facts):
        return Verdict(
            Cause.REPLY_DROPPED_HERE,
            MEDIUM if facts.drops is None else LOW,
            f"{say.peer(facts)} answered: connection tracking on this node saw the answer, and the"
            " socket did not get it.",
            (entry,),
        )
    strict = _asymmetric(facts, None, None)
    if strict is None or facts.drops is not None:
        return None
    return Verdict(
        Cause.REPLY_DROPPED_HERE,
        MEDIUM if strict.dropped else LOW,
        f"If {say.peer(facts)} answers through {safe(strict.device)}, the strict rp_filter"
        " there drops the answer: the way back to it leads elsewhere.",
        (say.of_reverse_path(strict, facts),),
    )
