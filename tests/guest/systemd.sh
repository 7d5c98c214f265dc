# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash disable=SC2034,SC2154 # variables of the tests
#
# Guests as units of a real systemd, which runs in a container here.

# A Debian root with systemd, in memory, that has Karma installed.  Sets root.
make_systemd_root() {
	local loop

	[ "$(id -u)" = 0 ] || skip "needs root"
	mkdir lower upper root
	loop=$(losetup -f --show -r "$KARMA_ROOT/build/test/debian.img") || skip "no loop device"
	trap 'umount -l root lower upper; losetup -d '"$loop"'; clean_up' EXIT
	mount -t ext4 -o ro,noload "$loop" lower
	mount -t tmpfs upper upper
	mkdir upper/upper upper/work
	mount -t overlay -o lowerdir=lower,upperdir=upper/upper,workdir=upper/work overlay root
	cp -a "$KARMA_ROOT/build/test/installed/." root
	mkdir -p "root/usr/local/lib/karma/guest/$RELEASE"
	cp "$INITRAMFS" "root/usr/local/lib/karma/guest/$RELEASE"
	mkdir -p root/boot
	cp "$KARMA_KERNEL" root/boot
	# As packages do it.
	chroot root systemd-sysusers karma.conf
}

test_systemd_starts_and_stops_guests() {
	make_systemd_root
	"$KARMA_ROOT/tests/systemd/boot" root "$KARMA_ROOT/tests/systemd/guests" \
		start users kill stop wrong security
}
