// SPDX-License-Identifier: GPL-2.0-only
/*
 * Fuzz the server of a shared directory by requests of a guest that knows numbers and names, and makes up others,
 * in memory that changes meanwhile if the first byte says so.  No answer has the canary beside the directory, nor
 * is anything there changed; an answer is within its room; no descriptor stays behind.
 */
#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "../../src/share/session.h"
#include "guest.h"
#include "karma/util.h"

#define STEPS_MAX 60u
#define KNOWN_MAX 8u
#define FILE_BYTES_MAX (1 * MIB)
#define CANARY "the canary beside the directory"
#define REQUEST_AT 0u
#define REQUEST_ROOM (128 * 1024u)
#define ANSWER_AT REQUEST_ROOM
#define ANSWER_ROOM (128 * 1024u)

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct share_options options = { .tag = "fuzz" };
static struct session session;
static char base[64], shared[80];
static uint64_t nodes[KNOWN_MAX], handles[KNOWN_MAX];
static unsigned node_count, handle_count;

static int remove_one(const char *path, const struct stat *status, int kind, struct FTW *walk)
{
	(void)status;
	(void)kind;
	return walk->level ? remove(path) : 0;
}

static void remove_base(void)
{
	nftw(base, remove_one, 16, FTW_DEPTH | FTW_PHYS);
	remove(base);
}

static void make_file(const char *directory, const char *name, const char *contents)
{
	char path[PATH_MAX];
	FILE *file;

	snprintf(path, sizeof(path), "%s/%s", directory, name);
	file = fopen(path, "we");
	check(file && fputs(contents, file) >= 0 && fclose(file) == 0);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	const struct rlimit limit = { FILE_BYTES_MAX, FILE_BYTES_MAX };

	(void)argc;
	(void)argv;
	memory_make(REQUEST_ROOM + ANSWER_ROOM);
	snprintf(base, sizeof(base), "/tmp/karma-fuzz-fuse.XXXXXX");
	check(mkdtemp(base));
	snprintf(shared, sizeof(shared), "%s/shared", base);
	make_file(base, "canary", CANARY);
	atexit(remove_base);
	/* The corpus is not larger. */
	setrlimit(RLIMIT_FSIZE, &limit);
	umask(0);
	options.directory = shared;
	return 0;
}

static void make_tree(void)
{
	char path[PATH_MAX];

	check(mkdir(shared, 0777) == 0);
	snprintf(path, sizeof(path), "%s/directory", shared);
	check(mkdir(path, 0777) == 0);
	make_file(path, "file", "contents");
	make_file(shared, "file", "contents");
	snprintf(path, sizeof(path), "%s/link", shared);
	check(symlink("..", path) == 0);
}

static void check_base(void)
{
	char path[PATH_MAX], contents[100] = { 0 };
	FILE *file;

	snprintf(path, sizeof(path), "%s/canary", base);
	file = fopen(path, "re");
	check(file && fgets(contents, sizeof(contents), file) && strcmp(contents, CANARY) == 0);
	fclose(file);
}

static void open_session(uint8_t choice)
{
	const int directory = open(shared, O_PATH | O_DIRECTORY | O_CLOEXEC);

	options.read_only = choice & 2;
	options.cache = choice >> 2 & 3 ? (choice >> 2 & 3) - 1 : SHARE_CACHE_AUTO;
	check(session_init(&session, &options, directory, choice & 16) == 0);
	nodes[0] = FUSE_ROOT_ID;
	node_count = 1;
	handle_count = 0;
}

/* --- Requests. */

static size_t put(size_t at, const void *bytes, size_t length)
{
	if (length > REQUEST_ROOM - at)
		length = REQUEST_ROOM - at;
	memcpy(memory_at(REQUEST_AT, REQUEST_ROOM) + at, bytes, length);
	return at + length;
}

static uint64_t take_node(struct script *script)
{
	uint8_t kind = take(script, 1);

	return kind < 0xf0 ? nodes[kind % node_count] : take(script, 8);
}

/* What arguments have mostly: small numbers, numbers that were given, and what is near to bounds. */
static uint64_t take_word(struct script *script)
{
	uint8_t kind = take(script, 1);

	switch (kind >> 5) {
	case 0:
	case 1:
		return kind;
	case 2:
		return (uint64_t)take(script, 2) << (kind & 31);
	case 3:
		return handle_count ? handles[kind % handle_count] : 0;
	case 4:
		return nodes[kind % node_count];
	case 5:
		return (kind & 1 ? 0 : 1ull << (kind & 31) * 2) - 1;
	case 6:
		return take(script, 4) << 32 | take(script, 4);
	default:
		return take(script, 8);
	}
}

static size_t put_name(struct script *script, size_t at)
{
	static const char *const names[] = { "file", "directory", "link", "new", "other", "..", ".", "", "a/b", "../canary",
		"user.a", "user.b", "security.c", "x" };
	const char *name = names[take(script, 1) % ARRAY_SIZE(names)];

	return put(at, name, strlen(name) + 1);
}

static size_t put_arguments(struct script *script, size_t at)
{
	const uint8_t shape = take(script, 1);
	const uint8_t *bytes;
	size_t count;

	for (unsigned i = 0; i < (shape & 15); i++) {
		const uint64_t word = take_word(script);

		at = put(at, &word, sizeof(word));
	}
	for (unsigned i = 0; i < (shape >> 4 & 3); i++)
		at = put_name(script, at);
	if (shape & 64) {
		count = take_bytes(script, take(script, 1), &bytes);
		at = put(at, bytes, count);
	}
	return at;
}

/* --- Answers. */

static void remember(uint64_t *list, unsigned *count, uint64_t number)
{
	list[*count < KNOWN_MAX ? (*count)++ : number % KNOWN_MAX] = number;
}

static void look_at_answer(uint32_t opcode, const uint8_t *answer, uint32_t length)
{
	const struct fuse_open_out *opened = (const void *)(answer + sizeof(struct fuse_out_header));
	const struct fuse_entry_out *entry = (const void *)(answer + sizeof(struct fuse_out_header));

	check(!memmem(answer, length, CANARY, strlen(CANARY)));
	if (length == sizeof(struct fuse_out_header) + sizeof(*opened) &&
		(opcode == FUSE_OPEN || opcode == FUSE_OPENDIR))
		remember(handles, &handle_count, opened->fh);
	if (length >= sizeof(struct fuse_out_header) + sizeof(*entry) && opcode != FUSE_READ)
		remember(nodes, &node_count, entry->nodeid);
	if (opcode == FUSE_CREATE && length > sizeof(struct fuse_out_header) + sizeof(*entry))
		remember(handles, &handle_count, ((const struct fuse_open_out *)(entry + 1))->fh);
}

/* In as many buffers as the script wants, which may be cut anywhere. */
static void serve(struct script *script, uint32_t opcode, size_t length)
{
	const size_t room = take(script, 1) < 0xe0 ? 8192 : take(script, 2);
	const size_t out_cut = take(script, 1) % (length + 1), in_cut = take(script, 1) % (room + 1);
	uint8_t *out = memory_at(REQUEST_AT, REQUEST_ROOM), *in = memory_at(ANSWER_AT, ANSWER_ROOM);
	struct iovec iov[4] = { { out, out_cut }, { out + out_cut, length - out_cut }, { in, in_cut },
		{ in + in_cut, room - in_cut } };
	const struct virtq_chain chain = { .iov = iov, .out_count = 2, .in_count = 2, .out_bytes = length, .in_bytes = room };
	uint32_t written;

	memset(in, 0, room + 16);
	written = session_serve(&session, &chain);
	check(written <= room);
	look_at_answer(opcode, in, written);
}

static void request(struct script *script)
{
	struct fuse_in_header head = { .opcode = take(script, 1) % 56 };
	size_t length;

	head.nodeid = take_node(script);
	length = put_arguments(script, put(0, &head, sizeof(head)));
	head.len = take(script, 1) < 0xf0 ? length : take(script, 4);
	put(0, &head, sizeof(head));
	serve(script, head.opcode, length);
}

static void init(void)
{
	const struct fuse_init_in in = { .major = 7, .minor = 38, .flags = ~0u };
	const struct fuse_in_header head = { .opcode = FUSE_INIT, .len = sizeof(head) + sizeof(in) };
	struct script none = { 0 };

	put(put(0, &head, sizeof(head)), &in, sizeof(in));
	serve(&none, FUSE_INIT, head.len);
}

/* The lowest number that is free. */
static int next_descriptor(void)
{
	int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);

	close(fd);
	return fd;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct script script = { data, data + size };
	const int before = next_descriptor(), here = open(".", O_PATH | O_CLOEXEC);
	const uint8_t choice = take(&script, 1);
	char path[PATH_MAX];

	/* As the server has it: here, since the fuzzer's own handlers are set after LLVMFuzzerInitialize. */
	signal(SIGXFSZ, SIG_IGN);
	make_tree();
	check(chdir("/proc/self/fd") == 0);
	open_session(choice);
	init();
	meddling_start(choice, 4096);
	for (unsigned i = 0; i < STEPS_MAX && !script_over(&script); i++)
		request(&script);
	meddling_stop();
	session_release(&session);
	check(fchdir(here) == 0);
	close(here);
	check(next_descriptor() == before);
	check_base();
	snprintf(path, sizeof(path), "%s", shared);
	check(nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS) == 0 && remove(path) == 0);
	return 0;
}
