// SPDX-License-Identifier: GPL-2.0-only
/* The host as disks see it: between them and their files, so that a test can watch, refuse or fail.
 */
#include <errno.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include "guest.h"

bool (*sim_host)(struct host_call *call);
uint32_t sim_direct_unit;

/* The linker puts these in the places of the functions in their names: see mk/tests.mk. */
ssize_t __real_pwritev2(int fd, const struct iovec *iov, int count, off_t offset, int flags);
ssize_t __wrap_pwritev2(int fd, const struct iovec *iov, int count, off_t offset, int flags);
int __real_statx(int fd, const char *path, int flags, unsigned mask, struct statx *status);
int __wrap_statx(int fd, const char *path, int flags, unsigned mask, struct statx *status);
void __real_io_ring_readv(struct io_ring *ring, struct io_op *op, int fd, const struct iovec *iov,
	unsigned count, uint64_t offset, bool async);
void __wrap_io_ring_readv(struct io_ring *ring, struct io_op *op, int fd, const struct iovec *iov,
	unsigned count, uint64_t offset, bool async);
void __real_io_ring_writev(struct io_ring *ring, struct io_op *op, int fd, const struct iovec *iov,
	unsigned count, uint64_t offset, bool async);
void __wrap_io_ring_writev(struct io_ring *ring, struct io_op *op, int fd, const struct iovec *iov,
	unsigned count, uint64_t offset, bool async);
bool __real_io_ring_can_link(const struct io_ring *ring, unsigned count);
bool __wrap_io_ring_can_link(const struct io_ring *ring, unsigned count);
void __real_io_ring_fdatasync(struct io_ring *ring, struct io_op *op, int fd);
void __wrap_io_ring_fdatasync(struct io_ring *ring, struct io_op *op, int fd);
void __real_io_ring_fallocate(
	struct io_ring *ring, struct io_op *op, int fd, int mode, uint64_t offset, uint64_t length);
void __wrap_io_ring_fallocate(
	struct io_ring *ring, struct io_op *op, int fd, int mode, uint64_t offset, uint64_t length);

static bool intercept(struct host_call call)
{
	if (!sim_host || !sim_host(&call))
		return false;
	if (call.op)
		io_ring_complete(call.op, call.result);
	return true;
}

int __wrap_statx(int fd, const char *path, int flags, unsigned mask, struct statx *status)
{
	int result = __real_statx(fd, path, flags, mask, status);

	if (result == 0 && sim_direct_unit) {
		status->stx_mask |= STATX_DIOALIGN;
		status->stx_dio_offset_align = status->stx_dio_mem_align = sim_direct_unit;
	}
	return result;
}

ssize_t __wrap_pwritev2(int fd, const struct iovec *iov, int count, off_t offset,
	int flags)
{
	struct host_call call = {
		.kind = HOST_WRITE, .fd = fd, .iov = iov, .count = count, .offset = offset
	};

	/* Without an offset it is no disk. */
	if (offset < 0 || !sim_host || !sim_host(&call))
		return __real_pwritev2(fd, iov, count, offset, flags);
	if (call.result >= 0)
		return call.result;
	errno = -call.result;
	return -1;
}

void __wrap_io_ring_readv(struct io_ring *ring, struct io_op *op, int fd, const struct iovec *iov,
	unsigned count, uint64_t offset, bool async)
{
	if (!intercept((struct host_call){ .kind = HOST_READ,
		    .fd = fd,
		    .iov = iov,
		    .count = count,
		    .offset = offset,
		    .async = async,
		    .op = op }))
		__real_io_ring_readv(ring, op, fd, iov, count, offset, async);
}

void __wrap_io_ring_writev(struct io_ring *ring, struct io_op *op, int fd, const struct iovec *iov,
	unsigned count, uint64_t offset, bool async)
{
	if (!intercept((struct host_call){ .kind = HOST_WRITE,
		    .fd = fd,
		    .iov = iov,
		    .count = count,
		    .offset = offset,
		    .async = async,
		    .op = op }))
		__real_io_ring_writev(ring, op, fd, iov, count, offset, async);
}

/* A test that watches sees each write. */
bool __wrap_io_ring_can_link(const struct io_ring *ring, unsigned count)
{
	return !sim_host && __real_io_ring_can_link(ring, count);
}

void __wrap_io_ring_fdatasync(struct io_ring *ring, struct io_op *op, int fd)
{
	if (!intercept((struct host_call){ .kind = HOST_SYNC, .fd = fd, .op = op }))
		__real_io_ring_fdatasync(ring, op, fd);
}

void __wrap_io_ring_fallocate(
	struct io_ring *ring, struct io_op *op, int fd, int mode, uint64_t offset, uint64_t length)
{
	if (!intercept((struct host_call){ .kind = HOST_CLEAR,
		    .fd = fd,
		    .mode = mode,
		    .offset = offset,
		    .length = length,
		    .op = op }))
		__real_io_ring_fallocate(ring, op, fd, mode, offset, length);
}
