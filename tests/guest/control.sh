# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash disable=SC2034,SC2154,SC2016
# (the library's variables; the guest's shell expands what we quote)
#
# Operating a guest by its name, in its sandbox: what tests/control does with guests that don't run.

# operated OPTION...: start a guest called web, in a runtime directory of the test's own, and wait
# until it can be operated by that name.
operated() {
	export XDG_RUNTIME_DIR=$PWD
	start_guest --kernel "$KARMA_KERNEL" --initrd "$INITRAMFS" --name web "$@"
	local end=$((SECONDS + 60))
	until [ -n "$(state_of web)" ]; do
		if [ $SECONDS -ge $end ] || ! kill -0 "$guest_pid"; then die "karma ps does not show it: $(cat err)"; fi
		nap 0.1
	done
}

state_of() { "$KARMA" ps | awk -v name="$1" '$1 == name { print $3 }'; }

until_connected() {	# PID: of a `karma wait`; what it says then takes it no time
	local end=$((SECONDS + 60))
	until readlink "/proc/$1/fd/"* | grep -q '^socket:'; do
		[ $SECONDS -lt $end ] || die "karma wait does not connect: $(cat wait.err)"
		nap 0.1
	done
	sleep 1
}

expect_state() {	# STATE
	[ "$(state_of web)" = "$1" ] || die "state is $(state_of web), not $1"
}

counter_of() {	# NAME: a counter of a device of web's, such as vda.read.bytes
	"$KARMA" stats --prometheus web |
		sed -n "s/^karma_device{guest=\"web\",device=\"${1%%.*}\",counter=\"${1#*.}\"} //p"
}

test_ps_and_stats_show_a_guest_and_what_it_does() {
	truncate -s 16M disk
	operated --disk disk --cmdline root= --cpus 2 -- sh -c '
		echo up; read -r go
		dd if=/dev/vda of=/dev/null bs=1M count=4 iflag=direct 2>/dev/null
		dd if=/dev/zero of=/dev/vda bs=4k count=16 oflag=direct conv=fsync 2>/dev/null
		echo done; read -r end'
	wait_for '^up' 100
	"$KARMA" ps >list
	expect_in list "^web +$guest_pid +running +2 +[0-9.]+M of 512M +[0-9]+s\$"
	"$KARMA" ps --json >ps.json
	expect_in ps.json '"memory": 536870912'
	local before
	before=$(counter_of vda.read.bytes)
	send go
	wait_for '^done' 100
	[ $(($(counter_of vda.read.bytes) - before)) = 4194304 ] || die "read.bytes: $before, $(counter_of vda.read.bytes)"
	[ "$(counter_of vda.write.requests)" = 16 ] || die "write.requests: $(counter_of vda.write.requests)"
	[ "$(counter_of vda.write.bytes)" = 65536 ] || die "write.bytes: $(counter_of vda.write.bytes)"
	[ "$(counter_of vda.flush.requests)" -ge 1 ] || die "flush.requests: $(counter_of vda.flush.requests)"
	[ "$(counter_of vda.errors)" = 0 ] || die "errors: $(counter_of vda.errors)"
	"$KARMA" stats --prometheus web >metrics
	expect_in metrics '^karma_device_latency_seconds_count\{guest="web",device="vda",operation="write"\} 16$'
	expect_in metrics '^karma_device_latency_seconds_bucket\{guest="web",device="vda",operation="write",le="\+Inf"\} 16$'
	expect_in metrics '^karma_hypercalls_total\{guest="web",call="queue_notify"\} [1-9]'
	expect_in metrics '^karma_exits_total\{guest="web",reason="hypercall"\} [1-9]'
	"$KARMA" stats --json >stats.json
	expect_in stats.json '"latency": \{'
	"$KARMA" stats web >counters
	expect_in counters 'vda\.write took [0-9]+us on average; half of them <'
	send end
	end_guest
	expect_status 0
	[ -z "$(ls -A karma)" ] || die "left over: $(ls -A karma)"
}

test_console_is_replayed_typed_on_and_left() {
	operated --console stdio -- sh -c 'echo early; while read -r line; do echo "got $line"; [ "$line" != end ] || exit 7; done'
	local end=$((SECONDS + 100))
	until "$KARMA" console --replay web 2>/dev/null | grep -q early; do
		[ $SECONDS -lt $end ] || die "nothing is replayed: $(cat err)"
		nap 0.2
	done
	mkfifo keys
	"$KARMA" console web <keys >one 2>one.err &
	local one=$!
	exec 8>keys
	"$KARMA" console --read-only web </dev/null >other 2>other.err &
	local other=$!
	echo first >&8
	end=$((SECONDS + 30))
	until printed 'got first' one && printed 'got first' other; do
		[ $SECONDS -lt $end ] || die "one: $(cat one one.err) other: $(cat other other.err)"
		nap 0.2
	done
	expect_in one early
	expect_in other early
	# A second one can't type, and is told so.
	echo never | "$KARMA" console web >third 2>third.err &
	local third=$!
	end=$((SECONDS + 30))
	until printed 'somebody else types there' third.err && printed 'got first' third; do
		[ $SECONDS -lt $end ] || die "third: $(cat third third.err)"
		nap 0.2
	done
	sleep 1
	kill $third
	wait $third || true
	# Who leaves does not end the guest.
	kill $one
	wait $one || true
	exec 8>&-
	expect_state running
	echo end | "$KARMA" console web >last 2>last.err || true
	expect_in last 'got end'
	expect_in last.err 'the guest has ended'
	wait $other || die "the reader failed: $(cat other.err)"
	end_guest
	expect_status 7
	expect_not_in other 'got never'
}

test_console_on_a_terminal_says_how_to_leave() {
	command -v script >/dev/null || skip "no script(1): install bsdutils"
	operated --console stdio -- sh -c 'echo early; cat'
	mkfifo keys
	script -qefc "stty -a >before; $KARMA console web; echo left with \$?; stty -a >after" /dev/null \
		<keys >screen 2>&1 &
	local screen=$!
	exec 8>keys
	local end=$((SECONDS + 100))
	until printed 'Ctrl-A x leaves' screen && printed early screen; do
		[ $SECONDS -lt $end ] || die "screen: $(cat -v screen)"
		nap 0.2
	done
	printf 'typed\n' >&8
	until printed typed screen; do
		[ $SECONDS -lt $end ] || die "screen: $(cat -v screen)"
		nap 0.2
	done
	printf '\001x' >&8
	until printed 'left with 0' screen; do
		[ $SECONDS -lt $end ] || die "screen: $(cat -v screen)"
		nap 0.2
	done
	exec 8>&-
	wait $screen || true
	cmp before after || die "terminal mode changed: $(diff before after)"
	expect_state running
	"$KARMA" stop --force web
	end_guest
	expect_status 143
}

test_console_tells_the_guest_the_size_of_the_terminal() {
	command -v script >/dev/null || skip "no script(1): install bsdutils"
	operated --reboot restart --console unix:"$PWD/console" -- sh -c '
		while :; do
			now=$(stty size 2>/dev/null </dev/hvc0)
			[ "$now" = "$last" ] || echo "it is $now"
			last=$now; usleep 100000
		done &
		echo up; read -r go; reboot -f'
	mkfifo keys
	script -qefc "stty rows 33 cols 99; tty >terminal; $KARMA console web" /dev/null <keys >screen 2>&1 &
	local screen=$!
	exec 8>keys
	local end=$((SECONDS + 100))
	until printed 'it is 33 99' screen; do
		[ $SECONDS -lt $end ] || die "screen: $(cat -v screen)"
		nap 0.2
	done
	stty -F "$(cat terminal)" rows 44 cols 111
	until printed 'it is 44 111' screen; do
		[ $SECONDS -lt $end ] || die "screen: $(cat -v screen)"
		nap 0.2
	done
	# Started anew, it knows by itself.
	printf 'go\n' >&8
	until printed 'it is 44 111' screen 2; do
		[ $SECONDS -lt $end ] || die "screen: $(cat -v screen)"
		nap 0.2
	done
	printf '\001x' >&8
	exec 8>&-
	wait $screen || true
	"$KARMA" stop --force web
	end_guest
	expect_status 143
}

test_console_socket_takes_any_client() {
	command -v socat >/dev/null || skip "no socat: install it"
	operated --console unix:"$PWD/console" -- sh -c 'echo early; read -r line; echo "got $line"; exit 9'
	local end=$((SECONDS + 100))
	until listens "$PWD/console"; do
		[ $SECONDS -lt $end ] || die "no socket: $(cat err)"
		nap 0.2
	done
	[ "$(stat -c %a console)" = 600 ] || die "mode $(stat -c %a console)"
	mkfifo keys
	socat - UNIX-CONNECT:console <keys >screen 2>socat.err &
	local client=$!
	exec 8>keys
	until printed early screen; do
		[ $SECONDS -lt $end ] || die "screen: $(cat screen socat.err)"
		nap 0.2
	done
	echo hello >&8
	end_guest
	expect_status 9
	exec 8>&-
	wait $client || true
	expect_in screen 'got hello'
	[ ! -e console ] || die "the console's socket is left"
}

test_pause_holds_a_guest_and_its_watchdog() {
	operated --cpus 2 --watchdog 4 -- sh -c 'i=0; while :; do i=$((i + 1)); echo "tick $i"; sleep 0.2; done'
	wait_for '^tick 3$' 100
	"$KARMA" pause web
	expect_state paused
	# Devices end what they have begun.
	sleep 1
	cp out before
	sleep 8
	cmp -s before out || die "it runs on while paused: $(tail -n 2 out)"
	# It is looked at and asked all the same.
	"$KARMA" stats web >counters
	expect_in counters 'hypercalls'
	"$KARMA" resume web
	expect_state running
	local last
	last=$(tail -n 1 before)
	wait_for "^tick $((${last#tick } + 3))\$" 30
	"$KARMA" pause web
	"$KARMA" stop --force web
	end_guest
	expect_status 143
	expect_not_in err 'watchdog'
}

test_stop_has_the_guest_power_off() {
	make_busybox_root root
	make_disk disk 32M root
	operated --disk disk -- sh -c 'echo up; exec sleep 1000'
	wait_for '^up' 100
	"$KARMA" wait web >/dev/null 2>wait.err &
	local waiter=$!
	until_connected $waiter
	# A guest that is paused is let go on for it.
	"$KARMA" pause web
	"$KARMA" stop web
	! kill -0 "$guest_pid" 2>/dev/null || [ "$(ps -o stat= -p "$guest_pid")" = Z ] ||
		die "stop returns before the end"
	end_guest
	expect_status 0
	status=0
	wait $waiter || status=$?
	expect_status 0
	check_disk disk
	[ -z "$(ls -A karma)" ] || die "left over: $(ls -A karma)"
}

test_second_stop_waits_with_the_first() {
	export XDG_RUNTIME_DIR=$PWD
	start_guest --kernel "$TINY/hang" --name web --grace 12
	wait_for hanging 20
	"$KARMA" stop web &
	local first=$! end=$((SECONDS + 10))
	until [ "$(state_of web)" = stopping ]; do
		[ $SECONDS -lt $end ] || die "state is $(state_of web)"
		nap 0.1
	done
	# Neither this nor the first SIGTERM takes the time that the guest was given.
	"$KARMA" stop web &
	local second=$!
	kill -TERM "$guest_pid"
	wait $first || die "the first failed: $?"
	wait $second || die "the second failed: $?"
	end_guest
	expect_status 143
	expect_in err "has not powered off 12 seconds after SIGTERM: ended by --grace"
	rm to_guest
	start_guest --kernel "$TINY/hang" --name web --grace 1000
	wait_for hanging 20
	"$KARMA" stop web &
	first=$!
	until [ "$(state_of web)" = stopping ]; do nap 0.1; done
	"$KARMA" stop --force web
	wait $first || die "the first failed: $?"
	end_guest
	expect_status 143
}

test_wait_exits_with_the_guests_status() {
	operated -- sh -c 'echo up; read -r go; exit 42'
	wait_for '^up' 100
	"$KARMA" wait web 2>wait.err &
	local waiter=$!
	until_connected $waiter
	send go
	end_guest
	expect_status 42
	status=0
	wait $waiter || status=$?
	expect_status 42
	status=0
	"$KARMA" wait web 2>err || status=$?
	expect_status 125
	expect_in err 'web: no guest with that name runs'
}

test_resize_lets_the_guest_see_a_disk_that_grew() {
	truncate -s 8M disk
	operated --disk disk --cmdline root= -- sh -c 'echo up; while read -r line; do cat /sys/block/vda/size; done'
	wait_for '^up' 100
	truncate -s 12M disk
	[ "$("$KARMA" resize web --disk vda)" = 12582912 ] || die "resize"
	status=0
	"$KARMA" resize web --disk vdb 2>resize.err || status=$?
	expect_status 125
	expect_in resize.err 'vdb: the guest has no such disk'
	local end=$((SECONDS + 30))
	until printed '^24576$'; do
		[ $SECONDS -lt $end ] || die "the guest sees $(tail -n 1 out)"
		send size
		nap 0.5
	done
	"$KARMA" log web >messages
	expect_in messages '^[0-9-]+ [0-9:]+  karma: web: disk vda: has 12582912 bytes now'
	"$KARMA" stop --force web
	end_guest
}

test_balloon_takes_memory_and_gives_it_back() {
	operated --memory 256M -- sh -c 'echo up; while read -r line; do grep MemFree /proc/meminfo; done'
	wait_for '^up' 100
	"$KARMA" balloon web 64M
	local end=$((SECONDS + 100))
	until [ "$("$KARMA" balloon web | tail -n 1)" = "actual 67108864" ]; do
		[ $SECONDS -lt $end ] || die "balloon: $("$KARMA" balloon web)"
		nap 0.5
	done
	"$KARMA" balloon web 0
	until [ "$("$KARMA" balloon web | tail -n 1)" = "actual 0" ]; do
		[ $SECONDS -lt $end ] || die "balloon: $("$KARMA" balloon web)"
		nap 0.5
	done
	status=0
	"$KARMA" balloon web 256M 2>balloon.err || status=$?
	expect_status 125
	expect_in balloon.err "a balloon is smaller than the guest's memory"
	"$KARMA" stop --force web
	end_guest
}

test_a_guest_that_is_started_anew_stays_attached() {
	operated --reboot restart --console unix:"$PWD/console" -- sh -c 'echo boot; sleep 1; reboot -f'
	"$KARMA" console --read-only web </dev/null >screen 2>screen.err &
	local client=$! end=$((SECONDS + 100))
	until printed boot screen 2; do
		[ $SECONDS -lt $end ] || die "screen: $(cat screen screen.err) err: $(cat err)"
		nap 0.5
	done
	"$KARMA" stop --force web
	end_guest
	wait $client || die "the client failed: $(cat screen.err)"
}

test_killed_supervisor_leaves_a_socket_that_the_next_one_takes() {
	operated -- sh -c 'echo up; sleep 1000'
	wait_for '^up' 100
	kill -9 "$guest_pid"
	end_guest
	[ -S karma/web.sock ] || die "no socket is left, so this test is of no use"
	status=0
	"$KARMA" stop web 2>err || status=$?
	expect_status 125
	expect_in err 'no guest with that name runs'
	[ ! -e karma/web.sock ] || die "the stale socket is left"
	guest --name web -- true
	expect_status 0
}
