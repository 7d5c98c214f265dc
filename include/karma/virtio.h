/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A virtio 1.2 device behind Karma's transport: its life cycle, the state that the transport calls
 * change, and the operations by which a device takes part in both.
 *
 * Locking: vCPU threads and the I/O thread share a device.  The lock of a queue is held around every
 * use of it and in notify() and serve(); it is the device's own lock, unless virtio_separate_queues()
 * gave each queue one.  All locks of the device are held in every other operation that does not say
 * otherwise.  A device knows its queues and its backend, and neither KVM nor the command line.
 *
 * Life cycle: one thread, the one that makes and ends the VM, calls virtio_start(), virtio_pause(),
 * virtio_resume() and virtio_end(), without a lock.  Each checks the state that it comes from
 * (karma/debug.h) and calls the device's operation of that name, if it has one:
 *
 *                    .--- virtio_resume() <--.
 *                    v                       |
 *     created --> running --> virtio_pause() --> paused
 *                    |                       |
 *                    '---> virtio_end() <----'   ending, for ever
 *
 * A reset by the driver leaves this state as it is, and may happen in any but the first.  A device that is
 * restored from a snapshot is created and has a driver: its start is that of the driver, too.
 *
 * A device is quiesced when it is paused and drained: it takes no chain from a queue and has no request
 * in flight, so nothing of it changes until it is resumed but what the monitor itself changes in its
 * configuration, such as the size of a disk.
 */
#ifndef KARMA_VIRTIO_H
#define KARMA_VIRTIO_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "karma/io.h"
#include "karma/latency.h"
#include "karma/virtq.h"

struct virtio_device;

struct snapshot_writer;
struct snapshot_reader;

enum virtio_state {
	VIRTIO_CREATED,		/* no vCPU has run */
	VIRTIO_RUNNING,
	VIRTIO_PAUSED,		/* no vCPU runs; takes no chain, and requests in flight complete */
	VIRTIO_ENDING,		/* no vCPU will run any more; requests in flight complete soon */
};

/* An operation that is NULL does nothing, unless it says otherwise. */
struct virtio_device_ops {
	uint32_t device_id;	/* virtio 1.2, section 5 */

	/* --- What the driver does. */

	/* The driver set DRIVER_OK: look at the queues from now on. */
	void (*driver_ok)(struct virtio_device *device);

	/*
	 * There are new chains in a queue that is enabled.  Takes a bounded number of them, however
	 * fast the guest adds more, and calls virtio_reschedule() if it stopped for that.  On the vCPU that
	 * notifies, or on the I/O thread.  NULL: virtio_serve_queue().
	 */
	void (*notify)(struct virtio_device *device, unsigned queue);

	/*
	 * For virtio_serve_queue(): do at once what a chain asks for, and return how many bytes were
	 * written to it.
	 */
	uint32_t (*serve)(
		struct virtio_device *device, unsigned queue, const struct virtq_chain *chain);

	/*
	 * The driver resets, while the device runs or is paused: forget what was taken from the queues
	 * and is not in flight.  Requests in flight end by virtio_request_done(), and the reset is over
	 * after the last.
	 */
	void (*reset)(struct virtio_device *device);

	/* The driver has given the queue another message for its interrupts.  With the queue's lock alone. */
	void (*set_interrupt)(struct virtio_device *device, unsigned queue);

	/* The driver wrote [offset, offset + length) of the configuration.  NULL: none is writable. */
	int (*write_config)(
		struct virtio_device *device, size_t offset, const void *from, size_t length);

	/* --- The life cycle.  The device's create function, in karma/devices.h, comes first. */

	/* The first vCPU is about to run.  Nothing is under way.  resume() follows if the device is restored. */
	void (*start)(struct virtio_device *device);

	/*
	 * Stop what takes chains by itself.  No vCPU runs; timers and requests in flight may be under
	 * way, and what they call finds that virtio_running() is false.
	 */
	void (*pause)(struct virtio_device *device);

	/*
	 * Go on: ask the backend for all that it may have told during the pause.  No vCPU runs yet, and
	 * requests that were in flight may still be.  Afterwards the I/O thread serves each queue that
	 * is enabled, as if it had been notified.
	 */
	void (*resume)(struct virtio_device *device);

	/* Why the device can't be saved now, as the end of a sentence, or NULL.  It is quiesced. */
	const char *(*unsavable)(const struct virtio_device *device);

	/*
	 * Write the device's own state, without that of the transport, the queues and the configuration.  The
	 * device is quiesced, and goes on later as if it had not been saved.
	 */
	void (*save)(const struct virtio_device *device, struct snapshot_writer *to);

	/*
	 * Take over what save() wrote in another process, which may be wrong in any way.  The device was
	 * created as that one was, its transport and queues are restored, and it is not started: at its start
	 * resume() follows if it has a driver.  Chains that were taken and not given back are taken again.  What
	 * of the configuration differs from the saved one, the guest is told afterwards.  0 or a negative errno
	 * with a message printed: the device is of no use then.  There if save() is.
	 */
	int (*restore)(struct virtio_device *device, struct snapshot_reader *from);

	/*
	 * The guest has ended, running or paused: hurry requests in flight, and start no wait that time
	 * alone ends.  Without a lock.
	 */
	void (*end)(struct virtio_device *device);

	/*
	 * Free what the device owns, itself included.  In any state, without a lock, when no other thread
	 * uses it and nothing in flight can complete any more: it is drained, or its ring is gone.  Not
	 * NULL.
	 */
	void (*release)(struct virtio_device *device);

	/* --- What the user does.  Without a lock, in any state, one thread at a time. */

	/* The size of its backend may have changed: measure it, and tell the guest. */
	void (*measure)(struct virtio_device *device);

	/* Bring counters and latencies up to date that are kept apart for each queue. */
	void (*update_counters)(struct virtio_device *device);
};

/* What a device counts beside its queues, for statistics; count_of() reads it.  One without a name is none. */
struct virtio_counter {
	const char *name;
	uint64_t value;
};

/* ... and how long requests of a kind took. */
struct virtio_latency {
	const char *name;
	struct latency latency;
};

struct virtio_device {
	const struct virtio_device_ops *ops;
	char name[16];			/* "vda", "console", for messages and statistics */
	uint64_t offered;		/* features, with those of the ring */
	const void *config;		/* the configuration space, little endian */
	size_t config_size;
	struct virtq *queues;
	unsigned queue_count;
	const struct virtio_counter *counters;
	unsigned counter_count;
	const struct virtio_latency *latencies;
	unsigned latency_count;

	unsigned in_flight_max;		/* requests that its backend may hold in io_uring; 0: none */

	pthread_mutex_t lock;
	/* Changed with all locks held, or atomically; read with any lock. */
	uint64_t accepted;
	_Atomic uint8_t status;		/* virtio 1.2, section 2.1 */
	_Atomic uint32_t generation;	/* of the configuration */
	_Atomic(enum virtio_state) state;
	bool resetting;
	/* Requests that the backend holds, timers, and calls of notify() that are due. */
	_Atomic unsigned in_flight;
	struct io_op reset_op;

	_Atomic unsigned errors_logged;	/* messages about broken queues */

	struct io_ring *ring;		/* the main one */

	/* The transport's end of a configuration change: tells the guest. */
	void (*changed)(void *context, struct virtio_device *device);
	void *changed_context;
};

/* What every device is made with; both outlive it. */
struct virtio_environment {
	const struct guest_memory *memory;
	struct io_ring *ring;
};

/*
 * Allocate a device of so many bytes, zeroed, which begins with its struct virtio_device, with its
 * queues behind it, and fill in the common part; the device sets the names of its queues.  NULL if memory
 * is short.  virtio_device_free() undoes it, and may be a device's release operation.
 */
void *virtio_device_create(size_t bytes, const struct virtio_device_ops *ops, const char *name,
	uint64_t features, unsigned queue_count, uint16_t queue_size,
	const struct virtio_environment *environment);
void virtio_device_free(struct virtio_device *device);

/* The same for a device that has its memory and its queues, zeroed. */
void virtio_device_init(struct virtio_device *device, const struct virtio_device_ops *ops,
	const char *name, uint64_t features, struct virtq *queues, unsigned queue_count,
	uint16_t queue_size, const struct virtio_environment *environment);
void virtio_device_destroy(struct virtio_device *device);

/* Have statistics tell these counters, one for each name; a counter without a name is not told. */
void virtio_set_counters(struct virtio_device *device, struct virtio_counter *counters,
	const char *const *names, unsigned count);

/* Give each queue a lock of its own, for a device whose queues have no state in common. */
void virtio_separate_queues(struct virtio_device *device);

/* All of its locks, for a change of what they guard together. */
void virtio_lock(struct virtio_device *device);
void virtio_unlock(struct virtio_device *device);

/* --- The life cycle, as told above. */

/* Created -> running, before the first vCPU runs; of a device that is restored, after virtio_restore(). */
void virtio_start(struct virtio_device *device);

/*
 * Running -> paused.  No vCPU runs.  Interrupts that were coalesced are sent.  Requests in flight
 * complete, with their interrupts: virtio_drain() waits for that.
 */
void virtio_pause(struct virtio_device *device);

/* Paused -> running.  No vCPU runs yet. */
void virtio_resume(struct virtio_device *device);

/*
 * Running or paused -> ending, and drain.  No vCPU runs any more.  Chains that the driver has notified of
 * may still be served; requests that a limit holds back stay undone.
 */
void virtio_end(struct virtio_device *device);

/*
 * Wait until the device has no request in flight, no interrupt to send for one, and no reset that waits for
 * one.  It is paused or ending, and the I/O thread runs.
 */
void virtio_drain(struct virtio_device *device);
/* The same for a time at most, in milliseconds.  False: it is not drained. */
bool virtio_drain_within(struct virtio_device *device, unsigned milliseconds);

/* --- Snapshots (karma/snapshot.h).  The number of a device is that by which its guest knows it. */

/*
 * Save the state of a quiesced device, which goes on later as if it had not been saved.  0, or -ENOTSUP with a
 * message printed if it can't be saved.
 */
int virtio_save(struct virtio_device *device, unsigned number, struct snapshot_writer *to);
/*
 * Restore a device that was created and not started; it is machine_add()ed.  0, or a negative errno with a message
 * printed: release it then.
 */
int virtio_restore(struct virtio_device *device, unsigned number, struct snapshot_reader *from);

/* --- The transport. */

/* What the transport calls do; the caller holds no lock.  0 or above, or a negative errno. */
int64_t virtio_accept(struct virtio_device *device, unsigned half, uint32_t bits);
int64_t virtio_get_status(struct virtio_device *device);
int64_t virtio_set_status(struct virtio_device *device, uint32_t status);
int64_t virtio_config_read(
	struct virtio_device *device, size_t offset, void *to, size_t length);
int64_t virtio_config_write(
	struct virtio_device *device, size_t offset, const void *from, size_t length);
int64_t virtio_generation(struct virtio_device *device);
int64_t virtio_queue_setup(struct virtio_device *device, unsigned queue,
	const struct karma_queue_setup *setup);
/* The message must be one that may be sent; 0 for its address: none. */
int64_t virtio_queue_interrupt(struct virtio_device *device, unsigned queue,
	const struct karma_interrupt *interrupt);
/*
 * takes_answer: return 1 in place of an interrupt for what the device gives back meanwhile, with all that has
 * completed on the calling thread's own ring.
 */
int64_t virtio_queue_notify(struct virtio_device *device, unsigned queue, bool takes_answer);

/* --- For devices, with the queue's lock held, or any if there is no queue. */

/* The driver is ready, the device neither broken nor paused: chains may be taken. */
bool virtio_running(const struct virtio_device *device);

/* The guest has ended: start no wait that time alone ends. */
static inline bool virtio_ending(const struct virtio_device *device)
{
	return device->state == VIRTIO_ENDING;
}

/* Ask the driver for a reset.  False if it was asked already. */
bool virtio_request_reset(struct virtio_device *device);

/* A queue broke the specification, which is why (a literal): say so, and ask the driver for a reset. */
void virtio_break_queue(struct virtq *queue, const char *why);

/* virtq_pop() that has the driver of a broken queue asked for a reset, too; true if there is a chain. */
bool virtio_pop(struct virtio_device *device, struct virtq *queue, struct iovec *iov,
	unsigned capacity, struct virtq_chain *chain);

/* The backend took a request, or gave it back. */
void virtio_request_started(struct virtio_device *device);
void virtio_request_done(struct virtio_device *device);

/*
 * Interrupt coalescing: call virtq_interrupt() once for all completions of this run of the ring.  From a
 * done() function.
 */
void virtio_defer_interrupt(struct virtq *queue);

/* Call the device's notify() for the queue, if its chains may be taken. */
void virtio_notify(struct virtq *queue);

/* Have the I/O thread do that, after what it has to do already. */
void virtio_reschedule(struct virtq *queue);

/* What a step of virtio_serve_chains() did. */
enum virtio_step {
	VIRTIO_SERVED,		/* a chain went back to the guest */
	VIRTIO_NO_CHAIN,
	VIRTIO_BLOCKED,		/* the device will call again when its backend goes on */
};

/*
 * notify() for a queue whose chains are done at once, in the order in which they came: step() takes one
 * and gives it back.  At most as many as the queue has entries, then virtio_reschedule(); one interrupt for
 * all.  How many there were.
 */
unsigned virtio_serve_chains(struct virtq *queue, enum virtio_step (*step)(struct virtq *queue));

/* The same by the device's serve(), for chains of as many buffers as the queue has entries, up to 32. */
void virtio_serve_queue(struct virtq *queue);

/* For restore(): what it found wrong, as a sentence of the device.  -EINVAL, with a message printed. */
int virtio_state_damaged(const struct virtio_device *device, const char *what);

/* The configuration was changed by the device. */
void virtio_config_changed(struct virtio_device *device);

#endif
