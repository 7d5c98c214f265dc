// SPDX-License-Identifier: GPL-2.0-only
/*
 * Turn the tables of system calls into filters, as C, on stdout: part of the build, so that the
 * monitor neither spends time on it at its start nor has the library in its memory.
 */
#include <errno.h>
#include <linux/filter.h>
#include <linux/if_tun.h>
#include <linux/kvm.h>
#include <seccomp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tables.h"

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define CALLS_MAX 512
#define NAME_BYTES 32

/* Descriptors and processes are 32 bits for the kernel, whatever the register's other half has. */
#define LOW_HALF 0xffffffffu
#define FD(which) { 0, SCMP_CMP_MASKED_EQ, LOW_HALF, SANDBOX_##which }
#define PROCESS(which) { 0, SCMP_CMP_MASKED_EQ, LOW_HALF, SANDBOX_##which }
#define REQUEST(number) { 1, SCMP_CMP_EQ, number, 0 }
#define ADVICE(number) { 2, SCMP_CMP_EQ, number, 0 }
#define NODE(type) { 2, SCMP_CMP_MASKED_EQ, S_IFMT, type }
#define PROTECTION(which) { 2, SCMP_CMP_EQ, SANDBOX_##which, 0 }
#define MAPPING(which) { 3, SCMP_CMP_EQ, SANDBOX_##which, 0 }
#define ANY { 0 }

#define CHECKS_MAX 2

struct line {
	int number;
	struct scmp_arg_cmp checks[CHECKS_MAX + 1];	/* the last one is {0} */
};

#define LINE(name, why, ...) { SCMP_SYS(name), { __VA_ARGS__ } },

static const struct line vcpu_lines[] = { SANDBOX_VCPU_CALLS(LINE) };
static const struct line vcpu_vhost_user_lines[] = {
	SANDBOX_VCPU_CALLS(LINE) SANDBOX_VCPU_VHOST_USER_CALLS(LINE)
};
static const struct line io_lines[] = { SANDBOX_IO_CALLS(LINE) };
static const struct line main_lines[] = { SANDBOX_MAIN_CALLS(LINE) };
static const struct line main_vhost_user_lines[] = {
	SANDBOX_MAIN_CALLS(LINE) SANDBOX_MAIN_VHOST_USER_CALLS(LINE)
};
static const struct line unpacker_lines[] = { SANDBOX_UNPACKER_CALLS(LINE) };
static const struct line share_lines[] = { SANDBOX_SHARE_CALLS(LINE) };

static void die(const char *what, int error)
{
	fprintf(stderr, "sandbox tables: %s: %s\n", what, strerror(error));
	exit(EXIT_FAILURE);
}

static void add(scmp_filter_ctx filter, const struct line *line)
{
	unsigned count = 0;
	int result;

	while (line->checks[count].op)
		count++;
	result = seccomp_rule_add_array(filter, SCMP_ACT_ALLOW, line->number, count, line->checks);
	if (result < 0)
		die("can't add a rule", -result);
}

/*
 * The C library tries it when the heap can't grow: then there is no memory, and no break-out.  Where a line
 * allows it, each of that line's checks, turned round.
 */
static void refuse_mmap(scmp_filter_ctx filter, const struct line *lines, unsigned count)
{
	const uint32_t refusal = SCMP_ACT_ERRNO(ENOMEM);

	while (count && lines[count - 1].number != SCMP_SYS(mmap))
		count--;
	if (!count && seccomp_rule_add(filter, refusal, SCMP_SYS(mmap), 0) < 0)
		die("can't add a rule", ENOMEM);
	for (const struct scmp_arg_cmp *check = count ? lines[count - 1].checks : NULL; check && check->op; check++) {
		struct scmp_arg_cmp other = *check;

		other.op = SCMP_CMP_NE;
		if (seccomp_rule_add(filter, refusal, SCMP_SYS(mmap), 1, other) < 0)
			die("can't add a rule", ENOMEM);
	}
}

static scmp_filter_ctx make_filter(const struct line *lines, unsigned count)
{
	/* A trap, so that a message can tell which call it was. */
	scmp_filter_ctx filter = seccomp_init(SCMP_ACT_TRAP);

	/* 2: a tree, since the kernel tries a new filter with the number of every call that there is. */
	if (!filter || seccomp_attr_set(filter, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS) < 0 ||
		seccomp_attr_set(filter, SCMP_FLTATR_CTL_OPTIMIZE, 2) < 0)
		die("can't make a filter", ENOMEM);
	refuse_mmap(filter, lines, count);
	for (unsigned i = 0; i < count; i++)
		add(filter, &lines[i]);
	return filter;
}

static void print_filter(const char *name, const struct line *lines, unsigned count)
{
	scmp_filter_ctx filter = make_filter(lines, count);
	FILE *file = tmpfile();
	struct sock_filter instruction;
	int result;

	if (!file)
		die("temporary file", errno);
	result = seccomp_export_bpf(filter, fileno(file));
	if (result < 0)
		die("can't compile a filter", -result);
	rewind(file);
	printf("static const struct sock_filter %s_filter[] = {\n", name);
	while (fread(&instruction, sizeof(instruction), 1, file) == 1)
		printf("\t{ 0x%02x, %u, %u, 0x%08x },\n", instruction.code, instruction.jt,
			instruction.jf, instruction.k);
	printf("};\n\n");
	fclose(file);
	seccomp_release(filter);
}

/* An array of arrays: one of pointers would have to be relocated at each start. */
static void print_names(void)
{
	printf("static const char call_names[%u][%u] = {\n", CALLS_MAX, NAME_BYTES);
	for (int number = 0; number < CALLS_MAX; number++) {
		char *name = seccomp_syscall_resolve_num_arch(SCMP_ARCH_X86_64, number);

		if (name && strlen(name) < NAME_BYTES)
			printf("\t[%d] = \"%s\",\n", number, name);
		free(name);
	}
	printf("};\n");
}

int main(void)
{
	printf("/* Made by src/sandbox/tables/compile.c. */\n");
	print_filter("vcpu", vcpu_lines, ARRAY_SIZE(vcpu_lines));
	print_filter("vcpu_vhost_user", vcpu_vhost_user_lines, ARRAY_SIZE(vcpu_vhost_user_lines));
	print_filter("main_vhost_user", main_vhost_user_lines, ARRAY_SIZE(main_vhost_user_lines));
	print_filter("io", io_lines, ARRAY_SIZE(io_lines));
	print_filter("main", main_lines, ARRAY_SIZE(main_lines));
	print_filter("unpacker", unpacker_lines, ARRAY_SIZE(unpacker_lines));
	print_filter("share", share_lines, ARRAY_SIZE(share_lines));
	print_names();
	return fflush(stdout) == 0 ? 0 : EXIT_FAILURE;
}
