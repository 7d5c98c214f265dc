// SPDX-License-Identifier: GPL-2.0-only
/* What is in files: read, write, truncate, holes, copies. */
#include <linux/falloc.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/uio.h>

#include "conformance.h"

#define MIB (1024 * 1024L)

/* --- read and write */

CASE(read_at_the_end)
{
	char text[8];
	int fd = make_open("f", "abc");

	COUNT(pread(fd, text, 8, 0));
	COUNT(pread(fd, text, 8, 3));
	COUNT(pread(fd, text, 8, 100));
	COUNT(pread(fd, text, 8, -1));
}

CASE(read_of_a_directory)
{
	char text[8];
	int fd = NEED(open(".", O_RDONLY));

	COUNT(read(fd, text, 8));
	COUNT(pwrite(fd, text, 1, 0));
}

CASE(write_behind_the_end)
{
	char text[8];
	int fd = make_open("f", "abc");

	COUNT(pwrite(fd, "x", 1, 7));
	show("f");
	COUNT(pread(fd, text, 8, 0));
	show_text("f");
}

CASE(write_nothing)
{
	int fd = make_open("f", "abc");

	COUNT(write(fd, "", 0));
	COUNT(pwrite(fd, "", 0, 100));
	show("f");
}

CASE(write_at_offsets)
{
	int fd = make_open("f", "");

	COUNT(pwrite(fd, "cd", 2, 2));
	COUNT(pwrite(fd, "ab", 2, 0));
	COUNT(lseek(fd, 0, SEEK_CUR));
	show_text("f");
}

CASE(vectors)
{
	char one[3] = "", other[5] = "";
	struct iovec iov[] = { { one, 2 }, { other, 4 } };
	int fd = make_open("f", "abcdef");

	COUNT(preadv(fd, iov, 2, 1));
	say("%s %s", one, other);
	COUNT(pwritev(fd, iov, 2, 6));
	show_size("f");
}

CASE(append_by_two_descriptors)
{
	int one = NEED(open("f", O_CREAT | O_WRONLY | O_APPEND, 0644));
	int other = NEED(open("f", O_WRONLY | O_APPEND));

	COUNT(write(one, "ab", 2));
	COUNT(write(other, "cd", 2));
	COUNT(write(one, "ef", 2));
	COUNT(lseek(one, 0, SEEK_CUR));
	show_text("f");
	COUNT(pwrite(one, "X", 1, 0));
	show_text("f");
}

CASE(append_by_two_processes)
{
	int fd = NEED(open("f", O_CREAT | O_WRONLY | O_APPEND, 0644));

	for (unsigned i = 0; i < 4; i++) {
		IN_CHILD {
			for (unsigned n = 0; n < 100; n++)
				NEED(write(fd, "0123456789", 10));
		}
	}
	show_size("f");
}

CASE(seen_by_another_descriptor)
{
	int one = make_open("f", "abc"), other = NEED(open("f", O_RDONLY));
	char text[8] = "";

	COUNT(pwrite(one, "xyz123", 6, 0));
	COUNT(pread(other, text, 7, 0));
	say("%s", text);
	COUNT(lseek(other, 0, SEEK_END));
}

CASE(one_megabyte)
{
	uint8_t *bytes = malloc(MIB), *back = malloc(MIB);
	int fd = make_open("f", "");

	for (long i = 0; i < MIB; i++)
		bytes[i] = i * 7 + i / 251;
	COUNT(pwrite(fd, bytes, MIB, 1));
	show_size("f");
	COUNT(pread(fd, back, MIB, 1));
	say("%s", memcmp(bytes, back, MIB) == 0 ? "same" : "differs");
	close(fd);
	fd = NEED(open("f", O_RDONLY));
	COUNT(pread(fd, back, MIB, 12345));
	say("%s", memcmp(bytes + 12344, back, MIB - 12344) == 0 ? "same" : "differs");
}

CASE(direct_io)
{
	int fd = TRY(open("f", O_CREAT | O_RDWR | O_DIRECT, 0644));
	char *page = aligned_alloc(4096, 4096);

	if (fd < 0)
		return;
	memset(page, 'x', 4096);
	COUNT(pwrite(fd, page, 4096, 0));
	memset(page, 0, 4096);
	COUNT(pread(fd, page, 4096, 0));
	say("%c", page[4095]);
	COUNT(pread(fd, page, 4096, 4096));
	show("f");
}

CASE(seek_beyond)
{
	int fd = make_open("f", "abc");

	COUNT(lseek(fd, 100, SEEK_SET));
	COUNT(lseek(fd, -1, SEEK_SET));
	COUNT(lseek(fd, -4, SEEK_END));
	COUNT(lseek(fd, 1, SEEK_END));
	COUNT(lseek(fd, 0, 99));
}

/* --- truncate */

CASE(truncate_down)
{
	make("f", "abcdef");
	TRY(truncate("f", 2));
	show("f");
	show_text("f");
}

CASE(truncate_up)
{
	char text[8];
	int fd = make_open("f", "abc");

	TRY(ftruncate(fd, 6));
	show("f");
	COUNT(pread(fd, text, 8, 0));
	show_text("f");
}

CASE(truncate_down_and_up)
{
	int fd = make_open("f", "abcdef");

	TRY(ftruncate(fd, 2));
	TRY(ftruncate(fd, 5));
	show_text("f");
}

CASE(truncate_errors)
{
	make("f", "");
	TRY(truncate("f", -1));
	TRY(truncate(".", 0));
	TRY(truncate("absent", 0));
	TRY(truncate("f/", 0));
	TRY(ftruncate(-1, 0));
}

CASE(truncate_without_right)
{
	make("f", "abc");
	AS_OTHER_USER {
		TRY(truncate("f", 0));
	}
	show("f");
}

CASE(truncate_far)
{
	make("f", "");
	TRY(truncate("f", 1L << 40));
	show("f");
	TRY(truncate("f", INT64_MAX));
	TRY(truncate("f", 0));
	show("f");
}

CASE(truncate_beyond_the_limit)
{
	/* What all of this prints is less. */
	struct rlimit limit = { 1024 * MIB, 1024 * MIB };
	int fd = make_open("f", "abc");

	signal(SIGXFSZ, SIG_IGN);
	NEED(setrlimit(RLIMIT_FSIZE, &limit));
	TRY(ftruncate(fd, 1024 * MIB));
	TRY(ftruncate(fd, 1024 * MIB + 1));
	COUNT(pwrite(fd, "xy", 2, 1024 * MIB - 1));
	COUNT(pwrite(fd, "x", 1, 1024 * MIB));
	show("f");
}

/* --- holes */

CASE(holes)
{
	int fd = make_open("f", "");
	struct stat status;

	NEED(ftruncate(fd, MIB));
	COUNT(pwrite(fd, "x", 1, MIB / 2));
	NEED(fsync(fd));
	COUNT(lseek(fd, 0, SEEK_DATA));
	COUNT(lseek(fd, MIB / 2, SEEK_HOLE));
	COUNT(lseek(fd, 0, SEEK_HOLE));
	COUNT(lseek(fd, MIB / 2 + 65536, SEEK_DATA));
	COUNT(lseek(fd, MIB, SEEK_DATA));
	COUNT(lseek(fd, MIB + 1, SEEK_HOLE));
	NEED(fstat(fd, &status));
	say("%s", status.st_blocks * 512 < MIB ? "sparse" : "full");
}

CASE(fallocate_plain)
{
	int fd = make_open("f", "abc");

	TRY(fallocate(fd, 0, 0, 65536));
	show("f");
}

CASE(fallocate_keep_size)
{
	int fd = make_open("f", "abc");
	struct stat status;

	TRY(fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, 65536));
	show("f");
	NEED(fstat(fd, &status));
	say("%s", status.st_blocks >= 128 ? "allocated" : "not allocated");
}

CASE(fallocate_errors)
{
	int fd = make_open("f", "abc"), other = NEED(open("f", O_RDONLY));

	TRY(fallocate(fd, 0, -1, 1));
	TRY(fallocate(fd, 0, 0, 0));
	TRY(fallocate(other, 0, 0, 4096));
	TRY(fallocate(fd, 1 << 20, 0, 4096));
	TRY(fallocate(fd, 0, INT64_MAX, 1));
}

CASE(fallocate_punch_hole)
{
	char byte = 1;
	int fd = make_open("f", "");

	for (int i = 0; i < 16; i++)
		NEED(pwrite(fd, "x", 1, i * 4096));
	TRY(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4096, 8192));
	COUNT(pread(fd, &byte, 1, 4096));
	say("%d", byte);
	COUNT(pread(fd, &byte, 1, 12288));
	say("%c", byte);
	COUNT(lseek(fd, 0, SEEK_HOLE));
	TRY(fallocate(fd, FALLOC_FL_PUNCH_HOLE, 4096, 8192));
	show("f");
}

CASE(fallocate_zero_range)
{
	int fd = make_open("f", "abcdef");

	TRY(fallocate(fd, FALLOC_FL_ZERO_RANGE, 1, 2));
	show_text("f");
	TRY(fallocate(fd, FALLOC_FL_ZERO_RANGE, 4, 100));
	show("f");
	TRY(fallocate(fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, 0, 200));
	show("f");
}

CASE(fallocate_collapse_and_insert)
{
	int fd = make_open("f", "");
	char byte = 0;

	for (int i = 0; i < 4; i++)
		NEED(pwrite(fd, &"abcd"[i], 1, i * 4096));
	TRY(fallocate(fd, FALLOC_FL_COLLAPSE_RANGE, 4096, 4096));
	show("f");
	TRY(fallocate(fd, FALLOC_FL_INSERT_RANGE, 4096, 4096));
	show("f");
	COUNT(pread(fd, &byte, 1, 8192));
	say("%c", byte);
}

/* --- Copies in the kernel. */

CASE(copy_file_range_whole)
{
	int from = make_open("f", "abcdef"), to = make_open("g", "");
	off_t at = 1;

	COUNT(copy_file_range(from, &at, to, NULL, 100, 0));
	say("at=%ld", (long)at);
	show_text("g");
	COUNT(copy_file_range(from, NULL, to, NULL, 2, 0));
	show_text("g");
}

CASE(copy_file_range_errors)
{
	int from = make_open("f", "abcdef"), to = make_open("g", "");
	int append = NEED(open("g", O_WRONLY | O_APPEND));
	off_t zero = 0, two = 2;

	COUNT(copy_file_range(from, &zero, from, &two, 4, 0));
	COUNT(copy_file_range(from, &zero, append, NULL, 4, 0));
	COUNT(copy_file_range(from, &zero, to, NULL, 4, 1));
	COUNT(copy_file_range(to, &two, from, NULL, 4, 0));
	COUNT(copy_file_range(NEED(open(".", O_RDONLY)), NULL, to, NULL, 4, 0));
}

CASE(copy_file_range_of_a_megabyte)
{
	int from = make_open("f", ""), to = make_open("g", "");
	long done = 0, part;
	char byte = 0;

	NEED(ftruncate(from, MIB));
	NEED(pwrite(from, "x", 1, MIB - 1));
	while ((part = copy_file_range(from, NULL, to, NULL, MIB, 0)) > 0)
		done += part;
	COUNT(done);
	COUNT(pread(to, &byte, 1, MIB - 1));
	say("%c", byte);
}

CASE(sendfile_to_a_file)
{
	int from = make_open("f", "abcdef"), to = make_open("g", "");
	off_t at = 2;

	COUNT(sendfile(to, from, &at, 3));
	show_text("g");
	COUNT(sendfile(to, from, NULL, 100));
	show_text("g");
}

CASE(splice_by_a_pipe)
{
	int from = make_open("f", "abcdef"), to = make_open("g", ""), ends[2];
	loff_t at = 1;

	NEED(pipe(ends));
	COUNT(splice(from, &at, ends[1], NULL, 4, 0));
	COUNT(splice(ends[0], NULL, to, NULL, 4, 0));
	show_text("g");
}

/* --- To the disk. */

CASE(sync_calls)
{
	int fd = make_open("f", "abc"), directory = NEED(open(".", O_RDONLY));

	TRY(fsync(fd));
	TRY(fdatasync(fd));
	TRY(fsync(directory));
	TRY(syncfs(fd));
	TRY(sync_file_range(fd, 0, 0, SYNC_FILE_RANGE_WRITE));
	TRY(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED));
	COUNT(readahead(fd, 0, 4096));
	show_text("f");
}
