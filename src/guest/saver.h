/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A snapshot of the guest that runs, made by the supervisor and a process of its own, the saver.
 *
 * The saver copies the guest's memory while the guest runs, in rounds (karma/snapshot_memory.h), and tells the supervisor
 * when the guest is to pause and to go on.  In the last pause the guest's process saves the guest's state.  Then the guest
 * goes on, and the saver syncs all files.  The supervisor's loop serves signals and clients all the time.
 *
 * A warm image (warm.h) is made the same way, but for what it has no use for: rounds, disks, a configuration, syncs.  The
 * guest waits meanwhile in its call `checkpoint`, which a resume ends.
 *
 * What the guest's process tells is untrusted: it is read as bytes, wherever it says that they are.
 */
#ifndef KARMA_GUEST_SAVER_H
#define KARMA_GUEST_SAVER_H

#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "karma/control.h"

struct guest;

enum saver_step {
	SAVER_NONE,
	SAVER_COPIES,		/* memory; the guest runs */
	SAVER_AWAITS_PAUSE,	/* ORDER_QUIESCE or ORDER_SNAPSHOT was given */
	SAVER_WORKS,		/* the guest is paused for it */
	SAVER_SYNCS,
	SAVER_HOLDS,		/* it has ended; the guest stays paused for who asked for that */
};

struct saver {
	enum saver_step step;
	struct control_snapshot request;	/* its directory is open while there is a saver */
	pid_t pid;
	int socket;			/* to the saver; -1: there is none */
	bool image;			/* it is a warm image */
	bool last;			/* the last pause has begun, in which the state is saved */
	bool ordered;			/* an order of ours has not been served yet */
	bool was_paused;		/* by a user, before */
	bool paused;			/* for us */
	int64_t paused_at;		/* nanoseconds() */
	char why[160];			/* it failed */
	struct control_snapshots figures;
};

#define SAVER_IDLE ((struct saver){ .socket = -1, .request.directory = -1 })

/* Of struct control_ops. */
int saver_begin(struct guest *guest, const struct control_snapshot *request, const char **why);
void saver_release(struct guest *guest);

/* The guest's process has told something: if its guest is at its checkpoint, make an image, and have it go on. */
void saver_checkpoint(struct guest *guest);

/* An order of the saver's is about to be sent. */
void saver_ordering(struct guest *guest, enum order_kind kind);
/* For poll(): what the saver tells; and serve that. */
struct pollfd saver_watch(const struct guest *guest);
void saver_serve(struct guest *guest);
/* The guest's process has ended: a snapshot under way fails. */
void saver_guest_ended(struct guest *guest);

/* --- The saver's process (saver_process.c). */

enum saver_message_kind {
	SAVER_PAUSE,	/* have the guest pause: SAVER_PAUSED comes back */
	SAVER_SAVE,	/* and save its state, likewise */
	SAVER_PAUSED,	/* from the supervisor */
	SAVER_RESUME,	/* the guest may go on */
	SAVER_SYNCED,	/* all is done */
	SAVER_FAILED,	/* by error, a negative errno; messages are printed */
};

/* Each a packet on the socket. */
struct saver_message {
	uint32_t kind;		/* enum saver_message_kind */
	int32_t error;
	uint64_t bytes;		/* that the files take */
	uint32_t rounds;
};

struct snapshot_memory;

/* It ends there.  The copy of memory is open. */
_Noreturn void saver_run(struct guest *guest, struct snapshot_memory *memory, int socket);

#endif
