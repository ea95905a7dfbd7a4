// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Where the SYNs of stuck attempts go on this node: which of them, or of the answers to them, the
 * kernel dropped, which devices they were handed to, and whether a RST ended them.
 *
 * Attached only while something is stuck: kfree_skb is passed by every packet that the kernel drops,
 * net_dev_start_xmit by every one that it sends. Nobody is woken; user space reads the maps.
 *
 * A packet is an attempt's if it has the attempt's sequence number (or acknowledges it) and one more
 * thing of it: its source, its destination, or, where NAT has replaced both, either of them in the
 * packet's connection tracking entry, or what that entry has taught us to look for. By its number
 * alone, one foreign SYN in 4 billion would be taken for the SYN of a given attempt; with the rest,
 * it must also share an end with exactly that attempt.
 */
#include <linux/types.h>
#include "tcp.h"
#include "count.h"
#include "read.h"
#include "drops.h"
#include "packet.h"
#include "ends.h"

/* Attempts to look for, by the sequence number of their SYN. Full: user space counts the rest. */
BPF_HASH(watched, u32, struct watched, MAX_WATCHED);

/* Full: counted in `no_room`. */
BPF_HASH(drops, struct drop_key, struct drop, MAX_ENTRIES);
BPF_HASH(handed, struct handed_key, struct handed, MAX_ENTRIES);

/* When the RST came that ended an attempt, by its watch (CLOCK_MONOTONIC). Full: counted in
 * `no_room`. */
BPF_HASH(resets, u32, u64, MAX_WATCHED);

BPF_PERCPU_ARRAY(counters, struct drop_counters, 1);

static __always_inline struct drop_counters *this_cpu(void)
{
	int zero = 0;

	return counters.lookup(&zero);
}

/* Whether source or destination is the same, and known. */
static __always_inline bool shares_an_end(const struct ends *one, const struct ends *other)
{
	if (one->sport && one->sport == other->sport && same_address(one->saddr, other->saddr))
		return true;
	return one->dport && one->dport == other->dport && same_address(one->daddr, other->daddr);
}

static __always_inline void turn_round(struct ends *ends)
{
	struct ends before = *ends;

	copy_address(ends->saddr, before.daddr);
	copy_address(ends->daddr, before.saddr);
	ends->sport = before.dport;
	ends->dport = before.sport;
}

/* The connection's first packet as it was before NAT, from the packet's conntrack entry. False: it
 * has none, or this kernel has no connection tracking. */
static __always_inline bool ends_before_nat(u64 skb, bool v4, struct ends *ends)
{
#ifdef CONNTRACK
	/* The lowest bits say how the packet relates to the entry (NFCT_PTRMASK). */
	u64 entry = READ_MEMBER(u64, skb, OFF_SKB_NFCT) & ~7ULL;
	u64 tuple = entry + OFF_CT_TUPLES + OFF_CT_TUPLE;

	if (!entry)
		return false;
	bpf_probe_read_kernel(ends->saddr, 16, (void *)(tuple + OFF_CT_SOURCE));
	bpf_probe_read_kernel(ends->daddr, 16, (void *)(tuple + OFF_CT_DESTINATION));
	if (v4) {
		copy_v4_address(ends->saddr, ends->saddr[0]);
		copy_v4_address(ends->daddr, ends->daddr[0]);
	}
	ends->sport = bpf_ntohs(READ_MEMBER(u16, tuple, OFF_CT_SOURCE_PORT));
	ends->dport = bpf_ntohs(READ_MEMBER(u16, tuple, OFF_CT_DESTINATION_PORT));
	return true;
#else
	return false;
#endif
}

/* The number of the attempt that a packet belongs to, 0 if to none that is watched. */
static __always_inline u32 watch_of(u64 skb, const struct packet *packet, u8 direction)
{
	u32 isn = direction == DIRECTION_SYN ? tcp_seq(packet) : tcp_ack(packet) - 1;
	struct watched *attempt = watched.lookup(&isn);
	struct ends ends = {}, before = {};

	if (!attempt)
		return 0;
	ends_of(packet, &ends);
	if (direction == DIRECTION_REPLY)
		turn_round(&ends);
	if (shares_an_end(&ends, &attempt->socket) || shares_an_end(&ends, &attempt->translated))
		return attempt->watch;
	if (ends_before_nat(skb, is_v4(packet), &before) && shares_an_end(&before, &attempt->socket)) {
		/* In the next namespace, nobody knows what they were. */
		attempt->translated = ends;
		return attempt->watch;
	}
	COUNT(mismatched);
	return 0;
}

/* Which packet of a handshake it is, 0: neither. What answers a SYN has SYN or RST and acknowledges
 * it; a bare ACK does not know this SYN's number. */
static __always_inline u8 direction_of(u8 flags)
{
	if (!(flags & TCP_FLAG_ACK))
		return flags & TCP_FLAG_SYN ? DIRECTION_SYN : 0;
	return flags & (TCP_FLAG_SYN | TCP_FLAG_RST) ? DIRECTION_REPLY : 0;
}

static __always_inline u32 device_netns(u64 device)
{
	return READ_MEMBER(u32, READ_MEMBER(u64, device, OFF_DEV_NET), OFF_NET_INUM);
}

static __always_inline void count_drop(struct drop_key *key, u64 device)
{
	struct drop fresh = {.packets = 1};
	struct drop *known = drops.lookup(key);

	fresh.last_ns = bpf_ktime_get_ns();
	if (!known) {
		fresh.first_ns = fresh.last_ns;
		if (device)
			bpf_probe_read_kernel(fresh.device, DEVICE_LEN, (void *)(device + OFF_DEV_NAME));
		if (!drops.insert(key, &fresh))
			return;
		/* Another CPU was faster, or there is no room. */
		known = drops.lookup(key);
	}
	if (!known) {
		COUNT(no_room);
		return;
	}
	known->last_ns = fresh.last_ns;
	__sync_fetch_and_add(&known->packets, 1);
}

/* skb:kfree_skb (skb, location; since Linux 5.17 reason, c504e5c2f964; since 6.11 the receiving
 * socket, c53795d48ee8). */
int on_kfree_skb(struct bpf_raw_tracepoint_args *ctx)
{
	u64 skb = ctx->args[0];
	struct packet packet;
	struct drop_key key = {};
	u64 device, sk;

	if (!read_packet(skb, &packet))
		return 0;
	key.flags = tcp_flags(&packet);
	key.direction = direction_of(key.flags);
	if (!key.direction)
		return 0;
	key.watch = watch_of(skb, &packet, key.direction);
	if (!key.watch)
		return 0;

	key.location = ctx->args[1];
#ifdef KFREE_SKB_REASON
	key.reason = ctx->args[2];
#endif
	device = READ_MEMBER(u64, skb, OFF_SKB_DEV);
	if (device) {
		key.ifindex = READ_MEMBER(u32, device, OFF_DEV_IFINDEX);
		key.netns = device_netns(device);
	} else {
		sk = READ_MEMBER(u64, skb, OFF_SKB_SK);
#ifdef KFREE_SKB_SOCKET
		if (!sk)
			sk = ctx->args[3];
#endif
		if (sk)
			key.netns = sock_netns(sk);
	}
	count_drop(&key, device);
	return 0;
}

static __always_inline void count_handed(struct handed_key *key, u64 device)
{
	struct handed fresh = {.packets = 1};
	struct handed *known = handed.lookup(key);

	fresh.last_ns = bpf_ktime_get_ns();
	if (!known) {
		bpf_probe_read_kernel(fresh.device, DEVICE_LEN, (void *)(device + OFF_DEV_NAME));
		if (!handed.insert(key, &fresh))
			return;
		known = handed.lookup(key);
	}
	if (!known) {
		COUNT(no_room);
		return;
	}
	known->last_ns = fresh.last_ns;
	__sync_fetch_and_add(&known->packets, 1);
}

/* net:net_dev_start_xmit (skb, device): the driver gets the packet next. */
int on_start_xmit(struct bpf_raw_tracepoint_args *ctx)
{
	u64 skb = ctx->args[0], device = ctx->args[1];
	struct packet packet;
	struct handed_key key = {};

	if (!read_packet(skb, &packet) || direction_of(tcp_flags(&packet)) != DIRECTION_SYN)
		return 0;
	key.watch = watch_of(skb, &packet, DIRECTION_SYN);
	if (!key.watch)
		return 0;
	key.ifindex = READ_MEMBER(u32, device, OFF_DEV_IFINDEX);
	key.netns = device_netns(device);
	count_handed(&key, device);
	return 0;
}

/* tcp:tcp_receive_reset (socket): passed by whoever gets a RST that TCP takes for its own, before the
 * socket's state changes. In SYN_SENT such a RST acknowledges the SYN. */
int on_receive_reset(struct bpf_raw_tracepoint_args *ctx)
{
	u64 sk = ctx->args[0], now = bpf_ktime_get_ns();
	struct watched *attempt;
	struct ends ends = {};
	u32 isn, watch;

	if (READ_MEMBER(u8, sk, OFF_SOCK_STATE) != TCP_SYN_SENT)
		return 0;
	isn = READ_MEMBER(u32, sk, OFF_TCP_SND_UNA);
	attempt = watched.lookup(&isn);
	if (!attempt)
		return 0;
	ends_of_socket(sk, &ends);
	if (!shares_an_end(&ends, &attempt->socket)) {
		COUNT(mismatched);
		return 0;
	}
	watch = attempt->watch;
	if (resets.update(&watch, &now))
		COUNT(no_room);
	return 0;
}
