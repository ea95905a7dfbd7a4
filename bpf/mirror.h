// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Compares event.h with its mirror in user space, member by member. */
#ifndef SYNSENT_MIRROR_H
#define SYNSENT_MIRROR_H

#define MIRROR "wire.py"
#include "same.h"

SAME_SIZE(attempt);
SAME_SIZE(event);
SAME_SIZE(counters);

SAME_OFFSET(event, attempt);

SAME_OFFSET(attempt, start_ns);
SAME_OFFSET(attempt, last_timeout_ns);
SAME_OFFSET(attempt, next_retry_ns);
SAME_OFFSET(attempt, cgroup_id);
SAME_OFFSET(attempt, netns);
SAME_OFFSET(attempt, pid);
SAME_OFFSET(attempt, uid);
SAME_OFFSET(attempt, timeouts);
SAME_OFFSET(attempt, retransmissions);
SAME_OFFSET(attempt, segs_out_start);
SAME_OFFSET(attempt, reported_error);
SAME_OFFSET(attempt, isn);
SAME_OFFSET(attempt, family);
SAME_OFFSET(attempt, sport);
SAME_OFFSET(attempt, dport);
SAME_OFFSET(attempt, seen_start);
SAME_OFFSET(attempt, backoff);
SAME_OFFSET(attempt, saddr);
SAME_OFFSET(attempt, daddr);
SAME_OFFSET(attempt, comm);
SAME_OFFSET(attempt, retransmitted);
SAME_OFFSET(attempt, pad);

SAME_OFFSET(event, time_ns);
SAME_OFFSET(event, sk);
SAME_OFFSET(event, error);
SAME_OFFSET(event, soft_error);
SAME_OFFSET(event, kind);
SAME_OFFSET(event, new_state);
SAME_OFFSET(event, no_syn_sent);
SAME_OFFSET(event, pad);

SAME_OFFSET(counters, started);
SAME_OFFSET(counters, established);
SAME_OFFSET(counters, reported_end);
SAME_OFFSET(counters, added);
SAME_OFFSET(counters, removed);
SAME_OFFSET(counters, retransmitted);
SAME_OFFSET(counters, retransmitted_removed);
SAME_OFFSET(counters, unseen_ends);
SAME_OFFSET(counters, untracked);
SAME_OFFSET(counters, ring_full);

#endif
