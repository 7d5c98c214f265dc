# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash disable=SC2034,SC2154
# Disks that are guest memory: DAX, flushes, and files that are cut.

test_pmem_is_a_root_that_is_read_and_written_in_place() {
	mkdir root
	make_busybox_root root
	make_disk disk 32M root -b 4096
	guest --disk disk,pmem --stats -- sh -c '
		mount | grep " / "; cat /bin/busybox | sha256sum; echo written >/data/x; sync'
	expect_status 0
	expect_in out '^/dev/pmem0 on / type ext4 \(.*dax'
	expect_in out "^$(sha256sum <root/bin/busybox)"
	check_disk disk
	[ "$(/sbin/debugfs -R 'cat /data/x' disk 2>/dev/null)" = written ] || die "the file has not what was written"
	[ "$(counter pmem0.flush.requests)" -gt 0 ] || die "no flush"
	[ "$(counter pmem0.errors)" = 0 ] || die "errors: $(counter pmem0.errors)"
	# No request but for flushes, and nothing but memory is touched.
	[ "$(counter hypercall.queue_notify)" -lt 300 ] || die "notifications: $(counter hypercall.queue_notify)"
	[ "$(counter exit.mmio)" = 0 ] || die "MMIO exits: $(counter exit.mmio)"
}

test_pmem_that_is_read_only_or_private_stays_as_it_is() {
	mkdir root
	make_busybox_root root
	"$KARMA_ROOT/scripts/mkerofs" --output disk root
	make_disk other 8M "" -b 4096
	sha256sum disk other >before
	guest --disk disk,pmem,ro --disk other,pmem,private -- sh -c '
		mount | grep " / "; cat /bin/busybox | sha256sum
		mount -t ext4 -o dax=always /dev/pmem1 /data && echo mine >/data/x && sync
		cat /data/x'
	expect_status 0
	expect_in out '^/dev/pmem0 on / type erofs \(ro.*dax=always'
	expect_in out "^$(sha256sum <root/bin/busybox)"
	expect_in out '^mine'
	sha256sum -c --quiet before || die "a file was changed"
}

# The guest reads again and again; the page cache is the file's, so that nothing is left of what was cut off.
test_pmem_that_is_cut_ends_its_guest() {
	truncate -s 8M disk
	start_guest --kernel "$KARMA_KERNEL" --initrd "$INITRAMFS" --disk disk,pmem --cmdline root= -- sh -c '
		echo begun; while dd if=/dev/pmem0 of=/dev/null bs=1M 2>/dev/null; do :; done'
	wait_for begun 100
	truncate -s 1M disk
	end_guest
	[ "$status" = 125 ] || die "status $status"
	expect_in err 'disk disk: .*1048576 bytes of 8388608|disk disk: .*was cut'
}

test_pmem_says_which_file_it_can_not_take() {
	truncate -s 3M odd
	guest --disk odd,pmem -- true
	expect_status 125
	expect_in err 'odd: has 3145728 bytes.*truncate'
}
