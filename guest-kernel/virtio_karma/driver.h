/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the files of virtio_karma share: calls, and each part's beginning and end.  main.c has the order of these.
 *
 * Every buffer that a call names is from kmalloc() or the page allocator: a module's static data
 * and the stack lie in vmalloc space, where virt_to_phys() is wrong.
 */
#ifndef KARMA_DRIVER_H
#define KARMA_DRIVER_H

#define pr_fmt(fmt) "virtio_karma: " fmt

#include <linux/init.h>
#include <linux/interrupt.h>
#include <linux/mutex.h>
#include <linux/types.h>
#include <linux/virtio.h>
#include <linux/virtio_config.h>

#include "karma/abi.h"

struct device;
struct msi_msg;

/* main.c */

extern u32 karma_version;
extern u32 karma_features;
extern struct device *karma_root;	/* the parent of all devices */

/* Any context. */
long karma_call(enum karma_call call, u32 argument, u64 value);
/* 0, or -ENODEV if this is not Karma, or a Karma that this driver does not know. */
int karma_discover(void);

/* irq.c */

struct karma_irq {
	u32 argument;			/* of the call interrupt */
	struct karma_interrupt message;	/* its buffer, under the lock of the interrupt */
	int irq;			/* 0: none */
};

int karma_add_irq_domain(void);
void karma_remove_irq_domain(void);
/* irq is of kmalloc()'s memory and has its argument. */
int karma_request_irq(struct karma_irq *irq, irq_handler_t handler, const char *name, void *cookie);
void karma_free_irq(struct karma_irq *irq, void *cookie);
/* By which message the monitor interrupts from now on; all zeroes: by none. */
void karma_send_message(struct karma_irq *irq, const struct msi_msg *message);

/* transport.c */

struct karma_device {
	struct virtio_device vdev;
	u32 number;
	struct mutex lock;	/* of what follows: calls read and write it */
	union {
		struct karma_device_info info;
		struct karma_queue_setup setup;
		u8 bytes[256];
	} buffer;
	u64 features;
	u32 queues;
};

#define to_karma_device(vd) container_of(vd, struct karma_device, vdev)

extern const struct virtio_config_ops karma_config_ops;

void karma_get(struct virtio_device *vdev, unsigned int offset, void *buf, unsigned int len);
u8 karma_get_status(struct virtio_device *vdev);
void karma_reset(struct virtio_device *vdev);

/* devices.c */

extern struct karma_device *karma_devices[KARMA_DEVICES_MAX];

void karma_add_devices(void);
bool karma_have_devices(void);
void karma_remove_devices(void);
/* In a crash kernel, before the devices are added. */
void karma_stop_devices(void);
/* Before another kernel takes over. */
void karma_reset_devices(void);

/* generation.c */

void karma_add_generation(void);
void karma_remove_generation(void);
/* The guest may have been restored from a snapshot: if so, do what has to be done. */
void karma_restored(void);
/* By how many restores the guest came to be, as far as karma_restored() has seen. */
u64 karma_known_generation(void);
/* Have the guest's name, KARMA_NAME_BYTES with its NUL. */
int karma_get_name(char *name);
/*
 * Let the monitor copy the guest, and go on as it or as a copy; then add the devices.  Process context.  0, or -EBUSY if
 * they are there already, or what the call says.
 */
int karma_checkpoint(void);

/* events.c */

void karma_add_events(void);
void karma_remove_events(void);
void karma_mute_events(void);

/* watchdog.c */

void karma_add_watchdog(void);
void karma_remove_watchdog(void);

/* end.c */

void karma_add_end(void);
void karma_remove_end(void);
/* Last of all, since these have what the other parts have stopped. */
void karma_add_shutdown(void);
void karma_remove_shutdown(void);

/* sysfs.c */

void karma_add_sysfs(void);
void karma_remove_sysfs(void);
/* Wake up who waits for /sys/kernel/karma/generation. */
void karma_notify_generation(void);

/* console.c */

int karma_add_console(void);
void karma_remove_console(void);

#endif
