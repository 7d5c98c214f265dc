# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash disable=SC2034,SC2154,SC2016
# (the library's variables; the guest's shell expands what we quote)
#
# A directory of the host's as the guest's root.

# Memory that the server of the root shares is of small pages, which take a soft host their time.
LIMIT_OF_ROOTS=300

make_tree() {
	LIMIT=$LIMIT_OF_ROOTS
	make_busybox_root tree
	link_busybox tree id env pwd rm mkdir readlink uname
	echo first >tree/file
}

test_root_keeps_no_change_but_those_of_rw() {
	make_tree
	guest --memory 192M --root tree --rw tree/data -- sh -c 'cat /file; echo second >/file; cat /file; echo kept >/data/file
		rm /bin/tail && mkdir /made; exit 5'
	expect_status 5
	expect_out 'first
second'
	[ "$(cat tree/file)" = first ] || die "the root has changed: $(cat tree/file)"
	if [ ! -e tree/bin/tail ] || [ -e tree/made ]; then die "the root has changed"; fi
	[ "$(cat tree/data/file)" = kept ] || die "what --rw names has not changed"
}

test_root_of_the_host_runs_its_programs_where_the_caller_is() {
	# /tmp is the guest's own, unless it is named.
	mkdir work
	LIMIT=$LIMIT_OF_ROOTS
	status=0
	env -C work "$KARMA" run --kernel "$KARMA_KERNEL" --initrd "$INITRAMFS" --timeout "$LIMIT" --memory 192M --root / --rw . -- \
		bash -c 'pwd; uname -r; echo made >file; [ -w /proc/sysrq-trigger ] && [ -c /dev/hvc0 ] && echo root' >out 2>err || status=$?
	expect_status 0
	expect_out "$PWD/work
$RELEASE
root"
	[ "$(cat work/file)" = made ] || die "no file from the guest"
}

test_root_hides_no_directory_silently() {
	make_tree
	mkdir tree/tmp/work
	status=0
	env -C tree/tmp/work "$KARMA" run --kernel "$KARMA_KERNEL" --initrd "$INITRAMFS" --timeout "$LIMIT" \
		--memory 192M --root "$PWD/tree" -- pwd >out 2>err || status=$?
	expect_status 123
	expect_in err 'the working directory /tmp/work: No such file or directory: .*give --rw /tmp/work'
}

test_root_command_runs_as_its_caller() {
	let_user_in
	make_tree
	echo secret >tree/secret
	chmod 600 tree/secret
	mkdir tree/data/own
	chown 65534:65534 tree/data/own
	chmod -R go+rX tree/bin tree/data
	become=(setpriv --reuid 65534 --regid 65534 --groups "100,65534")
	status=0
	HOME=/data LANG=C.UTF-8 "${become[@]}" "$KARMA" run --kernel "$KARMA_KERNEL" --initrd "$INITRAMFS" \
		--timeout "$LIMIT" --memory 192M --root tree --rw tree/data/own -- sh -c 'id -u; id -g; id -G; echo "$HOME $LANG"
		cat /secret; echo made >/data/own/file && echo again >/dev/stdout' >out 2>err || status=$?
	expect_status 0
	expect_out '65534
65534
65534 100
/data C.UTF-8
again'
	expect_in err 'secret.*Permission denied'
	[ "$(stat -c %u tree/data/own/file)" = 65534 ] || die "not the caller's file"
}

test_root_without_a_command_is_a_shell() {
	make_tree
	status=0
	echo 'echo "from $0"; exit 4' | SHELL=/bin/sh "$KARMA" run --kernel "$KARMA_KERNEL" --initrd "$INITRAMFS" \
		--timeout "$LIMIT" --memory 192M --root tree >out 2>err || status=$?
	expect_status 4
	expect_out 'from /bin/sh'
}

test_root_kernel_without_an_option_is_told_which() {
	make_tree
	# The initramfs without the module, and an archive with lists that do not have it.
	mkdir -p lists
	(cd lists && tail -c +513 "$INITRAMFS" | gzip -dc | cpio --quiet -id 'lib/modules/*/modules.*')
	sed -i /virtiofs/d lists/lib/modules/*/modules.*
	(cd lists && find . | cpio --quiet -o -H newc) >lists.cpio
	guest --initrd lists.cpio --memory 192M --root tree -- true
	expect_status 123
	expect_in err 'the kernel has no virtiofs: build it with CONFIG_FUSE_FS and CONFIG_VIRTIO_FS'
}

test_root_of_a_kernel_that_is_not_installed_has_its_modules() {
	make_tree
	local modules
	modules=$("$KARMA_ROOT/scripts/debian-kernel" "$RELEASE")/lib/modules
	mkdir -p cache
	status=0
	KARMA_GUEST_DIR=$GUEST_DIR KARMA_CACHE_DIR=$PWD/cache "$KARMA" run --kernel "$KARMA_KERNEL" \
		--modules "${modules%/lib/modules}" --memory 192M --root tree --timeout "$LIMIT" -- \
		sh -c 'ls "/lib/modules/$(uname -r)/kernel/fs/xfs"' >out 2>err || status=$?
	expect_status 0
	expect_out xfs.ko
}
