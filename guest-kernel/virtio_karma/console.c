// SPDX-License-Identifier: GPL-2.0-only
/*
 * The early console: a boot console, so the kernel drops it once hvc0 or another real console
 * registers, and that one does not print again what this one did.
 */

#include "driver.h"

#include <linux/console.h>
#include <linux/delay.h>
#include <linux/gfp.h>
#include <linux/io.h>
#include <linux/irqflags.h>
#include <linux/minmax.h>
#include <linux/spinlock.h>
#include <linux/version.h>

static char *karma_console_text; /* KARMA_TEXT_MAX bytes */

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
int __init karma_add_console(void)
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

void karma_remove_console(void)
{
	if (!karma_console_text)
		return;
	unregister_console(&karma_console);
	free_page((unsigned long)karma_console_text);
	karma_console_text = NULL;
}
