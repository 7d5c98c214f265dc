# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
#
# The software-emulated host that these tests run in where the machine can't virtualize.

# QEMU's emulated SVM forgets an interrupt at times; another one brings it back.
test_soft_host_is_woken_every_second() {
	[ "${KARMA_SOFT_HOST-}" = 1 ] || skip "not in a soft host"
	words() { sed -n 's/^bytes_received: //p' /sys/kernel/debug/virtio-ports/vport*p1; }
	before=$(words)
	sleep 5
	[ $(($(words) - before)) -ge 15 ] || die "of five words came $(($(words) - before)) bytes"
}
