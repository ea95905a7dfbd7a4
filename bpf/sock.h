// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Reads of kernel objects at the offsets that user space took from the kernel's BTF (-DOFF_...).
 *
 * Where the kernel has no BTF, or no such member, the macro is absent and the answer is "unknown".
 */
#ifndef SYNSENT_SOCK_H
#define SYNSENT_SOCK_H

#define READ_MEMBER(type, base, offset)                                                                                \
	({                                                                                                             \
		type member_ = 0;                                                                                      \
		bpf_probe_read_kernel(&member_, sizeof(member_), (void *)((u64)(base) + (offset)));                    \
		member_;                                                                                               \
	})

#ifdef OFF_SOCK_NET
#define SOCK_NET(sk) READ_MEMBER(u64, sk, OFF_SOCK_NET)
#endif

/* Inode of the socket's network namespace; 0: unknown. */
static __always_inline u32 sock_netns(u64 sk)
{
#if defined(OFF_SOCK_NET) && defined(OFF_NET_INUM)
	return READ_MEMBER(u32, SOCK_NET(sk), OFF_NET_INUM);
#else
	return 0;
#endif
}

static __always_inline s32 sock_error(u64 sk)
{
#ifdef OFF_SOCK_ERR
	return READ_MEMBER(s32, sk, OFF_SOCK_ERR);
#else
	return 0;
#endif
}

static __always_inline s32 sock_soft_error(u64 sk)
{
#ifdef OFF_SOCK_ERR_SOFT
	return READ_MEMBER(s32, sk, OFF_SOCK_ERR_SOFT);
#else
	return 0;
#endif
}

/* Local port in host byte order, 0 while none is chosen or the offset is unknown. */
static __always_inline u16 sock_port(u64 sk)
{
#ifdef OFF_SOCK_NUM
	return READ_MEMBER(u16, sk, OFF_SOCK_NUM);
#else
	return 0;
#endif
}

/* Segments sent by the socket since it was last disconnected, SYNs included. */
static __always_inline u32 sock_segs_out(u64 sk)
{
#ifdef OFF_TCP_SEGS_OUT
	return READ_MEMBER(u32, sk, OFF_TCP_SEGS_OUT);
#else
	return 0;
#endif
}

/* Retransmissions since the socket was last disconnected: in SYN_SENT, those of the SYN. The
 * kernel raises it before the tcp_retransmit_skb tracepoint. */
static __always_inline u32 sock_total_retrans(u64 sk)
{
#ifdef OFF_TCP_TOTAL_RETRANS
	return READ_MEMBER(u32, sk, OFF_TCP_TOTAL_RETRANS);
#else
	return 0;
#endif
}

/* How many SYN retransmissions keep the first interval before it doubles: the namespace's
 * tcp_syn_linear_timeouts (Linux 6.5, ccce324dabfe); kernels without it double at once. */
static __always_inline u32 sock_linear_timeouts(u64 sk)
{
#if defined(OFF_SOCK_NET) && defined(OFF_NET_SYN_LINEAR_TIMEOUTS)
	return READ_MEMBER(u8, SOCK_NET(sk), OFF_NET_SYN_LINEAR_TIMEOUTS);
#else
	return 0;
#endif
}

#endif
