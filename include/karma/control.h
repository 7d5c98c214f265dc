/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The control socket: how users operate a running guest, by its name (karma-control(7)).
 *
 * The supervisor's event loop serves it: one thread, which never blocks on a client.  Each client has buffers
 * of a bounded size, so one that neither reads nor writes delays nobody.  What clients send is untrusted until
 * it is parsed; what the guest's process reports stays untrusted (karma/report.h).
 *
 * The server knows of the guest only what control_init() hands it: operations, the terminal, the report.
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
#define CONTROL_CLIENTS_MAX 96u
#define CONTROL_LINE_MAX 4096u		/* bytes of a request, with its newline */
#define CONTROL_POLLS (CONTROL_CLIENTS_MAX + 5)

/* --- Names and their sockets (socket.c). */

/* 1 to 63 letters, digits, `-`, `_` or `.`, the first a letter, digit or `_`. */
bool control_name_is_valid(const char *name);

/* A listening socket and its path. */
struct control_socket {
	int fd;			/* -1: there is none */
	char path[sizeof(((struct sockaddr_un *)0)->sun_path)];
	dev_t device;		/* with the inode: what was bound there, to unlink nothing else */
	ino_t inode;
};

/*
 * Listen on the socket of that name, in the user's directory.  A stale socket of the user's own is unlinked first;
 * nothing else is.  0; -EADDRINUSE if a guest with that name runs, -EEXIST if anything else is in its place,
 * -ENOENT if there is no directory for it, or another negative errno; with a message unless quiet is set.
 */
int control_listen(struct control_socket *socket, const char *name, bool quiet);
/* The same for a path that the user gave.  Always with a message. */
int control_listen_at(struct control_socket *socket, const char *path);
/* Close it, and unlink its path. */
void control_unlisten(struct control_socket *socket);

/*
 * For clients: connect to the guest of that name.  A non-blocking socket, with the supervisor's pid in *pid; -ENOENT
 * if no such guest runs (a stale socket is unlinked), -EAGAIN if its backlog is full, or another negative errno.
 */
int control_connect(const char *name, pid_t *pid);

/* List the names that have a socket, sorted, without duplicates, malloc'ed.  Their number, or -ENOMEM. */
int control_list(char (**names)[CONTROL_NAME_MAX + 1]);

/* --- The server (server.c, requests.c). */

struct control_status {
	pid_t pid;			/* the supervisor's */
	bool restarting;		/* between two starts, or a later start than the first is booting */
	bool stopping;			/* a stop was requested: no more restarts */
	unsigned cpus;
	uint64_t memory;		/* guest memory, in bytes */
	uint64_t memory_used;		/* resident memory of the guest's process, in bytes */
	uint64_t balloon;		/* the balloon's target, in bytes */
	int64_t started_at;		/* nanoseconds(), of the last start */
	unsigned starts;
	const char *restored_from;	/* the directory of the snapshot at which it went on, or NULL */
};

struct control_snapshot {
	int directory;
	bool hold;		/* the guest, at its end: until it is stopped, or the client is gone */
	bool copies;		/* it is for guests that run beside this one */
};

/* Snapshots of a guest, and the last one of them. */
struct control_snapshots {
	unsigned count;
	uint64_t bytes;			/* of memory, state and overlays, without holes */
	unsigned rounds;		/* in which its memory was copied */
	int64_t pause;			/* nanoseconds */
};

/* Operations of the supervisor, which the server calls with its context, on its thread. */
struct control_ops {
	void (*status)(void *context, struct control_status *status);
	/* Send an order to the guest's process.  0, -ESRCH if there is none, or another negative errno. */
	int (*order)(void *context, const struct order *order);
	/* Have the guest power off, or end it by force. */
	void (*stop)(void *context, bool force);
	/* The guest's process has not ended by force in time: kill it. */
	void (*kill)(void *context);
	/*
	 * Measure a disk by its name: its index for ORDER_MEASURE, and its present size.  0, -ENODEV if there is no
	 * such disk, or another negative errno.
	 */
	int (*measure)(void *context, const char *disk, uint64_t *number, uint64_t *bytes);
	/* Set the balloon's target for this start and later ones.  0, -ENOTSUP without a balloon, or -ERANGE. */
	int (*balloon)(void *context, uint64_t bytes);
	/*
	 * Connect to a port of the guest's vsock device: *fd is a socket of the caller's, which is to be given away
	 * once control_connected() has told of the guest's answer.  0, -ENOTSUP without the device, -ESRCH without a
	 * guest's process, or another negative errno.
	 */
	int (*connect)(void *context, uint32_t id, uint32_t port, int *fd);
	/*
	 * Begin a snapshot in a directory, whose descriptor becomes the callee's; control_snapshot_ended() tells of its end.
	 * 0; -EBUSY if one is under way; -ENOTDIR; -ESRCH without a guest that runs; -ENOTSUP, with why in words.
	 */
	int (*snapshot)(void *context, const struct control_snapshot *request, const char **why);
	/* Who asked for it is gone: give it up; or, if the guest was to be held, let it go on. */
	void (*release_snapshot)(void *context);
	void (*snapshots)(void *context, struct control_snapshots *snapshots);
};

struct control_client;

struct control {
	const char *name;		/* the guest's */
	struct control_socket socket, console;	/* of requests, and of --console unix:PATH */
	const struct control_ops *ops;
	void *context;
	struct terminal *terminal;	/* the guest's console: the server reads its output and writes input */
	const struct report *report;

	struct control_client *clients;	/* a list */
	unsigned client_count;
	struct control_client *writer;	/* the one client whose input goes to the console, or NULL */

	/* One order at a time is pending. */
	uint32_t order_number;		/* of the last one */
	bool order_pending;
	int64_t order_deadline;		/* nanoseconds() */
	struct control_client *order_client;	/* who waits for the result; NULL: it has disconnected */
	/* The supervisor's own order, and what is called, with the context, when it was served. */
	struct order own_order;		/* kind ORDER_NONE: there is none */
	void (*own_done)(void *context, int result);
	bool own_pending;		/* it was sent */
	bool held;			/* clients' orders wait */
	struct control_client *snapshot_client;	/* who has asked for the snapshot that is under way, or holds the guest */

	uint32_t connection_number;	/* of the last request to connect */
	int64_t kill_at;		/* nanoseconds(): when to kill a guest that was ended by force; 0: never */
	int64_t accept_at;		/* nanoseconds(): accept no connection before, after an error; 0: no delay */
};

/* Does not listen yet.  name, ops, terminal and report stay the caller's, until control_end(). */
void control_init(struct control *control, const char *name, const struct control_ops *ops,
	void *context, struct terminal *terminal, const struct report *report);

/* Fill in CONTROL_POLLS entries for poll(); how many of them are in use. */
unsigned control_poll(struct control *control, struct pollfd *watched);
/* For poll(): milliseconds until control_serve() has to be called at the latest, or -1. */
int control_timeout(const struct control *control);
/* Serve what poll() has found; the array as control_poll() filled it. */
void control_serve(struct control *control, const struct pollfd *watched, unsigned count);

/* The report has a result of an order. */
void control_reply_ready(struct control *control);
/* The guest's process has answered a request to connect; it may have made up both. */
void control_connected(struct control *control, uint32_t id, int result);
/*
 * Send an order of the supervisor's own, as soon as the pending one was served; done is called with its result, on this
 * thread, and may send another.  One at a time.
 */
void control_order(struct control *control, enum order_kind kind, void (*done)(void *context, int result));
/* Have clients' orders wait, or let them go. */
void control_hold(struct control *control, bool hold);
/*
 * The snapshot is complete and synced, or has failed: error is a negative errno, why its words.  If the guest is held, its client
 * holds it on.
 */
void control_snapshot_ended(struct control *control, int error, const char *why);

/* The guest's process has ended: a pending order fails, and so do requests to connect. */
void control_process_ended(struct control *control);

/* Close all sockets and forget all clients; paths stay.  In the guest's process, after the fork. */
void control_close(struct control *control);
/* Before the terminal is closed: send its readers the last output, without blocking, and disconnect them. */
void control_detach_consoles(struct control *control);
/* The guest has ended with that status: reply to those who wait for it, close all, unlink the paths. */
void control_end(struct control *control, int status);

/* For tests: take over a connection that was accepted elsewhere, for requests.  0 or -ENOMEM. */
int control_add_client(struct control *control, int fd);

#endif
