/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Instruction classes, which programs compiled from C have no use for. */
