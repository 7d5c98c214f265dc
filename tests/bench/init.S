// SPDX-License-Identifier: GPL-2.0-only
/*
 * The init of guests that are measured: it executes CPUID with a leaf of its own, which always is
 * a VM exit and so tells the host's tracing that init runs; then it resets the guest, or sleeps for
 * ever if its last argument is "stay" (behind -- on the kernel's command line).
 */
#define MARKER 0x4b61726d		/* also in tests/bench/boot */
#define STAY 0x79617473			/* "stay" */

#define SYS_PAUSE 34
#define SYS_REBOOT 169

/* reboot(2) */
#define MAGIC1 0xfee1dead
#define MAGIC2 0x28121969
#define RESTART 0x01234567

	.text
	.globl _start
_start:
	movl $MARKER, %eax
	xorl %ecx, %ecx
	cpuid
	movq (%rsp), %rax		/* argc, then argv */
	movq (%rsp, %rax, 8), %rax
	cmpl $STAY, (%rax)
	je 1f
	movl $SYS_REBOOT, %eax
	movl $MAGIC1, %edi
	movl $MAGIC2, %esi
	movl $RESTART, %edx
	syscall
1:	movl $SYS_PAUSE, %eax
	syscall
	jmp 1b
