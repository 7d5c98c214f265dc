/* SPDX-License-Identifier: GPL-2.0-only */
/* Exit statuses of karma(1): 0 to 123 are the guest's, and what it gives from 128 on. */
#ifndef KARMA_STATUS_H
#define KARMA_STATUS_H

#define STATUS_GUEST_MAX 123
#define STATUS_TIMEOUT 124	/* ended by --timeout */
#define STATUS_FAILURE 125	/* Karma could not do it, or failed itself */
#define STATUS_PANIC 126	/* the guest's kernel panicked or hangs */
#define STATUS_CRASH 127	/* triple fault, or an exit that Karma does not serve */
#define STATUS_SIGNAL 128	/* plus the number of the signal that ended us */

#endif
