/* SPDX-License-Identifier: GPL-2.0-only */
/* What the tiny guests share: a PVH entry (32-bit, paging off), and hypercalls. */

#define WINDOW		0xd0000000
#define TAG		0x80000000
#define CALL_VERSION	0
#define CALL_CONSOLE	2
#define CALL_EXIT	3
#define CALL_POWER	4
#define CALL_PANIC	5
#define CALL_WATCHDOG	8
#define CALL_INFO	16

#define POWER_RESET	1
#define WATCHDOG_FEED	0
#define WATCHDOG_STOP	1

	.section .note.Xen, "a"
	.long 4, 4, 18		/* name size, desc size, XEN_ELFNOTE_PHYS32_ENTRY */
	.asciz "Xen"
	.long start

	.text
	.code32
	.globl start

/* eax = hypercall(number, argument, value) */
.macro hypercall number, argument, value
	movl $12, %eax
	movl $(WINDOW + (\number << 12)), %ebx
	movl $(TAG | \argument), %ecx
	movl $\value, %edx
	vmcall
.endm

/* End with the status in \status. */
.macro finish status
	hypercall CALL_EXIT, \status, 0
1:	hlt
	jmp 1b
.endm
