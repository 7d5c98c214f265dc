# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash disable=SC2034,SC2154,SC2016 # variables of the library; the guest expands
#
# A share does what the host's directory does, by the conformance test on both; tests/share/differences has what
# differs, and why.

test_share_conformance() {
	[ "$(id -u)" = 0 ] || skip "needs to be root, to mount an image"
	make_disk image 512M
	mkdir disk
	mount -o loop image disk
	trap 'umount disk; clean_up' EXIT
	mkdir disk/{host,shared}
	mkdir -p initrd/bin
	cp "$KARMA_ROOT/build/test/conformance" initrd/bin
	(cd initrd && find . | cpio --quiet -o -H newc) >conformance.img
	LIMIT=380
	guest --initrd conformance.img --share "$PWD/disk/shared:share,rw" -- sh -c '
		mkdir /tmp/mnt && mount -t virtiofs share /tmp/mnt && conformance /tmp/mnt --entries 200'
	expect_status 0
	"$KARMA_ROOT/tests/share/compare" --known "$KARMA_ROOT/tests/share/differences" disk/host out --entries 200 >&2
}
