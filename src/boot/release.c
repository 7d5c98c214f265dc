// SPDX-License-Identifier: GPL-2.0-only
/* Find the release of a kernel, by which its initramfs is found. */
#include <errno.h>
#include <string.h>

#include "karma/log.h"
#include "internal.h"

#define WORD_BYTES 128u
/* Linux's banner in an ELF file: behind the code, which is some 20 MiB at most. */
#define BANNER "Linux version "
#define SCAN_MAX (64 * MIB)
#define SCAN_STEP MIB
#define SCAN_OVERLAP 256u	/* a banner that a step cuts in two is whole in the next */

const char *boot_guest_directory(void)
{
	const char *directory = getenv("KARMA_GUEST_DIR");

	return directory && directory[0] ? directory : KARMA_GUEST_DIR;
}

/* A release becomes part of a path, so it must not be able to lead anywhere else. */
bool boot_release_is_valid(const char *release)
{
	return release[0] && release[0] != '.' && release[strspn(release, BOOT_RELEASE_CHARACTERS)] == '\0';
}

/* What follows the banner: "6.1.0-56-amd64 (builder@host) ...". */
static bool copy_release(const char *text, size_t length, char *release, size_t size)
{
	char word[WORD_BYTES + 2] = "";
	size_t end;

	memcpy(word, text, length < sizeof(word) - 1 ? length : sizeof(word) - 1);
	end = strcspn(word, " ");
	if (end >= size || strncmp(word + end, " (", 2) != 0)
		return false;
	word[end] = '\0';
	if (!boot_release_is_valid(word))
		return false;
	memcpy(release, word, end + 1);
	return true;
}

static bool find_banner(const char *text, size_t length, char *release, size_t size)
{
	const char *end = text + length;

	while ((text = memmem(text, end - text, BANNER, sizeof(BANNER) - 1))) {
		text += sizeof(BANNER) - 1;
		if (copy_release(text, end - text, release, size))
			return true;
	}
	return false;
}

/* Read, not mapped, since the file may shrink meanwhile.  Other defects of it are left to boot_load(). */
static int elf_release(const struct boot_file *file, char *release, size_t size)
{
	cleanup_free char *text = malloc(SCAN_STEP + SCAN_OVERLAP);

	if (!text)
		return fail(-ENOMEM, "kernel %s: no memory to read it: free some on the host",
			file->path);
	for (uint64_t offset = 0; offset < file->size && offset < SCAN_MAX; offset += SCAN_STEP) {
		uint64_t length = file->size - offset;
		int result;

		if (length > SCAN_STEP + SCAN_OVERLAP)
			length = SCAN_STEP + SCAN_OVERLAP;
		result = boot_file_read(file, offset, text, length);
		if (result < 0)
			return result;
		if (find_banner(text, length, release, size))
			return 0;
	}
	return -ENOENT;
}

int boot_kernel_release(const char *path, char *release, size_t size)
{
	cleanup_boot_file struct boot_file file = BOOT_FILE_NONE;
	uint8_t head[HEAD_BYTES];
	int result;

	/* -ENOENT says that a kernel names no release, so a missing file gives another error. */
	result = boot_file_open(&file, "kernel", path);
	if (result < 0)
		return result == -ENOENT ? -EINVAL : result;
	if (file.size < sizeof(head))
		return -ENOENT;
	result = boot_file_read(&file, 0, head, sizeof(head));
	if (result < 0)
		return result;
	if (bzimage_is(head, sizeof(head)))
		return bzimage_release(&file, release, size);
	return elf_is(head, sizeof(head)) ? elf_release(&file, release, size) : -ENOENT;
}
