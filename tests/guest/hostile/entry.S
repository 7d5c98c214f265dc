/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * From the PVH entry to C, in 64-bit mode, on each CPU: all memory below 4 GiB is mapped as it is.
 * Other CPUs come by a start-up interrupt to the page TRAMPOLINE, where the first one has copied the
 * code between trampoline and trampoline_end.
 */
#define TRAMPOLINE	0x9000
#define CPUS_MAX	8
#define STACK_BYTES	8192
#define CODE64		0x08
#define CODE32		0x18
#define DATA		0x10

	.section .note.Xen, "a"
	.long 4, 4, 18		/* name size, desc size, XEN_ELFNOTE_PHYS32_ENTRY */
	.asciz "Xen"
	.long start

	.text
	.code32
	.globl start
start:
	movl %ebx, start_info
	/* Four tables of 512 pages of 2 MiB. */
	movl $tables, %edi
	movl $0x83, %eax
	movl $2048, %ecx
1:	movl %eax, (%edi)
	movl $0, 4(%edi)
	addl $8, %edi
	addl $0x200000, %eax
	loop 1b
	movl $tables + 0x003, pointers
	movl $tables + 0x1003, pointers + 8
	movl $tables + 0x2003, pointers + 16
	movl $tables + 0x3003, pointers + 24
	movl $pointers + 3, root
	lgdt gdt_at
to_long_mode:
	movl $0x20, %eax		/* CR4: PAE */
	movl %eax, %cr4
	movl $root, %eax
	movl %eax, %cr3
	movl $0xc0000080, %ecx		/* EFER: LME */
	rdmsr
	orl $0x100, %eax
	wrmsr
	movl $0x80000001, %eax		/* CR0: PG, PE */
	movl %eax, %cr0
	ljmp $CODE64, $long_mode

	.code64
long_mode:
	movw $DATA, %ax
	movw %ax, %ds
	movw %ax, %es
	movw %ax, %ss
	movl $1, %edi
	lock xaddl %edi, cpus_started
	cmpl $CPUS_MAX, %edi
	jae stop
	leal 1(%rdi), %eax
	imull $STACK_BYTES, %eax
	leaq stacks(%rax), %rsp
	call cpu_main
stop:
	cli
	hlt
	jmp stop

/* As of a processor after a start-up interrupt: CS is TRAMPOLINE >> 4, IP is 0. */
	.globl trampoline, trampoline_end
	.code16
trampoline:
	cli
	xorw %ax, %ax
	movw %ax, %ds
	lgdtl TRAMPOLINE + (gdt_copy - trampoline)
	movl $1, %eax
	movl %eax, %cr0
	ljmpl $CODE32, $protected
gdt_copy:
	.word gdt_end - gdt - 1
	.long gdt
trampoline_end:

	.code32
protected:
	movw $DATA, %ax
	movw %ax, %ds
	jmp to_long_mode

	.code64
/*
 * All vectors: the number goes on the stack, above it an error code, which the CPU pushes for some
 * exceptions and we for the others.
 */
	.globl vectors
	.balign 16
vectors:
	.set number, 0
	.rept 256
	.balign 16
	.if number != 8 && (number < 10 || number > 14) && number != 17 && number != 21 && \
		number != 29 && number != 30
	pushq $0
	.endif
	pushq $number
	jmp trap
	.set number, number + 1
	.endr

trap:
	pushq %rax
	pushq %rcx
	pushq %rdx
	pushq %rsi
	pushq %rdi
	pushq %r8
	pushq %r9
	pushq %r10
	pushq %r11
	movq 72(%rsp), %rdi		/* vector */
	leaq 88(%rsp), %rsi		/* where RIP is */
	call trapped
	popq %r11
	popq %r10
	popq %r9
	popq %r8
	popq %rdi
	popq %rsi
	popq %rdx
	popq %rcx
	popq %rax
	addq $16, %rsp
	iretq

/* bool try_rdmsr(index, *value), bool try_wrmsr(index, value): false if the CPU refuses. */
	.globl try_rdmsr, try_wrmsr, refused
try_rdmsr:
	movl %edi, %ecx
	rdmsr
	shlq $32, %rdx
	orq %rdx, %rax
	movq %rax, (%rsi)
	movl $1, %eax
	ret
try_wrmsr:
	movl %edi, %ecx
	movl %esi, %eax
	movq %rsi, %rdx
	shrq $32, %rdx
	wrmsr
	movl $1, %eax
	ret
refused:
	xorl %eax, %eax
	ret

	.balign 8
gdt:	.quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff, 0x00cf9b000000ffff
gdt_end:
gdt_at:	.word gdt_end - gdt - 1
	.long gdt
	.globl start_info, cpus_started
start_info:
	.long 0
cpus_started:
	.long 0

	.bss
	.balign 4096
root:	.skip 4096
pointers:
	.skip 4096
tables:	.skip 4 * 4096
stacks:	.skip CPUS_MAX * STACK_BYTES
