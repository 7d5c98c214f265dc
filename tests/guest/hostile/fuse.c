// SPDX-License-Identifier: GPL-2.0-only
/*
 * FUSE requests that no driver makes, to the server of a shared directory.  What lies beside the
 * directory has SECRET in it, which nobody may ever read here.  "witness" in it shows that what is asked
 * for is read at all.
 */
#include <linux/fuse.h>
#include <linux/virtio_ids.h>
#include <stddef.h>

#include "hostile.h"

#define SECRET "the secret beside the share"
#define WITNESS "still here"

/* From the start of the first CPU's area: two queues, requests and what answers them. */
#define STRIDE 0x10000u
#define REQUESTS_AT 0x40000u
#define REPLIES_AT 0x80000u
#define SLOT_BYTES 0x2000u
#define SLOTS 16u

#define FUSE_QUEUE 1u		/* the first for requests (virtio 1.2, section 5.11.2) */
#define ROUNDS 500u

struct request {
	struct fuse_in_header header;
	uint8_t body[SLOT_BYTES - sizeof(struct fuse_in_header)];
};

struct reply {
	struct fuse_out_header header;
	uint8_t body[SLOT_BYTES - sizeof(struct fuse_out_header)];
};

static uint32_t device;
static volatile bool changing;	/* by the other CPUs, for the rounds alone */

static uint8_t *area(void)
{
	return (uint8_t *)(uintptr_t)AREA_AT;
}

static struct request *request_of(unsigned slot)
{
	return (void *)(area() + REQUESTS_AT + slot * SLOT_BYTES);
}

static struct reply *reply_of(unsigned slot)
{
	return (void *)(area() + REPLIES_AT + slot * SLOT_BYTES);
}

static void clear(volatile uint8_t *bytes, size_t count)
{
	while (count--)
		*bytes++ = 0;
}

static size_t put(uint8_t *to, const void *from, size_t bytes)
{
	const uint8_t *source = from;

	for (size_t i = 0; i < bytes; i++)
		to[i] = source[i];
	return bytes;
}

/* With its end. */
static size_t put_name(uint8_t *to, const char *name)
{
	size_t length = 0;

	while (name[length])
		length++;
	return put(to, name, length + 1);
}

static bool has(const uint8_t *bytes, size_t count, const char *text)
{
	for (size_t i = 0; i < count; i++) {
		size_t same = 0;

		while (text[same] && i + same < count && bytes[i + same] == (uint8_t)text[same])
			same++;
		if (!text[same])
			return true;
	}
	return false;
}

/* --- Requests: put into slots, then sent together, and looked through when they are answered. */

/* What goes out and what may come in, of bytes. */
static void describe(unsigned slot, uint32_t out, uint32_t in)
{
	struct vring_desc *descriptors = (void *)(area() + FUSE_QUEUE * STRIDE);
	struct vring_avail *avail = (void *)(area() + FUSE_QUEUE * STRIDE + 0x4000);

	descriptors[2 * slot] = (struct vring_desc){ (uintptr_t)request_of(slot), out,
		in ? VRING_DESC_F_NEXT : 0, 2 * slot + 1 };
	descriptors[2 * slot + 1] = (struct vring_desc){ (uintptr_t)reply_of(slot), in, VRING_DESC_F_WRITE, 0 };
	avail->ring[(uint16_t)(avail->idx) % SIZE] = 2 * slot;
	__asm__ volatile("" : : : "memory");
	avail->idx++;
}

static void send_all(void)
{
	volatile struct vring_avail *avail = (void *)(area() + FUSE_QUEUE * STRIDE + 0x4000);
	volatile struct vring_used *used = (void *)(area() + FUSE_QUEUE * STRIDE + 0x6000);

	call(KARMA_CALL_queue_notify, device | FUSE_QUEUE << 8, 0);
	while (used->idx != avail->idx)
		call(KARMA_CALL_version, 0, 0);
	if (has(area() + REPLIES_AT, SLOTS * SLOT_BYTES, SECRET)) {
		say("the secret is out\n");
		finish(BAD);
	}
}

/* One request, and its error. */
static int32_t ask(uint32_t opcode, uint64_t node, size_t body, uint32_t in)
{
	struct request *request = request_of(0);

	request->header = (struct fuse_in_header){
		.len = sizeof(request->header) + body,
		.opcode = opcode,
		.unique = 1,
		.nodeid = node,
	};
	clear((void *)reply_of(0), SLOT_BYTES);
	describe(0, request->header.len, in);
	send_all();
	return reply_of(0)->header.error;
}

static int32_t initialize(void)
{
	const struct fuse_init_in init = { .major = FUSE_KERNEL_VERSION, .minor = FUSE_KERNEL_MINOR_VERSION };

	return ask(FUSE_INIT, 0, put(request_of(0)->body, &init, sizeof(init)), SLOT_BYTES);
}

/* The node, or 0. */
static uint64_t look_up(uint64_t parent, const char *name)
{
	if (ask(FUSE_LOOKUP, parent, put_name(request_of(0)->body, name), SLOT_BYTES) != 0)
		return 0;
	return ((struct fuse_entry_out *)reply_of(0)->body)->nodeid;
}

/* What is in it is in the reply then. */
static bool read_node(uint64_t node)
{
	const struct fuse_open_in open = { 0 };
	struct fuse_read_in read = { .size = 4096 };

	if (ask(FUSE_OPEN, node, put(request_of(0)->body, &open, sizeof(open)), SLOT_BYTES) != 0)
		return false;
	read.fh = ((struct fuse_open_out *)reply_of(0)->body)->fh;
	return ask(FUSE_READ, node, put(request_of(0)->body, &read, sizeof(read)), SLOT_BYTES) == 0;
}

/* --- Ways out of the directory. */

static const char *const names[] = { "..", ".", "", "/", "../secret", "/secret", "directory/../../secret", "link",
	"up", "absolute", "witness", "witness/..", "directory", "directory/..", "./../secret", "secret", "\n", "new" };
#define NAMES (sizeof(names) / sizeof(names[0]))

static void make_symlink(const char *name, const char *target)
{
	uint8_t *body = request_of(0)->body;
	size_t bytes = put_name(body, name);

	ask(FUSE_SYMLINK, FUSE_ROOT_ID, bytes + put_name(body + bytes, target), SLOT_BYTES);
}

static void walk_out(void)
{
	make_symlink("link", "../secret");
	make_symlink("up", "..");
	make_symlink("absolute", "/");
	for (unsigned i = 0; i < NAMES; i++) {
		uint64_t node = look_up(FUSE_ROOT_ID, names[i]);

		if (!node)
			continue;
		read_node(node);
		for (unsigned j = 0; j < NAMES; j++) {
			uint64_t next = look_up(node, names[j]);

			if (next)
				read_node(next);
		}
	}
	/* Nodes that nobody was told of. */
	for (uint64_t node = 0; node < 64; node++)
		read_node(node);
}

/* --- Every request with every boundary value. */

static uint64_t boundary(uint64_t *seed)
{
	const uint64_t values[] = { 0, 1, 2, 3, 4, 7, 16, 40, 255, 256, 4095, 4096, 4097, 65536, 0x7fffffff, 0x80000000,
		0xffffffff, 1ull << 32, 0x7fffffffffffffff, 1ull << 63, ~0ull - 4095, ~0ull };

	return values[random_next(seed) % (sizeof(values) / sizeof(values[0]))];
}

static void fill_slot(unsigned slot, uint64_t *seed)
{
	struct request *request = request_of(slot);
	uint64_t bits = random_next(seed);
	size_t body = bits % 160;

	for (size_t i = 0; i < 160; i += 8) {
		uint64_t value = boundary(seed);

		put(request->body + i, &value, random_next(seed) % 2 ? 8 : 4);
	}
	/* Where requests have names: at the start, and behind 8, 16 and 24 bytes. */
	if (bits >> 8 & 1)
		body = (bits >> 9 & 3) * 8 + put_name(request->body + (bits >> 9 & 3) * 8, names[(bits >> 16) % NAMES]);
	if (bits >> 11 & 1)
		body += put_name(request->body + body, names[(bits >> 24) % NAMES]);
	request->header = (struct fuse_in_header){
		.len = bits >> 12 & 7 ? sizeof(request->header) + body : boundary(seed),
		.opcode = bits >> 15 & 31 ? (bits >> 32) % 56 : boundary(seed),
		.unique = boundary(seed),
		.nodeid = bits >> 40 & 3 ? (bits >> 42) % 8 : boundary(seed),
		.uid = bits >> 48 & 1 ? 0 : boundary(seed),
		.gid = bits >> 49 & 1 ? 0 : boundary(seed),
		.pid = 1,
	};
	describe(slot, bits >> 50 & 7 ? sizeof(request->header) + body : boundary(seed) % SLOT_BYTES + 1,
		bits >> 53 & 3 ? SLOT_BYTES : boundary(seed) % SLOT_BYTES);
}

/* Others change the requests, whenever they like. */
static void change_requests(uint64_t seed)
{
	while (!changing)
		__asm__ volatile("pause");
	for (unsigned i = 0; i < 200000; i++)
		area()[REQUESTS_AT + random_next(&seed) % (SLOTS * SLOT_BYTES)] = random_next(&seed);
}

void fuse(unsigned cpu)
{
	struct karma_queue_setup setup = rings_at(area(), SIZE);
	uint64_t seed = 0x9e3779b97f4a7c15ull * (cpu + 1);

	if (cpu) {
		change_requests(seed);
		return;
	}
	clear(area(), AREA_BYTES);
	device = find_device(VIRTIO_ID_FS, 0);
	if (!start_device(device, VERSION_1, &setup, 2, STRIDE) || initialize() != 0) {
		say("the share does not start\n");
		finish(BAD);
	}
	if (!read_node(look_up(FUSE_ROOT_ID, "witness")) || !has(reply_of(0)->body, SLOT_BYTES, WITNESS)) {
		say("what is shared can't be read\n");
		finish(BAD);
	}
	walk_out();
	changing = true;
	for (unsigned round = 0; round < ROUNDS; round++) {
		for (unsigned slot = 0; slot < SLOTS; slot++)
			fill_slot(slot, &seed);
		send_all();
	}
	if (initialize() != 0 || ask(FUSE_STATFS, FUSE_ROOT_ID, 0, SLOT_BYTES) != 0) {
		say("the share does not work any more\n");
		finish(BAD);
	}
}
