// SPDX-License-Identifier: GPL-2.0-only
/* /sys/kernel/karma */

#include "driver.h"

#include <linux/gfp.h>
#include <linux/io.h>
#include <linux/kobject.h>
#include <linux/kstrtox.h>
#include <linux/minmax.h>
#include <linux/sysfs.h>
#include <asm/div64.h>

#ifdef KARMA_BIN_ATTRIBUTE_IS_CONST
#define KARMA_BIN_ATTRIBUTE const struct bin_attribute
#else
#define KARMA_BIN_ATTRIBUTE struct bin_attribute
#endif

static struct kobject *karma_kobj;

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
	return sysfs_emit(buf, "%llu\n", karma_known_generation());
}

static ssize_t name_show(struct kobject *kobj, struct kobj_attribute *attr, char *buf)
{
	char name[KARMA_NAME_BYTES];
	int ret = karma_get_name(name);

	return ret < 0 ? ret : sysfs_emit(buf, "%.*s\n", (int)sizeof(name), name);
}

static ssize_t checkpoint_store(struct kobject *kobj, struct kobj_attribute *attr, const char *buf,
				size_t count)
{
	int ret = karma_checkpoint();

	return ret < 0 ? ret : count;
}

/* In pieces as the monitor has them; who reads asks for the next one by its offset. */
static ssize_t command_read(struct file *file, struct kobject *kobj, KARMA_BIN_ATTRIBUTE *attr,
			    char *buf, loff_t offset, size_t count)
{
	char *piece;
	u64 at = offset;
	u32 skip = do_div(at, KARMA_TEXT_MAX);
	ssize_t ret;

	if (at > KARMA_ARGUMENT_MASK)
		return 0;
	piece = (char *)__get_free_page(GFP_KERNEL);
	if (!piece)
		return -ENOMEM;
	ret = karma_call(KARMA_CALL_command, at, virt_to_phys(piece));
	if (ret >= 0) {
		ret = ret > skip ? min_t(size_t, ret - skip, count) : 0;
		memcpy(buf, piece + skip, ret);
	}
	free_page((unsigned long)piece);
	return ret;
}

static struct kobj_attribute exit_attribute = __ATTR(exit, 0200, NULL, exit_store);
static struct kobj_attribute ready_attribute = __ATTR(ready, 0200, NULL, ready_store);
static struct kobj_attribute version_attribute = __ATTR_RO(version);
static struct kobj_attribute features_attribute = __ATTR_RO(features);
static struct kobj_attribute generation_attribute = __ATTR_RO(generation);
static struct kobj_attribute name_attribute = __ATTR_RO(name);
static struct kobj_attribute checkpoint_attribute = __ATTR(checkpoint, 0200, NULL, checkpoint_store);
static struct bin_attribute command_attribute = __BIN_ATTR(command, 0400, command_read, NULL, 0);

static struct attribute *karma_attributes[] = {
	&exit_attribute.attr,
	&ready_attribute.attr,
	&version_attribute.attr,
	&features_attribute.attr,
	&generation_attribute.attr,
	&name_attribute.attr,
	&checkpoint_attribute.attr,
	NULL,
};

static const struct attribute_group karma_attribute_group = {
	.attrs = karma_attributes,
};

void karma_notify_generation(void)
{
	if (karma_kobj)
		sysfs_notify(karma_kobj, NULL, "generation");
}

/* It may fail: a guest with disks and no sysfs is of use. */
void __init karma_add_sysfs(void)
{
	karma_kobj = kobject_create_and_add("karma", kernel_kobj);
	if (!karma_kobj || sysfs_create_group(karma_kobj, &karma_attribute_group)) {
		pr_err("cannot create /sys/kernel/karma\n");
		kobject_put(karma_kobj);
		karma_kobj = NULL;
		return;
	}
	if ((karma_features & KARMA_FEATURE_COMMAND) &&
	    sysfs_create_bin_file(karma_kobj, &command_attribute))
		pr_err("cannot create /sys/kernel/karma/command\n");
}

void karma_remove_sysfs(void)
{
	if (karma_kobj) {
		sysfs_remove_bin_file(karma_kobj, &command_attribute);
		sysfs_remove_group(karma_kobj, &karma_attribute_group);
	}
	kobject_put(karma_kobj);
}
