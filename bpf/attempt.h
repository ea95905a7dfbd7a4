// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* The life of an attempt in the kernel: begin, SYN retransmission, end. */
#ifndef SYNSENT_ATTEMPT_H
#define SYNSENT_ATTEMPT_H

/* The longest interval between two retransmissions (TCP_RTO_MAX of include/net/tcp.h, 120 s). */
#define RTO_MAX_NS 120000000000ULL

/* 127 retries, the most a socket allows, take four hours at that interval; an older stamp is not one
 * of milliseconds. */
#define MAX_AGE_MS (5 * 3600 * 1000)

static __always_inline bool is_v4_mapped(const u8 *address)
{
	const u32 *word = (const u32 *)address;

	return word[0] == 0 && word[1] == 0 && word[2] == bpf_htonl(0xffff);
}

static __always_inline void make_v4_mapped(u8 *address, u32 v4)
{
	u32 *word = (u32 *)address;

	word[0] = 0;
	word[1] = 0;
	word[2] = bpf_htonl(0xffff);
	word[3] = v4;
}

/* Family, ports and addresses as the socket has them now. An IPv6 socket that speaks IPv4 keeps its
 * source only in the IPv4 member until the kernel has chosen the route. */
static __always_inline void note_tuple(struct attempt *a, u64 sk)
{
	a->family = READ_MEMBER(u16, sk, OFF_SOCK_FAMILY);
	a->sport = sock_port(sk);
	a->dport = bpf_ntohs(READ_MEMBER(u16, sk, OFF_SOCK_DPORT));
	if (a->family == AF_INET6) {
		bpf_probe_read_kernel(a->daddr, 16, (void *)(sk + OFF_SOCK_V6_DADDR));
		if (!is_v4_mapped(a->daddr)) {
			bpf_probe_read_kernel(a->saddr, 16, (void *)(sk + OFF_SOCK_V6_RCV_SADDR));
			return;
		}
	}
	make_v4_mapped(a->saddr, READ_MEMBER(u32, sk, OFF_INET_SADDR));
	make_v4_mapped(a->daddr, READ_MEMBER(u32, sk, OFF_SOCK_DADDR));
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
	u32 stamp = READ_MEMBER(u32, sk, OFF_TCP_RETRANS_STAMP);
	u64 now_ms = now / 1000000;
	u32 age_ms = (u32)now_ms - stamp;

	if (stamp && age_ms < MAX_AGE_MS)
		return (now_ms - age_ms) * 1000000;
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

static __always_inline void forget_attempt(u64 sk, const struct attempt *a)
{
	if (attempts.delete(&sk))
		return;
	COUNT(removed);
	if (a->retransmitted)
		COUNT(retransmitted_removed);
}

/* False: there is no room. An entry that is there already is of an earlier attempt whose end was not
 * seen: the kernel may skip a program that it would have to run inside another. */
static __always_inline bool insert_attempt(u64 sk, struct attempt *a)
{
	struct attempt *stale = attempts.lookup(&sk);

	if (stale) {
		COUNT(unseen_ends);
		forget_attempt(sk, stale);
	}
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

	if (!previous)
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
	u32 seen = a->timeouts + 1;

	a->isn = sock_isn(sk);
	a->retransmissions = sock_total_retrans(sk);
	a->timeouts = seen > a->retransmissions ? seen : a->retransmissions;
	/* Where timeouts went unseen, what passed since the last one is more than one interval. */
	a->next_retry_ns = a->timeouts == seen ? next_retry(sk, a, event.time_ns) : 0;
	a->last_timeout_ns = event.time_ns;
	/* The kernel doubles the interval only after this tracepoint. */
	a->backoff = sock_backoff(sk) + (a->timeouts > sock_linear_timeouts(sk));
	send_event(sk, &event, a);
}

/* Known to have failed before any SYN was sent: no local port, or none that was free. */
static __always_inline bool no_syn_sent(u64 sk, const struct attempt *a)
{
	return a->seen_start && sock_segs_out(sk) == a->segs_out_start;
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
