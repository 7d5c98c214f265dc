// SPDX-License-Identifier: GPL-2.0-only
/*
 * Starts a vmlinux by its PVH entry, from a loader that knows Multiboot.  The only module is the initial RAM
 * file system, with the kernel as a file in it, so that it is read once.  Our first argument is that file's
 * offset, the others are the kernel's.  32-bit, paging off, no C library.
 */
#include <linux/elf.h>
#include <stdint.h>

#include "pvh.h"

#define MEMMAP_MAX 64u
#define CMDLINE_MAX 2048u
#define ALIGNMENT 0x200000u

/* The GNU Multiboot Specification 0.6.96, 3.3. */
struct multiboot_module {
	uint32_t start, end, string, reserved;
};

struct multiboot_info {
	uint32_t flags, mem_lower, mem_upper, boot_device, cmdline, mods_count, mods_addr, syms[4], mmap_length,
		mmap_addr;
};

struct multiboot_memory {
	uint32_t size;		/* of what follows */
	uint64_t address, length;
	uint32_t type;		/* as in E820 */
} __attribute__((packed));

static struct hvm_memmap_entry memmap[MEMMAP_MAX];
static struct hvm_modlist_entry initrd;
static struct hvm_start_info start = {
	.magic = HVM_START_MAGIC,
	.version = HVM_START_VERSION,
	.nr_modules = 1,
};
static char cmdline[CMDLINE_MAX];

static void copy(uint32_t to, uint32_t from, uint32_t size)
{
	asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(size) : : "memory");
}

static void zero(uint32_t to, uint32_t size)
{
	asm volatile("rep stosb" : "+D"(to), "+c"(size) : "a"(0) : "memory");
}

static uint32_t align(uint32_t address)
{
	return (address + ALIGNMENT - 1) & -ALIGNMENT;
}

/* Where the kernel's image ends once it is loaded. */
static uint32_t kernel_end(const Elf64_Ehdr *elf, const Elf64_Phdr *segments)
{
	uint32_t end = 0;

	for (unsigned i = 0; i < elf->e_phnum; i++)
		if (segments[i].p_type == PT_LOAD && segments[i].p_paddr + segments[i].p_memsz > end)
			end = segments[i].p_paddr + segments[i].p_memsz;
	return end;
}

static uint32_t load(uint32_t image)
{
	const Elf64_Ehdr *elf = (void *)image;
	const Elf64_Phdr *segment = (void *)(image + (uint32_t)elf->e_phoff);
	uint32_t entry = 0;

	for (unsigned i = 0; i < elf->e_phnum; i++, segment++) {
		uint32_t from = image + (uint32_t)segment->p_offset;
		uint32_t end = from + (uint32_t)segment->p_filesz;

		if (segment->p_type == PT_LOAD) {
			uint32_t to = segment->p_paddr, filled = segment->p_filesz;

			copy(to, from, filled);
			zero(to + filled, segment->p_memsz - filled);
		} else if (segment->p_type == PT_NOTE) {
			while (from < end) {
				const Elf64_Nhdr *note = (void *)from;
				uint32_t value = from + sizeof(*note) + ((note->n_namesz + 3) & -4u);

				if (note->n_type == XEN_ELFNOTE_PHYS32_ENTRY && note->n_namesz == sizeof(XEN_NAME))
					entry = *(uint32_t *)value;
				from = value + ((note->n_descsz + 3) & -4u);
			}
		}
	}
	return entry;
}

static const char *next_word(const char *word)
{
	while (*word && *word != ' ')
		word++;
	while (*word == ' ')
		word++;
	return word;
}

/* Returns the offset; what is behind it is for the kernel. */
static uint32_t take_arguments(const char *arguments)
{
	/* The first word is our file's name. */
	const char *word = next_word(arguments), *rest = next_word(word);
	uint32_t offset = 0;

	for (; *word >= '0' && *word <= '9'; word++)
		offset = offset * 10 + (*word - '0');
	for (unsigned i = 0; rest[i] && i < CMDLINE_MAX - 1; i++)
		cmdline[i] = rest[i];
	return offset;
}

static void copy_memmap(uint32_t from, uint32_t size)
{
	uint32_t end = from + size;

	while (from < end && start.memmap_entries < MEMMAP_MAX) {
		const struct multiboot_memory *memory = (void *)from;

		memmap[start.memmap_entries++] = (struct hvm_memmap_entry){
			.addr = memory->address,
			.size = memory->length,
			.type = memory->type,
		};
		from += memory->size + sizeof(memory->size);
	}
}

void start_kernel(const struct multiboot_info *info);

void start_kernel(const struct multiboot_info *info)
{
	const struct multiboot_module *module = (void *)info->mods_addr;
	uint32_t offset = take_arguments((void *)info->cmdline), address = module->start, end, entry;
	const Elf64_Ehdr *elf = (void *)(address + offset);

	/* Out of the kernel's way. */
	end = kernel_end(elf, (void *)(address + offset + (uint32_t)elf->e_phoff));
	initrd.size = module->end - module->start;
	if (address < end) {
		address = align(end > module->end ? end : module->end);
		copy(address, module->start, initrd.size);
	}
	initrd.paddr = address;
	entry = load(address + offset);
	copy_memmap(info->mmap_addr, info->mmap_length);
	start.modlist_paddr = (uint32_t)&initrd;
	start.cmdline_paddr = (uint32_t)cmdline;
	start.memmap_paddr = (uint32_t)memmap;
	asm volatile("jmp *%0" : : "r"(entry), "b"(&start) : "memory");
	__builtin_unreachable();
}
