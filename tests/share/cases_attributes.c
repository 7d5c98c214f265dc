// SPDX-License-Identifier: GPL-2.0-only
/* Modes, owners, rights, and what is told of a file system. */
#include <sys/mman.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>

#include "conformance.h"

/* --- Modes and owners. */

CASE(chmod_file)
{
	make("f", "");
	TRY(chmod("f", 0640));
	show("f");
	TRY(chmod("f", 0));
	show("f");
	TRY(chmod("f", 07777));
	show("f");
	TRY(chmod("absent", 0));
}

CASE(chmod_directory)
{
	NEED(mkdir("d", 0755));
	TRY(chmod("d", 01777));
	show("d");
	TRY(chmod("d", 02700));
	show("d");
}

CASE(chmod_by_descriptor)
{
	int fd = make_open("f", "");

	TRY(fchmod(fd, 0604));
	show("f");
	TRY(fchmodat(AT_FDCWD, "f", 0600, AT_SYMLINK_NOFOLLOW));
	show("f");
}

CASE(chmod_by_symlink)
{
	make("f", "");
	NEED(symlink("f", "l"));
	TRY(chmod("l", 0600));
	show("f");
	show("l");
}

CASE(chmod_of_anothers)
{
	make("f", "");
	AS_OTHER_USER {
		TRY(chmod("f", 0777));
	}
	show("f");
}

CASE(chmod_setgid_of_another_group)
{
	NEED(chmod(".", 0777));
	AS_OTHER_USER {
		make("f", "");
		TRY(chmod("f", 06755));
		show("f");
	}
	TRY(chown("f", -1, 1));
	NEED(chmod("f", 06755));
	AS_OTHER_USER {
		TRY(chmod("f", 06711));
		show("f");
	}
}

CASE(chown_file)
{
	make("f", "");
	TRY(chown("f", 1, 2));
	show("f");
	TRY(chown("f", -1, 3));
	show("f");
	TRY(chown("f", -1, -1));
	show("f");
}

CASE(chown_by_symlink)
{
	make("f", "");
	NEED(symlink("f", "l"));
	TRY(lchown("l", 1, 1));
	show("f");
	show("l");
	TRY(chown("l", 2, 2));
	show("f");
	show("l");
}

CASE(chown_clears_setuid)
{
	make("f", "");
	NEED(chmod("f", 06755));
	TRY(chown("f", 1, 1));
	show("f");
	NEED(chmod("f", 06745));
	TRY(chown("f", 2, 2));
	show("f");
	NEED(mkdir("d", 0755));
	NEED(chmod("d", 06755));
	TRY(chown("d", 1, 1));
	show("d");
}

CASE(chown_by_another_user)
{
	make("f", "");
	AS_OTHER_USER {
		TRY(chown("f", other_user, -1));
		TRY(chown("f", 0, 0));
	}
	NEED(chown("f", other_user, other_user));
	AS_OTHER_USER {
		TRY(chown("f", 0, -1));
		TRY(chown("f", -1, other_user));
		TRY(chown("f", -1, 0));
	}
}

/* Only whoever may set them keeps them. */
CASE(write_clears_setuid)
{
	int fd;

	make("f", "abc");
	NEED(chown("f", -1, 1));
	NEED(chmod("f", 06777));
	fd = NEED(open("f", O_RDWR));
	COUNT(write(fd, "x", 1));
	show("f");
	NEED(chmod("f", 06777));
	AS_OTHER_USER {
		int other = NEED(open("f", O_RDWR));

		COUNT(write(other, "x", 1));
		show("f");
	}
	NEED(chmod("f", 06767));
	AS_OTHER_USER {
		int other = NEED(open("f", O_RDWR));

		COUNT(write(other, "x", 1));
		show("f");
	}
}

CASE(truncate_clears_setuid)
{
	make("f", "abc");
	NEED(chmod("f", 06777));
	AS_OTHER_USER { TRY(truncate("f", 1)); }
	show("f");
	NEED(chmod("f", 06777));
	AS_OTHER_USER { TRY(open("f", O_WRONLY | O_TRUNC)); }
	show("f");
	NEED(chmod("f", 06777));
	TRY(truncate("f", 2));
	show("f");
}

CASE(map_clears_setuid)
{
	make("f", "abc");
	NEED(chmod("f", 06777));
	AS_OTHER_USER {
		int fd = NEED(open("f", O_RDWR));
		char *map = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

		map[0] = 'x';
		TRY(msync(map, 4096, MS_SYNC));
	}
	show("f");
}

/* --- Rights of another user. */

static void try_rights(const char *path)
{
	TRY(access(path, F_OK));
	TRY(access(path, R_OK));
	TRY(access(path, W_OK));
	TRY(access(path, X_OK));
}

CASE(access_by_mode)
{
	make("f", "");
	for (unsigned mode = 0; mode < 8; mode++) {
		NEED(chmod("f", mode));
		AS_OTHER_USER {
			say("%o:", mode);
			try_rights("f");
		}
	}
}

CASE(access_of_the_owner)
{
	make("f", "");
	NEED(chmod("f", 0));
	try_rights("f");
	NEED(chmod("f", 0111));
	try_rights("f");
	TRY(access("absent", F_OK));
}

CASE(access_by_effective_rights)
{
	make("f", "");
	NEED(chmod("f", 0600));
	TRY(faccessat(AT_FDCWD, "f", W_OK, AT_EACCESS));
	NEED(symlink("absent", "l"));
	TRY(faccessat(AT_FDCWD, "l", F_OK, AT_SYMLINK_NOFOLLOW));
	TRY(faccessat(AT_FDCWD, "l", F_OK, 0));
}

CASE(open_by_mode)
{
	make("f", "abc");
	for (unsigned mode = 0; mode < 8; mode += 2) {
		NEED(chmod("f", mode));
		AS_OTHER_USER {
			say("%o:", mode);
			TRY(open("f", O_RDONLY));
			TRY(open("f", O_WRONLY));
			TRY(open("f", O_RDWR));
		}
	}
}

CASE(directory_by_mode)
{
	NEED(mkdir("d", 0755));
	make("d/f", "abc");
	for (unsigned mode = 0; mode < 8; mode++) {
		NEED(chmod("d", 0700 | mode));
		AS_OTHER_USER {
			say("%o:", mode);
			TRY(open("d", O_RDONLY | O_DIRECTORY));
			TRY(open("d/f", O_RDONLY));
			TRY(open("d/g", O_CREAT | O_EXCL | O_RDWR, 0600));
			TRY(chdir("d"));
		}
		unlink("d/g");
	}
}

CASE(rights_end_with_chmod)
{
	int fd = make_open("f", "abc");
	char byte;

	NEED(chmod("f", 0));
	COUNT(pread(fd, &byte, 1, 0));
	COUNT(pwrite(fd, "x", 1, 0));
	AS_OTHER_USER {
		TRY(open("f", O_RDONLY));
		COUNT(pread(fd, &byte, 1, 0));
	}
}

CASE(group_rights)
{
	make("f", "abc");
	NEED(chown("f", 1, other_user));
	NEED(chmod("f", 0640));
	AS_OTHER_USER {
		TRY(open("f", O_RDONLY));
		TRY(open("f", O_RDWR));
	}
	NEED(chmod("f", 0604));
	AS_OTHER_USER { TRY(open("f", O_RDONLY)); }
}

/* --- The file system. */

CASE(statfs_values)
{
	struct statvfs values;

	NEED(statvfs(".", &values));
	say("name_max=%lu", values.f_namemax);
	say("%s", values.f_blocks >= values.f_bfree && values.f_bfree >= values.f_bavail
			? "consistent" : "inconsistent");
	say("%s", values.f_bsize >= 512 && values.f_frsize >= 512 ? "sizes" : "no sizes");
	say("%s", values.f_files >= values.f_ffree ? "files" : "no files");
}

CASE(statfs_is_that_of_the_file)
{
	struct statfs one, other;
	int fd = make_open("f", "");

	NEED(statfs(".", &one));
	TRY(fstatfs(fd, &other));
	say("%s", one.f_bsize == other.f_bsize && one.f_type == other.f_type ? "same" : "differs");
	TRY(statfs("absent", &one));
}

CASE(pathconf_values)
{
	COUNT(pathconf(".", _PC_NAME_MAX));
	COUNT(pathconf(".", _PC_PATH_MAX));
	COUNT(pathconf(".", _PC_SYMLINK_MAX));
}

CASE(statx_values)
{
	struct statx values;

	make("f", "abc");
	TRY(statx(AT_FDCWD, "f", 0, STATX_BASIC_STATS, &values));
	say("mask=%#x,size=%llu,links=%u", values.stx_mask & STATX_BASIC_STATS,
		(unsigned long long)values.stx_size, values.stx_nlink);
	TRY(statx(AT_FDCWD, "f", AT_STATX_FORCE_SYNC, STATX_SIZE, &values));
	TRY(statx(AT_FDCWD, "f", AT_STATX_DONT_SYNC, STATX_SIZE, &values));
}

CASE(inode_numbers)
{
	struct stat one, other;
	int fd = make_open("f", "");

	make("g", "");
	NEED(stat("f", &one));
	NEED(stat("g", &other));
	say("%s", one.st_ino == other.st_ino ? "same" : "differ");
	NEED(rename("f", "h"));
	NEED(fstat(fd, &other));
	say("%s", one.st_ino == other.st_ino ? "same" : "differ");
	say("%s", one.st_dev == other.st_dev ? "same" : "differ");
}
