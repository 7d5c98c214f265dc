/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Split virtqueues (virtio 1.2, section 2.7), the device's side, with indirect descriptors and
 * event indexes.
 *
 * The rings and all that they point to belong to a hostile guest: each field is read once, and
 * checked, before it is used.  A ring that breaks the specification makes the queue broken
 * until its device is reset; nothing else happens.
 *
 * The queue's lock is held in every call here.
 */
#ifndef KARMA_VIRTQ_H
#define KARMA_VIRTQ_H

#include <linux/virtio_ring.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "karma/abi.h"
#include "karma/io.h"
#include "karma/iov.h"
#include "karma/memory.h"

struct virtio_device;
struct snapshot_writer;
struct snapshot_reader;

/*
 * Interrupt coalescing: no interrupt while the backlog is so many times the chains that were completed
 * since the last one.  A completion is told late by an eighth of the time that the backlog takes.
 */
#define VIRTQ_COALESCE_BACKLOG 8u

struct virtq {
	/* Fixed by the device and the monitor. */
	struct virtio_device *device;
	unsigned index;
	pthread_mutex_t *lock;	/* the device's, or its own if it shares nothing with the others */
	pthread_mutex_t own_lock;
	const struct guest_memory *memory;
	uint16_t size_max;	/* entries, a power of 2 */
	const char *name;	/* for messages and statistics */
	/* Sends an interrupt to the guest.  Any thread. */
	void (*send)(void *context, const struct karma_interrupt *interrupt);
	void *send_context;

	/* Set up by the guest, checked; NULL and 0 while the queue is not enabled. */
	struct karma_interrupt interrupt;
	uint16_t size;
	bool indirect, event_idx;	/* features accepted */
	struct vring_desc *descriptors;
	struct vring_avail *avail;
	struct vring_used *used;

	/* The indexes of the device. */
	uint16_t next_avail, next_used;
	uint16_t signalled_used;	/* next_used when the guest last was interrupted */
	const char *broken;		/* why, or NULL */
	/*
	 * Set by the device while it serves one chain after the other without notifications: interrupts
	 * are coalesced by VIRTQ_COALESCE_BACKLOG.
	 */
	bool coalescing;

	struct io_op reschedule_op;
	bool rescheduled;	/* the I/O thread is going to call notify() */
	struct io_deferred deferred_interrupt;
	bool interrupt_deferred;	/* until all completions of this run of the ring are done */

	/* Statistics, never reset; any thread may read them (count_of()). */
	uint64_t notifications, interrupts, answers, chains;
};

/*
 * Bytes of a chain, of both kinds together: 2^32 would be allowed (virtio 1.2, section 2.7.5.2), but the
 * length that goes back for it has 32 bits.
 */
#define VIRTQ_CHAIN_BYTES_MAX UINT32_MAX

/* A descriptor chain: first what the device reads, then what it writes. */
struct virtq_chain {
	uint16_t head;
	struct iovec *iov;	/* the caller's; entries of no length are left out */
	unsigned out_count;	/* iov[0 .. out_count) is readable */
	unsigned in_count;	/* iov[out_count .. out_count + in_count) is writable */
	size_t out_bytes, in_bytes;	/* VIRTQ_CHAIN_BYTES_MAX together, at most */
};

/*
 * Check the rings that the guest gives and enable the queue.  0; -EINVAL for a bad size,
 * alignment or overlapping areas; -EFAULT where an area is not RAM.
 */
int virtq_enable(struct virtq *queue, const struct karma_queue_setup *setup, uint64_t features);

/* Back to the state before virtq_enable(). */
void virtq_reset(struct virtq *queue);

/*
 * Save the state of a queue whose device is quiesced.  The chains that the device has taken and not given back
 * are the last ones that it took, in order: who restores the queue takes them again.
 */
void virtq_save(const struct virtq *queue, struct snapshot_writer *to);
/* Restore what virtq_save() wrote, or anything else: NULL, or what is wrong with it. */
const char *virtq_restore(struct virtq *queue, uint64_t features, struct snapshot_reader *from);

/* Whether a guest may ask for that interrupt: a message to a local APIC, or none (karma/abi.h). */
bool virtq_interrupt_valid(const struct karma_interrupt *interrupt);

/*
 * Take the next chain, into iov[capacity].  1 if there was one, 0 if there is none or the
 * queue is not enabled, -EPROTO if the queue is broken (queue->broken says why).
 */
int virtq_pop(struct virtq *queue, struct iovec *iov, unsigned capacity, struct virtq_chain *chain);

/* Give a chain back with the number of bytes written to it.  Sends no interrupt. */
void virtq_push(struct virtq *queue, uint16_t head, uint32_t written);

/* The same for several chains, which the guest sees all at once. */
void virtq_push_all(struct virtq *queue, const struct vring_used_elem *elements, unsigned count);

/*
 * From here to virtq_end_answer() the calling thread sends the guest no interrupt for this queue: its
 * notification is answered instead.  Only one queue of a thread at a time.
 */
void virtq_begin_answer(struct virtq *queue);
/* Whether an interrupt would have been sent.  Without the lock. */
bool virtq_end_answer(void);

/* Interrupt the guest, unless it suppresses the interrupt for what was pushed. */
void virtq_interrupt(struct virtq *queue);
/* Whether that would send one now. */
bool virtq_wants_interrupt(const struct virtq *queue);

/* Notification suppression: the guest need not notify while the device serves the queue by itself. */
void virtq_disable_notify(struct virtq *queue);

/* Enable notifications again; true if chains have come meanwhile, and must be popped. */
bool virtq_enable_notify(struct virtq *queue);

/*
 * Ask for one notification when so many chains wait, by the event index; true if they do already.
 * Without event indexes there is none: the caller has to have a timer in any case.
 */
bool virtq_notify_at(struct virtq *queue, unsigned waiting);

#endif
