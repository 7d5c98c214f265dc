# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash disable=SC2034,SC2154,SC2016
# (the library's variables; the guest's shell expands what we quote)
#
# The sandbox, seen from outside while a guest runs.  What it keeps a guest from that has broken out is
# tests/takeover's business.

# In the process of the running guest: a field of its status, of all threads, each value once.
status_of_threads() { sed -n "s/^$1:[[:space:]]*//p" "/proc/$(guest_process)"/task/*/status | sort -u; }

expect_confined() {
	local process name
	process=$(guest_process)
	[ "$(status_of_threads Seccomp)" = 2 ] || die "threads without a filter: $(status_of_threads Seccomp)"
	[ "$(status_of_threads Seccomp_filters)" = 1 ] || die "filters: $(status_of_threads Seccomp_filters)"
	[ "$(status_of_threads NoNewPrivs)" = 1 ] || die "new privileges are allowed"
	[ "$(status_of_threads CapEff)" = 0000000000000000 ] || die "capabilities are left"
	[ "$(status_of_threads CapPrm)" = 0000000000000000 ] || die "capabilities are left"
	for name in pid ipc uts net mnt; do
		[ "$(readlink "/proc/$process/ns/$name")" != "$(readlink "/proc/$guest_pid/ns/$name")" ] ||
			die "no $name namespace of its own"
	done
	[ -z "$(ls -A "/proc/$process/root/" 2>/dev/null)" ] || die "its file system: $(ls -A "/proc/$process/root/")"
	[ "$(awk 'NR > 0' "/proc/$process/mountinfo" | wc -l)" = 1 ] || die "$(cat "/proc/$process/mountinfo")"
	# No descriptor can be added.
	awk '/^Max open files/ { exit $4 > 64 || $5 > 64 }' "/proc/$process/limits" ||
		die "$(cat "/proc/$process/limits")"
	awk '/^Max core file size/ { exit $5 != "unlimited" && $6 == 16777216 ? 0 : 1 }' \
		"/proc/$process/limits" || die "$(cat "/proc/$process/limits")"
	# The guest's memory is not in a core dump: the flag dd.
	awk '/^Size:/ { guest = $2 >= 65536 } /^VmFlags:/ && guest && !/ dd/ { exit 1 }' \
		"/proc/$process/smaps" || die "the guest's memory would be in a core dump"
}

test_guests_process_is_confined() {
	truncate -s 1M disk
	start_guest --cpus 2 --disk disk --kernel "$TINY/hang"
	wait_for hanging 20
	expect_confined
	kill -INT "$guest_pid"
	end_guest
	expect_status 130
	expect_not_in err "sandbox"
}

test_an_ordinary_user_is_confined_as_well() {
	let_user_in
	truncate -s 1M disk
	chmod 666 disk
	mkfifo to_guest
	"${become[@]}" "$KARMA" run --timeout "$LIMIT" --disk disk --kernel "$TINY/hang" \
		<to_guest >out 2>err &
	guest_pid=$!
	exec 7>to_guest
	wait_for hanging 20
	expect_confined
	[ "$(readlink "/proc/$(guest_process)/ns/user")" != "$(readlink /proc/self/ns/user)" ] ||
		die "no user namespace"
	kill -INT "$guest_pid"
	end_guest
	expect_status 130
}

test_host_without_user_namespaces_is_told_of_once() {
	[ -e /proc/sys/kernel/unprivileged_userns_clone ] || skip "this kernel has no such switch"
	let_user_in
	echo 0 >/proc/sys/kernel/unprivileged_userns_clone
	status=0
	"${become[@]}" "$KARMA" run --timeout 6 --reboot restart --kernel "$TINY/reset" >out 2>err ||
		status=$?
	echo 1 >/proc/sys/kernel/unprivileged_userns_clone
	expect_status 124
	[ "$(grep -c 'allows no namespaces' err)" = 1 ] || die "not told once: $(cat err)"
}

test_root_can_run_a_guest_as_another_user() {
	[ "$(id -u)" = 0 ] || skip "needs to be root"
	local user
	for user in nobody 65534; do
		rm -f to_guest
		start_guest --user $user --kernel "$TINY/hang"
		wait_for hanging 20
		expect_confined
		[ "$(status_of_threads Uid)" = "$(printf '65534\t65534\t65534\t65534')" ] ||
			die "its user is $(status_of_threads Uid)"
		[ "$(status_of_threads Groups)" = "" ] || die "its groups are $(status_of_threads Groups)"
		kill -INT "$guest_pid"
		end_guest
		expect_status 130
	done
	tiny hang --user nobody-of-that-name
	expect_status 125
	expect_in err "no such user"
}

test_root_can_run_a_guest_in_a_control_group() {
	[ "$(id -u)" = 0 ] || skip "needs to be root"
	local groups=/sys/fs/cgroup
	[ -w $groups/cgroup.procs ] || { mkdir groups; groups=$PWD/groups; mount -t cgroup2 none groups; }
	mkdir "$groups/karma-test-own"
	start_guest --cgroup "$groups/karma-test-own" --kernel "$TINY/hang"
	wait_for hanging 20
	grep -qx "$(guest_process)" "$groups/karma-test-own/cgroup.procs" || die "it is not in there"
	kill -INT "$guest_pid"
	end_guest
	rmdir "$groups/karma-test-own"
	expect_status 130
	tiny hang --cgroup "$groups/none-of-that-name"
	expect_status 125
	expect_in err "is no control group"
}

test_no_sandbox_says_so() {
	start_guest --no-sandbox --kernel "$TINY/hang"
	wait_for hanging 20
	expect_in err "no-sandbox: a guest that breaks out"
	[ "$(status_of_threads Seccomp)" = 0 ] || die "there are filters"
	kill -INT "$guest_pid"
	end_guest
	expect_status 130
}

test_death_of_the_guests_process_is_told() {
	start_guest --reboot restart --kernel "$TINY/hang"
	wait_for hanging 20
	kill -KILL "$(guest_process)"
	end_guest
	expect_status 125
	expect_in err "the guest's process was killed by signal 9"
}

test_killed_supervisor_takes_the_guest_with_it() {
	start_guest --kernel "$TINY/hang"
	wait_for hanging 20
	local process
	process=$(guest_process)
	kill -KILL "$guest_pid"
	wait "$guest_pid" 2>/dev/null || true
	local end=$((SECONDS + 10))
	while kill -0 "$process" 2>/dev/null; do
		[ $SECONDS -lt $end ] || die "the guest runs on"
		nap 0.1
	done
}
