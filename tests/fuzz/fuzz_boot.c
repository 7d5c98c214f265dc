// SPDX-License-Identifier: GPL-2.0-only
/*
 * Fuzz what a kernel or initrd file holds: boot_load() takes any bytes and never crashes.
 *
 * The first byte says which kind of file the rest is made to look like.  Every rejected file costs
 * a message: run it with -close_fd_mask=2.
 */
#include <elf.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "karma/boot.h"
#include "karma/util.h"

#define GUEST_BYTES (64 * MIB)
#define CMDLINE "console=hvc0"

enum kind {
	KIND_ANY,
	KIND_BZIMAGE,
	KIND_ELF,
	KINDS,
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The magics that a fuzzer takes long to find, put over what it has found. */
static void disguise(int fd, enum kind kind)
{
	static const uint8_t elf[EI_NIDENT] = {
		0x7f,
		'E',
		'L',
		'F',
		ELFCLASS64,
		ELFDATA2LSB,
		EV_CURRENT,
	};

	if (kind == KIND_BZIMAGE && pwrite(fd, "HdrS\x0f\x02", 6, 0x202) != 6)
		abort();
	if (kind == KIND_ELF && pwrite(fd, elf, sizeof(elf), 0) != sizeof(elf))
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	cleanup_fd int fd = memfd_create("kernel", MFD_CLOEXEC);
	struct guest_memory memory;
	struct boot_entry entry;
	char path[32], release[64];
	const char *initrds[] = { path };
	struct boot_options options = {
		.kernel = path,
		.initrds = initrds,
		.initrd_count = 1,
		.cmdline = CMDLINE,
		.cpus = 1,
	};

	if (fd < 0 || guest_memory_init(&memory, &(struct memory_options){ .size = GUEST_BYTES }) < 0)
		abort();
	if (size > 0) {
		if (write(fd, data + 1, size - 1) != (ssize_t)(size - 1))
			abort();
		disguise(fd, data[0] % KINDS);
	}
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	if (boot_load(&memory, &options, &entry) == 0 && !guest_memory_at(&memory, entry.entry, 1))
		abort();
	boot_kernel_release(path, release, sizeof(release));
	guest_memory_release(&memory);
	return 0;
}
