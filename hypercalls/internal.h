/* SPDX-License-Identifier: GPL-2.0-only */
/* The functions behind the calls: one for each entry of KARMA_CALLS. */
#ifndef KARMA_HYPERCALLS_INTERNAL_H
#define KARMA_HYPERCALLS_INTERNAL_H

#include "karma/machine.h"

#define KARMA_CALL_DECLARE(number, name, argument, value, text) \
	int64_t call_##name(struct machine *machine, uint32_t argument_, uint64_t value_);
KARMA_CALLS(KARMA_CALL_DECLARE)
#undef KARMA_CALL_DECLARE

/* Tell the monitor's other side what the guest has said of being ready. */
void machine_tell_ready(struct machine *machine);

#endif
