// SPDX-License-Identifier: GPL-2.0-only
/*
 * Load an ELF kernel: a vmlinux for its PVH entry, with the guest described in hvm_start_info; or one that was
 * unpacked from a bzImage, for the boot protocol of that.
 */
#include <elf.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "karma/log.h"
#include "internal.h"
#include "pvh.h"

/* Bounds; Linux has five program headers and some hundred bytes of notes. */
#define HEADERS_MAX 64u
#define NOTES_MAX (64 * KIB)

/* What lies at BOOT_PARAMS. */
struct pvh_params {
	struct hvm_start_info start;
	struct hvm_modlist_entry initrd;
	struct hvm_memmap_entry memmap[BOOT_E820_MAX];
};

struct program_headers {
	Elf64_Phdr header[HEADERS_MAX];
	size_t count;
};

bool elf_is(const void *head, size_t size)
{
	return size >= SELFMAG && !memcmp(head, ELFMAG, SELFMAG);
}

/* Convert the members of an i386 kernel's header whose offsets differ. */
static void widen_elf_header(Elf64_Ehdr *elf)
{
	Elf32_Ehdr narrow;

	memcpy(&narrow, elf, sizeof(narrow));
	elf->e_entry = narrow.e_entry;
	elf->e_phoff = narrow.e_phoff;
	elf->e_phentsize = narrow.e_phentsize;
	elf->e_phnum = narrow.e_phnum;
}

static Elf64_Phdr widen_program_header(const Elf32_Phdr *narrow)
{
	return (Elf64_Phdr){
		.p_type = narrow->p_type,
		.p_offset = narrow->p_offset,
		.p_paddr = narrow->p_paddr,
		.p_filesz = narrow->p_filesz,
		.p_memsz = narrow->p_memsz,
		.p_align = narrow->p_align,
	};
}

static int read_elf_header(const struct boot_file *file, Elf64_Ehdr *elf, bool i386)
{
	int result;

	if (file->size < sizeof(*elf))
		return fail(-ENOEXEC,
			"kernel %s: is an ELF file cut short in its header: copy it again",
			file->path);
	result = boot_file_read(file, 0, elf, sizeof(*elf));
	if (result < 0)
		return result;
	if (elf->e_ident[EI_CLASS] != (i386 ? ELFCLASS32 : ELFCLASS64))
		return fail(-ENOEXEC, "kernel %s: is not a %u-bit ELF file: give %s",
			file->path, i386 ? 32 : 64,
			i386 ? "a bzImage that is whole" : "an x86-64 kernel, or the bzImage of an i386 one");
	if (elf->e_ident[EI_DATA] != ELFDATA2LSB || elf->e_machine != (i386 ? EM_386 : EM_X86_64))
		return fail(-ENOEXEC,
			"kernel %s: is an ELF file for another machine (%u): give an "
			"x86-64 kernel",
			file->path, elf->e_machine);
	if (elf->e_type != ET_EXEC && elf->e_type != ET_DYN)
		return fail(-ENOEXEC,
			"kernel %s: is an ELF file of type %u, not a program: give a "
			"vmlinux",
			file->path, elf->e_type);
	if (i386)
		widen_elf_header(elf);
	return 0;
}

/* Whether [offset, offset + size) is in the file; with a message if not. */
static int check_in_file(
	const struct boot_file *file, const char *part, uint64_t offset, uint64_t size)
{
	uint64_t end;

	if (__builtin_add_overflow(offset, size, &end) || end > file->size)
		return fail(-ENOEXEC,
			"kernel %s: has %s at 0x%" PRIx64 " of 0x%" PRIx64
			" bytes, behind its end at 0x%" PRIx64 ": it is cut short; copy it again",
			file->path, part, offset, size, file->size);
	return 0;
}

static int read_program_headers(
	const struct boot_file *file, Elf64_Ehdr *elf, struct program_headers *table, bool i386)
{
	size_t each = i386 ? sizeof(Elf32_Phdr) : sizeof(Elf64_Phdr);
	Elf32_Phdr narrow[HEADERS_MAX];
	uint64_t size;
	int result;

	result = read_elf_header(file, elf, i386);
	if (result < 0)
		return result;
	if (elf->e_phentsize != each || elf->e_phnum == 0 || elf->e_phnum > HEADERS_MAX)
		return fail(-ENOEXEC,
			"kernel %s: has %u program headers of %u bytes, a kernel has 1 to "
			"%u of %zu: give a vmlinux",
			file->path, elf->e_phnum, elf->e_phentsize, HEADERS_MAX, each);
	size = elf->e_phnum * each;
	result = check_in_file(file, "program headers", elf->e_phoff, size);
	if (result < 0)
		return result;
	table->count = elf->e_phnum;
	result = boot_file_read(file, elf->e_phoff, i386 ? (void *)narrow : table->header, size);
	for (size_t i = 0; i < table->count && i386 && result == 0; i++)
		table->header[i] = widen_program_header(&narrow[i]);
	return result;
}

static bool is_loaded(const Elf64_Phdr *segment)
{
	return segment->p_type == PT_LOAD && segment->p_memsz > 0;
}

static int check_segment(
	const struct boot_file *file, const struct program_headers *table, size_t index)
{
	const Elf64_Phdr *segment = &table->header[index];
	int result;

	if (segment->p_filesz > segment->p_memsz)
		return fail(-ENOEXEC,
			"kernel %s: segment %zu has more bytes in the file than in "
			"memory: the file is damaged; copy it again",
			file->path, index);
	result = check_in_file(file, "a segment", segment->p_offset, segment->p_filesz);
	if (result < 0)
		return result;
	result = boot_check_range(file, segment->p_paddr, segment->p_memsz);
	if (result < 0)
		return result;

	/* Those before passed boot_check_range(), so their ends do not wrap. */
	for (size_t i = 0; i < index; i++) {
		const Elf64_Phdr *other = &table->header[i];

		if (is_loaded(other) && other->p_paddr < segment->p_paddr + segment->p_memsz &&
			segment->p_paddr < other->p_paddr + other->p_memsz)
			return fail(-ENOEXEC,
				"kernel %s: segments %zu and %zu overlap in memory: "
				"the file is damaged; copy it again",
				file->path, i, index);
	}
	return 0;
}

/* After a damaged file: the kernel that is loaded instead expects zeroed memory. */
static void unload_segments(const struct guest_memory *memory, const struct program_headers *table,
	size_t count)
{
	for (size_t i = 0; i < count; i++) {
		const Elf64_Phdr *segment = &table->header[i];

		if (is_loaded(segment))
			memset(guest_memory_at(memory, GPA(segment->p_paddr), segment->p_memsz), 0,
				segment->p_filesz);
	}
}

/* Sets image->end. */
static int check_segments(const struct guest_memory *memory, const struct boot_file *file,
	const struct program_headers *table, struct boot_image *image)
{
	image->end = 0;
	for (size_t i = 0; i < table->count; i++) {
		const Elf64_Phdr *segment = &table->header[i];
		int result;

		if (!is_loaded(segment))
			continue;
		result = check_segment(file, table, i);
		if (result < 0)
			return result;
		image->bytes += segment->p_memsz;
		if (segment->p_paddr + segment->p_memsz > image->end)
			image->end = segment->p_paddr + segment->p_memsz;
	}
	return boot_check_memory(file, memory, image, image->end);
}

static int load_segments(const struct guest_memory *memory, const struct boot_file *file,
	const struct program_headers *table, struct boot_image *image)
{
	int result = check_segments(memory, file, table, image);

	for (size_t i = 0; i < table->count && result == 0; i++) {
		const Elf64_Phdr *segment = &table->header[i];

		/* Guest memory is zero, and so what lies behind p_filesz is as well. */
		if (is_loaded(segment))
			result = boot_file_load(file, segment->p_offset, memory, segment->p_paddr,
				segment->p_filesz);
		if (result == -EBADMSG)
			unload_segments(memory, table, i + 1);
	}
	return result;
}

/* The PVH entry in size bytes of notes, or 0. */
static uint64_t find_entry_note(const uint8_t *notes, uint64_t size, uint64_t align)
{
	uint64_t at = 0;

	while (at < size && size - at >= sizeof(Elf64_Nhdr)) {
		Elf64_Nhdr note;
		uint64_t name = at + sizeof(note), desc, next, entry = 0;

		memcpy(&note, notes + at, sizeof(note));
		if (!align_up(name + note.n_namesz, align, &desc) ||
			!align_up(desc + note.n_descsz, align, &next) ||
			desc + note.n_descsz > size)
			return 0;
		if (note.n_type == XEN_ELFNOTE_PHYS32_ENTRY && note.n_namesz == sizeof(XEN_NAME) &&
			!memcmp(notes + name, XEN_NAME, sizeof(XEN_NAME)) &&
			(note.n_descsz == 4 || note.n_descsz == 8)) {
			memcpy(&entry, notes + desc, note.n_descsz);
			return entry;
		}
		at = next;
	}
	return 0;
}

static int read_entry_note(const struct boot_file *file, const Elf64_Phdr *segment, uint64_t *entry)
{
	cleanup_free uint8_t *notes = NULL;
	int result;

	result = check_in_file(file, "notes", segment->p_offset, segment->p_filesz);
	if (result < 0)
		return result;
	if (segment->p_filesz > NOTES_MAX)
		return fail(-ENOEXEC,
			"kernel %s: has 0x%" PRIx64 " bytes of notes, a kernel has at most "
			"0x%llx: give a vmlinux",
			file->path, segment->p_filesz, NOTES_MAX);
	notes = malloc(segment->p_filesz + 1);
	if (!notes)
		return fail(-ENOMEM, "kernel %s: no memory for its notes: free some on the host",
			file->path);
	result = boot_file_read(file, segment->p_offset, notes, segment->p_filesz);
	if (result < 0)
		return result;
	*entry = find_entry_note(notes, segment->p_filesz, segment->p_align == 8 ? 8 : 4);
	return 0;
}

/* 0 in *entry if there is none. */
static int find_entry(
	const struct boot_file *file, const struct program_headers *table, uint64_t *entry)
{
	*entry = 0;
	for (size_t i = 0; i < table->count && *entry == 0; i++) {
		if (table->header[i].p_type == PT_NOTE) {
			int result = read_entry_note(file, &table->header[i], entry);

			if (result < 0)
				return result;
		}
	}
	return 0;
}

static bool in_a_segment(const struct program_headers *table, uint64_t address)
{
	for (size_t i = 0; i < table->count; i++) {
		const Elf64_Phdr *segment = &table->header[i];

		if (is_loaded(segment) && address >= segment->p_paddr &&
			address - segment->p_paddr < segment->p_memsz)
			return true;
	}
	return false;
}

static int fail_entry(const struct boot_file *file, uint64_t entry)
{
	return fail(-ENOEXEC,
		"kernel %s: its entry 0x%" PRIx64
		" is in none of its segments: the file is damaged; copy it again",
		file->path, entry);
}

int elf_load(
	const struct guest_memory *memory, const struct boot_file *file, struct boot_image *image)
{
	struct program_headers table = { 0 };
	Elf64_Ehdr elf;
	int result;

	result = read_program_headers(file, &elf, &table, false);
	if (result == 0)
		result = find_entry(file, &table, &image->entry);
	if (result < 0)
		return result;
	if (image->entry == 0)
		return fail(-ENOEXEC,
			"kernel %s: is an ELF file without a PVH entry note: build it with "
			"CONFIG_PVH=y, or give its bzImage",
			file->path);
	if (!in_a_segment(&table, image->entry))
		return fail_entry(file, image->entry);
	result = load_segments(memory, file, &table, image);
	if (result < 0)
		return result;
	image->protocol = BOOT_PVH;
	image->initrd_max = UINT32_MAX; /* Linux keeps 32 bits of a module's address */
	image->cmdline_max = BOOT_CMDLINE_MAX - 1;
	return 0;
}

/* The range of all loaded segments.  False if it is invalid, for which load_segments() has the message. */
static bool find_extent(const struct program_headers *table, struct kaslr *kaslr)
{
	uint64_t start = UINT64_MAX, last = 0, end;

	for (size_t i = 0; i < table->count; i++) {
		const Elf64_Phdr *segment = &table->header[i];

		if (!is_loaded(segment))
			continue;
		if (__builtin_add_overflow(segment->p_paddr, segment->p_memsz, &end))
			return false;
		start = segment->p_paddr < start ? segment->p_paddr : start;
		last = end > last ? end : last;
	}
	if (start >= last)
		return false;
	kaslr->start = start;
	kaslr->size = last - start;
	return true;
}

/* The end of the ELF file, whose last part is the section headers; relocations follow. */
static uint64_t find_end(const Elf64_Ehdr *elf)
{
	uint64_t end;

	return __builtin_add_overflow(elf->e_shoff, elf->e_shnum * sizeof(Elf64_Shdr), &end) ? UINT64_MAX
											      : end;
}

static int load_moved(const struct guest_memory *memory, const struct boot_file *file,
	struct program_headers *table, struct kaslr *kaslr, struct boot_image *image)
{
	int result;

	for (size_t i = 0; i < table->count; i++)
		table->header[i].p_paddr += kaslr->physical;
	image->entry += kaslr->physical;
	result = load_segments(memory, file, table, image);
	return result == 0 ? kaslr_relocate(kaslr, memory, file) : result;
}

int elf_load_unpacked(
	const struct guest_memory *memory, const struct boot_file *file, struct boot_image *image)
{
	struct program_headers table = { 0 };
	struct kaslr kaslr = { 0 };
	Elf64_Ehdr elf;
	int result;

	result = read_program_headers(file, &elf, &table, image->protocol == BOOT_LINUX32);
	if (result < 0)
		return result;
	if (!in_a_segment(&table, elf.e_entry))
		return fail_entry(file, elf.e_entry);
	image->entry = elf.e_entry;
	if (find_extent(&table, &kaslr))
		result = kaslr_choose(&kaslr, memory, file, find_end(&elf), image);
	if (result == 0)
		result = load_moved(memory, file, &table, &kaslr, image);
	free(kaslr.words);
	return result;
}

int elf_write_params(const struct guest_memory *memory, const struct boot_initrd *initrd)
{
	struct boot_e820_entry entries[BOOT_E820_MAX];
	unsigned count = boot_e820(memory, entries);
	struct pvh_params params = {
		.start = {
			.magic = HVM_START_MAGIC,
			.version = HVM_START_VERSION,
			.cmdline_paddr = BOOT_CMDLINE,
			.rsdp_paddr = BOOT_ACPI,
			.memmap_paddr = BOOT_PARAMS + offsetof(struct pvh_params, memmap),
			.memmap_entries = count,
		},
	};

	for (unsigned i = 0; i < count; i++)
		params.memmap[i] = (struct hvm_memmap_entry){
			.addr = entries[i].addr,
			.size = entries[i].size,
			.type = entries[i].type, /* the numbers of e820 */
		};
	if (initrd->size) {
		params.start.nr_modules = 1;
		params.start.modlist_paddr = BOOT_PARAMS + offsetof(struct pvh_params, initrd);
		params.initrd.paddr = initrd->address;
		params.initrd.size = initrd->size;
	}
	return boot_write(memory, BOOT_PARAMS, &params, sizeof(params));
}
