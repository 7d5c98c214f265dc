// SPDX-License-Identifier: GPL-2.0-only
/* Files to frames and back, for the input and output of commands. */
#include "karma/agent_stream.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* In a link, what data leaves free for signals, windows and ends. */
#define CONTROL_BYTES 4096u
#define DATA_BYTES_MAX 65536u

static size_t least(size_t one, size_t other)
{
	return one < other ? one : other;
}

void agent_source_init(struct agent_source *source, int fd, unsigned stream)
{
	*source = (struct agent_source){ .fd = fd, .stream = stream, .window = AGENT_WINDOW_BYTES };
}

bool agent_source_wants(const struct agent_source *source, const struct agent_link *link)
{
	return !source->ended && source->window > 0 && agent_link_room(link) > CONTROL_BYTES;
}

int agent_source_read(struct agent_source *source, struct agent_link *link, size_t most)
{
	size_t length = least(least(source->window, most),
		least(agent_link_room(link) - CONTROL_BYTES, DATA_BYTES_MAX));
	ssize_t got = read(source->fd, agent_link_reserve(link, length), length);

	if (got < 0 && (errno == EAGAIN || errno == EINTR))
		return -EAGAIN;
	/* The other side of a terminal that is closed is an error. */
	if (got <= 0) {
		source->ended = true;
		return 0;
	}
	agent_link_commit(link, AGENT_DATA, source->stream, got);
	source->window -= got;
	return got;
}

int agent_source_take(struct agent_source *source, const struct agent_frame *frame)
{
	uint32_t more;

	if (frame->type == AGENT_END) {
		source->ended = source->told = true;
		return 0;
	}
	if (frame->length != sizeof(more))
		return -EPROTO;
	more = agent_number(frame->payload);
	if (more > AGENT_WINDOW_BYTES - source->window)
		return -EPROTO;
	source->window += more;
	return 0;
}

void agent_source_tell(struct agent_source *source, struct agent_link *link)
{
	if (source->ended && !source->told)
		source->told = agent_link_put(link, AGENT_END, source->stream, NULL, 0);
}

void agent_sink_init(struct agent_sink *sink, int fd, unsigned stream)
{
	struct stat status;
	bool waits = !(fcntl(fd, F_GETFL) & O_NONBLOCK) && fstat(fd, &status) == 0 && !S_ISREG(status.st_mode);

	sink->fd = fd;
	sink->stream = stream;
	/* A pipe that can be written takes PIPE_BUF bytes at once (pipe(7)). */
	sink->most = waits ? PIPE_BUF : AGENT_WINDOW_BYTES;
	sink->ended = sink->gone = sink->told = false;
	sink->error = 0;
	sink->window = AGENT_WINDOW_BYTES;
	sink->owed = sink->start = sink->end = 0;
}

int agent_sink_take(struct agent_sink *sink, const struct agent_frame *frame)
{
	if (frame->type == AGENT_END) {
		sink->ended = true;
		return 0;
	}
	if (sink->ended || frame->length > sink->window)
		return -EPROTO;
	sink->window -= frame->length;
	if (sink->gone)
		return 0;
	if (frame->length > sizeof(sink->bytes) - sink->end) {
		memmove(sink->bytes, sink->bytes + sink->start, sink->end - sink->start);
		sink->end -= sink->start;
		sink->start = 0;
	}
	memcpy(sink->bytes + sink->end, frame->payload, frame->length);
	sink->end += frame->length;
	return 0;
}

void agent_sink_give_up(struct agent_sink *sink)
{
	sink->gone = true;
	sink->start = sink->end = 0;
}

void agent_sink_write(struct agent_sink *sink)
{
	ssize_t written = write(sink->fd, sink->bytes + sink->start, least(sink->end - sink->start, sink->most));

	if (written < 0) {
		if (errno != EAGAIN && errno != EINTR) {
			sink->error = errno == EPIPE ? 0 : -errno;
			agent_sink_give_up(sink);
		}
		return;
	}
	sink->start += written;
	sink->owed += written;
	if (agent_sink_is_empty(sink))
		sink->start = sink->end = 0;
}

void agent_sink_tell(struct agent_sink *sink, struct agent_link *link)
{
	if (sink->gone) {
		if (!sink->told && !sink->ended)
			sink->told = agent_link_put(link, AGENT_END, sink->stream, NULL, 0);
		return;
	}
	/* By halves, so that few frames are sent. */
	if (!sink->ended && sink->owed >= AGENT_WINDOW_BYTES / 2 &&
		agent_link_put_number(link, AGENT_WINDOW, sink->stream, sink->owed)) {
		sink->window += sink->owed;
		sink->owed = 0;
	}
}
