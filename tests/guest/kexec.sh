# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash disable=SC2034,SC2154,SC2016
# (the library's variables; the guest's shell expands what we quote)
#
# A kernel that starts another: by kexec under I/O, and that by a panic, to take a crash dump.

# An initrd that runs COMMAND on the disk's root, after so many seconds without a driver.
make_next_initrd() {	# FILE SECONDS COMMAND
	mkdir -p karma
	printf 'karma_tty=0\nset -- %s\n' "$3" >karma/command
	printf '#!/bin/busybox sh\nbusybox sleep %s\nexec /init\n' "$2" >karma/late
	chmod 755 karma/late
	{ find karma | cpio --quiet -o -H newc; cat "$INITRAMFS"; } >"$1"
	rm -r karma
}

# Each prints how many requests the slow disk had; what was under way when the first kernel ended is not
# among them.  The second one gives a device that was not stopped time for 40.
make_kexec_disk() {
	make_busybox_root tree
	cp "$KARMA_ROOT/build/test/kexec" tree/bin
	cp "$KARMA_KERNEL" tree/vmlinuz
	make_next_initrd tree/second.img 20 /bin/second
	make_next_initrd tree/third.img 0 /bin/third
	cat >tree/bin/reads <<-'END'
		#!/bin/sh
		read -r reads rest </sys/block/vdb/stat
		echo "reads $reads"
	END
	cat >tree/bin/first <<-'END'
		#!/bin/sh
		echo disk >/sys/power/state || echo refused
		echo one >/data/one
		kexec load /vmlinuz /second.img "$(cat /proc/cmdline) rdinit=/karma/late" || exit 1
		sync
		i=0
		while [ $i -lt 60 ]; do
			dd if=/dev/vdb of=/dev/null bs=4k count=1 skip=$((i * 8)) iflag=direct 2>/dev/null &
			i=$((i + 1))
		done
		dd if=/dev/zero of=/data/write bs=64k count=200 2>/dev/null &
		sleep 3
		reads
		exec kexec exec
	END
	cat >tree/bin/second <<-'END'
		#!/bin/sh
		echo "second: $(cat /data/one)"
		echo two >/data/two
		kexec panic /vmlinuz /third.img "$(sed 's/crashkernel=[^ ]*//; s/rdinit=[^ ]*/maxcpus=1/' /proc/cmdline)" || exit 1
		sync
		reads
		echo c >/proc/sysrq-trigger
	END
	cat >tree/bin/third <<-'END'
		#!/bin/sh
		echo "third: $(cat /data/two)"
		reads
		dd if=/proc/vmcore of=/data/vmcore bs=64k count=1 2>/dev/null
		exit 9
	END
	link_busybox tree sed
	chmod 755 tree/bin/*
	make_disk disk 128M tree
}

test_kexec_under_io_and_crash_dump() {
	make_kexec_disk
	truncate -s 4M slow
	LIMIT=300
	guest --cpus 2 --disk disk --disk slow,iops=2,burst=1 --stats --cmdline crashkernel=192M --console stdio -- \
		/bin/first
	expect_status 9
	expect_in out "^second: one"
	expect_in out "^third: two"
	reads=$(sed -n 's/^reads //p' out | paste -sd+)
	[ "$(counter vdb.read.requests)" -lt $((reads + 20)) ] ||
		die "$(counter vdb.read.requests) reads, of which kernels know $reads: a device went on after the kexec"
	expect_in out "a guest can neither hibernate nor sleep"
	expect_in out "^refused"
	check_disk disk
	/sbin/debugfs -R 'dump /data/vmcore vmcore' disk 2>/dev/null
	[ "$(head -c 4 vmcore | tail -c 3)" = ELF ] || die "no crash dump: $(od -c vmcore | head -n 3)"
	grep -aq "OSRELEASE=$RELEASE" vmcore || die "the crash dump is of another kernel"
}
