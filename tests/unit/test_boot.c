// SPDX-License-Identifier: GPL-2.0-only
/* Boot: valid kernels and initrds end up where they should; files that lie get a message. */
#include <check.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "karma/util.h"
#include "../../src/boot/internal.h"

Suite *boot_suite(void);

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

/* A value at an offset of a valid file that makes it a lie, and what is said to that. */
struct lie {
	size_t offset;
	size_t size;
	uint64_t value;
	int error;
	const char *message;
};

struct elf_note {
	Elf64_Nhdr header;
	char name[4];
	uint32_t desc[2];
};

static char directory[] = "/tmp/karma-boot-XXXXXX";
static char kernel_path[64], initrd_path[64], second_path[64];
static struct guest_memory memory;
static uint8_t image[ELF_BYTES > BZIMAGE_BYTES ? ELF_BYTES : BZIMAGE_BYTES];
static char messages[4096];

static void setup(void)
{
	/* Each test runs in a process of its own, which starts with the template. */
	ck_assert_ptr_nonnull(mkdtemp(directory));
	snprintf(kernel_path, sizeof(kernel_path), "%s/kernel", directory);
	snprintf(initrd_path, sizeof(initrd_path), "%s/initrd", directory);
	snprintf(second_path, sizeof(second_path), "%s/second", directory);
	ck_assert_int_eq(
		guest_memory_init(&memory, &(struct memory_options){ .size = GUEST_BYTES }), 0);
}

static void teardown(void)
{
	guest_memory_release(&memory);
	unlink(kernel_path);
	unlink(initrd_path);
	unlink(second_path);
	rmdir(directory);
	memcpy(directory + strlen(directory) - 6, "XXXXXX", 6);
}

static void resize_guest(uint64_t size)
{
	guest_memory_release(&memory);
	ck_assert_int_eq(guest_memory_init(&memory, &(struct memory_options){ .size = size }), 0);
}

static void write_file(const char *path, const void *data, size_t size)
{
	cleanup_fd int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(write(fd, data, size), (ssize_t)size);
}

static void write_sparse(const char *path, uint64_t size)
{
	write_file(path, "", 0);
	ck_assert_int_eq(truncate(path, (off_t)size), 0);
}

static void poke(size_t offset, size_t size, uint64_t value)
{
	memcpy(image + offset, &value, size);
}

static size_t make_bzimage(void)
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

static size_t make_elf(void)
{
	Elf64_Ehdr elf = {
		.e_ident = { 0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, EV_CURRENT },
		.e_type = ET_EXEC,
		.e_machine = EM_X86_64,
		.e_phoff = sizeof(Elf64_Ehdr),
		.e_phentsize = sizeof(Elf64_Phdr),
		.e_phnum = PHDRS,
	};
	Elf64_Phdr phdrs[PHDRS] = {
		{ .p_type = PT_LOAD,
			.p_offset = TEXT_OFFSET,
			.p_paddr = LOAD_ADDRESS,
			.p_vaddr = 0xffffffff81000000,
			.p_filesz = 0x1000,
			.p_memsz = 0x1000 },
		{ .p_type = PT_LOAD,
			.p_offset = DATA_OFFSET,
			.p_paddr = LOAD_ADDRESS + 0x2000,
			.p_filesz = 0x1000,
			.p_memsz = 0x3000 },
		{ .p_type = PT_NOTE, .p_offset = NOTE_OFFSET, .p_align = 4 },
	};
	/* The first has the right type, but another name. */
	struct elf_note notes[2] = {
		{ { 4, 8, 18 }, "Ken", { 1, 2 } },
		{ { 4, 4, 18 }, "Xen", { ELF_ENTRY, 0 } },
	};

	phdrs[2].p_filesz = sizeof(notes);
	memset(image, 0, sizeof(image));
	memcpy(image, &elf, sizeof(elf));
	memcpy(image + sizeof(elf), phdrs, sizeof(phdrs));
	memcpy(image + NOTE_OFFSET, notes, sizeof(notes));
	memset(image + TEXT_OFFSET, 0x90, 0x1000);
	memset(image + DATA_OFFSET, 0xda, 0x1000);
	return ELF_BYTES;
}

static int load_path(const char *path, const struct boot_options *options, struct boot_entry *entry)
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

static int load(const struct boot_options *options, struct boot_entry *entry)
{
	return load_path(kernel_path, options, entry);
}

/* Send what goes to stderr into a file of its own; returns the stderr there was. */
static int divert_messages(int *to)
{
	int saved = dup(STDERR_FILENO);

	*to = memfd_create("messages", MFD_CLOEXEC);
	ck_assert_int_ge(saved, 0);
	ck_assert_int_ge(*to, 0);
	dup2(*to, STDERR_FILENO);
	return saved;
}

static void restore_messages(int from, int saved)
{
	ssize_t length = pread(from, messages, sizeof(messages) - 1, 0);

	ck_assert_int_ge(length, 0);
	messages[length] = '\0';
	dup2(saved, STDERR_FILENO);
	close(saved);
	close(from);
}

static void expect_message(int result, int error, const char *path, const char *message)
{
	ck_assert_msg(result == error, "%s: returned %d, said: %s", message, result, messages);
	ck_assert_msg(strstr(messages, path) != NULL, "%s does not name %s", messages, path);
	ck_assert_msg(strstr(messages, message) != NULL, "%s has no \"%s\"", messages, message);
	ck_assert_msg(strchr(messages, '\n') == messages + strlen(messages) - 1,
		"%s is not one line", messages);
}

static void expect_failure(
	const struct boot_options *options, int error, const char *path, const char *message)
{
	struct boot_entry entry;
	int to, saved, result;

	saved = divert_messages(&to);
	result = load(options, &entry);
	restore_messages(to, saved);
	expect_message(result, error, path, message);
}

static void expect_bad_path(const char *path, int error, const char *message)
{
	struct boot_entry entry;
	int to, saved, result;

	saved = divert_messages(&to);
	result = load_path(path, &(struct boot_options){ 0 }, &entry);
	restore_messages(to, saved);
	expect_message(result, error, path, message);
}

static void expect_bad_kernel(int error, const char *message)
{
	expect_bad_path(kernel_path, error, message);
}

static void expect_lies(size_t (*make)(void), const struct lie *lies, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		size_t size = make();

		poke(lies[i].offset, lies[i].size, lies[i].value);
		write_file(kernel_path, image, size);
		expect_bad_kernel(lies[i].error, lies[i].message);
	}
}

static const void *guest(uint64_t address, size_t size)
{
	const void *at = guest_memory_at(&memory, GPA(address), size);

	ck_assert_ptr_nonnull(at);
	return at;
}

static const struct boot_params *zero_page(void)
{
	return guest(BOOT_PARAMS, sizeof(struct boot_params));
}

START_TEST(bzimage_loads)
{
	struct boot_entry entry;
	const struct boot_params *params;

	write_file(kernel_path, image, make_bzimage());
	ck_assert_int_eq(load(&(struct boot_options){ .cmdline = "a=b c" }, &entry), 0);
	ck_assert_int_eq(entry.protocol, BOOT_LINUX64);
	ck_assert_uint_eq(entry.entry.value, LOAD_ADDRESS + 0x200);
	ck_assert_uint_eq(entry.params.value, BOOT_PARAMS);
	ck_assert_mem_eq(guest(LOAD_ADDRESS, CODE_BYTES), image + SETUP_BYTES, CODE_BYTES);
	ck_assert_str_eq(guest(BOOT_CMDLINE, 6), "a=b c");

	params = zero_page();
	ck_assert_uint_eq(params->hdr.type_of_loader, 0xff);
	ck_assert_uint_eq(params->hdr.cmd_line_ptr, BOOT_CMDLINE);
	ck_assert_uint_eq(params->hdr.init_size, INIT_SIZE);
	ck_assert_uint_eq(params->hdr.boot_flag, 0xaa55);
	ck_assert_uint_eq(params->hdr.ramdisk_image, 0);
	ck_assert_uint_eq(params->hdr.ramdisk_size, 0);
	ck_assert_uint_eq(params->acpi_rsdp_addr, BOOT_ACPI);
	ck_assert_uint_eq(params->sentinel, 0);
}
END_TEST

START_TEST(bzimage_of_i386_loads)
{
	struct boot_entry entry;
	const uint64_t *gdt;

	make_bzimage();
	poke(HDR(xloadflags), 0);
	write_file(kernel_path, image, BZIMAGE_BYTES);
	ck_assert_int_eq(load(&(struct boot_options){ .cmdline = "a=b c" }, &entry), 0);
	ck_assert_int_eq(entry.protocol, BOOT_LINUX32);
	ck_assert_uint_eq(entry.entry.value, LOAD_ADDRESS);
	ck_assert_uint_eq(entry.params.value, BOOT_PARAMS);
	ck_assert_mem_eq(guest(LOAD_ADDRESS, CODE_BYTES), image + SETUP_BYTES, CODE_BYTES);
	ck_assert_uint_eq(zero_page()->hdr.cmd_line_ptr, BOOT_CMDLINE);
	ck_assert_uint_eq(zero_page()->acpi_rsdp_addr, BOOT_ACPI);

	/* __BOOT_CS and __BOOT_DS are flat, and of 32 bits. */
	gdt = guest(BOOT_GDT, 4 * 8);
	ck_assert_uint_eq(gdt[0x10 / 8], 0x00cf9b000000ffff);
	ck_assert_uint_eq(gdt[0x18 / 8], 0x00cf93000000ffff);
}
END_TEST

START_TEST(bzimage_header_length_is_respected)
{
	struct boot_entry entry;

	/* A header that ends behind init_size: what follows in the file is code. */
	make_bzimage();
	poke(HDR(jump), 0xeb | ((0x264 - 0x202) << 8));
	poke(HDR(kernel_info_offset), 0x12345678);
	write_file(kernel_path, image, BZIMAGE_BYTES);
	ck_assert_int_eq(load(&(struct boot_options){ 0 }, &entry), 0);
	ck_assert_uint_eq(zero_page()->hdr.init_size, INIT_SIZE);
	ck_assert_uint_eq(zero_page()->hdr.kernel_info_offset, 0);
}
END_TEST

START_TEST(bzimage_lies)
{
	static const struct lie lies[] = {
		{ HDR(header), 0, -ENOEXEC, "is a disk's image or another boot sector" },
		{ HDR(version), 0x020b, -ENOEXEC, "boot protocol 2.11" },
		{ HDR(version), 0x0000, -ENOEXEC, "boot protocol 0.00" },
		{ HDR(jump), 0x10eb, -ENOEXEC, "too short" },
		{ HDR(setup_sects), 0xff, -ENOEXEC, "cut short" },
		{ HDR(setup_sects), 0, -ENOEXEC, "cut short" },
		{ HDR(syssize), 0, -ENOEXEC, "only 0 bytes of code" },
		{ HDR(syssize), 0x20, -ENOEXEC, "only 512 bytes of code" },
		{ HDR(syssize), CODE_BYTES / 16 + 1, -ENOEXEC, "cut short" },
		{ HDR(syssize), UINT32_MAX, -ENOEXEC, "cut short" },
		{ HDR(init_size), 17 << 20, -ENOMEM,
			"takes memory up to 33 MiB, but the guest has 32 MiB: give --memory 52M or more" },
		{ HDR(init_size), 0x7fffffff, -ENOMEM, "give --memory 2080M or more" },
		{ HDR(init_size), UINT32_MAX, -ENOEXEC, "below 3 GiB" },
		{ HDR(pref_address), 0, -ENOEXEC, "first MiB" },
		{ HDR(pref_address), 0xff000, -ENOEXEC, "first MiB" },
		{ HDR(pref_address), GUEST_BYTES, -ENOMEM, "--memory 52M" },
		{ HDR(pref_address), GUEST_HOLE_START, -ENOEXEC, "below 3 GiB" },
		{ HDR(pref_address), GUEST_HOLE_END, -ENOEXEC, "below 3 GiB" },
		{ HDR(pref_address), UINT64_MAX, -ENOEXEC, "below 3 GiB" },
		{ HDR(pref_address), UINT64_MAX - INIT_SIZE + 1, -ENOEXEC, "below 3 GiB" },
	};

	expect_lies(make_bzimage, lies, ARRAY_SIZE(lies));
}
END_TEST

START_TEST(bzimage_cut_short)
{
	make_bzimage();
	for (size_t size = 1; size < BZIMAGE_BYTES; size += 61) {
		write_file(kernel_path, image, size);
		expect_bad_kernel(-ENOEXEC, size < 0x206 ? "neither bzImage" : "cut short");
	}
}
END_TEST

START_TEST(cmdline_limits)
{
	struct boot_entry entry;
	char cmdline[BOOT_CMDLINE_MAX + 1];

	memset(cmdline, 'x', sizeof(cmdline));
	cmdline[2048] = '\0';
	write_file(kernel_path, image, make_bzimage());
	expect_failure(&(struct boot_options){ .cmdline = cmdline }, -E2BIG, "--cmdline",
		"has 2048 bytes, but this kernel takes 2047");
	cmdline[2047] = '\0';
	ck_assert_int_eq(load(&(struct boot_options){ .cmdline = cmdline }, &entry), 0);

	memset(cmdline, 'x', sizeof(cmdline));
	cmdline[BOOT_CMDLINE_MAX] = '\0';
	poke(HDR(cmdline_size), UINT32_MAX);
	write_file(kernel_path, image, BZIMAGE_BYTES);
	expect_failure(&(struct boot_options){ .cmdline = cmdline }, -E2BIG, "--cmdline",
		"this kernel takes 65535");
	cmdline[BOOT_CMDLINE_MAX - 1] = '\0';
	ck_assert_int_eq(load(&(struct boot_options){ .cmdline = cmdline }, &entry), 0);
	ck_assert_str_eq(guest(BOOT_CMDLINE, BOOT_CMDLINE_MAX), cmdline);
}
END_TEST

START_TEST(elf_loads)
{
	static const uint8_t zeroes[0x2000];
	struct boot_entry entry;
	const uint32_t *start;
	const uint64_t *fields;

	write_file(kernel_path, image, make_elf());
	ck_assert_int_eq(load(&(struct boot_options){ 0 }, &entry), 0);
	ck_assert_int_eq(entry.protocol, BOOT_PVH);
	ck_assert_uint_eq(entry.entry.value, ELF_ENTRY);
	ck_assert_uint_eq(entry.params.value, BOOT_PARAMS);
	ck_assert_mem_eq(guest(LOAD_ADDRESS, 0x1000), image + TEXT_OFFSET, 0x1000);
	ck_assert_mem_eq(guest(LOAD_ADDRESS + 0x2000, 0x1000), image + DATA_OFFSET, 0x1000);
	ck_assert_mem_eq(guest(LOAD_ADDRESS + 0x3000, 0x2000), zeroes, 0x2000);

	/* struct hvm_start_info: Xen's arch-x86/hvm/start_info.h */
	start = guest(BOOT_PARAMS, 56);
	fields = guest(BOOT_PARAMS, 56);
	ck_assert_uint_eq(start[0], 0x336ec578);
	ck_assert_uint_eq(start[1], 1);
	ck_assert_uint_eq(start[3], 0);
	ck_assert_uint_eq(fields[2], 0);
	ck_assert_uint_eq(fields[3], BOOT_CMDLINE);
	ck_assert_uint_eq(fields[4], BOOT_ACPI);
	ck_assert_uint_eq(start[12], 4);
	fields = guest(fields[5], 24 * 4);
	ck_assert_uint_eq(fields[0], 0);
	ck_assert_uint_eq(fields[1], BOOT_LOW_END);
	ck_assert_uint_eq(fields[2], 1);
	ck_assert_uint_eq(fields[9], MIB);
	ck_assert_uint_eq(fields[10], GUEST_BYTES - MIB);
}
END_TEST

START_TEST(elf_entry_of_8_bytes)
{
	struct elf_note note = { { 4, 8, 18 }, "Xen", { ELF_ENTRY, 0 } };
	struct boot_entry entry;

	make_elf();
	memcpy(image + NOTE_OFFSET, &note, sizeof(note));
	write_file(kernel_path, image, ELF_BYTES);
	ck_assert_int_eq(load(&(struct boot_options){ 0 }, &entry), 0);
	ck_assert_uint_eq(entry.entry.value, ELF_ENTRY);
}
END_TEST

START_TEST(elf_initrd_is_a_module)
{
	const char *initrds[] = { initrd_path };
	struct boot_entry entry;
	const uint32_t *start;
	const uint64_t *module;

	write_file(kernel_path, image, make_elf());
	write_file(initrd_path, "initrd", 6);
	ck_assert_int_eq(
		load(&(struct boot_options){ .initrds = initrds, .initrd_count = 1 }, &entry), 0);
	start = guest(BOOT_PARAMS, 56);
	ck_assert_uint_eq(start[3], 1);
	module = guest(((const uint64_t *)start)[2], 32);
	ck_assert_uint_eq(module[0], GUEST_BYTES - PAGE_BYTES);
	ck_assert_uint_eq(module[1], 8);
	ck_assert_mem_eq(guest(module[0], 6), "initrd", 6);
}
END_TEST

START_TEST(elf_lies)
{
	static const struct lie lies[] = {
		{ EI_CLASS, 1, ELFCLASS32, -ENOEXEC, "not a 64-bit ELF" },
		{ EI_DATA, 1, ELFDATA2MSB, -ENOEXEC, "another machine" },
		{ EHDR(e_machine), EM_AARCH64, -ENOEXEC, "another machine (183)" },
		{ EHDR(e_type), ET_REL, -ENOEXEC, "not a program" },
		{ EHDR(e_phentsize), 32, -ENOEXEC, "program headers" },
		{ EHDR(e_phnum), 0, -ENOEXEC, "0 program headers" },
		{ EHDR(e_phnum), 65, -ENOEXEC, "65 program headers" },
		{ EHDR(e_phnum), UINT16_MAX, -ENOEXEC, "program headers" },
		{ EHDR(e_phoff), ELF_BYTES - 1, -ENOEXEC, "cut short" },
		{ EHDR(e_phoff), UINT64_MAX, -ENOEXEC, "cut short" },
		{ EHDR(e_phoff), TEXT_OFFSET, -ENOEXEC, "without a PVH entry" },
		{ PHDR(0, p_offset), ELF_BYTES, -ENOEXEC, "cut short" },
		{ PHDR(0, p_offset), UINT64_MAX, -ENOEXEC, "cut short" },
		{ PHDR(0, p_filesz), 0x1001, -ENOEXEC, "more bytes in the file" },
		{ PHDR(0, p_filesz), UINT64_MAX, -ENOEXEC, "more bytes in the file" },
		{ PHDR(0, p_memsz), 0x2001, -ENOEXEC, "segments 0 and 1 overlap" },
		{ PHDR(0, p_memsz), GUEST_BYTES, -ENOEXEC, "segments 0 and 1 overlap" },
		{ PHDR(0, p_memsz), UINT64_MAX, -ENOEXEC, "below 3 GiB" },
		{ PHDR(1, p_paddr), LOAD_ADDRESS - 0x2000, -ENOEXEC, "overlap" },
		{ PHDR(1, p_paddr), LOAD_ADDRESS, -ENOEXEC, "overlap" },
		{ PHDR(1, p_paddr), 0, -ENOEXEC, "first MiB" },
		{ PHDR(1, p_paddr), BOOT_PARAMS, -ENOEXEC, "first MiB" },
		{ PHDR(1, p_paddr), GUEST_BYTES - 0x2000, -ENOMEM, "--memory 52M" },
		{ PHDR(1, p_paddr), 0xfee00000, -ENOEXEC, "below 3 GiB" },
		{ PHDR(1, p_paddr), GUEST_HOLE_END, -ENOEXEC, "below 3 GiB" },
		{ PHDR(1, p_paddr), UINT64_MAX, -ENOEXEC, "below 3 GiB" },
		{ PHDR(2, p_type), PT_NULL, -ENOEXEC, "without a PVH entry note" },
		{ PHDR(2, p_filesz), 0, -ENOEXEC, "without a PVH entry note" },
		{ PHDR(2, p_filesz), 43, -ENOEXEC, "without a PVH entry note" },
		{ PHDR(2, p_filesz), UINT64_MAX, -ENOEXEC, "cut short" },
		{ PHDR(2, p_offset), UINT64_MAX - 7, -ENOEXEC, "cut short" },
		{ NOTE_OFFSET, 4, UINT32_MAX, -ENOEXEC, "without a PVH entry note" },
		{ NOTE_OFFSET + 4, 4, UINT32_MAX, -ENOEXEC, "without a PVH entry note" },
		{ NOTE_OFFSET + sizeof(struct elf_note) + 4, 4, 2, -ENOEXEC, "without a PVH" },
		{ NOTE_OFFSET + sizeof(struct elf_note) + 16, 4, 0x1000, -ENOEXEC,
			"in none of its segments" },
		{ NOTE_OFFSET + sizeof(struct elf_note) + 16, 4, LOAD_ADDRESS + 0x1000, -ENOEXEC,
			"in none of its segments" },
	};

	expect_lies(make_elf, lies, ARRAY_SIZE(lies));
}
END_TEST

START_TEST(elf_notes_too_big)
{
	make_elf();
	poke(PHDR(2, p_filesz), 64 * KIB + 1);
	write_file(kernel_path, image, ELF_BYTES);
	ck_assert_int_eq(truncate(kernel_path, MIB), 0);
	expect_bad_kernel(-ENOEXEC, "bytes of notes");
}
END_TEST

START_TEST(elf_cut_short)
{
	make_elf();
	for (size_t size = 4; size < ELF_BYTES; size += 61) {
		write_file(kernel_path, image, size);
		expect_bad_kernel(-ENOEXEC, "cut short");
	}
}
END_TEST

START_TEST(foreign_kernels_are_named)
{
	static const struct {
		size_t offset;
		const char *bytes;
		const char *name;
	} kernels[] = {
		{ 0x38, "ARMd", "arm64" },
		{ 0, "\x1f\x8b", "gzip" },
		{ 0, "MZ", "PE (EFI)" },
		{ 0, "#!/bin/sh", "script" },
		{ 0, "070701", "cpio" },
		{ 0, "!<arch>\n", "ar archive" },
		{ 0, "QFI\xfb", "a qcow2 image" },
		{ 0x1fe, "\x55\xaa", "a disk's image" },
		{ 0, "x", "neither bzImage nor ELF" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(kernels); i++) {
		memset(image, 0, sizeof(image));
		memcpy(image + kernels[i].offset, kernels[i].bytes, strlen(kernels[i].bytes));
		write_file(kernel_path, image, 4096);
		expect_bad_kernel(-ENOEXEC, kernels[i].name);
	}
}
END_TEST

START_TEST(files_that_are_none)
{
	char release[64];
	int to, saved, result;

	expect_bad_kernel(-ENOENT, "cannot open");
	write_file(kernel_path, "", 0);
	ck_assert_int_eq(chmod(kernel_path, 0), 0);
	/* Root may read all. */
	ck_assert(geteuid() != 0 || seteuid(65534) == 0);
	expect_bad_kernel(-EACCES, "Permission denied: run `chmod a+r ");
	ck_assert(getuid() != 0 || seteuid(0) == 0);
	ck_assert_int_eq(chmod(kernel_path, 0600), 0);
	expect_bad_kernel(-EINVAL, "is empty");
	ck_assert_int_eq(unlink(kernel_path), 0);
	ck_assert_int_eq(mkfifo(kernel_path, 0600), 0);
	expect_bad_kernel(-EINVAL, "is a FIFO");
	snprintf(release, sizeof(release), "/proc/self/fd/%d", socket(AF_UNIX, SOCK_STREAM, 0));
	expect_bad_path(release, -EINVAL, "is a socket");
	expect_bad_path(directory, -EINVAL, "is a directory");
	expect_bad_path("/dev/null", -EINVAL, "is a character device");

	ck_assert_int_eq(unlink(kernel_path), 0);
	saved = divert_messages(&to);
	result = boot_kernel_release(kernel_path, release, sizeof(release));
	restore_messages(to, saved);
	expect_message(result, -EINVAL, kernel_path, "cannot open");
}
END_TEST

START_TEST(file_that_shrinks)
{
	cleanup_boot_file struct boot_file file = BOOT_FILE_NONE;
	int to, saved, result;

	write_file(kernel_path, image, make_bzimage());
	ck_assert_int_eq(boot_file_open(&file, "kernel", kernel_path), 0);
	ck_assert_int_eq(truncate(kernel_path, 100), 0);
	saved = divert_messages(&to);
	result = boot_file_read(&file, 0, image, file.size);
	restore_messages(to, saved);
	expect_message(result, -EIO, kernel_path, "ends at byte 100");
}
END_TEST

START_TEST(kernel_from_a_descriptor)
{
	cleanup_fd int fd = memfd_create("kernel", MFD_CLOEXEC);
	struct boot_entry entry;
	char path[32];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	make_bzimage();
	ck_assert_int_eq(write(fd, image, BZIMAGE_BYTES), BZIMAGE_BYTES);
	ck_assert_int_eq(load_path(path, &(struct boot_options){ 0 }, &entry), 0);
}
END_TEST

START_TEST(release_of_a_kernel)
{
	char release[64] = "";

	write_file(kernel_path, image, make_bzimage());
	ck_assert_int_eq(boot_kernel_release(kernel_path, release, sizeof(release)), 0);
	ck_assert_str_eq(release, "6.1.0-test+1");

	poke(HDR(kernel_version), 0);
	write_file(kernel_path, image, BZIMAGE_BYTES);
	ck_assert_int_eq(boot_kernel_release(kernel_path, release, sizeof(release)), -ENOENT);
	write_file(kernel_path, image, make_elf());
	ck_assert_int_eq(boot_kernel_release(kernel_path, release, sizeof(release)), -ENOENT);
	write_file(kernel_path, "x", 1);
	ck_assert_int_eq(boot_kernel_release(kernel_path, release, sizeof(release)), -ENOENT);
}
END_TEST

static void expect_bad_release(size_t size, const char *message)
{
	char release[64];
	int to, saved, result;

	write_file(kernel_path, image, BZIMAGE_BYTES);
	saved = divert_messages(&to);
	result = boot_kernel_release(kernel_path, release, size);
	restore_messages(to, saved);
	expect_message(result, -ENOEXEC, kernel_path, message);
}

START_TEST(release_lies)
{
	static const char *const versions[] = { "", " ", "..", ".", "a/../../etc", "a\nb", "\xff" };

	make_bzimage();
	expect_bad_release(12, "no usable release");
	for (size_t i = 0; i < ARRAY_SIZE(versions); i++) {
		strcpy((char *)image + VERSION_OFFSET, versions[i]);
		expect_bad_release(64, "no usable release");
	}
	memset(image + VERSION_OFFSET, 'a', BZIMAGE_BYTES - VERSION_OFFSET);
	expect_bad_release(64, "no usable release");
	poke(HDR(kernel_version), BZIMAGE_BYTES - 0x200 - 1);
	expect_bad_release(1, "no usable release");
	poke(HDR(kernel_version), BZIMAGE_BYTES - 0x200);
	expect_bad_release(64, "outside itself");
	poke(HDR(kernel_version), UINT16_MAX);
	expect_bad_release(64, "outside itself");
}
END_TEST

/* Data here and there, and holes between, before and behind: in guest memory all is as it would be read. */
START_TEST(holes_in_a_file_are_zeroes)
{
	static const uint64_t places[] = { 0, 0x30000, 0x31000, 0x90000 };
	const char *initrds[] = { initrd_path };
	struct boot_options options = { .initrds = initrds, .initrd_count = 1 };
	uint8_t whole[MIB];
	struct boot_entry entry;

	for (unsigned from = 0; from < ARRAY_SIZE(places); from++) {
		cleanup_fd int fd = -1;

		resize_guest(GUEST_BYTES);
		write_file(kernel_path, image, make_bzimage());
		write_sparse(initrd_path, sizeof(whole));
		fd = open(initrd_path, O_WRONLY | O_CLOEXEC);
		memset(whole, 0, sizeof(whole));
		for (unsigned i = from; i < ARRAY_SIZE(places); i++) {
			memset(whole + places[i], 'a' + i, 0x1000);
			ck_assert_int_eq(pwrite(fd, whole + places[i], 0x1000, (off_t)places[i]), 0x1000);
		}
		ck_assert_int_eq(load(&options, &entry), 0);
		ck_assert_mem_eq(guest(zero_page()->hdr.ramdisk_image, sizeof(whole)), whole, sizeof(whole));
	}
}
END_TEST

START_TEST(initrds_are_joined)
{
	const char *initrds[] = { initrd_path, second_path };
	struct boot_options options = {
		.initrds = initrds,
		.initrd_count = 2,
		.extra_cpio = "extra cpio",
		.extra_cpio_size = 10,
	};
	struct boot_entry entry;
	uint64_t address;

	write_file(kernel_path, image, make_bzimage());
	write_file(initrd_path, "first", 5);
	write_file(second_path, "second.", 7);
	ck_assert_int_eq(load(&options, &entry), 0);
	address = zero_page()->hdr.ramdisk_image;
	ck_assert_uint_eq(address, GUEST_BYTES - PAGE_BYTES);
	ck_assert_uint_eq(zero_page()->hdr.ramdisk_size, 26);
	ck_assert_mem_eq(guest(address, 26), "first\0\0\0second.\0extra cpio", 26);

	options.initrd_count = 0;
	ck_assert_int_eq(load(&options, &entry), 0);
	ck_assert_uint_eq(zero_page()->hdr.ramdisk_size, 10);
	ck_assert_mem_eq(guest(zero_page()->hdr.ramdisk_image, 10), "extra cpio", 10);
}
END_TEST

/* A guest of which neither has place is told once how much both need. */
START_TEST(memory_for_the_kernel_counts_the_initrds)
{
	const char *initrds[] = { initrd_path, initrd_path };
	struct boot_options options = { .initrds = initrds, .initrd_count = 2 };

	write_sparse(initrd_path, 4 * MIB);
	make_bzimage();
	poke(HDR(init_size), 17 << 20);
	write_file(kernel_path, image, BZIMAGE_BYTES);
	expect_failure(&options, -ENOMEM, kernel_path, "give --memory 84M or more");
}
END_TEST

START_TEST(initrd_fills_what_is_left)
{
	const char *initrds[] = { initrd_path };
	struct boot_options options = { .initrds = initrds, .initrd_count = 1 };
	uint64_t room = GUEST_BYTES - LOAD_ADDRESS - INIT_SIZE;
	struct boot_entry entry;

	write_file(kernel_path, image, make_bzimage());
	write_sparse(initrd_path, room);
	ck_assert_int_eq(load(&options, &entry), 0);
	ck_assert_uint_eq(zero_page()->hdr.ramdisk_image, LOAD_ADDRESS + INIT_SIZE);
	ck_assert_uint_eq(zero_page()->hdr.ramdisk_size, room);

	write_sparse(initrd_path, room + 1);
	expect_failure(&options, -ENOMEM, initrd_path,
		"needs 16 MiB, but 15 MiB are free behind the kernel: give "
		"--memory 96M or more");
	write_sparse(initrd_path, GIB);
	expect_failure(&options, -ENOMEM, initrd_path, "give --memory 4132M");
	write_sparse(initrd_path, 3 * GIB);
	expect_failure(&options, -EFBIG, initrd_path, "give a smaller one");
}
END_TEST

/* A file of that size that begins and ends as an archive does. */
static void write_archive(const char *magic, uint64_t size, uint32_t told)
{
	cleanup_fd int fd = -1;

	write_sparse(initrd_path, size);
	fd = open(initrd_path, O_WRONLY | O_CLOEXEC);
	ck_assert_int_eq(pwrite(fd, magic, strlen(magic), 0), (ssize_t)strlen(magic));
	ck_assert_int_eq(pwrite(fd, &told, sizeof(told), size - sizeof(told)), sizeof(told));
}

/* A tmpfs takes half of the memory that kernel and initrds leave, a ramfs all of it. */
START_TEST(initrd_that_has_no_room_unpacked)
{
	static const char *const packed[] = { "\xfd" "7zXZ", "\x28\xb5\x2f\xfd", "\x02\x21\x4c\x18",
		"BZh9", "\x89LZO", "\x5d" };
	const char *initrds[] = { initrd_path };
	struct boot_options options = { .initrds = initrds, .initrd_count = 1 };
	struct boot_entry entry;

	resize_guest(64 * MIB);
	write_file(kernel_path, image, make_bzimage());
	/* As large as itself: a third of the memory is the most. */
	write_archive("070701", 21 * MIB, 0);
	ck_assert_int_eq(load(&options, &entry), 0);
	write_archive("070701", 22 * MIB, 0);
	expect_failure(&options, -ENOMEM, initrd_path,
		"takes 22 MiB or more when it is unpacked, but a guest of 64 MiB has room for 21 MiB of that: "
		"give --memory 84M");
	for (size_t i = 0; i < ARRAY_SIZE(packed); i++) {
		write_archive(packed[i], 22 * MIB, 0);
		expect_failure(&options, -ENOMEM, initrd_path, "when it is unpacked");
	}
	/* gzip tells its size, if that can be. */
	write_archive("\x1f\x8b", MIB, 31 * MIB);
	ck_assert_int_eq(load(&options, &entry), 0);
	write_archive("\x1f\x8b", MIB, 32 * MIB);
	expect_failure(&options, -ENOMEM, initrd_path, "takes 32 MiB or more");
	write_archive("\x1f\x8b", 64 * KIB, 1024 * MIB);
	ck_assert_int_eq(load(&options, &entry), 0);
	/* All of memory. */
	options.cmdline = "root=/dev/vda";
	write_archive("\x1f\x8b", MIB, 62 * MIB);
	ck_assert_int_eq(load(&options, &entry), 0);
	write_archive("\x1f\x8b", MIB, 64 * MIB);
	expect_failure(&options, -ENOMEM, initrd_path, "takes 64 MiB or more");
	/* What is no archive goes nowhere. */
	options.cmdline = NULL;
	write_archive("nothing", 30 * MIB, 0);
	ck_assert_int_eq(load(&options, &entry), 0);
}
END_TEST

START_TEST(initrd_address_limit)
{
	const char *initrds[] = { initrd_path };
	struct boot_options options = { .initrds = initrds, .initrd_count = 1 };
	struct boot_entry entry;

	make_bzimage();
	poke(HDR(initrd_addr_max), 0x17fffff);
	write_file(kernel_path, image, BZIMAGE_BYTES);
	write_file(initrd_path, "initrd", 6);
	ck_assert_int_eq(load(&options, &entry), 0);
	ck_assert_uint_eq(zero_page()->hdr.ramdisk_image, 0x1800000 - PAGE_BYTES);

	write_sparse(initrd_path, 8 * MIB);
	expect_failure(&options, -EFBIG, initrd_path,
		"7 MiB are free between the kernel and "
		"0x1800000: give a smaller one");
	poke(HDR(initrd_addr_max), 0);
	write_file(kernel_path, image, BZIMAGE_BYTES);
	expect_failure(&options, -EFBIG, initrd_path, "give a smaller one");
}
END_TEST

START_TEST(initrd_above_4g)
{
	const char *initrds[] = { initrd_path };
	struct boot_options options = { .initrds = initrds, .initrd_count = 1 };
	uint64_t address = GUEST_HOLE_END + 2 * GIB - PAGE_BYTES;
	struct boot_entry entry;

	resize_guest(5 * GIB);
	make_bzimage();
	poke(HDR(initrd_addr_max), LOAD_ADDRESS);
	poke(HDR(xloadflags), XLF_KERNEL_64 | XLF_CAN_BE_LOADED_ABOVE_4G);
	write_file(kernel_path, image, BZIMAGE_BYTES);
	write_file(initrd_path, "initrd", 6);
	ck_assert_int_eq(load(&options, &entry), 0);
	ck_assert_uint_eq(zero_page()->hdr.ramdisk_image, (uint32_t)address);
	ck_assert_uint_eq(zero_page()->ext_ramdisk_image, address >> 32);
	ck_assert_mem_eq(guest(address, 6), "initrd", 6);

	poke(HDR(xloadflags), XLF_KERNEL_64);
	write_file(kernel_path, image, BZIMAGE_BYTES);
	expect_failure(&options, -EFBIG, initrd_path, "give a smaller one");
}
END_TEST

START_TEST(initrds_that_are_none)
{
	const char *initrds[] = { initrd_path, second_path };
	struct boot_options options = { .initrds = initrds, .initrd_count = 2 };

	write_file(kernel_path, image, make_bzimage());
	write_file(initrd_path, "first", 5);
	expect_failure(&options, -ENOENT, second_path, "cannot open");
	write_file(second_path, "", 0);
	expect_failure(&options, -EINVAL, second_path, "is empty");
	ck_assert_int_eq(unlink(second_path), 0);
	ck_assert_int_eq(mkfifo(second_path, 0600), 0);
	expect_failure(&options, -EINVAL, second_path, "is a FIFO");
}
END_TEST

START_TEST(initrd_sizes_that_wrap)
{
	cleanup_fd int fd = memfd_create("initrd", MFD_CLOEXEC);
	char path[32];
	const char *initrds[] = { path, path, path };
	struct boot_options options = { .initrds = initrds };

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	ck_assert_int_eq(ftruncate(fd, INT64_MAX), 0);
	write_file(kernel_path, image, make_bzimage());
	for (options.initrd_count = 1; options.initrd_count <= 3; options.initrd_count++)
		expect_failure(&options, -EFBIG, path, "give a smaller one");
}
END_TEST

START_TEST(e820_maps)
{
	static const struct boot_e820_entry low[] = {
		{ 0, 0x9f000, 1 },
		{ 0x9f000, 0x41000, 2 },
		{ 0xe0000, 0x20000, 3 },
		{ 0x100000, 127 * MIB, 1 },
	};
	static const struct boot_e820_entry high[] = {
		{ 0x100000, 3 * GIB - MIB, 1 },
		{ 4 * GIB, 2 * GIB, 1 },
	};
	struct boot_entry entry;

	write_file(kernel_path, image, make_bzimage());
	resize_guest(128 * MIB);
	ck_assert_int_eq(load(&(struct boot_options){ 0 }, &entry), 0);
	ck_assert_uint_eq(zero_page()->e820_entries, 4);
	ck_assert_mem_eq(zero_page()->e820_table, low, sizeof(low));

	resize_guest(5 * GIB);
	ck_assert_int_eq(load(&(struct boot_options){ 0 }, &entry), 0);
	ck_assert_uint_eq(zero_page()->e820_entries, 5);
	ck_assert_mem_eq(zero_page()->e820_table, low, 3 * sizeof(low[0]));
	ck_assert_mem_eq(zero_page()->e820_table + 3, high, sizeof(high));
}
END_TEST

START_TEST(gdt_and_page_tables)
{
	struct boot_entry entry;
	const uint64_t *gdt, *table;

	write_file(kernel_path, image, make_bzimage());
	ck_assert_int_eq(load(&(struct boot_options){ 0 }, &entry), 0);
	gdt = guest(BOOT_GDT, 6 * 8);
	ck_assert_uint_eq(gdt[0], 0);
	ck_assert_uint_eq(gdt[BOOT_CS / 8], 0x00af9b000000ffff);
	ck_assert_uint_eq(gdt[BOOT_DS / 8], 0x00cf93000000ffff);

	/* Walk to every page below 4 GiB. */
	for (uint64_t address = 0; address < 4 * GIB; address += 2 * MIB) {
		table = guest(BOOT_PAGE_TABLES, PAGE_BYTES);
		ck_assert_uint_eq(table[0] & 0xfff, 3);
		table = guest(align_down(table[0], PAGE_BYTES), PAGE_BYTES);
		ck_assert_uint_eq(table[address / GIB] & 0xfff, 3);
		table = guest(align_down(table[address / GIB], PAGE_BYTES), PAGE_BYTES);
		ck_assert_uint_eq(table[address / (2 * MIB) % 512], address | 0x83);
	}
	table = guest(BOOT_PAGE_TABLES + PAGE_BYTES, PAGE_BYTES);
	ck_assert_uint_eq(table[4], 0);
}
END_TEST

static uint32_t field32(const uint8_t *at)
{
	uint32_t value;

	memcpy(&value, at, sizeof(value));
	return value;
}

static uint64_t field64(const uint8_t *at)
{
	uint64_t value;

	memcpy(&value, at, sizeof(value));
	return value;
}

static void check_sum(const uint8_t *at, size_t size)
{
	uint8_t sum = 0;

	for (size_t i = 0; i < size; i++)
		sum += at[i];
	ck_assert_uint_eq(sum, 0);
}

/* The table at address, which must be whole, in the ACPI area, and named so. */
static const uint8_t *acpi_table(uint64_t address, const char *signature, uint8_t revision)
{
	const uint8_t *table = guest(address, 36);
	uint32_t length = field32(table + 4);

	ck_assert_uint_ge(address, BOOT_ACPI);
	ck_assert_uint_le(address + length, BOOT_ACPI_END);
	ck_assert_mem_eq(table, signature, 4);
	ck_assert_uint_eq(table[8], revision);
	check_sum(table, length);
	return table;
}

static void check_gas(const uint8_t *gas, uint64_t port)
{
	ck_assert_mem_eq(gas, "\x01\x08\x00\x01", 4);
	ck_assert_uint_eq(field64(gas + 4), port);
}

static void check_fadt(const uint8_t *fadt)
{
	const uint8_t *dsdt;

	ck_assert_uint_eq(field32(fadt + 4), 276);
	ck_assert_uint_eq(field32(fadt + 112), 1u << 4 | 1u << 5 | 1u << 10 | 1u << 19 | 1u << 20);
	ck_assert_uint_eq(fadt[109], 0x24);
	ck_assert_uint_eq(fadt[131], 4);
	check_gas(fadt + 116, ACPI_RESET_PORT);
	ck_assert_uint_eq(fadt[128], ACPI_RESET_VALUE);
	check_gas(fadt + 244, ACPI_SLEEP_CONTROL_PORT);
	check_gas(fadt + 256, ACPI_SLEEP_STATUS_PORT);
	dsdt = acpi_table(field64(fadt + 140), "DSDT", 2);
	ck_assert_ptr_nonnull(memmem(dsdt, field32(dsdt + 4), "KRMA0001", 9));
}

static void check_madt(const uint8_t *madt, unsigned cpus)
{
	const uint8_t *at = madt + 44, *end = madt + field32(madt + 4);
	unsigned lapics = 0, x2apics = 0;

	ck_assert_uint_eq(field32(madt + 36), 0xfee00000);
	ck_assert_uint_eq(field32(madt + 40), 0);
	for (; at < end; at += at[1]) {
		ck_assert_uint_ge(at[1], 8);
		if (at[0] == 0) {
			ck_assert_uint_eq(at[3], lapics++);
			ck_assert_uint_eq(field32(at + 4), 1);
		} else {
			ck_assert_uint_eq(at[0], 9);
			ck_assert_uint_eq(field32(at + 4), 255 + x2apics++);
			ck_assert_uint_eq(field32(at + 8), 1);
		}
	}
	ck_assert_ptr_eq(at, end);
	ck_assert_uint_eq(lapics, cpus < 255 ? cpus : 255);
	ck_assert_uint_eq(lapics + x2apics, cpus);
}

START_TEST(acpi_tables)
{
	static const unsigned cpus[] = { 1, 2, 254, 255, 256, 1024, 4096 };

	for (size_t i = 0; i < ARRAY_SIZE(cpus); i++) {
		const uint8_t *rsdp, *xsdt;

		ck_assert_int_eq(acpi_write(&memory, cpus[i]), 0);
		rsdp = guest(BOOT_ACPI, 36);
		ck_assert_mem_eq(rsdp, "RSD PTR ", 8);
		ck_assert_uint_eq(rsdp[15], 2);
		check_sum(rsdp, 20);
		check_sum(rsdp, 36);
		xsdt = acpi_table(field64(rsdp + 24), "XSDT", 1);
		ck_assert_uint_eq(field32(xsdt + 4), 36 + 2 * 8);
		check_fadt(acpi_table(field64(xsdt + 36), "FACP", 6));
		check_madt(acpi_table(field64(xsdt + 44), "APIC", 5), cpus[i]);
	}
}
END_TEST

START_TEST(acpi_without_room)
{
	ck_assert_int_eq(acpi_write(&memory, 1u << 20), -ENOSPC);
	ck_assert_int_eq(acpi_write(&memory, UINT32_MAX), -ENOSPC);
	write_file(kernel_path, image, make_bzimage());
	expect_failure(&(struct boot_options){ .cpus = UINT32_MAX }, -ENOSPC, "--cpus 4294967295",
		"give fewer");
}
END_TEST

/* Check a cpio entry at the offset; returns the offset of the next. */
static size_t check_cpio_entry(const char *cpio, size_t at, unsigned mode, const char *name,
	const char *contents, size_t size)
{
	unsigned field[13];
	char digits[9] = "";

	ck_assert_uint_eq(at % 4, 0);
	ck_assert_mem_eq(cpio + at, "070701", 6);
	for (size_t i = 0; i < ARRAY_SIZE(field); i++) {
		memcpy(digits, cpio + at + 6 + i * 8, 8);
		ck_assert_uint_eq(strspn(digits, "0123456789abcdef"), 8);
		field[i] = (unsigned)strtoul(digits, NULL, 16);
	}
	ck_assert_uint_eq(field[1], mode);
	ck_assert_uint_eq(field[6], size);
	ck_assert_uint_eq(field[11], strlen(name) + 1);
	ck_assert_str_eq(cpio + at + 110, name);
	at = (at + 110 + field[11] + 3) & ~(size_t)3;
	ck_assert_int_eq(memcmp(cpio + at, contents, size), 0);
	return (at + size + 3) & ~(size_t)3;
}

START_TEST(cpio_archives)
{
	char contents[9] = "contents";

	for (size_t size = 0; size < sizeof(contents); size++) {
		cleanup_free void *archive = NULL;
		size_t archive_size, at;

		ck_assert_int_eq(
			boot_cpio_file("karma", "command", contents, size, &archive, &archive_size),
			0);
		at = check_cpio_entry(archive, 0, 040755, "karma", "", 0);
		at = check_cpio_entry(archive, at, 0100644, "karma/command", contents, size);
		at = check_cpio_entry(archive, at, 0, "TRAILER!!!", "", 0);
		ck_assert_uint_eq(at, archive_size);
	}
}
END_TEST

START_TEST(cpio_limits)
{
	char name[PAGE_BYTES];
	void *archive = NULL;
	size_t size;

	memset(name, 'n', sizeof(name) - 1);
	name[sizeof(name) - 1] = '\0';
	ck_assert_int_eq(boot_cpio_file("d", name, "", 0, &archive, &size), -E2BIG);
	ck_assert_int_eq(boot_cpio_file("d", "n", "", 1ull << 32, &archive, &size), -E2BIG);
	ck_assert_ptr_null(archive);
}
END_TEST

/* xorshift64: seeded, so that a failure comes back. */
static uint64_t random_state = 0x4b61726d61ull;

static uint64_t random_number(uint64_t limit)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return random_state % limit;
}

static void mutate(size_t header_bytes)
{
	static const uint64_t edges[] = { 0, 1, 0x7f, 0xff, 0xffff, 0x7fffffff, UINT32_MAX,
		INT64_MAX, UINT64_MAX, UINT64_MAX - 4095, GUEST_HOLE_START, GUEST_BYTES };

	for (uint64_t i = 0, count = 1 + random_number(4); i < count; i++) {
		size_t size = 1ull << random_number(4);
		uint64_t value = random_number(2) ? edges[random_number(ARRAY_SIZE(edges))]
						  : random_number(UINT64_MAX);

		poke(random_number(header_bytes - size), size, value);
	}
}

static void load_mutations(size_t (*make)(void), size_t header_bytes)
{
	struct boot_entry entry;
	char release[64];
	unsigned loaded = 0;
	int to, saved;

	write_file(initrd_path, "initrd", 6);
	saved = divert_messages(&to);
	for (unsigned i = 0; i < MUTATIONS; i++) {
		const char *initrds[] = { initrd_path };
		size_t size = make();
		int result;

		mutate(header_bytes);
		if (random_number(4) == 0)
			size = random_number(size);
		write_file(kernel_path, image, size);
		result = load(
			&(struct boot_options){ .initrds = initrds, .initrd_count = 1 }, &entry);
		ck_assert_int_le(result, 0);
		loaded += result == 0;
		ck_assert_int_le(boot_kernel_release(kernel_path, release, sizeof(release)), 0);
	}
	restore_messages(to, saved);

	/* Both ways were taken: the mutations are neither too mild nor too wild. */
	ck_assert_uint_gt(loaded, 0);
	ck_assert_uint_lt(loaded, MUTATIONS);
}

START_TEST(bzimage_mutations)
{
	load_mutations(make_bzimage, SETUP_BYTES);
}
END_TEST

START_TEST(elf_mutations)
{
	load_mutations(make_elf, NOTE_OFFSET + 2 * sizeof(struct elf_note));
}
END_TEST

START_TEST(real_kernel)
{
	const char *path = getenv("KARMA_TEST_KERNEL");
	struct boot_entry entry;
	char release[64];

	if (!path)
		return;
	resize_guest(512 * MIB);
	ck_assert_int_eq(load_path(path, &(struct boot_options){ 0 }, &entry), 0);
	if (entry.protocol != BOOT_PVH) {
		ck_assert_int_eq(boot_kernel_release(path, release, sizeof(release)), 0);
		ck_assert_uint_gt(strlen(release), 0);
	}
}
END_TEST

Suite *boot_suite(void)
{
	const TTest *const tests[] = {
		bzimage_loads,
		bzimage_of_i386_loads,
		bzimage_header_length_is_respected,
		bzimage_lies,
		bzimage_cut_short,
		cmdline_limits,
		elf_loads,
		holes_in_a_file_are_zeroes,
		elf_entry_of_8_bytes,
		elf_initrd_is_a_module,
		elf_lies,
		elf_notes_too_big,
		elf_cut_short,
		foreign_kernels_are_named,
		files_that_are_none,
		file_that_shrinks,
		kernel_from_a_descriptor,
		release_of_a_kernel,
		release_lies,
		initrds_are_joined,
		memory_for_the_kernel_counts_the_initrds,
		initrd_that_has_no_room_unpacked,
		initrd_fills_what_is_left,
		initrd_address_limit,
		initrd_above_4g,
		initrds_that_are_none,
		initrd_sizes_that_wrap,
		e820_maps,
		gdt_and_page_tables,
		acpi_tables,
		acpi_without_room,
		cpio_archives,
		cpio_limits,
		bzimage_mutations,
		elf_mutations,
		real_kernel,
	};
	Suite *suite = suite_create("boot");
	TCase *boot = tcase_create("boot");

	tcase_add_checked_fixture(boot, setup, teardown);
	tcase_set_timeout(boot, 60);
	for (size_t i = 0; i < ARRAY_SIZE(tests); i++)
		tcase_add_test(boot, tests[i]);
	suite_add_tcase(suite, boot);
	return suite;
}
