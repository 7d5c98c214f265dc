// SPDX-License-Identifier: GPL-2.0-only
/*
 * The virtio transport of the Karma monitor: devices, console, power and panic by hypercalls.
 *
 * Karma emulates no bus.  CPUID tells that a guest runs on it, hypercalls list its virtio devices,
 * and each virtqueue interrupts by a message that we choose.  What a call does is specified in
 * karma/abi.h; the block, net, console and entropy drivers on top are the kernel's own.
 */

#include "driver.h"

#include <linux/acpi.h>
#include <linux/crash_dump.h>
#include <linux/device.h>
#include <linux/module.h>
#include <asm/processor.h>

static u32 karma_window;	/* 0: not on Karma */
u32 karma_version;
u32 karma_features;
struct device *karma_root;

/*
 * Any context.  The choice of the instruction is a test and no alternative, since the early
 * console makes calls before alternatives are patched in.
 */
long karma_call(enum karma_call call, u32 argument, u64 value)
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

int karma_discover(void)
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
	/* In CPUID it is for the guest's first kernel. */
	if (karma_features & KARMA_FEATURE_CHECKPOINT)
		karma_features = karma_call(KARMA_CALL_features, 0, 0);
	return 0;
}

static void __exit karma_exit(void)
{
	karma_remove_shutdown();
	karma_remove_watchdog();
	karma_remove_events();
	karma_remove_sysfs();
	karma_remove_end();
	karma_remove_devices();
	karma_remove_irq_domain();
	root_device_unregister(karma_root);
	karma_remove_console();
	karma_remove_generation();
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
	karma_add_sysfs();
	if (is_kdump_kernel())
		karma_stop_devices();
	/* Else they come with /sys/kernel/karma/checkpoint. */
	if (!(karma_features & KARMA_FEATURE_CHECKPOINT))
		karma_add_devices();
	karma_add_generation();
	karma_add_events();
	karma_add_watchdog();
	karma_add_shutdown();
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
