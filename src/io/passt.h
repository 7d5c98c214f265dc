/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the sources of passt share: the network's backend, and the process behind it.
 *
 * passt.c          the backend: frames, and its life cycle
 * passt_process.c  the process: start, last message, end
 */
#ifndef KARMA_IO_PASST_H
#define KARMA_IO_PASST_H

#include "karma/net.h"
#include "karma/util.h"

#define PASST_LENGTH_BYTES 4u		/* in front of each frame on the socket: its length, big endian */
#define PASST_BUFFER_BYTES (128 * KIB)	/* more than one frame of any length */

/*
 * Frames in parts.  In memory that the guests' processes share, so passt_start() does not trust it.
 */
struct passt_shared {
	size_t in_start, in_end;
	size_t out_start, out_end;
	uint8_t in[PASST_BUFFER_BYTES], out[PASST_BUFFER_BYTES];
};

struct passt {
	struct net net;		/* queues[0].fd is our end of the socket pair */
	pid_t pid;		/* 0: none */
	int stderr_fd;		/* the pipe that its messages come by; -1: none */
	struct passt_shared *shared;
};

/*
 * In the supervisor: start passt, and wait until it is ready.  Returns 0, or a negative errno; with
 * a message printed if that is -ECONNREFUSED.  The caller closes what is open and reaps it, in any
 * case.
 */
int passt_spawn(struct passt *passt, const struct net_options *options);

/* Its last message, as printable text. */
void passt_last_message(struct passt *passt, char *message, size_t size);

/* In the supervisor: end it if it has not ended, and say how it did. */
void passt_reap(struct passt *passt, char *how, size_t size);

#endif
