// SPDX-License-Identifier: GPL-2.0-only
/*
 * The virtio transport of the Karma monitor: devices, console, power and panic by hypercalls.
 *
 * Karma emulates no bus.  CPUID tells that a guest runs on it, hypercalls list its virtio devices,
 * and each virtqueue interrupts by a message that we choose.  What a call does is specified in
 * karma/abi.h; the block, net, console and entropy drivers on top are the kernel's own.
 *
 * Which way the guest ends:
 * - Power off: a sys-off handler ahead of the firmware's makes the power call.
 * - Halt: a syscore shutdown makes that call, too, since a halted guest is of no more use.
 * - Restart: x86 runs no restart handlers, and machine_ops is not exported; so a restart-prepare
 *   handler makes the call.  Those run after device_shutdown(), for restarts proper and not for
 *   kexec.  A reboot notifier would run before device_shutdown().  Emergency restarts run none of
 *   them and take the reset register of ACPI, as does everything before this driver is loaded.
 * - Panic: a notifier behind all others makes the panic call with the reason.
 * - Hang: the monitor's watchdog, if the user asked for one, is no longer fed.
 *
 * A restore from a snapshot is an event.  The driver then sets the clock, has the kernel's driver of VMGENID
 * reseed the random numbers, takes over the MAC addresses of networks and announces these, and last tells
 * who waits for /sys/kernel/karma/generation.
 *
 * A kexec is no end: the next kernel is to find devices that are at rest, and a crash kernel, which
 * nobody gives time for that, brings them to rest itself.
 *
 * Every buffer that a call names is from kmalloc() or the page allocator: a module's static data
 * and the stack lie in vmalloc space, where virt_to_phys() is wrong.
 */

#define pr_fmt(fmt) "virtio_karma: " fmt

#include <linux/acpi.h>
#include <linux/bottom_half.h>
#include <linux/console.h>
#include <linux/cpumask.h>
#include <linux/crash_dump.h>
#include <linux/delay.h>
#include <linux/etherdevice.h>
#include <linux/init.h>
#include <linux/interrupt.h>
#include <linux/io.h>
#include <linux/irq.h>
#include <linux/irqdomain.h>
#include <linux/irqflags.h>
#include <linux/kobject.h>
#include <linux/module.h>
#include <linux/msi.h>
#include <linux/mutex.h>
#include <linux/netdevice.h>
#include <linux/panic_notifier.h>
#include <linux/reboot.h>
#include <linux/rtnetlink.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/suspend.h>
#include <linux/syscore_ops.h>
#include <linux/sysfs.h>
#include <linux/timekeeping.h>
#include <linux/version.h>
#include <linux/virtio.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_net.h>
#include <linux/virtio_ring.h>
#include <linux/workqueue.h>
#include <asm/hw_irq.h>
#include <asm/irqdomain.h>
#include <asm/processor.h>

#include "karma/abi.h"

#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 11, 0)
/* What find_vqs() gets for each queue since 6.11; before, it was three arrays. */
struct virtqueue_info {
	const char *name;
	vq_callback_t *callback;
	bool ctx;
};
#endif

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

struct karma_irq {
	u32 argument;			/* of the call interrupt */
	struct karma_interrupt message;	/* its buffer, under the lock of the interrupt */
	int irq;			/* 0: none */
};

/* vq->priv */
struct karma_queue {
	u32 argument;		/* of the calls about this queue */
	bool takes_answers;
	struct karma_irq irq;
	char irq_name[64];
};

static u32 karma_window;	/* 0: not on Karma */
static u32 karma_version;
static u32 karma_features;
static struct karma_device *karma_devices[KARMA_DEVICES_MAX];
static struct device *karma_root;
static struct kobject *karma_kobj;
static struct sys_off_handler *karma_power_off_handler;
static struct sys_off_handler *karma_restart_handler;
static char *karma_panic_text;	/* KARMA_TEXT_MAX bytes */
static char *karma_console_text; /* KARMA_TEXT_MAX bytes */
static struct irq_domain *karma_irq_domain;
static struct karma_irq *karma_event_irq;

/*
 * Any context.  The choice of the instruction is a test and no alternative, since the early
 * console makes calls before alternatives are patched in.
 */
static long karma_call(enum karma_call call, u32 argument, u64 value)
{
	unsigned long window = karma_window + ((unsigned long)call << 12);
	unsigned long tagged = KARMA_TAG | argument;
	long ret;

	if (boot_cpu_has(X86_FEATURE_VMMCALL))
		asm volatile("vmmcall"
			     : "=a" (ret)
			     : "a" ((unsigned long)KARMA_HYPERCALL), "b" (window),
			       "c" (tagged), "d" ((unsigned long)value)
			     : "memory");
	else
		asm volatile("vmcall"
			     : "=a" (ret)
			     : "a" ((unsigned long)KARMA_HYPERCALL), "b" (window),
			       "c" (tagged), "d" ((unsigned long)value)
			     : "memory");
	return ret;
}

/* 0, or -ENODEV if this is not Karma, or a Karma that this driver does not know. */
static int karma_discover(void)
{
	u32 eax, ebx, ecx, edx;

	if (karma_window)
		return 0;
	if (!boot_cpu_has(X86_FEATURE_HYPERVISOR))
		return -ENODEV;
	cpuid(KARMA_CPUID_BASE, &eax, &ebx, &ecx, &edx);
	if (eax < KARMA_CPUID_ABI || ebx != KARMA_CPUID_EBX || ecx != KARMA_CPUID_ECX ||
	    edx != KARMA_CPUID_EDX)
		return -ENODEV;
	cpuid(KARMA_CPUID_ABI, &eax, &ebx, &ecx, &edx);
	if (eax != KARMA_ABI_VERSION) {
		pr_err("the monitor speaks ABI version %u, this driver version %u\n", eax,
		       KARMA_ABI_VERSION);
		return -ENODEV;
	}
	karma_version = eax;
	karma_features = ebx;
	karma_window = ecx;
	return 0;
}

/*
 * Interrupts.  Each is a vector of a CPU, which the x86 vector domain gives and moves, and a message
 * that the monitor sends to that CPU; a change of the message is one call, and so never half done.
 */

static void karma_send_message(struct karma_irq *irq, const struct msi_msg *message)
{
	long ret;

	irq->message.address = (u64)message->address_hi << 32 | message->address_lo;
	irq->message.data = message->data;
	irq->message.reserved = 0;
	ret = karma_call(KARMA_CALL_interrupt, irq->argument, virt_to_phys(&irq->message));
	if (ret < 0)
		pr_err_ratelimited("cannot set the interrupt %#x: %ld\n", irq->argument, ret);
}

static void karma_write_message(struct irq_data *data)
{
	struct irq_data *vector = data->parent_data;
	struct msi_msg message = {};

	vector->chip->irq_compose_msi_msg(vector, &message);
	karma_send_message(irq_data_get_irq_chip_data(data), &message);
}

static int karma_set_affinity(struct irq_data *data, const struct cpumask *cpus, bool force)
{
	int ret = irq_chip_set_affinity_parent(data, cpus, force);

	if (ret >= 0 && ret != IRQ_SET_MASK_OK_DONE)
		karma_write_message(data);
	return ret;
}

static struct irq_chip karma_irq_chip = {
	.name = "karma",
	.irq_ack = irq_chip_ack_parent,
	.irq_set_affinity = karma_set_affinity,
	.irq_retrigger = irq_chip_retrigger_hierarchy,
	.flags = IRQCHIP_SKIP_SET_WAKE,
};

static int karma_domain_alloc(struct irq_domain *domain, unsigned int irq, unsigned int count,
			      void *argument)
{
	struct irq_alloc_info info = {};
	struct karma_irq *karma_irq = argument;
	int ret = irq_domain_alloc_irqs_parent(domain, irq, count, &info);

	if (ret < 0)
		return ret;
	irq_domain_set_info(domain, irq, karma_irq->argument, &karma_irq_chip, karma_irq,
			    handle_edge_irq, NULL, "edge");
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 14, 0)
	/* Later kernels take that for granted. */
	irq_set_status_flags(irq, IRQ_MOVE_PCNTXT);
#endif
	return 0;
}

static int karma_domain_activate(struct irq_domain *domain, struct irq_data *data, bool reserve)
{
	karma_write_message(data);
	return 0;
}

static void karma_domain_deactivate(struct irq_domain *domain, struct irq_data *data)
{
	const struct msi_msg none = {};

	karma_send_message(irq_data_get_irq_chip_data(data), &none);
}

static const struct irq_domain_ops karma_domain_ops = {
	.alloc = karma_domain_alloc,
	.free = irq_domain_free_irqs_common,
	.activate = karma_domain_activate,
	.deactivate = karma_domain_deactivate,
};

/* irq is of kmalloc()'s memory and has its argument. */
static int karma_request_irq(struct karma_irq *irq, irq_handler_t handler, const char *name,
			     void *cookie)
{
	int number, ret;

	number = irq_domain_alloc_irqs(karma_irq_domain, 1, NUMA_NO_NODE, irq);
	if (number <= 0)
		return number ? number : -ENOSPC;
	ret = request_irq(number, handler, 0, name, cookie);
	if (ret) {
		irq_dispose_mapping(number);
		return ret;
	}
	irq->irq = number;
	return 0;
}

static void karma_free_irq(struct karma_irq *irq, void *cookie)
{
	if (!irq->irq)
		return;
	free_irq(irq->irq, cookie);
	irq_dispose_mapping(irq->irq);
	irq->irq = 0;
}

static int karma_add_irq_domain(void)
{
	karma_irq_domain =
		irq_domain_create_hierarchy(x86_vector_domain, 0, 0, NULL, &karma_domain_ops, NULL);
	return karma_irq_domain ? 0 : -ENOMEM;
}

static void karma_remove_irq_domain(void)
{
	irq_domain_remove(karma_irq_domain);
	karma_irq_domain = NULL;
}

/* Virtio devices: configuration, status, features. */

static void karma_get(struct virtio_device *vdev, unsigned int offset, void *buf, unsigned int len)
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

static u8 karma_get_status(struct virtio_device *vdev)
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
static void karma_reset(struct virtio_device *vdev)
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

static const struct virtio_config_ops karma_config_ops = {
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

static void karma_add_devices(void)
{
	int ret = 0;
	u32 i;

	for (i = 0; i < KARMA_DEVICES_MAX && !ret; i++)
		ret = karma_add_device(i);
	if (ret && ret != -ENODEV)
		pr_err("cannot add device %u: %d\n", i - 1, ret);
}

/*
 * A crash kernel finds devices as the crash left them: with requests that end in the crashed kernel's
 * memory, and interrupts at vectors of its.  All of them are stopped before the first is used.
 */
static void __init karma_stop_devices(void)
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

static void karma_remove_devices(void)
{
	u32 i;

	for (i = KARMA_DEVICES_MAX; i-- > 0;)
		if (karma_devices[i]) {
			unregister_virtio_device(&karma_devices[i]->vdev);
			karma_devices[i] = NULL;
		}
}

/*
 * Generations: which copy of a guest this is.  The buffer is that of the call; under the lock, as is the work
 * that a new generation makes.
 */

static DEFINE_MUTEX(karma_generation_lock);
static struct karma_generation *karma_generation_buffer; /* NULL: the monitor has no snapshots */
static u64 karma_generation_known;

static bool karma_ask_generation(void)
{
	return karma_generation_buffer &&
	       karma_call(KARMA_CALL_generation, 0, virt_to_phys(karma_generation_buffer)) >= 0;
}

#if IS_ENABLED(CONFIG_NET)
/* For a child of a virtio device: its network is another one, where it may have another address. */
static int karma_announce(struct device *child, void *address)
{
	struct net_device *dev = to_net_dev(child);
	struct sockaddr_storage storage = {};
	struct sockaddr *mac = (struct sockaddr *)&storage;
	int ret = 0;

	if (!child->class || strcmp(child->class->name, "net"))
		return 0;
	rtnl_lock();
	/* An address that the guest's user gave it stays, unless the device's is a new one. */
	if (is_valid_ether_addr(address) && !ether_addr_equal(address, dev->perm_addr)) {
		mac->sa_family = dev->type;
		ether_addr_copy(mac->sa_data, address);
		ret = dev_set_mac_address(dev, (void *)mac, NULL);
		if (ret)
			netdev_err(dev, "cannot take the MAC address %pM: %d\n", address, ret);
		else
			ether_addr_copy(dev->perm_addr, address);
	}
	if (netif_running(dev))
		call_netdevice_notifiers(NETDEV_NOTIFY_PEERS, dev);
	rtnl_unlock();
	return 0;
}

static void karma_announce_networks(void)
{
	u8 mac[ETH_ALEN] __aligned(2);
	u32 i;

	for (i = 0; i < KARMA_DEVICES_MAX; i++) {
		struct virtio_device *vdev = karma_devices[i] ? &karma_devices[i]->vdev : NULL;

		if (!vdev || vdev->id.device != VIRTIO_ID_NET)
			continue;
		eth_zero_addr(mac);
		if (virtio_has_feature(vdev, VIRTIO_NET_F_MAC))
			karma_get(vdev, offsetof(struct virtio_net_config, mac), mac, sizeof(mac));
		device_for_each_child(&vdev->dev, mac, karma_announce);
	}
}
#else
static void karma_announce_networks(void) {}
#endif

/*
 * add_vmfork_randomness() is not exported: VMGENID's driver is to call it, and it runs in a work item
 * once the firmware notifies it, which for lack of an interrupt we ask it to.
 */
static void karma_reseed(void)
{
	acpi_status status;

	if (acpi_disabled)
		return;
	status = acpi_evaluate_object(NULL, "\\_SB.VGEN.NTFY", NULL, NULL);
	if (ACPI_FAILURE(status))
		pr_err("cannot have random numbers reseeded: %s\n", acpi_format_exception(status));
	acpi_os_wait_events_complete();
}

static void karma_restored(void)
{
	struct timespec64 now;

	mutex_lock(&karma_generation_lock);
	if (karma_ask_generation() &&
	    karma_generation_buffer->generation != karma_generation_known) {
		now = ns_to_timespec64(karma_generation_buffer->realtime);
		do_settimeofday64(&now);
		karma_reseed();
		karma_announce_networks();
		WRITE_ONCE(karma_generation_known, karma_generation_buffer->generation);
		if (karma_kobj)
			sysfs_notify(karma_kobj, NULL, "generation");
	}
	mutex_unlock(&karma_generation_lock);
}

/* Before there are events. */
static void karma_add_generation(void)
{
	if (!(karma_features & KARMA_FEATURE_GENERATION))
		return;
	karma_generation_buffer = kzalloc(sizeof(*karma_generation_buffer), GFP_KERNEL);
	if (karma_ask_generation())
		karma_generation_known = karma_generation_buffer->generation;
}

/* Events. */

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

static void karma_add_events(void)
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

static void karma_remove_events(void)
{
	if (!karma_event_irq)
		return;
	karma_free_irq(karma_event_irq, karma_devices);
	cancel_work_sync(&karma_event_work);
	kfree(karma_event_irq);
	karma_event_irq = NULL;
}

/* The end. */

static int karma_power_off(struct sys_off_data *data)
{
	karma_call(KARMA_CALL_power, KARMA_POWER_OFF, 0);
	return NOTIFY_DONE;
}

static int karma_restart(struct sys_off_data *data)
{
	karma_call(KARMA_CALL_power, KARMA_POWER_RESET, 0);
	return NOTIFY_DONE;
}

static int karma_panic(struct notifier_block *block, unsigned long action, void *message)
{
	size_t length = strnlen(message, KARMA_TEXT_MAX);

	memcpy(karma_panic_text, message, length);
	karma_call(KARMA_CALL_panic, length, virt_to_phys(karma_panic_text));
	return NOTIFY_DONE;
}

static struct notifier_block karma_panic_block = {
	.notifier_call = karma_panic,
	.priority = INT_MIN,	/* the others want to run too */
};

/*
 * The watchdog.  An ordinary work item goes from CPU to CPU, and feeds when it has been on all that
 * are online.  So one CPU that has interrupts off, or runs no ordinary threads any more for another
 * reason, is enough to leave the monitor without food.
 */

#define KARMA_FEEDS_A_PERIOD 4

static unsigned long karma_feed_delay;	/* jiffies; 0: the monitor has no watchdog */

static void karma_feed(struct work_struct *work)
{
	unsigned int cpu = cpumask_next(raw_smp_processor_id(), cpu_online_mask);

	if (cpu < nr_cpu_ids) {
		/* By the timer, as a work item that is running is queued where it runs. */
		schedule_delayed_work_on(cpu, to_delayed_work(work), 1);
		return;
	}
	karma_call(KARMA_CALL_watchdog, KARMA_WATCHDOG_FEED, 0);
	schedule_delayed_work_on(cpumask_first(cpu_online_mask), to_delayed_work(work),
				 karma_feed_delay);
}

static DECLARE_DELAYED_WORK(karma_feed_work, karma_feed);

static void karma_add_watchdog(void)
{
	/* An error from a monitor that does not know the call. */
	long period = karma_call(KARMA_CALL_watchdog, KARMA_WATCHDOG_FEED, 0);

	if (period <= 0)
		return;
	karma_feed_delay = max(period * HZ / KARMA_FEEDS_A_PERIOD, 1L);
	schedule_delayed_work_on(cpumask_first(cpu_online_mask), &karma_feed_work,
				 karma_feed_delay);
}

static void karma_remove_watchdog(void)
{
	if (!karma_feed_delay)
		return;
	cancel_delayed_work_sync(&karma_feed_work);
	karma_call(KARMA_CALL_watchdog, KARMA_WATCHDOG_STOP, 0);
	karma_feed_delay = 0;
}

/* Kexec and sleep. */

/*
 * Of the kernel's last steps: after device_shutdown(), with the other CPUs still at work.  A restart
 * proper has made its call by now, so a restart is a kexec.
 */
static void karma_shutdown(void)
{
	const struct msi_msg none = {};
	u32 i;

	if (system_state == SYSTEM_HALT)
		karma_call(KARMA_CALL_power, KARMA_POWER_OFF, 0);
	if (system_state != SYSTEM_RESTART)
		return;
	karma_remove_watchdog();
	if (karma_event_irq)
		karma_send_message(karma_event_irq, &none);
	for (i = 0; i < KARMA_DEVICES_MAX; i++) {
		if (!karma_devices[i])
			continue;
		/* Nobody is to wait for it any more, as the console does. */
		virtio_break_device(&karma_devices[i]->vdev);
		karma_reset(&karma_devices[i]->vdev);
	}
}

#ifdef KARMA_SYSCORE_HAS_DATA
static void karma_syscore_shutdown(void *data)
{
	karma_shutdown();
}

static const struct syscore_ops karma_syscore_ops = { .shutdown = karma_syscore_shutdown };
static struct syscore karma_syscore = { .ops = &karma_syscore_ops };
#else
#define register_syscore register_syscore_ops
#define unregister_syscore unregister_syscore_ops
static struct syscore_ops karma_syscore = { .shutdown = karma_shutdown };
#endif

/*
 * A saved kernel would find other devices than it left, and one that sleeps has nothing to wake it
 * up.
 */
static int karma_sleep(struct notifier_block *block, unsigned long action, void *unused)
{
	switch (action) {
	case PM_HIBERNATION_PREPARE:
	case PM_RESTORE_PREPARE:
	case PM_SUSPEND_PREPARE:
		pr_err("a guest can neither hibernate nor sleep: `karma pause` on the host stops it\n");
		return notifier_from_errno(-EOPNOTSUPP);
	}
	return NOTIFY_DONE;
}

static struct notifier_block karma_sleep_block = {
	.notifier_call = karma_sleep,
};

/* /sys/kernel/karma */

static ssize_t exit_store(struct kobject *kobj, struct kobj_attribute *attr, const char *buf,
			  size_t count)
{
	u8 status;
	long ret;

	ret = kstrtou8(buf, 10, &status);
	if (ret)
		return ret;
	ret = karma_call(KARMA_CALL_exit, status, 0);
	return ret < 0 ? ret : count;
}

static ssize_t ready_store(struct kobject *kobj, struct kobj_attribute *attr, const char *buf,
			   size_t count)
{
	u8 ready;
	long ret;

	ret = kstrtou8(buf, 10, &ready);
	if (ret)
		return ret;
	ret = karma_call(KARMA_CALL_ready, ready, 0);
	return ret < 0 ? ret : count;
}

static ssize_t version_show(struct kobject *kobj, struct kobj_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%u\n", karma_version);
}

static ssize_t features_show(struct kobject *kobj, struct kobj_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%#x\n", karma_features);
}

/* To be waited for by poll(); random numbers, the clock and networks are right by then. */
static ssize_t generation_show(struct kobject *kobj, struct kobj_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%llu\n", READ_ONCE(karma_generation_known));
}

static ssize_t name_show(struct kobject *kobj, struct kobj_attribute *attr, char *buf)
{
	ssize_t ret = -ENODEV;

	mutex_lock(&karma_generation_lock);
	if (karma_ask_generation())
		ret = sysfs_emit(buf, "%.*s\n", (int)KARMA_NAME_BYTES, karma_generation_buffer->name);
	mutex_unlock(&karma_generation_lock);
	return ret;
}

static struct kobj_attribute exit_attribute = __ATTR(exit, 0200, NULL, exit_store);
static struct kobj_attribute ready_attribute = __ATTR(ready, 0200, NULL, ready_store);
static struct kobj_attribute version_attribute = __ATTR_RO(version);
static struct kobj_attribute features_attribute = __ATTR_RO(features);
static struct kobj_attribute generation_attribute = __ATTR_RO(generation);
static struct kobj_attribute name_attribute = __ATTR_RO(name);

static struct attribute *karma_attributes[] = {
	&exit_attribute.attr,
	&ready_attribute.attr,
	&version_attribute.attr,
	&features_attribute.attr,
	&generation_attribute.attr,
	&name_attribute.attr,
	NULL,
};

static const struct attribute_group karma_attribute_group = {
	.attrs = karma_attributes,
};

/*
 * The early console: a boot console, so the kernel drops it once hvc0 or another real console
 * registers, and that one does not print again what this one did.
 */

static DEFINE_RAW_SPINLOCK(karma_console_lock);

/* A second in all for a user who does not read: what is left of a line then is lost. */
#define KARMA_CONSOLE_TRIES 1000
#define KARMA_CONSOLE_DELAY_US 1000

static void karma_console_write(struct console *con, const char *text, unsigned int length)
{
	unsigned long flags;
	unsigned int patience = KARMA_CONSOLE_TRIES;
	bool locked = true;
	unsigned int chunk;
	long taken;

	/* The CPU that holds the lock may have been stopped. */
	local_irq_save(flags);
	if (oops_in_progress)
		locked = raw_spin_trylock(&karma_console_lock);
	else
		raw_spin_lock(&karma_console_lock);
	while (length && patience) {
		chunk = min_t(unsigned int, length, KARMA_TEXT_MAX);
		memcpy(karma_console_text, text, chunk);
		taken = karma_call(KARMA_CALL_console_write, chunk,
				   virt_to_phys(karma_console_text));
		if (taken < 0)
			break;
		text += taken;
		length -= taken;
		if (taken < chunk) {
			/* The user reads slowly. */
			patience--;
			udelay(KARMA_CONSOLE_DELAY_US);
		}
	}
	if (locked)
		raw_spin_unlock(&karma_console_lock);
	local_irq_restore(flags);
}

/* CON_ENABLED, as with console= on the command line the kernel enables no other by itself. */
static struct console karma_console = {
	.name = "karma",
	.write = karma_console_write,
	.flags = CON_BOOT | CON_PRINTBUFFER | CON_ANYTIME | CON_ENABLED,
	.index = 0,
};

/* With a real console around, the kernel would refuse a boot console with a message. */
static bool karma_have_real_console(void)
{
	struct console *con;
	bool real = false;

#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 2, 0)
	console_list_lock();
#else
	console_lock();
#endif
	for_each_console(con)
		if (!(con->flags & CON_BOOT))
			real = true;
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 2, 0)
	console_list_unlock();
#else
	console_unlock();
#endif
	return real;
}

/* Built in, this runs long before the rest; as a module, first thing. */
static int __init karma_add_console(void)
{
	int ret;

	if (karma_console_text)
		return 0;
	ret = karma_discover();
	if (ret)
		return ret;
	if (!(karma_features & KARMA_FEATURE_CONSOLE) || karma_have_real_console())
		return 0;
	karma_console_text = (char *)__get_free_page(GFP_KERNEL);
	if (!karma_console_text)
		return -ENOMEM;
	register_console(&karma_console);
	return 0;
}

#ifndef MODULE
console_initcall(karma_add_console);
#endif

static void karma_remove_console(void)
{
	if (!karma_console_text)
		return;
	unregister_console(&karma_console);
	free_page((unsigned long)karma_console_text);
	karma_console_text = NULL;
}

/* All of it. */

static void __exit karma_exit(void)
{
	unregister_pm_notifier(&karma_sleep_block);
	unregister_syscore(&karma_syscore);
	karma_remove_watchdog();
	karma_remove_events();
	if (karma_panic_text)
		atomic_notifier_chain_unregister(&panic_notifier_list, &karma_panic_block);
	unregister_sys_off_handler(karma_restart_handler);
	unregister_sys_off_handler(karma_power_off_handler);
	if (karma_kobj)
		sysfs_remove_group(karma_kobj, &karma_attribute_group);
	kobject_put(karma_kobj);
	karma_remove_devices();
	karma_remove_irq_domain();
	root_device_unregister(karma_root);
	karma_remove_console();
	kfree(karma_generation_buffer);
	free_page((unsigned long)karma_panic_text);
}

/* What only reports or ends the guest may fail: a guest with disks and no sysfs is of use. */
static void __init karma_add_end(void)
{
	karma_power_off_handler = register_sys_off_handler(
		SYS_OFF_MODE_POWER_OFF, SYS_OFF_PRIO_FIRMWARE + 1, karma_power_off, NULL);
	if (IS_ERR(karma_power_off_handler)) {
		pr_err("cannot register for power off: %ld\n", PTR_ERR(karma_power_off_handler));
		karma_power_off_handler = NULL;
	}
	/* The last of its kind, since it does not return. */
	karma_restart_handler = register_sys_off_handler(SYS_OFF_MODE_RESTART_PREPARE, INT_MIN,
							 karma_restart, NULL);
	if (IS_ERR(karma_restart_handler)) {
		pr_err("cannot register for restart: %ld\n", PTR_ERR(karma_restart_handler));
		karma_restart_handler = NULL;
	}
	karma_panic_text = (char *)__get_free_page(GFP_KERNEL);
	if (karma_panic_text)
		atomic_notifier_chain_register(&panic_notifier_list, &karma_panic_block);
	karma_kobj = kobject_create_and_add("karma", kernel_kobj);
	if (!karma_kobj || sysfs_create_group(karma_kobj, &karma_attribute_group)) {
		pr_err("cannot create /sys/kernel/karma\n");
		kobject_put(karma_kobj);
		karma_kobj = NULL;
	}
}

static int __init karma_init(void)
{
	int ret;

	ret = karma_discover();
	if (ret)
		return ret;
	karma_root = root_device_register("karma");
	if (IS_ERR(karma_root))
		return PTR_ERR(karma_root);
	ret = karma_add_irq_domain();
	if (ret) {
		root_device_unregister(karma_root);
		return ret;
	}
	karma_add_console();
	karma_add_end();
	if (is_kdump_kernel())
		karma_stop_devices();
	karma_add_devices();
	karma_add_generation();
	karma_add_events();
	karma_add_watchdog();
	register_syscore(&karma_syscore);
	register_pm_notifier(&karma_sleep_block);
	return 0;
}

module_init(karma_init);
module_exit(karma_exit);

/*
 * An ACPI device without resources, only so that udev loads this module; what there is, CPUID
 * and the calls tell.
 */
static const struct acpi_device_id karma_acpi_ids[] __maybe_unused = {
	{ "KRMA0001" },
	{ }
};
MODULE_DEVICE_TABLE(acpi, karma_acpi_ids);

MODULE_DESCRIPTION("Virtio transport of the Karma virtual machine monitor");
MODULE_LICENSE("GPL");
