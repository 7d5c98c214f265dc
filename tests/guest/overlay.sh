# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash disable=SC2034,SC2154,SC2016
# (the library's variables; the guest's shell expands what we quote)
#
# Overlays: what guests write is theirs, and the base stays as it is.

make_base() {	# FILE
	mkdir root
	make_busybox_root root
	echo "from the base" >root/data/file
	make_disk "$1" 64M root
	sha256sum "$1" >base.sum
}

test_overlay_keeps_what_the_guest_wrote_and_the_base_stays() {
	make_base base
	guest --disk base,overlay=changes -- sh -c '
		cat /data/file
		echo changed >/data/file
		dd if=/dev/urandom of=/data/big bs=1M count=20 conv=fsync 2>/dev/null
		sha256sum </data/big'
	expect_status 0
	expect_in out "^from the base$"
	sum=$(tail -n 1 out)
	guest --disk base,overlay=changes -- sh -c 'cat /data/file; sha256sum </data/big; rm /data/big; fstrim /'
	expect_status 0
	expect_out "$(printf 'changed\n%s' "$sum")"
	sha256sum -c base.sum >&2 || die "the base was changed"
	# Without the overlay all is as it was; the base is written to, and so fits no more.
	guest --disk base,ro -- cat /data/file
	expect_out "from the base"
	touch base
	guest --disk base,overlay=changes -- true
	expect_status 125
	expect_in err "overlay changes: the base was changed since"
}

test_two_guests_share_a_base() {
	make_base base
	start_guest --kernel "$KARMA_KERNEL" --initrd "$INITRAMFS" --disk base,overlay=one -- sh -c '
		echo "of one" >/data/file; sync; echo written; read go; cat /data/file'
	wait_for written 100
	"$KARMA" run --kernel "$KARMA_KERNEL" --initrd "$INITRAMFS" --timeout "$LIMIT" --disk base,overlay=two \
		-- sh -c 'cat /data/file; echo "of two" >/data/file; sync' >second 2>&1 || die "$(cat second)"
	grep -qx "from the base" second || die "the second guest read: $(cat second)"
	# One overlay is for one guest.
	"$KARMA" run --kernel "$KARMA_KERNEL" --initrd "$INITRAMFS" --disk base,overlay=one -- true 2>refused &&
		die "two guests have one overlay"
	grep -q "overlay one: in use by another guest" refused || die "$(cat refused)"
	send go
	wait_for "of one" 20
	end_guest
	expect_status 0
	guest --disk base,overlay=two -- cat /data/file
	expect_out "of two"
	sha256sum -c base.sum >&2 || die "the base was changed"
}

test_kill_9_loses_nothing_that_was_synced_to_an_overlay() {
	make_base base
	start_guest --kernel "$KARMA_KERNEL" --initrd "$INITRAMFS" --disk base,overlay=changes -- sh -c '
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
	guest --disk base,overlay=changes -- sh -c '
		for i in $(seq 1 '"$last"'); do
			[ "$(cat /data/record.$i)" = "record $i" ] || { echo "lost $i"; exit 9; }
		done
		echo "all '"$last"'"'
	expect_status 0
	expect_out "all $last"
	sha256sum -c base.sum >&2 || die "the base was changed"
}

test_overlay_without_room_is_an_io_error() {
	[ "$(id -u)" = 0 ] || skip "needs root, to mount a small file system"
	mkdir small
	mount -t tmpfs -o size=8M small small
	trap 'umount -l small; clean_up' EXIT
	truncate -s 64M base
	guest --disk base,overlay=small/changes --cmdline root= -- sh -c '
		dd if=/dev/urandom of=/dev/vda bs=1M count=32 conv=fsync 2>/dev/null; echo "dd gave $?"
		dd if=/dev/vda of=/dev/null bs=1M count=32 iflag=direct 2>/dev/null; echo "read gave $?"'
	expect_status 0
	expect_in out "dd gave 1"
	expect_in out "read gave 0"
	expect_in err "disk vda: write at byte .* failed: No space left on device"
}

test_debian_boots_over_an_overlay() {
	image=$KARMA_ROOT/build/test/debian.img
	[ -f "$image" ] || skip "no $image: run make check"
	guest --memory 1G --disk "$image,overlay=changes" -- sh -c 'dpkg -l | wc -l; echo new >/etc/motd; sync'
	expect_status 0
	[ "$(head -n 1 out)" -gt 50 ] || die "packages: $(cat out)"
	guest --memory 1G --disk "$image,overlay=changes" -- cat /etc/motd
	expect_out new
}
