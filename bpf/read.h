// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Reads of kernel objects at the offsets that user space took from the kernel's BTF (-DOFF_...). */
#ifndef SYNSENT_READ_H
#define SYNSENT_READ_H

/* 0 where the address cannot be read. */
#define READ_MEMBER(type, base, offset)                                                                                \
	({                                                                                                             \
		type member_ = 0;                                                                                      \
		bpf_probe_read_kernel(&member_, sizeof(member_), (void *)((u64)(base) + (offset)));                    \
		member_;                                                                                               \
	})

/* Inode of the socket's network namespace. Right for every kind of struct sock_common. */
static __always_inline u32 sock_netns(u64 sk)
{
	return READ_MEMBER(u32, READ_MEMBER(u64, sk, OFF_SOCK_NET), OFF_NET_INUM);
}

#endif
