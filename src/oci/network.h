/* SPDX-License-Identifier: GPL-2.0-only */
/* The network of a container, handed over to its guest. */
#ifndef KARMA_OCI_NETWORK_H
#define KARMA_OCI_NETWORK_H

#include <stddef.h>
#include <stdio.h>

#include "karma/net.h"

#define OCI_NETS_MAX 8u

/*
 * In the container's network namespace, as root of it: join each Ethernet interface that is up to a TAP, for --net fd=N, and
 * print the script that gives the guest its addresses and routes.  0, or a negative errno with a message printed.
 */
int oci_network(struct net_options nets[OCI_NETS_MAX], size_t *count, FILE *script);

#endif
