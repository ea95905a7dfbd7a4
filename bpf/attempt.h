// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* The life of an attempt in the kernel: begin, SYN retransmission, end. */
#ifndef SYNSENT_ATTEMPT_H
#define SYNSENT_ATTEMPT_H

/* The longest interval between two retransmissions (TCP_RTO_MAX of include/net/tcp.h, 120 s). */
#define RTO_MAX_NS 120000000000ULL

/* 127 retries, the most a socket allows, take four hours at that interval; an older stamp is not one
 * of milliseconds. */
#define MAX_AGE_MS (5 * 3600 * 1000)

/* Address and port members that both tracepoints have, at different offsets: a macro, so that the
 * compiler knows each one's alignment. An IPv4-mapped destination keeps its source only in the
 * IPv4 member until the kernel has chosen the route. */
#define COPY_TUPLE(a, args)                                                                                            \
	do {                                                                                                           \
		(a)->family = (args)->family;                                                                          \
		(a)->sport = (args)->sport;                                                                            \
		(a)->dport = (args)->dport;                                                                            \
		__builtin_memcpy((a)->daddr, (args)->daddr_v6, 16);                                                    \
		if ((a)->family == AF_INET || is_v4_mapped((a)->daddr)) {                                              \
			make_v4_mapped((a)->saddr);                                                                    \
			__builtin_memcpy((a)->saddr + 12, (args)->saddr, 4);                                           \
			make_v4_mapped((a)->daddr);                                                                    \
			__builtin_memcpy((a)->daddr + 12, (args)->daddr, 4);                                           \
		} else {                                                                                               \
			__builtin_memcpy((a)->saddr, (args)->saddr_v6, 16);                                            \
		}                                                                                                      \
	} while (0)

static __always_inline bool is_v4_mapped(const u8 *address)
{
	const u32 *word = (const u32 *)address;

	return word[0] == 0 && word[1] == 0 && word[2] == bpf_htonl(0xffff);
}

static __always_inline void make_v4_mapped(u8 *address)
{
	u32 *word = (u32 *)address;

	word[0] = 0;
	word[1] = 0;
	word[2] = bpf_htonl(0xffff);
}

/* Whether the trace was asked to follow this namespace. */
static __always_inline bool wanted(u32 netns)
{
#ifdef FILTER_NETNS
	return wanted_netns.lookup(&netns) != NULL;
#else
	return true;
#endif
}

/* Fills what only the connecting process knows. False: the trace does not want this process. */
static __always_inline bool note_process(struct attempt *a)
{
	a->pid = bpf_get_current_pid_tgid() >> 32;
#ifdef FILTER_PID
	if (a->pid != FILTER_PID)
		return false;
#endif
	a->uid = bpf_get_current_uid_gid();
	a->cgroup_id = bpf_get_current_cgroup_id();
	bpf_get_current_comm(a->comm, sizeof(a->comm));
	a->seen_start = 1;
	return true;
}

/* When the attempt began, as the socket itself remembers it, to the millisecond; 0: unknown. The
 * kernel stamps the first SYN with the low 32 bits of its millisecond clock (tcp_connect() sets
 * retrans_stamp). */
static __always_inline u64 start_from_socket(u64 sk, u64 now)
{
#ifdef OFF_TCP_RETRANS_STAMP
	u32 stamp = READ_MEMBER(u32, sk, OFF_TCP_RETRANS_STAMP);
	u32 age_ms = (u32)(now / 1000000) - stamp;

	if (stamp && age_ms < MAX_AGE_MS)
		return now - age_ms * 1000000ULL;
#endif
	return 0;
}

/* Whether an attempt whose beginning was not seen may be reported: its process is unknown. */
static __always_inline bool may_adopt(u64 sk)
{
#ifdef FILTER_PID
	return false;
#else
	return wanted(sock_netns(sk));
#endif
}

/* False: there is no room. */
static __always_inline bool insert_attempt(u64 sk, struct attempt *a)
{
	if (attempts.update(&sk, a))
		return false;
	COUNT(added);
	return true;
}

static __always_inline void send_event(u64 sk, struct event *event, const struct attempt *a)
{
	event->sk = sk;
	event->attempt = *a;
	if (events.ringbuf_output(event, sizeof(*event), 0))
		COUNT(ring_full);
}

/* The retransmission timer is due one interval from now, or two once the interval doubles. */
static __always_inline u64 next_retry(u64 sk, const struct attempt *a, u64 now)
{
	u64 previous = a->last_timeout_ns ? a->last_timeout_ns : a->start_ns;
	u64 interval = now - previous;

	/* Unknown too where the attempt was adopted: `previous` is then not the last timeout. */
	if (!previous || (!a->last_timeout_ns && a->timeouts > 1))
		return 0;
	if (a->timeouts > sock_linear_timeouts(sk))
		interval *= 2;
	return now + (interval < RTO_MAX_NS ? interval : RTO_MAX_NS);
}

/* The timer ran out. The kernel's own count says whether a SYN went out again: towards a neighbour
 * that does not answer, the first one is still waiting in the queue and none is sent. */
static __always_inline void attempt_retransmits(u64 sk, struct attempt *a)
{
	struct event event = {.kind = EVENT_RETRANSMIT, .time_ns = bpf_ktime_get_ns()};

	a->timeouts++;
#ifdef OFF_TCP_TOTAL_RETRANS
	a->retransmissions = sock_total_retrans(sk);
	if (a->timeouts < a->retransmissions) /* it began before the tracer */
		a->timeouts = a->retransmissions;
#else
	a->retransmissions++;
#endif
	a->next_retry_ns = next_retry(sk, a, event.time_ns);
	a->last_timeout_ns = event.time_ns;
	send_event(sk, &event, a);
}

/* Known to have failed before any SYN was sent: no local port, or none that was free. */
static __always_inline bool no_syn_sent(u64 sk, const struct attempt *a)
{
#ifdef OFF_TCP_SEGS_OUT
	return a->seen_start && sock_segs_out(sk) == a->segs_out_start;
#else
	return a->seen_start && !a->seen_connect && !a->sport;
#endif
}

/* Whether the attempt is worth a record: it failed, was retransmitted, or took too long. */
static __always_inline bool worth_telling(u64 sk, const struct attempt *a, u8 new_state, u64 now)
{
	if (new_state == TCP_CLOSE || a->timeouts || sock_total_retrans(sk))
		return true;
	return a->start_ns && now - a->start_ns >= THRESHOLD_NS;
}

static __always_inline void attempt_leaves(u64 sk, const struct attempt *a, u8 new_state)
{
	struct event event = {.kind = EVENT_END, .time_ns = bpf_ktime_get_ns(), .new_state = new_state};

	if (!worth_telling(sk, a, new_state, event.time_ns)) {
		COUNT(established);
		return;
	}
	if (new_state == TCP_CLOSE) {
		event.error = sock_error(sk);
		if (!event.error)
			event.error = a->reported_error;
		event.soft_error = sock_soft_error(sk);
		event.no_syn_sent = no_syn_sent(sk, a);
	}
	COUNT(reported_end);
	send_event(sk, &event, a);
}

#endif
