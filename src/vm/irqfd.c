// SPDX-License-Identifier: GPL-2.0-only
/* A virtual machine's irqfds: each has a number (GSI), and a table says which message each number sends. */
#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

#include "karma/log.h"
#include "karma/util.h"
#include "karma/vm.h"

static size_t table_bytes(unsigned entries)
{
	return sizeof(struct kvm_irq_routing) + entries * sizeof(struct kvm_irq_routing_entry);
}

static int bind_irqfd(struct irqfds *irqfds, int eventfd)
{
	struct vm_irqfds *own = container_of(irqfds, struct vm_irqfds, irqfds);
	const struct kvm_irqfd binding = { .fd = eventfd, .gsi = own->count };
	/* Room for a message of each, so that none has to be made when the guest runs. */
	struct kvm_irq_routing *table = realloc(own->table, table_bytes(own->count + 1));

	if (!table)
		return fail(-ENOMEM, "irqfds: out of memory");
	if (!own->table)
		*table = (struct kvm_irq_routing){ 0 };
	own->table = table;
	if (ioctl(own->vm_fd, KVM_IRQFD, &binding) < 0)
		return fail(-errno, "KVM: can't bind an eventfd to an interrupt: %s: give fewer --share, "
				    "--vhost-user or --cpus",
			strerror(errno));
	return own->count++;
}

static struct kvm_irq_routing_entry message_entry(unsigned number, const struct karma_interrupt *interrupt)
{
	return (struct kvm_irq_routing_entry){
		.gsi = number,
		.type = KVM_IRQ_ROUTING_MSI,
		.u.msi = {
			.address_lo = interrupt->address,
			.address_hi = interrupt->address >> 32,
			.data = interrupt->data,
		},
	};
}

/* A number without a message is in no entry.  False if the table is as it was. */
static bool set_entry(struct kvm_irq_routing *table, unsigned number,
	const struct karma_interrupt *interrupt)
{
	unsigned at = 0;

	while (at < table->nr && table->entries[at].gsi != number)
		at++;
	if (interrupt->address) {
		table->entries[at] = message_entry(number, interrupt);
		table->nr += at == table->nr;
		return true;
	}
	if (at == table->nr)
		return false;
	table->entries[at] = table->entries[--table->nr];
	return true;
}

/* KVM takes the table as a whole.  A message to no CPU is the guest's own fault. */
static void route(struct irqfds *irqfds, unsigned number, const struct karma_interrupt *interrupt)
{
	struct vm_irqfds *own = container_of(irqfds, struct vm_irqfds, irqfds);

	pthread_mutex_lock(&own->lock);
	if (set_entry(own->table, number, interrupt))
		ioctl(own->vm_fd, KVM_SET_GSI_ROUTING, own->table);
	pthread_mutex_unlock(&own->lock);
}

void vm_irqfds_init(struct vm_irqfds *irqfds, int vm_fd)
{
	*irqfds = (struct vm_irqfds){ .irqfds = { bind_irqfd, route }, .vm_fd = vm_fd };
	pthread_mutex_init(&irqfds->lock, NULL);
}
