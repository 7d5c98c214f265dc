// SPDX-License-Identifier: GPL-2.0-only
/* Events: devices that change, the power button, restores. */

#include "driver.h"

#include <linux/msi.h>
#include <linux/reboot.h>
#include <linux/slab.h>
#include <linux/workqueue.h>

static struct karma_irq *karma_event_irq;

static void karma_config_event(u32 number)
{
	struct karma_device *kdev = number < KARMA_DEVICES_MAX ? karma_devices[number] : NULL;

	if (!kdev)
		return;
	if (karma_get_status(&kdev->vdev) & VIRTIO_CONFIG_S_NEEDS_RESET) {
		/* Virtio's core does not look at this bit; new requests are to fail, not to hang. */
		dev_err(&kdev->vdev.dev, "the device is broken and needs a reset\n");
		virtio_break_device(&kdev->vdev);
	}
	virtio_config_changed(&kdev->vdev);
}

/* In a work item, as virtio_break_device() is not for interrupt context. */
static void karma_drain_events(struct work_struct *work)
{
	long event;

	while ((event = karma_call(KARMA_CALL_event, 0, 0)) > 0) {
		switch (KARMA_EVENT_KIND(event)) {
		case KARMA_EVENT_CONFIG:
			karma_config_event(KARMA_EVENT_DEVICE(event));
			break;
		case KARMA_EVENT_POWER_BUTTON:
			/* Runs /sbin/poweroff, whatever the init is. */
			orderly_poweroff(true);
			break;
		case KARMA_EVENT_RESTORED:
			karma_restored();
			break;
		}
	}
}

static DECLARE_WORK(karma_event_work, karma_drain_events);

static irqreturn_t karma_event_interrupt(int irq, void *cookie)
{
	/* After a restore, ahead of others that run. */
	queue_work(system_highpri_wq, &karma_event_work);
	return IRQ_HANDLED;
}

void karma_add_events(void)
{
	int ret = -ENOMEM;

	if (!(karma_features & KARMA_FEATURE_EVENTS))
		return;
	karma_event_irq = kzalloc(sizeof(*karma_event_irq), GFP_KERNEL);
	if (karma_event_irq) {
		karma_event_irq->argument = KARMA_EVENTS;
		ret = karma_request_irq(karma_event_irq, karma_event_interrupt, "karma-events",
					karma_devices);
	}
	if (ret) {
		pr_err("cannot get an interrupt, so there will be no events: %d\n", ret);
		kfree(karma_event_irq);
		karma_event_irq = NULL;
		return;
	}
	/* Of an event from before the monitor knew the message there was no interrupt. */
	schedule_work(&karma_event_work);
}

void karma_remove_events(void)
{
	if (!karma_event_irq)
		return;
	karma_free_irq(karma_event_irq, karma_devices);
	cancel_work_sync(&karma_event_work);
	kfree(karma_event_irq);
	karma_event_irq = NULL;
}

void karma_mute_events(void)
{
	const struct msi_msg none = {};

	if (karma_event_irq)
		karma_send_message(karma_event_irq, &none);
}
