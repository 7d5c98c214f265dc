/* SPDX-License-Identifier: GPL-2.0-only */
/* Multiboot's header and entry: flat segments, a stack, and on in C. */
	.section .multiboot, "a"
	.long 0x1badb002, 3, -(0x1badb002 + 3)	/* modules on pages, and a memory map */

	.text
	.globl _start
_start:
	cli
	lgdt gdt_descriptor
	ljmp $0x10, $1f
1:	mov $0x18, %ecx
	mov %ecx, %ds
	mov %ecx, %es
	mov %ecx, %ss
	mov $stack, %esp
	push %ebx
	call start_kernel

	.section .rodata
	.balign 8
gdt:
	.quad 0, 0, 0x00cf9b000000ffff, 0x00cf93000000ffff
gdt_descriptor:
	.word . - gdt - 1
	.long gdt

	.section .note.GNU-stack, "", @progbits

	.bss
	.skip 8192
stack:
