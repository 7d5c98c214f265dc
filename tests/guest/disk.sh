# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash disable=SC2034,SC2154,SC2016
# (the library's variables; the guest's shell expands what we quote)
#
# Disks: what the guest wrote and synced is there, whatever happened; faults reach the guest.

test_command_runs_on_the_disks_root() {
	mkdir root
	make_busybox_root root
	echo "from the disk" >root/data/file
	make_disk disk 32M root
	guest --disk disk -- cat /data/file
	expect_status 0
	expect_out "from the disk"
}

test_root_is_found_by_the_names_of_its_partition() {
	local uuid=a0b1c2d3-e4f5-0617-2839-4a5b6c7d8e9f
	mkdir root
	make_busybox_root root
	link_busybox root sed grep hexdump findfs
	make_disk system 24M root
	/sbin/tune2fs -L 'a system' -U 01234567-89ab-cdef-0123-456789abcdef system >tune2fs.log
	truncate -s 32M gpt mbr
	/sbin/sfdisk -q gpt <<-END
		label: gpt
		size=1M, name=first
		size=24M, name="the root", uuid=$uuid
	END
	dd if=system of=gpt bs=1M seek=2 conv=notrunc,sparse status=none
	# As a disk is left that was GPT once.
	/sbin/sfdisk -q mbr <<-END
		label: gpt
		size=1M, uuid=11111111-2222-3333-4444-555555555555
	END
	/sbin/sfdisk -q --wipe never mbr <<-END
		label: dos
		label-id: 0x0ee0abcd
		mbr1: size=1M
		mbr2: size=20M, type=5
		mbr5: size=1M
	END
	# What PID 1 found the root by finds the others.
	guest --disk mbr --disk gpt,ro --cmdline "root=PARTUUID=${uuid^^}" -- sh -c '
		for name in magic number partition_uuid find_disk; do
			eval "$(sed -n "/^$name() /,/^}/p" /proc/1/root/init)"
		done
		for root in PARTUUID=0ee0abcd-05 PARTUUID=11111111-2222-3333-4444-555555555555 \
			"PARTLABEL=the root" "LABEL=a system" UUID=01234567-89ab-cdef-0123-456789abcdef vda1; do
			find_disk "$root" 2>/dev/null || disk=none
			echo "$disk"
		done'
	expect_status 0
	[ "$(paste -sd ' ' out)" = '/dev/vda5 none /dev/vdb2 /dev/vdb2 /dev/vdb2 /dev/vda1' ] ||
		die "found: $(cat out err)"
}

test_200_mb_written_and_synced_read_back_equal_after_a_second_boot() {
	mkdir root
	make_busybox_root root
	make_disk disk 400M root
	guest --disk disk -- sh -c '
		dd if=/dev/urandom of=/data/big bs=1M count=200 conv=fsync 2>/dev/null &&
		sha256sum </data/big'
	expect_status 0
	cp out written
	guest --disk disk -- sh -c 'sha256sum </data/big'
	expect_status 0
	cmp written out || die "read back: $(cat out), written: $(cat written)"
	check_disk disk
}

test_kill_9_of_the_monitor_loses_nothing_that_was_synced() {
	mkdir root
	make_busybox_root root
	make_disk disk 128M root
	# Each record is told on the console only after it is on the disk.
	# shellcheck disable=SC2016 # the guest's variables
	start_guest --kernel "$KARMA_KERNEL" --initrd "$INITRAMFS" --disk disk -- sh -c '
		i=0
		while :; do
			i=$((i + 1))
			dd if=/dev/zero of=/data/filler bs=64k count=4 conv=notrunc 2>/dev/null &
			echo "record $i" | dd of=/data/record.$i conv=fsync 2>/dev/null &&
				sync && echo "synced $i"
		done'
	wait_for "synced 20" 100
	kill -9 "$guest_pid"
	end_guest
	[ "$status" = 137 ] || die "status $status"
	last=$(sed -n 's/^synced \([0-9]*\)$/\1/p' out | tail -n 1)
	# shellcheck disable=SC2016
	guest --disk disk -- sh -c '
		for i in $(seq 1 '"$last"'); do
			[ "$(cat /data/record.$i)" = "record $i" ] || { echo "lost $i"; exit 9; }
		done
		echo "all '"$last"'"'
	expect_status 0
	expect_out "all $last"
}

test_read_only_disk_is_not_written() {
	mkdir root
	make_busybox_root root
	make_disk disk 32M root
	cp disk before
	guest --disk disk,ro -- sh -c 'echo x >/data/file'
	expect_status 1
	expect_in err "Read-only file system"
	cmp disk before || die "the image changed"
}

test_serial_is_seen_in_the_guest() {
	truncate -s 1M disk
	guest --disk disk,serial=KARMA-1 --cmdline root= -- sh -c 'echo $(cat /sys/block/vda/serial)'
	expect_status 0
	expect_out "KARMA-1"
}

test_discard_frees_space_on_the_host() {
	mkdir root
	make_busybox_root root
	make_disk disk 64M root
	guest --disk disk -- sh -c '
		dd if=/dev/urandom of=/data/big bs=1M count=40 conv=fsync 2>/dev/null && rm /data/big' ||
		die "no guest"
	before=$(stat -c %b disk)
	guest --disk disk -- sh -c 'fstrim /'
	expect_status 0
	after=$(stat -c %b disk)
	[ $((before - after)) -gt $((30 * 2048)) ] || die "blocks: $before before, $after after"
	check_disk disk
}

test_full_host_file_system_is_an_io_error_and_the_guest_goes_on() {
	[ "$(id -u)" = 0 ] || skip "needs root, to mount a small file system"
	mkdir small
	mount -t tmpfs -o size=16M small small
	trap 'umount -l small; clean_up' EXIT
	truncate -s 64M small/disk
	guest --disk small/disk --cmdline root= -- sh -c '
		dd if=/dev/zero of=/dev/vda bs=1M count=64 conv=fsync; echo "dd gave $?"
		dd if=/dev/zero of=/dev/vda bs=1M count=4 conv=fsync; echo "dd gave $?"'
	expect_status 0
	expect_in err "I/O error"
	expect_in out "dd gave 1"
	expect_in out "dd gave 0"
	expect_in err "disk vda: write at byte .* failed: No space left on device"
}

test_block_device_is_a_disk() {
	[ "$(id -u)" = 0 ] || skip "needs root, for a loop device"
	truncate -s 16M image
	loop=$(losetup -f --show image) || skip "no loop device"
	trap 'losetup -d "$loop"; clean_up' EXIT
	guest --disk "$loop" --cmdline root= -- sh -c '
		echo "to the device" | dd of=/dev/vda conv=fsync 2>/dev/null'
	expect_status 0
	head -c 13 image >got
	[ "$(cat got)" = "to the device" ] || die "image holds $(cat got)"
}

test_block_sizes_are_the_devices() {
	[ "$(id -u)" = 0 ] || skip "needs root, for a loop device"
	truncate -s 16M image
	loop=$(losetup -f --show --sector-size 4096 image) || skip "no loop device of 4 KiB sectors"
	trap 'losetup -d "$loop"; clean_up' EXIT
	guest --disk "$loop",direct --cmdline root= -- sh -c '
		cd /sys/block/vda/queue
		echo $(cat logical_block_size physical_block_size minimum_io_size discard_granularity \
			max_segments max_segment_size)
		dd if=/dev/zero of=/dev/vda bs=4k count=1 seek=1 oflag=direct 2>/dev/null && echo written'
	expect_status 0
	expect_out "$(echo 4096 4096 4096 "$(cat "/sys/block/${loop##*/}/queue/discard_granularity")" \
		254 1048576; echo written)"
}

test_disk_grows_under_a_running_guest() {
	truncate -s 16M disk
	start_guest --kernel "$KARMA_KERNEL" --initrd "$INITRAMFS" --disk disk --cmdline root= -- sh -c '
		size() { echo "size $(($(cat /sys/block/vda/size) / 2048))"; }
		size
		read go
		until [ "$(size)" = "size 48" ]; do sleep 0.1; done
		size
		echo "behind the old end" | dd of=/dev/vda bs=1M seek=40 conv=fsync,notrunc 2>/dev/null
		echo "written: $?"
		read go
		size
		dd if=/dev/vda of=/dev/null bs=1M skip=40 count=1 iflag=direct 2>/dev/null || echo "read fails"'
	wait_for "size 16" 100
	truncate -s 48M disk
	kill -HUP "$guest_pid"
	send go
	wait_for "size 48" 20
	wait_for "written: 0" 20
	expect_in err "disk vda: has 50331648 bytes now"
	[ "$(tail -c +41943041 disk | head -n 1)" = "behind the old end" ] || die "it is not in the file"
	# Shorter: the guest is not told, and only what is gone fails.
	truncate -s 32M disk
	kill -HUP "$guest_pid"
	until printed "has only 33554432 bytes" err; do nap 0.1; done
	send go
	wait_for "read fails" 20
	[ "$(grep -c "size 48" out)" = 2 ] || die "the size changed: $(cat out)"
	end_guest
	expect_status 0
}

test_restarted_guest_sees_the_size_of_then() {
	truncate -s 32M disk
	start_guest --kernel "$KARMA_KERNEL" --initrd "$INITRAMFS" --disk disk --cmdline root= \
		--reboot restart -- sh -c 'cat /sys/block/vda/size; read go; busybox reboot; sleep 100'
	wait_for "^65536" 100
	truncate -s 16M disk
	send go
	wait_for "^32768" 100
	kill -INT "$guest_pid"
	end_guest
	[ "$status" = 130 ] || die "status $status"
}

test_file_system_grows_with_its_disk() {
	[ -x /sbin/resize2fs ] || skip "no resize2fs"
	mkdir root
	make_busybox_root root
	for file in /sbin/resize2fs $(ldd /sbin/resize2fs | grep -o '/[^ ]*'); do
		install -D "$file" "root$file"
	done
	make_disk disk 32M root
	start_guest --kernel "$KARMA_KERNEL" --initrd "$INITRAMFS" --disk disk -- sh -c '
		echo ready
		read go
		while [ "$(cat /sys/block/vda/size)" != 131072 ]; do sleep 0.1; done
		resize2fs /dev/vda && dd if=/dev/zero of=/data/big bs=1M count=40 conv=fsync 2>/dev/null &&
			echo "40 MiB fit"'
	wait_for ready 100
	truncate -s 64M disk
	kill -HUP "$guest_pid"
	send go
	wait_for "40 MiB fit" 60
	end_guest
	expect_status 0
	check_disk disk
}

test_several_disks_come_in_order() {
	truncate -s 1M a
	truncate -s 2M b
	truncate -s 3M c
	guest --disk a --disk b --disk c,ro --cmdline root= -- \
		sh -c 'cat /sys/block/vd[abc]/size /sys/block/vd[abc]/ro'
	expect_status 0
	expect_out "$(printf '2048\n4096\n6144\n0\n0\n1')"
}

test_an_image_in_use_is_refused() {
	truncate -s 1M disk
	flock disk sleep 60 &
	guest_pid=$!
	nap 0.5
	guest --disk disk -- true
	expect_status 125
	expect_in err "in use by another guest"
	# By itself, it isn't another.
	truncate -s 1M twice base
	ln -s twice link
	for disks in "twice --disk link" "twice,ro --disk twice" "twice,overlay=link" \
		"base,overlay=one --disk twice,overlay=one"; do
		# shellcheck disable=SC2086 # several words are meant
		guest --disk $disks -- true
		expect_status 125
		expect_in err "is given twice"
	done
}

test_no_mmio_and_only_the_stock_kernels_port_probes() {
	mkdir root
	make_busybox_root root
	make_disk disk 32M root
	guest --disk disk --stats -- sh -c 'cat /bin/busybox | sha256sum; echo x >/data/x; sync'
	expect_status 0
	[ "$(counter exit.mmio)" = 0 ] || die "MMIO exits: $(counter exit.mmio)"
	[ "$(counter exit.io)" -le 8 ] || die "port exits: $(counter exit.io)"
	[ "$(counter hypercall.queue_notify)" -gt 0 ] || die "no notification was counted"
	[ "$(counter hypercall.unknown)" = 0 ] || die "unknown calls: $(counter hypercall.unknown)"
}

# What the host has in memory is done when the notification returns, which then says so.
test_reads_one_by_one_take_no_interrupt() {
	truncate -s 4M disk
	cat disk >/dev/null
	for cpus in 1 2; do
		guest --cpus $cpus --disk disk --cmdline root= --stats -- \
			dd if=/dev/vda of=/dev/null bs=4k count=1000 iflag=direct
		expect_status 0
		[ "$(counter vda.request.answers)" -ge 950 ] || die "answers: $(counter vda.request.answers)"
		[ "$(counter vda.request.interrupts)" -le 50 ] || die "interrupts: $(counter vda.request.interrupts)"
	done
}

# By the guest's clock, and a lower bound alone: a slow host makes it only longer.
test_limit_of_requests_holds_a_disk_back() {
	truncate -s 4M disk
	guest --disk disk,iops=50,burst=1 --cmdline root= --stats -- sh -c '
		hundredths() { sed "s/ .*//; s/[.]//; s/^0*//" /proc/uptime; }
		from=$(hundredths)
		dd if=/dev/vda of=/dev/null bs=4k count=150 iflag=direct 2>/dev/null || exit 9
		echo $(($(hundredths) - from))'
	expect_status 0
	[ "$(cat out)" -ge 190 ] || die "150 reads took $(cat out) hundredths of a second"
	[ "$(counter vda.limited)" -gt 0 ] || die "vda.limited is $(counter vda.limited)"
}

test_guest_whose_disk_is_held_back_can_be_ended() {
	truncate -s 4M disk
	start_guest --kernel "$KARMA_KERNEL" --initrd "$INITRAMFS" --disk disk,bps=16K \
		--cmdline root= -- sh -c '
		dd if=/dev/vda of=/dev/null bs=1M count=4 iflag=direct 2>/dev/null &
		sleep 1; echo begun; wait'
	wait_for begun 100
	kill -INT "$guest_pid"
	end_guest
	[ "$status" = 130 ] || die "status $status"
}
