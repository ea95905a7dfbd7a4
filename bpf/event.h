// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* What crosses from the kernel to user space: the one truth of its layout.
 *
 * tracer/sources/wire.py mirrors these structs. The loader passes the mirror's offsets as macros and
 * mirror.h compares them, so that a mirror that has drifted stops the compiler.
 */
#ifndef SYNSENT_EVENT_H
#define SYNSENT_EVENT_H

#define COMM_LEN 16

/* State of one attempt while its socket is in SYN_SENT. Unknown numbers are 0. */
struct attempt {
	u64 start_ns;        /* CLOCK_MONOTONIC at CLOSE -> SYN_SENT; 0: it began before the tracer */
	u64 last_timeout_ns; /* CLOCK_MONOTONIC at which the retransmission timer last ran out; 0: not yet */
	u64 next_retry_ns;   /* CLOCK_MONOTONIC at which it is due next; 0: unknown */
	u64 cgroup_id;       /* cgroup v2 id of the connecting process */
	u32 netns;           /* inode of the socket's network namespace */
	u32 pid;             /* thread group that called connect(); 0: it was not seen */
	u32 uid;
	u32 timeouts;        /* how often the retransmission timer was seen to run out */
	u32 retransmissions; /* SYNs sent again: fewer, where the kernel still holds the first one */
	u32 segs_out_start;  /* tcp_sock.segs_out when the attempt began */
	s32 reported_error;  /* errno delivered to the socket before it left SYN_SENT */
	u32 isn;             /* sequence number of the SYN; 0: not known, or one in 4 billion */
	u16 family;          /* AF_INET or AF_INET6, of the socket */
	u16 sport;           /* host byte order; 0: not chosen yet */
	u16 dport;           /* host byte order */
	u8 seen_start;       /* 1: pid, uid, comm and cgroup_id are those of the connecting process */
	u8 backoff;          /* how often the kernel doubled the interval (icsk_backoff) */
	u8 saddr[16];        /* IPv6; IPv4 as ::ffff:a.b.c.d */
	u8 daddr[16];
	char comm[COMM_LEN];
	u8 retransmitted; /* 1: counted in counters.retransmitted */
	u8 pad[7];
};

enum event_kind {
	EVENT_RETRANSMIT = 1,
	EVENT_END = 2,
};

/* One ring buffer record. */
struct event {
	u64 time_ns; /* CLOCK_MONOTONIC */
	u64 sk;      /* kernel address of the socket: the attempt's key, never shown */
	s32 error;      /* END: errno of the socket; 0: none was set */
	s32 soft_error; /* END: sk_err_soft, an ICMP error that did not end the attempt */
	u8 kind;        /* enum event_kind */
	u8 new_state;   /* END: TCP state entered */
	u8 no_syn_sent; /* END: 1 if it is known that no SYN left the socket */
	u8 pad[5];
	struct attempt attempt;
};

/* Totals since the start, one copy per CPU. */
struct counters {
	u64 started;      /* entered SYN_SENT */
	u64 established;  /* left it connected, never stuck: no record was written */
	u64 reported_end; /* left it with a record: stuck or failed */
	u64 added;        /* put into the hash */
	u64 removed;      /* taken out of it; added - removed attempts are in SYN_SENT now */
	u64 retransmitted;         /* of those added, a SYN was sent again */
	u64 retransmitted_removed; /* of those removed, a SYN had been sent again */
	u64 unseen_ends;           /* entries of attempts that had ended without a probe being run */
	u64 untracked;    /* not put into the hash because it was full */
	u64 ring_full;    /* records lost because the ring buffer was full */
};

#endif
