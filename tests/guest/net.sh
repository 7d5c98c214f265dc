# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash disable=SC2034,SC2154,SC2016
# (the library's variables; the guest's shell expands what we quote)
#
# Networks: real TAPs, in a network namespace of the host for each test, and passt.

HOST=10.9.0.1 GUEST=10.9.0.2
STATIC="ip=$GUEST::$HOST:255.255.255.0::eth0:off"

# A namespace for the host's side, ns; karma itself runs in it.
make_namespace() {
	[ "$(id -u)" = 0 ] || skip "needs root, for network namespaces"
	ns=karma-test-$$-$RANDOM
	ip netns add "$ns" || skip "no network namespaces in this kernel"
	trap remove_namespace EXIT
	ip -n "$ns" link set lo up
	KARMA_IN_NS=(ip netns exec "$ns")
}

remove_namespace() {
	clean_up
	ip netns pids "$ns" | xargs -r kill -9 2>/dev/null
	ip netns del "$ns"
}

make_tap() {	# NAME [multi_queue]
	ip -n "$ns" tuntap add "$1" mode tap ${2:+"$2"}
	ip -n "$ns" addr add "$HOST/24" dev "$1"
	ip -n "$ns" link set "$1" up
}

in_ns() { ip netns exec "$ns" "$@"; }

# As guest and start_guest do, in the namespace.
guest_in_ns() {
	status=0
	in_ns "$KARMA" run --kernel "$KARMA_KERNEL" --initrd "$INITRAMFS" --timeout "$LIMIT" "$@" \
		>out 2>err || status=$?
}

start_guest_in_ns() {
	mkfifo to_guest
	in_ns "$KARMA" run --kernel "$KARMA_KERNEL" --initrd "$INITRAMFS" --timeout "$LIMIT" "$@" \
		<to_guest >out 2>err &
	guest_pid=$!
	exec 7>to_guest
}

test_net_tap_pings_and_transfers_both_ways() {
	make_namespace
	make_tap tap0
	head -c 20000000 /dev/urandom >file
	in_ns busybox httpd -f -p "$HOST:80" -h . &
	guest_in_ns --net tap=tap0,mac=02:00:00:00:00:77 --stats --cmdline "$STATIC" -- sh -c '
		cat /sys/class/net/eth0/address
		ping -c 3 -W 5 '$HOST' >/dev/null && echo pinged
		wget -q -O - http://'$HOST'/file | sha256sum'
	expect_status 0
	expect_out "$(printf '02:00:00:00:00:77\npinged\n%s' "$(sha256sum <file)")"
	[ "$(counter eth0.receive.bytes)" -gt 20000000 ] || die "received: $(counter eth0.receive.bytes)"
	[ "$(counter eth0.transmit.refused)" = 0 ] || die "refused: $(counter eth0.transmit.refused)"
}

# A host's side with a default route, as passt wants it: an interface that leads nowhere.
make_routed_namespace() {
	make_namespace
	ip -n "$ns" tuntap add out mode tap
	ip -n "$ns" addr add 192.0.2.2/24 dev out
	ip -n "$ns" addr add 2001:db8::2/64 dev out nodad
	ip -n "$ns" link set out up
	ip -n "$ns" route add default via 192.0.2.1
	ip -n "$ns" -6 route add default via 2001:db8::1
}

# An ordinary user, who may use KVM in here.
as_user() { in_ns setpriv --reuid 65534 --regid 65534 --clear-groups "$@"; }

expect_no_passt() {
	! ip netns pids "$ns" | xargs -r ps -o comm= -p | grep passt || die "passt is left behind"
}

start_user_guest() {
	mkfifo to_guest
	as_user "$KARMA" run --kernel "$KARMA_KERNEL" --initrd "$INITRAMFS" --timeout "$LIMIT" "$@" \
		<to_guest >out 2>err &
	guest_pid=$!
	exec 7>to_guest
}

test_net_user_serves_and_fetches_without_root() {
	command -v passt >/dev/null || skip "passt is not installed: run scripts/dependencies test"
	make_routed_namespace
	mkdir served
	head -c 3000000 /dev/urandom >served/file
	in_ns busybox httpd -f -p 127.0.0.1:8000 -h served &
	start_user_guest --net user,publish=127.0.0.1:8080:80 -- sh -c '
		wget -q -O - http://192.0.2.1:8000/file | sha256sum
		ip -4 -o addr show dev eth0 | grep -o "inet [^ ]*"
		mkdir /www; cat /proc/sys/kernel/random/boot_id >/www/page; seq 1 300000 >/www/numbers
		httpd -p 80 -h /www; cat /www/page; echo serving; read end'
	wait_for serving 100
	expect_in out "$(sha256sum <served/file)"
	expect_in out "inet 192.0.2.2/24"
	[ "$(in_ns curl -sS http://127.0.0.1:8080/page)" = "$(grep -E '^[0-9a-f-]{36}$' out)" ] ||
		die "the page is not the guest's"
	in_ns curl -sS http://127.0.0.1:8080/numbers | cmp - <(seq 1 300000) || die "a wrong file came"
	send go
	end_guest
	expect_status 0
	[ ! -s err ] || die "karma printed: $(cat err)"
	expect_no_passt
}
