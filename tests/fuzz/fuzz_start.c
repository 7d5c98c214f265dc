// SPDX-License-Identifier: GPL-2.0-only
/*
 * Fuzz what a guest is given at its start: any amount of memory, any number of CPUs, command lines,
 * commands, initrds and a kernel that wants to be anywhere.  It is refused, or all is there and
 * whole: the kernel, the initrds and the command as they were given, within memory and apart from
 * each other, and the tables that tell of it: ACPI, the memory map, boot parameters, page tables.
 *
 * What is in a kernel's file otherwise is for fuzz_boot.  Every refusal costs a message: run it
 * with -close_fd_mask=2.
 */
#include <elf.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>

#include "../../src/boot/internal.h"
#include "../../src/guest/internal.h"
#include "karma/vm.h"
#include "script.h"

#define SETUP_BYTES 1024u
#define CODE_BYTES 4096u
#define NOTE_OFFSET 0x200u
#define INITRDS_MAX 2u
#define WORDS_MAX 3u
#define TEXT_MAX 64u

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct guest_memory memory;
static struct guest_options options;
static struct terminal terminal;
static int kernel_fd, initrd_fds[INITRDS_MAX];
static char kernel_path[32], initrd_paths[INITRDS_MAX][32];
static const char *initrds[INITRDS_MAX];
static size_t initrd_bytes[INITRDS_MAX];
static uint8_t bytes[UINT16_MAX + 1];
static char cmdline[TEXT_MAX + UINT16_MAX + 1], texts[WORDS_MAX][TEXT_MAX + 1],
	*words[WORDS_MAX + 1];
static struct disk_options disk = { .path = "disk" };
static struct net_options nets[2] = { { .kind = NET_TAP }, { .kind = NET_USER } };

/* What the kernel wants. */
static struct {
	bool elf;
	uint64_t address, bytes, end; /* of all that it takes */
	uint64_t initrd_max, cmdline_max;
	bool above_4g;
} kernel;

/* --- What is asked for. */

static uint64_t take_memory_size(struct script *script)
{
	uint8_t kind = take(script, 1);
	uint64_t pages = take(script, 3), size;

	switch (kind % 4) {
	case 0:
		size = GUEST_MEMORY_MIN + pages % 1024 * PAGE_BYTES;
		break;
	case 1:
		size = GUEST_HOLE_START + (pages % 64) * PAGE_BYTES - 32 * PAGE_BYTES;
		break;
	case 2:
		size = GUEST_MEMORY_MAX - pages * PAGE_BYTES;
		break;
	default:
		size = pages * PAGE_BYTES;
	}
	return size < GUEST_MEMORY_MIN ? GUEST_MEMORY_MIN : size;
}

/* Mostly somewhere in low memory, and at times right up to its end. */
static void take_kernel(struct script *script)
{
	uint8_t kind = take(script, 1);

	kernel.elf = kind & 1;
	kernel.address =
		kind & 2 ? BOOT_KERNEL_MIN + take(script, 2) * PAGE_BYTES : take(script, 5);
	if (kind & 4)
		kernel.bytes = CODE_BYTES + take(script, 3);
	else if (kind & 8)
		kernel.bytes = memory.low_size - kernel.address - take(script, 3);
	else
		kernel.bytes = take(script, 4);
	/* A field of 32 bits; and no less than there is of code. */
	kernel.bytes = (uint32_t)kernel.bytes;
	if (kernel.bytes < CODE_BYTES)
		kernel.bytes = CODE_BYTES;
	kernel.end = kernel.address + kernel.bytes;
	kernel.initrd_max = kernel.elf ? UINT32_MAX : kind & 16 ? 0x7fffffff : take(script, 4);
	kernel.cmdline_max = kernel.elf ? BOOT_CMDLINE_MAX - 1 : kind & 32 ? 2047 : take(script, 4);
	kernel.above_4g = !kernel.elf && (kind & 64);
}

static void write_at(int fd, uint64_t offset, const void *from, size_t size)
{
	check(pwrite(fd, from, size, offset) == (ssize_t)size);
}

static void write_bzimage(void)
{
	struct setup_header header = {
		.setup_sects = SETUP_BYTES / 512 - 1,
		.syssize = CODE_BYTES / 16,
		.boot_flag = 0xaa55,
		.jump = 0xeb | (0x6a << 8),
		.header = 0x53726448,
		.version = 0x020f,
		.loadflags = LOADED_HIGH,
		.initrd_addr_max = kernel.initrd_max,
		.xloadflags = XLF_KERNEL_64 | (kernel.above_4g ? XLF_CAN_BE_LOADED_ABOVE_4G : 0),
		.cmdline_size = kernel.cmdline_max,
		.pref_address = kernel.address,
		.init_size = kernel.bytes,
	};

	write_at(kernel_fd, 0x1f1, &header, sizeof(header));
}

/* Its code is where a bzImage's is. */
static void write_elf(void)
{
	const struct {
		Elf64_Nhdr header;
		char name[4];
		uint64_t entry;
	} note = { { 4, 8, 18 }, "Xen", kernel.address };
	const struct {
		Elf64_Ehdr elf;
		Elf64_Phdr headers[2];
	} start = {
		.elf = {
			.e_ident = { 0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, EV_CURRENT },
			.e_type = ET_EXEC,
			.e_machine = EM_X86_64,
			.e_phoff = sizeof(Elf64_Ehdr),
			.e_phentsize = sizeof(Elf64_Phdr),
			.e_phnum = 2,
		},
		.headers = {
			{ .p_type = PT_LOAD, .p_offset = SETUP_BYTES, .p_paddr = kernel.address,
				.p_filesz = CODE_BYTES, .p_memsz = kernel.bytes },
			{ .p_type = PT_NOTE, .p_offset = NOTE_OFFSET, .p_filesz = sizeof(note), .p_align = 4 },
		},
	};

	write_at(kernel_fd, 0, &start, sizeof(start));
	write_at(kernel_fd, NOTE_OFFSET, &note, sizeof(note));
}

static void write_kernel(void)
{
	check(ftruncate(kernel_fd, 0) == 0);
	memset(bytes, 0x90, CODE_BYTES);
	write_at(kernel_fd, SETUP_BYTES, bytes, CODE_BYTES);
	if (kernel.elf)
		write_elf();
	else
		write_bzimage();
}

static void take_initrds(struct script *script)
{
	options.initrd_count = take(script, 1) % (INITRDS_MAX + 1);
	for (unsigned i = 0; i < options.initrd_count; i++) {
		initrd_bytes[i] = 1 + take(script, 2);
		memset(bytes, 'a' + i, initrd_bytes[i]);
		check(ftruncate(initrd_fds[i], 0) == 0);
		write_at(initrd_fds[i], 0, bytes, initrd_bytes[i]);
	}
}

/* Up to TEXT_MAX bytes without a zero, which no argument has. */
static void take_text(struct script *script, char *to)
{
	const uint8_t *from;
	size_t count = take_bytes(script, take(script, 1) % (TEXT_MAX + 1), &from);

	for (size_t i = 0; i < count; i++)
		to[i] = from[i] ? from[i] : ' ';
	to[count] = '\0';
}

/* At times a long one. */
static void take_cmdline(struct script *script, bool is_long)
{
	size_t more = is_long ? take(script, 2) : 0, length;

	take_text(script, cmdline);
	length = strlen(cmdline);
	memset(cmdline + length, 'x', more);
	cmdline[length + more] = '\0';
}

static void take_options(struct script *script)
{
	uint8_t kind = take(script, 1);

	options = (struct guest_options){
		.kernel = kernel_path,
		.initrds = initrds,
		.cpus = 1 + take(script, 1) % VCPUS_MAX,
		.cmdline = cmdline,
		.disks = &disk,
		.disk_count = kind & 1,
		.nets = nets,
		.net_count = kind >> 1 & 1 ? 1 + (kind >> 2 & 1) : 0,
	};
	disk.read_only = kind & 8;
	take_initrds(script);
	take_cmdline(script, kind & 16);
	words[0] = NULL;
	if (kind & 32)
		options.command = words;
	for (unsigned i = 0; options.command && i < 1u + kind % WORDS_MAX; i++) {
		take_text(script, texts[i]);
		words[i] = texts[i];
		words[i + 1] = NULL;
	}
}

/* --- What must hold of it. */

static bool fits(uint64_t size, uint64_t floor, uint64_t ceiling)
{
	return size <= ceiling && align_down(ceiling - size, PAGE_BYTES) >= floor;
}

static bool initrd_fits(uint64_t size)
{
	uint64_t ceiling = memory.low_size;

	if (kernel.initrd_max < ceiling)
		ceiling = kernel.initrd_max + 1;
	return fits(size, kernel.end, ceiling) ||
	       (kernel.above_4g && fits(size, GUEST_HOLE_END, GUEST_HOLE_END + memory.high_size));
}

/* Of the initrds' files, each padded. */
static uint64_t files_bytes(void)
{
	uint64_t total = 0;

	for (unsigned i = 0; i < options.initrd_count; i++)
		total += (initrd_bytes[i] + 3) & ~3ull;
	return total;
}

static bool kernel_fits(void)
{
	return kernel.address >= BOOT_KERNEL_MIN && kernel.end <= memory.low_size;
}

/* Neither too much is refused nor too little; but for what Karma adds, whose size is its own. */
static void check_result(int result)
{
	bool command_alone = options.command && !options.initrd_count;
	uint64_t longest = kernel.cmdline_max < BOOT_CMDLINE_MAX - 1 ? kernel.cmdline_max
								     : BOOT_CMDLINE_MAX - 1;

	check(result <= 0);
	if (!kernel_fits() || command_alone || strlen(cmdline) > longest ||
		(options.initrd_count && !initrd_fits(files_bytes())))
		check(result < 0);
	else if (strlen(cmdline) + 256 <= longest &&
		 (!options.initrd_count || initrd_fits(files_bytes())))
		check(result == 0);
}

/* In memory, and there is RAM all over it by the map. */
static void *at(uint64_t address, uint64_t length)
{
	void *place = guest_memory_at(&memory, GPA(address), length);

	check(!!place);
	return place;
}

static unsigned check_map(const struct boot_e820_entry *entries, unsigned count)
{
	uint64_t end = 0, ram = 0;

	check(count >= 1 && count <= BOOT_E820_MAX && entries[0].addr == 0);
	for (unsigned i = 0; i < count; i++) {
		check(entries[i].size > 0 && entries[i].addr >= end);
		end = entries[i].addr + entries[i].size;
		at(entries[i].addr, entries[i].size);
		check(entries[i].type >= 1 && entries[i].type <= 3);
		if (entries[i].type == 1)
			ram += entries[i].size;
	}
	check(ram == memory.size - (BOOT_KERNEL_MIN - BOOT_LOW_END));
	return count;
}

static bool in_ram(
	const struct boot_e820_entry *entries, unsigned count, uint64_t start, uint64_t size)
{
	for (unsigned i = 0; i < count; i++) {
		if (entries[i].type == 1 && start >= entries[i].addr && size <= entries[i].size &&
			start - entries[i].addr <= entries[i].size - size)
			return true;
	}
	return false;
}

/* --- ACPI 6.4: section 5.2. */

struct range {
	uint64_t start, end;
};

static uint32_t load32(const uint8_t *from)
{
	uint32_t value;

	memcpy(&value, from, sizeof(value));
	return value;
}

static uint64_t load64(const uint8_t *from)
{
	return load32(from) | (uint64_t)load32(from + 4) << 32;
}

static void check_sum(const uint8_t *from, size_t length)
{
	uint8_t sum = 0;

	for (size_t i = 0; i < length; i++)
		sum += from[i];
	check(sum == 0);
}

/* A table of this kind within the area, behind all that were found before; they are aligned. */
static const uint8_t *check_table(uint64_t address, const char *signature, struct range *found)
{
	const uint8_t *table = at(address, 36);
	uint32_t length = load32(table + 4);

	check(memcmp(table, signature, 4) == 0 && length >= 36 && address % 8 == 0);
	check(address >= BOOT_ACPI && address + length <= BOOT_ACPI_END);
	for (; found->end; found++)
		check(address >= found->end || address + length <= found->start);
	*found = (struct range){ address, address + length };
	check_sum(table, length);
	return table;
}

static void check_madt(const uint8_t *madt, unsigned cpus)
{
	const uint8_t *entry = madt + 44, *end = madt + load32(madt + 4);
	uint32_t next = 0;

	check(load32(madt + 36) == LAPIC_ADDRESS);
	for (; entry < end; entry += entry[1]) {
		check(entry + 2 <= end && entry + entry[1] <= end);
		if (entry[0] == 0)
			check(entry[1] == 8 && entry[2] == next && entry[3] == next &&
				load32(entry + 4) == 1);
		else
			check(entry[0] == 9 && entry[1] == 16 && load32(entry + 4) == next &&
				load32(entry + 8) == 1 && load32(entry + 12) == next);
		next++;
	}
	check(next == cpus);
}

static void check_acpi(unsigned cpus)
{
	const uint8_t *rsdp = at(BOOT_ACPI, 36), *xsdt, *fadt;
	struct range found[8] = { { BOOT_ACPI, BOOT_ACPI + 36 } };

	check(memcmp(rsdp, "RSD PTR ", 8) == 0 && rsdp[15] == 2 && load32(rsdp + 20) == 36);
	check_sum(rsdp, 20);
	check_sum(rsdp, 36);
	xsdt = check_table(load64(rsdp + 24), "XSDT", found);
	check(load32(xsdt + 4) == 36 + 2 * 8);
	fadt = check_table(load64(xsdt + 36), "FACP", found);
	check_madt(check_table(load64(xsdt + 44), "APIC", found), cpus);
	check_table(load64(fadt + 140), "DSDT", found);
}

/* More CPUs than there are in any guest: the tables are there, or there is no room for them. */
static void check_many_cpus(unsigned cpus)
{
	size_t lapics = cpus < 255 ? cpus : 255;
	uint64_t needed = 44 + 8 * lapics + 16 * (cpus - lapics);
	int result = acpi_write(&memory, cpus);

	check(result == 0 || result == -ENOSPC);
	check(result == 0 ? needed < BOOT_ACPI_END - BOOT_ACPI
			  : needed > BOOT_ACPI_END - BOOT_ACPI - 1024);
	if (result == 0)
		check_acpi(cpus);
}

/* --- What the kernel finds. */

/* Each of the first 4 GiB is where it is: AMD64 APM volume 2, section 5.3. */
static void check_page_tables(uint64_t address)
{
	uint64_t table = BOOT_PAGE_TABLES;

	for (unsigned shift = 39; shift > 21; shift -= 9) {
		uint64_t entry =
			load64((uint8_t *)at(table, PAGE_BYTES) + (address >> shift & 511) * 8);

		check((entry & 0xfff) == 3 && entry >= BOOT_PAGE_TABLES && entry < BOOT_CMDLINE);
		table = entry & ~0xfffull;
	}
	check(load64((uint8_t *)at(table, PAGE_BYTES) + (address >> 21 & 511) * 8) ==
		((address & ~0x1fffffull) | 0x83));
}

/* Linux's isspace() and all other control characters divide words. */
static bool has_root(const char *line)
{
	bool begins = true;

	for (; *line; line++) {
		if (begins && strncmp(line, "root=", 5) == 0)
			return true;
		begins = (uint8_t)*line <= ' ';
	}
	return false;
}

static void check_cmdline(void)
{
	const char *line = at(BOOT_CMDLINE, BOOT_CMDLINE_MAX);
	size_t length = strnlen(line, BOOT_CMDLINE_MAX), own = strlen(cmdline);

	check(length < BOOT_CMDLINE_MAX && length <= kernel.cmdline_max && length >= own);
	check(memcmp(line + length - own, cmdline, own) == 0);
	check(strncmp(line, "console=hvc0 ", 13) == 0);
	if (!has_root(cmdline))
		check(!!memmem(line, length, " root=/dev/vda r", 16) == (options.disk_count > 0 && !options.command));
}

/* The words of `set --`, as a shell reads them. */
static void check_words(const char *line)
{
	for (char **word = words; *word; word++) {
		const char *text = *word;

		check(*line++ == ' ');
		check(*line++ == '\'');
		for (; *text; text++) {
			if (*text == '\'') {
				check(strncmp(line, "'\\''", 4) == 0);
				line += 4;
			} else {
				check(*line++ == *text);
			}
		}
		check(*line++ == '\'');
	}
	check(*line == '\n');
}

/* What init gets. */
static void check_command(void)
{
	cleanup_free char *made = NULL;
	const char *text;
	size_t length;

	check(guest_make_command(&options, &terminal, &made, &length) == 0);
	text = made;
	check(strncmp(text, "karma_tty=0\n", 12) == 0);
	text = memmem(text, length, "\nset --", 7);
	check(!!text == !!options.command);
	if (text)
		check_words(text + 7);
}

static void check_initrd(uint64_t address, uint64_t size)
{
	const uint8_t *place = at(address, size);

	check(address >= kernel.end || address + size <= kernel.address);
	check(address + size - 1 <= kernel.initrd_max ||
		(kernel.above_4g && address >= GUEST_HOLE_END));
	check(size == files_bytes());
	for (unsigned i = 0; i < options.initrd_count; i++) {
		size_t length = initrd_bytes[i];

		memset(bytes, 'a' + i, length);
		check(memcmp(place, bytes, length) == 0);
		for (; length % 4; length++)
			check(place[length] == 0);
		place += length;
	}
}

/* What leads a kernel to its initrd: hvm_start_info for ELF, boot_params for a bzImage. */
static struct boot_initrd check_start_info(const struct boot_e820_entry *map, unsigned count)
{
	const uint8_t *start = at(BOOT_PARAMS, PAGE_BYTES), *module;

	check(load32(start) == 0x336ec578 && load64(start + 24) == BOOT_CMDLINE);
	check(load64(start + 32) == BOOT_ACPI && load32(start + 48) == count);
	for (unsigned i = 0; i < count; i++) {
		const uint8_t *place = at(load64(start + 40) + i * 24, 24);

		check(load64(place) == map[i].addr && load64(place + 8) == map[i].size);
		check(load32(place + 16) == map[i].type);
	}
	check(load32(start + 12) == (options.initrd_count > 0));
	if (!options.initrd_count)
		return (struct boot_initrd){ 0 };
	module = at(load64(start + 16), 32);
	return (struct boot_initrd){ load64(module), load64(module + 8) };
}

static struct boot_initrd check_boot_params(const struct boot_e820_entry *map, unsigned count)
{
	const struct boot_params *params = at(BOOT_PARAMS, sizeof(*params));

	check(params->hdr.cmd_line_ptr == BOOT_CMDLINE && params->acpi_rsdp_addr == BOOT_ACPI);
	check(params->e820_entries == count &&
		memcmp(params->e820_table, map, count * sizeof(map[0])) == 0);
	return (struct boot_initrd){
		params->hdr.ramdisk_image | (uint64_t)params->ext_ramdisk_image << 32,
		params->hdr.ramdisk_size | (uint64_t)params->ext_ramdisk_size << 32,
	};
}

static void check_guest(const struct boot_entry *entry)
{
	struct boot_e820_entry map[BOOT_E820_MAX];
	unsigned count = check_map(map, boot_e820(&memory, map));
	struct boot_initrd initrd =
		kernel.elf ? check_start_info(map, count) : check_boot_params(map, count);

	check(entry->protocol == (kernel.elf ? BOOT_PVH : BOOT_LINUX64));
	check(entry->entry.value >= kernel.address && entry->entry.value < kernel.end);
	check(entry->params.value == BOOT_PARAMS);
	check(in_ram(map, count, kernel.address, kernel.bytes));
	memset(bytes, 0x90, CODE_BYTES);
	check(memcmp(at(kernel.address, kernel.bytes), bytes, CODE_BYTES) == 0);
	check((initrd.size > 0) == (options.initrd_count > 0));
	if (initrd.size) {
		check(in_ram(map, count, initrd.address, initrd.size));
		check_initrd(initrd.address, initrd.size);
	}
	check_cmdline();
	check_acpi(options.cpus);
}

static int make_file(char *path)
{
	int fd = memfd_create("file", MFD_CLOEXEC);

	check(fd >= 0);
	snprintf(path, sizeof(kernel_path), "/proc/self/fd/%d", fd);
	return fd;
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc;
	(void)argv;
	/* A huge page takes longer to clear than all the rest. */
	prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);
	setenv("KARMA_GUEST_DIR", "/nowhere", 1);
	kernel_fd = make_file(kernel_path);
	for (unsigned i = 0; i < INITRDS_MAX; i++) {
		initrd_fds[i] = make_file(initrd_paths[i]);
		initrds[i] = initrd_paths[i];
	}
	terminal.in_fd = terminal.out_fd = -1;
	return 0;
}

static int load(struct boot_entry *entry)
{
	cleanup_boot_kernel struct boot_kernel opened = BOOT_KERNEL_NONE;
	cleanup_free char *initramfs = NULL;
	int result = boot_kernel_open(&opened, options.kernel);

	if (result == 0)
		result = guest_find_initramfs(&options, &initramfs);
	return result == 0 ? guest_load(&options, &opened, initramfs, &memory, entry) : result;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct script script = { data, data + size };
	struct boot_entry entry = { 0 };
	uint64_t size_of_guest = take_memory_size(&script);
	int result;

	check(guest_memory_init(&memory, &(struct memory_options){ .size = size_of_guest }) == 0);
	take_kernel(&script);
	take_options(&script);
	write_kernel();
	result = load(&entry);
	check_result(result);
	if (result == 0) {
		check_guest(&entry);
		check_command();
		check_page_tables(take(&script, 4));
	}
	check_many_cpus(1 + take(&script, 2));
	guest_memory_release(&memory);
	return 0;
}
