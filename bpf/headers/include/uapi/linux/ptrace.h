/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Registers at a kprobe, in the order of the kernel's ABI for each architecture. */
#ifndef _STUB_PTRACE_H
#define _STUB_PTRACE_H

#if defined(__TARGET_ARCH_arm64) || defined(__aarch64__)
struct user_pt_regs {
	unsigned long long regs[31];
	unsigned long long sp;
	unsigned long long pc;
	unsigned long long pstate;
};
struct pt_regs {
	struct user_pt_regs user_regs;
	unsigned long long orig_x0;
};
#else
struct pt_regs {
	unsigned long r15, r14, r13, r12, bp, bx;
	unsigned long r11, r10, r9, r8, ax, cx, dx, si, di;
	unsigned long orig_ax, ip, cs, flags, sp, ss;
};
#endif

#endif
