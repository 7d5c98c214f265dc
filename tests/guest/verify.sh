# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash disable=SC2034,SC2154,SC2016
# (the library's variables; the guest's shell expands what we quote)
#
# fio writes to a disk from four vCPUs by four queues, and checks what it wrote, while the monitor is
# killed again and again.
#
# The disk has two areas.  Generation after generation, fio writes all blocks of one and then of the
# other, each with a checksum and a number that only this generation's block at this place has, and
# flushes.  The monitor is killed at any moment of that.  Then the area that was flushed last must
# have that generation's blocks, each of them; the other one, which was just being written, may have
# those of two generations, all of them whole.
#
# Or it is not killed but saved, and a copy goes on from each snapshot, ends its generation, and checks that and the
# one before.
#
# KARMA_VERIFY_KILLS (2) kills in KARMA_VERIFY_SECONDS (2) of writing at least, and KARMA_VERIFY_SNAPSHOTS (2) of them,
# to areas of KARMA_VERIFY_AREA (4) MiB: `make soak-disk` has more of all.

make_fio_root() {	# FILE: a disk with fio
	command -v fio >/dev/null || skip "fio is not installed: run scripts/dependencies test"
	mkdir fio-root
	make_busybox_root fio-root
	{ command -v fio; ldd "$(command -v fio)" | grep -o '/[^ ]*'; } | xargs cp -L --parents -t fio-root
	cat >fio-root/bin/generations <<-'END'
	#!/bin/sh
	# generations AREA-MIB LAST: check that generation LAST is there, and write those that follow.
	area=$1 last=$2
	mount -t tmpfs tmp /tmp
	cd /tmp
	job() {	# GENERATION FIO-OPTION...
		generation=$1
		shift
		fio --name=job --filename=/dev/vdb --direct=1 --ioengine=libaio --iodepth=8 --bs=4k \
			--numjobs=4 --size=$((area / 4))m --offset=$((generation % 2 * area))m \
			--offset_increment=$((area / 4))m --verify=crc32c --verify_fatal=1 \
			--randseed=$generation "$@" >out 2>&1 && return
		echo "fio failed, generation $generation $*:"
		grep -E "verify|error|fio:" out | head -n 20
		exit 9
	}
	# In a mix of reads and writes fio checks the number too, even if there are no reads in it.
	mixed="--rw=randrw --rwmixwrite=100"
	verify() {
		[ $last -lt 2 ] || job $last $mixed --verify_only
		[ $last -lt 2 ] || job $((last - 1)) --rw=randwrite --verify_only
		echo "verified $last"
	}
	verify
	while :; do
		read go || { verify; exit 0; }
		last=$((last + 1))
		job $last $mixed --do_verify=0 --end_fsync=1
		echo "flushed $last"
	done
	END
	chmod +x fio-root/bin/generations
	make_disk "$1" 192M fio-root
}

start_generations() {	# LAST DISK-OPTION [OPTION...]
	rm -f to_guest
	start_guest --kernel "$KARMA_KERNEL" --initrd "$INITRAMFS" --cpus 4 --memory 512M \
		--timeout "${KARMA_TEST_LIMIT:-900}" --disk fio,ro --disk "$2" "${@:3}" -- /bin/generations "$area" "$1"
	wait_for "^(verified $1|fio failed)" 300
	expect_in out "^verified $1"
}

# What has been flushed goes to $last; the guest waits for our word, so that we know of all of it.
write_for() {	# MILLISECONDS
	local end=$((${EPOCHREALTIME/[.,]/} + $1 * 1000)) lines line
	send go
	while [ "${EPOCHREALTIME/[.,]/}" -lt $end ] || [ "$last" -lt 2 ]; do
		nap 0.02
		kill -0 "$guest_pid" 2>/dev/null || die "the guest ended: $(cat out err)"
		mapfile -t lines <out
		for line in "${lines[@]}"; do
			case $line in
			"fio failed"*) die "$(cat out err)" ;;
			"flushed $((last + 1))")
				last=$((last + 1))
				send go
				;;
			esac
		done
	done
}

verify_generations() {	# DISK-OPTION
	local kills=0 least=${KARMA_VERIFY_KILLS:-2} seconds=${KARMA_VERIFY_SECONDS:-2}
	local written=0 span area=${KARMA_VERIFY_AREA:-4}
	last=0
	truncate -s $((2 * area))M "${1%%,*}"
	make_fio_root fio
	while [ $kills -lt "$least" ]; do
		start_generations "$last" "$1"
		span=$((1000 * seconds / least + RANDOM % (1000 * seconds / least)))
		write_for $span
		written=$((written + span))
		kill -9 "$guest_pid"
		end_guest
		kills=$((kills + 1))
		echo "kill $kills, $written ms of writing, generation $last flushed"
	done
	start_generations "$last" "$1"
	end_guest
	expect_status 0
}

test_fio_finds_all_that_was_flushed_before_kills() {
	verify_generations work
}

test_fio_finds_all_that_was_flushed_to_an_overlay_before_kills() {
	verify_generations base,overlay=work
}

test_fio_finds_all_that_was_written_in_snapshots() {
	local number area=${KARMA_VERIFY_AREA:-4}
	last=0
	export XDG_RUNTIME_DIR=$PWD
	truncate -s $((2 * area))M base
	make_fio_root fio
	start_generations 0 base,overlay=work --name web
	for ((number = 1; number <= ${KARMA_VERIFY_SNAPSHOTS:-2}; number++)); do
		write_for $((200 + RANDOM % 1500))
		"$KARMA" snapshot web saved || die "no snapshot: $(cat err)"
		status=0
		"$KARMA" run --restore saved --name copy </dev/null >copy.out 2>copy.err || status=$?
		echo "snapshot $number, generation $last flushed: $(tail -n 1 copy.out)"
		if [ $status != 0 ] || ! printed "^verified ($((last + 1))|$((last + 2)))\$" copy.out; then
			die "status $status: $(cat copy.out copy.err)"
		fi
		rm -r saved
	done
	end_guest
	expect_status 0
}
