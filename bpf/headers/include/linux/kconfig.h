/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* BCC looks for this file to decide that a kernel source tree is there. */
#ifndef _STUB_KCONFIG_H
#define _STUB_KCONFIG_H
#define CONFIG_BPF_SYSCALL 1
#endif
