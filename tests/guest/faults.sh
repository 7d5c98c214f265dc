# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash disable=SC2034,SC2154,SC2016
# (the library's variables; the guest's shell expands what we quote)
#
# Disks that really fail: a device with bad blocks, and a file system without room.

# A block device of 16 MiB over a file, $device; its second quarter is broken.
QUARTER=8192	# sectors
make_bad_device() {	# FILE
	[ "$(id -u)" = 0 ] || skip "needs root, for a device mapper"
	modprobe dm_mod 2>/dev/null || [ -e /dev/mapper/control ] || skip "no device mapper in this kernel"
	PATH=$PATH:/usr/sbin:/sbin
	command -v dmsetup >/dev/null || skip "dmsetup is not installed: run scripts/dependencies test"
	modprobe loop 2>/dev/null || true
	name=karma-test-$$-$RANDOM
	loop=$(losetup -f --show "$1") || skip "no loop device"
	trap remove_bad_device EXIT
	dmsetup create "$name" <<-END || die "no device by dmsetup"
	0 $QUARTER linear $loop 0
	$QUARTER $QUARTER error
	$((2 * QUARTER)) $((2 * QUARTER)) linear $loop $((2 * QUARTER))
	END
	# The kernel's own name: another is there only where udev makes it.
	device=/dev/$(dmsetup info -c --noheadings -o blkdevname "$name")
}

# Under the guest that uses the device.
change_device() {	# TABLE
	dmsetup load "$name" --table "$1"
	dmsetup suspend "$name"
	dmsetup resume "$name"
}

# As if the bad blocks had been replaced.
mend_bad_device() { change_device "0 $((4 * QUARTER)) linear $loop 0"; }

remove_bad_device() {
	clean_up
	[ -z "${guest_pid-}" ] || wait "$guest_pid" || true
	dmsetup remove --retry "$name" || true
	losetup -d "$loop"
}

# Blocks of 4 KiB: 0 to 1023 are good, 1024 to 2047 bad.  A request each, past the guest's cache.
test_bad_blocks_are_the_guests_io_errors_until_they_are_mended() {
	truncate -s 16M image
	echo "good" | dd of=image bs=4k seek=1023 conv=notrunc status=none
	echo "mended" | dd of=image bs=4k seek=1024 conv=notrunc status=none
	make_bad_device image
	start_guest --kernel "$KARMA_KERNEL" --initrd "$INITRAMFS" --disk "$device" --cmdline root= -- sh -c '
		look() { dd if=/dev/vda bs=4k skip=$1 count=1 iflag=direct 2>/tmp/err | head -n 1; }
		echo "before: $(look 1023)"
		echo "bad: $(look 1024) $(grep -o "[^ ]*/[^ ]* error" /tmp/err)"
		echo "before: $(look 1023)"
		read go
		dd if=/dev/zero of=/dev/vda bs=4k seek=1030 count=1 oflag=direct conv=fsync 2>/dev/null
		echo "bad write and fsync: $?"
		read go
		echo "after: $(look 1024)"
		echo new | dd of=/dev/vda bs=4k seek=1031 count=1 conv=fsync 2>/dev/null
		echo "write and fsync: $?"'
	wait_for "before: good.*|bad: " 100
	wait_for "bad: +(Input/output|I/O) error" 20
	[ "$(grep -c 'disk vda: ' err)" = 1 ] || { cat err >&2; die "a read failed, and Karma says more or less"; }
	expect_in err "disk vda: read at byte 4194304 failed: Input/output error"
	send go
	# The write is in the host's cache; what can't get from there to the disk, the guest must know.
	wait_for "bad write and fsync: 1" 20
	expect_in err "disk vda: (flush|write) at byte .* failed: Input/output error"
	mend_bad_device
	send go
	wait_for "write and fsync: 0" 20
	end_guest
	expect_status 0
	[ "$(grep -c 'before: good' out)" = 2 ] || { cat out >&2; die "good blocks were not read"; }
	expect_in out "after: mended"
	[ "$(dd if=image bs=4k skip=1031 count=1 status=none | head -n 1)" = new ] ||
		die "what the guest wrote and synced is not on the mended device"
}

# A device that is pulled out under the guest, and put back.
test_device_that_vanishes_is_io_errors_until_it_is_back() {
	truncate -s 16M image
	echo "first" | dd of=image bs=4k seek=7 conv=notrunc status=none
	make_bad_device image
	mend_bad_device
	start_guest --kernel "$KARMA_KERNEL" --initrd "$INITRAMFS" --disk "$device",direct --cmdline root= \
		-- sh -c '
		look() { dd if=/dev/vda bs=4k skip=7 count=1 iflag=direct 2>/dev/null | head -n 1; }
		put() { { echo "$1"; cat /dev/zero; } | dd of=/dev/vda bs=4k seek=7 count=1 \
			iflag=fullblock oflag=direct conv=fsync 2>/dev/null; }
		echo "there: $(look)"
		read go
		echo "gone: $(look)"
		put lost; echo "write to what is gone: $?"
		read go
		echo "back: $(look)"
		put second; echo "write: $?"
		echo "at last: $(look)"'
	wait_for "there: first" 100
	change_device "0 $((4 * QUARTER)) error"
	send go
	wait_for "write to what is gone: 1" 20
	expect_in out "^gone: $"
	expect_in err "disk vda: read at byte .* failed: Input/output error"
	expect_in err "disk vda: write at byte .* failed: Input/output error"
	mend_bad_device
	send go
	wait_for "at last: second" 20
	end_guest
	expect_status 0
	expect_in out "^back: first$"
	expect_in out "^write: 0$"
	[ "$(dd if=image bs=4k skip=7 count=1 status=none | head -n 1)" = second ] ||
		die "what the guest wrote and synced is not on the device"
}

# Room for the image's first half or so; the guest writes whole megabytes, past its own cache.
test_full_disk_keeps_what_was_synced_and_goes_on_when_there_is_room() {
	[ "$(id -u)" = 0 ] || skip "needs root, to mount a small file system"
	modprobe loop 2>/dev/null || true
	mkdir small
	truncate -s 12M file-system
	/sbin/mke2fs -q -t ext4 -m 0 -O ^has_journal file-system
	mount -o loop file-system small || skip "no loop device or ext4 in this kernel"
	trap 'clean_up; umount -l small' EXIT
	truncate -s 10M small/disk
	dd if=/dev/zero of=small/filler bs=1M count=6 conv=fsync status=none
	start_guest --kernel "$KARMA_KERNEL" --initrd "$INITRAMFS" --disk small/disk --cmdline root= -- sh -c '
		put() { tr "\0" $1 </dev/zero | dd of=/dev/vda bs=1M iflag=fullblock oflag=direct conv=fsync \
			seek=$2 count=$3 2>/dev/null; }
		sum() { dd if=/dev/vda bs=1M iflag=direct skip=$1 count=$2 2>/dev/null | sha256sum; }
		put a 0 2
		echo "synced: $?"
		before=$(sum 0 2)
		put b 2 8
		echo "too much: $?"
		[ "$(sum 0 2)" = "$before" ] && echo "synced before: kept"
		read go
		put c 2 8
		echo "with room: $?"'
	wait_for "too much: 1" 100
	wait_for "synced before: kept" 20
	expect_in out "synced: 0"
	expect_in err "disk vda: write at byte .* failed: No space left on device"
	rm small/filler
	sync -f small
	send go
	wait_for "with room: 0" 30
	end_guest
	expect_status 0
	{ tr '\0' a </dev/zero | head -c 2M; tr '\0' c </dev/zero | head -c 8M; } | cmp - small/disk ||
		die "the image is not what the guest wrote"
}
