# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash disable=SC2034,SC2154,SC2016
# (the library's variables; the guest's shell expands what we quote)
#
# Devices in snapshots, with the drivers of Linux: the guest goes on with each.

test_devices_go_on_after_a_snapshot_amid_their_work() {
	local end client
	truncate -s 16M disk
	start_reachable --console stdio --disk disk --cmdline root= -- sh -c 'i=0
		while :; do
			dd if=/dev/urandom of=/tmp/data bs=16k count=16 2>/dev/null
			dd if=/tmp/data of=/dev/vda bs=16k conv=fsync 2>/dev/null
			echo 3 >/proc/sys/vm/drop_caches
			dd if=/dev/vda of=/tmp/read bs=16k count=16 2>/dev/null
			cmp /tmp/data /tmp/read || echo differs
			echo "round $((i += 1))"
		done'
	wait_for '^round 2' 200
	: >exec.out
	"$KARMA" exec web -- sh -c 'echo there; sleep 1000' >exec.out 2>exec.err &
	client=$!
	end=$((SECONDS + 60))
	until printed '^there' exec.out; do
		[ $SECONDS -lt $end ] || die "no command in the guest: $(cat exec.err)"
		nap 0.1
	done
	"$KARMA" snapshot web saved --stop 2>snapshot.err || die "no snapshot: $(cat snapshot.err err)"
	status=0
	wait $client || status=$?
	[ $status != 0 ] || die "the command in the saved guest ended well"
	end_guest
	expect_not_in out differs

	"$KARMA" run --restore saved --name web --timeout "$LIMIT" </dev/null >out 2>err &
	guest_pid=$!
	wait_for '^round' 200
	# Its connections were reset, and it takes new ones.
	[ "$("$KARMA" exec web -- echo hello)" = hello ] || die "no command in the restored guest: $(cat err)"
	: >out
	wait_for '^round' 200
	expect_not_in out differs
	"$KARMA" stop --force web
	wait "$guest_pid" || true
	guest_pid=
}
