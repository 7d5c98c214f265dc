// SPDX-License-Identifier: GPL-2.0-only
/* Load initrds into guest memory. */
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>

#include "karma/log.h"
#include "internal.h"

/*
 * Linux looks for the next archive at multiples of 4 bytes and skips zeroes before it:
 * Documentation/driver-api/early-userspace/buffer-format.rst.
 */
#define ARCHIVE_ALIGN 4u

/* The best that deflate can do, for zeroes. */
#define GZIP_RATIO_MAX 1032u

/* "newc" of the same document: a magic, and 13 fields of 8 hexadecimal digits. */
#define CPIO_HEADER_BYTES 110u

/* For sizes that are known not to wrap. */
static uint64_t padded(uint64_t size)
{
	return (size + ARCHIVE_ALIGN - 1) & ~(ARCHIVE_ALIGN - 1ull);
}

void initrd_close(struct boot_initrd *initrd)
{
	for (size_t i = 0; i < initrd->count; i++)
		boot_file_close(&initrd->files[i]);
	free(initrd->files);
}

int initrd_open(const struct boot_options *options, struct boot_initrd *initrd)
{
	if (options->initrd_count > 0) {
		initrd->files = calloc(options->initrd_count, sizeof(*initrd->files));
		if (!initrd->files)
			return fail(-ENOMEM, "initrd: no memory for %zu of them: give fewer",
				options->initrd_count);
	}
	for (size_t i = 0; i < options->initrd_count; i++) {
		struct boot_file *file = &initrd->files[initrd->count++];
		uint64_t size;
		int result = boot_file_open(file, "initrd", options->initrds[i]);

		if (result < 0)
			return result;
		if (!align_up(file->size, ARCHIVE_ALIGN, &size) ||
			__builtin_add_overflow(initrd->size, size, &initrd->size))
			return fail(
				-EFBIG, "initrd %s: is too big: give a smaller one", file->path);
	}
	return 0;
}

/* The highest page that leaves size bytes from there to ceiling; false if that is below floor. */
static bool place(uint64_t size, uint64_t floor, uint64_t ceiling, uint64_t *address)
{
	if (size > ceiling)
		return false;
	*address = align_down(ceiling - size, PAGE_BYTES);
	return *address >= floor;
}

uint64_t initrd_ceiling(const struct guest_memory *memory, const struct boot_image *image)
{
	return image->initrd_max < memory->low_size ? image->initrd_max + 1 : memory->low_size;
}

static int find_place(const struct guest_memory *memory, const struct boot_image *image,
	struct boot_initrd *initrd)
{
	const char *name = initrd->files[0].path;
	const char *others = initrd->count > 1 ? " with those after it" : "";
	uint64_t ceiling = initrd_ceiling(memory, image), room, needed;

	if (place(initrd->size, image->end, ceiling, &initrd->address))
		return 0;
	if (image->initrd_above_4g && place(initrd->size, GUEST_HOLE_END,
					      GUEST_HOLE_END + memory->high_size, &initrd->address))
		return 0;

	room = ceiling > image->end ? ceiling - image->end : 0;
	if (ceiling < memory->low_size || memory->high_size ||
		__builtin_add_overflow(image->end, initrd->size, &needed) ||
		needed >= GUEST_HOLE_START)
		return fail(-EFBIG,
			"initrd %s: needs %" PRIu64 " MiB%s, but %" PRIu64
			" MiB are free between the kernel and 0x%" PRIx64 ": give a smaller one",
			name, to_mib(initrd->size), others, (uint64_t)(room / MIB), ceiling);
	return fail(-ENOMEM,
		"initrd %s: needs %" PRIu64 " MiB%s, but %" PRIu64
		" MiB are free behind the kernel: give --memory %" PRIu64 "M or more",
		name, to_mib(initrd->size), others, (uint64_t)(room / MIB),
		boot_memory_hint(image->end, initrd->size));
}

/* What Linux takes for an archive, packed or not: lib/decompress.c and init/initramfs.c there. */
static const char *const magics[] = { "070701", "070702", "\x1f\x8b", "\xfd" "7zXZ", "\x28\xb5\x2f\xfd",
	"\x02\x21\x4c\x18", "BZh", "\x89LZO", "\x5d" };

/* The archive that tells of the agent, as cpio(1) writes it. */
#define AGENT_ARCHIVE_BYTES 512

static bool has_agent(int fd)
{
	static const char name[] = "karma/agent";
	char head[CPIO_HEADER_BYTES + sizeof(name)];

	return pread(fd, head, sizeof(head), 0) == sizeof(head) && memcmp(head, magics[0], strlen(magics[0])) == 0 &&
		memcmp(head + CPIO_HEADER_BYTES, name, sizeof(name)) == 0;
}

bool boot_initrd_has_agent(const char *path)
{
	cleanup_fd int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);

	return fd >= 0 && has_agent(fd);
}

/*
 * A lower bound for the unpacked size; 0 if nothing is known.  Of the formats only gzip stores a size, in its last
 * bytes, which is right if nothing follows.
 */
static uint64_t unpacked_bytes(const struct boot_file *file)
{
	uint8_t head[8] = { 0 };
	uint32_t told;
	size_t i = 0;

	if (file->size < sizeof(head) ||
		pread(file->fd, head, sizeof(head), has_agent(file->fd) ? AGENT_ARCHIVE_BYTES : 0) != sizeof(head))
		return 0;
	while (i < ARRAY_SIZE(magics) && memcmp(head, magics[i], strlen(magics[i])) != 0)
		i++;
	if (i == ARRAY_SIZE(magics))
		return 0;
	if (head[0] != 0x1f ||
		pread(file->fd, &told, sizeof(told), (off_t)(file->size - sizeof(told))) != sizeof(told))
		return file->size;
	told = le32toh(told);
	return told > file->size && told / GZIP_RATIO_MAX < file->size ? told : file->size;
}

/*
 * Linux unpacks the initrds, while they are still in memory, to a tmpfs of half of the memory that the kernel
 * leaves; of all, with certain options on the command line.  What does not fit is silently lost.
 */
static int check_unpacked(const struct guest_memory *memory, const struct boot_image *image,
	const struct boot_initrd *initrd)
{
	bool whole = boot_has_option(image->cmdline, "root=") ||
		boot_has_option(image->cmdline, "rootfstype=") ||
		boot_has_option(image->cmdline, "initramfs_options=");
	uint64_t kept = image->bytes + initrd->size, unpacked = 0, room;

	for (size_t i = 0; i < initrd->count; i++)
		unpacked += unpacked_bytes(&initrd->files[i]);
	room = kept < memory->size ? memory->size - kept : 0;
	if (!whole)
		room /= 2;
	if (unpacked <= room)
		return 0;
	return fail(-ENOMEM,
		"initrd %s: takes %" PRIu64 " MiB or more%s when it is unpacked, but a guest of %" PRIu64
		" MiB has room for %" PRIu64 " MiB of that: give --memory %" PRIu64 "M or more",
		initrd->files[0].path, to_mib(unpacked), initrd->count > 1 ? " with those after it" : "",
		to_mib(memory->size), (uint64_t)(room / MIB),
		boot_memory_hint(kept + (whole ? unpacked : 2 * unpacked), 0));
}

int initrd_load(const struct guest_memory *memory, const struct boot_image *image, struct boot_initrd *initrd)
{
	uint64_t at;
	int result;

	if (initrd->size == 0)
		return 0;
	result = find_place(memory, image, initrd);
	if (result == 0)
		result = check_unpacked(memory, image, initrd);
	if (result < 0)
		return result;
	at = initrd->address;
	for (size_t i = 0; i < initrd->count; i++) {
		const struct boot_file *file = &initrd->files[i];

		result = boot_file_load(file, 0, memory, at, file->size);
		if (result < 0)
			return result;
		at += padded(file->size);
	}
	return 0;
}
