/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The system calls that each kind of thread may make while a guest runs, and why.  All others end
 * the monitor, with a message that names the call; but for mmap, which fails with ENOMEM.
 *
 * A line is a call, or a call with certain arguments: CALL(name, why, checks), where a check is one
 * of libseccomp's, on an argument by its number.  All checks of a line hold, or the line doesn't
 * count; a call with several lines is allowed by any of them.
 *
 * compile.c turns this into filters when Karma is built.  SECURITY.md has the same tables, and
 * tests/check-docs looks that it has.  A call more here is a call more for a guest that has broken
 * out: threads share their memory, so what any of them may do, all may.
 */
#ifndef KARMA_SANDBOX_TABLES_H
#define KARMA_SANDBOX_TABLES_H

#define SANDBOX_VCPU_CALLS(CALL) \
	CALL(ioctl, "run the guest", FD(VCPU_FD), REQUEST(KVM_RUN)) \
	CALL(ioctl, "send interrupts", FD(VM_FD), REQUEST(KVM_SIGNAL_MSI)) \
	CALL(ioctl, "tell where the guest crashed", FD(VCPU_FD), REQUEST(KVM_GET_REGS)) \
	CALL(ioctl, "tell the guest that it was paused", FD(VCPU_FD), REQUEST(KVM_KVMCLOCK_CTRL)) \
	CALL(ioctl, "which offloads of a TAP the guest takes", REQUEST(TUNSETOFFLOAD)) \
	CALL(ioctl, "how many queues of a TAP it uses", REQUEST(TUNSETQUEUE)) \
	CALL(ioctl, "whether a TAP is still there", REQUEST(TUNGETIFF)) \
	CALL(io_uring_enter, "submit requests, take completions", ANY) \
	CALL(futex, "locks", ANY) \
	CALL(clock_gettime, "time; without the vDSO", ANY) \
	CALL(pwritev2, "write: disks, frames, requests, messages", ANY) \
	CALL(preadv2, "read: frames", ANY) \
	CALL(getrandom, "entropy", ANY) \
	CALL(madvise, "the balloon's pages", ADVICE(MADV_DONTNEED)) \
	CALL(madvise, "the balloon's pages, in shared memory", ADVICE(MADV_REMOVE)) \
	CALL(brk, "memory for a request to an overlay", ANY) \
	CALL(shutdown, "an NBD connection that failed; an end of a vsock connection", ANY) \
	CALL(rt_sigreturn, "back from the signal that stops a vCPU", ANY) \
	CALL(exit_group, "end after a forbidden call", ANY)

/* More of a vCPU's thread, and of the main thread, of a guest with vhost-user devices. */
#define SANDBOX_VCPU_VHOST_USER_CALLS(CALL) \
	CALL(ioctl, "which interrupt a server's eventfd sends", FD(VM_FD), REQUEST(KVM_SET_GSI_ROUTING)) \
	CALL(sendmsg, "have a server start and stop queues: the guest's memory and eventfds go with it", ANY)

#define SANDBOX_MAIN_VHOST_USER_CALLS(CALL) \
	CALL(sendmsg, "the same at a pause, after it, and at the end", ANY)

#define SANDBOX_IO_CALLS(CALL) \
	CALL(io_uring_enter, "submit requests, take completions", ANY) \
	CALL(futex, "locks", ANY) \
	CALL(ioctl, "send interrupts", FD(VM_FD), REQUEST(KVM_SIGNAL_MSI)) \
	CALL(ioctl, "which offloads of a TAP the guest takes", REQUEST(TUNSETOFFLOAD)) \
	CALL(ioctl, "how many queues of a TAP it uses", REQUEST(TUNSETQUEUE)) \
	CALL(ioctl, "whether a TAP is still there", REQUEST(TUNGETIFF)) \
	CALL(clock_gettime, "time; without the vDSO", ANY) \
	CALL(pwritev2, "write: large writes to disks, frames, requests, messages", ANY) \
	CALL(preadv2, "read: the console's input, frames, replies", ANY) \
	CALL(getrandom, "entropy, for a guest that asks without end", ANY) \
	CALL(madvise, "the balloon's pages, likewise", ADVICE(MADV_DONTNEED)) \
	CALL(madvise, "the balloon's pages in shared memory, likewise", ADVICE(MADV_REMOVE)) \
	CALL(brk, "memory for a request to an overlay", ANY) \
	CALL(recvmsg, "a connection that the supervisor has made: NBD, vsock", ANY) \
	CALL(shutdown, "end one, or a direction of it", ANY) \
	CALL(close, "likewise", ANY) \
	CALL(restart_syscall, "wait on, after a stop", ANY) \
	CALL(exit_group, "end after a forbidden call", ANY)

#define SANDBOX_MAIN_CALLS(CALL) \
	CALL(poll, "wait for signals, the clock and the end", ANY) \
	CALL(restart_syscall, "wait on, after a stop", ANY) \
	CALL(clock_nanosleep, "wait for the last requests", ANY) \
	CALL(clock_gettime, "time; without the vDSO", ANY) \
	CALL(futex, "locks", ANY) \
	CALL(preadv2, "read: signals that the supervisor passes on", ANY) \
	CALL(pwritev2, "write: messages", ANY) \
	CALL(pread64, "KVM's statistics", ANY) \
	CALL(lseek, "how large a disk is by now", ANY) \
	CALL(tgkill, "make a vCPU leave the guest", PROCESS(OWN_PID)) \
	CALL(ioctl, "send interrupts", FD(VM_FD), REQUEST(KVM_SIGNAL_MSI)) \
	CALL(ioctl, "the terminal's size", FD(TERMINAL_FD), REQUEST(TIOCGWINSZ)) \
	CALL(ioctl, "a snapshot: the guest's clock", FD(VM_FD), REQUEST(KVM_GET_CLOCK)) \
	CALL(ioctl, "a snapshot: how large the FPU's state is", FD(VM_FD), REQUEST(KVM_CHECK_EXTENSION)) \
	CALL(ioctl, "a snapshot: which MSRs there are", REQUEST(KVM_GET_MSR_INDEX_LIST)) \
	CALL(ioctl, "a snapshot: a vCPU's MSRs", REQUEST(KVM_GET_MSRS)) \
	CALL(ioctl, "a snapshot: the frequency of its TSC", REQUEST(KVM_GET_TSC_KHZ)) \
	CALL(ioctl, "a snapshot: its features", REQUEST(KVM_GET_CPUID2)) \
	CALL(ioctl, "a snapshot: whether it runs, is halted or was not started", REQUEST(KVM_GET_MP_STATE)) \
	CALL(ioctl, "a snapshot: its registers", REQUEST(KVM_GET_REGS)) \
	CALL(ioctl, "a snapshot: its system registers", REQUEST(KVM_GET_SREGS2)) \
	CALL(ioctl, "a snapshot: its FPU's state", REQUEST(KVM_GET_XSAVE2)) \
	CALL(ioctl, "a snapshot: its extended control registers", REQUEST(KVM_GET_XCRS)) \
	CALL(ioctl, "a snapshot: its debug registers", REQUEST(KVM_GET_DEBUGREGS)) \
	CALL(ioctl, "a snapshot: its local APIC", REQUEST(KVM_GET_LAPIC)) \
	CALL(ioctl, "a snapshot: its pending events", REQUEST(KVM_GET_VCPU_EVENTS)) \
	CALL(io_uring_enter, "end the I/O thread", ANY) \
	CALL(madvise, "unmap what only the start needed", ADVICE(MADV_DONTNEED)) \
	CALL(brk, "memory that is freed", ANY) \
	CALL(exit_group, "end", ANY)

/* Of the process that unpacks a kernel, which has one descriptor, and all its memory before. */
#define SANDBOX_UNPACKER_CALLS(CALL) \
	CALL(pwrite64, "write what was unpacked", ANY) \
	CALL(exit_group, "end", ANY)

/*
 * Of a server of files, which holds open directories and files of the one that it serves.  Paths are names of
 * one component, or numbers of its own descriptors.
 */
#define SANDBOX_SHARE_CALLS(CALL) \
	CALL(epoll_wait, "wait for the front, and for the guest's requests", ANY) \
	CALL(epoll_ctl, "watch a queue's eventfd", ANY) \
	CALL(recvmsg, "messages of the front, with descriptors", ANY) \
	CALL(sendmsg, "answers to these", ANY) \
	CALL(mmap, "guest memory", PROTECTION(READ_WRITE), MAPPING(SHARED)) \
	CALL(munmap, "guest memory that was replaced", ANY) \
	CALL(close, "a file or directory that the guest needs no more", ANY) \
	CALL(preadv2, "read files", ANY) \
	CALL(pwritev2, "write files, interrupts, messages", ANY) \
	CALL(openat, "open a name in a directory, or a descriptor once more", ANY) \
	CALL(newfstatat, "attributes; lookups", ANY) \
	CALL(fstat, "attributes", ANY) \
	CALL(fstatfs, "space in the file system", ANY) \
	CALL(getdents64, "read directories", ANY) \
	CALL(lseek, "the place in a directory; holes", ANY) \
	CALL(readlinkat, "read links", ANY) \
	CALL(symlinkat, "make links", ANY) \
	CALL(linkat, "make another name", ANY) \
	CALL(mknodat, "make files", NODE(S_IFREG)) \
	CALL(mknodat, "make pipes", NODE(S_IFIFO)) \
	CALL(mknodat, "make sockets", NODE(S_IFSOCK)) \
	CALL(mkdirat, "make directories", ANY) \
	CALL(unlinkat, "remove files and directories", ANY) \
	CALL(renameat2, "rename them", ANY) \
	CALL(chmod, "their modes", ANY) \
	CALL(fchmod, "remove setuid when another than the owner writes", ANY) \
	CALL(fchownat, "their owners, as far as the user may", ANY) \
	CALL(utimensat, "their times", ANY) \
	CALL(ftruncate, "their sizes", ANY) \
	CALL(fallocate, "space for them, and holes", ANY) \
	CALL(copy_file_range, "copy between them", ANY) \
	CALL(fsync, "write them to stable storage", ANY) \
	CALL(fdatasync, "likewise", ANY) \
	CALL(syncfs, "likewise, all of a file system", ANY) \
	CALL(setxattr, "their extended attributes", ANY) \
	CALL(getxattr, "likewise", ANY) \
	CALL(listxattr, "likewise", ANY) \
	CALL(removexattr, "likewise", ANY) \
	CALL(setresuid, "create files as the guest's user, and return", ANY) \
	CALL(setresgid, "likewise, as its group", ANY) \
	CALL(clock_gettime, "time, for messages; without the vDSO", ANY) \
	CALL(brk, "memory for what the guest knows", ANY) \
	CALL(restart_syscall, "wait on, after a stop", ANY) \
	CALL(exit_group, "end", ANY)

#define SANDBOX_READ_WRITE (PROT_READ | PROT_WRITE)
#define SANDBOX_SHARED (MAP_SHARED | MAP_NORESERVE)

/*
 * Numbers that are known only when the thread runs: the filter has these in their place until
 * then.  No argument that a table names has one of them as its value.
 */
#define SANDBOX_VCPU_FD 0x4b610001u
#define SANDBOX_VM_FD 0x4b610002u
#define SANDBOX_TERMINAL_FD 0x4b610003u
#define SANDBOX_OWN_PID 0x4b610004u

#endif
