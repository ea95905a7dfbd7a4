// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Stops the compiler where a struct and its mirror in user space differ. The loader passes the
 * mirror's sizes and offsets as macros (wire.py: layout_macros). */
#ifndef SYNSENT_SAME_H
#define SYNSENT_SAME_H

#define SAME_SIZE(name) _Static_assert(sizeof(struct name) == MIRROR_SIZE_##name, MIRROR ": size of " #name)
#define SAME_OFFSET(name, member)                                                                                      \
	_Static_assert(__builtin_offsetof(struct name, member) == MIRROR_##name##_##member,                            \
		       MIRROR ": offset of " #name "." #member)

#endif
