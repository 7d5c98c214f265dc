/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A shared directory, served in this process: requests go in as a driver has them, in two lists of buffers, and
 * the answers are looked at.  Beside the directory is a canary that no answer may have.
 */
#ifndef KARMA_TESTS_SHARE_FIXTURE_H
#define KARMA_TESTS_SHARE_FIXTURE_H

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "../../src/share/session.h"
#include "guest.h"

/* The other parts of the suite. */
void share_files_tests(Suite *suite);
void share_directories_tests(Suite *suite);
void share_hostile_tests(Suite *suite);
void share_server_tests(Suite *suite);
void share_confine_tests(Suite *suite);

#define ROOT FUSE_ROOT_ID
#define CANARY "the canary beside the directory"
#define REQUEST_BYTES (2 * MIB)

static struct share_options options;
static struct session session;
static char base[64], shared[80];
static int shared_fd;	/* the directory, for the test as its host */

/* The request, and its answer: a head, and what is behind it.  In test_share.c. */
extern uint8_t out_bytes[REQUEST_BYTES], in_bytes[REQUEST_BYTES];
static size_t out_length, in_room;
static struct fuse_out_header *const answer_head = (struct fuse_out_header *)in_bytes;
static void *const answer = in_bytes + sizeof(struct fuse_out_header);
static uint32_t as_uid, as_gid;

static inline void begin(uint32_t opcode, uint64_t node)
{
	struct fuse_in_header head = { .opcode = opcode, .unique = 77, .nodeid = node, .uid = as_uid, .gid = as_gid };

	memcpy(out_bytes, &head, sizeof(head));
	out_length = sizeof(head);
	in_room = 65536;
	memset(in_bytes, 0xee, in_room);
}

static inline void put(const void *bytes, size_t length)
{
	ck_assert(out_length + length <= REQUEST_BYTES);
	if (length)
		memcpy(out_bytes + out_length, bytes, length);
	out_length += length;
}

static inline void put_text(const char *text)
{
	put(text, strlen(text) + 1);
}

/* Serve what is in out_bytes, in buffers that begin and end anywhere. */
static inline uint32_t serve_bytes(size_t out, size_t in)
{
	const size_t out_cut = out / 3, in_cut = in / 2;
	struct iovec iov[4] = {
		{ out_bytes, out_cut },
		{ out_bytes + out_cut, out - out_cut },
		{ in_bytes, in_cut },
		{ in_bytes + in_cut, in - in_cut },
	};
	const struct virtq_chain chain = {
		.iov = iov, .out_count = 2, .in_count = 2, .out_bytes = out, .in_bytes = in };

	return session_serve(&session, &chain);
}

/* The error of what began with begin(): 0 or a negative errno. */
static inline int finish(void)
{
	uint32_t written;

	((struct fuse_in_header *)out_bytes)->len = out_length;
	written = serve_bytes(out_length, in_room);
	ck_assert_uint_ge(written, sizeof(*answer_head));
	ck_assert_uint_eq(answer_head->len, written);
	ck_assert_uint_eq(answer_head->unique, 77);
	if (answer_head->error < 0)
		ck_assert_uint_eq(written, sizeof(*answer_head));
	return answer_head->error;
}

static inline size_t answer_bytes(void)
{
	return answer_head->len - sizeof(*answer_head);
}

static inline int call(uint32_t opcode, uint64_t node, const void *argument, size_t length)
{
	begin(opcode, node);
	put(argument, length);
	return finish();
}

static inline int call_name(uint32_t opcode, uint64_t node, const void *argument, size_t length, const char *name)
{
	begin(opcode, node);
	put(argument, length);
	put_text(name);
	return finish();
}

static inline int init_session(uint32_t minor)
{
	const struct fuse_init_in in = { .major = 7, .minor = minor, .max_readahead = 131072, .flags = ~0u, .flags2 = ~0u };

	return call(FUSE_INIT, 0, &in, sizeof(in));
}

static inline void write_canary(void)
{
	int fd;

	snprintf(shared, sizeof(shared), "%s/canary", base);
	fd = open(shared, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(write(fd, CANARY, sizeof(CANARY)), sizeof(CANARY));
	close(fd);
}

static inline void start_session(void)
{
	int directory = open(shared, O_PATH | O_DIRECTORY | O_CLOEXEC);

	ck_assert_int_eq(session_init(&session, &options, directory, false), 0);
	ck_assert_int_eq(init_session(FUSE_KERNEL_MINOR_VERSION), 0);
}

static inline void setup(void)
{
	snprintf(base, sizeof(base), "/tmp/karma-test-share.XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(base));
	write_canary();
	snprintf(shared, sizeof(shared), "%s/shared", base);
	ck_assert_int_eq(mkdir(shared, 0777), 0);
	shared_fd = open(shared, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	options = (struct share_options){ .directory = shared, .tag = "test" };
	as_uid = geteuid();
	as_gid = getegid();
	umask(0);
	ck_assert_int_eq(chdir("/proc/self/fd"), 0);
	start_session();
}

static inline void teardown(void)
{
	char command[128];

	session_release(&session);
	close(shared_fd);
	snprintf(command, sizeof(command), "rm -rf %s", base);
	ck_assert_int_eq(system(command), 0);
}

static inline void restart(void)
{
	session_release(&session);
	start_session();
}

/* --- The host's files. */

static inline void make_file(const char *name, const char *contents)
{
	int fd = openat(shared_fd, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(write(fd, contents, strlen(contents)), (ssize_t)strlen(contents));
	close(fd);
}

static inline struct stat host_stat(const char *name)
{
	struct stat status = { 0 };

	ck_assert_int_eq(fstatat(shared_fd, name, &status, AT_SYMLINK_NOFOLLOW), 0);
	return status;
}

static inline bool host_has(const char *name)
{
	return faccessat(shared_fd, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

/* --- The guest. */

static inline int lookup(uint64_t directory, const char *name)
{
	return call_name(FUSE_LOOKUP, directory, NULL, 0, name);
}

/* The number of a file that is there. */
static inline uint64_t find(uint64_t directory, const char *name)
{
	ck_assert_int_eq(lookup(directory, name), 0);
	ck_assert_uint_eq(answer_bytes(), sizeof(struct fuse_entry_out));
	return ((struct fuse_entry_out *)answer)->nodeid;
}

static inline void forget(uint64_t node, uint64_t lookups)
{
	const struct fuse_forget_in in = { lookups };

	begin(FUSE_FORGET, node);
	put(&in, sizeof(in));
	((struct fuse_in_header *)out_bytes)->len = out_length;
	ck_assert_uint_eq(serve_bytes(out_length, 0), 0);
}

static inline int getattr(uint64_t node)
{
	const struct fuse_getattr_in in = { 0 };

	return call(FUSE_GETATTR, node, &in, sizeof(in));
}

static inline struct fuse_attr attributes(uint64_t node)
{
	ck_assert_int_eq(getattr(node), 0);
	return ((struct fuse_attr_out *)answer)->attr;
}

static inline int try_open(uint64_t node, uint32_t flags)
{
	const struct fuse_open_in in = { .flags = flags };

	return call(FUSE_OPEN, node, &in, sizeof(in));
}

static inline uint64_t open_file(uint64_t node, uint32_t flags)
{
	ck_assert_int_eq(try_open(node, flags), 0);
	return ((struct fuse_open_out *)answer)->fh;
}

static inline uint64_t open_directory(uint64_t node)
{
	const struct fuse_open_in in = { 0 };

	ck_assert_int_eq(call(FUSE_OPENDIR, node, &in, sizeof(in)), 0);
	return ((struct fuse_open_out *)answer)->fh;
}

static inline int release(uint64_t node, uint64_t fh)
{
	const struct fuse_release_in in = { .fh = fh };

	return call(FUSE_RELEASE, node, &in, sizeof(in));
}

static inline int try_read(uint64_t node, uint64_t fh, uint64_t offset, uint32_t size)
{
	const struct fuse_read_in in = { .fh = fh, .offset = offset, .size = size };

	begin(FUSE_READ, node);
	put(&in, sizeof(in));
	in_room = sizeof(*answer_head) + size;
	return finish();
}

static inline int try_write(uint64_t node, uint64_t fh, uint64_t offset, const void *bytes, size_t length)
{
	const struct fuse_write_in in = { .fh = fh, .offset = offset, .size = length };

	begin(FUSE_WRITE, node);
	put(&in, sizeof(in));
	put(bytes, length);
	return finish();
}

static inline int create(uint64_t directory, const char *name, uint32_t flags, mode_t mode)
{
	const struct fuse_create_in in = { .flags = flags, .mode = S_IFREG | mode };

	return call_name(FUSE_CREATE, directory, &in, sizeof(in), name);
}

static inline struct fuse_open_out *created_file(void)
{
	return (struct fuse_open_out *)((uint8_t *)answer + sizeof(struct fuse_entry_out));
}

static inline int make_directory(uint64_t directory, const char *name)
{
	const struct fuse_mkdir_in in = { .mode = 0755 };

	return call_name(FUSE_MKDIR, directory, &in, sizeof(in), name);
}

static inline int rename2_to(uint64_t from, const char *name, uint64_t to, const char *new_name, uint32_t flags)
{
	const struct fuse_rename2_in in = { .newdir = to, .flags = flags };

	begin(FUSE_RENAME2, from);
	put(&in, sizeof(in));
	put_text(name);
	put_text(new_name);
	return finish();
}

static inline int remove_file(uint64_t directory, const char *name)
{
	return call_name(FUSE_UNLINK, directory, NULL, 0, name);
}

#endif
