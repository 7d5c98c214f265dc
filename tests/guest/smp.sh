# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash disable=SC2034,SC2154,SC2016
# (the library's variables; the guest's shell expands what we quote)
#
# Guests with several CPUs: all come up, by KVM's paravirtual help, and stay well under load.

# The kernel's log in a file has that line.
expect_logged() {	# FILE PATTERN
	grep -Eq -- "$2" "$1" || die "no '$2' in the guest's log"
}

# What a kernel says when a CPU was left waiting, or worse.  Before the others come up, the first one
# has its say about the host's CPU: an emulated one lacks a thing or two.
expect_no_complaint() {	# FILE
	! sed '1,/Bringing up secondary CPUs/d' "$1" |
		grep -E 'WARNING:|BUG:|Oops|lockup|LOCKUP|stall|blocked for more|unstable|Call Trace' \
		>complaints || die "the guest complains: $(cat complaints)"
}

# A vCPU that waits for another one which the host does not run must not spin, and has to get at
# many by one exit: that is what these are for.
test_four_cpus_use_kvms_paravirtual_features() {
	guest --cpus 4 --stats -- sh -c 'nproc; dmesg'
	expect_status 0
	[ "$(head -n 1 out)" = 4 ] || die "nproc says $(head -n 1 out)"
	expect_logged out "smp: Brought up 1 node, 4 CPUs"
	expect_logged out "kvm-guest: setup PV IPIs"
	expect_logged out "kvm-guest: KVM setup pv remote TLB flush"
	expect_logged out "kvm-guest: setup PV sched yield"
	expect_logged out "kvm-guest: PV spinlocks enabled"
	expect_logged out "clocksource: Switched to clocksource kvm-clock"
	expect_no_complaint out
	# KVM serves its own hypercalls by itself, and counts them with Karma's.
	[ "$(counter kvm.hypercalls)" -gt $(($(counter exit.hypercall) + 20)) ] ||
		die "hypercalls: $(counter kvm.hypercalls), Karma's: $(counter exit.hypercall)"
}

# Each CPU has a queue of its own, whose interrupts come to it.
# Large reads, which another thread does: what is complete when its notification returns has no interrupt.
test_a_disk_has_a_queue_for_each_cpu() {
	truncate -s 8M disk
	guest --cpus 4 --disk disk --cmdline root= -- sh -c '
		cat /sys/block/vda/mq/[0-3]/cpu_list
		for queue in 0 1 2 3; do
			irq=$(sed -n "s/^ *\([0-9]*\):.*karma-virtio0-req.$queue\$/\1/p" /proc/interrupts)
			cat /proc/irq/$irq/effective_affinity_list
		done
		for cpu in 0 1 2 3; do
			taskset $((1 << cpu)) dd if=/dev/vda of=/dev/null bs=1M count=8 iflag=direct
		done 2>/dev/null
		sed -n "s/^ *[0-9]*:\(.*\) karma .*karma-virtio0-req.*/\1/p" /proc/interrupts |
			awk "{ print NR - 1, (\$NR >= 8) }"'
	expect_status 0
	expect_out "$(printf '%s\n' 0 1 2 3 0 1 2 3 '0 1' '1 1' '2 1' '3 1')"
}

# As many as --cpus takes, where the host is a real one.  On one emulated CPU the ticks of 64 alone can
# take all of its time.
test_many_cpus_come_up() {
	local cpus=64
	[ -z "${KARMA_SOFT_HOST-}" ] || cpus=8
	guest --cpus $cpus -- sh -c 'nproc; dmesg'
	expect_status 0
	[ "$(head -n 1 out)" = $cpus ] || die "nproc says $(head -n 1 out)"
	expect_logged out "smp: Brought up 1 node, $cpus CPUs"
	expect_no_complaint out
}

test_four_cpus_under_stress_make_no_mistake() {
	local program library
	program=$(command -v stress-ng) || skip "no stress-ng(1)"
	make_busybox_root tree
	for library in "$program" $(ldd "$program" | grep -o '/[^ ]*'); do
		mkdir -p "tree$(dirname "$library")"
		cp -L "$library" "tree$library"
	done
	make_disk disk 128M tree
	guest --cpus 4 --disk disk -- sh -c '
		"$0" --cpu 4 --vm 2 --vm-bytes 64M --switch 2 --futex 2 --timeout 15s --verify \
			--temp-path /tmp >/tmp/log 2>&1
		status=$?
		cat /tmp/log
		echo "--- the log of the kernel"
		busybox dmesg
		exit $status' "$program"
	sed '/^--- the log/,$d' out >stress
	sed '1,/^--- the log/d' out >log
	[ "$status" = 0 ] || die "status is $status: $(cat stress err)"
	expect_in stress "successful run completed"
	expect_logged log "Brought up 1 node, 4 CPUs"
	expect_no_complaint log
	check_disk disk
	cat stress
}
