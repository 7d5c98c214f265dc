// SPDX-License-Identifier: GPL-2.0-only
/* NBD: the handshake, and the encoding of requests and replies. */
#include <endian.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "karma/nbd.h"
#include "karma/util.h"

/* "Newstyle negotiation" */
#define GREETING_MAGIC 0x4e42444d41474943ull	/* "NBDMAGIC" */
#define OPTION_MAGIC 0x49484156454f5054ull	/* "IHAVEOPT" */
#define OLDSTYLE_MAGIC 0x00420281861253ull
#define REPLY_MAGIC 0x3e889045565a9ull
#define FIXED_NEWSTYLE 0x1u
#define NO_ZEROES 0x2u

#define OPTION_GO 7u
#define INFO_EXPORT 0u
#define INFO_BLOCK_SIZE 3u
#define REPLY_ACK 1u
#define REPLY_INFO 3u
#define REPLY_ERROR 0x80000000u
#define REPLIES_MAX 64u		/* to one option; no server sends so many */

/* "Block size constraints": the values for a server that gives none. */
#define BLOCK_DEFAULT 512u
#define PREFERRED_DEFAULT 4096u
#define REQUEST_DEFAULT (32 * MIB)
#define BLOCK_MAX 4096u		/* Linux takes no larger logical blocks than its pages */
#define PREFERRED_MAX (64 * KIB)

#define TRANSMISSION_REQUEST_MAGIC 0x25609513u
#define TRANSMISSION_REPLY_MAGIC 0x67446698u

static uint16_t get16(const uint8_t *bytes)
{
	uint16_t value;

	memcpy(&value, bytes, sizeof(value));
	return be16toh(value);
}

static uint32_t get32(const uint8_t *bytes)
{
	uint32_t value;

	memcpy(&value, bytes, sizeof(value));
	return be32toh(value);
}

static uint64_t get64(const uint8_t *bytes)
{
	uint64_t value;

	memcpy(&value, bytes, sizeof(value));
	return be64toh(value);
}

static uint8_t *put16(uint8_t *to, uint16_t value)
{
	value = htobe16(value);
	return (uint8_t *)memcpy(to, &value, sizeof(value)) + sizeof(value);
}

static uint8_t *put32(uint8_t *to, uint32_t value)
{
	value = htobe32(value);
	return (uint8_t *)memcpy(to, &value, sizeof(value)) + sizeof(value);
}

static uint8_t *put64(uint8_t *to, uint64_t value)
{
	value = htobe64(value);
	return (uint8_t *)memcpy(to, &value, sizeof(value)) + sizeof(value);
}

__attribute__((format(printf, 3, 4))) static int refuse(
	struct nbd_handshake *handshake, int error, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(handshake->problem, sizeof(handshake->problem), format, arguments);
	va_end(arguments);
	return error;
}

static int receive_next(struct nbd_handshake *handshake, size_t bytes,
	int (*next)(struct nbd_handshake *handshake))
{
	handshake->want = bytes;
	handshake->next = next;
	return 0;
}

static bool is_power_of_2(uint32_t value)
{
	return value && (value & (value - 1)) == 0;
}

/* NBD_INFO_BLOCK_SIZE */
static int parse_block_sizes(struct nbd_handshake *handshake, const uint8_t *data)
{
	struct nbd_export *export = &handshake->export;
	uint32_t least = get32(data), preferred = get32(data + 4), most = get32(data + 8);

	if (!is_power_of_2(least) || !is_power_of_2(preferred) || preferred < least || most < least)
		return refuse(handshake, -EPROTO,
			"the server's block sizes are nonsense (%u, %u, %u): use another server", least,
			preferred, most);
	if (least > BLOCK_MAX)
		return refuse(handshake, -EINVAL,
			"the server wants blocks of %u bytes, and guests know none above %u: have "
			"smaller ones served, as `nbdkit --filter=blocksize` does",
			least, BLOCK_MAX);
	export->block_min = least < BLOCK_DEFAULT ? BLOCK_DEFAULT : least;
	if (preferred > PREFERRED_MAX)
		preferred = PREFERRED_MAX;
	export->block_preferred = preferred < export->block_min ? export->block_min : preferred;
	export->request_max = align_down(most, export->block_min);
	if (!export->request_max)
		return refuse(handshake, -EINVAL,
			"the server takes at most %u bytes a request, less than a block: use another "
			"server",
			most);
	return 0;
}

/* NBD_INFO_EXPORT */
static int parse_export(struct nbd_handshake *handshake, const uint8_t *data)
{
	handshake->export.size = get64(data);
	handshake->export.flags = get16(data + 8);
	if (handshake->export.size > INT64_MAX)
		return refuse(handshake, -EPROTO,
			"the server's export is larger than a disk can be: use another server");
	if (!(handshake->export.flags & NBD_HAS_FLAGS))
		handshake->export.flags = 0;
	handshake->has_export = true;
	return 0;
}

static int parse_info(struct nbd_handshake *handshake)
{
	const uint8_t *data = handshake->in;
	size_t length = handshake->got;
	uint16_t type = length >= 2 ? get16(data) : UINT16_MAX;

	if (length < 2 || (type == INFO_EXPORT && length != 12) ||
		(type == INFO_BLOCK_SIZE && length != 14))
		return refuse(handshake, -EPROTO,
			"the server describes its export with a wrong length: use another server");
	if (type == INFO_EXPORT)
		return parse_export(handshake, data + 2);
	if (type == INFO_BLOCK_SIZE)
		return parse_block_sizes(handshake, data + 2);
	return 0;
}

static const char *error_cure(uint32_t type)
{
	switch (type & ~REPLY_ERROR) {
	case 1:
		return "it is too old: use one that knows NBD_OPT_GO, as nbdkit and qemu-nbd do";
	case 2:
		return "its policy does not let you: ask who runs it";
	case 5:
		return "it wants TLS: reach it by a Unix socket, or through a tunnel";
	case 6:
		return "it has no export of that name: give one that it has";
	case 7:
		return "it is about to end: start it anew";
	default:
		return "see its log";
	}
}

/* With the server's message, made printable. */
static int parse_error_reply(struct nbd_handshake *handshake)
{
	char text[81];
	size_t length = handshake->got < sizeof(text) - 1 ? handshake->got : sizeof(text) - 1;

	for (size_t i = 0; i < length; i++)
		text[i] = handshake->in[i] >= ' ' && handshake->in[i] < 0x7f ? handshake->in[i] : '?';
	text[length] = '\0';
	return refuse(handshake, handshake->reply_type == (REPLY_ERROR | 6) ? -ENOENT : -EPROTO,
		"the server refuses export \"%.64s\"%s%s%s: %s", handshake->export_name,
		length ? " (" : "", text, length ? ")" : "", error_cure(handshake->reply_type));
}

static int parse_reply_header(struct nbd_handshake *handshake);

static int parse_reply(struct nbd_handshake *handshake)
{
	int result = 0;

	if (handshake->reply_type & REPLY_ERROR)
		return parse_error_reply(handshake);
	if (handshake->reply_type == REPLY_INFO)
		result = parse_info(handshake);
	if (result < 0)
		return result;
	if (handshake->reply_type == REPLY_ACK && !handshake->has_export)
		return refuse(handshake, -EPROTO,
			"the server does not tell its export's size: use another server");
	if (handshake->reply_type == REPLY_ACK)
		return 1;
	return receive_next(handshake, 20, parse_reply_header);
}

static int parse_reply_header(struct nbd_handshake *handshake)
{
	uint32_t length = get32(handshake->in + 16);

	if (get64(handshake->in) != REPLY_MAGIC || get32(handshake->in + 8) != OPTION_GO)
		return refuse(handshake, -EPROTO,
			"the server answers with what is no answer: use another server");
	if (length > NBD_REPLY_MAX || ++handshake->replies > REPLIES_MAX)
		return refuse(handshake, -EPROTO,
			"the server's answers are longer than any are: use another server");
	handshake->reply_type = get32(handshake->in + 12);
	return receive_next(handshake, length, parse_reply);
}

static int parse_hello(struct nbd_handshake *handshake)
{
	size_t name = strlen(handshake->export_name);
	uint8_t *out = handshake->out;
	uint16_t flags = get16(handshake->in + 16);

	if (get64(handshake->in) != GREETING_MAGIC)
		return refuse(handshake, -EPROTO,
			"what answers is no NBD server: give the address of one");
	if (get64(handshake->in + 8) == OLDSTYLE_MAGIC)
		return refuse(handshake, -EPROTO,
			"the server is too old, or was told to be: use one with newstyle negotiation");
	if (get64(handshake->in + 8) != OPTION_MAGIC || !(flags & FIXED_NEWSTYLE))
		return refuse(handshake, -EPROTO,
			"the server does not offer fixed newstyle negotiation: use another server");
	out = put32(out, flags & (FIXED_NEWSTYLE | NO_ZEROES));
	out = put64(out, OPTION_MAGIC);
	out = put32(out, OPTION_GO);
	out = put32(out, 4 + name + 2 + 2);
	out = put32(out, name);
	out = (uint8_t *)memcpy(out, handshake->export_name, name) + name;
	out = put16(out, 1);
	out = put16(out, INFO_BLOCK_SIZE);
	handshake->out_length = out - handshake->out;
	return receive_next(handshake, 20, parse_reply_header);
}

void nbd_handshake_start(struct nbd_handshake *handshake, const char *export_name)
{
	handshake->export_name = export_name;
	handshake->got = handshake->sent = handshake->out_length = 0;
	handshake->replies = 0;
	handshake->has_export = false;
	handshake->problem[0] = '\0';
	handshake->export = (struct nbd_export){
		.block_min = BLOCK_DEFAULT,
		.block_preferred = PREFERRED_DEFAULT,
		.request_max = REQUEST_DEFAULT,
	};
	receive_next(handshake, 18, parse_hello);
}

int nbd_handshake_step(struct nbd_handshake *handshake)
{
	int result = handshake->next(handshake);

	handshake->got = 0;
	return result;
}

void nbd_put_request(uint8_t bytes[NBD_REQUEST_BYTES], const struct nbd_request *request)
{
	bytes = put32(bytes, TRANSMISSION_REQUEST_MAGIC);
	bytes = put16(bytes, request->flags);
	bytes = put16(bytes, request->command);
	bytes = put64(bytes, request->cookie);
	bytes = put64(bytes, request->offset);
	put32(bytes, request->length);
}

bool nbd_get_reply(const uint8_t bytes[NBD_REPLY_BYTES], struct nbd_reply *reply)
{
	reply->error = get32(bytes + 4);
	reply->cookie = get64(bytes + 8);
	return get32(bytes) == TRANSMISSION_REPLY_MAGIC;
}

int nbd_errno(uint32_t error)
{
	switch (error) {
	case 0:
		return 0;
	case 1:
		return -EPERM;
	case 12:
		return -ENOMEM;
	case 22:
		return -EINVAL;
	case 28:
		return -ENOSPC;
	case 75:
		return -EOVERFLOW;
	case 95:
		return -EOPNOTSUPP;
	default:
		return -EIO;
	}
}
