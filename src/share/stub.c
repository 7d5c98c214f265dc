// SPDX-License-Identifier: GPL-2.0-only
/* The server of a shared directory: not there yet. */
#include <errno.h>

#include "karma/log.h"
#include "karma/share.h"

int share_serve(const struct share_options *options, int socket)
{
	(void)socket;
	fail(-ENOSYS, "--share %s: there is no server yet: give --share unix:PATH", options->directory);
	return 125;
}
