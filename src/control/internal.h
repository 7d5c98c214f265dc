/* SPDX-License-Identifier: GPL-2.0-only */
/* What the files of the control socket's server share.  All of it on the supervisor's thread. */
#ifndef KARMA_CONTROL_INTERNAL_H
#define KARMA_CONTROL_INTERNAL_H

#include <jansson.h>

#include "karma/control.h"

struct request_kind;

struct control_client {
	struct control_client *next;
	int fd;
	bool console;			/* attached to the console: raw bytes both ways, no requests */
	bool eof;			/* no more input comes */
	bool closing;			/* to be closed at the end of this round */
	bool awaits_end;		/* its request gets a reply at the guest's end */

	char input[CONTROL_LINE_MAX];
	size_t input_used;
	char *output;			/* malloc'ed: lines to send; output_sent bytes of them went */
	size_t output_used, output_sent;
	uint64_t position;		/* in the console's output, of the next byte to send */

	/* The request that is being served, or NULL: the next one is read after its reply. */
	const struct request_kind *request;
	json_t *id;			/* its "id", or NULL */
	struct order order;	/* for the guest's process, if kind is not ORDER_NONE */
	uint64_t bytes;			/* a disk's size, for the reply */
	bool connecting;		/* the guest has not answered its `connect` */
	uint32_t connection;		/* the number of that */
	int passed_fd;			/* to go to the client with its next line; or -1 */
	int received_fd;		/* the last one that came with its input; or -1 */
};

/* --- requests.c. */

/* Serve a line: reply, set an order whose result will be the reply, or refuse it. */
void request_serve(struct control *control, struct control_client *client, const char *line,
	size_t length);
/* The client's order was served, with that result: reply. */
void request_complete(struct control *control, struct control_client *client, int result);
/* The guest has answered the client's `connect`: reply. */
void request_connected(struct control_client *client, int result);
/* The client's snapshot is complete, or has failed: reply. */
void request_snapshot_ended(struct control *control, struct control_client *client, int error, const char *why);
/* Reply with an error. */
void request_refuse(struct control_client *client, const char *code, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
/* Reply to a `wait`. */
void request_reply_end(struct control_client *client, int status);
/* Send the greeting, a connection's first line. */
void request_greet(const struct control *control, struct control_client *client);

/* --- statistics.c. */

/* The report's counters as JSON; NULL if memory is short. */
json_t *statistics_of(const struct report *report);

/* --- server.c. */

/* Queue a line of output.  Takes the value's reference; NULL: memory is short, and the client is closed. */
void client_send(struct control_client *client, json_t *value);
/* Attach the client to the console; as the writer, if it asks for that and there is none. */
void client_attach(struct control *control, struct control_client *client, bool write);

#endif
