/* SPDX-License-Identifier: GPL-2.0-only */
/* What the files of the control socket's server share. */
#ifndef KARMA_CONTROL_INTERNAL_H
#define KARMA_CONTROL_INTERNAL_H

#include <jansson.h>

#include "karma/control.h"

struct request_kind;

struct control_client {
	struct control_client *next;
	int fd;
	bool console;			/* bytes of the console from here on, no requests */
	bool eof;			/* it won't say more */
	bool closing;			/* to be closed */
	bool awaits_end;			/* for the guest's end */

	char input[CONTROL_LINE_MAX];
	size_t input_used;
	char *output;			/* malloc'ed: lines that it has not taken yet */
	size_t output_used, output_sent;
	uint64_t position;		/* of the console that it has got */

	/* A request that is being served: no other is taken before its reply. */
	const struct request_kind *request;
	json_t *id;			/* what it called it, or NULL */
	struct order order;	/* for the guest's process, if kind is not ORDER_NONE */
	uint64_t bytes;			/* for the reply */
};

/* Serve a line, or say what is wrong with it; in requests.c. */
void request_serve(struct control *control, struct control_client *client, const char *line,
	size_t length);
/* The guest's process has served its order, with that result: reply. */
void request_complete(struct control *control, struct control_client *client, int result);
/* Refuse the request that is being served, or whatever came. */
void request_refuse(struct control_client *client, const char *code, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
/* To one that waits: the guest has ended. */
void request_reply_end(struct control_client *client, int status);
/* The first line of a connection. */
void request_greet(const struct control *control, struct control_client *client);

/* What is in the report, as JSON; in statistics.c.  NULL if memory is short. */
json_t *statistics_of(const struct report *report);

/* Add a line to what the client is sent.  Takes the value, which may be NULL: memory is short. */
void client_send(struct control_client *client, json_t *value);
/* It is a console from here on; the writer too, if it wants to and nobody is. */
void client_attach(struct control *control, struct control_client *client, bool write);

#endif
