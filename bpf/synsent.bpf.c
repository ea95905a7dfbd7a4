// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Probes: who enters SYN_SENT, who retransmits a SYN, who leaves and how.
 *
 * A connect that succeeds at once costs a hash insert, a hash delete and four counters, and wakes
 * nobody. User space hears of SYN retransmissions, and of the end of attempts that were stuck or
 * that failed. No kernel header is included: bpf/headers satisfies BCC, sock.h says where kernel
 * members come from.
 *
 * The tracepoints are taken in their raw form. The kernel skips programs on the usual form while
 * any bpf() call or any other tool's probe is at work on the same CPU (bpf_prog_active), so ends
 * would be missed; the raw form knows no such rule, needs no tracefs, and has the socket itself.
 */
#include <linux/types.h>
#include <uapi/linux/ptrace.h>
#include "tcp.h"
#include "event.h"
#include "mirror.h"
#include "maps.h"
#include "sock.h"
#include "attempt.h"

/* sock:inet_sock_set_state (sk, old state, new state). CLOSE -> SYN_SENT runs in the connecting
 * process, before a source port is chosen. Leaving SYN_SENT may run anywhere. */
int on_set_state(struct bpf_raw_tracepoint_args *ctx)
{
	u64 sk = ctx->args[0];
	u8 old_state = ctx->args[1], new_state = ctx->args[2];
	struct attempt fresh = {};
	struct attempt *known;

	if (new_state == TCP_SYN_SENT) {
		if (!sock_is_tcp(sk))
			return 0;
		fresh.netns = sock_netns(sk);
		if (!wanted(fresh.netns) || !note_process(&fresh))
			return 0;
		fresh.start_ns = bpf_ktime_get_ns();
		fresh.segs_out_start = sock_segs_out(sk);
		note_tuple(&fresh, sk);
		COUNT(started);
		if (!insert_attempt(sk, &fresh))
			COUNT(untracked);
		return 0;
	}

	/* A simultaneous open goes on in SYN_RECV: the attempt is over when it leaves that. */
	if (new_state == TCP_SYN_RECV || (old_state != TCP_SYN_SENT && old_state != TCP_SYN_RECV))
		return 0;

	known = attempts.lookup(&sk);
	if (known) {
		fresh = *known;
		/* Of what ends before its first retransmission, where tcp_connect() was not seen. */
		if (new_state == TCP_CLOSE && !fresh.isn)
			fresh.isn = sock_isn(sk);
		fresh.retransmissions = sock_total_retrans(sk);
		note_tuple(&fresh, sk);
		attempt_leaves(sk, &fresh, new_state);
		forget_attempt(sk, &fresh);
	} else if (old_state == TCP_SYN_SENT && sock_is_tcp(sk) && may_adopt(sk)) {
		fresh.netns = sock_netns(sk);
		fresh.retransmissions = sock_total_retrans(sk);
		fresh.start_ns = start_from_socket(sk, bpf_ktime_get_ns());
		note_tuple(&fresh, sk);
		attempt_leaves(sk, &fresh, new_state);
	}
	return 0;
}

/* tcp:tcp_retransmit_skb (sk, ...). */
int on_retransmit(struct bpf_raw_tracepoint_args *ctx)
{
	u64 sk = ctx->args[0];
	struct attempt fresh = {};
	struct attempt *known;

	if (sock_state(sk) != TCP_SYN_SENT)
		return 0;

	known = attempts.lookup(&sk);
	if (known) {
		note_tuple(known, sk);
		attempt_retransmits(sk, known);
		if (known->retransmissions && !known->retransmitted) {
			known->retransmitted = 1;
			COUNT(retransmitted);
		}
	} else if (may_adopt(sk)) {
		fresh.netns = sock_netns(sk);
		fresh.start_ns = start_from_socket(sk, bpf_ktime_get_ns());
		note_tuple(&fresh, sk);
		attempt_retransmits(sk, &fresh);
		fresh.retransmitted = fresh.retransmissions != 0;
		if (insert_attempt(sk, &fresh) && fresh.retransmitted)
			COUNT(retransmitted);
	}
	return 0;
}

/* sock:inet_sk_error_report (sk), Linux 5.14 (e6a3e4434000). An error that reaches the socket while
 * connect() itself runs is taken by connect() before the state changes; here it can be seen. */
int on_error_report(struct bpf_raw_tracepoint_args *ctx)
{
	u64 sk = ctx->args[0];
	struct attempt *known = attempts.lookup(&sk);

	if (known)
		known->reported_error = sock_error(sk);
	return 0;
}

/* tcp_connect(sk) is reached once port and sequence number are chosen and a route is known. */
int on_tcp_connect(struct pt_regs *ctx)
{
	u64 sk = PT_REGS_PARM1(ctx);
	struct attempt *known = attempts.lookup(&sk);

	if (known) {
		known->sport = sock_port(sk);
		known->isn = sock_next_isn(sk);
	}
	return 0;
}
