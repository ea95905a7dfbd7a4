"""How an attempt left SYN_SENT, told by what the kernel says of its end."""

from __future__ import annotations

import errno
from typing import Final

from tracer.model import Outcome, TcpState, Transition

_OUTCOME_OF_ERRNO: Final = {
    errno.ECONNREFUSED: Outcome.REFUSED,
    errno.ETIMEDOUT: Outcome.TIMED_OUT,
    errno.EADDRNOTAVAIL: Outcome.LOCAL_ERROR,
    # What ICMP errors and routes become: icmp_err_convert[] and icmpv6_err_convert() in Linux.
    errno.ENETUNREACH: Outcome.UNREACHABLE,
    errno.EHOSTUNREACH: Outcome.UNREACHABLE,
    errno.EHOSTDOWN: Outcome.UNREACHABLE,
    errno.ENOPROTOOPT: Outcome.UNREACHABLE,
    errno.EOPNOTSUPP: Outcome.UNREACHABLE,
    errno.ENONET: Outcome.UNREACHABLE,
    errno.EMSGSIZE: Outcome.UNREACHABLE,
    errno.EACCES: Outcome.UNREACHABLE,
    errno.EPROTO: Outcome.UNREACHABLE,
    errno.ENETDOWN: Outcome.UNREACHABLE,
}


def outcome_of(end: Transition) -> Outcome:
    """How an attempt left SYN_SENT, from the state entered and the socket's error.

    Without an error the socket was closed by its own side: by the application, or by the kernel
    before any SYN was sent. An error that no answer of the network becomes was set on this host to
    end the attempt (ECONNABORTED by `ss -K`).
    """
    if end.new_state is not TcpState.CLOSE:
        return Outcome.ESTABLISHED
    if end.no_syn_sent:
        return Outcome.LOCAL_ERROR
    return _OUTCOME_OF_ERRNO.get(end.errno, Outcome.ABORTED)
