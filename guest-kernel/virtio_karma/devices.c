// SPDX-License-Identifier: GPL-2.0-only
/* The list of virtio devices, as the monitor has it. */

#include "driver.h"

#include <linux/delay.h>
#include <linux/io.h>
#include <linux/msi.h>
#include <linux/slab.h>

struct karma_device *karma_devices[KARMA_DEVICES_MAX];

static void karma_release_device(struct device *dev)
{
	struct karma_device *kdev = to_karma_device(dev_to_virtio(dev));

	mutex_destroy(&kdev->lock);
	kfree(kdev);
}

/* 0 if there is a device of this number, or -ENODEV past the last one. */
static int karma_add_device(u32 number)
{
	struct karma_device *kdev;
	long ret;

	kdev = kzalloc(sizeof(*kdev), GFP_KERNEL);
	if (!kdev)
		return -ENOMEM;
	ret = karma_call(KARMA_CALL_device_info, number, virt_to_phys(&kdev->buffer.info));
	if (ret < 0) {
		kfree(kdev);
		return ret;
	}
	kdev->number = number;
	kdev->features = kdev->buffer.info.features;
	kdev->queues = kdev->buffer.info.queues;
	mutex_init(&kdev->lock);
	kdev->vdev.id.device = kdev->buffer.info.device_id;
	kdev->vdev.id.vendor = VIRTIO_DEV_ANY_ID;
	kdev->vdev.config = &karma_config_ops;
	kdev->vdev.dev.parent = karma_root;
	kdev->vdev.dev.release = karma_release_device;

	ret = register_virtio_device(&kdev->vdev);
	if (ret) {
		/* The devices after this one may still be of use. */
		pr_err("cannot register device %u: %ld\n", number, ret);
		put_device(&kdev->vdev.dev);
		return 0;
	}
	karma_devices[number] = kdev;
	return 0;
}

static bool karma_devices_added;

void karma_add_devices(void)
{
	int ret = 0;
	u32 i;

	karma_devices_added = true;
	for (i = 0; i < KARMA_DEVICES_MAX && !ret; i++)
		ret = karma_add_device(i);
	if (ret && ret != -ENODEV)
		pr_err("cannot add device %u: %d\n", i - 1, ret);
}

bool karma_have_devices(void)
{
	return karma_devices_added;
}

/*
 * A crash kernel finds devices as the crash left them: with requests that end in the crashed kernel's
 * memory, and interrupts at vectors of its.  All of them are stopped before the first is used.
 */
void __init karma_stop_devices(void)
{
	struct karma_irq *events = kzalloc(sizeof(*events), GFP_KERNEL);
	const struct msi_msg none = {};
	u32 i;

	if (events) {
		events->argument = KARMA_EVENTS;
		karma_send_message(events, &none);
		kfree(events);
	}
	for (i = 0; i < KARMA_DEVICES_MAX; i++)
		if (karma_call(KARMA_CALL_device_set_status, i, 0) < 0)
			break;
	while (i-- > 0)
		while (karma_call(KARMA_CALL_device_status, i, 0) > 0)
			msleep(1);
}

void karma_remove_devices(void)
{
	u32 i;

	for (i = KARMA_DEVICES_MAX; i-- > 0;)
		if (karma_devices[i]) {
			unregister_virtio_device(&karma_devices[i]->vdev);
			karma_devices[i] = NULL;
		}
}

void karma_reset_devices(void)
{
	u32 i;

	for (i = 0; i < KARMA_DEVICES_MAX; i++) {
		if (!karma_devices[i])
			continue;
		/* Nobody is to wait for it any more, as the console does. */
		virtio_break_device(&karma_devices[i]->vdev);
		karma_reset(&karma_devices[i]->vdev);
	}
}
