# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash disable=SC2034,SC2154,SC2016
# (the library's variables; the guest's shell expands what we quote)
#
# Karma's own guest kernel (scripts/make-guest-kernel): all by hypercalls, and no access to a port
# or to absent memory from its first instruction to the guest's end.  Skipped where it isn't built.

OWN=$KARMA_ROOT/build/guest

# own vmlinux|bzImage OPTION...: as guest does, but with that kernel, strictly.
own() {
	local image=$OWN/$1
	shift
	[ -r "$image" ] || skip "no $image: make guest-kernel"
	KARMA_KERNEL=$image INITRAMFS=$OWN/initramfs.img guest --strict --stats "$@"
}

expect_no_access() {
	local name
	for name in exit.io exit.mmio exit.io_acpi hypercall.unknown; do
		[ "$(counter $name)" = 0 ] || die "$name is $(counter $name)"
	done
	[ "$(counter exit.hypercall)" -gt 0 ] || die "no hypercall was counted"
}

test_own_kernel_as_bzimage_touches_no_port_and_no_mmio() {
	mkdir root
	make_busybox_root root
	make_disk disk 32M root
	own bzImage --disk disk -- sh -c 'uname -r; echo x >/data/x; sync'
	expect_status 0
	expect_in out "^[0-9.]+-karma"
	expect_no_access
	check_disk disk
}

test_own_kernel_as_vmlinux_touches_no_port_and_no_mmio() {
	own vmlinux -- true
	expect_status 0
	[ ! -s out ] || die "a silent command printed: $(cat out)"
	expect_no_access
}

test_own_kernel_powers_off_and_resets_by_hypercall() {
	local end
	for end in poweroff reboot; do
		own vmlinux -- "$end"
		expect_status 0
		expect_no_access
		[ "$(counter hypercall.power)$(counter hypercall.exit)" = 1 ] || die "$end made no call"
	done
}

test_own_kernel_gives_the_commands_status() {
	own vmlinux -- sh -c 'exit 3'
	expect_status 3
	expect_no_access
}

test_own_kernel_panics_with_126() {
	own vmlinux -- sh -c 'echo c >/proc/sysrq-trigger'
	expect_status 126
	expect_in err "kernel panicked: sysrq triggered crash"
	expect_no_access
}

test_own_kernel_shows_its_first_line() {
	own vmlinux --cmdline loglevel=7 -- true
	expect_status 0
	expect_in out "\[ +0\.000000\] Linux version [0-9.]+-karma"
	[ "$(grep -c "Linux version" out)" = 1 ] || die "the first line shows more than once"
	expect_no_access
}

test_own_kernel_finds_its_initramfs_by_its_release() {
	[ -r "$OWN/bzImage" ] || skip "no $OWN/bzImage: make guest-kernel"
	status=0
	KARMA_GUEST_DIR=$OWN "$KARMA" run --kernel "$OWN/bzImage" --timeout "$LIMIT" -- uname -r \
		>out 2>err || status=$?
	expect_status 0
	expect_in out "-karma$"
}

test_own_kernel_with_four_cpus_and_memory_beyond_the_hole() {
	own vmlinux --cpus 4 --memory 5G -- sh -c 'nproc; grep MemTotal /proc/meminfo'
	expect_status 0
	expect_in out "^4$"
	total=$(sed -n 's/^MemTotal: *\([0-9]*\) kB/\1/p' out)
	[ "$total" -gt $((4800 * 1024)) ] || die "MemTotal is $total kB"
	expect_no_access
}

test_own_kernel_with_little_memory() {
	own bzImage --memory 64M -- true
	expect_status 0
	expect_no_access
}

test_own_kernel_mounts_its_disk_without_an_initramfs() {
	[ -r "$OWN/vmlinux" ] || skip "no $OWN/vmlinux: make guest-kernel"
	mkdir root
	make_busybox_root root
	printf '#!/bin/sh\nmount -t proc proc /proc\necho "root is $(head -n 1 /proc/mounts)"\npoweroff -f\n' \
		>root/init
	chmod 755 root/init
	make_disk disk 32M root
	status=0
	KARMA_GUEST_DIR=/nonexistent "$KARMA" run --kernel "$OWN/vmlinux" --disk disk --strict \
		--stats --cmdline init=/init --timeout "$LIMIT" >out 2>err || status=$?
	expect_status 0
	expect_in out "root is /dev/root / ext4"
	expect_no_access
}

test_own_kernel_boots_debian_to_a_login_and_shuts_down_cleanly() {
	image=$KARMA_ROOT/build/test/debian.img
	[ -r "$OWN/vmlinux" ] || skip "no $OWN/vmlinux: make guest-kernel"
	[ -r "$image" ] || skip "no $image: see tests/guest/make-debian-image"
	cp --sparse=always "$image" disk
	LIMIT=240
	start_guest --kernel "$OWN/vmlinux" --initrd "$OWN/initramfs.img" --disk disk --strict --stats
	wait_for "debian-guest login:" 180
	send root
	wait_for "root@debian-guest:" 60
	send 'echo state: $(systemctl is-system-running --wait); systemctl --failed --no-legend; echo kept >/root/kept; poweroff'
	wait_for "state: running" 60
	end_guest
	expect_status 0
	expect_no_access
	check_disk disk
	[ "$(/sbin/debugfs -R 'cat /root/kept' disk 2>/dev/null)" = kept ] || die "lost /root/kept"
}
