# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash disable=SC2034,SC2154,SC2016
# (the library's variables; the guest's shell expands what we quote)
#
# What boots: Debian's kernel as bzImage and as ELF, with much and little memory, to a whole Debian.

test_guest_sees_its_devices_on_karma() {
	truncate -s 1M disk
	guest --disk disk --cmdline root= -- cat /proc/interrupts
	expect_status 0
	expect_in out "karma .*-edge .*karma-virtio0-"
}

test_several_initrds_are_joined() {
	mkdir -p extra
	echo "from the second" >extra/second
	(cd extra && find . | cpio --quiet -o -H newc) >extra.cpio
	guest --initrd extra.cpio -- cat /second
	expect_status 0
	expect_out "from the second"
}

test_initramfs_is_found_by_the_kernels_release() {
	status=0
	KARMA_GUEST_DIR=$KARMA_ROOT/build/guest "$KARMA" run --kernel "$KARMA_KERNEL" \
		--timeout "$LIMIT" -- uname -r >out 2>err || status=$?
	expect_status 0
	expect_out "$RELEASE"
}

test_memory_beyond_the_hole() {
	guest --memory 5G --cmdline nokaslr -- \
		sh -c 'grep MemTotal /proc/meminfo; cat /proc/iomem; grep " _text$" /proc/kallsyms'
	expect_status 0
	total=$(sed -n 's/^MemTotal: *\([0-9]*\) kB/\1/p' out)
	[ "$total" -gt $((4800 * 1024)) ] || die "MemTotal is $total kB"
	expect_in out "^100000000-17fffffff : System RAM"
	expect_in out '^ffffffff81000000 T _text'
}

test_kernels_are_at_random_addresses() {
	# As the command line has no nokaslr; each with its virtual and its physical address.
	for run in 1 2; do
		guest -- sh -c 'grep " _text$" /proc/kallsyms; grep "Kernel code" /proc/iomem'
		expect_status 0
		expect_in out '^ffffffff[89ab][0-9a-f]*00000 T _text$'
		mv out out.$run
	done
	! cmp -s out.1 out.2 || die "twice at the same addresses: $(cat out.1)"
}

test_too_little_memory_is_told() {
	guest --memory 32M -- true
	expect_status 125
	enough=$(sed -n 's/.*give --memory \([0-9]*M\) or more$/\1/p' err)
	[ -n "$enough" ] || die "no hint: $(cat err)"
	guest --memory "$enough" -- true
	expect_status 0
}

test_initramfs_that_does_not_fit_is_told() {
	mkdir big
	truncate -s 60M big/zeroes
	(cd big && find . | cpio --quiet -o -H newc) >big.cpio
	# gzip tells the size, xz does not where Karma looks.
	gzip -1 <big.cpio >big.gz
	xz -0 --check=crc32 <big.cpio >big.xz
	guest --memory 128M --initrd big.gz -- true
	expect_status 125
	expect_in err 'takes 6[0-9] MiB or more with those after it when it is unpacked.*give --memory [0-9]+M or more'
	guest --memory 128M --initrd big.xz -- true
	expect_status 123
	expect_in err 'does not fit into the guest.s memory'
}

test_elf_vmlinux_boots_by_pvh() {
	# The kernel that is packed into the bzImage: setup_sects and payload_offset say where.
	sectors=$(od -An -tu1 -j $((0x1f1)) -N 1 "$KARMA_KERNEL")
	payload=$(od -An -tu4 -j $((0x248)) -N 4 "$KARMA_KERNEL")
	tail -c +$(((sectors + 1) * 512 + payload + 1)) "$KARMA_KERNEL" >payload
	xz -dc --single-stream <payload >vmlinux 2>/dev/null || true
	[ "$(head -c 4 vmlinux | tail -c 3)" = ELF ] || skip "no ELF in $KARMA_KERNEL"
	KARMA_KERNEL=$PWD/vmlinux guest -- uname -r
	expect_status 0
	expect_out "$RELEASE"
}

test_i386_kernel_runs_from_a_disk_to_a_commands_status() {
	local i386=$KARMA_ROOT/build/test/i386
	# In nested page walks QEMU sets the accessed bit in entries where PAE has none, and KVM refuses these.
	if [ "${KARMA_SOFT_HOST-}" = 1 ] && [ "$(cat /sys/module/kvm_amd/parameters/npt 2>/dev/null)" = Y ]; then
		skip "QEMU has a fault with PAE and nested paging: make check-guest-shadow"
	fi
	# Shadow paging and an APIC in memory take long in there.
	LIMIT=300
	make_busybox_root root
	cp "$i386/busybox" root/bin/busybox
	echo "from the disk" >root/data/file
	make_disk disk 32M root
	KARMA_KERNEL=$(echo "$i386"/vmlinuz-*) INITRAMFS=$i386/initramfs.img guest --disk disk --cpus 2 \
		--cmdline 'noisapnp cryptomgr.notests' -- sh -c 'uname -m; nproc; cat /data/file; exit 3'
	expect_status 3
	expect_out "i686
2
from the disk"
}

test_debian_boots_from_its_disk_to_a_login_and_shuts_down_cleanly() {
	image=$KARMA_ROOT/build/test/debian.img
	[ -r "$image" ] || die "no $image: see tests/guest/make-debian-image"
	cp --sparse=always "$image" disk
	LIMIT=240
	start_guest --kernel "$KARMA_KERNEL" --initrd "$INITRAMFS" --disk disk --stats
	wait_for "debian-guest login:" 180
	send root
	wait_for "root@debian-guest:" 60
	send "systemctl is-system-running; findmnt -no SOURCE,FSTYPE /; echo kept >/root/kept; poweroff"
	wait_for "/dev/vda +ext4" 60
	end_guest
	expect_status 0
	[ "$(counter exit.mmio)" = 0 ] || die "MMIO exits: $(counter exit.mmio)"
	check_disk disk
	[ "$(/sbin/debugfs -R 'cat /root/kept' disk 2>/dev/null)" = kept ] || die "lost /root/kept"
}
