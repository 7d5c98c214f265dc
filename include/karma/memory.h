/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Guest memory: one mapping, and the only way from a guest address to a pointer.
 *
 * Guest-physical layout: RAM from 0 up to at most GUEST_HOLE_START, nothing from there to
 * 4 GiB, the rest of the RAM from 4 GiB up.  In the monitor both parts lie in one mapping, back
 * to back.  Files that the guest has as memory come above, each with a mapping of its own.  The
 * layout never changes once the guest runs, so any thread may translate; the contents belong to
 * the guest, which changes them at any time.
 */
#ifndef KARMA_MEMORY_H
#define KARMA_MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define GUEST_HOLE_START 0xc0000000ull	/* 3 GiB */
#define GUEST_HOLE_END 0x100000000ull	/* 4 GiB */
#define GUEST_VMGENID 0x9f000ull	/* the guest's id: 16 bytes that the e820 map reserves */
#define GUEST_MEMORY_MIN (16ull << 20)
#define GUEST_MEMORY_MAX (1ull << 40)	/* bytes; 1 TiB */
#define GUEST_HUGE_PAGE (2ull << 20)

/* A guest-physical address: a struct, so that nothing dereferences one by mistake. */
typedef struct {
	uint64_t value;
} gpa_t;

#define GPA(address) ((gpa_t){ address })

/* Pages of guest memory, numbered from its start, in the monitor's mapping. */
struct page_range {
	uint32_t first;
	uint32_t count : 31;
	uint32_t written : 1;	/* by the guest, so that it needs copies of its own */
};

struct memory_options {
	uint64_t size;		/* bytes, a multiple of the page size */
	bool shared;		/* a file that other processes can map, not the monitor's alone */
	bool huge_pages;	/* of the host's pool; size is a multiple of GUEST_HUGE_PAGE then */
	bool restored;		/* begin with the contents of a file, the memory of a snapshot */
	int file;		/* it, open for reading, the caller's; only valid with restored */
	/* Pages of the file that the guest will touch soon: read, copied and mapped in one go.  Any numbers; the caller's. */
	const struct page_range *ahead;
	unsigned ahead_count;
};

/*
 * Whether the memory is that file, MAP_PRIVATE: what a guest does not write, it shares with all others that were
 * restored from it.  Else the file is read: others, or the pool of huge pages, are to have the memory.
 */
static inline bool memory_is_mapped_from_file(const struct memory_options *options)
{
	return options->restored && !options->shared && !options->huge_pages;
}

/* A file that is guest memory; in a server of a device, a part of another process's guest. */
struct memory_region {
	uint64_t gpa, size;	/* bytes; the end does not wrap */
	uint8_t *base;
};

struct guest_memory {
	uint8_t *base;		/* where guest-physical 0 is in the monitor */
	uint64_t size;		/* bytes of RAM */
	uint64_t low_size;	/* bytes at 0 */
	uint64_t high_size;	/* bytes at 4 GiB; size is low_size + high_size */
	bool shared;
	int fd;			/* of shared memory; only valid with it */
	/* Beside that, or in its place in a server of a device: the caller's. */
	const struct memory_region *regions;
	unsigned region_count;
};

/*
 * Map zeroes, or the contents of the file.  Huge pages are reserved, all others come as they are
 * touched, without a reservation.  The file has to have the size of the memory, and has to stay as
 * it is: one that is cut, or can't be read, ends this process with STATUS_FAILURE and a message.
 * The file may be closed afterwards.  0, or a negative errno with a message printed.  The caller
 * releases.
 */
int guest_memory_init(struct guest_memory *memory, const struct memory_options *options);
void guest_memory_release(struct guest_memory *memory);

/*
 * Map the first bytes of a file as a region, whose size is that, rounded up to GUEST_HUGE_PAGE: zeroes
 * follow.  shared: what is written goes to the file, of which bytes is such a multiple; else it is the
 * monitor's and the guest's alone.  0, or a negative errno.  The caller unmaps it.
 */
int memory_region_map(struct memory_region *region, int fd, uint64_t bytes, bool shared);

/* The pointer for [gpa, gpa + length), or NULL if not all of it is RAM in one piece. */
void *guest_memory_at(const struct guest_memory *memory, gpa_t gpa, uint64_t length);

/* The other way: the guest-physical address of a pointer by guest_memory_at(). */
gpa_t guest_memory_gpa(const struct guest_memory *memory, const void *at);

/* Copy in or out; 0, or -EFAULT if not all of it is RAM in one piece. */
int guest_memory_read(const struct guest_memory *memory, gpa_t gpa, void *to, size_t length);
int guest_memory_write(
	const struct guest_memory *memory, gpa_t gpa, const void *from, size_t length);

/*
 * Give the whole pages in [at, at + length), a pointer by guest_memory_at(), back to the host: they
 * are zeroes from then on, or what a file has there that they are mapped from.  A driver may expect
 * neither: without VIRTIO_BALLOON_F_PAGE_POISON, what it has given away is uninitialized memory
 * (virtio 1.2, section 5.5.6.7.1).  Their bytes, or a negative errno: -EINVAL where it is no RAM but a
 * disk's file.  Not for huge pages: another could take one from the pool, and the guest's next touch would
 * find none.
 */
int64_t guest_memory_discard(const struct guest_memory *memory, void *at, uint64_t length);

#endif
