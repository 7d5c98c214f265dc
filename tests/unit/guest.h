/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A simulated guest: memory, a machine without KVM, an io_uring that the test runs itself, and the
 * driver's side of the Karma ABI and of split virtqueues.
 *
 * One thread plays all parts.  What goes wrong in here fails the test that is running.
 */
#ifndef KARMA_TESTS_GUEST_H
#define KARMA_TESTS_GUEST_H

#include <check.h>
#include <elf.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "karma/devices.h"
#include "karma/hypercall.h"
#include "karma/util.h"

/* The suites, for main.c. */
Suite *memory_suite(void);
Suite *queue_suite(void);
Suite *transport_suite(void);
Suite *life_cycle_suite(void);
Suite *device_state_suite(void);
Suite *ring_suite(void);
Suite *blk_suite(void);
Suite *console_suite(void);
Suite *rng_suite(void);
Suite *pmem_suite(void);
Suite *balloon_suite(void);
Suite *hypercall_suite(void);
Suite *generation_suite(void);
Suite *kernel_log_suite(void);
Suite *options_suite(void);
Suite *root_suite(void);
Suite *modules_suite(void);
Suite *options_share_suite(void);
Suite *config_suite(void);
Suite *log_suite(void);
Suite *cpuid_suite(void);
Suite *boot_suite(void);
Suite *load_suite(void);
Suite *watchdog_suite(void);
Suite *getent_suite(void);
Suite *notify_suite(void);
Suite *unpack_suite(void);
Suite *kaslr_suite(void);
Suite *limit_suite(void);
Suite *file_suite(void);
Suite *direct_suite(void);
Suite *overlay_suite(void);
Suite *overlay_death_suite(void);
Suite *net_suite(void);
Suite *nbd_suite(void);
Suite *passt_suite(void);
Suite *control_suite(void);
Suite *vsock_suite(void);
Suite *agent_suite(void);
Suite *oci_suite(void);
Suite *share_suite(void);
Suite *vhost_user_suite(void);
Suite *state_suite(void);
Suite *snapshot_memory_suite(void);
Suite *vm_state_suite(void);
Suite *restore_suite(void);
Suite *saved_disks_suite(void);
Suite *warm_images_suite(void);

/*
 * A case of a suite: its tests run in processes of their own, between set_up() and tear_down(), for so many
 * seconds at most. Several files may each add tests to a case of the same name.
 */
TCase *add_case(Suite *suite, const char *name, SFun set_up, SFun tear_down, double seconds,
	const TTest *const *tests, size_t count);

#define SIM_MEMORY (16 * MIB)
#define SIM_RING_ENTRIES 64
#define SIM_CONSOLE_BYTES 16384
/* How long the simulated guest waits for what must happen, and for what must not. */
#define SIM_PATIENCE_MS 10000
#define SIM_MOMENT_MS 30

#define STATUS_DRIVER (VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER)
#define STATUS_FEATURES (STATUS_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK)
#define STATUS_RUNNING (STATUS_FEATURES | VIRTIO_CONFIG_S_DRIVER_OK)
#define STATUS_BROKEN (STATUS_RUNNING | VIRTIO_CONFIG_S_NEEDS_RESET)

#define FEATURE(bit) (1ull << (bit))
#define FEATURES_PLAIN FEATURE(VIRTIO_F_VERSION_1)
#define FEATURES_INDIRECT (FEATURES_PLAIN | FEATURE(VIRTIO_RING_F_INDIRECT_DESC))
#define FEATURES_EVENT (FEATURES_PLAIN | FEATURE(VIRTIO_RING_F_EVENT_IDX))

struct sim {
	struct guest_memory memory; /* between two pages that nobody may touch */
	struct machine machine;
	struct io_ring ring;
	struct virtio_environment environment;
	struct hypercall_counters counters;
	void *area;
	size_t area_size;
	uint64_t next_free; /* guest-physical */
	uint8_t next_vector;

	/* What the guest made happen. */
	char console[SIM_CONSOLE_BYTES];
	size_t console_length;
	size_t console_takes; /* bytes of one write that the console takes at most */
	unsigned ends, readies, ups, checkpoints;
	uint32_t ready;
	enum machine_end end;
	unsigned end_status;

	_Atomic uint64_t interrupts[256]; /* by vector: what came to it and nobody asked for yet */
};

void sim_init(struct sim *sim, uint64_t memory_size);
void sim_release(struct sim *sim);

/* Guest memory between guard pages, for tests without a machine; area is for the release. */
void guarded_memory_init(
	struct guest_memory *memory, uint64_t size, void **area, size_t *area_size);
void guarded_memory_release(struct guest_memory *memory, void *area, size_t area_size);

/* A call as a guest makes it: number and argument go into RBX and RCX. */
int64_t sim_call(struct sim *sim, unsigned number, uint32_t argument, uint64_t value);

/* Memory for the guest's driver, zeroed. */
uint64_t sim_alloc(struct sim *sim, size_t bytes, size_t align);
uint64_t sim_text(struct sim *sim, const void *bytes, size_t length);
/* What is at a guest address; it has to be RAM. */
void *sim_at(struct sim *sim, uint64_t gpa, uint64_t length);

/* Let the I/O thread's part run until done() says so; false if patience ended first. */
bool sim_run_until(struct sim *sim, bool (*done)(void *context), void *context);
/* Let the I/O thread's part run for a moment, in which all that is to happen does. */
void sim_run_moment(struct sim *sim);

/* The vector that events come by, from sim_init() on. */
#define SIM_EVENT_VECTOR 32
/* Interrupts by a vector since the last call. */
uint64_t sim_interrupts(struct sim *sim, uint8_t vector);

unsigned sim_add(struct sim *sim, struct virtio_device *device);

/* The driver's way through the status field (virtio 1.2, section 3.1.1). */
void sim_negotiate(struct sim *sim, unsigned device, uint64_t features);
void sim_driver_ok(struct sim *sim, unsigned device);
int64_t sim_status(struct sim *sim, unsigned device);
/* Reset, and run until it is over. */
void sim_reset(struct sim *sim, unsigned device);

/* A queue, as its driver sees it. */
struct driver_queue {
	struct sim *sim;
	unsigned device, index;
	uint16_t size, next_descriptor, last_used;
	uint64_t descriptors_gpa, avail_gpa, used_gpa;
	struct vring_desc *descriptors;
	struct vring_avail *avail;
	struct vring_used *used;
	uint8_t vector;
};

/* A buffer of a chain. */
struct part {
	uint64_t gpa;
	uint32_t length;
	bool write; /* by the device */
};

void driver_queue_setup(struct driver_queue *queue, struct sim *sim, unsigned device,
	unsigned index, uint16_t size);

/* Write a chain into descriptors, which are taken in turn; returns its head. */
uint16_t driver_chain(struct driver_queue *queue, const struct part *parts, unsigned count);
uint16_t driver_chain_indirect(
	struct driver_queue *queue, const struct part *parts, unsigned count);
/* Make a head available; the device learns of it by driver_kick(). */
void driver_publish(struct driver_queue *queue, uint16_t head);
void driver_kick(struct driver_queue *queue);
/* Chains that the device gave back and that nobody waited for yet. */
uint16_t driver_used(const struct driver_queue *queue);
/* The next chain that the device gives back. */
struct vring_used_elem driver_wait(struct driver_queue *queue);
/* Interrupts since the last call. */
uint64_t driver_interrupts(struct driver_queue *queue);
uint16_t *driver_used_event(struct driver_queue *queue);
uint16_t *driver_avail_event(struct driver_queue *queue);

/*
 * A snapshot of the machine without its memory, of which there is one at a time: its devices are paused for it and
 * stay so, until machine_resume_devices().
 */
void sim_save(struct sim *sim);
/* Then the machine's process is another one: guest memory is all that is left, without devices in it. */
void sim_change_process(struct sim *sim);
/* The devices were made again, and machine_add()ed: 0, and they are started, or a negative errno. */
int sim_restore(struct sim *sim);
/* The numbers in a part of the snapshot, which tests change. */
bool sim_has_number(unsigned kind, unsigned device, size_t index);
uint64_t sim_state_number(unsigned kind, unsigned device, size_t index);
void sim_change_state(unsigned kind, unsigned device, size_t index, uint64_t number);

/* A device started in one go, with its first queue. */
void sim_start_device(struct sim *sim, unsigned device, uint64_t features,
	struct driver_queue *queues, unsigned queue_count, uint16_t size);

/* What is printed on stderr between the two calls. */
void messages_begin(void);
const char *messages_so_far(void);
const char *messages_end(void);

/* A file without a name, of zeroes; its path is that of an open descriptor. */
int temporary_file(uint64_t size);
const char *descriptor_path(int fd);
/* One that leads to a socket. */
const char *socket_path(void);

/* The header of a kernel as an ELF file; its segments' headers are behind it. */
Elf64_Ehdr kernel_header(uint64_t entry, unsigned segments);

int64_t now_ms(void);

/*
 * The monotonic clock that the code under test sees stops, so many ns after where it first stopped; then
 * it goes on from there.  So it never goes back unless a test wants that, however long the machine is up.
 */
void sim_set_clock(int64_t ns);
void sim_run_clock(void);

/* What a disk asks of the host for one of its files. */
enum host_kind { HOST_READ, HOST_WRITE, HOST_SYNC, HOST_CLEAR };

struct host_call {
	enum host_kind kind;
	int fd;
	const struct iovec *iov; /* for HOST_READ and HOST_WRITE */
	unsigned count;
	uint64_t offset, length; /* length for HOST_CLEAR */
	int mode;		 /* of fallocate() */
	struct io_op *op;	 /* NULL for a system call that ends at once */
	int result;		 /* a number of bytes or a negative errno */
	bool async;		 /* left to a worker of io_uring */
};

/*
 * NULL, or what sees each call first.  If it returns true, the call is done, with its result; if it
 * made op NULL then, it ends the operation itself.
 */
extern bool (*sim_host)(struct host_call *call);

/* What files say of O_DIRECT: blocks, and addresses, of so many bytes; 0: what is true. */
extern uint32_t sim_direct_unit;

/* A generator of random numbers: the same for the same seed, never 0 as its state. */
uint64_t random_next(uint64_t *state);

#endif
