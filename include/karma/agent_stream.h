/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The streams of a command of karma-agent(7), for both sides: a source reads a file into frames, a sink writes what
 * came to a file.
 *
 * A source sends no more than its window, which grows as the sink's file takes bytes.  So both sides always read the
 * socket, whatever a file does: no stream holds up another one, a signal or the exit.
 */
#ifndef KARMA_AGENT_STREAM_H
#define KARMA_AGENT_STREAM_H

#include "karma/agent_link.h"

struct agent_source {
	int fd;
	unsigned stream;
	bool ended;		/* nothing more is read */
	bool told;		/* the sink knows, or has said so itself */
	size_t window;		/* bytes that may be sent now */
};

void agent_source_init(struct agent_source *source, int fd, unsigned stream);
/* Whether to wait until fd can be read. */
bool agent_source_wants(const struct agent_source *source, const struct agent_link *link);
/* Read, at most `most` bytes.  Bytes; 0: it has ended; -EAGAIN. */
int agent_source_read(struct agent_source *source, struct agent_link *link, size_t most);
/* Serve WINDOW, or END: the sink takes no more.  0 or -EPROTO. */
int agent_source_take(struct agent_source *source, const struct agent_frame *frame);
/* Tell the sink that it has ended, once there is room for that. */
void agent_source_tell(struct agent_source *source, struct agent_link *link);

struct agent_sink {
	int fd;
	unsigned stream;
	size_t most;		/* bytes that can be written at a time without a wait */
	bool ended;		/* nothing more comes */
	bool gone;		/* fd takes no more: what comes is dropped */
	int error;		/* why, a negative errno; 0: its reader has gone */
	bool told;		/* the source knows that */
	size_t window;		/* bytes that may come */
	size_t owed;		/* bytes that were written since the last WINDOW */
	size_t start, end;	/* what is to be written */
	uint8_t bytes[AGENT_WINDOW_BYTES];
};

/* fd may be blocking, such as standard output that others share. */
void agent_sink_init(struct agent_sink *sink, int fd, unsigned stream);
static inline bool agent_sink_is_empty(const struct agent_sink *sink)
{
	return sink->start == sink->end;
}
/* Serve DATA, or END.  0 or -EPROTO. */
int agent_sink_take(struct agent_sink *sink, const struct agent_frame *frame);
/* Write, when fd can be written or has an error. */
void agent_sink_write(struct agent_sink *sink);
/* fd takes no more. */
void agent_sink_give_up(struct agent_sink *sink);
/* Tell the source what may come, once there is room for that. */
void agent_sink_tell(struct agent_sink *sink, struct agent_link *link);

#endif
