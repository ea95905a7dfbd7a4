// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Numbers of the kernel's ABI that our programs use, so that no kernel header is needed. */
#ifndef SYNSENT_TCP_H
#define SYNSENT_TCP_H

#ifndef __always_inline
#define __always_inline inline __attribute__((always_inline))
#endif

#define AF_INET 2
#define AF_INET6 10
#define IPPROTO_TCP 6

/* enum of include/net/tcp_states.h */
#define TCP_ESTABLISHED 1
#define TCP_SYN_SENT 2
#define TCP_SYN_RECV 3
#define TCP_CLOSE 7

#endif
