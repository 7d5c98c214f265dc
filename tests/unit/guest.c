// SPDX-License-Identifier: GPL-2.0-only
/* The simulated guest that the tests of devices and hypercalls drive. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>

#include "guest.h"
#include "karma/snapshot.h"

#define ALLOC_START 0x100000ull
#define SECOND 1000000000ll

TCase *add_case(Suite *suite, const char *name, SFun set_up, SFun tear_down, double seconds,
	const TTest *const *tests, size_t count)
{
	TCase *tcase = tcase_create(name);

	tcase_add_checked_fixture(tcase, set_up, tear_down);
	tcase_set_timeout(tcase, seconds);
	for (size_t i = 0; i < count; i++)
		tcase_add_test(tcase, tests[i]);
	suite_add_tcase(suite, tcase);
	return tcase;
}

/* Of the monotonic clock that the code under test sees: how far ahead it is, or where it stands. */
static _Atomic int64_t clock_ahead, clock_stands_at;

/* The linker puts this in the place of clock_gettime(): see mk/tests.mk. */
int __real_clock_gettime(clockid_t clock, struct timespec *time);
int __wrap_clock_gettime(clockid_t clock, struct timespec *time);

static int64_t real_ns(void)
{
	struct timespec now;

	__real_clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * SECOND + now.tv_nsec;
}

/* A clock stops at the end of time. */
static int64_t later(int64_t from, int64_t ns)
{
	int64_t sum;

	return __builtin_add_overflow(from, ns, &sum) ? INT64_MAX : sum;
}

int __wrap_clock_gettime(clockid_t clock, struct timespec *time)
{
	int64_t ns;

	if (clock != CLOCK_MONOTONIC || (!clock_ahead && !clock_stands_at))
		return __real_clock_gettime(clock, time);
	ns = clock_stands_at ? clock_stands_at : later(real_ns(), clock_ahead);
	time->tv_sec = ns / SECOND;
	time->tv_nsec = ns % SECOND;
	return 0;
}

void sim_set_clock(int64_t ns)
{
	static int64_t stopped_at;

	if (!clock_stands_at)
		stopped_at = nanoseconds();
	clock_stands_at = later(stopped_at, ns);
}

void sim_run_clock(void)
{
	/* From the end of time no clock goes on. */
	if (clock_stands_at)
		clock_ahead = clock_stands_at == INT64_MAX ? 0 : clock_stands_at - real_ns();
	clock_stands_at = 0;
}

Elf64_Ehdr kernel_header(uint64_t entry, unsigned segments)
{
	return (Elf64_Ehdr){
		.e_ident = { 0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, EV_CURRENT },
		.e_type = ET_EXEC,
		.e_machine = EM_X86_64,
		.e_entry = entry,
		.e_phoff = sizeof(Elf64_Ehdr),
		.e_phentsize = sizeof(Elf64_Phdr),
		.e_phnum = segments,
	};
}

int64_t now_ms(void)
{
	return real_ns() / 1000000;
}

/* Guest memory is moved to between two pages without any access: a stray one faults. */
void guarded_memory_init(struct guest_memory *memory, uint64_t size, void **area, size_t *area_size)
{
	uint8_t *guarded;

	ck_assert_int_eq(guest_memory_init(memory, &(struct memory_options){ .size = size }), 0);
	*area_size = size + 2 * PAGE_BYTES;
	guarded = mmap(
		NULL, *area_size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	ck_assert_ptr_ne(guarded, MAP_FAILED);
	ck_assert_ptr_eq(mremap(memory->base, size, size, MREMAP_MAYMOVE | MREMAP_FIXED,
				 guarded + PAGE_BYTES),
		guarded + PAGE_BYTES);
	memory->base = guarded + PAGE_BYTES;
	*area = guarded;
}

void guarded_memory_release(struct guest_memory *memory, void *area, size_t area_size)
{
	guest_memory_release(memory);
	munmap(area, area_size);
}

static size_t record_console(struct machine *machine, const void *text, size_t length)
{
	struct sim *sim = container_of(machine, struct sim, machine);

	if (length > sim->console_takes)
		length = sim->console_takes;
	if (length > sizeof(sim->console) - sim->console_length)
		length = sizeof(sim->console) - sim->console_length;
	memcpy(sim->console + sim->console_length, text, length);
	sim->console_length += length;
	return length;
}

static void record_end(struct machine *machine, enum machine_end how, unsigned status)
{
	struct sim *sim = container_of(machine, struct sim, machine);

	sim->ends++;
	sim->end = how;
	sim->end_status = status;
}

static void record_ready(struct machine *machine, uint32_t ready)
{
	struct sim *sim = container_of(machine, struct sim, machine);

	sim->readies++;
	sim->ready = ready;
}

static void record_up(struct machine *machine)
{
	container_of(machine, struct sim, machine)->ups++;
}

static void record_interrupt(struct machine *machine, const struct karma_interrupt *interrupt)
{
	struct sim *sim = container_of(machine, struct sim, machine);

	sim->interrupts[interrupt->data & 0xff]++;
}

static void record_checkpoint(struct machine *machine)
{
	container_of(machine, struct sim, machine)->checkpoints++;
}

static const struct machine_ops recorder = {
	.console_write = record_console,
	.end = record_end,
	.ready = record_ready,
	.up = record_up,
	.interrupt = record_interrupt,
	.checkpoint = record_checkpoint,
};

static void set_interrupt(struct sim *sim, uint32_t argument, uint8_t vector)
{
	struct karma_interrupt interrupt = { .address = 0xfee00000, .data = vector };

	ck_assert_int_eq(sim_call(sim, KARMA_CALL_interrupt, argument,
				 sim_text(sim, &interrupt, sizeof(interrupt))),
		0);
}

uint64_t sim_interrupts(struct sim *sim, uint8_t vector)
{
	return atomic_exchange(&sim->interrupts[vector], 0);
}

void sim_init(struct sim *sim, uint64_t memory_size)
{
	memset(sim, 0, sizeof(*sim));
	guarded_memory_init(&sim->memory, memory_size, &sim->area, &sim->area_size);
	machine_init(&sim->machine, &sim->memory, &recorder);
	ck_assert_int_eq(io_ring_init(&sim->ring, SIM_RING_ENTRIES), 0);
	sim->environment = (struct virtio_environment){ &sim->memory, &sim->ring };
	sim->next_free = ALLOC_START;
	sim->console_takes = SIZE_MAX;
	sim->next_vector = SIM_EVENT_VECTOR;
	set_interrupt(sim, KARMA_EVENTS, sim->next_vector);
}

/* In the monitor's order: the ring first, since it may hold buffers of devices. */
void sim_release(struct sim *sim)
{
	io_ring_release(&sim->ring);
	machine_release(&sim->machine);
	guarded_memory_release(&sim->memory, sim->area, sim->area_size);
}

int64_t sim_call(struct sim *sim, unsigned number, uint32_t argument, uint64_t value)
{
	return hypercall(&sim->machine, &sim->counters,
		KARMA_WINDOW_BASE + ((uint64_t)number << 12), (uint64_t)KARMA_TAG | argument,
		value);
}

uint64_t sim_alloc(struct sim *sim, size_t bytes, size_t align)
{
	uint64_t gpa;

	ck_assert(align_up(sim->next_free, align, &gpa));
	memset(sim_at(sim, gpa, bytes), 0, bytes);
	sim->next_free = gpa + bytes;
	return gpa;
}

uint64_t sim_text(struct sim *sim, const void *bytes, size_t length)
{
	uint64_t gpa = sim_alloc(sim, length, 1);

	memcpy(sim_at(sim, gpa, length), bytes, length);
	return gpa;
}

void *sim_at(struct sim *sim, uint64_t gpa, uint64_t length)
{
	void *pointer = guest_memory_at(&sim->memory, GPA(gpa), length);

	ck_assert_ptr_nonnull(pointer);
	return pointer;
}

bool sim_run_until(struct sim *sim, bool (*done)(void *context), void *context)
{
	const struct timespec pause = { .tv_nsec = 50 * 1000 };
	int64_t end = now_ms() + SIM_PATIENCE_MS;

	while (!done(context)) {
		if (now_ms() > end)
			return false;
		if (io_ring_reap(&sim->ring, false) == 0)
			nanosleep(&pause, NULL);
	}
	return true;
}

/* By looks in vain, not by the clock: a test that is stopped for a while looks as often as any other. */
void sim_run_moment(struct sim *sim)
{
	const struct timespec pause = { .tv_nsec = 500 * 1000 };
	long looks = SIM_MOMENT_MS * 1000 * 1000 / pause.tv_nsec;

	while (looks > 0) {
		if (io_ring_reap(&sim->ring, false) == 0) {
			nanosleep(&pause, NULL);
			looks--;
		}
	}
}

unsigned sim_add(struct sim *sim, struct virtio_device *device)
{
	ck_assert_ptr_nonnull(device);
	ck_assert_int_eq(machine_add(&sim->machine, device), 0);
	virtio_start(device);
	return sim->machine.device_count - 1;
}

static void set_status(struct sim *sim, unsigned device, uint8_t status)
{
	ck_assert_int_eq(sim_call(sim, KARMA_CALL_device_set_status, device, status), 0);
	ck_assert_int_eq(sim_status(sim, device), status);
}

void sim_negotiate(struct sim *sim, unsigned device, uint64_t features)
{
	set_status(sim, device, VIRTIO_CONFIG_S_ACKNOWLEDGE);
	set_status(sim, device, STATUS_DRIVER);
	for (unsigned half = 0; half < 2; half++)
		ck_assert_int_eq(sim_call(sim, KARMA_CALL_device_accept, KARMA_ARG(device, half),
					 (uint32_t)(features >> (32 * half))),
			0);
	set_status(sim, device, STATUS_FEATURES);
}

void sim_driver_ok(struct sim *sim, unsigned device)
{
	set_status(sim, device, STATUS_RUNNING);
}

int64_t sim_status(struct sim *sim, unsigned device)
{
	return sim_call(sim, KARMA_CALL_device_status, device, 0);
}

struct reset_wait {
	struct sim *sim;
	unsigned device;
};

static bool is_reset(void *context)
{
	struct reset_wait *wait = context;

	return sim_status(wait->sim, wait->device) == 0;
}

void sim_reset(struct sim *sim, unsigned device)
{
	struct reset_wait wait = { sim, device };

	ck_assert_int_eq(sim_call(sim, KARMA_CALL_device_set_status, device, 0), 0);
	ck_assert_msg(sim_run_until(sim, is_reset, &wait), "the reset does not end");
}

void driver_queue_setup(
	struct driver_queue *queue, struct sim *sim, unsigned device, unsigned index, uint16_t size)
{
	size_t avail_bytes = sizeof(struct vring_avail) + 2u * size + 2;
	size_t used_bytes = sizeof(struct vring_used) + 8u * size + 2;
	struct karma_queue_setup setup = { .size = size };

	*queue =
		(struct driver_queue){ .sim = sim, .device = device, .index = index, .size = size };
	queue->descriptors_gpa = setup.descriptors = sim_alloc(sim, 16u * size, 16);
	queue->avail_gpa = setup.driver = sim_alloc(sim, avail_bytes, 2);
	queue->used_gpa = setup.device = sim_alloc(sim, used_bytes, 4);
	queue->descriptors = sim_at(sim, queue->descriptors_gpa, 16u * size);
	queue->avail = sim_at(sim, queue->avail_gpa, avail_bytes);
	queue->used = sim_at(sim, queue->used_gpa, used_bytes);
	queue->vector = ++sim->next_vector;
	sim->interrupts[queue->vector] = 0;
	set_interrupt(sim, KARMA_ARG(device, index), queue->vector);
	ck_assert_int_eq(sim_call(sim, KARMA_CALL_queue_setup, KARMA_ARG(device, index),
				 sim_text(sim, &setup, sizeof(setup))),
		0);
}

static uint16_t part_flags(const struct part *parts, unsigned i, unsigned count)
{
	return (parts[i].write ? VRING_DESC_F_WRITE : 0) | (i + 1 < count ? VRING_DESC_F_NEXT : 0);
}

uint16_t driver_chain(struct driver_queue *queue, const struct part *parts, unsigned count)
{
	uint16_t head = queue->next_descriptor;

	ck_assert_uint_le(count, queue->size);
	for (unsigned i = 0; i < count; i++) {
		uint16_t next = (queue->next_descriptor + 1) % queue->size;

		queue->descriptors[queue->next_descriptor] = (struct vring_desc){
			.addr = parts[i].gpa,
			.len = parts[i].length,
			.flags = part_flags(parts, i, count),
			.next = next,
		};
		queue->next_descriptor = next;
	}
	return head;
}

uint16_t driver_chain_indirect(struct driver_queue *queue, const struct part *parts, unsigned count)
{
	uint16_t head = queue->next_descriptor;
	uint64_t gpa = sim_alloc(queue->sim, count * sizeof(struct vring_desc), 16);
	struct vring_desc *table = sim_at(queue->sim, gpa, count * sizeof(struct vring_desc));

	for (unsigned i = 0; i < count; i++)
		table[i] = (struct vring_desc){
			.addr = parts[i].gpa,
			.len = parts[i].length,
			.flags = part_flags(parts, i, count),
			.next = i + 1,
		};
	queue->descriptors[head] = (struct vring_desc){
		.addr = gpa,
		.len = count * sizeof(struct vring_desc),
		.flags = VRING_DESC_F_INDIRECT,
	};
	queue->next_descriptor = (head + 1) % queue->size;
	return head;
}

void driver_publish(struct driver_queue *queue, uint16_t head)
{
	uint16_t index = queue->avail->idx;

	__atomic_store_n(&queue->avail->ring[index % queue->size], head, __ATOMIC_RELAXED);
	__atomic_store_n(&queue->avail->idx, (uint16_t)(index + 1), __ATOMIC_RELEASE);
}

void driver_kick(struct driver_queue *queue)
{
	ck_assert_int_eq(sim_call(queue->sim, KARMA_CALL_queue_notify,
				 KARMA_ARG(queue->device, queue->index), 0),
		0);
}

uint16_t driver_used(const struct driver_queue *queue)
{
	return __atomic_load_n(&queue->used->idx, __ATOMIC_ACQUIRE) - queue->last_used;
}

static bool has_used(void *queue)
{
	return driver_used(queue) != 0;
}

struct vring_used_elem driver_wait(struct driver_queue *queue)
{
	ck_assert_msg(sim_run_until(queue->sim, has_used, queue),
		"the device does not give the chain back");
	return queue->used->ring[queue->last_used++ % queue->size];
}

uint64_t driver_interrupts(struct driver_queue *queue)
{
	return sim_interrupts(queue->sim, queue->vector);
}

/* The event indexes lie behind the rings (virtio 1.2, sections 2.7.7 and 2.7.8). */
uint16_t *driver_used_event(struct driver_queue *queue)
{
	return &queue->avail->ring[queue->size];
}

uint16_t *driver_avail_event(struct driver_queue *queue)
{
	return (uint16_t *)&queue->used->ring[queue->size];
}

void sim_start_device(struct sim *sim, unsigned device, uint64_t features,
	struct driver_queue *queues, unsigned queue_count, uint16_t size)
{
	sim_negotiate(sim, device, features);
	for (unsigned i = 0; i < queue_count; i++)
		driver_queue_setup(&queues[i], sim, device, i, size);
	sim_driver_ok(sim, device);
}

/* --- Snapshots. */

static uint8_t snapshot[256 * KIB], changed_snapshot[sizeof(snapshot)];
static size_t snapshot_size;

static bool is_quiesced(void *context)
{
	const struct machine *machine = context;
	bool quiesced = true;

	for (unsigned i = 0; i < machine->device_count; i++)
		quiesced &= virtio_drain_within(machine->devices[i], 0);
	return quiesced;
}

void sim_save(struct sim *sim)
{
	struct snapshot_writer writer;
	int64_t size;

	machine_pause_devices(&sim->machine);
	ck_assert_msg(sim_run_until(sim, is_quiesced, &sim->machine), "the devices do not come to rest");
	ck_assert_int_eq(machine_drain_devices(&sim->machine), 0);
	snapshot_writer_init(&writer, snapshot, sizeof(snapshot));
	ck_assert_int_eq(machine_save(&sim->machine, &writer, true), 0);
	size = snapshot_finish(&writer);
	ck_assert_int_gt(size, 0);
	snapshot_size = size;
}

void sim_change_process(struct sim *sim)
{
	io_ring_release(&sim->ring);
	machine_release(&sim->machine);
	machine_init(&sim->machine, &sim->memory, &recorder);
	ck_assert_int_eq(io_ring_init(&sim->ring, SIM_RING_ENTRIES), 0);
}

static void open_state(struct snapshot_reader *reader)
{
	ck_assert_int_eq(snapshot_reader_init(reader, snapshot, snapshot_size), 0);
}

int sim_restore(struct sim *sim)
{
	struct snapshot_reader reader;
	int result;

	open_state(&reader);
	result = machine_restore(&sim->machine, &reader);
	if (result == 0)
		machine_start_devices(&sim->machine);
	return result;
}

/* Copy a part, with one number changed if index is not NULL.  Not each device has a part of its own. */
static void copy_part(struct snapshot_reader *from, struct snapshot_writer *to, unsigned kind, unsigned device,
	const size_t *index, uint64_t number)
{
	static uint8_t bytes[sizeof(snapshot)];
	int version = snapshot_open(from, kind, device, UINT16_MAX);
	size_t size;

	if (version < 0)
		return;
	size = snapshot_left(from);
	snapshot_get(from, bytes, size);
	ck_assert_int_eq(snapshot_close(from), 0);
	if (index)
		memcpy(bytes + *index * sizeof(number), &number, sizeof(number));
	snapshot_begin(to, kind, device, version);
	snapshot_put(to, bytes, size);
	snapshot_end(to);
}

void sim_change_state(unsigned kind, unsigned device, size_t index, uint64_t number)
{
	static const unsigned kinds[] = { SNAPSHOT_MACHINE, SNAPSHOT_DEVICE, SNAPSHOT_DEVICE_OWN };
	struct snapshot_reader reader;
	struct snapshot_writer writer;

	open_state(&reader);
	snapshot_writer_init(&writer, changed_snapshot, sizeof(changed_snapshot));
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
		for (unsigned j = 0; j < snapshot_count(&reader, SNAPSHOT_DEVICE); j++)
			copy_part(&reader, &writer, kinds[i], j, kinds[i] == kind && j == device ? &index : NULL,
				number);
	}
	snapshot_size = snapshot_finish(&writer);
	memcpy(snapshot, changed_snapshot, snapshot_size);
}

bool sim_has_number(unsigned kind, unsigned device, size_t index)
{
	struct snapshot_reader reader;

	open_state(&reader);
	return snapshot_open(&reader, kind, device, UINT16_MAX) > 0 &&
		(index + 1) * sizeof(uint64_t) <= snapshot_left(&reader);
}

uint64_t sim_state_number(unsigned kind, unsigned device, size_t index)
{
	struct snapshot_reader reader;
	uint64_t number = 0;

	ck_assert(sim_has_number(kind, device, index));
	open_state(&reader);
	snapshot_open(&reader, kind, device, UINT16_MAX);
	for (size_t i = 0; i <= index; i++)
		number = snapshot_get_number(&reader);
	return number;
}

static int messages_fd = -1, messages_saved = -1;
static char messages[65536];

void messages_begin(void)
{
	messages_fd = memfd_create("messages", MFD_CLOEXEC);
	messages_saved = dup(STDERR_FILENO);
	ck_assert_int_ge(messages_fd, 0);
	ck_assert_int_ge(messages_saved, 0);
	ck_assert_int_eq(dup2(messages_fd, STDERR_FILENO), STDERR_FILENO);
}

const char *messages_so_far(void)
{
	ssize_t length = pread(messages_fd, messages, sizeof(messages) - 1, 0);

	ck_assert_int_ge(length, 0);
	messages[length] = '\0';
	return messages;
}

const char *messages_end(void)
{
	messages_so_far();
	ck_assert_int_eq(dup2(messages_saved, STDERR_FILENO), STDERR_FILENO);
	close(messages_saved);
	close(messages_fd);
	return messages;
}

int temporary_file(uint64_t size)
{
	/* On a disk: /tmp may be in memory, where io_uring takes another way. */
	const char *directory = getenv("TMPDIR") ?: "/var/tmp";
	int fd = open(directory, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	char path[PATH_MAX];

	/* Not every file system has files without a name. */
	if (fd < 0) {
		snprintf(path, sizeof(path), "%s/karma-unit-XXXXXX", directory);
		fd = mkostemp(path, O_CLOEXEC);
		unlink(path);
	}
	ck_assert_msg(fd >= 0, "no file in %s: set TMPDIR to a directory that can be written", directory);
	ck_assert_int_eq(ftruncate(fd, size), 0);
	return fd;
}

const char *descriptor_path(int fd)
{
	static char paths[4][32];
	static unsigned next;
	char *path = paths[next++ % ARRAY_SIZE(paths)];

	snprintf(path, sizeof(paths[0]), "/proc/self/fd/%d", fd);
	return path;
}

const char *socket_path(void)
{
	return descriptor_path(socket(AF_UNIX, SOCK_STREAM, 0));
}

/* xorshift64* */
uint64_t random_next(uint64_t *state)
{
	*state ^= *state >> 12;
	*state ^= *state << 25;
	*state ^= *state >> 27;
	return *state * 0x2545f4914f6cdd1dull;
}
