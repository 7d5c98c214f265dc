/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Users and hosts by name, as the host knows them (nsswitch.conf(5)).
 *
 * getent(1) is asked, since the C library's own functions take modules of the host's into the process
 * that calls them, which a static program can't rely on, and read what servers say in there.
 */
#ifndef KARMA_GETENT_H
#define KARMA_GETENT_H

#include <stddef.h>

/*
 * What the database has for key: lines of text, with a NUL at their end, cut where size ends.  Waits for
 * the answer, which may come from a server.  0; -ENOENT, without a message: there is none; or another
 * negative errno with a message printed.  Only before the sandbox is entered.
 */
int getent(const char *database, const char *key, char *text, size_t size);

#endif
