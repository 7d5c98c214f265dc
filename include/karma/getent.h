/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Users and hosts by name, as the host knows them (nsswitch.conf(5)).
 *
 * By a process of getent(1): the C library's functions would load the host's NSS modules into this
 * process, which a static program cannot rely on, and would parse there what servers reply.
 */
#ifndef KARMA_GETENT_H
#define KARMA_GETENT_H

#include <stddef.h>

/*
 * Look key up in a database: lines of text, terminated by a NUL, and cut to size.  Blocks, for as
 * long as a name server takes.  Call it before the sandbox is entered.  Returns 0; -ENOENT, without
 * a message, if there is no entry; or another negative errno with a message printed.
 */
int getent(const char *database, const char *key, char *text, size_t size);

#endif
