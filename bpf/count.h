// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Adds one to a counter of this CPU. Whoever includes this has this_cpu(), which finds them. */
#ifndef SYNSENT_COUNT_H
#define SYNSENT_COUNT_H

/* Atomic: a softirq may interrupt this CPU between load and store, and a count must be exact. */
#define COUNT(member)                                                                                                  \
	do {                                                                                                           \
		__typeof__(this_cpu()) counters_ = this_cpu();                                                         \
		if (counters_)                                                                                         \
			__sync_fetch_and_add(&counters_->member, 1);                                                   \
	} while (0)

#endif
