// SPDX-License-Identifier: GPL-2.0-only
/*
 * Formats of disk images, by their magic bytes.  Karma reads raw images alone, so another format is
 * a mistake.
 */
#include <string.h>
#include <unistd.h>

#include "karma/disk.h"
#include "karma/util.h"

#define START_BYTES 4096u

static const struct {
	const char *name;
	unsigned offset;
	const char *magic;
} formats[] = {
	{ "qcow2", 0, "QFI\xfb" },
	{ "QED", 0, "QED" },
	{ "VMDK", 0, "KDMV" },
	{ "VMDK", 0, "# Disk DescriptorFile" },
	{ "VDI", 64, "\x7f\x10\xda\xbe" },
	{ "VHDX", 0, "vhdxfile" },
	{ "VHD", 0, "conectix" },
	{ "Parallels", 0, "WithoutFreeSpace" },
	{ "Parallels", 0, "WithouFreSpacExt" },
};

const char *disk_image_format(int fd)
{
	/* Aligned for O_DIRECT. */
	_Alignas(START_BYTES) uint8_t start[START_BYTES];
	ssize_t length = pread(fd, start, sizeof(start), 0);

	for (size_t i = 0; i < ARRAY_SIZE(formats); i++) {
		size_t size = strlen(formats[i].magic);

		if ((ssize_t)(formats[i].offset + size) <= length &&
			memcmp(start + formats[i].offset, formats[i].magic, size) == 0)
			return formats[i].name;
	}
	return NULL;
}
