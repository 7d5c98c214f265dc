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

expect_no_passt() {
	! ip netns pids "$ns" | xargs -r ps -o comm= -p | grep passt || die "passt is left behind"
}

start_user_guest() {
	mkfifo to_guest
	in_ns "${become[@]}" "$KARMA" run --kernel "$KARMA_KERNEL" --initrd "$INITRAMFS" --timeout "$LIMIT" "$@" \
		<to_guest >out 2>err &
	guest_pid=$!
	exec 7>to_guest
}

test_net_user_serves_and_fetches_without_root() {
	command -v passt >/dev/null || skip "passt is not installed: run scripts/dependencies test"
	make_routed_namespace
	let_user_in
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

test_net_four_pairs_of_queues_carry_a_transfer() {
	make_namespace
	make_tap tap0 multi_queue
	head -c 20000000 /dev/urandom >file
	in_ns busybox httpd -f -p "$HOST:80" -h . &
	guest_in_ns --net tap=tap0,queues=4 --cpus 4 --stats --cmdline "$STATIC" -- sh -c '
		ls -d /sys/class/net/eth0/queues/rx-* | wc -l
		for i in 1 2 3 4; do wget -q -O - http://'$HOST'/file | sha256sum >/tmp/sum.$i & done
		wait
		sort -u /tmp/sum.*'
	expect_status 0
	expect_out "$(printf '4\n%s' "$(sha256sum <file)")"
	[ "$(counter eth0.control.chains)" -gt 0 ] || die "no command set the pairs"
	[ "$(counter eth0.control.refused)" = 0 ] || die "refused: $(counter eth0.control.refused)"
}

test_net_link_follows_the_interface_and_its_end_is_survived() {
	make_namespace
	make_tap tap0
	start_guest_in_ns --net tap=tap0 --cmdline "$STATIC" -- sh -c '
		link() { while [ $(cat /sys/class/net/eth0/carrier) != $1 ]; do usleep 20000; done; echo "link $1 $2"; }
		link 1 first; link 0 first; link 1 again
		ping -c 2 -W 5 '$HOST' >/dev/null && echo pinged
		link 0 again; read end; echo alive'
	wait_for "link 1 first" 100
	ip -n "$ns" link set tap0 down
	wait_for "link 0 first" 30
	ip -n "$ns" link set tap0 up
	wait_for pinged 30
	# Up and down, faster than the guest can follow.
	for _ in $(seq 1 20); do
		ip -n "$ns" link set tap0 down
		ip -n "$ns" link set tap0 up
	done
	ip -n "$ns" link del tap0
	wait_for "link 0 again" 30
	send go
	end_guest
	expect_status 0
	expect_in out alive
	[ "$(grep -c 'tap tap0: the interface was deleted' err)" = 1 ] || die "karma printed: $(cat err)"
}

test_net_interface_that_is_not_there_is_made_and_vanishes() {
	make_namespace
	start_guest_in_ns --net tap=made0 --cmdline ip=off -- sh -c 'cat /sys/class/net/eth0/carrier; read end'
	wait_for 1 100
	ip -n "$ns" link show made0 | grep -q "[<,]UP[,>]" || die "made0 is not up"
	send go
	end_guest
	expect_status 0
	! ip -n "$ns" link show made0 2>/dev/null || die "made0 is left behind"
}

test_net_ordinary_user_takes_a_tap_of_his_own_and_no_other() {
	make_namespace
	let_user_in
	ip -n "$ns" tuntap add mine mode tap user 65534
	ip -n "$ns" tuntap add others mode tap user 1
	ip -n "$ns" link set mine up
	start_user_guest --net tap=mine --cmdline ip=off -- sh -c 'cat /sys/class/net/eth0/carrier'
	wait_for 1 100
	end_guest
	expect_status 0
	status=0
	in_ns "${become[@]}" "$KARMA" run --kernel "$KARMA_KERNEL" --initrd "$INITRAMFS" --net tap=others -- true \
		>out 2>err </dev/null || status=$?
	expect_status 125
	expect_in err "tap others: Operation not permitted: create it as root for yourself"
}

test_net_mac_is_the_same_at_each_start_and_differs_by_name() {
	make_namespace
	for name in one two one; do
		guest_in_ns --name $name --net tap=tap0 --cmdline ip=off -- cat /sys/class/net/eth0/address
		expect_status 0
		cat out >>addresses
	done
	[ "$(sed -n 1p addresses)" = "$(sed -n 3p addresses)" ] || die "one has two: $(cat addresses)"
	[ "$(sort -u addresses | wc -l)" = 2 ] || die "one and two share it: $(cat addresses)"
}

# By root, for whom passt is another user's.
test_net_death_of_passt_is_told_and_the_guest_lives_on() {
	command -v passt >/dev/null || skip "passt is not installed: run scripts/dependencies test"
	make_routed_namespace
	start_guest_in_ns --net user,publish=80:80 -- sh -c '
		echo page >index.html; httpd -p 80; echo begun
		while [ "$(cat /sys/class/net/eth0/carrier)" = 1 ]; do usleep 20000; done
		ping -c 1 -W 1 192.0.2.1 >/dev/null; echo "link down"; read end; echo alive'
	wait_for begun 100
	[ "$(in_ns curl -sS http://127.0.0.1:80/index.html)" = page ] || die "the page is not the guest's"
	pkill -KILL -P "$(ip netns pids "$ns" | xargs ps -o pid=,comm= -p |
		sed -n 's/ *\([0-9]*\) karma$/\1/p' | paste -sd ,)" passt
	wait_for "link down" 30
	expect_in err "passt has ended \("
	send go
	end_guest
	expect_status 0
	expect_in out alive
}

test_net_passt_that_can_not_publish_is_told() {
	command -v passt >/dev/null || skip "passt is not installed: run scripts/dependencies test"
	make_routed_namespace
	let_user_in
	in_ns busybox httpd -f -p 127.0.0.1:8080 -h . &
	nap 0.5
	status=0
	in_ns "${become[@]}" "$KARMA" run --kernel "$KARMA_KERNEL" --initrd "$INITRAMFS" \
		--net user,publish=127.0.0.1:8080:80 -- true >out 2>err </dev/null || status=$?
	expect_status 125
	expect_in err "passt did not start"
	expect_no_passt
}

# By the guest's clock, and a lower bound alone.
test_net_limit_holds_the_guest_back() {
	make_namespace
	make_tap tap0
	head -c 3000000 /dev/zero >file
	in_ns busybox httpd -f -p "$HOST:80" -h . &
	guest_in_ns --net tap=tap0,bps=1M --stats --cmdline "$STATIC" -- sh -c '
		hundredths() { sed "s/ .*//; s/[.]//; s/^0*//" /proc/uptime; }
		from=$(hundredths)
		wget -q -O /dev/null http://'$HOST'/file || exit 9
		echo $(($(hundredths) - from))'
	expect_status 0
	[ "$(cat out)" -ge 180 ] || die "3 MB took $(cat out) hundredths of a second"
	[ "$(counter eth0.limited)" -gt 0 ] || die "eth0.limited is $(counter eth0.limited)"
}

test_net_comes_back_with_a_guest_that_reboots() {
	make_namespace
	make_tap tap0
	make_busybox_root tree
	link_busybox tree ping ip udhcpc
	cat >tree/bin/count <<-END
		#!/bin/sh
		n=\$((\$(cat /data/starts 2>/dev/null || echo 0) + 1))
		echo \$n >/data/starts
		sync
		ping -c 1 -W 5 $HOST >/dev/null && echo "pinged \$n"
		[ \$n -lt 3 ] || exit 0
		busybox reboot
		sleep 100
	END
	chmod +x tree/bin/count
	make_disk disk 32M tree
	LIMIT=240 guest_in_ns --reboot restart --disk disk --net tap=tap0 --cmdline "$STATIC" -- /bin/count
	expect_status 0
	expect_out "$(printf 'pinged 1\npinged 2\npinged 3')"
}

DEBIAN=$KARMA_ROOT/build/test/debian.img

# Large copies, of KARMA_COPY_MEGABYTES (30) each way: `make soak-net` has more.

# In the guest, on a Debian root that is not written: sshd, for the key of the test.
SSHD='mkdir -p /run/sshd; echo "$KEY" >/tmp/keys
	/usr/sbin/sshd -o AuthorizedKeysFile=/tmp/keys -o StrictModes=no && echo sshd runs; read end'

make_key() {
	[ -r "$DEBIAN" ] || die "no $DEBIAN: see tests/guest/make-debian-image"
	command -v ssh >/dev/null || skip "ssh is not installed: run scripts/dependencies test"
	ssh-keygen -q -t ed25519 -N '' -f key
	head -c "${KARMA_COPY_MEGABYTES:-30}000000" /dev/urandom >big
}

scp_failed() {
	say "scp $1 the guest failed$(kill -0 "$guest_pid" 2>/dev/null || echo ', which has ended'); it said:"
	cat out err >&2
	exit 1
}

# copy_big PORT ADDRESS: into the guest and back.
copy_big() {
	local options=(-q -i key -o "StrictHostKeyChecking=no" -o "UserKnownHostsFile=/dev/null")
	# Emulated CPUs do these ten times faster than what ssh prefers.
	options+=(-o "Ciphers=aes128-ctr" -o "MACs=hmac-sha1")
	# A guest that is gone, or stuck, is to be told of, not waited for.
	options+=(-o "ServerAliveInterval=15" -o "ServerAliveCountMax=6")
	in_ns scp "${options[@]}" -P "$1" big "root@$2:/tmp/big" || scp_failed into
	[ "$(in_ns ssh "${options[@]}" -p "$1" "root@$2" sha256sum /tmp/big)" = "$(sha256sum <big | sed 's,-$,/tmp/big,')" ] ||
		die "what came is not what was sent"
	in_ns scp "${options[@]}" -P "$1" "root@$2:/tmp/big" back || scp_failed "out of"
	cmp big back || die "what came back is not what was sent"
}

copy_by_tap() {	# QUEUES
	make_namespace
	make_key
	if [ "$1" = 1 ]; then make_tap tap0; else make_tap tap0 multi_queue; fi
	LIMIT=$((${KARMA_TEST_LIMIT:-400} - 20)) start_guest_in_ns --memory 1G --cpus "$1" --disk "$DEBIAN,ro" --net "tap=tap0,queues=$1" \
		--cmdline "$STATIC" -- env KEY="$(cat key.pub)" sh -c "$SSHD"
	wait_for "sshd runs" 120
	copy_big 22 "$GUEST"
	send go
	end_guest
	expect_status 0
}

test_net_large_copies_by_scp_over_a_tap() { copy_by_tap 1; }

test_net_large_copies_by_scp_over_four_pairs_of_queues() { copy_by_tap 4; }

test_net_user_debian_updates_and_takes_large_copies_by_scp() {
	command -v passt >/dev/null || skip "passt is not installed: run scripts/dependencies test"
	make_routed_namespace
	make_key
	let_user_in
	mkdir mirror
	printf 'Package: karma-test\nVersion: 7\nArchitecture: all\nMaintainer: nobody\nFilename: x\nSize: 1\nDescription: none\n' \
		>mirror/Packages
	printf 'Date: %s\nSHA256:\n %s %s Packages\n' "$(date -u -R)" \
		"$(sha256sum mirror/Packages | cut -d ' ' -f 1)" "$(stat -c %s mirror/Packages)" >mirror/Release
	in_ns busybox httpd -f -p 127.0.0.1:8000 -h mirror &
	# By a descriptor, as the image is too large to be copied.
	exec 8<"$DEBIAN"
	LIMIT=$((${KARMA_TEST_LIMIT:-400} - 20)) start_user_guest --memory 1G --disk /proc/self/fd/8,ro --net user,publish=2222:22 \
		-- env KEY="$(cat key.pub)" sh -c '
		echo "deb [trusted=yes] http://192.0.2.1:8000 ./" >/tmp/list
		mkdir -p /tmp/lists /tmp/cache
		apt() { "$@" -o Dir::Etc::sourcelist=/tmp/list -o Dir::Etc::sourceparts=/dev/null \
			-o Dir::State::lists=/tmp/lists -o Dir::Cache=/tmp/cache; }
		apt apt-get update
		apt apt-cache show karma-test
		'"$SSHD"
	wait_for "sshd runs" 200
	expect_in out "Version: 7"
	copy_big 2222 127.0.0.1
	send go
	end_guest
	expect_status 0
}
