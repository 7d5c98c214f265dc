// SPDX-License-Identifier: GPL-2.0-only
/*
 * What a guest could do that has broken out: code of ours in each kind of thread, in the place where
 * the guest would have it, tries to get out of the sandbox.
 *
 * Linked with Karma's own objects, by --wrap for each function that has __wrap_ before its name below;
 * nothing of this is in build/karma.  TAKEOVER=THREAD:ATTACK chooses, where THREAD is vcpu, io or
 * main; TAKEOVER=list prints the attacks.  A call that the thread's filter forbids ends the process, and
 * its message is what the test looks at; what comes back instead is printed here, "denied" or "GOT
 * THROUGH".  Attacks on what lies behind the filters take these away first: see `bare` below.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include "../../src/guest/internal.h"
#include "karma/sandbox.h"
#include "karma/util.h"
#include "karma/vm.h"

static const char *wanted_thread = "", *wanted_attack = "";
static pid_t supervisor;
static struct vm *vm;

static uint8_t page[PAGE_BYTES] __attribute__((aligned(PAGE_BYTES)));
static char *const no_words[] = { NULL };
static struct iovec iov = { page, sizeof(page) };
static const struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = 9 };

__attribute__((format(printf, 2, 3))) static void tell(const char *verdict, const char *format, ...)
{
	char text[200], line[300];
	va_list arguments;
	int length;

	va_start(arguments, format);
	vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	length = snprintf(line, sizeof(line), "takeover: %s: %s\n", verdict, text);
	write_bytes(STDERR_FILENO, line, length);
	syscall(SYS_exit_group, 0);
}

/* --- System calls, which the filters are to forbid. */

struct call {
	const char *name;
	long number;
	uintptr_t arguments[6];
};

#define AT(pointer) ((uintptr_t)(pointer))

static const struct call calls[] = {
	{ "open", SYS_openat, { AT_FDCWD, AT("/etc/passwd"), O_RDONLY } },
	{ "open_old", SYS_open, { AT("/etc/passwd"), O_RDONLY } },
	{ "create", SYS_creat, { AT("/tmp/takeover"), 0600 } },
	{ "unlink", SYS_unlink, { AT("/etc/passwd") } },
	{ "exec", SYS_execve, { AT("/bin/sh"), AT(no_words), AT(no_words) } },
	{ "fork", SYS_fork, { 0 } },
	{ "clone", SYS_clone, { CLONE_VM | CLONE_THREAD | CLONE_SIGHAND } },
	{ "clone3", SYS_clone3, { AT(page), 88 } },
	{ "socket", SYS_socket, { AF_INET, SOCK_STREAM, 0 } },
	{ "connect", SYS_connect, { 0, AT(&address), sizeof(address) } },
	{ "bind", SYS_bind, { 0, AT(&address), sizeof(address) } },
	/* Only of guests with vhost-user devices, and not of the I/O thread: see run. */
	{ "send_descriptor", SYS_sendmsg, { 0, AT(page), 0 } },
	{ "ptrace", SYS_ptrace, { PTRACE_ATTACH, 1, 0, 0 } },
	{ "read_another", SYS_process_vm_readv, { 1, AT(&iov), 1, AT(&iov), 1, 0 } },
	{ "write_another", SYS_process_vm_writev, { 1, AT(&iov), 1, AT(&iov), 1, 0 } },
	{ "map_executable", SYS_mmap, { 0, PAGE_BYTES, PROT_READ | PROT_WRITE | PROT_EXEC,
		MAP_PRIVATE | MAP_ANONYMOUS, -1, 0 } },
	{ "make_executable", SYS_mprotect, { AT(page), PAGE_BYTES, PROT_READ | PROT_EXEC } },
	{ "move_memory", SYS_mremap, { AT(page), PAGE_BYTES, PAGE_BYTES, 0 } },
	{ "kill", SYS_kill, { 1, SIGKILL } },
	{ "signal_outside", SYS_tgkill, { 2, 2, SIGKILL } },
	{ "signal_queue", SYS_rt_sigqueueinfo, { 1, SIGKILL, AT(page) } },
	{ "new_ring", SYS_io_uring_setup, { 8, AT(page) } },
	{ "change_ring", SYS_io_uring_register, { 3, 0, 0, 0 } },
	{ "other_limits", SYS_prlimit64, { 0, RLIMIT_NOFILE, AT(page), 0 } },
	{ "other_user", SYS_setuid, { 0 } },
	{ "mount", SYS_mount, { AT("none"), AT("/"), AT("proc"), 0, 0 } },
	{ "unshare", SYS_unshare, { CLONE_NEWUSER } },
	{ "bpf", SYS_bpf, { 0, AT(page), 0 } },
	{ "module", SYS_init_module, { AT(page), 0, AT("") } },
	{ "advice", SYS_madvise, { AT(page), PAGE_BYTES, MADV_MERGEABLE } },
	{ "unknown_call", 511, { 0 } },
	/* On a descriptor that it has, in a way that it may not. */
	{ "request", SYS_ioctl, { 0, TIOCSTI, AT("x") } },
	{ "run_another", SYS_ioctl, { 0, KVM_RUN, 0 } },
	{ "set_msrs", SYS_ioctl, { 0, KVM_SET_MSRS, AT(page) } },
};

static void make_call(const struct call *call)
{
	const uintptr_t *a = call->arguments;
	long result = syscall(call->number, a[0], a[1], a[2], a[3], a[4], a[5]);

	/* It does nothing, but is no sign of a break-out. */
	tell(call->number == SYS_mmap && result < 0 && errno == ENOMEM ? "denied" : "GOT THROUGH",
		"%s: %ld (%s)", call->name, result, strerror(errno));
}

/* More than the heap may have (see run): an error, and no end. */
static void fill_heap(void)
{
	while (malloc(64 * KIB))
		;
	tell("denied", "heap: %s", strerror(errno));
}

/* A slot of memory is a way to all of the process's. */
static void map_more_memory(void)
{
	struct kvm_userspace_memory_region region = { .slot = 9, .memory_size = PAGE_BYTES,
		.guest_phys_addr = 1ull << 40, .userspace_addr = AT(page) };
	long result = syscall(SYS_ioctl, vm->vm_fd, KVM_SET_USER_MEMORY_REGION, &region);

	tell("GOT THROUGH", "guest_memory: %ld (%s)", result, strerror(errno));
}

/* --- Another export of the NBD server that one of the disks is on. */

#define DESCRIPTORS 64
#define PATIENCE_NANOSECONDS 3000000000ll

union ancillary {
	struct cmsghdr head;
	char bytes[CMSG_SPACE(sizeof(int))];
};

/* A connection that the supervisor passes on, if it is asked by this descriptor. */
static int ask_for_connection(int fd)
{
	int64_t end = nanoseconds() + PATIENCE_NANOSECONDS;
	union ancillary control;
	struct msghdr message;
	ssize_t count;
	int passed;

	if (write_bytes(fd, page, 8) < 0)
		return -1;
	do {
		message = (struct msghdr){ .msg_iov = &iov, .msg_iovlen = 1,
			.msg_control = control.bytes, .msg_controllen = sizeof(control.bytes) };
		count = recvmsg(fd, &message, MSG_DONTWAIT);
		if (count == 0 || (count < 0 && errno != EAGAIN) || nanoseconds() > end)
			return -1;
	} while (count < 0 || message.msg_controllen < CMSG_LEN(sizeof(passed)));
	memcpy(&passed, CMSG_DATA(&control.head), sizeof(passed));
	return passed;
}

/* Whether these bytes come from it, before it ends or is silent. */
static bool says(int fd, const char *bytes, size_t length)
{
	int64_t end = nanoseconds() + PATIENCE_NANOSECONDS;
	uint8_t said[4096];
	size_t got = 0;

	while (nanoseconds() < end && got < sizeof(said)) {
		struct iovec room = { said + got, sizeof(said) - got };
		struct msghdr message = { .msg_iov = &room, .msg_iovlen = 1 };
		ssize_t count = recvmsg(fd, &message, MSG_DONTWAIT);

		if (count == 0)
			break;
		got += count > 0 ? count : 0;
		if (memmem(said, got, bytes, length))
			return true;
	}
	return false;
}

/* NBD_OPT_GO for the export "another", as fixed newstyle negotiation has it; and what an answer begins with. */
static const char nbd_option[] = "\0\0\0\3IHAVEOPT\0\0\0\7\0\0\0\15\0\0\0\7another\0\0";
static const char nbd_option_reply[] = "\0\3\350\211\4\125\145\251";

static void choose_export(void)
{
	int fd = -1;

	for (int asked = 3; asked < DESCRIPTORS && fd < 0; asked++)
		fd = ask_for_connection(asked);
	if (fd < 0)
		tell("FAILED", "nbd_option: nobody has passed on a connection");
	says(fd, "IHAVEOPT", 8);
	if (write_bytes(fd, nbd_option, sizeof(nbd_option) - 1) < 0)
		tell("denied", "nbd_option: %s", strerror(errno));
	tell(says(fd, nbd_option_reply, sizeof(nbd_option_reply) - 1) ? "GOT THROUGH" : "denied",
		"nbd_option: another export");
}

/* --- Operations of the rings, which filters don't see. */

enum operation { OPEN, CONNECT, SEND, ACCEPT, SPLICE, UNLINK, FIXED, DRAIN };

static void prepare(struct io_uring_sqe *sqe, enum operation operation)
{
	switch (operation) {
	case OPEN:
		io_uring_prep_openat(sqe, AT_FDCWD, "/etc/passwd", O_RDONLY, 0);
		break;
	case CONNECT:
		io_uring_prep_connect(sqe, 0, (struct sockaddr *)&address, sizeof(address));
		break;
	case SEND:
		io_uring_prep_send(sqe, 0, page, 1, 0);
		break;
	case ACCEPT:
		io_uring_prep_accept(sqe, 0, NULL, NULL, 0);
		break;
	case SPLICE:
		io_uring_prep_splice(sqe, 0, -1, 1, -1, 1, 0);
		break;
	case UNLINK:
		io_uring_prep_unlinkat(sqe, AT_FDCWD, "/etc/passwd", 0);
		break;
	case FIXED:
		io_uring_prep_nop(sqe);
		sqe->flags |= IOSQE_FIXED_FILE;
		break;
	case DRAIN:
		io_uring_prep_nop(sqe);
		sqe->flags |= IOSQE_IO_DRAIN;
		break;
	}
}

static void use_ring(const char *name, struct io_ring *ring, enum operation operation)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&ring->uring);
	struct io_uring_cqe *cqe;

	prepare(sqe, operation);
	io_uring_sqe_set_data(sqe, &iov);
	io_uring_submit(&ring->uring);
	while (io_uring_wait_cqe(&ring->uring, &cqe) == 0) {
		if (io_uring_cqe_get_data(cqe) == &iov)
			tell(cqe->res == -EACCES ? "denied" : "GOT THROUGH", "%s: %d", name, cqe->res);
		io_uring_cqe_seen(&ring->uring, cqe);
	}
	tell("GOT THROUGH", "%s: no completion", name);
}

static const char *const operations[] = {
	[OPEN] = "ring_open", [CONNECT] = "ring_connect", [SEND] = "ring_send",
	[ACCEPT] = "ring_accept", [SPLICE] = "ring_splice", [UNLINK] = "ring_unlink",
	[FIXED] = "ring_fixed_file", [DRAIN] = "ring_drain",
};

/* --- Descriptors that it has, by calls that it may make. */

/* Whether a socket of the host's network answers there: its addresses are asked for. */
static bool tells_addresses(struct io_ring *ring, int fd)
{
	struct {
		struct nlmsghdr header;
		struct rtmsg message;
	} request = { { sizeof(request), RTM_GETADDR, NLM_F_REQUEST | NLM_F_DUMP, 7, 0 }, { .rtm_family = AF_UNSPEC } };
	const struct nlmsghdr *answer = (const struct nlmsghdr *)page;
	struct io_uring_sqe *sqe;
	struct io_uring_cqe *cqe;
	bool told = false, last = false;

	if (write_bytes(fd, &request, sizeof(request)) != sizeof(request))
		return false;
	sqe = io_uring_get_sqe(&ring->uring);
	io_uring_prep_readv(sqe, fd, &iov, 1, -1);
	io_uring_sqe_set_data(sqe, NULL);
	/* What is there to be read is read before this is done; what is not stays on its way. */
	sqe = io_uring_get_sqe(&ring->uring);
	io_uring_prep_nop(sqe);
	io_uring_sqe_set_data(sqe, &iov);
	io_uring_submit(&ring->uring);
	while (!last && io_uring_wait_cqe(&ring->uring, &cqe) == 0) {
		last = io_uring_cqe_get_data(cqe) == &iov;
		told |= cqe->res >= (int)sizeof(*answer) && answer->nlmsg_seq == 7 &&
			(answer->nlmsg_type == RTM_NEWADDR || answer->nlmsg_type == NLMSG_DONE);
		io_uring_cqe_seen(&ring->uring, cqe);
	}
	return told;
}

static void use_descriptors(struct io_ring *ring)
{
	for (int fd = 0; fd < 64; fd++) {
		if (tells_addresses(ring, fd))
			tell("GOT THROUGH", "net_addresses: by descriptor %d", fd);
	}
	tell("denied", "net_addresses: no descriptor tells them");
}

/* --- What lies behind the filters. */

static bool bare;	/* the attack is of these: let there be no filter */

static void expect_error(const char *name, long result)
{
	tell(result < 0 ? "denied" : "GOT THROUGH", "%s: %s", name, strerror(errno));
}

static void bare_open(const char *name)
{
	expect_error(name, open("/proc/self/mem", O_RDWR) & open("/dev/kvm", O_RDWR) &
		open("/etc/passwd", O_RDONLY) & open("/", O_RDONLY | O_DIRECTORY));
}

static void bare_create(const char *name)
{
	expect_error(name, open("/takeover", O_CREAT | O_RDWR, 0600));
}

static void bare_descriptor(const char *name)
{
	expect_error(name, dup(0));
}

/* In a network of its own there is nobody; with no descriptor left, there is not even a socket. */
static void bare_connect(const char *name)
{
	int fd;

	close(0);
	fd = socket(AF_INET, SOCK_STREAM, 0);
	expect_error(name, fd < 0 ? -1 : connect(fd, (const struct sockaddr *)&address, sizeof(address)));
}

static void bare_signal(const char *name)
{
	expect_error(name, kill(supervisor, 0));
}

static void bare_read_another(const char *name)
{
	expect_error(name, process_vm_readv(supervisor, &iov, 1, &iov, 1, 0));
}

static void bare_ptrace(const char *name)
{
	expect_error(name, ptrace(PTRACE_ATTACH, supervisor, NULL, NULL));
}

static void bare_mount(const char *name)
{
	expect_error(name, syscall(SYS_mount, "none", "/", "tmpfs", 0, NULL));
}

static void bare_user(const char *name)
{
	expect_error(name, syscall(SYS_sethostname, "x", 1) & setuid(getuid() + 1));
}

static void bare_limit(const char *name)
{
	const struct rlimit more = { 1 << 16, 1 << 16 };

	expect_error(name, setrlimit(RLIMIT_NOFILE, &more));
}

static void bare_exec(const char *name)
{
	expect_error(name, execve("/bin/sh", no_words, no_words));
}

static const struct {
	const char *name;
	void (*run)(const char *name);
} bare_attacks[] = {
	{ "bare_open", bare_open },
	{ "bare_create", bare_create },
	{ "bare_descriptor", bare_descriptor },
	{ "bare_connect", bare_connect },
	{ "bare_signal", bare_signal },
	{ "bare_read_another", bare_read_another },
	{ "bare_ptrace", bare_ptrace },
	{ "bare_mount", bare_mount },
	{ "bare_user", bare_user },
	{ "bare_limit", bare_limit },
	{ "bare_exec", bare_exec },
};

/* --- What the supervisor may believe. */

/* As if the guest had reset, without --reboot restart. */
static void kept_reset(const char *name)
{
	const struct guest *guest = container_of(vm, struct guest, vm);

	memset(guest->shared, 1, sizeof(*guest->shared));
	tell(guest->starts ? "GOT THROUGH" : "denied", "%s: start %u", name, guest->starts);
}

/* --- The choice, and the places. */

static void list(void)
{
	for (size_t i = 0; i < ARRAY_SIZE(calls); i++)
		puts(calls[i].name);
	puts("heap");
	puts("guest_memory");
	puts("nbd_option");
	puts("net_addresses");
	for (size_t i = 0; i < ARRAY_SIZE(operations); i++)
		puts(operations[i]);
	for (size_t i = 0; i < ARRAY_SIZE(bare_attacks); i++)
		puts(bare_attacks[i].name);
	puts("kept_reset");
	exit(0);
}

static void __attribute__((constructor)) choose(void)
{
	char *text = getenv("TAKEOVER"), *colon;

	if (!text)
		return;
	if (strcmp(text, "list") == 0)
		list();
	text = strdup(text);
	colon = strchr(text, ':');
	if (!colon)
		exit(2);
	*colon = '\0';
	wanted_thread = text;
	wanted_attack = colon + 1;
	bare = strncmp(wanted_attack, "bare_", 5) == 0;
	supervisor = getpid();
}

/* The guest has taken over the calling thread. */
static void take_over(const char *thread, struct io_ring *ring)
{
	if (strcmp(thread, wanted_thread) != 0)
		return;
	for (size_t i = 0; i < ARRAY_SIZE(calls); i++) {
		if (strcmp(calls[i].name, wanted_attack) == 0)
			make_call(&calls[i]);
	}
	if (strcmp("heap", wanted_attack) == 0)
		fill_heap();
	if (strcmp("guest_memory", wanted_attack) == 0)
		map_more_memory();
	if (strcmp("nbd_option", wanted_attack) == 0)
		choose_export();
	if (strcmp("net_addresses", wanted_attack) == 0)
		use_descriptors(ring);
	for (size_t i = 0; i < ARRAY_SIZE(operations); i++) {
		if (strcmp(operations[i], wanted_attack) == 0)
			use_ring(operations[i], ring, i);
	}
	for (size_t i = 0; i < ARRAY_SIZE(bare_attacks); i++) {
		if (strcmp(bare_attacks[i].name, wanted_attack) == 0)
			bare_attacks[i].run(wanted_attack);
	}
	if (strcmp("kept_reset", wanted_attack) == 0)
		kept_reset(wanted_attack);
	tell("GOT THROUGH", "%s: there is no such attack", wanted_attack);
}

int __real_sandbox_filter(enum sandbox_thread thread, const struct sandbox_descriptors *descriptors);
int __wrap_sandbox_filter(enum sandbox_thread thread, const struct sandbox_descriptors *descriptors);
int __real_vm_start(struct vm *started);
int __wrap_vm_start(struct vm *started);
void __wrap_io_ring_loop(struct io_ring *ring);
int __wrap_ioctl(int fd, unsigned long request, ...);
bool __wrap_cpu_has_virtualization(void);

int __wrap_sandbox_filter(enum sandbox_thread thread, const struct sandbox_descriptors *descriptors)
{
	return bare ? 0 : __real_sandbox_filter(thread, descriptors);
}

int __wrap_vm_start(struct vm *started)
{
	int result;

	vm = started;
	result = __real_vm_start(started);
	if (result == 0)
		take_over("main", vm->ring);
	for (;;)
		syscall(SYS_poll, NULL, 0, -1);
	return result;
}

void __wrap_io_ring_loop(struct io_ring *ring)
{
	take_over("io", ring);
	for (;;)
		syscall(SYS_futex, page, 0, 0, NULL, NULL, 0);
}

/* Instead of its first instruction: so this needs a KVM that makes vCPUs, not one that runs them. */
int __wrap_ioctl(int fd, unsigned long request, ...)
{
	va_list arguments;
	void *argument;

	va_start(arguments, request);
	argument = va_arg(arguments, void *);
	va_end(arguments);
	if (request == KVM_RUN) {
		take_over("vcpu", &vm->vcpus[0].ring);
		for (;;)
			syscall(SYS_futex, page, 0, 0, NULL, NULL, 0);
	}
	return syscall(SYS_ioctl, fd, request, argument);
}

bool __wrap_cpu_has_virtualization(void)
{
	return true;
}
