"""When an attempt began, and when its SYNs go out, from the state of its retransmission timer."""

from __future__ import annotations

from typing import Final, NamedTuple

_MILLISECOND_NS: Final = 1_000_000
# TCP_TIMEOUT_INIT and TCP_RTO_MAX of include/net/tcp.h (RFC 6298, section 2).
_FIRST_INTERVAL_MS: Final = 1_000
_LONGEST_INTERVAL_MS: Final = 120_000
# icsk_retransmits is a byte.
_MOST_TIMEOUTS: Final = 255


def doublings_of(interval_ms: int, counted: int = 0) -> int:
    """How often the first interval, of one second, has doubled to become this one.

    `counted` is the kernel's own count (icsk_backoff), taken only once the interval can grow no
    further: it also counts where the interval stayed as it was, at tcp_rto_max_ms (Linux 6.15) and
    in the linear timeouts of 6.5 to 6.7. Without it, at least so often.
    """
    if interval_ms >= _LONGEST_INTERVAL_MS:
        return max(counted, (_LONGEST_INTERVAL_MS // _FIRST_INTERVAL_MS).bit_length())
    return max(0, (interval_ms // _FIRST_INTERVAL_MS).bit_length() - 1)


class Timeline(NamedTuple):
    """CLOCK_MONOTONIC nanoseconds; `last_syn_ns` is None before the timer first ran out."""

    started_ns: int
    last_syn_ns: int | None
    next_retry_ns: int


def timeline(
    *,
    now_ns: int,
    expires_ms: int,
    interval_ms: int,
    doublings: int,
    timeouts: int,
    since_first_timeout_ms: int = 0,
) -> Timeline:
    """The course of an attempt whose timer is due in `expires_ms`.

    `interval_ms` is the interval that is running, `timeouts` how often the timer has run out, and
    `doublings` how often the interval has doubled then: less often where the kernel keeps the first
    interval for a while (tcp_syn_linear_timeouts, Linux 6.5). The past intervals are the same
    sequence backwards; a timer may be late by an eighth of its time, so the start is somewhat
    earlier than they say. Where the kernel tells how long ago the timer first ran out (0: it does
    not), that is taken.
    """
    timeouts = min(timeouts, _MOST_TIMEOUTS)
    next_retry_ns = now_ns + expires_ms * _MILLISECOND_NS
    if interval_ms < _LONGEST_INTERVAL_MS:
        first_ms = interval_ms / 2**doublings
    else:
        first_ms = _FIRST_INTERVAL_MS
    linear = max(0, timeouts - doublings)
    past_ms = 0.0
    for index in range(timeouts):
        past_ms += min(first_ms * 2 ** max(0, index - linear), _LONGEST_INTERVAL_MS)
    current_start_ns = next_retry_ns - interval_ms * _MILLISECOND_NS
    started_ns = int(current_start_ns - past_ms * _MILLISECOND_NS)
    if since_first_timeout_ms:
        told_ns = now_ns - int((since_first_timeout_ms + first_ms) * _MILLISECOND_NS)
        started_ns = min(started_ns, told_ns)
    return Timeline(
        started_ns=started_ns,
        last_syn_ns=current_start_ns if timeouts else None,
        next_retry_ns=next_retry_ns,
    )
