// SPDX-License-Identifier: GPL-2.0-only
/*
 * Fuzz what karma-agent reads: frames, the request to run a command, copies to a directory or a pipe, and the windows of
 * streams.  No bytes crash it, lead a copy out of its destination, or have a stream take or send more than its window.
 *
 * The first byte says which; the rest is what comes by the socket.
 */
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "../../src/agent/agent.h"
#include "karma/agent_stream.h"
#include "karma/agent_tree.h"
#include "karma/util.h"
#include "script.h"

enum mode { MODE_REQUEST, MODE_COPY, MODE_STREAMS, MODE_OUTPUT, MODES };

static char directory[] = "/tmp/karma-fuzz-agent.XXXXXX";
static char canary[64], destination[64];
static struct agent_link *connection;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int remove_one(const char *path, const struct stat *status, int kind, struct FTW *at)
{
	(void)status;
	(void)kind;
	(void)at;
	return remove(path);
}

static void remove_all(void)
{
	nftw(directory, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static void set_up(void)
{
	if (connection)
		return;
	connection = malloc(sizeof(*connection));
	check(connection && mkdtemp(directory));
	snprintf(canary, sizeof(canary), "%s/canary", directory);
	snprintf(destination, sizeof(destination), "%s/destination", directory);
	check(mkdir(canary, 0700) == 0);
	atexit(remove_all);
}

/* The other end of the link, which has said these bytes and no more. */
static int say(const uint8_t *bytes, size_t length)
{
	int ends[2];

	check(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
	agent_link_init(connection, ends[0]);
	if (send(ends[1], bytes, length, MSG_DONTWAIT) < 0)
		shutdown(ends[1], SHUT_RDWR);
	shutdown(ends[1], SHUT_WR);
	return ends[1];
}

static bool is_within(const struct agent_frame *frame, const char *string)
{
	return string >= (const char *)frame->payload &&
		string + strlen(string) < (const char *)frame->payload + frame->length;
}

static void request(void)
{
	static struct process process;
	struct agent_frame frame;
	struct exec_request request;

	while (agent_link_await(connection, &frame) > 0) {
		if (process_parse(&process, &frame) == 0) {
			check(process.group_count <= PROCESS_GROUPS_MAX && process.limit_count <= PROCESS_LIMITS_MAX);
			check(frame.length == sizeof(struct agent_process) + process.group_count * sizeof(uint32_t) +
					process.limit_count * sizeof(struct agent_limit));
		}
		if (exec_request_parse(&request, &frame) == 0) {
			check(is_within(&frame, request.user) && is_within(&frame, request.directory));
			check(request.arguments[0]);
			for (char **at = request.arguments; *at; at++)
				check(is_within(&frame, *at));
			for (char **at = request.environment; *at; at++)
				check(is_within(&frame, *at) && strchr(*at, '='));
		}
		exec_request_release(&request);
	}
}

static void copy(void)
{
	static struct agent_tree tree;
	struct stat status;

	tree = (struct agent_tree){ .link = connection };
	check(mkdir(destination, 0700) == 0);
	agent_tree_receive(&tree, destination, "copy");
	/* A directory is as it was made; one without the right to search it is ours to remove all the same, for root. */
	nftw(destination, remove_one, 16, FTW_DEPTH | FTW_PHYS);
	check(lstat(destination, &status) < 0 && errno == ENOENT);
	check(stat(canary, &status) == 0 && status.st_nlink == 2 && (status.st_mode & 0777) == 0700);
	check(rmdir(canary) == 0 && mkdir(canary, 0700) == 0);
}

static void streams(void)
{
	static struct agent_sink sink;
	struct agent_source source;
	struct agent_frame frame;
	int zero = open("/dev/zero", O_RDONLY | O_CLOEXEC), null = open("/dev/null", O_WRONLY | O_CLOEXEC);
	size_t came = 0, sent = 0, allowed = AGENT_WINDOW_BYTES, may_come = AGENT_WINDOW_BYTES;

	agent_sink_init(&sink, null, AGENT_INPUT);
	agent_source_init(&source, zero, AGENT_OUTPUT);
	while (agent_link_await(connection, &frame) > 0) {
		int result = 0;

		if (frame.type == AGENT_WINDOW || (frame.type == AGENT_END && frame.stream == AGENT_OUTPUT)) {
			result = agent_source_take(&source, &frame);
			if (result == 0 && frame.type == AGENT_WINDOW)
				allowed += agent_number(frame.payload);
		} else if (frame.type == AGENT_DATA || frame.type == AGENT_END) {
			result = agent_sink_take(&sink, &frame);
			came += result == 0 && frame.type == AGENT_DATA ? frame.length : 0;
		}
		if (result < 0)
			break;
		if (agent_source_wants(&source, connection)) {
			int got = agent_source_read(&source, connection, 1 + frame.length);

			sent += got > 0 ? got : 0;
		}
		if (frame.stream % 2 && !agent_sink_is_empty(&sink)) {
			size_t owed;

			agent_sink_write(&sink);
			owed = sink.owed;
			agent_sink_tell(&sink, connection);
			may_come += sink.owed == 0 ? owed : 0;
		}
		check(sent <= allowed && came <= may_come);
		connection->out_start = connection->out_end = 0;
	}
	close(zero);
	close(null);
}

/* A pipe that takes what it holds: a hole has no end. */
static void output(void)
{
	static struct agent_tree tree;
	int ends[2];

	check(pipe2(ends, O_NONBLOCK | O_CLOEXEC) == 0);
	tree = (struct agent_tree){ .link = connection };
	agent_tree_receive_output(&tree, ends[1]);
	close(ends[0]);
	close(ends[1]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	int other;

	if (size == 0)
		return 0;
	set_up();
	other = say(data + 1, size - 1);
	switch (data[0] % MODES) {
	case MODE_REQUEST:
		request();
		break;
	case MODE_COPY:
		copy();
		break;
	case MODE_STREAMS:
		streams();
		break;
	case MODE_OUTPUT:
		output();
		break;
	}
	close(connection->fd);
	close(other);
	return 0;
}
