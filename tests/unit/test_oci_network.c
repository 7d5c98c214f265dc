// SPDX-License-Identifier: GPL-2.0-only
/* The network of a container is its guest's: in a network namespace of the test's own, with iproute2. */
#include <errno.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>

#include "../../src/oci/network.h"
#include "guest.h"
#include "karma/util.h"

static char *script;
static size_t script_bytes;
static struct net_options nets[OCI_NETS_MAX];
static size_t count;

/* False where there is no right to it. */
static bool enter_namespace(const char *commands)
{
	return unshare(CLONE_NEWNET) == 0 && system(commands) == 0;
}

static int hand_over(void)
{
	FILE *file = open_memstream(&script, &script_bytes);
	int result = oci_network(nets, &count, file);

	fclose(file);
	return result;
}

static void end(void)
{
	for (size_t i = 0; i < count; i++)
		close(nets[i].fds[0]);
	free(script);
}

START_TEST(an_interface_is_the_guests)
{
	static const char described[] =
		"\tset_up_interface eth0 1400 'eth0'\n"
		"\tip addr add 10.9.0.5/24 dev 'eth0'\n"
		"\tip addr add fd00::5/64 dev 'eth0'\n"
		"\tip -4 route add 10.10.0.0/16 dev 'eth0'\n"
		"\tip -4 route add default via 10.9.0.1 dev 'eth0'\n"
		"\tip -6 route add default via fd00::1 dev 'eth0'\n";
	struct ifreq request = { 0 };
	int tap;

	if (!enter_namespace("exec 2>/dev/null; ip tuntap add eth0 mode tap && ip link set eth0 address 02:00:00:00:00:01 mtu 1400 up &&"
			     "ip addr add 10.9.0.5/24 dev eth0 && ip addr add fd00::5/64 dev eth0 && "
			     "ip route add default via 10.9.0.1 && ip route add 10.10.0.0/16 dev eth0 && "
			     "ip -6 route add default via fd00::1"))
		return;
	ck_assert_int_eq(hand_over(), 0);
	ck_assert_uint_eq(count, 1);
	ck_assert_str_eq(script, described);
	ck_assert_uint_eq(nets[0].mac[5], 1);
	ck_assert_uint_eq(nets[0].mtu, 1400);
	ck_assert_int_eq(ioctl(nets[0].fds[0], TUNGETIFF, &request), 0);
	/* The namespace answers at none of the addresses, has not the MAC any more, and the two are joined. */
	ck_assert_int_ne(system("ip link | grep 'link/ether 02:00:00:00:00:01'"), 0);
	ck_assert_int_eq(system("ip link show karma-br0 | grep -q NOARP"), 0);
	ck_assert_int_eq(system("ip link show eth0 | grep -q 'master karma-br0' && ip link show karma-tap0 | grep -q 'master karma-br0'"),
		0);
	/* It is one guest's. */
	tap = nets[0].fds[0];
	free(script);
	ck_assert_int_eq(hand_over(), -EBUSY);
	ck_assert_uint_eq(count, 0);
	end();
	/* And that of the next when that is gone. */
	close(tap);
	ck_assert_int_eq(hand_over(), 0);
	ck_assert_uint_eq(count, 1);
	ck_assert_str_eq(script, described);
	ck_assert_uint_eq(nets[0].mac[0], 2);
	ck_assert_uint_eq(nets[0].mac[5], 1);
	ck_assert_int_eq(system("ip link show eth0 | grep -q 'master karma-br0'"), 0);
	/* What comes back from the engine's bridge tells nothing. */
	ck_assert_int_eq(system("bridge -d link show dev eth0 | grep -q 'learning off'"), 0);
	end();
}
END_TEST

START_TEST(without_an_interface_there_is_none)
{
	if (!enter_namespace("ip link set lo up"))
		return;
	ck_assert_int_eq(hand_over(), 0);
	ck_assert_uint_eq(count, 0);
	ck_assert_uint_eq(script_bytes, 0);
	end();
}
END_TEST

void oci_add_network(Suite *suite);

void oci_add_network(Suite *suite)
{
	const TTest *const tests[] = {
		an_interface_is_the_guests,
		without_an_interface_there_is_none,
	};

	add_case(suite, "network", NULL, NULL, 20, tests, ARRAY_SIZE(tests));
}
