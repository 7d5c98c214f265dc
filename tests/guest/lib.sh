# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash disable=SC2034,SC2154 # variables of the tests
#
# What the tests with whole guests share: starting a guest, talking to it, judging how it ended.

KARMA=${KARMA:-$KARMA_ROOT/build/karma}
: "${KARMA_KERNEL:?the path of the guest kernel (vmlinuz)}"
RELEASE=${KARMA_KERNEL##*/vmlinuz-}
# In a pattern: that of a kernel may have a plus.
RELEASE_PATTERN=${RELEASE//+/[+]}
GUEST_DIR=$KARMA_ROOT/build/guest
INITRAMFS=$GUEST_DIR/$RELEASE/initramfs.img
TINY=$KARMA_ROOT/build/test/tiny

# A guest that hangs must not hang the tests.
LIMIT=120

say() { echo "$*" >&2; }
die() { say "$*"; exit 1; }
skip() { say "$*"; exit 77; }

# guest OPTION...: run Debian's kernel with Karma's initramfs; output in out, messages in err.
# Sets $status.
guest() {
	status=0
	"$KARMA" run --kernel "$KARMA_KERNEL" --initrd "$INITRAMFS" --timeout "$LIMIT" "$@" \
		>out 2>err || status=$?
}

# tiny NAME OPTION...: run one of tests/guest/tiny instead.
tiny() {
	local name=$1
	shift
	status=0
	"$KARMA" run --kernel "$TINY/$name" --timeout 20 "$@" >out 2>err || status=$?
}

expect_status() {	# NUMBER
	[ "$status" = "$1" ] && return
	say "status is $status, not $1; stdout:"; cat out >&2; say "stderr:"; cat err >&2
	exit 1
}

expect_out() {	# TEXT: stdout is that, exactly, with a newline
	printf '%s\n' "$1" | cmp -s - out && return
	say "stdout is not '$1' but:"; od -c out | head -n 40 >&2; say "stderr:"; cat err >&2
	exit 1
}

expect_in() {	# FILE PATTERN
	grep -Eq -- "$2" "$1" && return
	say "no '$2' in $1:"; cat "$1" >&2
	exit 1
}

expect_not_in() {	# FILE PATTERN
	grep -Eq -- "$2" "$1" || return 0
	say "'$2' in $1:"; cat "$1" >&2
	exit 1
}

counter() {	# NAME: of --stats
	sed -n "s/^stats $1 //p" err
}

# start_guest OPTION...: run in the background, to be talked to by send and wait_for.
start_guest() {
	mkfifo to_guest
	: >out		# what is in it is this guest's, from now on
	"$KARMA" run --timeout "$LIMIT" "$@" <to_guest >out 2>err &
	guest_pid=$!
	exec 7>to_guest
}

# The process in the sandbox, which runs the guest; guest_pid is its supervisor.
guest_process() {
	local children child name
	read -ra children || true
	for child in "${children[@]}"; do
		if read -r name <"/proc/$child/comm" && [ "$name" = karma ]; then echo "$child"; return; fi
	done
	return 1
} 2>/dev/null <"/proc/$guest_pid/task/$guest_pid/children"

send() { printf '%s\n' "$1" >&7; }

# nap SECONDS: a pause.  Neither this nor printed() takes a process, which in a soft host costs 50 ms of the only
# CPU, where a guest runs: what is asked again and again is asked by these.
nap() { read -rt "$1" <>"$scratch/never" || true; }

# printed PATTERN [FILE [COUNT]]: whether there are such lines in the guest's output.
printed() {
	local lines line left=${3-1}
	mapfile -t lines <"${2-out}"
	for line in "${lines[@]}"; do
		if [[ $line =~ $1 ]] && ((--left == 0)); then return 0; fi
	done
	return 1
}

# wait_for PATTERN SECONDS: until the guest has printed it.
wait_for() {
	local end=$((SECONDS + $2))
	until printed "$1"; do
		if ! kill -0 "$guest_pid" 2>/dev/null; then
			# Its last words.
			printed "$1" && return
			say "guest ended before it printed '$1':"; cat out err >&2; exit 1
		fi
		if [ $SECONDS -ge $end ]; then
			say "no '$1' after $2 s:"; cat out err >&2; exit 1
		fi
		nap 0.1
	done
}

# Whether somebody listens there: its path is to be seen before that.
listens() {	# SOCKET, by the path that its server gave
	grep -q " 00010000 .* $1\$" /proc/net/unix
}

end_guest() {	# wait for its end, and set $status
	exec 7>&-
	status=0
	wait "$guest_pid" || status=$?
	guest_pid=
}

make_disk() {	# FILE SIZE [DIRECTORY [OPTION...]]: an ext4 image, with the contents of the directory
	truncate -s "$2" "$1"
	/sbin/mke2fs -q -t ext4 ${3:+-d "$3"} "${@:4}" "$1"
}

check_disk() {	# FILE
	/sbin/e2fsck -fn "$1" >fsck.log 2>&1 || { cat fsck.log >&2; die "$1 is damaged"; }
}

# A directory for an image that a guest can run commands on, by busybox.
make_busybox_root() {	# DIRECTORY
	mkdir -p "$1"/{bin,dev,proc,sys,tmp,run,data}
	cp "$(command -v busybox)" "$1/bin/busybox"
	link_busybox "$1" sh cat sha256sum dd sync ls mount fstrim seq echo head tail sleep poweroff
}

link_busybox() {	# DIRECTORY APPLET...: by one process
	perl -e '$bin = shift; -e "$bin/$_" or symlink("busybox", "$bin/$_") or die "$bin/$_: $!\n" for @ARGV' \
		"$1/bin" "${@:2}"
}

# An ordinary user, by "${become[@]}": with /dev/kvm, this directory, and copies of Karma and of what guests are
# started from, since the checkout may be where nobody else gets to, as in a home.
let_user_in() {
	[ "$(id -u)" = 0 ] || skip "needs to be root, to become another user"
	become=(setpriv --reuid 65534 --regid 65534 --clear-groups)
	chmod 755 . "${PWD%/*}"
	chmod 666 /dev/kvm
	mkdir -p copies/guest/"$RELEASE"
	cp "$INITRAMFS" copies/guest/"$RELEASE"
	cp -r "$KARMA" "$KARMA_KERNEL" "$TINY" copies
	chmod -R a+rX copies
	KARMA=$PWD/copies/karma KARMA_KERNEL=$PWD/copies/vmlinuz-$RELEASE TINY=$PWD/copies/tiny
	GUEST_DIR=$PWD/copies/guest INITRAMFS=$PWD/copies/guest/$RELEASE/initramfs.img
}

clean_up() {
	[ -z "${guest_pid-}" ] || kill -9 "$guest_pid" 2>/dev/null || true
}
