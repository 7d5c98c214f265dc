// SPDX-License-Identifier: GPL-2.0-only
/*
 * Unpack the kernel in a bzImage.
 *
 * The payload may be crafted to exploit a bug in a decoder.  So this runs in a process of its own, in the sandbox:
 * boot_unpack_begin() allocates all memory and reads the payload, and boot_unpack() then makes no system call
 * but to write its output.
 */
#include <endian.h>
#include <libdeflate.h>
#include <lz4.h>
#include <lzma.h>
#include <string.h>
#include <sys/mman.h>
#include <zstd.h>

#include "internal.h"

#define MAGIC_BYTES 6u

/* The legacy frame format of lz4, as `lz4 -l` writes it: blocks that are packed apart, each behind its size. */
#define LZ4_MAGIC_BYTES 4u
#define LZ4_BLOCK_BYTES (8 << 20)

static enum unpack_end unpack_xz(struct unpacking *unpacking);
static enum unpack_end unpack_gzip(struct unpacking *unpacking);
static enum unpack_end unpack_zstd(struct unpacking *unpacking);
static enum unpack_end unpack_lz4(struct unpacking *unpacking);

static const struct format {
	const char *magic;
	size_t length;
	enum unpack_end (*unpack)(struct unpacking *unpacking);
} formats[] = {
	{ "\xfd" "7zXZ", 6, unpack_xz },
	{ "\x1f\x8b\x08", 3, unpack_gzip },
	{ "\x28\xb5\x2f\xfd", 4, unpack_zstd },
	{ "\x02\x21\x4c\x18", LZ4_MAGIC_BYTES, unpack_lz4 },
};

static const struct format *find_format(const uint8_t magic[MAGIC_BYTES])
{
	for (size_t i = 0; i < ARRAY_SIZE(formats); i++) {
		if (memcmp(magic, formats[i].magic, formats[i].length) == 0)
			return &formats[i];
	}
	return NULL;
}

/* xz allocates from one area, which is never freed: no system call is needed. */
static void *allocate(void *opaque, size_t count, size_t size)
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

static void ignore_free(void *opaque, void *at)
{
	(void)opaque;
	(void)at;
}

static enum unpack_end unpack_xz(struct unpacking *unpacking)
{
	const lzma_allocator allocator = { allocate, ignore_free, unpacking };
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

/* The frame only, since Linux's build appends the unpacked size to it. */
static enum unpack_end unpack_zstd(struct unpacking *unpacking)
{
	size_t frame = ZSTD_findFrameCompressedSize(unpacking->packed, unpacking->packed_size);

	if (ZSTD_isError(frame))
		return UNPACK_DAMAGED;
	return ZSTD_decompressDCtx(unpacking->zstd, unpacking->bytes, unpacking->size, unpacking->packed,
		       frame) == unpacking->size ? UNPACK_DONE : UNPACK_DAMAGED;
}

/* The size that Linux's build adds ends the blocks. */
static enum unpack_end unpack_lz4(struct unpacking *unpacking)
{
	const uint8_t *packed = unpacking->packed + LZ4_MAGIC_BYTES;
	size_t left = unpacking->packed_size - LZ4_MAGIC_BYTES, unpacked = 0;
	uint32_t block;

	for (; left > 2 * sizeof(block); packed += block, left -= block) {
		size_t room = unpacking->size - unpacked;
		int got;

		memcpy(&block, packed, sizeof(block));
		block = le32toh(block);
		packed += sizeof(block);
		left -= sizeof(block);
		if (block > LZ4_COMPRESSBOUND(LZ4_BLOCK_BYTES) || block > left - sizeof(uint32_t))
			return UNPACK_DAMAGED;
		got = LZ4_decompress_safe((const char *)packed, (char *)unpacking->bytes + unpacked, block,
			room < LZ4_BLOCK_BYTES ? room : LZ4_BLOCK_BYTES);
		if (got < 0)
			return UNPACK_DAMAGED;
		unpacked += got;
	}
	return left == sizeof(uint32_t) && unpacked == unpacking->size ? UNPACK_DONE : UNPACK_DAMAGED;
}

bool boot_unpack_can(const struct boot_kernel *kernel)
{
	uint8_t magic[MAGIC_BYTES];

	return kernel->payload_bytes > sizeof(magic) &&
		pread(kernel->file.fd, magic, sizeof(magic), (off_t)kernel->payload) == sizeof(magic) &&
		find_format(magic);
}

/* Linux's build appends the unpacked size to the payload; gzip has it there by itself (RFC 1952, 2.3.1). */
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

static bool allocate_all(struct unpacking *unpacking)
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
	uint64_t max)
{
	*unpacking = (struct unpacking){
		.kernel = kernel,
		.out = out,
		.packed_size = kernel->payload_bytes,
		.size = unpacked_size(kernel),
	};
	if (max > BOOT_UNPACKED_MAX)
		max = BOOT_UNPACKED_MAX;
	return unpacking->packed_size <= max && unpacking->size > 0 && unpacking->size <= max &&
		allocate_all(unpacking) &&
		pread(kernel->file.fd, unpacking->packed, unpacking->packed_size,
			(off_t)kernel->payload) == (ssize_t)unpacking->packed_size;
}

enum unpack_end boot_unpack(struct unpacking *unpacking)
{
	const struct format *format = find_format(unpacking->packed);
	enum unpack_end end = format ? format->unpack(unpacking) : UNPACK_DAMAGED;

	if (end == UNPACK_DAMAGED)
		return end;
	/* An empty entry for what only the guest can unpack or start. */
	if (end == UNPACK_UNSUPPORTED || !elf_is(unpacking->bytes, unpacking->size))
		unpacking->size = 0;
	return boot_cache_write(unpacking->kernel, unpacking->out, unpacking->bytes, unpacking->size,
		       unpacking->sums) ? UNPACK_DONE : UNPACK_NO_SPACE;
}
