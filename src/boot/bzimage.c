// SPDX-License-Identifier: GPL-2.0-only
/*
 * Load a bzImage by Linux's 64-bit boot protocol, or an i386 one by its 32-bit protocol; offsets and
 * sections here are those of Linux Documentation/arch/x86/boot.rst.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "karma/log.h"
#include "internal.h"

#define HEADER_OFFSET 0x1f1u /* of struct setup_header, in the file as in boot_params */
#define MAGIC_OFFSET 0x202u  /* "HdrS"; the length of the header counts from here */
#define ENTRY_OFFSET 0x200u  /* of the 64-bit entry in the protected-mode kernel */
#define SECTOR 512u
#define PROTOCOL_MIN 0x020cu  /* 2.12 brought xloadflags */
#define LOADER_UNDEFINED 0xff /* "The type_of_loader field": no identity assigned */
#define VERSION_BYTES 256u
#define HEADER_NEEDED \
	(offsetof(struct setup_header, init_size) + sizeof(((struct setup_header *)0)->init_size))

/* The parts of the file, in bytes. */
struct parts {
	uint64_t setup; /* the real-mode code and its header, left out */
	uint64_t code;  /* the protected-mode kernel behind it */
};

bool bzimage_is(const void *head, size_t size)
{
	return size >= MAGIC_OFFSET + 4 && !memcmp((const uint8_t *)head + MAGIC_OFFSET, "HdrS", 4);
}

static int read_header(const struct boot_file *file, struct setup_header *header)
{
	uint64_t length;
	int result;

	memset(header, 0, sizeof(*header));
	if (file->size < HEADER_OFFSET + sizeof(*header))
		return fail(-ENOEXEC,
			"kernel %s: is a bzImage cut short in its header: copy it again",
			file->path);
	result = boot_file_read(file, HEADER_OFFSET, header, sizeof(*header));
	if (result < 0)
		return result;

	/* The jump over the header tells where it ends; fields behind that are code. */
	length = MAGIC_OFFSET - HEADER_OFFSET + (header->jump >> 8);
	if (length < sizeof(*header))
		memset((uint8_t *)header + length, 0, sizeof(*header) - length);
	if (header->version < PROTOCOL_MIN)
		return fail(-ENOEXEC,
			"kernel %s: has boot protocol %u.%02u, Karma needs 2.12: give "
			"Linux 3.8 or later",
			file->path, header->version >> 8, header->version & 0xff);
	if (length < HEADER_NEEDED)
		return fail(-ENOEXEC,
			"kernel %s: has a header of %" PRIu64
			" bytes, too short for its protocol: the file is damaged; copy it again",
			file->path, length);
	return 0;
}

static int find_parts(
	const struct boot_file *file, const struct setup_header *header, struct parts *parts)
{
	/* "Loading The Rest of The Kernel": 0 sectors mean 4, and the boot sector comes on top. */
	uint64_t sectors = header->setup_sects ? header->setup_sects : 4;

	parts->setup = (sectors + 1) * SECTOR;
	parts->code = header->syssize * 16ull;
	if (parts->code <= ENTRY_OFFSET)
		return fail(-ENOEXEC,
			"kernel %s: has only %" PRIu64
			" bytes of code: the file is damaged; copy it again",
			file->path, parts->code);
	if (parts->setup + parts->code > file->size)
		return fail(-ENOEXEC,
			"kernel %s: has %" PRIu64 " of %" PRIu64
			" bytes: it is cut short; copy it again",
			file->path, file->size, parts->setup + parts->code);
	return 0;
}

/*
 * At pref_address, even if the kernel is relocatable: it unpacks itself to pref_address or above, so a lower address
 * would save no memory, and a higher one would waste some.
 */
static int load_packed(const struct guest_memory *memory, const struct boot_file *file,
	const struct parts *parts, struct boot_image *image)
{
	const struct setup_header *header = &image->header;
	uint64_t size = header->init_size > parts->code ? header->init_size : parts->code;
	int result = boot_check_range(file, header->pref_address, size);

	if (result == 0)
		result = boot_check_memory(file, memory, image, header->pref_address + size);
	if (result < 0)
		return result;
	image->entry = header->pref_address;
	if (image->protocol == BOOT_LINUX64)
		image->entry += ENTRY_OFFSET;
	image->end = header->pref_address + size;
	return boot_file_load(file, parts->setup, memory, header->pref_address, parts->code);
}

int bzimage_find_payload(const struct boot_file *file, uint64_t *offset, uint64_t *bytes)
{
	struct setup_header header;
	struct parts parts;
	int result = read_header(file, &header);

	if (result == 0)
		result = find_parts(file, &header, &parts);
	if (result < 0)
		return result;
	/* "payload_offset" counts from the protected-mode code. */
	*offset = parts.setup + header.payload_offset;
	*bytes = *offset + header.payload_length <= file->size ? header.payload_length : 0;
	return 0;
}

/*
 * The unpacked kernel takes the same boot_params as the bzImage, and its entry requires the same state: 64-bit
 * mode with an identity mapping, or 32-bit mode without paging.
 */
static int load_code(const struct guest_memory *memory, const struct boot_kernel *kernel,
	const struct parts *parts, struct boot_image *image)
{
	int result = -EBADMSG;

	if (kernel->unpacked.fd >= 0)
		result = elf_load_unpacked(memory, &kernel->unpacked, image);
	if (result != -EBADMSG)
		return result;
	if (kernel->unpacked.fd >= 0) {
		note("kernel %s: what the cache had of it is damaged, and is thrown away: the guest unpacks "
		     "it by itself this time",
			kernel->file.path);
		boot_cache_discard(kernel);
	}
	return load_packed(memory, &kernel->file, parts, image);
}

int bzimage_load(const struct guest_memory *memory, const struct boot_kernel *kernel,
	struct boot_image *image)
{
	const struct boot_file *file = &kernel->file;
	struct setup_header *header = &image->header;
	struct parts parts;
	int result;

	result = read_header(file, header);
	if (result < 0)
		return result;
	result = find_parts(file, header, &parts);
	if (result < 0)
		return result;
	image->protocol = header->xloadflags & XLF_KERNEL_64 ? BOOT_LINUX64 : BOOT_LINUX32;
	image->initrd_max = header->initrd_addr_max;
	image->initrd_above_4g = header->xloadflags & XLF_CAN_BE_LOADED_ABOVE_4G;
	image->cmdline_max = header->cmdline_size;
	return load_code(memory, kernel, &parts, image);
}

int bzimage_write_params(const struct guest_memory *memory, const struct boot_image *image,
	const struct boot_initrd *initrd)
{
	struct boot_params params = {
		.hdr = image->header,
		.acpi_rsdp_addr = BOOT_ACPI,
		.ext_ramdisk_image = (uint32_t)(initrd->address >> 32),
		.ext_ramdisk_size = (uint32_t)(initrd->size >> 32),
	};

	params.hdr.type_of_loader = LOADER_UNDEFINED;
	params.hdr.cmd_line_ptr = BOOT_CMDLINE;
	params.hdr.ramdisk_image = (uint32_t)initrd->address;
	params.hdr.ramdisk_size = (uint32_t)initrd->size;
	params.e820_entries = (uint8_t)boot_e820(memory, params.e820_table);
	return boot_write(memory, BOOT_PARAMS, &params, sizeof(params));
}

int bzimage_release(const struct boot_file *file, char *release, size_t size)
{
	char version[VERSION_BYTES + 1] = "";
	struct setup_header header;
	uint64_t offset, length;
	size_t end;
	int result;

	result = read_header(file, &header);
	if (result < 0)
		return result;
	if (!header.kernel_version)
		return -ENOENT;
	offset = header.kernel_version + 0x200ull;
	if (offset >= file->size)
		return fail(-ENOEXEC,
			"kernel %s: names its release outside itself: it is cut short; "
			"copy it again",
			file->path);
	length = file->size - offset < VERSION_BYTES ? file->size - offset : VERSION_BYTES;
	result = boot_file_read(file, offset, version, length);
	if (result < 0)
		return result;

	/* "6.1.0-56-amd64 (builder@host) #1 SMP ..." */
	end = strcspn(version, " ");
	version[end] = '\0';
	if (!boot_release_is_valid(version) || end >= size)
		return fail(-ENOEXEC,
			"kernel %s: its header names no usable release: the file is "
			"damaged; copy it again, or give --initrd",
			file->path);
	memcpy(release, version, end + 1);
	return 0;
}
