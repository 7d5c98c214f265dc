// SPDX-License-Identifier: GPL-2.0-only
/* What `karma run` puts into a guest: its command line, and the initramfs by the kernel's release. */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "../../src/guest/internal.h"
#include "guest.h"

#define GUEST_BYTES (32 * MIB)
#define LOAD_ADDRESS 0x1000000u
#define TEXT_OFFSET 0x1000u
#define ELF_BYTES 0x2000u
#define XEN_ELFNOTE_PHYS32_ENTRY 18
#define BANNER "Linux version "
#define FIXED_CMDLINE \
	"console=hvc0 pci=off 8250.nr_uarts=0 quiet panic=-1 reboot=a swiotlb=noforce noapic noreplace-smp " \
	"cryptomgr.notests"

static char directory[] = "/tmp/karma-load-XXXXXX";
static char kernel_path[64], release_path[64], initramfs_path[128];
static char release[64];
static uint8_t image[ELF_BYTES];
static struct guest_memory memory;
static struct boot_entry entry;
static char *command_text;
static size_t command_bytes;

static void setup(void)
{
	ck_assert_ptr_nonnull(mkdtemp(directory));
	snprintf(kernel_path, sizeof(kernel_path), "%s/vmlinux", directory);
	snprintf(release_path, sizeof(release_path), "%s/6.1.0-test+1", directory);
	snprintf(initramfs_path, sizeof(initramfs_path), "%s/initramfs.img", release_path);
	setenv("KARMA_GUEST_DIR", directory, 1);
	ck_assert_int_eq(
		guest_memory_init(&memory, &(struct memory_options){ .size = GUEST_BYTES }), 0);
}

static void teardown(void)
{
	free(command_text);
	command_text = NULL;
	guest_memory_release(&memory);
	unlink(initramfs_path);
	rmdir(release_path);
	unlink(kernel_path);
	rmdir(directory);
}

static void write_at(const char *path, const void *data, size_t size, off_t offset)
{
	cleanup_fd int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(pwrite(fd, data, size, offset), (ssize_t)size);
}

/* A kernel that boots as far as boot_load() can tell. */
static void write_elf(void)
{
	const struct {
		Elf64_Ehdr elf;
		Elf64_Phdr headers[2];
		Elf64_Nhdr note;
		char name[4];
		uint32_t entry;
	} head = {
		.elf = {
			.e_ident = { 0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, EV_CURRENT },
			.e_type = ET_EXEC,
			.e_machine = EM_X86_64,
			.e_phoff = sizeof(Elf64_Ehdr),
			.e_phentsize = sizeof(Elf64_Phdr),
			.e_phnum = 2,
		},
		.headers = {
			{ .p_type = PT_LOAD,
				.p_offset = TEXT_OFFSET,
				.p_paddr = LOAD_ADDRESS,
				.p_filesz = ELF_BYTES - TEXT_OFFSET,
				.p_memsz = ELF_BYTES - TEXT_OFFSET },
			{ .p_type = PT_NOTE,
				.p_offset = sizeof(Elf64_Ehdr) + 2 * sizeof(Elf64_Phdr),
				.p_filesz = sizeof(Elf64_Nhdr) + 8,
				.p_align = 4 },
		},
		.note = { 4, 4, XEN_ELFNOTE_PHYS32_ENTRY },
		.name = "Xen",
		.entry = LOAD_ADDRESS,
	};

	memset(image, 0, sizeof(image));
	memcpy(image, &head, sizeof(head));
	unlink(kernel_path);
	write_at(kernel_path, image, sizeof(image), 0);
}

static void write_banner(const char *text, off_t offset)
{
	write_at(kernel_path, text, strlen(text), offset);
}

static int look(void)
{
	memset(release, 0, sizeof(release));
	return boot_kernel_release(kernel_path, release, sizeof(release));
}

START_TEST(release_is_in_the_banner_of_an_elf_file)
{
	write_elf();
	ck_assert_int_eq(look(), -ENOENT);
	write_banner(BANNER "6.1.0-test+1 (me@here) (gcc) #1", TEXT_OFFSET + 77);
	ck_assert_int_eq(look(), 0);
	ck_assert_str_eq(release, "6.1.0-test+1");
}
END_TEST

/* The scan reads a MiB and a little more at a time. */
START_TEST(banner_is_found_wherever_it_lies)
{
	for (int at = -300; at < 300; at++) {
		write_elf();
		write_banner(BANNER "6.1.0-test+1 (", 3 * MIB + at);
		ck_assert_msg(look() == 0, "not at %d", at);
		ck_assert_str_eq(release, "6.1.0-test+1");
	}
}
END_TEST

START_TEST(first_banner_that_names_a_release_counts)
{
	write_elf();
	write_banner(BANNER "%s (%s)", TEXT_OFFSET);
	write_banner(BANNER, TEXT_OFFSET + 64);
	write_banner(BANNER BANNER "6.1.0-test+1 (", TEXT_OFFSET + 128);
	write_banner(BANNER "6.2.0 (", TEXT_OFFSET + 256);
	ck_assert_int_eq(look(), 0);
	ck_assert_str_eq(release, "6.1.0-test+1");
}
END_TEST

START_TEST(banner_lies)
{
	static const char *const lies[] = { "", " (", "6.1.0", "6.1.0 ", "6.1.0 #1", "../x (",
		".hidden (", "a/b (", "6.1\n (", "6.1\xff (" };
	char long_release[200];

	for (size_t i = 0; i < ARRAY_SIZE(lies); i++) {
		write_elf();
		write_banner(BANNER, ELF_BYTES);
		write_banner(lies[i], ELF_BYTES + strlen(BANNER));
		ck_assert_msg(look() == -ENOENT, "\"%s\" is taken", lies[i]);
	}
	/* Longer than the caller's, and than ours. */
	for (size_t length = sizeof(release); length < sizeof(long_release) - 3; length += 9) {
		memset(long_release, '6', length);
		memcpy(long_release + length, " (", 3);
		write_elf();
		write_banner(BANNER, ELF_BYTES);
		write_banner(long_release, ELF_BYTES + strlen(BANNER));
		ck_assert_int_eq(look(), -ENOENT);
	}
}
END_TEST

START_TEST(scan_has_an_end)
{
	write_elf();
	write_banner(BANNER "6.1.0-test+1 (", GIB);
	ck_assert_int_eq(look(), -ENOENT);
}
END_TEST

START_TEST(only_elf_files_are_scanned)
{
	write_at(kernel_path, "\x7f" "EL", 3, 0);
	ck_assert_int_eq(look(), -ENOENT);
	write_banner(BANNER "6.1.0-test+1 (", TEXT_OFFSET);
	ck_assert_int_eq(look(), -ENOENT);
	unlink(kernel_path);
	ck_assert_int_eq(look(), -EINVAL);
	/* No one writes to it: that is no reason to wait. */
	ck_assert_int_eq(mkfifo(kernel_path, 0600), 0);
	ck_assert_int_eq(look(), -EINVAL);
}
END_TEST

static int load(const struct guest_options *options)
{
	static const struct terminal terminal;
	cleanup_boot_kernel struct boot_kernel kernel = BOOT_KERNEL_NONE;
	cleanup_free char *initramfs = NULL;
	int result = guest_find_initramfs(options, &initramfs);

	if (result < 0)
		return result;
	ck_assert_int_eq(boot_kernel_open(&kernel, options->kernel), 0);
	free(command_text);
	ck_assert_int_eq(guest_make_command(options, &terminal, &command_text, &command_bytes), 0);
	return guest_load(options, &kernel, initramfs, &memory, &entry);
}

static const char *loaded_cmdline(void)
{
	return guest_memory_at(&memory, GPA(BOOT_CMDLINE), BOOT_CMDLINE_MAX);
}

START_TEST(command_line_is_karmas_then_the_root_then_the_users)
{
	struct disk_options disk = { .path = "disk" };
	struct guest_options options = { .kernel = kernel_path, .cpus = 1, .cmdline = "" };

	write_elf();
	ck_assert_int_eq(load(&options), 0);
	ck_assert_str_eq(loaded_cmdline(), FIXED_CMDLINE);
	options.disks = &disk;
	options.disk_count = 1;
	options.cmdline = "a notroot=b";
	ck_assert_int_eq(load(&options), 0);
	ck_assert_str_eq(loaded_cmdline(), FIXED_CMDLINE " root=/dev/vda rw a notroot=b");
	disk.read_only = true;
	ck_assert_int_eq(load(&options), 0);
	ck_assert_str_eq(loaded_cmdline(), FIXED_CMDLINE " root=/dev/vda ro a notroot=b");
	options.cmdline = "a root=";
	ck_assert_int_eq(load(&options), 0);
	ck_assert_str_eq(loaded_cmdline(), FIXED_CMDLINE " a root=");
}
END_TEST

/* Of the guest's memory, the modules of struct hvm_start_info. */
static uint32_t loaded_modules(void)
{
	const uint32_t *start = guest_memory_at(&memory, GPA(BOOT_PARAMS), 16);

	return start[3];
}

START_TEST(initramfs_is_found_by_the_release_of_an_elf_kernel)
{
	char *command[] = { "true", NULL };
	struct guest_options options = { .kernel = kernel_path, .cpus = 1, .cmdline = "" };
	const char *said;

	write_elf();
	write_banner(BANNER "6.1.0-test+1 (", TEXT_OFFSET);
	messages_begin();
	ck_assert_int_eq(load(&options), 0);
	said = messages_end();
	ck_assert_msg(strstr(said, "make guest KVER=6.1.0-test+1"), "%s", said);
	ck_assert_uint_eq(loaded_modules(), 0);

	options.command = command;
	ck_assert_int_eq(load(&options), -ENOENT);
	ck_assert_int_eq(mkdir(release_path, 0700), 0);
	write_at(initramfs_path, "initramfs", 9, 0);
	ck_assert_int_eq(load(&options), 0);
	ck_assert_uint_eq(loaded_modules(), 1);
	/* For an initramfs that is older. */
	ck_assert_str_eq(loaded_cmdline(), FIXED_CMDLINE " karma.command");
}
END_TEST

START_TEST(command_needs_an_initramfs)
{
	char *command[] = { "true", NULL };
	struct guest_options options = { .kernel = kernel_path, .cpus = 1, .cmdline = "",
		.command = command };
	const char *said;

	write_elf();
	messages_begin();
	ck_assert_int_eq(load(&options), -ENOENT);
	said = messages_end();
	ck_assert_msg(strstr(said, "names no release"), "%s", said);
}
END_TEST

/* Whether the script for init has these words. */
static bool script_has(const char *words)
{
	return memmem(command_text, command_bytes, words, strlen(words)) != NULL;
}

START_TEST(init_is_told_of_shares_and_of_the_root)
{
	char *command[] = { "true", NULL };
	struct share_options shares[] = {
		{ .directory = "/", .tag = GUEST_ROOT_TAG, .read_only = true },
		{ .directory = "/a", .tag = "a", .guest_path = "/it's" },
		{ .directory = "/b", .tag = "b", .guest_path = "/b c", .read_only = true },
		{ .directory = "/d", .tag = "unmounted" },
	};
	struct guest_options options = { .kernel = kernel_path, .cpus = 1, .cmdline = "",
		.command = command };

	write_elf();
	write_banner(BANNER "6.1.0-test+1 (", TEXT_OFFSET);
	ck_assert_int_eq(mkdir(release_path, 0700), 0);
	write_at(initramfs_path, "initramfs", 9, 0);
	ck_assert_int_eq(load(&options), 0);
	ck_assert(script_has("karma_disk=''\nset -- 'true'\n"));
	ck_assert(!script_has("karma_mounts") && !script_has("karma_root") && !script_has("karma_agent"));

	options.shares = shares;
	options.share_count = ARRAY_SIZE(shares);
	ck_assert_int_eq(load(&options), 0);
	ck_assert(script_has("\tmount_share 'a' rw '/it'\\''s'\n\tmount_share 'b' ro '/b c'\n}\n"));
	ck_assert(!script_has("unmounted") && !script_has("karma_root"));

	options.root = (struct root_options){ .directory = "/", .user = "7:8:9", .working_directory = "/it's" };
	options.agent = true;
	setenv("LANG", "C.UTF-8", 1);
	unsetenv("LC_ALL");
	ck_assert_int_eq(load(&options), 0);
	ck_assert(script_has("karma_root=karma-root\nkarma_user='7:8:9'\nkarma_directory='/it'\\''s'\n"));
	ck_assert(script_has("\texport LANG='C.UTF-8'\n}\n"));
	ck_assert(script_has("karma_agent=1\n"));
}
END_TEST

/* So that the command line is the same for all disks. */
START_TEST(root_of_a_command_is_told_with_it)
{
	char *command[] = { "true", NULL };
	struct disk_options disk = { .path = "disk", .read_only = true };
	struct guest_options options = { .kernel = kernel_path, .cpus = 1, .cmdline = "a",
		.command = command, .disks = &disk, .disk_count = 1 };

	write_elf();
	write_banner(BANNER "6.1.0-test+1 (", TEXT_OFFSET);
	ck_assert_int_eq(mkdir(release_path, 0700), 0);
	write_at(initramfs_path, "initramfs", 9, 0);
	ck_assert_int_eq(load(&options), 0);
	ck_assert(script_has("karma_disk='/dev/vda ro'\n"));
	ck_assert_str_eq(loaded_cmdline(), FIXED_CMDLINE " karma.command a");
	disk.read_only = false;
	ck_assert_int_eq(load(&options), 0);
	ck_assert(script_has("karma_disk='/dev/vda rw'\n"));
	options.cmdline = "root=LABEL=x";
	ck_assert_int_eq(load(&options), 0);
	ck_assert(script_has("karma_disk=''\n"));
	ck_assert_str_eq(loaded_cmdline(), FIXED_CMDLINE " karma.command root=LABEL=x");
}
END_TEST

/* A disk is then no root, unless the user says so. */
START_TEST(root_directory_takes_the_place_of_the_disk)
{
	struct disk_options disk = { .path = "disk" };
	struct guest_options options = { .kernel = kernel_path, .cpus = 1, .cmdline = "",
		.root = { .directory = "/", .user = "0:0:0", .working_directory = "/" }, .disks = &disk, .disk_count = 1 };

	write_elf();
	ck_assert_int_eq(load(&options), 0);
	ck_assert_str_eq(loaded_cmdline(), FIXED_CMDLINE);
}
END_TEST

START_TEST(initramfs_tells_whether_the_agent_is_in_it)
{
	static const char padding[16];
	char archive[124] = "070701";

	ck_assert_int_eq(mkdir(release_path, 0700), 0);
	ck_assert(!boot_initrd_has_agent(initramfs_path));
	write_at(initramfs_path, "\x1f\x8b", 2, 0);
	ck_assert(!boot_initrd_has_agent(initramfs_path));
	write_at(initramfs_path, padding, sizeof(padding), 400);
	ck_assert(!boot_initrd_has_agent(initramfs_path));
	/* As scripts/mkinitramfs has cpio write it: the file alone. */
	memcpy(archive + 110, "karma/agent", sizeof("karma/agent"));
	write_at(initramfs_path, archive, sizeof(archive), 0);
	ck_assert(boot_initrd_has_agent(initramfs_path));
	write_at(initramfs_path, "070707", 6, 0);
	ck_assert(!boot_initrd_has_agent(initramfs_path));
}
END_TEST

Suite *load_suite(void)
{
	const TTest *const tests[] = {
		release_is_in_the_banner_of_an_elf_file,
		banner_is_found_wherever_it_lies,
		first_banner_that_names_a_release_counts,
		banner_lies,
		scan_has_an_end,
		only_elf_files_are_scanned,
		command_line_is_karmas_then_the_root_then_the_users,
		initramfs_is_found_by_the_release_of_an_elf_kernel,
		command_needs_an_initramfs,
		init_is_told_of_shares_and_of_the_root,
		root_of_a_command_is_told_with_it,
		root_directory_takes_the_place_of_the_disk,
		initramfs_tells_whether_the_agent_is_in_it,
	};
	Suite *suite = suite_create("load");
	TCase *tcase = tcase_create("load");

	tcase_add_checked_fixture(tcase, setup, teardown);
	tcase_set_timeout(tcase, 20);
	for (size_t i = 0; i < ARRAY_SIZE(tests); i++)
		tcase_add_test(tcase, tests[i]);
	suite_add_tcase(suite, tcase);
	return suite;
}
