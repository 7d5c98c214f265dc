# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash disable=SC2034,SC2154,SC2016
# (the library's variables; the guest's shell expands what we quote)
#
# How a guest ends, and what `karma run` makes of it.

test_command_status_is_karmas() {
	guest -- sh -c 'exit 3'
	expect_status 3
	[ ! -s out ] || die "a silent command printed: $(cat out)"
	[ ! -s err ] || die "karma printed: $(cat err)"
}

test_command_killed_by_signal_gives_128_and_more() {
	# shellcheck disable=SC2016 # the guest's $$
	guest -- sh -c 'kill -9 $$'
	expect_status 137
}

test_command_status_of_karmas_own_is_told_as_123() {
	guest -- sh -c 'exit 126'
	expect_status 123
	expect_in err "status 126 is told as 123"
}

test_command_not_found_is_told() {
	guest -- no-such-command
	expect_status 123
	expect_in err "no-such-command: No such file or directory"
}

test_poweroff_gives_0() {
	guest -- poweroff
	expect_status 0
}

test_halt_gives_0() {
	guest -- halt -f
	expect_status 0
}

test_reboot_gives_0() {
	guest -- reboot
	expect_status 0
}

test_panic_gives_126_and_shows_its_message() {
	guest -- sh -c 'echo c > /proc/sysrq-trigger'
	expect_status 126
	expect_in err "kernel panicked: sysrq triggered crash"
	expect_in err "Kernel panic - not syncing: sysrq triggered crash"
}

test_panic_before_the_driver_gives_126() {
	status=0
	make_disk disk 16M
	# No initramfs, and no driver for the disk: the kernel finds no root.
	KARMA_GUEST_DIR=/nonexistent "$KARMA" run --kernel "$KARMA_KERNEL" --disk disk \
		--timeout "$LIMIT" >out 2>err || status=$?
	expect_status 126
	expect_in err "panicked early"
	expect_in err "make guest KVER=$RELEASE_PATTERN"
	expect_in err "the guest's kernel logged: Kernel panic - not syncing: VFS: Unable to mount root fs"
}

test_guest_that_idles_without_a_call_is_told_of_once() {
	: >err
	start_guest --kernel "$TINY/silent"
	until printed "^karma: .*No root" err; do
		kill -0 "$guest_pid" || die "it ended: $(cat err)"
		nap 0.2
	done
	kill -INT "$guest_pid"
	end_guest
	expect_status 130
	cat >want <<-END
	karma: guest has made no call yet and idles: it lacks the driver virtio_karma, most likely: give it an --initrd that loads it (\`make guest\`)
	karma: the guest's kernel logged: Linux version 0.0
	karma: the guest's kernel logged: No root [31m
	END
	cmp want err || die "karma printed: $(cat err)"
}

test_timeout_gives_124() {
	LIMIT=8
	guest -- sleep 1000
	expect_status 124
	expect_in err "after 8 seconds"
}

test_missing_kernel_gives_125_and_says_so() {
	KARMA_KERNEL=/nonexistent/vmlinuz guest -- true
	expect_status 125
	expect_in err "/nonexistent/vmlinuz.*No such file"
	[ ! -s out ] || die "stdout holds $(cat out)"
}

test_too_few_open_files_give_125_and_say_so() {
	local allowed
	for allowed in 20 100; do
		status=0
		(ulimit -n $allowed && exec timeout -k 1 10 "$KARMA" run --kernel "$TINY/hang") >out 2>err ||
			status=$?
		expect_status 125
		expect_in err "only $allowed open files are allowed.*ulimit -n"
	done
	start_guest --kernel "$TINY/hang"
	wait_for "hanging" 20
	prlimit --pid "$guest_pid" --nofile=20:20
	kill -WINCH "$guest_pid"
	end_guest
	expect_status 125
	expect_in err "can't wait for what happens: Invalid argument.*ulimit -n"
}

test_sigterm_lets_the_guest_power_off() {
	start_guest --kernel "$KARMA_KERNEL" --initrd "$INITRAMFS" -- \
		sh -c 'echo up; sleep 1000'
	wait_for up 60
	kill -TERM "$guest_pid"
	end_guest
	expect_status 0
}

test_sigterm_as_soon_as_the_guest_is_up_lets_it_power_off() {
	socat -u "UNIX-RECV:$PWD/manager" OPEN:told,creat &
	manager=$!
	until [ -S manager ]; do nap 0.1; done
	NOTIFY_SOCKET=$PWD/manager start_guest --kernel "$KARMA_KERNEL" --initrd "$INITRAMFS" -- sleep 1000
	until [ -e told ] && printed '^READY=1' told; do
		kill -0 "$guest_pid" || die "it ended before it was up: $(cat err)"
		nap 0.01
	done
	kill -TERM "$guest_pid"
	end_guest
	kill "$manager"
	expect_status 0
}

test_sigterm_ends_a_guest_that_does_not_power_off() {
	start_guest --grace 2 --kernel "$TINY/hang"
	wait_for "hanging" 20
	kill -TERM "$guest_pid"
	nap 0.5
	kill -0 "$guest_pid" || die "the guest got no time"
	end_guest
	expect_status 143
	expect_in err "has not powered off 2 seconds after SIGTERM"
}

test_second_sigterm_ends_the_guest_at_once() {
	start_guest --grace 100 --kernel "$TINY/hang"
	wait_for "hanging" 20
	kill -TERM "$guest_pid"
	nap 0.5
	kill -TERM "$guest_pid"
	end_guest
	expect_status 143
	expect_not_in err "has not powered off"
}

test_sigint_ends_the_guest_at_once() {
	start_guest --kernel "$KARMA_KERNEL" --initrd "$INITRAMFS" -- \
		sh -c 'echo up; sleep 1000'
	wait_for up 60
	kill -INT "$guest_pid"
	end_guest
	expect_status 130
}

test_triple_fault_gives_127() {
	tiny triple-fault
	expect_status 127
	expect_in err "triple fault"
}

test_absent_memory_reads_as_ones() {
	tiny mmio --stats
	expect_status 7
	[ "$(counter exit.mmio)" = 2 ] || die "exit.mmio is $(counter exit.mmio), not 2"
	! grep -v "^stats " err || die "karma printed: $(cat err)"
}

test_strict_forbids_absent_memory() {
	tiny mmio --strict
	expect_status 127
	expect_in err "read from address 0xc8000000, where there is nothing, and --strict forbids that"
}

test_absent_port_reads_as_ones() {
	tiny port --stats
	expect_status 7
	[ "$(counter exit.io)" = 2 ] || die "exit.io is $(counter exit.io), not 2"
}

test_strict_forbids_absent_ports() {
	tiny port --strict
	expect_status 127
	expect_in err "I/O port 0x1234, where there is nothing, and --strict forbids that"
}

test_unknown_hypercalls_are_refused_and_counted() {
	tiny hypercalls --stats
	expect_status 42
	[ "$(counter hypercall.unknown)" = 3 ] || die "unknown: $(counter hypercall.unknown)"
	[ "$(counter hypercall.refused)" = 2 ] || die "refused: $(counter hypercall.refused)"
	expect_out "tiny"
}

test_check_says_that_guests_can_run() {
	"$KARMA" check >out 2>err
	expect_in out "a probe guest's call reached Karma"
	expect_in out "This host can run guests"
	expect_not_in out "FAIL"
}
