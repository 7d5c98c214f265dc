# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash disable=SC2034,SC2154,SC2016
# (the library's variables; the guest's shell expands what we quote)
#
# The console: exact bytes in a pipe, a terminal that is left as it was.

test_output_is_the_commands_bytes() {
	# All bytes, by one printf, as they are.
	guest --console stdio -- sh -c 'for i in 0 1 2 3; do for j in 0 1 2 3 4 5 6 7; do
		for k in 0 1 2 3 4 5 6 7; do printf "\\$i$j$k"; done; done; done'
	expect_status 0
	for i in 0 1 2 3; do for j in 0 1 2 3 4 5 6 7; do
		# shellcheck disable=SC2059 # the format is the point
		for k in 0 1 2 3 4 5 6 7; do printf "\\$i$j$k"; done; done; done >want
	cmp want out || die "$(od -c out | head -n 30)"
}

test_input_from_a_pipe_reaches_the_command_and_ends() {
	status=0
	# Ctrl-O, b would have Linux reset.
	printf 'first\nabc\x0fbdef\nlast without newline' >want
	"$KARMA" run --kernel "$KARMA_KERNEL" --initrd "$INITRAMFS" --timeout "$LIMIT" --console stdio -- \
		sh -c 'cat; exit 7' <want >out 2>err || status=$?
	expect_status 7
	cmp want out || die "$(od -c out)"
}

test_long_input_arrives_whole() {
	# Text, all bytes in any order, and one long line.
	{ seq 1 20000; perl -e 'srand 1; print map { chr int rand 256 } 1 .. 30000; print "x" x 9000'; } >input
	status=0
	"$KARMA" run --kernel "$KARMA_KERNEL" --initrd "$INITRAMFS" --timeout "$LIMIT" --console stdio -- sha256sum \
		<input >out 2>err || status=$?
	expect_status 0
	expect_out "$(sha256sum <input)"
}

test_slow_reader_loses_nothing() {
	status=0
	"$KARMA" run --kernel "$KARMA_KERNEL" --initrd "$INITRAMFS" --timeout "$LIMIT" --console stdio -- \
		sh -c 'seq 1 60000 >/tmp/lines; cat /tmp/lines' 2>err </dev/null |
		(sleep 15; cat) >out || status=$?
	expect_status 0
	seq 1 60000 >want
	cmp want out || die "lost something: $(wc -l <out) lines"
}

test_reader_that_goes_away_does_not_end_the_guest() {
	truncate -s 1M disk
	"$KARMA" run --kernel "$KARMA_KERNEL" --initrd "$INITRAMFS" --disk disk --cmdline root= \
		--timeout "$LIMIT" --console stdio -- sh -c 'seq 1 20000 >/tmp/lines; cat /tmp/lines; echo done | dd of=/dev/vda conv=fsync' \
		2>err </dev/null | head -n 1 >out
	[ "$(cat out)" = 1 ] || die "out: $(cat out)"
	[ "$(head -c 4 disk)" = "done" ] || die "the guest did not get to its end; $(cat err)"
	expect_in err "console: can't write: Broken pipe"
}

test_console_file_takes_the_output() {
	guest --console file:console -- sh -c 'echo hello; echo there >/dev/hvc0'
	expect_status 0
	expect_out hello
	[ "$(cat console)" = there ] || die "console: $(cat console)"
}

# on_terminal COMMAND: run a shell command on a terminal, with what we write to fd 7 typed.
on_terminal() {
	mkfifo keys
	script -qefc "$1" /dev/null <keys >screen 2>&1 &
	guest_pid=$!
	exec 7>keys
}

wait_screen() {	# PATTERN SECONDS
	local end=$((SECONDS + $2))
	until printed "$1" screen; do
		[ $SECONDS -lt $end ] || { cat -v screen >&2; die "no '$1' on the screen"; }
		nap 0.1
	done
}

run_on_terminal="$KARMA run --kernel $KARMA_KERNEL --initrd $INITRAMFS --timeout $LIMIT"

test_ctrl_a_x_leaves_and_the_terminal_is_as_before() {
	command -v script >/dev/null || skip "no script(1): install bsdutils"
	on_terminal "stty -a >before; $run_on_terminal; echo left with \$?; stty -a >after"
	wait_screen "Ctrl-A x ends the guest" 20
	wait_screen "[#\$] " 60
	printf 'echo I am $((40 + 2)); tty\n' >&7
	wait_screen "I am 42" 20
	wait_screen "/dev/hvc0" 20
	printf '\001h' >&7
	wait_screen "Ctrl-A a  send Ctrl-A" 10
	# Every key: all bytes in raw mode, with Ctrl-A twice, as it is sent then.
	perl -e 'print map { chr } 0 .. 255' >bytes
	printf '\nstty raw -echo; echo raw; dd bs=1 count=256 2>/dev/null | sha256sum\n' >&7
	wait_screen "^raw" 20
	sed 's/\x01/&&/' bytes >&7
	wait_screen "$(sha256sum <bytes)" 20
	printf '\001x' >&7
	wait_screen "left with 130" 20
	exec 7>&-
	wait "$guest_pid" || true
	cmp before after || die "terminal mode changed: $(diff before after)"
}

test_ctrl_c_reaches_the_guest() {
	command -v script >/dev/null || skip "no script(1): install bsdutils"
	on_terminal "$run_on_terminal -- sh -c 'trap \"echo interrupted; exit 5\" INT; echo up; while :; do sleep 1; done'; echo left with \$?"
	wait_screen "^up" 60
	sleep 1
	printf '\003' >&7
	wait_screen "interrupted" 20
	wait_screen "left with 5" 20
	exec 7>&-
	wait "$guest_pid" || true
}

test_killed_monitor_leaves_the_terminal_as_it_was() {
	command -v script >/dev/null || skip "no script(1): install bsdutils"
	on_terminal "stty -a >before; $run_on_terminal; sleep 1; stty -a >after; echo finished"
	wait_screen "Ctrl-A x ends the guest" 20
	wait_screen "[#\$] " 60
	pkill -9 -x karma
	wait_screen "finished" 20
	exec 7>&-
	wait "$guest_pid" || true
	cmp before after || die "terminal mode changed: $(diff before after)"
}

test_no_input_is_an_empty_input() {
	guest --console file:console -- cat
	expect_status 0
	[ ! -s console ] || die "console: $(cat console)"
}

test_closed_streams_are_empty_ones() {
	status=0
	"$KARMA" run --kernel "$KARMA_KERNEL" --initrd "$INITRAMFS" --timeout "$LIMIT" --console stdio -- \
		sh -c 'echo lost; cat; exit 7' <&- >&- 2>&- || status=$?
	[ "$status" = 7 ] || die "status is $status"
}

test_a_reader_that_stopped_does_not_outlive_the_timeout() {
	mkfifo pipe
	{ sleep "$LIMIT"; } <pipe &
	guest_pid=$!
	status=0
	"$KARMA" run --kernel "$KARMA_KERNEL" --initrd "$INITRAMFS" --timeout 15 --console stdio -- \
		sh -c 'seq 1 100000 >/tmp/lines; cat /tmp/lines' >pipe 2>err || status=$?
	expect_status 124
}

test_sigterm_ends_the_wait_for_a_reader() {
	mkfifo pipe
	{ sleep "$LIMIT"; } <pipe &
	local reader=$!
	export XDG_RUNTIME_DIR=$PWD
	"$KARMA" run --kernel "$KARMA_KERNEL" --initrd "$INITRAMFS" --timeout "$LIMIT" --console stdio --name web -- \
		sh -c 'seq 1 20000 >/tmp/lines; cat /tmp/lines' >pipe 2>err &
	guest_pid=$!
	until [ "$(state_of web)" = ending ]; do
		kill -0 "$guest_pid" || die "did not wait for its reader: $(cat err)"
		nap 0.5
	done
	kill -TERM "$guest_pid"
	status=0
	wait "$guest_pid" || status=$?
	kill $reader
	expect_status 0
}
