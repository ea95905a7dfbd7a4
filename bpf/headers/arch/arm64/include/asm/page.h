/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Included by BCC's helpers.h, used by none of our programs. */
