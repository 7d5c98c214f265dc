/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Frames of karma-agent(7) on a connected socket, for both sides.  What comes is checked for its form alone: that its
 * length is within bounds.  For one thread; errors are negative errno numbers, without a message.
 */
#ifndef KARMA_AGENT_LINK_H
#define KARMA_AGENT_LINK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "karma/agent_protocol.h"

#define AGENT_FRAME_MAX (AGENT_HEADER_BYTES + AGENT_PAYLOAD_MAX)

struct agent_link {
	int fd;				/* non-blocking; the caller's */
	size_t in_start, in_end;	/* what has come and was not taken */
	size_t out_start, out_end;	/* what is to be sent */
	uint8_t in[AGENT_FRAME_MAX];
	uint8_t out[AGENT_FRAME_MAX];
};

/* payload is in the link, and valid until it receives again. */
struct agent_frame {
	unsigned type, stream;
	const uint8_t *payload;
	size_t length;
};

/* Makes the socket non-blocking. */
void agent_link_init(struct agent_link *link, int fd);

/*
 * Receive what is there, after all frames were taken.  Bytes, 0 at the end, -EAGAIN, or another error.
 */
int agent_link_receive(struct agent_link *link);
/* Take the next frame.  1; 0: it has not come yet; -EPROTO. */
int agent_link_next(struct agent_link *link, struct agent_frame *frame);

/* Room for a payload of that length in the next frame, which agent_link_commit() queues; NULL: there is none. */
uint8_t *agent_link_reserve(struct agent_link *link, size_t length);
void agent_link_commit(struct agent_link *link, unsigned type, unsigned stream, size_t length);
/* Queue a frame.  False: there is no room, or length is too large. */
bool agent_link_put(struct agent_link *link, unsigned type, unsigned stream, const void *payload, size_t length);
bool agent_link_put_number(struct agent_link *link, unsigned type, unsigned stream, uint32_t number);
/* The most that agent_link_reserve() would give now. */
size_t agent_link_room(const struct agent_link *link);
/* Queue an ERROR with that text; the last frame of ours. */
void agent_link_put_error(struct agent_link *link, unsigned status, int error, const char *text);

/* Send what the socket takes.  0, or an error. */
int agent_link_send(struct agent_link *link);
static inline bool agent_link_has_output(const struct agent_link *link)
{
	return link->out_end > link->out_start;
}

/* --- The same, waiting.  For copies, where one side talks at a time. */

/* The next frame: 1; 0 at the end; an error. */
int agent_link_await(struct agent_link *link, struct agent_frame *frame);
/* Send all that is queued.  0, or an error; -ECANCELED: the other side has something to say instead. */
int agent_link_flush(struct agent_link *link);

/*
 * Send all that is queued, and drop what comes; if end is set, until the other side has closed, after our end was
 * passed on.
 */
void agent_link_settle(struct agent_link *link, bool end);

/* Whether the first frame of the other side is a HELLO in our version.  0; or an error, with a text for the user. */
int agent_link_check_hello(const struct agent_frame *frame, const char **text);

/* --- Numbers in payloads, of any alignment. */

uint32_t agent_number(const uint8_t *bytes);
/*
 * Take a string, which ends in a NUL, from the head of a payload; NULL: there is none.
 */
const char *agent_string(const uint8_t **payload, size_t *length);

#endif
