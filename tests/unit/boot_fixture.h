/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Kernels and a guest that they are loaded into. Each file of tests that includes this has its own.
 */
#ifndef KARMA_TESTS_BOOT_FIXTURE_H
#define KARMA_TESTS_BOOT_FIXTURE_H

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "../../src/boot/internal.h"
#include "guest.h"
#include "karma/util.h"

/* The parts of the suite. */
void boot_initrd_tests(Suite *suite);
void boot_tables_tests(Suite *suite);

#define GUEST_BYTES (32 * MIB)
#define LOAD_ADDRESS 0x1000000u
#define MUTATIONS 4000u

/* The crafted bzImage. */
#define SETUP_BYTES 1024u
#define CODE_BYTES 4096u
#define BZIMAGE_BYTES (SETUP_BYTES + CODE_BYTES)
#define INIT_SIZE (1u << 20)
#define VERSION_OFFSET 0x300u
#define VERSION "6.1.0-test+1 (me@here) #1 SMP"
#define HDR(field) \
	(0x1f1 + offsetof(struct setup_header, field)), sizeof(((struct setup_header *)0)->field)

/* The crafted ELF file: header, program headers, notes, a page for two segments each. */
#define PHDRS 3u
#define NOTE_OFFSET 0x200u
#define TEXT_OFFSET 0x1000u
#define DATA_OFFSET 0x2000u
#define ELF_BYTES 0x3000u
#define ELF_ENTRY (LOAD_ADDRESS + 0x40)
#define EHDR(field) offsetof(Elf64_Ehdr, field), sizeof(((Elf64_Ehdr *)0)->field)
#define PHDR(n, field) \
	(sizeof(Elf64_Ehdr) + (n) * sizeof(Elf64_Phdr) + offsetof(Elf64_Phdr, field)), \
		sizeof(((Elf64_Phdr *)0)->field)

static char directory[] = "/tmp/karma-boot-XXXXXX";
static char kernel_path[64], initrd_path[64], second_path[64];
static struct guest_memory memory;
static uint8_t image[ELF_BYTES > BZIMAGE_BYTES ? ELF_BYTES : BZIMAGE_BYTES];
static char messages[4096];

static inline void setup(void)
{
	/* Each test runs in a process of its own, which starts with the template. */
	ck_assert_ptr_nonnull(mkdtemp(directory));
	snprintf(kernel_path, sizeof(kernel_path), "%s/kernel", directory);
	snprintf(initrd_path, sizeof(initrd_path), "%s/initrd", directory);
	snprintf(second_path, sizeof(second_path), "%s/second", directory);
	ck_assert_int_eq(
		guest_memory_init(&memory, &(struct memory_options){ .size = GUEST_BYTES }), 0);
}

static inline void teardown(void)
{
	guest_memory_release(&memory);
	unlink(kernel_path);
	unlink(initrd_path);
	unlink(second_path);
	rmdir(directory);
	memcpy(directory + strlen(directory) - 6, "XXXXXX", 6);
}

static inline void resize_guest(uint64_t size)
{
	guest_memory_release(&memory);
	ck_assert_int_eq(guest_memory_init(&memory, &(struct memory_options){ .size = size }), 0);
}

static inline void write_file(const char *path, const void *data, size_t size)
{
	cleanup_fd int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(write(fd, data, size), (ssize_t)size);
}

static inline void write_sparse(const char *path, uint64_t size)
{
	write_file(path, "", 0);
	ck_assert_int_eq(truncate(path, (off_t)size), 0);
}

static inline void poke(size_t offset, size_t size, uint64_t value)
{
	memcpy(image + offset, &value, size);
}

static inline size_t make_bzimage(void)
{
	struct setup_header header = {
		.setup_sects = SETUP_BYTES / 512 - 1,
		.syssize = CODE_BYTES / 16,
		.boot_flag = 0xaa55,
		.jump = 0xeb | (0x6a << 8),
		.version = 0x020f,
		.kernel_version = VERSION_OFFSET - 0x200,
		.loadflags = LOADED_HIGH,
		.initrd_addr_max = 0x7fffffff,
		.kernel_alignment = 0x200000,
		.relocatable_kernel = 1,
		.xloadflags = XLF_KERNEL_64,
		.cmdline_size = 2047,
		.pref_address = LOAD_ADDRESS,
		.init_size = INIT_SIZE,
	};

	memcpy(&header.header, "HdrS", 4);
	memset(image, 0, sizeof(image));
	image[0x1ef] = 0xff; /* the sentinel, which must not get into boot_params */
	memcpy(image + 0x1f1, &header, sizeof(header));
	memcpy(image + VERSION_OFFSET, VERSION, sizeof(VERSION));
	memset(image + SETUP_BYTES, 0x90, CODE_BYTES);
	return BZIMAGE_BYTES;
}

static inline int load_path(const char *path, const struct boot_options *options, struct boot_entry *entry)
{
	cleanup_boot_kernel struct boot_kernel kernel = BOOT_KERNEL_NONE;
	struct boot_options complete = *options;
	int result = boot_kernel_open(&kernel, path);

	if (result < 0)
		return result;
	complete.kernel = &kernel;
	complete.cmdline = options->cmdline ?: "quiet";
	complete.cpus = options->cpus ?: 1;
	return boot_load(&memory, &complete, entry);
}

static inline int load(const struct boot_options *options, struct boot_entry *entry)
{
	return load_path(kernel_path, options, entry);
}

/* Send what goes to stderr into a file of its own; returns the stderr there was. */
static inline int divert_messages(int *to)
{
	int saved = dup(STDERR_FILENO);

	*to = memfd_create("messages", MFD_CLOEXEC);
	ck_assert_int_ge(saved, 0);
	ck_assert_int_ge(*to, 0);
	dup2(*to, STDERR_FILENO);
	return saved;
}

static inline void restore_messages(int from, int saved)
{
	ssize_t length = pread(from, messages, sizeof(messages) - 1, 0);

	ck_assert_int_ge(length, 0);
	messages[length] = '\0';
	dup2(saved, STDERR_FILENO);
	close(saved);
	close(from);
}

static inline void expect_message(int result, int error, const char *path, const char *message)
{
	ck_assert_msg(result == error, "%s: returned %d, said: %s", message, result, messages);
	ck_assert_msg(strstr(messages, path) != NULL, "%s does not name %s", messages, path);
	ck_assert_msg(strstr(messages, message) != NULL, "%s has no \"%s\"", messages, message);
	ck_assert_msg(strchr(messages, '\n') == messages + strlen(messages) - 1,
		"%s is not one line", messages);
}

static inline void expect_failure(
	const struct boot_options *options, int error, const char *path, const char *message)
{
	struct boot_entry entry;
	int to, saved, result;

	saved = divert_messages(&to);
	result = load(options, &entry);
	restore_messages(to, saved);
	expect_message(result, error, path, message);
}

static inline const void *guest(uint64_t address, size_t size)
{
	const void *at = guest_memory_at(&memory, GPA(address), size);

	ck_assert_ptr_nonnull(at);
	return at;
}

static inline const struct boot_params *zero_page(void)
{
	return guest(BOOT_PARAMS, sizeof(struct boot_params));
}

#endif
