# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash disable=SC2034,SC2154,SC2016
# (the library's variables; the guest's shell expands what we quote)
#
# The guest's life: starts anew after a reset or a panic, the watchdog, the parent's death, and what
# is left behind.

lines() { grep -c -- "$1" "$2" || true; }	# PATTERN FILE

# wait_for_lines PATTERN COUNT SECONDS: until the guest has printed so many.
wait_for_lines() {
	local end=$((SECONDS + $3))
	until printed "$1" out "$2"; do
		kill -0 "$guest_pid" 2>/dev/null || die "guest ended early: $(cat out err)"
		[ $SECONDS -lt $end ] || die "only $(lines "$1" out) of $2 '$1': $(cat out err)"
		nap 0.05
	done
}

# What karma's supervisor holds at most, in two seconds: sets files, children and areas (of memory),
# and the threads of the guest's process.
look_at_holdings() {
	local end=$((SECONDS + 2)) list process count
	local -A seen=()
	threads=0 files=0 children=0 areas=0
	while [ $SECONDS -le $end ]; do
		process=$(guest_process) || continue
		list=("/proc/$process/task"/*)
		[ ${#list[@]} -le "$threads" ] || threads=${#list[@]}
		list=("/proc/$guest_pid/fd"/*)
		count=${#list[@]}
		seen[$count]=$((${seen[$count]-0} + 1))
		read -ra list <"/proc/$guest_pid/task/$guest_pid/children" || true
		[ ${#list[@]} -le "$children" ] || children=${#list[@]}
		mapfile -t list <"/proc/$guest_pid/maps"
		[ ${#list[@]} -le "$areas" ] || areas=${#list[@]}
		nap 0.02
	done
	# What is open most of the time: around a start it is more or less for a moment.
	for count in "${!seen[@]}"; do
		[ "${seen[$count]}" -le "${seen[$files]-0}" ] || files=$count
	done
}

expect_gone() {	# PID: no such process, nor a child of it
	! kill -0 "$1" 2>/dev/null || die "process $1 is left behind"
	[ -z "$(pgrep -P "$1")" ] || die "children of $1 are left behind: $(pgrep -a -P "$1")"
}

# A guest that counts its starts on its disk, reboots until it has had three, and powers off.
make_counting_disk() {	# WAY-TO-END, a shell's words
	make_busybox_root tree
	cat >tree/bin/count <<-END
		#!/bin/sh
		n=\$((\$(cat /data/starts 2>/dev/null || echo 0) + 1))
		echo \$n >/data/starts
		sync
		echo "start \$n"
		[ \$n -lt 3 ] || { busybox poweroff; sleep 100; }
		$1
		sleep 100
	END
	chmod +x tree/bin/count
	make_disk disk 32M tree
}

test_reboot_restarts_the_guest() {
	make_counting_disk 'busybox reboot'
	LIMIT=240 guest --reboot restart --disk disk -- /bin/count
	expect_status 0
	[ "$(lines '^start' out)" = 3 ] || die "no three starts: $(cat out err)"
	expect_in out "start 3"
	[ ! -s err ] || die "karma printed: $(cat err)"
	check_disk disk
}

test_restart_ends_with_the_commands_status() {
	make_counting_disk 'busybox reboot'
	sed -i 's/busybox poweroff; sleep 100/exit 7/' tree/bin/count
	rm disk
	make_disk disk 32M tree
	LIMIT=240 guest --reboot restart --disk disk -- /bin/count
	expect_status 7
}

test_restart_keeps_the_disk_locked() {
	truncate -s 1M disk
	start_guest --reboot restart --disk disk --kernel "$TINY/reset"
	wait_for_lines start 2 20
	for _ in 1 2 3 4 5; do
		! flock -n disk true || die "the disk is not locked"
		nap 0.3
	done
	kill -INT "$guest_pid"
	end_guest
	flock -n disk true || die "the disk is still locked"
}

test_restart_passes_on_the_input_that_is_left() {
	make_busybox_root tree
	cat >tree/bin/lines <<-'END'
		#!/bin/sh
		read -r line
		echo "got $line"
		[ -n "$line" ] || exit 5
		sync
		busybox reboot
		sleep 100
	END
	chmod +x tree/bin/lines
	make_disk disk 32M tree
	mkfifo to_guest
	status=0
	"$KARMA" run --kernel "$KARMA_KERNEL" --initrd "$INITRAMFS" --timeout 240 --disk disk \
		--console stdio --reboot restart -- /bin/lines <to_guest >out 2>err &
	guest_pid=$!
	exec 7>to_guest
	send one
	wait_for_lines 'got one' 1 60
	# The next start reads this, and the one after that finds the end.
	sleep 2
	send two
	wait_for_lines 'got two' 1 60
	end_guest
	expect_status 5
}

test_reset_loop_is_slowed_down() {
	start_guest --reboot restart --kernel "$TINY/reset"
	wait_for_lines start 1 20
	sleep 5
	kill -INT "$guest_pid"
	end_guest
	local starts
	starts=$(lines start out)
	[ "$starts" -ge 3 ] || die "only $starts starts in 5 s"
	[ "$starts" -le 7 ] || die "$starts starts in 5 s"
	[ "$(lines 'once a second at most' err)" = 1 ] || die "not told once: $(cat err)"
	[ "$(wc -l <err)" = 1 ] || die "karma printed: $(cat err)"
}

test_timeout_counts_from_the_first_start() {
	status=0
	"$KARMA" run --kernel "$TINY/reset" --reboot restart --timeout 4 >out 2>err || status=$?
	expect_status 124
	[ "$(lines start out)" -ge 2 ] || die "$(lines start out) starts"
	expect_in err "after 4 seconds"
}

test_restarts_leave_nothing_behind() {
	truncate -s 1M disk
	start_guest --cpus 2 --disk disk --reboot restart --kernel "$TINY/reset"
	wait_for_lines start 2 20
	look_at_holdings
	local threads_before=$threads files_before=$files areas_before=$areas
	[ "$children" = 1 ] || die "$children children"
	wait_for_lines start 9 40
	look_at_holdings
	local now="threads $threads, files $files, children $children, areas $areas"
	[ "$files" -le "$files_before" ] || die "files: $files_before, now $now"
	[ "$children" = 1 ] || die "$now"
	# The kernel's own for io_uring come and go.
	[ "$threads" -le $((threads_before + 2)) ] || die "threads: $threads_before, now $now"
	[ "$areas" -le "$areas_before" ] || die "areas: $areas_before, now $now"
	kill -INT "$guest_pid"
	local pid=$guest_pid
	end_guest
	expect_gone "$pid"
}

test_sigterm_between_starts_ends_it() {
	start_guest --reboot restart --kernel "$TINY/reset"
	wait_for_lines start 2 20
	nap 0.4
	kill -TERM "$guest_pid"
	end_guest
	expect_status 0
}

test_reboot_after_sigterm_is_the_end() {
	start_guest --reboot restart --kernel "$KARMA_KERNEL" --initrd "$INITRAMFS" -- \
		sh -c 'trap "" TERM; echo up; while [ ! -e /sys/kernel/karma/none ]; do sleep 1; done'
	wait_for up 60
	kill -TERM "$guest_pid"
	end_guest
	expect_status 0
	[ "$(lines up out)" = 1 ] || die "it was started again"
}

test_panic_restarts_the_guest() {
	make_counting_disk 'echo c >/proc/sysrq-trigger'
	LIMIT=240 guest --on-panic restart --disk disk -- /bin/count
	expect_status 0
	[ "$(lines '^start' out)" = 3 ] || die "no three starts: $(cat out err)"
	[ "$(lines 'kernel panicked: sysrq' err)" = 2 ] || die "not told twice: $(cat err)"
	[ "$(lines 'Kernel panic - not syncing' err)" = 2 ] || die "last lines are lost: $(cat err)"
}

test_panic_can_keep_the_guest() {
	start_guest --on-panic wait --kernel "$KARMA_KERNEL" --initrd "$INITRAMFS" --console stdio -- \
		sh -c 'echo c >/proc/sysrq-trigger'
	wait_for "Kernel panic - not syncing" 60
	sleep 2
	kill -0 "$guest_pid" || die "karma did not wait"
	expect_in err "halted and kept in process $guest_pid"
	# Its memory is there, and no vCPU takes time.
	local before process
	process=$(guest_process)
	[ "$(awk '/^VmSize/ { print $2 }' "/proc/$process/status")" -gt 500000 ] ||
		die "the memory is gone"
	before=$(cut -d' ' -f14,15 "/proc/$process/stat")
	sleep 1
	[ "$before" = "$(cut -d' ' -f14,15 "/proc/$process/stat")" ] || die "it runs on"
	kill -TERM "$guest_pid"
	end_guest
	expect_status 126
}

test_timeout_ends_a_kept_guest() {
	tiny panic --on-panic wait --timeout 3
	expect_status 126
	expect_in err "halted and kept"
	expect_out "start"
}

test_panic_loop_is_slowed_down() {
	tiny panic --on-panic restart --timeout 4
	expect_status 124
	[ "$(lines start out)" -le 6 ] || die "$(lines start out) starts in 4 s"
}

test_reset_is_no_panic() {
	tiny reset --on-panic restart
	expect_status 0
	tiny panic --reboot restart
	expect_status 126
}

test_watchdog_ends_a_guest_that_hangs() {
	local start=$SECONDS
	tiny hungry --watchdog 2
	expect_status 126
	expect_out "fed"
	expect_in err "watchdog: the guest hangs, since it gave no sign of life for 2 seconds"
	expect_in err "vCPU 0 is at 0x10"
	[ $((SECONDS - start)) -ge 2 ] || die "after $((SECONDS - start)) s already"
}

test_watchdog_follows_the_panic_policy() {
	tiny hungry --watchdog 1 --on-panic restart --timeout 7
	expect_status 124
	[ "$(lines fed out)" -ge 2 ] || die "no restart: $(cat out err)"
	tiny hungry --watchdog 1 --on-panic wait --timeout 4
	expect_status 126
	expect_in err "halted and kept"
}

test_watchdog_watches_no_guest_that_does_not_feed() {
	tiny hungry
	expect_status 99
	tiny hang --watchdog 1 --timeout 4
	expect_status 124
	tiny fasting --watchdog 1 --timeout 4
	expect_status 124
	expect_out "stopped"
}

test_watchdog_counts_no_time_in_which_karma_was_stopped() {
	start_guest --watchdog 6 --kernel "$KARMA_KERNEL" --initrd "$INITRAMFS" -- \
		sh -c 'echo up; sleep 1; read -r line; exit 9'
	wait_for up 60
	local process
	process=$(guest_process)
	kill -STOP "$guest_pid" "$process"
	sleep 10
	kill -CONT "$guest_pid" "$process"
	sleep 5
	send go
	end_guest
	expect_status 9
}

test_watchdog_is_fed_by_the_driver() {
	guest --cpus 2 --watchdog 4 --stats -- sh -c 'sleep 14; echo alive; exit 3'
	expect_status 3
	expect_out "alive"
	[ "$(counter hypercall.watchdog)" -ge 9 ] || die "fed $(counter hypercall.watchdog) times"
}

# One of two vCPUs gets a real-time loop that nothing may interrupt: it runs no other thread.
test_watchdog_notices_one_hung_cpu() {
	local chrt library
	chrt=$(command -v chrt) || skip "no chrt(1)"
	make_busybox_root tree
	for library in "$chrt" $(ldd "$chrt" | grep -o '/[^ ]*'); do
		mkdir -p "tree$(dirname "$library")"
		cp -L "$library" "tree$library"
	done
	make_disk disk 64M tree
	guest --cpus 2 --watchdog 5 --disk disk -- sh -c '
		echo -1 >/proc/sys/kernel/sched_rt_runtime_us
		# From Linux 6.12 on other tasks have a share of each CPU besides.
		mount -t debugfs debugfs /sys/kernel/debug
		for share in /sys/kernel/debug/sched/*_server/cpu1/runtime; do
			[ ! -e $share ] || echo 0 >$share
		done
		echo hanging
		exec busybox taskset 2 chrt -f 99 sh -c "while :; do :; done"'
	expect_status 126
	expect_in out "hanging"
	expect_in err "watchdog: the guest hangs"
	expect_in err "vCPU 1 is at 0x"
}

test_guest_knows_who_it_is() {
	guest --name who --warm off -- sh -c '
		cd /sys/kernel/karma && cat name generation
		ls -d /sys/bus/*/drivers/vmgenid/KRMA0002:00 >/dev/null'
	expect_status 0
	expect_out "$(printf '%s\n' who 0)"
}

# The console goes with the driver; without it, only ACPI is left to end the guest.
test_driver_stops_the_watchdog_when_it_goes() {
	guest --watchdog 4 --stats -- sh -c '
		trap "" HUP
		rmmod virtio_karma
		[ -e /sys/kernel/karma ] && exit 8
		sleep 10
		echo b >/proc/sysrq-trigger'
	expect_status 0
	expect_not_in err "watchdog:"
	[ "$(counter exit.io_acpi)" -ge 1 ] || die "it did not end by ACPI"
}

# A parent that starts karma and is killed; sets guest_pid.
orphan() {	# OPTION...
	mkfifo to_guest
	exec 7<>to_guest
	(
		"$KARMA" run --timeout "$LIMIT" "$@" <to_guest >out 2>err 7>&- &
		echo $! >pid
		wait
	) 7>&- &
	parent=$!
	local end=$((SECONDS + 10))
	until [ -s pid ]; do [ $SECONDS -lt $end ] || die "no start"; nap 0.05; done
	guest_pid=$(cat pid)
}

wait_until_gone() {	# SECONDS
	local end=$((SECONDS + $1))
	while kill -0 "$guest_pid" 2>/dev/null; do
		[ $SECONDS -lt $end ] || die "karma is still there: $(cat out err)"
		nap 0.1
	done
}

test_parents_death_powers_the_guest_off() {
	make_busybox_root tree
	make_disk disk 32M tree
	orphan --die-with-parent --disk disk --kernel "$KARMA_KERNEL" --initrd "$INITRAMFS" -- \
		sh -c 'echo up; sleep 1000'
	wait_for up 60
	kill -KILL "$parent"
	wait_until_gone 60
	expect_in err "process [0-9]+, the parent, has ended"
	expect_not_in err "has not powered off"
	check_disk disk
}

test_parents_death_ends_a_guest_that_does_not_power_off() {
	orphan --die-with-parent --grace 2 --kernel "$TINY/hang"
	wait_for hanging 20
	kill -KILL "$parent"
	wait_until_gone 20
	expect_in err "has not powered off 2 seconds"
}

test_parents_death_is_nothing_to_others() {
	orphan --kernel "$TINY/hang"
	wait_for hanging 20
	kill -KILL "$parent"
	sleep 2
	kill -0 "$guest_pid" || die "karma ended"
	kill -INT "$guest_pid"
	wait_until_gone 20
}

# On a terminal: its mode is back and the guard is gone, whichever way it ends.
test_no_end_leaves_anything_on_the_terminal() {
	command -v script >/dev/null || skip "no script(1)"
	local kernel mode
	for kernel in reset panic triple-fault port; do
		script -qec "stty -a >before; $KARMA run --kernel $TINY/$kernel --strict --timeout 20
			stty -a >after" /dev/null >out 2>err </dev/null || true
		cmp before after || die "$kernel: the terminal's mode changed"
	done
	script -qec "stty -a >before; $KARMA run --kernel $TINY/hang --timeout 2; stty -a >after
		$KARMA run --kernel $TINY/reset --reboot restart --timeout 3; stty -a >later
		$KARMA run --kernel $TINY/panic --on-panic wait --timeout 2; stty -a >last" \
		/dev/null >out 2>err </dev/null || true
	for mode in after later last; do
		cmp before $mode || die "$mode: the terminal's mode changed"
	done
	! pgrep -x karma-terminal || die "a guard is left behind"
}

# The shell writes down its own number, and becomes the monitor.
test_terminal_that_is_closed_ends_its_guest() {
	command -v script >/dev/null || skip "no script(1)"
	script -qec "echo \$\$ >pid; exec $KARMA run --kernel $TINY/hang --timeout 60" /dev/null \
		>out 2>err </dev/null &
	guest_pid=$!
	until [ -s pid ]; do nap 0.1; done
	monitor=$(cat pid)
	sleep 3
	kill -HUP "$monitor"
	sleep 1
	kill -0 "$monitor" || die "SIGHUP ended a guest whose terminal is there"
	kill -9 "$guest_pid"
	for ((i = 0; i < 100; i++)); do
		kill -0 "$monitor" 2>/dev/null || return 0
		nap 0.1
	done
	kill -9 "$monitor"
	die "the guest outlives its terminal"
}
