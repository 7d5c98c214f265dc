// SPDX-License-Identifier: GPL-2.0-only
/*
 * Generations: which copy of a guest this is.  The buffer is that of the call; under the lock, as is the work
 * that a new generation makes.
 *
 * A restore from a snapshot is an event.  The driver then sets the clock, has the kernel's driver of VMGENID
 * reseed the random numbers, takes over the MAC addresses of networks and announces these, and last tells
 * who waits for /sys/kernel/karma/generation.  A guest that is a copy of one which called `checkpoint` does so before that
 * call's caller goes on.
 */

#include "driver.h"

#include <linux/acpi.h>
#include <linux/etherdevice.h>
#include <linux/io.h>
#include <linux/netdevice.h>
#include <linux/random.h>
#include <linux/rtnetlink.h>
#include <linux/slab.h>
#include <linux/stop_machine.h>
#include <linux/timekeeping.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_net.h>

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

void karma_restored(void)
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
		karma_notify_generation();
	}
	mutex_unlock(&karma_generation_lock);
}

/*
 * With all CPUs here and interrupts off: what comes next in a copy finds that its random numbers have had its id.  They
 * are reseeded by karma_restored(), before any program runs.
 */
static int karma_call_checkpoint(void *unused)
{
	long ret = karma_call(KARMA_CALL_checkpoint, 0, 0);

	if (ret >= 0 && karma_ask_generation() &&
	    karma_generation_buffer->generation != karma_generation_known)
		add_device_randomness(karma_generation_buffer->id, sizeof(karma_generation_buffer->id));
	return ret;
}

static DEFINE_MUTEX(karma_checkpoint_lock);

int karma_checkpoint(void)
{
	int ret = -EBUSY;

	mutex_lock(&karma_checkpoint_lock);
	if (!karma_have_devices()) {
		mutex_lock(&karma_generation_lock);
		ret = stop_machine(karma_call_checkpoint, NULL, NULL);
		mutex_unlock(&karma_generation_lock);
		karma_restored();
		karma_add_devices();
	}
	mutex_unlock(&karma_checkpoint_lock);
	return ret;
}

/* Before there are events. */
void karma_add_generation(void)
{
	if (!(karma_features & KARMA_FEATURE_GENERATION))
		return;
	karma_generation_buffer = kzalloc(sizeof(*karma_generation_buffer), GFP_KERNEL);
	if (karma_ask_generation())
		karma_generation_known = karma_generation_buffer->generation;
}

void karma_remove_generation(void)
{
	kfree(karma_generation_buffer);
}

u64 karma_known_generation(void)
{
	return READ_ONCE(karma_generation_known);
}

int karma_get_name(char *name)
{
	int ret = -ENODEV;

	mutex_lock(&karma_generation_lock);
	if (karma_ask_generation()) {
		memcpy(name, karma_generation_buffer->name, KARMA_NAME_BYTES);
		ret = 0;
	}
	mutex_unlock(&karma_generation_lock);
	return ret;
}
