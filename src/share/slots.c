// SPDX-License-Identifier: GPL-2.0-only
/* Tables of pointers by numbers that are used once. */
#include "slots.h"

#include <stdbool.h>
#include <stdlib.h>

#define FIRST_CAPACITY 64u

static bool grow(struct slots *slots)
{
	uint32_t capacity = slots->capacity ? 2 * slots->capacity : FIRST_CAPACITY;
	struct slot *grown = reallocarray(slots->slots, capacity, sizeof(*grown));

	if (!grown)
		return false;
	slots->slots = grown;
	slots->capacity = capacity;
	/* The index 0 is never given. */
	if (slots->count == 0)
		slots->slots[slots->count++] = (struct slot){ 0 };
	return true;
}

uint64_t slots_add(struct slots *slots, void *item)
{
	uint32_t index = slots->first_free;
	struct slot *slot;

	if (slots->used >= slots->max)
		return 0;
	if (index) {
		slots->first_free = slots->slots[index].next_free;
	} else {
		if (slots->count == slots->capacity && !grow(slots))
			return 0;
		index = slots->count++;
		slots->slots[index] = (struct slot){ 0 };
	}
	slot = &slots->slots[index];
	slot->item = item;
	slots->used++;
	return (uint64_t)slot->generation << 32 | index;
}

static struct slot *find(const struct slots *slots, uint64_t number)
{
	uint32_t index = number;

	if (index == 0 || index >= slots->count || slots->slots[index].generation != number >> 32)
		return NULL;
	return &slots->slots[index];
}

void *slots_get(const struct slots *slots, uint64_t number)
{
	struct slot *slot = find(slots, number);

	return slot ? slot->item : NULL;
}

void slots_remove(struct slots *slots, uint64_t number)
{
	struct slot *slot = find(slots, number);

	slot->item = NULL;
	slots->used--;
	/* An index whose generations have run out is left alone. */
	if (++slot->generation == 0)
		return;
	slot->next_free = slots->first_free;
	slots->first_free = number;
}

void slots_release(struct slots *slots)
{
	free(slots->slots);
	slots->slots = NULL;
	slots->count = slots->capacity = slots->first_free = slots->used = 0;
}
