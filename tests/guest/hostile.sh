# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash disable=SC2034,SC2154,SC2016 # variables of the library; Perl's own
#
# A guest that attacks (tests/guest/hostile), with four CPUs at once.  The monitor must be there
# afterwards and its devices work, or the guest must have come to the end that it deserves; in the
# sandbox, with memory and messages bounded.

GUEST_MIB=64

# hostile ATTACK [OPTION]...: sets $status, and $resident to the most that the monitor had, in kB.
hostile() {
	local attack=$1 process now
	shift
	head -c 8M /dev/urandom >disk
	"${KARMA_IN_NS[@]}" "$KARMA" run --kernel "$KARMA_ROOT/build/test/hostile" --memory ${GUEST_MIB}M --cpus 4 --disk disk \
		--cmdline "hostile=$attack cpus=4" --timeout 90 --stats "$@" >out 2>err &
	guest_pid=$!
	resident=0
	while kill -0 "$guest_pid" 2>/dev/null; do
		if process=$(guest_process); then
			now=$(sed -n 's/^VmHWM:[^0-9]*\([0-9]*\) kB/\1/p' "/proc/$process/status" 2>/dev/null) || true
			[ -z "$now" ] || resident=$now
		fi
		nap 0.1
	done
	end_guest
}

# A TAP on which frames come all the time, of more than one size.
make_flooded_tap() {
	make_namespace
	make_tap tap0
	ip -n "$ns" neigh add "$GUEST" lladdr 02:00:00:00:00:77 dev tap0
	in_ns perl -MIO::Socket::INET -e '
		$socket = IO::Socket::INET->new(Proto => "udp", PeerAddr => shift) or die $!;
		for (;;) { $socket->send("x" x $_) for 1, 1000; select undef, undef, undef, 0.02 }' "$GUEST:9" &
}

# Attacks that a monitor survives: the guest itself then looks whether its devices work.
expect_survived() {
	expect_status 42
	expect_not_in err "sandbox"
	[ "$resident" -lt $(((GUEST_MIB + 16) * 1024)) ] || die "$resident kB resident"
	[ "$(grep -vc '^stats ' err)" -le 40 ] || die "it made Karma say too much: $(cat err)"
}

test_hostile_calls_from_all_cpus() {
	hostile calls
	expect_survived
	[ "$(counter hypercall.refused)" -gt 1000 ] || die "no calls were refused"
	[ "$(counter hypercall.unknown)" -gt 1000 ] || die "no calls were unknown"
}

test_hostile_rings_that_change_under_the_device() {
	make_flooded_tap
	truncate -s 4M memory
	hostile rings --net tap=tap0 --disk memory,pmem
	expect_survived
	expect_in err "its driver broke the"
}

# More than 4 GiB in one chain takes a guest of no more than 17 MiB.
test_hostile_receive_chain_longer_than_memory() {
	make_flooded_tap
	hostile long-chain --net tap=tap0
	expect_survived
	expect_in err "its driver broke the receive queue \\(a chain of 4 GiB or more"
}

test_hostile_notify_storm_on_queues_that_are_not_there() {
	hostile storm
	expect_survived
}

test_hostile_resets_while_requests_are_under_way() {
	hostile resets
	expect_survived
}

test_hostile_scan_of_ports() {
	hostile ports
	expect_survived
	[ "$(counter exit.io)" -gt 60000 ] || die "only $(counter exit.io) accesses"
}

test_hostile_scan_of_msrs() {
	hostile msrs
	expect_survived
}

test_hostile_scan_of_absent_memory() {
	hostile absent-memory
	expect_survived
	[ "$(counter exit.mmio)" -gt 10000 ] || die "only $(counter exit.mmio) accesses"
	hostile absent-memory --strict
	expect_status 127
	expect_in err "guest crashed: vCPU [0-3] at 0x[0-9a-f]+: it (wrote to|read from) address 0x"
}

test_hostile_triple_faults_on_all_cpus() {
	hostile triple-fault
	expect_status 127
	expect_in err "guest crashed: vCPU [0-3] at 0x[0-9a-f]+: triple fault"
}

test_hostile_halt_without_interrupts_can_be_ended() {
	hostile halt --timeout 4
	expect_status 124
}

test_hostile_halt_ends_at_a_signal() {
	start_guest --kernel "$KARMA_ROOT/build/test/hostile" --memory ${GUEST_MIB}M --cpus 4 \
		--cmdline "hostile=halt cpus=4"
	wait_for start 20
	kill -INT "$guest_pid"
	end_guest
	expect_status 130
}

test_hostile_runaway_interrupts() {
	hostile runaway
	expect_survived
}

test_hostile_flood_that_nobody_reads() {
	hostile flood --console pty
	expect_survived
}

test_hostile_balloon() {
	hostile balloon
	expect_survived
}

test_hostile_fuse_requests() {
	mkdir -p shared/directory
	echo 'still here' >shared/witness
	echo 'the secret beside the share' >secret
	hostile fuse --share "$PWD/shared:share,rw"
	expect_survived
	[ "$(cat secret)" = 'the secret beside the share' ] || die "the secret is another: $(cat secret)"
	[ "$(echo *)" = "disk err out secret shared" ] || die "something is beside the share: $(ls -l)"
}

# With the device's own rings as the others'.
test_hostile_rings_of_a_share() {
	mkdir shared
	hostile rings --share "$PWD/shared:share,rw"
	expect_survived
}
