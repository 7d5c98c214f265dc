// SPDX-License-Identifier: GPL-2.0-only
/* Split virtqueues: chains taken from and given back to a guest that is not trusted. */
#include <errno.h>
#include <linux/virtio_config.h>
#include <string.h>

#include "karma/debug.h"
#include "karma/snapshot.h"
#include "karma/util.h"
#include "karma/virtq.h"

/* Of the calling thread: the queue whose notification it answers, and whether an interrupt was due. */
static _Thread_local const struct virtq *answered_queue;
static _Thread_local bool answer_due;

#define LOAD(field) __atomic_load_n(&(field), __ATOMIC_RELAXED)
#define LOAD_ACQUIRE(field) __atomic_load_n(&(field), __ATOMIC_ACQUIRE)
#define STORE(field, value) __atomic_store_n(&(field), value, __ATOMIC_RELAXED)
#define STORE_RELEASE(field, value) __atomic_store_n(&(field), value, __ATOMIC_RELEASE)
#define FULL_BARRIER() __atomic_thread_fence(__ATOMIC_SEQ_CST)

/* The areas with the event index behind each ring (virtio 1.2, sections 2.7.6 and 2.7.8). */
static size_t avail_bytes(uint16_t size)
{
	return sizeof(struct vring_avail) + sizeof(uint16_t) * size + sizeof(uint16_t);
}

static size_t used_bytes(uint16_t size)
{
	return sizeof(struct vring_used) + sizeof(struct vring_used_elem) * size + sizeof(uint16_t);
}

static bool overlap(uint64_t a, size_t a_bytes, uint64_t b, size_t b_bytes)
{
	return a < b + b_bytes && b < a + a_bytes;
}

static void forget_rings(struct virtq *queue)
{
	queue->size = 0;
	queue->indirect = queue->event_idx = false;
	queue->descriptors = NULL;
	queue->avail = NULL;
	queue->used = NULL;
	queue->next_avail = queue->next_used = queue->signalled_used = 0;
	queue->broken = NULL;
	queue->coalescing = false;
}

void virtq_reset(struct virtq *queue)
{
	forget_rings(queue);
	queue->interrupt = (struct karma_interrupt){ 0 };
}

int virtq_enable(struct virtq *queue, const struct karma_queue_setup *setup, uint64_t features)
{
	uint32_t size = setup->size;
	size_t descriptors_size = sizeof(struct vring_desc) * size;
	void *descriptors, *avail, *used;

	if (queue->size || size == 0 || size > queue->size_max || (size & (size - 1)))
		return -EINVAL;
	if (setup->descriptors % 16 || setup->driver % 2 || setup->device % 4 || setup->reserved)
		return -EINVAL;
	descriptors =
		guest_memory_at(queue->memory, GPA(setup->descriptors), descriptors_size);
	avail = guest_memory_at(queue->memory, GPA(setup->driver), avail_bytes(size));
	used = guest_memory_at(queue->memory, GPA(setup->device), used_bytes(size));
	if (!descriptors || !avail || !used)
		return -EFAULT;
	/* All three are RAM, so that no sum below wraps. */
	if (overlap(setup->descriptors, descriptors_size, setup->driver, avail_bytes(size)) ||
		overlap(setup->descriptors, descriptors_size, setup->device, used_bytes(size)) ||
		overlap(setup->driver, avail_bytes(size), setup->device, used_bytes(size)))
		return -EINVAL;

	forget_rings(queue);
	queue->descriptors = descriptors;
	queue->avail = avail;
	queue->used = used;
	queue->indirect = features & (1ull << VIRTIO_RING_F_INDIRECT_DESC);
	queue->event_idx = features & (1ull << VIRTIO_RING_F_EVENT_IDX);
	queue->size = size;
	return 0;
}

static int set_broken(struct virtq *queue, const char *why)
{
	queue->broken = why;
	return -EPROTO;
}

/* A table of descriptors: the queue's own, or an indirect one. */
struct table {
	const uint8_t *entries;	/* an indirect one need not be aligned */
	uint32_t count;
};

/* A descriptor, read once: the barrier keeps the compiler from going back for a field. */
static struct vring_desc load_descriptor(const struct table *table, uint32_t index)
{
	struct vring_desc copy;

	memcpy(&copy, table->entries + index * sizeof(copy), sizeof(copy));
	__asm__ volatile("" : "+m"(copy));
	return copy;
}

static int enter_indirect(
	struct virtq *queue, const struct vring_desc *descriptor, struct table *table)
{
	if (!queue->indirect)
		return set_broken(queue, "an indirect descriptor without the feature");
	if (table->entries != (const uint8_t *)queue->descriptors)
		return set_broken(queue, "an indirect descriptor in an indirect table");
	if (descriptor->flags & VRING_DESC_F_NEXT)
		return set_broken(queue, "an indirect descriptor with a next one");
	if (descriptor->len == 0 || descriptor->len % sizeof(struct vring_desc))
		return set_broken(queue, "an indirect table of a bad length");
	table->entries = guest_memory_at(queue->memory, GPA(descriptor->addr), descriptor->len);
	table->count = descriptor->len / sizeof(struct vring_desc);
	if (!table->entries)
		return set_broken(queue, "an indirect table outside of memory");
	return 0;
}

static int add_buffer(struct virtq *queue, unsigned capacity, const struct vring_desc *descriptor,
	struct virtq_chain *chain)
{
	bool in = descriptor->flags & VRING_DESC_F_WRITE;
	unsigned count = chain->out_count + chain->in_count;
	void *buffer;

	if (!in && chain->in_count)
		return set_broken(queue, "a readable descriptor behind a writable one");
	buffer = guest_memory_at(queue->memory, GPA(descriptor->addr), descriptor->len);
	if (!buffer)
		return set_broken(queue, "a buffer outside of memory");
	if (descriptor->len == 0)
		return 0;
	if (count == capacity)
		return set_broken(queue, "a chain with more buffers than the device takes");
	if (descriptor->len > VIRTQ_CHAIN_BYTES_MAX - chain->out_bytes - chain->in_bytes)
		return set_broken(queue, "a chain of 4 GiB or more");
	chain->iov[count] = (struct iovec){ buffer, descriptor->len };
	if (in) {
		chain->in_count++;
		chain->in_bytes += descriptor->len;
	} else {
		chain->out_count++;
		chain->out_bytes += descriptor->len;
	}
	return 0;
}

static int walk_chain(struct virtq *queue, unsigned capacity, struct virtq_chain *chain)
{
	struct table table = { (const uint8_t *)queue->descriptors, queue->size };
	uint32_t index = chain->head;
	int result;

	/*
	 * A chain has at most as many descriptors as the queue has entries (virtio 1.2, sections
	 * 2.7.5.2 and 2.7.5.3.1), and so a loop ends here.  The one that leads to an indirect
	 * table comes on top.
	 */
	for (unsigned seen = 0; seen <= queue->size; seen++) {
		struct vring_desc descriptor;

		if (index >= table.count)
			return set_broken(queue, "a descriptor index out of range");
		descriptor = load_descriptor(&table, index);
		if (descriptor.flags & VRING_DESC_F_INDIRECT) {
			result = enter_indirect(queue, &descriptor, &table);
			if (result < 0)
				return result;
			index = 0;
			continue;
		}
		if (seen == queue->size && table.entries == (const uint8_t *)queue->descriptors)
			break;
		result = add_buffer(queue, capacity, &descriptor, chain);
		if (result < 0)
			return result;
		if (!(descriptor.flags & VRING_DESC_F_NEXT))
			return 1;
		index = descriptor.next;
	}
	return set_broken(queue, "a chain longer than the queue, or a loop");
}

int virtq_pop(struct virtq *queue, struct iovec *iov, unsigned capacity, struct virtq_chain *chain)
{
	uint16_t waiting, under_way = queue->next_avail - queue->next_used;
	int result;

	if (!queue->size)
		return 0;
	if (queue->broken)
		return -EPROTO;
	waiting = LOAD_ACQUIRE(queue->avail->idx) - queue->next_avail;
	if (waiting == 0)
		return 0;
	/* Each has a descriptor of the queue's, which is the device's until it is given back. */
	if (waiting > queue->size || waiting + under_way > queue->size)
		return set_broken(queue, "an available index that runs ahead");

	*chain = (struct virtq_chain){
		.head = LOAD(queue->avail->ring[queue->next_avail & (queue->size - 1)]),
		.iov = iov,
	};
	result = walk_chain(queue, capacity, chain);
	if (result == 1) {
		queue->next_avail++;
		count_up(&queue->chains, 1);
	}
	return result;
}

void virtq_push_all(struct virtq *queue, const struct vring_used_elem *elements, unsigned count)
{
	if (!queue->size)
		return;
	for (unsigned i = 0; i < count; i++) {
		struct vring_used_elem *to = &queue->used->ring[queue->next_used++ & (queue->size - 1)];

		STORE(to->id, elements[i].id);
		STORE(to->len, elements[i].len);
	}
	STORE_RELEASE(queue->used->idx, queue->next_used);
}

void virtq_push(struct virtq *queue, uint16_t head, uint32_t written)
{
	virtq_push_all(queue, &(struct vring_used_elem){ .id = head, .len = written }, 1);
}

bool virtq_wants_interrupt(const struct virtq *queue)
{
	const uint16_t old = queue->signalled_used, now = queue->next_used;

	/* Nothing was given back since the last time. */
	if (!queue->size || now == old)
		return false;
	if (!queue->event_idx)
		return !(LOAD(queue->avail->flags) & VRING_AVAIL_F_NO_INTERRUPT);
	return vring_need_event(LOAD(queue->avail->ring[queue->size]), now, old);
}

static bool backlog_is_large(const struct virtq *queue)
{
	uint16_t waiting = LOAD(queue->avail->idx) - queue->next_avail;
	uint16_t completed = queue->next_used - queue->signalled_used;

	return waiting >= VIRTQ_COALESCE_BACKLOG * completed;
}

void virtq_interrupt(struct virtq *queue)
{
	bool wanted;

	if (queue->coalescing && backlog_is_large(queue))
		return;
	/* The guest must see the used index before we look at whether it wants the interrupt. */
	FULL_BARRIER();
	wanted = virtq_wants_interrupt(queue);
	queue->signalled_used = queue->next_used;
	if (!wanted)
		return;
	if (queue == answered_queue) {
		count_up(&queue->answers, !answer_due);
		answer_due = true;
		return;
	}
	count_up(&queue->interrupts, 1);
	if (queue->interrupt.address)
		queue->send(queue->send_context, &queue->interrupt);
}

void virtq_begin_answer(struct virtq *queue)
{
	answered_queue = queue;
	answer_due = false;
}

bool virtq_end_answer(void)
{
	answered_queue = NULL;
	return answer_due;
}

static uint16_t *avail_event(struct virtq *queue)
{
	return (uint16_t *)&queue->used->ring[queue->size];
}

void virtq_disable_notify(struct virtq *queue)
{
	/* With event indexes, leaving the index behind is enough. */
	if (queue->size && !queue->event_idx)
		STORE(queue->used->flags, VRING_USED_F_NO_NOTIFY);
}

bool virtq_enable_notify(struct virtq *queue)
{
	if (!queue->size || queue->broken)
		return false;
	if (queue->event_idx)
		STORE(*avail_event(queue), queue->next_avail);
	else
		STORE(queue->used->flags, 0);
	FULL_BARRIER();
	return LOAD(queue->avail->idx) != queue->next_avail;
}

bool virtq_notify_at(struct virtq *queue, unsigned waiting)
{
	if (!queue->size || queue->broken)
		return false;
	if (queue->event_idx) {
		STORE(*avail_event(queue), queue->next_avail + waiting - 1);
		FULL_BARRIER();
	}
	return (uint16_t)(LOAD(queue->avail->idx) - queue->next_avail) >= waiting;
}

/* --- Interrupts that a guest may ask for, and the state in a snapshot. */

/* Intel SDM volume 3, section 11.11, and the bits that KVM_FEATURE_MSI_EXT_DEST_ID adds. */
#define MESSAGE_ADDRESS 0xfee00000u
#define MESSAGE_ADDRESS_FREE 0xffffcu	/* destination, its mode, redirection */
#define MESSAGE_DATA_FREE 0x41ffu	/* vector, fixed or lowest priority, level (ignored) */
#define VECTOR_MIN 16u

bool virtq_interrupt_valid(const struct karma_interrupt *interrupt)
{
	if (interrupt->reserved)
		return false;
	if (!interrupt->address)
		return !interrupt->data;
	return (interrupt->address & ~(uint64_t)MESSAGE_ADDRESS_FREE) == MESSAGE_ADDRESS &&
		!(interrupt->data & ~MESSAGE_DATA_FREE) &&
		(uint8_t)interrupt->data >= VECTOR_MIN;
}

static uint64_t address_of(const struct virtq *queue, const void *ring)
{
	return queue->size ? guest_memory_gpa(queue->memory, ring).value : 0;
}

void virtq_save(const struct virtq *queue, struct snapshot_writer *to)
{
	/* The guest was interrupted for all that it wants to be interrupted for. */
	debug_assert(queue->next_used == queue->signalled_used);
	snapshot_put_number(to, queue->size);
	snapshot_put_number(to, address_of(queue, queue->descriptors));
	snapshot_put_number(to, address_of(queue, queue->avail));
	snapshot_put_number(to, address_of(queue, queue->used));
	snapshot_put_number(to, queue->next_used);
	snapshot_put_number(to, queue->broken != NULL);
	snapshot_put_number(to, queue->interrupt.address);
	snapshot_put_number(to, queue->interrupt.data);
}

static struct karma_interrupt restore_interrupt(struct snapshot_reader *from)
{
	struct karma_interrupt interrupt = { .address = snapshot_get_number(from) };

	interrupt.data = snapshot_get_number(from);
	return interrupt;
}

const char *virtq_restore(struct virtq *queue, uint64_t features, struct snapshot_reader *from)
{
	uint64_t size = snapshot_get_number(from);
	struct karma_queue_setup setup = { .size = size };
	struct karma_interrupt interrupt;
	uint16_t index;
	bool broken;

	setup.descriptors = snapshot_get_number(from);
	setup.driver = snapshot_get_number(from);
	setup.device = snapshot_get_number(from);
	index = snapshot_get_number(from);
	broken = snapshot_get_number(from);
	interrupt = restore_interrupt(from);
	if (!virtq_interrupt_valid(&interrupt))
		return "has an interrupt that no guest can have asked for";
	queue->interrupt = interrupt;
	if (size == 0)
		return NULL;
	if (size > queue->size_max || virtq_enable(queue, &setup, features) < 0)
		return "has rings that no guest can have set up";
	queue->next_avail = queue->next_used = queue->signalled_used = index;
	queue->broken = broken ? "it was broken when its state was saved" : NULL;
	return NULL;
}
