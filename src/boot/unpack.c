// SPDX-License-Identifier: GPL-2.0-only
/*
 * Unpack the kernel that is in a bzImage.
 *
 * Decoders have had holes, and what they read may be made to find one.  So this is for a process of its own,
 * which has nothing and may do next to nothing: boot_unpack_begin() takes all memory that there is to be and
 * reads what is packed, and boot_unpack() then makes no system call but to write what it has unpacked.
 */
#include <endian.h>
#include <libdeflate.h>
#include <lzma.h>
#include <string.h>
#include <sys/mman.h>
#include <zstd.h>

#include "internal.h"

#define MAGIC_BYTES 6u

static enum unpack_end unpack_xz(struct unpacking *unpacking);
static enum unpack_end unpack_gzip(struct unpacking *unpacking);
static enum unpack_end unpack_zstd(struct unpacking *unpacking);

static const struct format {
	const char *magic;
	size_t length;
	enum unpack_end (*unpack)(struct unpacking *unpacking);
} formats[] = {
	{ "\xfd" "7zXZ", 6, unpack_xz },
	{ "\x1f\x8b\x08", 3, unpack_gzip },
	{ "\x28\xb5\x2f\xfd", 4, unpack_zstd },
};

static const struct format *find_format(const uint8_t magic[MAGIC_BYTES])
{
	for (size_t i = 0; i < ARRAY_SIZE(formats); i++) {
		if (memcmp(magic, formats[i].magic, formats[i].length) == 0)
			return &formats[i];
	}
	return NULL;
}

/* What xz allocates it takes from one piece of memory, and what it frees is lost. */
static void *take_memory(void *opaque, size_t count, size_t size)
{
	struct unpacking *unpacking = opaque;
	uint64_t bytes;
	void *at;

	if (__builtin_mul_overflow(count, size, &bytes) || !align_up(bytes, 64, &bytes) ||
		bytes > XZ_MEMORY_MAX - unpacking->taken)
		return NULL;
	at = unpacking->memory + unpacking->taken;
	unpacking->taken += bytes;
	return at;
}

static void leave_memory(void *opaque, void *at)
{
	(void)opaque;
	(void)at;
}

static enum unpack_end unpack_xz(struct unpacking *unpacking)
{
	const lzma_allocator allocator = { take_memory, leave_memory, unpacking };
	uint64_t memory_max = XZ_MEMORY_MAX;
	size_t in = 0, out = 0;

	switch (lzma_stream_buffer_decode(&memory_max, 0, &allocator, unpacking->packed, &in,
		unpacking->packed_size, unpacking->bytes, &out, unpacking->size)) {
	case LZMA_OK:
		return out == unpacking->size ? UNPACK_DONE : UNPACK_DAMAGED;
	case LZMA_MEM_ERROR:
	case LZMA_MEMLIMIT_ERROR:
	case LZMA_OPTIONS_ERROR:
		return UNPACK_UNSUPPORTED;
	default:
		return UNPACK_DAMAGED;
	}
}

static enum unpack_end unpack_gzip(struct unpacking *unpacking)
{
	return libdeflate_gzip_decompress(unpacking->gzip, unpacking->packed, unpacking->packed_size,
		       unpacking->bytes, unpacking->size, NULL) == LIBDEFLATE_SUCCESS ?
		UNPACK_DONE : UNPACK_DAMAGED;
}

/* The frame ends before the size that Linux's build adds. */
static enum unpack_end unpack_zstd(struct unpacking *unpacking)
{
	size_t frame = ZSTD_findFrameCompressedSize(unpacking->packed, unpacking->packed_size);

	if (ZSTD_isError(frame))
		return UNPACK_DAMAGED;
	return ZSTD_decompressDCtx(unpacking->zstd, unpacking->bytes, unpacking->size, unpacking->packed,
		       frame) == unpacking->size ? UNPACK_DONE : UNPACK_DAMAGED;
}

bool boot_unpack_can(const struct boot_kernel *kernel)
{
	uint8_t magic[MAGIC_BYTES];

	return kernel->payload_bytes > sizeof(magic) &&
		pread(kernel->file.fd, magic, sizeof(magic), (off_t)kernel->payload) == sizeof(magic) &&
		find_format(magic);
}

/* Linux's build has the unpacked size behind what is packed, which gzip (RFC 1952, 2.3.1) does anyway. */
static uint64_t unpacked_size(const struct boot_kernel *kernel)
{
	uint32_t size = 0;
	uint64_t end = kernel->payload + kernel->payload_bytes;

	return pread(kernel->file.fd, &size, sizeof(size), (off_t)(end - sizeof(size))) == sizeof(size)
		? le32toh(size) : 0;
}

static void *map(size_t size)
{
	void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
		-1, 0);

	return at == MAP_FAILED ? NULL : at;
}

static bool take_all_memory(struct unpacking *unpacking)
{
	unpacking->memory = map(XZ_MEMORY_MAX);
	unpacking->bytes = map(unpacking->size);
	unpacking->packed = malloc(unpacking->packed_size);
	unpacking->sums = malloc(boot_cache_blocks(unpacking->size) * sizeof(*unpacking->sums));
	unpacking->gzip = libdeflate_alloc_decompressor();
	unpacking->zstd = ZSTD_createDCtx();
	return unpacking->memory && unpacking->bytes && unpacking->packed && unpacking->sums &&
		unpacking->gzip && unpacking->zstd;
}

bool boot_unpack_begin(struct unpacking *unpacking, const struct boot_kernel *kernel, int out,
	uint64_t most)
{
	*unpacking = (struct unpacking){
		.kernel = kernel,
		.out = out,
		.packed_size = kernel->payload_bytes,
		.size = unpacked_size(kernel),
	};
	if (most > BOOT_UNPACKED_MAX)
		most = BOOT_UNPACKED_MAX;
	return unpacking->packed_size <= most && unpacking->size > 0 && unpacking->size <= most &&
		take_all_memory(unpacking) &&
		pread(kernel->file.fd, unpacking->packed, unpacking->packed_size,
			(off_t)kernel->payload) == (ssize_t)unpacking->packed_size;
}

enum unpack_end boot_unpack(struct unpacking *unpacking)
{
	const struct format *format = find_format(unpacking->packed);
	enum unpack_end end = format ? format->unpack(unpacking) : UNPACK_DAMAGED;

	if (end == UNPACK_DAMAGED)
		return end;
	/* What is no ELF file only the guest can start. */
	if (end == UNPACK_UNSUPPORTED || !elf_is(unpacking->bytes, unpacking->size))
		unpacking->size = 0;
	return boot_cache_write(unpacking->kernel, unpacking->out, unpacking->bytes, unpacking->size,
		       unpacking->sums) ? UNPACK_DONE : UNPACK_NO_SPACE;
}
