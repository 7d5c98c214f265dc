// SPDX-License-Identifier: GPL-2.0-only
/* Loading kernels: bzImage and ELF files, good and bad. */
#include <sys/socket.h>
#include <sys/stat.h>

#include "boot_fixture.h"

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
		bzimage_mutations,
		elf_mutations,
		real_kernel,
	};
	Suite *suite = suite_create("boot");

	add_case(suite, "boot", setup, teardown, 60, tests, ARRAY_SIZE(tests));
	boot_initrd_tests(suite);
	boot_tables_tests(suite);
	return suite;
}
