// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* The IP and TCP headers of a packet, read from its sk_buff. */
#ifndef SYNSENT_PACKET_H
#define SYNSENT_PACKET_H

#define IPPROTO_IPIP 4
#define IPPROTO_UDP 17
#define IPPROTO_IPV6 41
#define IPPROTO_GRE 47

#define TCP_FLAG_SYN 0x02
#define TCP_FLAG_RST 0x04
#define TCP_FLAG_ACK 0x10

/* Offset of a fragment, in network byte order: all but the first have no TCP header. */
#define FRAGMENT_OFFSET bpf_htons(0x1fff)

struct tcp_header {
	u16 sport;
	u16 dport;
	u32 seq;
	u32 ack;
	u8 length;
	u8 flags;
	u16 window;
	u32 checksum_and_urgent;
};

struct ipv4_header {
	u8 version_and_length;
	u8 service;
	u16 total;
	u16 id;
	u16 fragment;
	u8 ttl;
	u8 protocol;
	u16 checksum;
	u32 saddr;
	u32 daddr;
};

struct ipv6_header {
	u32 version;
	u16 payload;
	u8 protocol;
	u8 hop_limit;
	u32 saddr[4];
	u32 daddr[4];
};

struct packet {
	/* As it lies in memory. One read fetches both headers of nearly every packet there is. */
	union {
		struct {
			struct ipv4_header ip;
			struct tcp_header tcp;
		} v4;
		struct {
			struct ipv6_header ip;
			struct tcp_header tcp;
		} v6;
	};
};

static __always_inline bool is_v4(const struct packet *packet)
{
	return packet->v4.ip.version_and_length >> 4 == 4;
}

/* Reads the headers at `at`; the protocol behind the IP header, 0 where that is not IP. Extension
 * headers of IPv6 are not followed: no SYN or its answer has one, but for what somebody crafted. */
static __always_inline u8 read_headers(u64 at, struct packet *packet)
{
	u8 words;

	/* Beyond a shorter packet lies its buffer's struct skb_shared_info: it can be read too. */
	if (bpf_probe_read_kernel(packet, sizeof(*packet), (void *)at))
		return 0;
	if (!is_v4(packet))
		return packet->v4.ip.version_and_length >> 4 == 6 ? packet->v6.ip.protocol : 0;
	if (packet->v4.ip.fragment & FRAGMENT_OFFSET)
		return 0;
	words = packet->v4.ip.version_and_length & 0xf;
	if (words > 5)
		bpf_probe_read_kernel(&packet->v4.tcp, sizeof(packet->v4.tcp), (void *)(at + 4 * words));
	return packet->v4.ip.protocol;
}

static __always_inline bool is_tunnel(u8 protocol)
{
	return protocol == IPPROTO_UDP || protocol == IPPROTO_IPIP || protocol == IPPROTO_IPV6 ||
	       protocol == IPPROTO_GRE;
}

/* The part of struct sk_buff that says where the headers are: one read instead of three, on a path
 * that every packet takes. The order is that of every kernel with BTF. */
#define SKB_PART (OFF_SKB_INNER_NETWORK_HEADER & ~7)
#define SKB_PART_SIZE (OFF_SKB_HEAD + 8 - SKB_PART)
#define SKB_PART_MEMBER(type, part, offset) (((type *)(part))[((offset) - SKB_PART) / sizeof(type)])

_Static_assert(OFF_SKB_INNER_NETWORK_HEADER < OFF_SKB_NETWORK_HEADER && OFF_SKB_NETWORK_HEADER < OFF_SKB_HEAD &&
		       SKB_PART_SIZE <= 64,
	       "struct sk_buff is laid out otherwise");

/* False: it is no TCP packet. transport_header is not used, it need not be set. An overlay's packet
 * (VXLAN, Geneve, IP in IP) is looked into: who wrapped it left the inner header's place. */
static __always_inline bool read_packet(u64 skb, struct packet *packet)
{
	u64 part[SKB_PART_SIZE / 8];
	u16 outer, inner;
	u64 head;
	u8 protocol;

	if (bpf_probe_read_kernel(part, sizeof(part), (void *)(skb + SKB_PART)))
		return false;
	head = SKB_PART_MEMBER(u64, part, OFF_SKB_HEAD);
	outer = SKB_PART_MEMBER(u16, part, OFF_SKB_NETWORK_HEADER);
	protocol = read_headers(head + outer, packet);
	if (protocol == IPPROTO_TCP)
		return true;
	if (!is_tunnel(protocol))
		return false;
	inner = SKB_PART_MEMBER(u16, part, OFF_SKB_INNER_NETWORK_HEADER);
	return inner > outer && read_headers(head + inner, packet) == IPPROTO_TCP;
}

static __always_inline u8 tcp_flags(const struct packet *packet)
{
	return is_v4(packet) ? packet->v4.tcp.flags : packet->v6.tcp.flags;
}

static __always_inline u32 tcp_seq(const struct packet *packet)
{
	return bpf_ntohl(is_v4(packet) ? packet->v4.tcp.seq : packet->v6.tcp.seq);
}

static __always_inline u32 tcp_ack(const struct packet *packet)
{
	return bpf_ntohl(is_v4(packet) ? packet->v4.tcp.ack : packet->v6.tcp.ack);
}

static __always_inline void copy_address(u32 *to, const u32 *from)
{
	to[0] = from[0];
	to[1] = from[1];
	to[2] = from[2];
	to[3] = from[3];
}

static __always_inline void copy_v4_address(u32 *to, u32 from)
{
	to[0] = 0;
	to[1] = 0;
	to[2] = bpf_htonl(0xffff);
	to[3] = from;
}

static __always_inline bool same_address(const u32 *one, const u32 *other)
{
	return one[0] == other[0] && one[1] == other[1] && one[2] == other[2] && one[3] == other[3];
}

static __always_inline void ends_of(const struct packet *packet, struct ends *ends)
{
	if (is_v4(packet)) {
		copy_v4_address(ends->saddr, packet->v4.ip.saddr);
		copy_v4_address(ends->daddr, packet->v4.ip.daddr);
		ends->sport = bpf_ntohs(packet->v4.tcp.sport);
		ends->dport = bpf_ntohs(packet->v4.tcp.dport);
	} else {
		copy_address(ends->saddr, packet->v6.ip.saddr);
		copy_address(ends->daddr, packet->v6.ip.daddr);
		ends->sport = bpf_ntohs(packet->v6.tcp.sport);
		ends->dport = bpf_ntohs(packet->v6.tcp.dport);
	}
}

#endif
