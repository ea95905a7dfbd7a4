// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Reads of a TCP socket.
 *
 * Members that every kernel has are required. Where a kernel lacks one of the others, its macro is
 * absent and the answer is "unknown".
 */
#ifndef SYNSENT_SOCK_H
#define SYNSENT_SOCK_H

#include "read.h"

static __always_inline bool sock_is_tcp(u64 sk)
{
	/* A byte until Linux 5.6 (bf9765145b85), and little-endian since: TCP's number fits in it. */
	return READ_MEMBER(u8, sk, OFF_SOCK_PROTOCOL) == IPPROTO_TCP;
}

static __always_inline u8 sock_state(u64 sk)
{
	return READ_MEMBER(u8, sk, OFF_SOCK_STATE);
}

static __always_inline s32 sock_error(u64 sk)
{
	return READ_MEMBER(s32, sk, OFF_SOCK_ERR);
}

static __always_inline s32 sock_soft_error(u64 sk)
{
	return READ_MEMBER(s32, sk, OFF_SOCK_ERR_SOFT);
}

/* Local port in host byte order, 0 while none is chosen. inet_sport outlives the port's release,
 * which comes before the state changes to CLOSE. */
static __always_inline u16 sock_port(u64 sk)
{
	return bpf_ntohs(READ_MEMBER(u16, sk, OFF_INET_SPORT));
}

/* Segments sent by the socket since it was last disconnected, SYNs included. */
static __always_inline u32 sock_segs_out(u64 sk)
{
	return READ_MEMBER(u32, sk, OFF_TCP_SEGS_OUT);
}

/* Retransmissions since the socket was last disconnected: in SYN_SENT, those of the SYN. The
 * kernel raises it before the tcp_retransmit_skb tracepoint. */
static __always_inline u32 sock_total_retrans(u64 sk)
{
	return READ_MEMBER(u32, sk, OFF_TCP_TOTAL_RETRANS);
}

/* Sequence number of the socket's SYN, for as long as nothing has acknowledged it. */
static __always_inline u32 sock_isn(u64 sk)
{
	return READ_MEMBER(u32, sk, OFF_TCP_SND_UNA);
}

/* The same while tcp_connect() is about to build the SYN: snd_una is set within. */
static __always_inline u32 sock_next_isn(u64 sk)
{
	return READ_MEMBER(u32, sk, OFF_TCP_WRITE_SEQ);
}

/* How often the kernel doubled the retransmission interval. */
static __always_inline u8 sock_backoff(u64 sk)
{
	return READ_MEMBER(u8, sk, OFF_ICSK_BACKOFF);
}

/* How many SYN timeouts keep the first interval before it doubles: the namespace's
 * tcp_syn_linear_timeouts (Linux 6.5, ccce324dabfe); kernels without it double at once. */
static __always_inline u32 sock_linear_timeouts(u64 sk)
{
#ifdef OFF_NET_SYN_LINEAR_TIMEOUTS
	return READ_MEMBER(u8, READ_MEMBER(u64, sk, OFF_SOCK_NET), OFF_NET_SYN_LINEAR_TIMEOUTS);
#else
	return 0;
#endif
}

#endif
