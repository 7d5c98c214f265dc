# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash disable=SC2034,SC2154,SC2016
# (the library's variables; the guest's shell expands what we quote)
#
# Guest memory: where it comes from, and that it goes back.

resident() {	# kB of the running guest's monitor, shared memory included
	sed -n 's/^VmRSS:[[:space:]]*\([0-9]*\) kB/\1/p' "/proc/$(guest_process)/status"
}

# fill_and_free OPTION...: a guest fills 200 MiB and frees them, which must come back.
fill_and_free() {
	start_guest --kernel "$KARMA_KERNEL" --initrd "$INITRAMFS" --stats "$@" -- sh -c '
		dd if=/dev/zero of=/tmp/fill bs=1M count=200 2>/dev/null; echo filled; read -r line
		rm /tmp/fill; echo freed; read -r line'
	wait_for filled 60
	full=$(resident)
	[ "$full" -gt $((200 * 1024)) ] || die "only $full kB resident with 200 MiB filled"
	send next
	wait_for freed 30
	# The guest reports every two seconds, a part at a time.
	end=$((SECONDS + 60))
	until [ "$(resident)" -lt $((full - 150 * 1024)) ]; do
		[ $SECONDS -lt $end ] || die "still $(resident) kB resident of $full kB"
		nap 0.5
	done
}

test_memory_that_the_guest_frees_returns_to_the_host() {
	fill_and_free --memory 768M
	send next
	end_guest
	expect_status 0
	[ "$(counter balloon.freed_bytes)" -gt $((150 << 20)) ] ||
		die "freed_bytes is $(counter balloon.freed_bytes)"
	[ "$(counter balloon.inflate.chains)" = 0 ] || die "the balloon was inflated"
}

test_shared_memory_returns_to_the_host() {
	fill_and_free --memory 768M,shared=on
	ls -l "/proc/$(guest_process)/fd" >files
	expect_in files "/memfd:karma-guest"
	send next
	end_guest
	expect_status 0
}

test_memory_is_the_same_after_it_came_back() {
	guest --memory 768M -- sh -c '
		for round in 1 2; do
			dd if=/dev/urandom of=/tmp/fill bs=1M count=150 2>/dev/null
			sha256sum /tmp/fill >/tmp/sum; sleep 3; sha256sum -c /tmp/sum; rm /tmp/fill; sleep 5
		done'
	expect_status 0
	expect_out "/tmp/fill: OK
/tmp/fill: OK"
}

test_balloon_off_is_no_device() {
	guest --balloon off --stats -- sh -c 'cat /sys/bus/virtio/devices/*/device'
	expect_status 0
	expect_not_in out 0x0005
	expect_not_in err "^stats balloon"
}

test_memory_of_huge_pages() {
	local setting=/proc/sys/vm/nr_hugepages before=0
	[ -w $setting ] || skip "only root can make huge pages"
	before=$(<$setting)
	# shellcheck disable=SC2064 # now
	trap "echo $before >$setting; clean_up" EXIT
	echo $((before + 256)) >$setting
	[ "$(<$setting)" -ge $((before + 256)) ] || skip "this host has no 256 huge pages"
	for shared in off on; do
		guest --memory "512M,hugepages=on,shared=$shared" --stats -- \
			sh -c 'grep MemTotal /proc/meminfo; cat /sys/bus/virtio/devices/*/device'
		expect_status 0
		expect_in out MemTotal
		expect_not_in out 0x0005
	done
}

test_too_few_huge_pages_are_told() {
	guest --memory 512G,hugepages=on -- true
	expect_status 125
	expect_in err "needs 262144 huge pages .* run .sysctl vm.nr_hugepages=[0-9]+. as root"
}
