// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* What the program that looks for drops shares with user space: keys and values of its maps.
 *
 * tracer/sources/drop_wire.py mirrors these structs, and the compiler compares the two.
 */
#ifndef SYNSENT_DROPS_H
#define SYNSENT_DROPS_H

#define DEVICE_LEN 16 /* IFNAMSIZ */

/* Source and destination of a SYN. */
struct ends {
	u32 saddr[4]; /* IPv6; IPv4 as ::ffff:a.b.c.d */
	u32 daddr[4];
	u16 sport; /* host byte order; 0: unknown */
	u16 dport;
};

/* One stuck attempt. The key is the sequence number of its SYN: routing and NAT leave that alone, and
 * two attempts with the same tuple differ in it. */
struct watched {
	struct ends socket;     /* as its socket has them */
	struct ends translated; /* both replaced by NAT, as learnt from connection tracking; 0: not seen */
	u32 watch;              /* number given by user space, never twice */
};

enum direction {
	DIRECTION_SYN = 1,
	DIRECTION_REPLY = 2,
};

struct drop_key {
	u64 location; /* address within the function that dropped the packet */
	u32 watch;    /* struct watched */
	u32 reason;   /* the kernel's enum skb_drop_reason; 0: it tells none */
	u32 netns;    /* inode; 0: unknown */
	u32 ifindex;  /* 0: the packet had no device */
	u8 direction; /* enum direction */
	u8 flags;     /* TCP flags */
	u8 pad[6];
};

struct drop {
	u64 packets;
	u64 first_ns; /* CLOCK_MONOTONIC */
	u64 last_ns;
	char device[DEVICE_LEN];
};

struct handed_key {
	u32 watch;
	u32 netns;
	u32 ifindex;
};

struct handed {
	u64 packets;
	u64 last_ns;
	char device[DEVICE_LEN];
};

/* Totals since the program was loaded, one copy per CPU. */
struct drop_counters {
	u64 no_room;    /* drops, hand-overs and RSTs that found their map full */
	u64 mismatched; /* packets with the number of an attempt, and nothing else of it */
};

#define MIRROR "drop_wire.py"
#include "same.h"

SAME_SIZE(ends);
SAME_SIZE(watched);
SAME_SIZE(drop_key);
SAME_SIZE(drop);
SAME_SIZE(handed_key);
SAME_SIZE(handed);
SAME_SIZE(drop_counters);

SAME_OFFSET(ends, saddr);
SAME_OFFSET(ends, daddr);
SAME_OFFSET(ends, sport);
SAME_OFFSET(ends, dport);

SAME_OFFSET(watched, socket);
SAME_OFFSET(watched, translated);
SAME_OFFSET(watched, watch);

SAME_OFFSET(drop_key, location);
SAME_OFFSET(drop_key, watch);
SAME_OFFSET(drop_key, reason);
SAME_OFFSET(drop_key, netns);
SAME_OFFSET(drop_key, ifindex);
SAME_OFFSET(drop_key, direction);
SAME_OFFSET(drop_key, flags);
SAME_OFFSET(drop_key, pad);

SAME_OFFSET(drop, packets);
SAME_OFFSET(drop, first_ns);
SAME_OFFSET(drop, last_ns);
SAME_OFFSET(drop, device);

SAME_OFFSET(handed_key, watch);
SAME_OFFSET(handed_key, netns);
SAME_OFFSET(handed_key, ifindex);

SAME_OFFSET(handed, packets);
SAME_OFFSET(handed, last_ns);
SAME_OFFSET(handed, device);

SAME_OFFSET(drop_counters, no_room);
SAME_OFFSET(drop_counters, mismatched);

#endif
