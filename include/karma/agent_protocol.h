/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The protocol between karma and karma-agent, the program in the guest: numbers and sizes.  karma-agent(7) tells what
 * they mean; names of its sections are in brackets here.
 *
 * Numbers are little-endian.  Both sides take all that comes for hostile.
 */
#ifndef KARMA_AGENT_PROTOCOL_H
#define KARMA_AGENT_PROTOCOL_H

#include <stdint.h>

#define AGENT_VERSION 1u
/*
 * The vsock port.  Below 1024, so that only root of the guest can listen there; IANA lists no service for it, and no
 * known one is on vsock (ssh is on 22, agents of other monitors are from 1024 on).
 */
#define AGENT_PORT 842u

/* [Frames] */
struct agent_header {
	uint32_t length;	/* bytes of the payload */
	uint8_t type;		/* enum agent_type */
	uint8_t stream;		/* enum agent_stream for DATA, END and WINDOW; else 0 */
	uint16_t zero;
};
#define AGENT_HEADER_BYTES 8u
#define AGENT_PAYLOAD_MAX 131072u
/* Bytes that may be sent on a stream before its receiver has sent WINDOW. */
#define AGENT_WINDOW_BYTES 131072u

enum agent_type {
	AGENT_HELLO = 1,	/* u32 version: the first frame, both ways */
	AGENT_ERROR = 2,	/* u32 exit status, u32 errno, text: the last one, both ways */
	AGENT_DONE = 3,		/* nothing follows, and all that came is done */
	/* [Commands] */
	AGENT_EXEC = 16,	/* struct agent_exec, strings */
	AGENT_DATA = 17,	/* bytes */
	AGENT_END = 18,		/* of a stream: no more is sent, or taken */
	AGENT_WINDOW = 19,	/* u32 bytes */
	AGENT_SIGNAL = 20,	/* u32 number */
	AGENT_SIZE = 21,	/* u16 rows, u16 columns: of the terminal */
	AGENT_EXIT = 22,	/* u32 exit status, u32 signal or 0 */
	AGENT_PROCESS = 23,	/* struct agent_process, groups, limits: of the EXEC that follows */
	/* [Copies] */
	AGENT_PUT = 32,		/* path, name: a copy to the guest */
	AGENT_GET = 33,		/* path: a copy from it */
	AGENT_ENTRY = 34,	/* struct agent_entry, name, target */
	AGENT_HOLE = 35,	/* u64 bytes of zeroes in a file */
	AGENT_LEAVE = 36,	/* the end of a directory or file */
	AGENT_SKIPPED = 37,	/* text: what is not copied, and why */
};

enum agent_stream { AGENT_INPUT, AGENT_OUTPUT, AGENT_ERROR_OUTPUT, AGENT_STREAMS };

/* Then, each with a NUL behind it: user, directory, arguments, environment. */
struct agent_exec {
	uint32_t flags;
	uint16_t rows, columns;
	uint32_t argument_count, environment_count;
};
#define AGENT_EXEC_INPUT 1u
#define AGENT_EXEC_TERMINAL 2u

/*
 * Then group_count groups, u32 each, and limit_count of struct agent_limit.  Capabilities are bits by their numbers
 * (capabilities(7)).
 */
struct agent_process {
	uint32_t flags;
	uint32_t uid, gid;
	uint32_t umask;
	uint64_t bounding, effective, inheritable, permitted, ambient;
	uint32_t group_count, limit_count;
};
#define AGENT_PROCESS_NO_NEW_PRIVILEGES 1u

/* Of setrlimit(2). */
struct agent_limit {
	uint32_t resource;
	uint32_t zero;
	uint64_t soft, hard;
};

/* Then the name and, of a link, its target, each with a NUL behind it. */
struct agent_entry {
	uint32_t kind;		/* enum agent_kind */
	uint32_t mode;		/* permissions, 0777 at most */
	int64_t seconds;	/* when it was changed, since 1970 */
	uint32_t nanoseconds;
	uint32_t zero;
	uint64_t bytes;		/* of a file, as far as the sender knows; for a display of progress */
};
enum agent_kind { AGENT_DIRECTORY = 1, AGENT_FILE = 2, AGENT_SYMLINK = 3, AGENT_HARD_LINK = 4 };
/* How deep directories may be. */
#define AGENT_DEPTH_MAX 128u

#endif
