// SPDX-License-Identifier: GPL-2.0-only
/* Landlock: deny access to files, but for a server of these to its own, to ports and to processes (Linux Documentation/userspace-api/landlock.rst). */
#include <errno.h>
#include <linux/landlock.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "internal.h"

/* struct landlock_ruleset_attr, which has only its first member in older headers. */
struct ruleset {
	uint64_t files;		/* since version 1 of the ABI */
	uint64_t ports;		/* 4 */
	uint64_t scopes;	/* 6 */
};

#define FILES_1 0x1fffull	/* thirteen rights, from EXECUTE to MAKE_SYM */
#define FILE_REFER (1ull << 13)
#define FILE_TRUNCATE (1ull << 14)
#define FILE_IOCTL_DEVICE (1ull << 15)
#define PORTS 3ull		/* bind and connect */
#define SCOPES 3ull		/* abstract sockets and signals */

static int version(void)
{
	return syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
}

bool landlock_supported(void)
{
	return version() >= 1;
}

/* All rights to what is below a directory that take no privilege and make nothing run. */
static int allow_below(int rules_fd, int directory, uint64_t handled, bool read_only)
{
	const uint64_t reads = LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR;
	const uint64_t never = LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_MAKE_CHAR |
			       LANDLOCK_ACCESS_FS_MAKE_BLOCK | FILE_IOCTL_DEVICE;
	const struct landlock_path_beneath_attr rule = {
		.allowed_access = read_only ? reads : handled & ~never,
		.parent_fd = directory,
	};

	return syscall(SYS_landlock_add_rule, rules_fd, LANDLOCK_RULE_PATH_BENEATH, &rule, 0) < 0 ? -errno : 0;
}

/* Handle every right that this kernel knows, and allow none but those below the directory, if that is not -1. */
static int restrict_files(int directory, bool read_only)
{
	struct ruleset rules = { .files = FILES_1 };
	int abi = version(), fd, result = 0;

	if (abi < 1)
		return -ENOTSUP;
	if (abi >= 2)
		rules.files |= FILE_REFER;
	if (abi >= 3)
		rules.files |= FILE_TRUNCATE;
	if (abi >= 4)
		rules.ports = PORTS;
	if (abi >= 5)
		rules.files |= FILE_IOCTL_DEVICE;
	if (abi >= 6)
		rules.scopes = SCOPES;
	fd = syscall(SYS_landlock_create_ruleset, &rules,
		abi >= 6 ? sizeof(rules) : abi >= 4 ? 2 * sizeof(uint64_t) : sizeof(uint64_t), 0);
	if (fd < 0)
		return -errno;
	if (directory >= 0)
		result = allow_below(fd, directory, rules.files, read_only);
	if (result == 0 && syscall(SYS_landlock_restrict_self, fd, 0) < 0)
		result = -errno;
	close(fd);
	return result;
}

int landlock_forbid_all(void)
{
	return restrict_files(-1, true);
}

int sandbox_keep_directory(int directory, bool read_only)
{
	return restrict_files(directory, read_only);
}
