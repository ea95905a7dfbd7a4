// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Probes: who enters SYN_SENT, who retransmits a SYN, who leaves and how.
 *
 * A connect that succeeds at once costs a hash insert, a hash delete and four counters, and wakes
 * nobody. User space hears of SYN retransmissions, and of the end of attempts that were stuck or
 * that failed. No kernel header is included: bpf/headers satisfies BCC, sock.h says where kernel
 * members come from.
 */
#include <linux/types.h>
#include <uapi/linux/ptrace.h>
#include "tcp.h"
#include "event.h"
#include "mirror.h"
#include "maps.h"
#include "sock.h"
#include "attempt.h"

/* CLOSE -> SYN_SENT runs in the connecting process, before a source port is chosen. Leaving
 * SYN_SENT may run anywhere. */
TRACEPOINT_PROBE(sock, inet_sock_set_state)
{
	u64 sk = (u64)args->skaddr;
	struct attempt *known;
	struct attempt fresh = {};

	if (args->protocol != IPPROTO_TCP)
		return 0;

	if (args->newstate == TCP_SYN_SENT) {
		fresh.netns = sock_netns(sk);
		if (!wanted(fresh.netns) || !note_process(&fresh))
			return 0;
		fresh.start_ns = bpf_ktime_get_ns();
		fresh.segs_out_start = sock_segs_out(sk);
		COPY_TUPLE(&fresh, args);
		COUNT(started);
		if (!insert_attempt(sk, &fresh))
			COUNT(untracked);
		return 0;
	}

	/* A simultaneous open goes on in SYN_RECV: the attempt is over when it leaves that. */
	if (args->newstate == TCP_SYN_RECV)
		return 0;
	if (args->oldstate != TCP_SYN_SENT && args->oldstate != TCP_SYN_RECV)
		return 0;

	known = attempts.lookup(&sk);
	if (known) {
		fresh = *known;
		COPY_TUPLE(&fresh, args);
		attempt_leaves(sk, &fresh, args->newstate);
		attempts.delete(&sk);
		COUNT(removed);
	} else if (args->oldstate == TCP_SYN_SENT && may_adopt(sk)) {
		fresh.netns = sock_netns(sk);
		COPY_TUPLE(&fresh, args);
		fresh.retransmissions = sock_total_retrans(sk);
		fresh.start_ns = start_from_socket(sk, bpf_ktime_get_ns());
		attempt_leaves(sk, &fresh, args->newstate);
	}
	return 0;
}

TRACEPOINT_PROBE(tcp, tcp_retransmit_skb)
{
	u64 sk = (u64)args->skaddr;
	struct attempt *known;
	struct attempt fresh = {};

	if (args->state != TCP_SYN_SENT)
		return 0;

	known = attempts.lookup(&sk);
	if (!known) {
		if (!may_adopt(sk))
			return 0;
		fresh.netns = sock_netns(sk);
		fresh.start_ns = start_from_socket(sk, bpf_ktime_get_ns());
		COPY_TUPLE(&fresh, args);
		attempt_retransmits(sk, &fresh);
		insert_attempt(sk, &fresh);
		return 0;
	}
	COPY_TUPLE(known, args);
	attempt_retransmits(sk, known);
	return 0;
}

/* An error that reaches the socket while connect() itself runs is taken by connect() before the
 * state changes; this is where it can still be seen. The probe needs the socket, which only the
 * raw form of the tracepoint (Linux 5.14, e6a3e4434000) hands over. */
#ifdef OFF_SOCK_ERR
int on_error_report(struct bpf_raw_tracepoint_args *ctx)
{
	u64 sk = ctx->args[0];
	struct attempt *known = attempts.lookup(&sk);

	if (known)
		known->reported_error = sock_error(sk);
	return 0;
}
#endif

/* tcp_connect() is reached once the port is chosen and a route is known. */
#ifdef OFF_SOCK_NUM
int on_tcp_connect(struct pt_regs *ctx)
{
	u64 sk = PT_REGS_PARM1(ctx);
	struct attempt *known = attempts.lookup(&sk);

	if (known) {
		known->seen_connect = 1;
		known->sport = sock_port(sk);
	}
	return 0;
}
#endif
