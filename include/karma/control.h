/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The control socket: how users operate a running guest, by its name (karma-control(7)).
 *
 * The supervisor serves it, in its loop: one thread, which never waits for a client.  Each has buffers of a
 * bounded size, and a client that takes or gives nothing holds up nobody.  What clients send is hostile
 * until it is parsed; what the guest's process reports is hostile for good (karma/report.h).
 */
#ifndef KARMA_CONTROL_H
#define KARMA_CONTROL_H

#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/un.h>

#include "karma/order.h"
#include "karma/report.h"
#include "karma/terminal.h"

#define CONTROL_PROTOCOL 1		/* the version of the protocol */
#define CONTROL_NAME_MAX 63u		/* bytes of a name */
#define CONTROL_CLIENTS_MAX 32u
#define CONTROL_LINE_MAX 4096u		/* bytes of a request, with its newline */
#define CONTROL_POLLS (CONTROL_CLIENTS_MAX + 5)

/* --- Names and their sockets (socket.c). */

/* 1 to 63 letters, digits, `-`, `_` or `.`, the first a letter, digit or `_`. */
bool control_name_is_valid(const char *name);

/* A socket that listens, and where; 0, 0: there is none. */
struct control_socket {
	int fd;			/* -1: there is none */
	char path[sizeof(((struct sockaddr_un *)0)->sun_path)];
	dev_t device;		/* of the path: another may be in its place by now */
	ino_t inode;
};

/*
 * The socket of that name, in the user's directory; the socket that a dead guest of the user's has left there
 * is taken away, and nothing else.  0; -EADDRINUSE if a guest with that name runs, -EEXIST if there is
 * anything else in its place, -ENOENT if there is no directory for it, or another negative errno: with a
 * message printed if quiet is not set.
 */
int control_listen(struct control_socket *socket, const char *name, bool quiet);
/* The same for a path that the user gave.  A message in any case. */
int control_listen_at(struct control_socket *socket, const char *path);
void control_unlisten(struct control_socket *socket);

/*
 * For clients: a connection to the guest of that name, which doesn't wait; its supervisor is process *pid.
 * -ENOENT if there is none, and what a dead one has left is taken away; -EAGAIN if it does not answer.
 */
int control_connect(const char *name, pid_t *pid);

/* Names of sockets that are there, sorted, each once: a malloc'ed array; its length, or -ENOMEM. */
int control_list(char (**names)[CONTROL_NAME_MAX + 1]);

/* --- The server (server.c, requests.c). */

struct control_status {
	pid_t pid;			/* the supervisor's */
	bool restarting;		/* between two starts, or at one that is not the first */
	bool stopping;			/* it is not to be started again */
	unsigned cpus;
	uint64_t memory;		/* bytes that the guest has */
	uint64_t memory_used;		/* resident of its process */
	uint64_t balloon;		/* bytes that it is to give back */
	int64_t started_at;		/* nanoseconds(), the last start */
	unsigned starts;
};

/* What the server asks of the supervisor. */
struct control_ops {
	void (*status)(void *context, struct control_status *status);
	/* Give an order to the guest's process.  0, or a negative errno: -ESRCH if there is none. */
	int (*order)(void *context, const struct order *order);
	/* End the guest: ask it to power off, or by force. */
	void (*stop)(void *context, bool force);
	/* By the guest's process is what it won't obey: kill it. */
	void (*kill)(void *context);
	/* A disk by its name: its number for ORDER_MEASURE, and its size by now.  -ENODEV, or another. */
	int (*measure)(void *context, const char *disk, uint64_t *number, uint64_t *bytes);
	/* Whether the balloon can have that size: 0, -ENOTSUP without one, -ERANGE. */
	int (*balloon)(void *context, uint64_t bytes);
};

struct control_client;

struct control {
	const char *name;		/* the guest's */
	struct control_socket socket, console;	/* of requests, and of --console unix:PATH */
	const struct control_ops *ops;
	void *context;
	struct terminal *terminal;	/* the guest's; the server looks on, and types */
	const struct report *report;

	struct control_client *clients;	/* a list */
	unsigned client_count;
	struct control_client *writer;	/* who types, or NULL */

	/* One order at a time is under way. */
	uint32_t order_number;		/* the last one's */
	bool order_pending;
	int64_t order_deadline;
	struct control_client *order_client;	/* whose it is, or NULL if that has gone */

	int64_t kill_at;		/* nanoseconds(): the end by force has failed then; 0: never */
	int64_t accept_at;		/* no descriptor was left: not before then */
};

/* Nothing listens yet.  name, ops, terminal and report stay the caller's. */
void control_init(struct control *control, const char *name, const struct control_ops *ops,
	void *context, struct terminal *terminal, const struct report *report);

/* Fill in what to wait for, CONTROL_POLLS entries; how many of them are used. */
unsigned control_poll(struct control *control, struct pollfd *watched);
/* For poll(): milliseconds until control_serve() has to be called, or -1. */
int control_timeout(const struct control *control);
/* Serve what poll() has found; the array as control_poll() filled it. */
void control_serve(struct control *control, const struct pollfd *watched, unsigned count);

/* The report has an answer. */
void control_reply_ready(struct control *control);
/* The guest's process has ended: orders to it won't be answered. */
void control_process_ended(struct control *control);

/* In a process that was forked: close all that is the supervisor's. */
void control_close(struct control *control);
/* The terminal is to be closed: give those who look on the last of it, without waiting, and let them go. */
void control_detach_consoles(struct control *control);
/* The guest has ended with that status: tell who waits, and be gone. */
void control_end(struct control *control, int status);

/* For tests: a connection that somebody else has accepted, for requests.  It is closed by the server. */
int control_add_client(struct control *control, int fd);

#endif
