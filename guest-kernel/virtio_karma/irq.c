// SPDX-License-Identifier: GPL-2.0-only
/*
 * Interrupts.  Each is a vector of a CPU, which the x86 vector domain gives and moves, and a message
 * that the monitor sends to that CPU; a change of the message is one call, and so never half done.
 */

#include "driver.h"

#include <linux/io.h>
#include <linux/irq.h>
#include <linux/irqdomain.h>
#include <linux/msi.h>
#include <linux/version.h>
#include <asm/hw_irq.h>
#include <asm/irqdomain.h>

static struct irq_domain *karma_irq_domain;

void karma_send_message(struct karma_irq *irq, const struct msi_msg *message)
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

int karma_request_irq(struct karma_irq *irq, irq_handler_t handler, const char *name,
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

void karma_free_irq(struct karma_irq *irq, void *cookie)
{
	if (!irq->irq)
		return;
	free_irq(irq->irq, cookie);
	irq_dispose_mapping(irq->irq);
	irq->irq = 0;
}

int karma_add_irq_domain(void)
{
	karma_irq_domain =
		irq_domain_create_hierarchy(x86_vector_domain, 0, 0, NULL, &karma_domain_ops, NULL);
	return karma_irq_domain ? 0 : -ENOMEM;
}

void karma_remove_irq_domain(void)
{
	irq_domain_remove(karma_irq_domain);
	karma_irq_domain = NULL;
}
