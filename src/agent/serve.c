// SPDX-License-Identifier: GPL-2.0-only
/* A connection: the greeting, and its one operation. */
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "agent.h"
#include "karma/agent_tree.h"
#include "karma/status.h"
#include "karma/util.h"

static int refuse(struct agent_link *link, int error, const char *text)
{
	agent_link_put_error(link, STATUS_FAILURE, error, text);
	return error;
}

/* The first frames.  0; or an error, with an ERROR queued if there is someone to hear it. */
static int greet(struct agent_link *link)
{
	struct agent_frame frame;
	const char *text;
	int result = agent_link_await(link, &frame);

	if (result <= 0)
		return -EPIPE;
	agent_link_put_number(link, AGENT_HELLO, 0, AGENT_VERSION);
	result = agent_link_check_hello(&frame, &text);
	return result < 0 ? refuse(link, result, text) : 0;
}

/* Relative paths are root's, as in a shell after login. */
static int enter_root(const char *root)
{
	struct user user;

	if (root && (chdir(root) < 0 || chroot(".") < 0 || chdir("/") < 0))
		return -errno;
	if (user_find(&user, "") == 0 && chdir(user.home) < 0)
		errno = 0;
	return 0;
}

static void serve_copy(struct agent_link *link, const struct agent_frame *frame)
{
	static struct agent_tree tree;
	const uint8_t *at = frame->payload;
	size_t length = frame->length;
	const char *taken = agent_string(&at, &length), *base = taken;
	char path[PATH_MAX];
	int result;

	if (taken && frame->type == AGENT_PUT)
		base = agent_string(&at, &length);
	if (!taken || !base || length || strlen(taken) >= sizeof(path) || strlen(base) > NAME_MAX) {
		refuse(link, -EPROTO, "the request to copy is malformed");
		return;
	}
	/* The link's buffer is used anew. */
	strcpy(path, taken);
	tree.link = link;
	if (frame->type == AGENT_PUT) {
		char name[NAME_MAX + 1];

		strcpy(name, base);
		/* The host waits for our HELLO. */
		if (agent_link_flush(link) < 0)
			return;
		result = agent_tree_receive(&tree, path, name);
	} else {
		result = agent_tree_send(&tree, path);
	}
	if (result < 0 && tree.text[0] && !tree.refused) {
		/* For room. */
		agent_link_settle(link, false);
		refuse(link, result, tree.text);
	}
}

/* Take PROCESS, which comes before EXEC: that is in *frame then, and the process in *request. */
static int take_process(struct agent_link *link, struct agent_frame *frame, struct exec_request *request)
{
	static struct process process;

	if (process_parse(&process, frame) < 0)
		return refuse(link, -EPROTO, "the request for a process is malformed");
	request->process = &process;
	if (agent_link_await(link, frame) <= 0)
		return -EPIPE;
	return frame->type == AGENT_EXEC ? 0 : refuse(link, -EPROTO, "the request for a process has no command");
}

static void serve_operation(struct agent_link *link)
{
	struct exec_request request = { 0 };
	struct agent_frame frame;

	if (agent_link_await(link, &frame) <= 0)
		return;
	switch (frame.type) {
	case AGENT_PROCESS:
		if (take_process(link, &frame, &request) == 0)
			command_serve(link, &frame, &request);
		break;
	case AGENT_EXEC:
		command_serve(link, &frame, &request);
		break;
	case AGENT_PUT:
	case AGENT_GET:
		serve_copy(link, &frame);
		break;
	default:
		refuse(link, -EPROTO, "an unknown request: the guest's karma-agent is older than karma");
	}
}

int agent_serve(int socket, const struct agent_place *place)
{
	static struct agent_link link;
	int result = setsid() < 0 ? -errno : 0;

	agent_link_init(&link, socket);
	if (result == 0 && place->pid_namespace >= 0 && setns(place->pid_namespace, CLONE_NEWPID) < 0)
		result = -errno;
	if (result == 0)
		result = enter_root(place->root);
	if (result < 0)
		return 1;
	if (greet(&link) == 0)
		serve_operation(&link);
	/* A socket that is closed with bytes unread may lose what was sent. */
	agent_link_settle(&link, true);
	return 0;
}

/* EXEC, and PROCESS before it if the request is for a container. */
static int serve_one(int socket, struct exec_request *request)
{
	static struct agent_link link;
	struct agent_frame frame;
	int status = STATUS_FAILURE;

	agent_link_init(&link, socket);
	if (greet(&link) == 0 && agent_link_await(&link, &frame) > 0) {
		if (frame.type == AGENT_PROCESS && request->container && take_process(&link, &frame, request) < 0)
			frame.type = 0;
		if (frame.type == AGENT_EXEC)
			status = command_serve(&link, &frame, request);
	}
	agent_link_settle(&link, true);
	return status;
}

int agent_serve_program(int socket, char **program, const struct generation *generation)
{
	struct exec_request request = { .program = program, .generation = generation };

	return serve_one(socket, &request);
}

int agent_serve_container(int socket, const struct container *container)
{
	struct exec_request request = { .container = container };

	return serve_one(socket, &request);
}
