// SPDX-License-Identifier: GPL-2.0-only
/* A file from a stream of frames, which may be an attack, to where it is one stream of bytes. */
#include <endian.h>
#include <errno.h>
#include <string.h>

#include "karma/util.h"
#include "tree.h"

/* What may come next: the file's ENTRY, its contents, or DONE. */
enum expected { EXPECT_ENTRY, EXPECT_CONTENTS, EXPECT_DONE };

struct output {
	struct agent_tree *tree;
	int fd;
	enum expected expected;
};

static int write_out(const struct output *output, const void *bytes, size_t length)
{
	struct agent_tree *tree = output->tree;

	while (length) {
		ssize_t written = write(output->fd, bytes, length);

		if (written < 0)
			return tree_fail(tree, -errno, "standard output");
		bytes = (const char *)bytes + written;
		length -= written;
		if (tree->progress)
			tree->progress(tree->context, written);
	}
	return 0;
}

static int take_entry(struct output *output, const struct agent_frame *frame)
{
	struct agent_entry entry;

	if (frame->length < sizeof(entry))
		return tree_fail_protocol(output->tree);
	memcpy(&entry, frame->payload, sizeof(entry));
	if (le32toh(entry.kind) != AGENT_FILE)
		return tree_fail(output->tree, -EISDIR, "standard output takes a file only");
	output->expected = EXPECT_CONTENTS;
	return 0;
}

/* A pipe has no holes. */
static int take_hole(const struct output *output, const struct agent_frame *frame)
{
	static const uint8_t zeroes[64 * KIB];
	uint64_t left;
	int result = 0;

	if (frame->length != sizeof(left))
		return tree_fail_protocol(output->tree);
	memcpy(&left, frame->payload, sizeof(left));
	for (left = le64toh(left); left && result == 0;) {
		size_t length = left < sizeof(zeroes) ? left : sizeof(zeroes);

		result = write_out(output, zeroes, length);
		left -= length;
	}
	return result;
}

static int take_contents(struct output *output, const struct agent_frame *frame)
{
	switch (frame->type) {
	case AGENT_DATA:
		return write_out(output, frame->payload, frame->length);
	case AGENT_HOLE:
		return take_hole(output, frame);
	case AGENT_LEAVE:
		output->expected = EXPECT_DONE;
		return 0;
	default:
		return tree_fail_protocol(output->tree);
	}
}

/* 1: go on; 0: all has come; or an error. */
static int take_frame(struct output *output, const struct agent_frame *frame)
{
	int result;

	if (frame->type == AGENT_ERROR)
		return tree_take_error(output->tree, frame);
	if (frame->type == AGENT_DONE && output->expected == EXPECT_DONE)
		return 0;
	if (frame->type == AGENT_ENTRY && output->expected == EXPECT_ENTRY)
		result = take_entry(output, frame);
	else if (output->expected == EXPECT_CONTENTS)
		result = take_contents(output, frame);
	else
		result = tree_fail_protocol(output->tree);
	return result < 0 ? result : 1;
}

int agent_tree_receive_output(struct agent_tree *tree, int fd)
{
	struct output output = { .tree = tree, .fd = fd };
	struct agent_frame frame;
	int result;

	tree->text[0] = '\0';
	do {
		result = agent_link_await(tree->link, &frame);
		result = result > 0 ? take_frame(&output, &frame) : result < 0 ? result : -EPIPE;
	} while (result > 0);
	return result == 0 ? tree_answer(tree) : result;
}
