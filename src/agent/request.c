// SPDX-License-Identifier: GPL-2.0-only
/* EXEC: what the host asks for. */
#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "agent.h"

static char **take_strings(const uint8_t **at, size_t *length, uint32_t count)
{
	char **strings = count <= *length ? calloc((size_t)count + 1, sizeof(*strings)) : NULL;

	for (uint32_t i = 0; strings && i < count; i++) {
		strings[i] = (char *)agent_string(at, length);
		if (!strings[i]) {
			free(strings);
			return NULL;
		}
	}
	return strings;
}

int exec_request_parse(struct exec_request *request, const struct agent_frame *frame)
{
	const uint8_t *at = frame->payload + sizeof(struct agent_exec);
	size_t length = frame->length - sizeof(struct agent_exec);
	struct agent_exec head;
	uint32_t argument_count;

	request->arguments = request->environment = NULL;
	if (frame->length < sizeof(head))
		return -EPROTO;
	memcpy(&head, frame->payload, sizeof(head));
	request->flags = le32toh(head.flags);
	request->rows = le16toh(head.rows);
	request->columns = le16toh(head.columns);
	argument_count = le32toh(head.argument_count);
	request->user = agent_string(&at, &length);
	request->directory = agent_string(&at, &length);
	if (!request->user || !request->directory || argument_count == 0 ||
		request->flags & ~(AGENT_EXEC_INPUT | AGENT_EXEC_TERMINAL))
		return -EPROTO;
	request->arguments = take_strings(&at, &length, argument_count);
	request->environment = take_strings(&at, &length, le32toh(head.environment_count));
	if (!request->arguments || !request->environment || length)
		return -EPROTO;
	for (char **variable = request->environment; *variable; variable++) {
		if ((*variable)[0] == '=' || !strchr(*variable, '='))
			return -EPROTO;
	}
	return 0;
}

void exec_request_release(struct exec_request *request)
{
	free(request->arguments);
	free(request->environment);
}
