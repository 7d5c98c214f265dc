# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash disable=SC2034,SC2154,SC2016
# (the library's variables; the guest's shell expands what we quote)
#
# The examples of karma(1): each one as the manual has it, in a directory where what it names is there.
#
# A test takes its example by a piece of the text before it; test_every_example_has_a_test counts them.

MANUAL=$KARMA_ROOT/man/karma.1

# Each example in a file of its own, example.N, with the text before it in example.N.text.
extract_examples() {
	sed -n '/^\.Sh EXAMPLES/,/^\.Sh DIAGNOSTICS/p' "$MANUAL" | awk '
		BEGIN { n = 1 }
		/^\.Bd / { inside = 1; next }
		/^\.Ed/ { inside = 0; n++; next }
		inside { gsub(/\\e/, "\\"); gsub(/\\&/, ""); print >("example." n); next }
		!/^\./ { print >("example." n ".text") }'
}

# example TEXT [SED-SCRIPT]: run the one whose text has that, its paths changed by the script.
# In the namespace of the test, if it has one.  What it prints is in out and err; sets $status.
example() {
	local text
	extract_examples
	text=$(grep -lF -- "$1" example.*.text) || die "no example has the text: $1"
	mkdir -p bin
	# What a user has by `make install`.
	printf '%s\n' '#!/bin/sh' "KARMA_GUEST_DIR=$GUEST_DIR exec $KARMA \"\$@\"" >bin/karma
	chmod +x bin/karma
	ln -sf "$KARMA_KERNEL" bzImage
	sed -e "s|/boot/vmlinuz-6.1.0-44-amd64|$KARMA_KERNEL|; ${2-}" "${text%.text}" >run
	status=0
	# Relative, as an ordinary user may not look at what is above.
	PATH=bin:$PATH timeout "$LIMIT" "${KARMA_IN_NS[@]}" bash ./run >out 2>err </dev/null || status=$?
}

# A root that can boot and run commands; init as its /sbin/init.
make_root() {	# IMAGE INIT-LINE...
	local image=$1
	shift
	make_busybox_root root
	# shellcheck disable=SC2046
	link_busybox root $(busybox --list)
	mkdir -p root/sbin root/etc root/srv root/usr/lib/tests root/usr/bin
	printf '%s\n' '#!/bin/sh' "$@" >root/sbin/init
	echo 'NAME="the image"' >root/etc/os-release
	# What a distribution has, and something in the place of what would not work here.
	cp /sbin/mke2fs root/sbin/mkfs.ext4
	ldd /sbin/mke2fs | grep -o ' */[^ ]*' | xargs cp -L --parents -t root
	printf '%s\n' '#!/bin/sh' 'echo upgraded >/etc/upgraded' >root/usr/bin/apt-get
	printf '%s\n' '#!/bin/sh' 'echo "all: $*"' >root/usr/lib/tests/run
	ln -s /bin/busybox root/usr/bin/httpd
	chmod +x root/sbin/* root/usr/bin/apt-get root/usr/lib/tests/run
	echo "a page" >root/srv/index.html
	make_disk "$image" 64M root
	rm -rf root
}

test_every_example_has_a_test() {
	extract_examples
	local text
	for text in example.*.text; do
		tr '\n' ' ' <"$text" >flat
		sed -n 's/^\texample "\([^"]*\)".*/\1/p' "$KARMA_ROOT/tests/guest/examples.sh" |
			grep -qFf - flat || die "no test runs this example: $(cat "$text")"
	done
	[ -e example.10 ] || die "finds few examples: $(ls)"
}

test_example_debian() {
	make_root debian.img 'nproc; grep MemTotal /proc/meminfo; poweroff -f'
	example "Boot a Debian image"
	expect_status 0
	expect_in out '^2.?$'
	expect_in out '^MemTotal: +9[0-9]{5} kB'
}

test_example_one_command() {
	example "Run one command in the initramfs"
	expect_status 0
	expect_in out "^Linux .* $RELEASE_PATTERN "
}

test_example_of_a_kernel_on_its_own_tests() {
	command -v make >/dev/null || skip "no make: install make"
	mkdir -p arch/x86/boot tools/testing/selftests/x86
	ln -s "$KARMA_KERNEL" arch/x86/boot/bzImage
	printf 'run_tests:\n\t@echo "ok 1 on $$(uname -r)"\n' >tools/testing/selftests/x86/Makefile
	# Below /tmp, which the guest has of its own.
	example "a kernel that was just built on its own tests" 's|--root /|--root / --rw .|'
	expect_status 0
	expect_in out "^ok 1 on $RELEASE"
}

test_example_by_name() {
	export XDG_RUNTIME_DIR=$PWD
	make_root web.img 'exec sleep 1000'
	# What goes on until the user leaves goes on for a while.
	example "Run a guest by its name" '
		s|^karma ps|until karma ps --names \| grep -q web; do sleep 0.5; done; karma ps|
		s|^karma console|timeout 5 karma console|
		s|^karma stats|timeout 5 karma stats|'
	expect_status 0
	expect_in out '^web +[0-9]+ +(starting|running)'
	[ "$(stat -c %s web.img)" = $((20 << 30)) ] || die "the disk has not grown"
	[ -z "$(ls -A karma)" ] || die "left over: $(ls -A karma)"
}

test_example_ci_job() {
	make_root tests.img
	example "Run a test in a guest from a CI job"
	expect_status 0
	expect_out passed
	[ "$(cat log)" = "all: --all" ] || die "the log has: $(cat log)"
	[ ! -s messages ] || die "messages: $(cat messages)"
}

test_example_archive_as_disk() {
	mkdir lib
	echo 'echo "a library"; exit 4' >lib/part
	printf '%s\n' '#!/bin/sh' '. lib/part' >run-tests
	chmod +x run-tests
	example "files of this directory, which the guest gets"
	expect_status 4
	[ "$(cat log)" = "a library" ] || die "the log has: $(cat log)"
	[ ! -s out ] || die "stdout has: $(cat out)"
}

test_example_look_at_an_image() {
	make_root debian.img
	cp debian.img before
	example "Look at an image"
	expect_status 0
	expect_out 'NAME="the image"'
	cmp debian.img before
}

test_example_upgrade_on_an_overlay() {
	make_root debian.img
	cp debian.img before
	example "Try an upgrade"
	expect_status 0
	cmp debian.img before
	[ -s trial ] || die "no overlay"
}

test_example_publish() {
	command -v passt >/dev/null || skip "passt is not installed: run scripts/dependencies test"
	make_routed_namespace
	let_user_in
	KARMA_IN_NS+=("${become[@]}")
	make_root web.img
	chown 65534 . web.img
	example "Serve a page from a guest" '$s|$| \&|
		$a for i in $(seq 100); do curl -sf http://127.0.0.1:8080/ \&\& break; sleep 0.5; done
		$a kill -INT $!; wait $!'
	expect_status 130
	expect_out "a page"
}

test_example_tap() {
	make_namespace
	ip -n "$ns" tuntap add tap0 mode tap
	ip -n "$ns" address add 10.0.0.1/24 dev tap0
	ip -n "$ns" link set tap0 up
	example "A network by a TAP"
	expect_status 0
	expect_in out '1 packets received'
}

test_example_filter() {
	example "Use the guest as a filter"
	expect_status 0
	expect_out "$(printf '20000\n19999\n19998')"
}

test_example_make_a_disk() {
	make_root debian.img
	# As much of it as the test's memory takes.
	example "Make a disk, and a file system" 's/8G/256M/'
	expect_status 0
	check_disk data.img
}

test_example_qcow2() {
	make_root raw 'echo "from qcow2"; poweroff -f'
	qemu-img convert -O qcow2 raw disk.qcow2
	sha256sum disk.qcow2 >before
	example "Run from a qcow2 image" "s|/run/|$PWD/|g; "'2i until grep -q " 00010000 .*disk\\.sock" /proc/net/unix; do sleep 0.1; done
		$a status=$?; kill $!; exit $status'
	expect_status 0
	expect_in out '^from qcow2'
	sha256sum -c before
}

test_example_bare_disk() {
	[ "$(id -u)" = 0 ] || skip "only root makes loop devices"
	truncate -s 8M data.img
	# The file system of the test's directory may have no O_DIRECT.
	loop=$(/sbin/losetup --find --show data.img)
	example "Read a whole disk" "s|data.img|$loop|"
	/sbin/losetup -d "$loop"
	expect_status 0
	[ "$(counter vda.request.chains)" -ge 8 ] || die "vda has $(counter vda.request.chains) requests"
}

test_example_background() {
	make_root web.img 'echo up; while :; do sleep 1; done'
	example "Run a guest in the background" "s|/var/log/|$PWD/|; "'s|^# .*|until grep -q up web.console; do sleep 0.2; done|'
	expect_status 0
	expect_in web.console '^up'
	check_disk web.img
}

test_example_configuration_file() {
	make_root web.img 'nproc; grep MemTotal /proc/meminfo; poweroff -f'
	example "Put a guest into a configuration file"
	expect_status 0
	expect_in out '^web.conf: in order$'
	expect_in out '^2.?$'
	expect_in out '^MemTotal: +9[0-9]{5} kB'
}

test_example_server() {
	make_root db.img 'mount -o remount,rw /' 'echo x >>/starts; sync' 'echo "start $(grep -c x /starts)"' \
		'[ "$(grep -c x /starts)" = 1 ] && reboot -f' 'poweroff -f'
	example "Keep a server up"
	expect_status 0
	expect_in out '^start 1'
	expect_in out '^start 2'
}

test_example_other_root() {
	make_root part 'echo "root is $(mount | grep " / ")"; poweroff -f'
	# Two partitions by an MBR: of 512 KiB from 1 MiB on, and of 64 MiB from 2 MiB on.
	{
		head -c 446 /dev/zero
		printf '\0\0\0\0\x83\0\0\0\0\x08\0\0\0\x04\0\0'
		printf '\0\0\0\0\x83\0\0\0\0\x10\0\0\0\0\x02\0'
		head -c 32 /dev/zero
		printf '\x55\xaa'
		head -c $((2 * 1024 * 1024 - 512)) /dev/zero
		cat part
	} >nvme
	example "Boot with another root" "s|/dev/nvme1n1|$PWD/nvme|"
	expect_status 0
	expect_in out '^root is /dev/vda2 on / type ext[24] \(rw'
}
