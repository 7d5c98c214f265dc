// SPDX-License-Identifier: GPL-2.0-only
/* The virtio transport: all that drivers do with a device and its queues becomes calls. */

#include "driver.h"

#include <linux/bottom_half.h>
#include <linux/cpumask.h>
#include <linux/delay.h>
#include <linux/io.h>
#include <linux/irqflags.h>
#include <linux/slab.h>
#include <linux/version.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_ring.h>

#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 11, 0)
/* What find_vqs() gets for each queue since 6.11; before, it was three arrays. */
struct virtqueue_info {
	const char *name;
	vq_callback_t *callback;
	bool ctx;
};
#endif

/* vq->priv */
struct karma_queue {
	u32 argument;		/* of the calls about this queue */
	bool takes_answers;
	struct karma_irq irq;
	char irq_name[64];
};

/* Configuration, status, features. */

void karma_get(struct virtio_device *vdev, unsigned int offset, void *buf, unsigned int len)
{
	struct karma_device *kdev = to_karma_device(vdev);
	u8 *bytes = kdev->buffer.bytes;
	unsigned int chunk;
	long ret = 0;

	mutex_lock(&kdev->lock);
	for (; len; offset += chunk, buf += chunk, len -= chunk) {
		chunk = min_t(unsigned int, len, sizeof(kdev->buffer.bytes));
		if (ret >= 0)
			ret = karma_call(KARMA_CALL_config_read,
					 KARMA_ARG_CONFIG(kdev->number, offset, chunk),
					 virt_to_phys(bytes));
		if (ret < 0)
			memset(bytes, 0, chunk);
		memcpy(buf, bytes, chunk);
	}
	mutex_unlock(&kdev->lock);
	if (ret < 0)
		dev_err_ratelimited(&vdev->dev, "cannot read the configuration: %ld\n", ret);
}

static void karma_set(struct virtio_device *vdev, unsigned int offset, const void *buf,
		      unsigned int len)
{
	struct karma_device *kdev = to_karma_device(vdev);
	u8 *bytes = kdev->buffer.bytes;
	unsigned int chunk;
	long ret = 0;

	mutex_lock(&kdev->lock);
	for (; len && ret >= 0; offset += chunk, buf += chunk, len -= chunk) {
		chunk = min_t(unsigned int, len, sizeof(kdev->buffer.bytes));
		memcpy(bytes, buf, chunk);
		ret = karma_call(KARMA_CALL_config_write,
				 KARMA_ARG_CONFIG(kdev->number, offset, chunk),
				 virt_to_phys(bytes));
	}
	mutex_unlock(&kdev->lock);
	if (ret < 0)
		dev_err_ratelimited(&vdev->dev, "cannot write the configuration: %ld\n", ret);
}

static u32 karma_generation(struct virtio_device *vdev)
{
	return karma_call(KARMA_CALL_config_generation, to_karma_device(vdev)->number, 0);
}

u8 karma_get_status(struct virtio_device *vdev)
{
	long ret = karma_call(KARMA_CALL_device_status, to_karma_device(vdev)->number, 0);

	return ret < 0 ? VIRTIO_CONFIG_S_FAILED : ret;
}

static void karma_set_status(struct virtio_device *vdev, u8 status)
{
	long ret = karma_call(KARMA_CALL_device_set_status, to_karma_device(vdev)->number, status);

	if (ret < 0)
		dev_err(&vdev->dev, "cannot set the status to %#x: %ld\n", status, ret);
}

/*
 * Requests that are under way at the monitor write into guest memory, so there is no way on
 * before the reset is done, however long that takes.
 */
void karma_reset(struct virtio_device *vdev)
{
	u32 number = to_karma_device(vdev)->number;
	unsigned int waited = 0;
	long ret;

	ret = karma_call(KARMA_CALL_device_set_status, number, 0);
	if (ret < 0) {
		dev_err(&vdev->dev, "cannot reset: %ld\n", ret);
		return;
	}
	while (karma_call(KARMA_CALL_device_status, number, 0) > 0) {
		msleep(1);
		if (++waited == 5000)
			dev_warn(&vdev->dev, "still waiting for its reset\n");
	}
}

static u64 karma_get_features(struct virtio_device *vdev)
{
	return to_karma_device(vdev)->features;
}

/*
 * Of Karma's own, which virtio's core and drivers know nothing of.  The first hvc is the kernel's
 * console, as the command line has it, and takes a single ^O for the beginning of a sysrq.
 */
static u64 karma_own_features(const struct karma_device *kdev)
{
	if (kdev->vdev.id.device != VIRTIO_ID_CONSOLE || !IS_ENABLED(CONFIG_MAGIC_SYSRQ))
		return 0;
	return kdev->features & BIT_ULL(KARMA_CONSOLE_F_SYSRQ);
}

static int karma_finalize_features(struct virtio_device *vdev)
{
	struct karma_device *kdev = to_karma_device(vdev);
	u64 features;
	long ret;

	vring_transport_features(vdev);
#ifdef VIRTIO_F_NOTIFICATION_DATA
	/* The notify call carries a device and a queue, and nothing else. */
	__virtio_clear_bit(vdev, VIRTIO_F_NOTIFICATION_DATA);
#endif
	if (!__virtio_test_bit(vdev, VIRTIO_F_VERSION_1)) {
		dev_err(&vdev->dev, "the device does not offer VIRTIO_F_VERSION_1\n");
		return -EINVAL;
	}
	features = vdev->features | karma_own_features(kdev);
	ret = karma_call(KARMA_CALL_device_accept, KARMA_ARG(kdev->number, 0),
			 lower_32_bits(features));
	if (ret >= 0)
		ret = karma_call(KARMA_CALL_device_accept, KARMA_ARG(kdev->number, 1),
				 upper_32_bits(features));
	return ret < 0 ? ret : 0;
}

static const char *karma_bus_name(struct virtio_device *vdev)
{
	return "karma";
}

/* Virtqueues. */

/*
 * Whether a queue's callback may run in the middle of its own notification.  Where interrupts are on,
 * it might as well be called by an interrupt; but it has to be worth it.
 *
 * - Block: virtio_queue_rq(), virtio_queue_rqs() and virtio_commit_rqs() notify with the lock of the
 *   queue released, and the callback completes requests, each of which saves an interrupt.
 * - Console: notifies with its locks held and interrupts off.  So does pmem.
 * - Net: the callbacks only schedule NAPI, and that for few frames: what was sent is taken back when
 *   more is sent, with interrupts suppressed, and what is received comes later than its buffers.
 * - Entropy, balloon, vsock: callbacks wake a thread, once for many bytes.
 * - Those of vhost-user are never answered: another process serves them.
 *
 * With PREEMPT_RT the locks of callbacks sleep, and a handler has to be a thread.
 */
static bool karma_takes_answers(const struct virtio_device *vdev)
{
	return (karma_features & KARMA_FEATURE_ANSWERS) && vdev->id.device == VIRTIO_ID_BLOCK &&
	       !IS_ENABLED(CONFIG_PREEMPT_RT);
}

/* With bottom halves off, so that what the callback raises runs at the end, and not in a thread. */
static void karma_answered(struct virtqueue *vq)
{
	unsigned long flags;

	local_bh_disable();
	local_irq_save(flags);
	vring_interrupt(0, vq);
	local_irq_restore(flags);
	local_bh_enable();
}

static bool karma_notify(struct virtqueue *vq)
{
	struct karma_queue *queue = vq->priv;
	u32 argument = queue->argument;
	long ret;

	if (queue->takes_answers && !irqs_disabled())
		argument |= KARMA_NOTIFY_ANSWER;
	ret = karma_call(KARMA_CALL_queue_notify, argument, 0);
	if (ret > 0)
		karma_answered(vq);
	return ret >= 0;
}

static void karma_del_vq(struct virtqueue *vq)
{
	struct karma_queue *queue = vq->priv;

	karma_free_irq(&queue->irq, vq);
	vring_del_virtqueue(vq);
	kfree(queue);
}

/* The device no longer uses the queues: it has been reset. */
static void karma_del_vqs(struct virtio_device *vdev)
{
	struct virtqueue *vq, *next;

	list_for_each_entry_safe(vq, next, &vdev->vqs, list)
		karma_del_vq(vq);
}

static void karma_synchronize_cbs(struct virtio_device *vdev)
{
	struct virtqueue *vq;

	virtio_device_for_each_vq(vdev, vq) {
		struct karma_queue *queue = vq->priv;

		if (queue->irq.irq)
			synchronize_irq(queue->irq.irq);
	}
}

/*
 * An interrupt for buffers that a driver has taken already, as the console's does by polling, is no
 * spurious one, of which the kernel would turn the line off after many.
 */
static irqreturn_t karma_queue_interrupt(int irq, void *vq)
{
	vring_interrupt(irq, vq);
	return IRQ_HANDLED;
}

static struct virtqueue *karma_create_vq(struct virtio_device *vdev, unsigned int index,
					 const struct virtqueue_info *info)
{
	struct karma_device *kdev = to_karma_device(vdev);
	struct karma_queue *queue;
	struct virtqueue *vq;
	unsigned int size;
	long ret;

	if (index >= kdev->queues)
		return ERR_PTR(-ENOENT);
	ret = karma_call(KARMA_CALL_queue_info, KARMA_ARG(kdev->number, index), 0);
	if (ret < 0)
		return ERR_PTR(ret);
	size = ret;
	if (!size)
		return ERR_PTR(-ENOENT);
	queue = kzalloc(sizeof(*queue), GFP_KERNEL);
	if (!queue)
		return ERR_PTR(-ENOMEM);
	queue->argument = KARMA_ARG(kdev->number, index);
	queue->irq.argument = queue->argument;
	queue->takes_answers = info->callback && karma_takes_answers(vdev);

	vq = vring_create_virtqueue(index, size, SMP_CACHE_BYTES, vdev, true, true, info->ctx,
				    karma_notify, info->callback, info->name);
	if (!vq) {
		kfree(queue);
		return ERR_PTR(-ENOMEM);
	}
	vq->priv = queue;
	vq->num_max = size;
	if (info->callback) {
		snprintf(queue->irq_name, sizeof(queue->irq_name), "karma-%s-%s",
			 dev_name(&vdev->dev), vq->name);
		ret = karma_request_irq(&queue->irq, karma_queue_interrupt, queue->irq_name, vq);
		if (ret) {
			dev_err(&vdev->dev, "cannot get an interrupt for queue %s: %ld\n",
				info->name, ret);
			karma_del_vq(vq);
			return ERR_PTR(ret);
		}
	}
	return vq;
}

static int karma_activate_vq(struct virtqueue *vq)
{
	struct karma_device *kdev = to_karma_device(vq->vdev);
	struct karma_queue *queue = vq->priv;
	struct karma_queue_setup *setup = &kdev->buffer.setup;
	long ret;

	mutex_lock(&kdev->lock);
	setup->descriptors = virtqueue_get_desc_addr(vq);
	setup->driver = virtqueue_get_avail_addr(vq);
	setup->device = virtqueue_get_used_addr(vq);
	setup->size = virtqueue_get_vring_size(vq);
	setup->reserved = 0;
	ret = karma_call(KARMA_CALL_queue_setup, queue->argument, virt_to_phys(setup));
	mutex_unlock(&kdev->lock);
	if (ret < 0)
		dev_err(&vq->vdev->dev, "cannot set up queue %s: %ld\n", vq->name, ret);
	return ret < 0 ? ret : 0;
}

/* desc asks for interrupts spread over the CPUs, but for the first and the last queues. */
static void karma_spread_irqs(unsigned int nvqs, struct virtqueue *vqs[],
			      const struct irq_affinity *desc)
{
	unsigned int i, cpu;

	for (i = desc->pre_vectors; i + desc->post_vectors < nvqs; i++) {
		struct karma_queue *queue = vqs[i] ? vqs[i]->priv : NULL;

		if (!queue || !queue->irq.irq)
			continue;
		cpu = cpumask_local_spread(i - desc->pre_vectors, NUMA_NO_NODE);
		irq_set_affinity(queue->irq.irq, cpumask_of(cpu));
	}
}

static int karma_find(struct virtio_device *vdev, unsigned int nvqs, struct virtqueue *vqs[],
		      struct virtqueue_info infos[], struct irq_affinity *desc)
{
	unsigned int i, index = 0;
	int ret = 0;

	for (i = 0; i < nvqs; i++) {
		vqs[i] = infos[i].name ? karma_create_vq(vdev, index++, &infos[i]) : NULL;
		if (IS_ERR(vqs[i])) {
			ret = PTR_ERR(vqs[i]);
			karma_del_vqs(vdev);
			return ret;
		}
	}
	if (desc)
		karma_spread_irqs(nvqs, vqs, desc);
	/* Last, since only a reset takes a queue back from the device. */
	for (i = 0; i < nvqs && !ret; i++)
		if (vqs[i])
			ret = karma_activate_vq(vqs[i]);
	if (ret) {
		karma_reset(vdev);
		karma_del_vqs(vdev);
	}
	return ret;
}

#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 11, 0)
#define karma_find_vqs karma_find
#else
static int karma_find_vqs(struct virtio_device *vdev, unsigned int nvqs, struct virtqueue *vqs[],
			  vq_callback_t *callbacks[], const char * const names[], const bool *ctx,
			  struct irq_affinity *desc)
{
	struct virtqueue_info *infos;
	unsigned int i;
	int ret;

	infos = kcalloc(nvqs, sizeof(*infos), GFP_KERNEL);
	if (!infos)
		return -ENOMEM;
	for (i = 0; i < nvqs; i++) {
		infos[i].name = names[i];
		infos[i].callback = callbacks[i];
		infos[i].ctx = ctx && ctx[i];
	}
	ret = karma_find(vdev, nvqs, vqs, infos, desc);
	kfree(infos);
	return ret;
}
#endif

static int karma_set_vq_affinity(struct virtqueue *vq, const struct cpumask *cpus)
{
	struct karma_queue *queue = vq->priv;

	if (!cpus || !queue->irq.irq)
		return 0;
	return irq_set_affinity(queue->irq.irq, cpus);
}

const struct virtio_config_ops karma_config_ops = {
	.get = karma_get,
	.set = karma_set,
	.generation = karma_generation,
	.get_status = karma_get_status,
	.set_status = karma_set_status,
	.reset = karma_reset,
	.find_vqs = karma_find_vqs,
	.del_vqs = karma_del_vqs,
	.synchronize_cbs = karma_synchronize_cbs,
	.get_features = karma_get_features,
	.finalize_features = karma_finalize_features,
	.bus_name = karma_bus_name,
	.set_vq_affinity = karma_set_vq_affinity,
};
