// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Every map, each with its bound and what happens when it is full. */
#ifndef SYNSENT_MAPS_H
#define SYNSENT_MAPS_H

#include "count.h"

/* Attempts in SYN_SENT, keyed by socket address. Full: the attempt is counted in `untracked`
 * and found by its first retransmission, or by the next cross-check. */
BPF_HASH(attempts, u64, struct attempt, MAX_ATTEMPTS);

/* Records for user space. Full: counted in `ring_full`, found by the next cross-check. */
BPF_RINGBUF_OUTPUT(events, RING_PAGES);

BPF_PERCPU_ARRAY(counters, struct counters, 1);

#ifdef FILTER_NETNS
/* Namespaces to trace. Full: user space refuses to start with so many. */
BPF_HASH(wanted_netns, u32, u8, MAX_WANTED_NETNS);
#endif

static __always_inline struct counters *this_cpu(void)
{
	int zero = 0;

	return counters.lookup(&zero);
}

#endif
