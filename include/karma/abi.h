/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Copyright the Karma authors.
 *
 * Redistribution and use in source and binary forms, with or without modification, are permitted
 * provided that the following conditions are met:
 * 1. Redistributions of source code must retain the above copyright notice, this list of conditions
 *    and the following disclaimer.
 * 2. Redistributions in binary form must reproduce the above copyright notice, this list of
 *    conditions and the following disclaimer in the documentation and/or other materials provided
 *    with the distribution.
 *
 * THIS SOFTWARE IS PROVIDED BY THE COPYRIGHT HOLDERS AND CONTRIBUTORS "AS IS" AND ANY EXPRESS OR
 * IMPLIED WARRANTIES, INCLUDING, BUT NOT LIMITED TO, THE IMPLIED WARRANTIES OF MERCHANTABILITY AND
 * FITNESS FOR A PARTICULAR PURPOSE ARE DISCLAIMED.  IN NO EVENT SHALL THE COPYRIGHT HOLDER OR
 * CONTRIBUTORS BE LIABLE FOR ANY DIRECT, INDIRECT, INCIDENTAL, SPECIAL, EXEMPLARY, OR CONSEQUENTIAL
 * DAMAGES (INCLUDING, BUT NOT LIMITED TO, PROCUREMENT OF SUBSTITUTE GOODS OR SERVICES; LOSS OF USE,
 * DATA, OR PROFITS; OR BUSINESS INTERRUPTION) HOWEVER CAUSED AND ON ANY THEORY OF LIABILITY, WHETHER
 * IN CONTRACT, STRICT LIABILITY, OR TORT (INCLUDING NEGLIGENCE OR OTHERWISE) ARISING IN ANY WAY OUT
 * OF THE USE OF THIS SOFTWARE, EVEN IF ADVISED OF THE POSSIBILITY OF SUCH DAMAGE.
 */
/*
 * The Karma guest ABI, version 1: what a guest and the monitor say to each other.
 *
 * This header is all that a guest needs; copy it into any guest.  It is shared by the
 * monitor (src/, hypercalls/) and the Linux driver (guest-kernel/virtio_karma).  The
 * specification in prose is hypercalls/README.md, and karma-hypercalls(7).
 *
 * Discovery.  CPUID leaf KARMA_CPUID_BASE holds the signature "KarmaKarmaKa" in EBX, ECX, EDX
 * and the highest Karma leaf in EAX; leaf KARMA_CPUID_ABI holds the ABI version in EAX, the
 * feature bits in EBX and the base of the call window in ECX.
 *
 * A call.  VMCALL (Intel) or VMMCALL (AMD) at CPL 0 with
 *
 *	RAX = KARMA_HYPERCALL
 *	RBX = window base + (call number << 12)
 *	RCX = KARMA_TAG | argument, the argument in bits 0 to 30
 *	RDX = value: a number, or the guest-physical address of a buffer
 *
 * RAX returns a value of zero or above, or a negative errno (Linux numbers) in -4095 to -1; no
 * other register changes, and no memory but the buffer that a call names and, by the devices at
 * any time, their rings and what these name.  A 32-bit
 * guest uses the low halves of the same registers.  All structures are little endian.
 *
 * Why RBX looks like an address: the door is KVM_HC_MAP_GPA_RANGE, the one call number that
 * KVM hands to userspace; KVM wants a page address in RBX and a page count that is not 0 in
 * RCX.  The window lies between 3 GiB and 4 GiB, where there never is guest memory.
 */
#ifndef KARMA_ABI_H
#define KARMA_ABI_H

#ifdef __KERNEL__
#include <linux/types.h>
#else
#include <stdint.h>
typedef uint8_t __u8;
typedef uint16_t __u16;
typedef uint32_t __u32;
#ifndef _ASM_GENERIC_INT_LL64_H
__extension__ typedef unsigned long long __u64;
#endif
#endif

#define KARMA_ABI_VERSION	1u

#define KARMA_CPUID_BASE	0x40000100u
#define KARMA_CPUID_ABI		0x40000101u
#define KARMA_CPUID_EBX		0x6d72614bu	/* "Karm" */
#define KARMA_CPUID_ECX		0x72614b61u	/* "aKar" */
#define KARMA_CPUID_EDX		0x614b616du	/* "maKa" */

#define KARMA_HYPERCALL		12u		/* KVM_HC_MAP_GPA_RANGE */
#define KARMA_WINDOW_BASE	0xd0000000u
#define KARMA_WINDOW_CALLS	256u		/* call numbers 0 to 255 */
#define KARMA_TAG		0x80000000u	/* bit 31 of RCX, always set */
#define KARMA_ARGUMENT_MASK	0x7fffffffu

/*
 * Every call: X(number, name, meaning of the argument, meaning of the value, what it does).
 * Numbers never change and are never used again.
 */
#define KARMA_CALLS(X) \
	X(0, version, "0", "0", "Return the ABI version.") \
	X(1, features, "0", "0", "Return the feature bits.") \
	X(2, console_write, "length, 1 to 4096", "address of text", \
	  "Write text to the console; return how many bytes it took.") \
	X(3, exit, "status, 0 to 255", "0", "End the guest; status is that of its command.") \
	X(4, power, "0 off, 1 reset", "0", \
	  "Power off or reset: either ends the guest; a reset may start another.") \
	X(5, panic, "length, 0 to 4096", "address of text", \
	  "End the guest: its kernel panicked, and text says why.") \
	X(6, ready, "0 not yet, 1 ready, 2 ready for quoted input", "0", \
	  "Hold console input back, or say that the guest is up and reads it.") \
	X(7, event, "0", "0", "Return the next event and forget it, or 0 if there is none.") \
	X(8, watchdog, "0 feed, 1 stop", "0", \
	  "Feed the watchdog, or stop it; return its period in seconds, 0 if there is none.") \
	X(9, generation, "0", "address of struct karma_generation", \
	  "Say which copy of the guest this is, and what time it is.") \
	X(10, checkpoint, "0", "0", \
	  "The guest may be copied now: return when it has been, in it and in each copy.") \
	X(11, command, "piece, from 0 on", "address of 4096 bytes", \
	  "Copy a piece of the text for the guest's init; return its bytes, or 0.") \
	X(16, device_info, "device", "address of struct karma_device_info", \
	  "Describe a device; -ENODEV past the last one.") \
	X(17, device_accept, "device, half << 8", "32 feature bits", \
	  "Accept features: half 0 is bits 0 to 31, half 1 is bits 32 to 63.") \
	X(18, device_status, "device", "0", "Return the device status field.") \
	X(19, device_set_status, "device", "status", \
	  "Set the device status field; 0 resets, and is done once the status reads 0.") \
	X(20, config_generation, "device", "0", "Return the generation of the configuration.") \
	X(21, config_read, "device, offset << 8, (length - 1) << 20", "address of buffer", \
	  "Read from the device's configuration.") \
	X(22, config_write, "device, offset << 8, (length - 1) << 20", "address of buffer", \
	  "Write to the device's configuration.") \
	X(23, queue_info, "device, queue << 8", "0", \
	  "Return the queue's largest size.") \
	X(24, queue_setup, "device, queue << 8", "address of struct karma_queue_setup", \
	  "Give the queue its rings and enable it.") \
	X(25, queue_notify, "device, queue << 8, 1 << 24 to take an answer", "0", \
	  "There are new buffers in the queue; 1: used ones, and no interrupt.") \
	X(26, interrupt, "device or 255, queue << 8", \
	  "address of struct karma_interrupt", "Say by which message to interrupt the guest.")

enum karma_call {
#define KARMA_CALL_ENUM(number, name, argument, value, text) KARMA_CALL_##name = number,
	KARMA_CALLS(KARMA_CALL_ENUM)
#undef KARMA_CALL_ENUM
};

/* Feature bits of the monitor: the first two are always there. */
#define KARMA_FEATURE_CONSOLE	(1u << 0)	/* console_write */
#define KARMA_FEATURE_EVENTS	(1u << 1)	/* event, and its interrupt */
#define KARMA_FEATURE_QUOTES	(1u << 2)	/* ready takes 2 */
#define KARMA_FEATURE_GENERATION (1u << 3)	/* generation, and its event */
#define KARMA_FEATURE_ANSWERS	(1u << 4)	/* queue_notify takes KARMA_NOTIFY_ANSWER */
#define KARMA_FEATURE_CHECKPOINT (1u << 5)	/* checkpoint is wanted; not on each start */
#define KARMA_FEATURE_COMMAND	(1u << 6)	/* command */
/* Those that each start has. */
#define KARMA_FEATURES \
	(KARMA_FEATURE_CONSOLE | KARMA_FEATURE_EVENTS | KARMA_FEATURE_QUOTES | KARMA_FEATURE_GENERATION | \
		KARMA_FEATURE_ANSWERS | KARMA_FEATURE_COMMAND)

/* Fields of the argument. */
#define KARMA_ARG_DEVICE(arg)	((arg) & 0xffu)
#define KARMA_ARG_INDEX(arg)	(((arg) >> 8) & 0xffffu)	/* queue, or half */
#define KARMA_ARG_OFFSET(arg)	(((arg) >> 8) & 0xfffu)		/* configuration calls */
#define KARMA_ARG_LENGTH(arg)	((((arg) >> 20) & 0x7ffu) + 1u)
#define KARMA_ARG(device, index) ((__u32)(device) | (__u32)(index) << 8)
#define KARMA_ARG_CONFIG(device, offset, length) \
	((__u32)(device) | (__u32)(offset) << 8 | ((__u32)(length) - 1u) << 20)

/*
 * In the argument of queue_notify: the driver takes an answer.  A result of 1 says that there are used
 * buffers of which the driver wants to know, and that no interrupt comes for them.
 */
#define KARMA_NOTIFY_ANSWER	(1u << 24)

#define KARMA_TEXT_MAX		4096u		/* bytes in console_write and panic, and a piece of command */
#define KARMA_CONFIG_MAX	2048u		/* bytes in config_read and config_write */
#define KARMA_DEVICES_MAX	64u		/* device numbers are 0 to 63, without gaps */
#define KARMA_QUEUES_MAX	64u		/* of a device */
#define KARMA_QUEUE_SIZE_MAX	1024u

#define KARMA_POWER_OFF		0u
#define KARMA_POWER_RESET	1u

/*
 * Quoted: for a terminal in canonical mode with ^D as EOF and ^V as LNEXT.  Input that is none of a
 * person's has ^V before each ^D and ^V then, and ^D where a line would be too long for a terminal.
 */
#define KARMA_READY_NOT_YET	0u
#define KARMA_READY		1u
#define KARMA_READY_QUOTED	2u

#define KARMA_WATCHDOG_FEED	0u
#define KARMA_WATCHDOG_STOP	1u

/*
 * A feature of the console (a bit of its own, as virtio 1.2, section 2.2, leaves those from 50 on to a
 * type of device): the byte 0x0f of input comes twice, for a guest that takes a single one for the
 * beginning of a command to its kernel, as Linux does (hvc_console.c, CONFIG_MAGIC_SYSRQ).
 */
#define KARMA_CONSOLE_F_SYSRQ	63

/*
 * Interrupts are messages to local APICs, as those of PCI (MSI: Intel SDM volume 3, section 11.11).
 * The guest chooses one for each queue, which a reset of the device forgets, and one that says that
 * there is an event: it calls event until that returns 0.  An event is a kind and a device number.
 */
#define KARMA_EVENTS		0xffu	/* in place of a device number, for the call interrupt */
#define KARMA_EVENT_KIND(event)	((__u32)(event) & 0xffu)
#define KARMA_EVENT_DEVICE(event) (((__u32)(event) >> 8) & 0xffu)
#define KARMA_EVENT_CONFIG	1u	/* the device's configuration or status changed */
#define KARMA_EVENT_POWER_BUTTON 2u	/* the user asks the guest to power off */
#define KARMA_EVENT_RESTORED	3u	/* the guest goes on from a snapshot: ask for its generation */

#define KARMA_ID_BYTES		16u
#define KARMA_NAME_BYTES	64u

/* What generation fills in. */
struct karma_generation {
	__u64 generation;	/* 0 until a restore; each restore of a snapshot adds 1 */
	__u64 realtime;		/* the host's: nanoseconds since 1970, UTC */
	__u8 id[KARMA_ID_BYTES]; /* random: another one after each start and each restore */
	char name[KARMA_NAME_BYTES]; /* of the guest, as the user calls it; ends with a NUL */
};

/* What device_info fills in. */
struct karma_device_info {
	__u32 device_id;	/* virtio 1.2, section 5: 2 is block, 3 console, ... */
	__u32 queues;
	__u32 config_size;	/* bytes */
	__u32 reserved;		/* 0 */
	__u64 features;		/* that the device offers (virtio 1.2, section 6) */
};

/* What queue_setup reads; the areas of virtio 1.2, section 2.7, by their addresses. */
struct karma_queue_setup {
	__u64 descriptors;	/* aligned to 16 */
	__u64 driver;		/* the available ring, aligned to 2 */
	__u64 device;		/* the used ring, aligned to 4 */
	__u32 size;		/* entries: a power of 2, at most what queue_info says */
	__u32 reserved;		/* 0 */
};

/* What interrupt reads.  All zeroes: no interrupt. */
struct karma_interrupt {
	__u64 address;		/* 0xfee00000 to 0xfeefffff */
	__u32 data;		/* a vector from 16 on, fixed or lowest priority, edge triggered */
	__u32 reserved;		/* 0 */
};

#endif
