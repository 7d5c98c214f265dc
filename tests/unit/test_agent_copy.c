// SPDX-License-Identifier: GPL-2.0-only
/* Copies: both directions with the guest's agent as it is, and a guest that wants out of the destination. */
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/time.h>

#include "agent_fixture.h"

#define HOLE_BYTES (8 * MIB)

static char directory[] = "/tmp/karma-copy.XXXXXX";
static char source[64], destination[64];
static struct agent_link copy_link;
static struct agent_tree tree;
static unsigned skipped;

static void count_skipped(void *context, const char *text)
{
	(void)context;
	ck_assert_ptr_nonnull(text);
	skipped++;
}

static void shell(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void shell(const char *format, ...)
{
	char text[512];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	ck_assert_msg(system(text) == 0, "%s", text);
}

static void setup(void)
{
	agent_setup();
	memcpy(directory + sizeof(directory) - 7, "XXXXXX", 6);
	ck_assert_ptr_nonnull(mkdtemp(directory));
	snprintf(source, sizeof(source), "%s/source", directory);
	snprintf(destination, sizeof(destination), "%s/destination", directory);
	ck_assert_int_eq(mkdir(source, 0755) | mkdir(destination, 0755), 0);
	skipped = 0;
}

static void teardown(void)
{
	agent_teardown();
	shell("rm -rf %s", directory);
}

static void begin(void)
{
	tree = (struct agent_tree){ .link = &copy_link, .skipped = count_skipped };
	agent_link_init(&copy_link, agent_socket);
}

static void greet(void)
{
	struct agent_frame frame;
	const char *text;
	int result = agent_link_flush(&copy_link);

	ck_assert(result == 0 || result == -ECANCELED);
	ck_assert_int_eq(agent_link_await(&copy_link, &frame), 1);
	ck_assert_int_eq(agent_link_check_hello(&frame, &text), 0);
}

static void begin_get(const char *from)
{
	start_agent();
	begin();
	agent_link_put_number(&copy_link, AGENT_HELLO, 0, AGENT_VERSION);
	agent_link_put(&copy_link, AGENT_GET, 0, from, strlen(from) + 1);
	greet();
}

/* From the guest. */
static int get(const char *from, const char *to)
{
	char base[NAME_MAX + 1];
	int result;

	begin_get(from);
	agent_tree_base(from, base);
	result = agent_tree_receive(&tree, to, base);
	end_agent();
	return result;
}

static void begin_put(const char *to, const char *base)
{
	char request[512];
	int length = snprintf(request, sizeof(request), "%s%c%s", to, '\0', base) + 1;

	start_agent();
	begin();
	agent_link_put_number(&copy_link, AGENT_HELLO, 0, AGENT_VERSION);
	agent_link_put(&copy_link, AGENT_PUT, 0, request, length);
	greet();
}

/* To the guest. */
static int put(const char *from, const char *to)
{
	char base[NAME_MAX + 1];
	int result;

	agent_tree_base(from, base);
	begin_put(to, base);
	result = agent_tree_send(&tree, from);
	end_agent();
	return result;
}

/* Files of all kinds; what ls and find tell of them is compared. */
static void make_tree(void)
{
	shell("cd %s && mkdir -p one/two && echo text >one/file && chmod 640 one/file && "
	      "ln one/file one/two/linked && ln -s ../file one/two/link && ln -s /nowhere dangling && "
	      "head -c 300000 /dev/urandom >large && truncate -s %llu sparse && "
	      "printf data | dd of=sparse bs=1M seek=3 conv=notrunc status=none && : >empty && chmod 500 one/two && "
	      "mkfifo fifo && touch -d @1000000000.25 one/file large one/two one",
		source, HOLE_BYTES);
}

static void compare(const char *one, const char *other)
{
	/* All but the time of the top, and of links, and the fifo. */
	shell("cd %s && find . -mindepth 1 ! -type p ! -type l -printf '%%p %%y %%m %%s %%n %%T@\\n' | sort >%s/first && "
	      "cd %s && find . -mindepth 1 ! -type l -printf '%%p %%y %%m %%s %%n %%T@\\n' | sort >%s/second && "
	      "diff %s/first %s/second && diff -r --no-dereference -x fifo %s %s",
		one, directory, other, directory, directory, directory, one, other);
}

static void expect_sparse(const char *where)
{
	char path[256];
	struct stat status;

	snprintf(path, sizeof(path), "%s/sparse", where);
	ck_assert_int_eq(stat(path, &status), 0);
	ck_assert_int_eq(status.st_size, HOLE_BYTES);
	ck_assert_int_lt(status.st_blocks * 512, MIB);
}

START_TEST(a_tree_arrives_as_it_is)
{
	char path[128];

	make_tree();
	snprintf(path, sizeof(path), "%s/source", destination);
	ck_assert_int_eq(get(source, destination), 0);
	compare(source, path);
	expect_sparse(path);
	ck_assert_uint_eq(skipped, 1);
	/* Again, over what is there; and the other way, under another name. */
	ck_assert_int_eq(put(source, destination), 0);
	shell("diff -r --no-dereference -x fifo %s %s && test -z \"$(find %s -name '.karma*')\"", source, path, path);
	snprintf(path, sizeof(path), "%s/other", destination);
	ck_assert_int_eq(put(source, path), 0);
	compare(source, path);
	expect_sparse(path);
	ck_assert_uint_eq(skipped, 3);
}
END_TEST

START_TEST(a_file_goes_into_a_directory_or_to_a_path)
{
	char from[128], to[128];

	shell("echo new >%s/file && echo old >%s/there", source, destination);
	snprintf(from, sizeof(from), "%s/file", source);
	ck_assert_int_eq(get(from, destination), 0);
	snprintf(to, sizeof(to), "%s/there", destination);
	ck_assert_int_eq(put(from, to), 0);
	shell("cd %s && cmp file there && cmp file %s", destination, from);
	/* A link that is named is followed. */
	shell("ln -s file %s/link", source);
	snprintf(from, sizeof(from), "%s/link", source);
	ck_assert_int_eq(get(from, destination), 0);
	shell("cd %s && test ! -L link && cmp link file", destination);
}
END_TEST

START_TEST(files_without_a_size_have_contents)
{
	ck_assert_int_eq(get("/proc/version", destination), 0);
	shell("cmp /proc/version %s/version", destination);
}
END_TEST

START_TEST(what_cannot_be_copied_is_told)
{
	char path[128];

	ck_assert_int_lt(get("/nowhere", destination), 0);
	ck_assert_str_eq(tree.text, "/nowhere: No such file or directory");
	ck_assert(tree.refused);
	ck_assert_int_lt(put(source, "/nowhere/else/"), 0);
	ck_assert(tree.refused);
	ck_assert_ptr_nonnull(strstr(tree.text, "/nowhere/else/"));
	ck_assert_int_lt(get("/dev/null", destination), 0);
	shell(": >%s/file", destination);
	snprintf(path, sizeof(path), "%s/file", destination);
	ck_assert_int_lt(get(source, path), 0);
	ck_assert(!tree.refused);
}
END_TEST

START_TEST(set_id_bits_stay_behind)
{
	shell("cd %s && : >program && chmod 6755 program", source);
	ck_assert_int_eq(get(source, destination), 0);
	shell("test $(stat -c %%a %s/source/program) = 755", destination);
}
END_TEST

START_TEST(a_copy_that_ends_early_leaves_nothing)
{
	struct agent_entry entry = { .kind = AGENT_FILE, .mode = 0644 };
	uint8_t payload[sizeof(entry) + 2] = { 0 };
	char path[128];

	snprintf(path, sizeof(path), "%s/file", destination);
	memcpy(payload, &entry, sizeof(entry));
	begin_put(path, "file");
	agent_link_put(&copy_link, AGENT_ENTRY, 0, payload, sizeof(payload));
	agent_link_put(&copy_link, AGENT_DATA, 0, "half", 4);
	ck_assert_int_eq(agent_link_flush(&copy_link), 0);
	end_agent();
	shell("test -z \"$(ls -A %s)\"", destination);
}
END_TEST

/* --- Standard input and output. */

/* From a pipe, which something writes to. */
static int put_output_of(const char *command, const char *to)
{
	FILE *pipe = popen(command, "r");
	int result;

	ck_assert_ptr_nonnull(pipe);
	begin_put(to, ".");
	result = agent_tree_send_input(&tree, fileno(pipe), 0640);
	end_agent();
	pclose(pipe);
	return result;
}

/* To a pipe, which something reads. */
static int get_to(const char *from, const char *command)
{
	FILE *pipe = popen(command, "w");
	int result;

	ck_assert_ptr_nonnull(pipe);
	begin_get(from);
	result = agent_tree_receive_output(&tree, fileno(pipe));
	end_agent();
	ck_assert_int_eq(pclose(pipe), 0);
	return result;
}

START_TEST(a_pipe_becomes_a_file)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/file", destination);
	ck_assert_int_eq(put_output_of("seq 100000; sleep 0.1; echo last", path), 0);
	shell("(seq 100000; echo last) | cmp - %s && test $(stat -c %%a %s) = 640", path, path);
	ck_assert_int_eq(put_output_of(":", path), 0);
	shell("test -f %s -a ! -s %s && test $(($(date +%%s) - $(stat -c %%Y %s))) -lt 100", path, path, path);
	/* It has no name that it could have there. */
	ck_assert_int_lt(put_output_of("echo text", destination), 0);
	ck_assert(tree.refused);
	ck_assert_ptr_nonnull(strstr(tree.text, "Is a directory"));
	shell("test \"$(ls -A %s)\" = file", destination);
}
END_TEST

START_TEST(a_file_goes_to_a_pipe)
{
	char command[256], path[128];

	make_tree();
	for (unsigned i = 0; i < 2; i++) {
		const char *name = (const char *const[]){ "large", "sparse" }[i];

		snprintf(path, sizeof(path), "%s/%s", source, name);
		snprintf(command, sizeof(command), "cmp - %s", path);
		ck_assert_int_eq(get_to(path, command), 0);
	}
	ck_assert_int_eq(get_to("/proc/version", "cmp - /proc/version"), 0);
	ck_assert_int_eq(get_to(source, "cmp - /dev/null"), -EISDIR);
	ck_assert(!tree.refused);
	ck_assert_int_eq(get_to("/nowhere", "cmp - /dev/null"), -EREMOTEIO);
}
END_TEST

/* --- A guest that sends what it likes. */

static void lie(unsigned type, const void *payload, size_t length)
{
	ck_assert(agent_link_put(&copy_link, type, 0, payload, length));
}

static void lie_entry(unsigned kind, const char *name, size_t name_bytes, const char *target)
{
	struct agent_entry entry = { .kind = kind, .mode = 0777 };
	uint8_t payload[1024];

	memcpy(payload, &entry, sizeof(entry));
	memcpy(payload + sizeof(entry), name, name_bytes);
	strcpy((char *)payload + sizeof(entry) + name_bytes, target);
	lie(AGENT_ENTRY, payload, sizeof(entry) + name_bytes + strlen(target) + 1);
}

static int liar;

static void start_lie(void)
{
	int ends[2];

	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
	liar = ends[1];
	agent_socket = ends[0];
	agent_link_init(&copy_link, liar);
}

/* What a receiver makes of all that was said. */
static int hear_lie(void)
{
	int result;

	ck_assert_int_eq(agent_link_flush(&copy_link), 0);
	shutdown(liar, SHUT_WR);
	begin();
	result = agent_tree_receive(&tree, destination, "copy");
	close(liar);
	agent_teardown();
	return result;
}

START_TEST(names_that_lead_out_are_refused)
{
	static const struct {
		const char *name;
		size_t bytes;
	} names[] = { { "..", 3 }, { ".", 2 }, { "", 1 }, { "../canary", 10 }, { "/tmp/canary", 12 }, { "a/b", 4 },
		{ "a\0b", 4 }, { "a", 1 } };

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		for (unsigned kind = AGENT_DIRECTORY; kind <= AGENT_HARD_LINK; kind++) {
			start_lie();
			lie_entry(AGENT_DIRECTORY, "", 1, "");
			lie_entry(kind, names[i].name, names[i].bytes, "canary");
			ck_assert_int_eq(hear_lie(), -EPROTO);
		}
	}
	shell("cd %s && test \"$(find . | wc -l)\" = 4", directory);
}
END_TEST

START_TEST(a_link_is_no_way_out)
{
	static const unsigned kinds[] = { AGENT_DIRECTORY, AGENT_FILE };

	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
		start_lie();
		lie_entry(AGENT_DIRECTORY, "", 1, "");
		lie_entry(AGENT_SYMLINK, "way", 4, source);
		lie_entry(kinds[i], "way", 4, "");
		if (kinds[i] == AGENT_DIRECTORY)
			lie_entry(AGENT_FILE, "canary", 7, "");
		lie(AGENT_DATA, "bad", 3);
		lie(AGENT_LEAVE, NULL, 0);
		lie(AGENT_LEAVE, NULL, 0);
		if (kinds[i] == AGENT_DIRECTORY)
			lie(AGENT_LEAVE, NULL, 0);
		lie(AGENT_DONE, NULL, 0);
		/* A file takes the link's place. */
		ck_assert_int_eq(hear_lie(), kinds[i] == AGENT_FILE ? 0 : -ENOTDIR);
		shell("test -z \"$(ls -A %s)\" && rm -r %s/copy", source, destination);
	}
}
END_TEST

START_TEST(the_top_has_the_name_that_was_asked_for)
{
	start_lie();
	lie_entry(AGENT_FILE, "../canary", 10, "");
	lie(AGENT_LEAVE, NULL, 0);
	lie(AGENT_DONE, NULL, 0);
	ck_assert_int_eq(hear_lie(), 0);
	shell("test -f %s/copy && test ! -e %s/canary", destination, directory);
}
END_TEST

START_TEST(a_hard_link_leads_to_the_copy_alone)
{
	static const char *const targets[] = { "../secret", "/etc/passwd", "way/secret", "", "..", "one/../../secret" };

	shell("echo secret >%s/secret && cp %s/secret %s", destination, destination, source);
	for (size_t i = 0; i < ARRAY_SIZE(targets); i++) {
		start_lie();
		lie_entry(AGENT_DIRECTORY, "", 1, "");
		lie_entry(AGENT_SYMLINK, "way", 4, source);
		lie_entry(AGENT_HARD_LINK, "stolen", 7, targets[i]);
		ck_assert_int_lt(hear_lie(), 0);
		shell("test ! -e %s/copy/stolen", destination);
	}
}
END_TEST

START_TEST(frames_out_of_place_are_refused)
{
	static const uint64_t hole = INT64_MAX;

	for (unsigned i = 0; i < 8; i++) {
		start_lie();
		if (i >= 4)
			lie_entry(AGENT_FILE, "", 1, "");
		switch (i) {
		case 0:
			lie(AGENT_DATA, "x", 1);
			break;
		case 1:
			lie(AGENT_LEAVE, NULL, 0);
			break;
		case 2:
			lie(AGENT_DONE, NULL, 0);
			break;
		case 3:
			lie_entry(AGENT_HARD_LINK, "", 1, "x");
			break;
		case 4:
			lie_entry(AGENT_FILE, "x", 2, "");
			break;
		case 5:
			lie(AGENT_HOLE, &hole, 4);
			break;
		case 6:
			lie(AGENT_HOLE, &hole, 8);
			lie(AGENT_HOLE, &hole, 8);
			break;
		default:
			lie(AGENT_DONE, NULL, 0);
		}
		ck_assert_int_lt(hear_lie(), 0);
		shell("test -z \"$(ls -A %s)\"", destination);
	}
}
END_TEST

/* What standard output makes of all that was said: its bytes in text. */
static int output_of_lie(char *text, size_t size)
{
	int ends[2], result;
	ssize_t got;

	ck_assert_int_eq(agent_link_flush(&copy_link), 0);
	shutdown(liar, SHUT_WR);
	begin();
	ck_assert_int_eq(pipe(ends), 0);
	result = agent_tree_receive_output(&tree, ends[1]);
	close(ends[1]);
	got = read(ends[0], text, size - 1);
	text[got > 0 ? got : 0] = '\0';
	close(ends[0]);
	close(liar);
	agent_teardown();
	return result;
}

START_TEST(output_takes_one_file_in_its_order)
{
	/* e: an entry of a file, x: of a link, d: data, h: a hole that is cut, l: leave, o: done. */
	static const struct {
		const char *frames, *text;
		int result;
	} lies[] = { { "edlo", "data", 0 }, { "elo", "", 0 }, { "d", "", -EPROTO }, { "l", "", -EPROTO },
		{ "o", "", -EPROTO }, { "xlo", "", -EISDIR }, { "ede", "data", -EPROTO }, { "edo", "data", -EPROTO },
		{ "edld", "data", -EPROTO }, { "edle", "data", -EPROTO }, { "eh", "", -EPROTO }, { "ed", "data", -EPIPE } };
	char text[16];

	for (size_t i = 0; i < ARRAY_SIZE(lies); i++) {
		start_lie();
		for (const char *frame = lies[i].frames; *frame; frame++) {
			if (*frame == 'e' || *frame == 'x')
				lie_entry(*frame == 'e' ? AGENT_FILE : AGENT_SYMLINK, "", 1, "");
			else if (*frame == 'd' || *frame == 'h')
				lie(*frame == 'd' ? AGENT_DATA : AGENT_HOLE, "data", 4);
			else
				lie(*frame == 'l' ? AGENT_LEAVE : AGENT_DONE, NULL, 0);
		}
		ck_assert_int_eq(output_of_lie(text, sizeof(text)), lies[i].result);
		ck_assert_str_eq(text, lies[i].text);
	}
}
END_TEST

START_TEST(directories_have_a_depth)
{
	start_lie();
	for (unsigned i = 0; i <= AGENT_DEPTH_MAX; i++)
		lie_entry(AGENT_DIRECTORY, "x", 2, "");
	ck_assert_int_eq(hear_lie(), -ELOOP);
}
END_TEST

START_TEST(what_was_there_keeps_its_mode)
{
	shell("mkdir %s/copy && chmod 700 %s/copy", destination, destination);
	start_lie();
	lie_entry(AGENT_DIRECTORY, "", 1, "");
	lie(AGENT_LEAVE, NULL, 0);
	lie(AGENT_DONE, NULL, 0);
	ck_assert_int_eq(hear_lie(), 0);
	shell("test $(stat -c %%a %s/copy) = 700", destination);
}
END_TEST

void agent_add_copies(Suite *suite)
{
	const TTest *const copies[] = {
		a_tree_arrives_as_it_is,
		a_file_goes_into_a_directory_or_to_a_path,
		files_without_a_size_have_contents,
		what_cannot_be_copied_is_told,
		set_id_bits_stay_behind,
		a_copy_that_ends_early_leaves_nothing,
		a_pipe_becomes_a_file,
		a_file_goes_to_a_pipe,
		output_takes_one_file_in_its_order,
		names_that_lead_out_are_refused,
		a_link_is_no_way_out,
		the_top_has_the_name_that_was_asked_for,
		a_hard_link_leads_to_the_copy_alone,
		frames_out_of_place_are_refused,
		directories_have_a_depth,
		what_was_there_keeps_its_mode,
	};

	add_case(suite, "copy", setup, teardown, 20, copies, ARRAY_SIZE(copies));
}
