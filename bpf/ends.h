// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Source and destination of a socket, as those of its packets are told. */
#ifndef SYNSENT_ENDS_H
#define SYNSENT_ENDS_H

/* An IPv6 socket that speaks IPv4 has a mapped destination, and its source in the IPv4 member. */
static __always_inline void ends_of_socket(u64 sk, struct ends *ends)
{
	ends->sport = bpf_ntohs(READ_MEMBER(u16, sk, OFF_INET_SPORT));
	ends->dport = bpf_ntohs(READ_MEMBER(u16, sk, OFF_SOCK_DPORT));
	if (READ_MEMBER(u16, sk, OFF_SOCK_FAMILY) == AF_INET6) {
		bpf_probe_read_kernel(ends->daddr, 16, (void *)(sk + OFF_SOCK_V6_DADDR));
		if (ends->daddr[0] || ends->daddr[1] || ends->daddr[2] != bpf_htonl(0xffff)) {
			bpf_probe_read_kernel(ends->saddr, 16, (void *)(sk + OFF_SOCK_V6_RCV_SADDR));
			return;
		}
	}
	copy_v4_address(ends->saddr, READ_MEMBER(u32, sk, OFF_INET_SADDR));
	copy_v4_address(ends->daddr, READ_MEMBER(u32, sk, OFF_SOCK_DADDR));
}

#endif
