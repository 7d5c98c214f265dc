# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash disable=SC2034,SC2154,SC2016
# (the library's variables; the guest's shell expands what we quote)
#
# vsock: connections both ways, by Debian's driver, in its sandbox.

# A service of the host's on a Unix socket: sends back what comes, up to its end.
start_echo() {	# PATH
	command -v socat >/dev/null || skip "no socat: install it"
	socat -t 60 "UNIX-LISTEN:$1,fork" 'SYSTEM:cat' &
	echo_pid=$!
	local end=$((SECONDS + 30))
	until listens "$1"; do
		[ $SECONDS -lt $end ] || die "socat does not listen"
		nap 0.1
	done
}

make_vsock_initrd() {	# FILE
	mkdir -p initrd/bin
	cp "$KARMA_ROOT/build/test/vsock" initrd/bin
	(cd initrd && find . | cpio --quiet -o -H newc) >"$1"
}

test_vsock_both_ways() {
	make_vsock_initrd vsock.img
	start_echo "$PWD/echo"
	export XDG_RUNTIME_DIR=$PWD
	start_guest --kernel "$KARMA_KERNEL" --initrd "$INITRAMFS" --initrd vsock.img --name web --stats \
		--vsock listen=1024:unix:echo --vsock listen=1025:unix:absent -- sh -c '
		dd if=/dev/urandom of=/tmp/sent bs=1M count=4 2>/dev/null
		vsock connect 1024 </tmp/sent >/tmp/came || echo "connect: $?"
		cmp /tmp/sent /tmp/came && echo same
		vsock connect 1025 </dev/null 2>&1
		vsock connect 99 </dev/null 2>&1
		vsock serve 22 2
		echo served'
	wait_for '^serving' 200
	kill "$echo_pid"
	expect_in out '^same'
	[ "$(grep -c '^connect: Connection reset by peer' out)" = 2 ] || die "refused ports: $(cat out)"
	head -c 4000000 /dev/urandom >sent
	"$KARMA" connect web 22 <sent >came || die "connect: $?"
	cmp sent came || die "what came back differs"
	status=0
	"$KARMA" connect web 23 </dev/null 2>refused || status=$?
	[ $status = 1 ] || die "a port that nobody listens on: status $status, $(cat refused)"
	expect_in refused 'the guest refuses the connection'
	[ "$(echo short | "$KARMA" connect web 22)" = short ] || die "the second connection"
	wait_for '^served' 60
	end_guest
	expect_status 0
	# One is that of the command itself.
	[ "$(counter vsock.connections)" = 4 ] || die "connections: $(grep vsock err)"
	[ "$(counter vsock.transmit.bytes)" -ge 8194304 ] || die "bytes: $(grep vsock err)"
}
