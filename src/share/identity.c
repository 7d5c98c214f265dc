// SPDX-License-Identifier: GPL-2.0-only
/*
 * Who a request comes from.  A server that root runs creates files as the guest's user, by its own credentials
 * for the moment; any other creates all as the one user that it is.
 *
 * System calls without the C library, which would pass each on to threads that there are not.
 */
#include <errno.h>
#include <grp.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "session.h"

void identity_init(struct session *session)
{
	session->uid = geteuid();
	session->gid = getegid();
	session->switches_user = session->uid == 0 && !session->foreign_is_root;
}

static int become(uid_t uid, gid_t gid)
{
	if (syscall(SYS_setresgid, -1, gid, -1) < 0 || syscall(SYS_setresuid, -1, uid, -1) < 0)
		return -errno;
	return 0;
}

static bool is_own(const struct request *request)
{
	const struct session *session = request->session;

	return !session->switches_user || (request->head.uid == session->uid && request->head.gid == session->gid);
}

int identity_assume(const struct request *request)
{
	int result;

	if (is_own(request))
		return 0;
	/* -1 would leave it as it is. */
	if (request->head.uid == (uid_t)-1 || request->head.gid == (gid_t)-1)
		return -EINVAL;
	result = become(request->head.uid, request->head.gid);
	if (result < 0)
		identity_return(request);
	return result;
}

void identity_return(const struct request *request)
{
	/* The user first, who may then become the group. */
	if (is_own(request))
		return;
	if (syscall(SYS_setresuid, -1, request->session->uid, -1) < 0 ||
		syscall(SYS_setresgid, -1, request->session->gid, -1) < 0)
		_exit(1);
}
