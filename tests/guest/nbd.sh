# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash disable=SC2034,SC2154,SC2016
# (the library's variables; the guest's shell expands what we quote)
#
# Disks on NBD servers: Debian's nbdkit and qemu-nbd, in good and in bad health.

PATH=$PATH:/usr/sbin:/sbin

# serve COMMAND...: start a server, and wait until it listens at $socket.
serve() {
	socket=$PWD/socket
	rm -f "$socket"
	"$@" >>server.log 2>&1 &
	server_pid=$!
	trap 'clean_up; end_server' EXIT
	for _ in $(seq 100); do
		if listens "$socket"; then return 0; fi
		nap 0.1
	done
	cat server.log >&2
	die "no server: $*"
}

end_server() {	# [SIGNAL]
	[ -n "${server_pid-}" ] || return 0
	kill "-${1:-TERM}" "$server_pid" 2>/dev/null || true
	kill -CONT "$server_pid" 2>/dev/null || true
	wait "$server_pid" 2>/dev/null || true
	server_pid=
}

kit() {	# [OPTION]... PLUGIN...
	serve nbdkit -f -U "$PWD/socket" "$@"
}

# start_on OPTION_OF_DISK COMMAND: a guest to be talked to, whose disk is at $socket.
start_on() {
	start_guest --kernel "$KARMA_KERNEL" --initrd "$INITRAMFS" --grace 4 \
		--disk "nbd:unix:$socket$1" --cmdline root= -- sh -c "$2"
}

guest_on() {	# OPTION_OF_DISK COMMAND
	guest --disk "nbd:unix:$socket$1" --cmdline root= -- sh -c "$2"
}

test_qcow2_of_qemu_nbd_is_a_root_and_holds_what_was_synced() {
	mkdir root
	make_busybox_root root
	make_disk raw 64M root
	qemu-img convert -f raw -O qcow2 raw disk.qcow2
	serve qemu-nbd -k "$PWD/socket" -f qcow2 -x root --discard unmap --persistent disk.qcow2
	guest --disk "nbd:unix:$socket:exportname=root" -- sh -c '
		dd if=/dev/urandom of=/data/gone bs=1M count=8 conv=fsync 2>/dev/null && rm /data/gone
		dd if=/dev/urandom of=/data/big bs=1M count=16 conv=fsync 2>/dev/null
		fstrim / && sha256sum </data/big'
	expect_status 0
	end_server
	qemu-img check -q disk.qcow2 || die "the qcow2 is damaged"
	qemu-img convert -f qcow2 -O raw disk.qcow2 after
	check_disk after
	debugfs -R 'dump /data/big big' after 2>/dev/null
	sha256sum <big | cmp - out || die "what the guest synced is not in the image"
}

test_kill_9_of_the_monitor_leaves_what_was_synced_on_the_server() {
	truncate -s 16M image
	kit file image
	start_on '' 'i=0; while i=$((i + 1)); do
			echo "record $i" | dd of=/dev/vda bs=512 seek=$i conv=sync,fsync 2>/dev/null &&
				echo "synced $i"
		done'
	wait_for "synced 20" 100
	kill -9 "$guest_pid"
	end_guest
	last=$(sed -n 's/^synced \([0-9]*\)$/\1/p' out | tail -n 1)
	for i in $(seq "$last"); do
		[ "$(dd if=image bs=512 skip="$i" count=1 status=none | head -n 1)" = "record $i" ] ||
			die "record $i of $last is lost"
	done
}

test_export_is_seen_as_it_is() {
	kit --filter=blocksize-policy memory 24M blocksize-minimum=1024 blocksize-preferred=8192 \
		blocksize-maximum=64k blocksize-error-policy=error
	guest_on ,serial=NBD-1 'cd /sys/block/vda
		for file in size serial ro queue/logical_block_size queue/physical_block_size; do
			echo $file $(cat $file)
		done
		dd if=/dev/urandom of=/tmp/data bs=1M count=4 2>/dev/null
		dd if=/tmp/data of=/dev/vda bs=1M oflag=direct conv=fsync 2>/dev/null &&
			dd if=/dev/vda bs=1M count=4 iflag=direct 2>/dev/null | cmp - /tmp/data && echo same'
	expect_status 0
	expect_out "size 49152
serial NBD-1
ro 0
queue/logical_block_size 1024
queue/physical_block_size 8192
same"
}

test_server_is_reached_by_tcp_and_uri() {
	port=$((20000 + $$ % 10000))
	ip link set lo up 2>/dev/null || true
	nbdkit -f -i 127.0.0.1 -p "$port" -e 'an export' data data='"hello, guest"' size=1M &
	server_pid=$!
	trap 'clean_up; end_server' EXIT
	for _ in $(seq 100); do
		! (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
		nap 0.1
	done
	guest --disk "nbd://127.0.0.1:$port/an%20export,ro" --cmdline root= -- head -c 12 /dev/vda
	expect_status 0
	[ "$(cat out)" = "hello, guest" ] || die "it reads: $(cat out)"
	end_server
	kit memory 1M
	guest --disk "nbd+unix:///?socket=$socket" --cmdline root= -- cat /sys/block/vda/size
	expect_status 0
	expect_out 2048
}

test_read_only_export_is_a_read_only_disk_and_wants_to_be_told_so() {
	truncate -s 1M image
	kit -r file image
	guest_on '' true
	expect_status 125
	expect_in err "lets nobody write to it: add \`,ro\`"
	guest_on ,ro 'cat /sys/block/vda/ro; echo x >/dev/vda'
	expect_status 1
	expect_in out "^1$"
}

test_errors_of_a_server_are_the_guests_until_they_end() {
	kit --filter=error memory 16M error-rate=100% error-file="$PWD/inject"
	start_on '' '
		look() { dd if=/dev/vda bs=4k skip=$1 count=1 iflag=direct of=/dev/null 2>/tmp/err; }
		look 1; echo "before: $?"
		read go
		look 2; echo "bad read: $? $(grep -o "[^ ]*/[^ ]* error" /tmp/err)"
		dd if=/dev/zero of=/dev/vda bs=4k count=1 oflag=direct 2>/dev/null; echo "bad write: $?"
		read go
		look 2 && echo x | dd of=/dev/vda conv=fsync 2>/dev/null; echo "after: $?"'
	wait_for "before: 0" 100
	touch inject
	send go
	wait_for "bad write: 1" 20
	expect_in out "bad read: 1 (Input/output|I/O) error"
	expect_in err "disk vda: read at byte 8192 failed: Input/output error"
	rm inject
	send go
	wait_for "after: 0" 20
	end_guest
	expect_status 0
}

test_full_server_is_an_io_error() {
	kit --filter=error memory 16M error=ENOSPC error-pwrite-rate=100%
	guest_on '' 'dd if=/dev/zero of=/dev/vda bs=4k count=1 oflag=direct 2>/dev/null; echo "write: $?"
		dd if=/dev/vda of=/dev/null bs=4k count=1 iflag=direct 2>/dev/null; echo "read: $?"'
	expect_status 0
	expect_in out "write: 1"
	expect_in out "read: 0"
	expect_in err "disk vda: write at byte 0 failed: No space left on device"
}

# Each record is written and synced, and both again as long as the guest is told of an error.
test_server_killed_and_started_again_and_again_has_all_that_was_synced() {
	truncate -s 16M image
	kit file image
	start_on '' 'i=0; until [ -e /tmp/end ]; do i=$((i + 1))
			until echo "record $i" | dd of=/dev/vda bs=512 seek=$i conv=sync,fsync 2>/dev/null
			do echo "again $i"; done
			echo "synced $i"
		done & read go; touch /tmp/end; wait'
	for stop in 10 20 35 50; do
		wait_for "synced $stop\$" 100
		end_server KILL
		nap 0.5
		kit file image
	done
	wait_for "synced 65\$" 60
	send go
	end_guest
	expect_status 0
	expect_in err "is lost"
	expect_in err "is back"
	expect_not_in err "requests fail"
	last=$(sed -n 's/^synced \([0-9]*\)$/\1/p' out | tail -n 1)
	for i in $(seq "$last"); do
		[ "$(dd if=image bs=512 skip="$i" count=1 status=none | head -n 1)" = "record $i" ] ||
			die "record $i of $last is lost"
	done
}

# A write that the server has acknowledged, and not flushed, may be lost with it.
test_flush_fails_once_if_the_server_was_lost_with_unflushed_writes() {
	truncate -s 16M image
	kit file image
	start_on '' '
		put() { dd if=/dev/zero of=/dev/vda bs=4k count=1 oflag=direct $1 2>/dev/null; }
		put; echo "write: $?"
		read go
		put conv=fsync; echo "write and sync: $?"
		put conv=fsync; echo "again: $?"'
	wait_for "write: 0" 100
	end_server KILL
	kit file image
	send go
	wait_for "again: 0" 30
	end_guest
	expect_status 0
	expect_in out "write and sync: 1"
	expect_in err "acknowledged and not flushed may be gone"
}

test_server_that_stays_away_is_an_io_error_until_it_is_back() {
	kit memory 16M
	start_on ,timeout=2 '
		look() { dd if=/dev/vda bs=4k count=1 iflag=direct of=/dev/null 2>/dev/null; }
		look; echo "before: $?"
		read go
		look; echo "away: $?"
		read go
		until look; do sleep 0.2; done; echo "after: 0"'
	wait_for "before: 0" 100
	end_server KILL
	send go
	wait_for "away: 1" 30
	expect_in err "no answer from the server for 2 s: requests fail until it is back"
	kit memory 16M
	send go
	wait_for "after: 0" 30
	end_guest
	expect_status 0
	expect_in err "the server is back"
	[ "$(grep -c 'the server is lost' err)" = 1 ] || die "the loss is told more than once: $(cat err)"
}

test_server_that_hangs_holds_up_neither_the_start_nor_the_end() {
	kit memory 16M
	kill -STOP "$server_pid"
	guest_on ,timeout=2 true
	expect_status 125
	expect_in err "the server does not answer: see whether it hangs"
	kill -CONT "$server_pid"
	# It hangs with a request under way, and the guest is to end by a signal, and by itself.
	for end in signal command; do
		rm -f to_guest
		start_on '' 'dd if=/dev/vda of=/dev/null bs=4k count=1 iflag=direct 2>/dev/null; echo up; read go
			dd if=/dev/vda of=/dev/null bs=4k skip=1 count=1 iflag=direct 2>/dev/null &
			echo hangs; read go; exit 5'
		wait_for "up" 100
		kill -STOP "$server_pid"
		send go
		wait_for "hangs" 20
		if [ "$end" = signal ]; then kill -INT "$guest_pid"; else send go; fi
		start=$SECONDS
		end_guest
		if [ "$end" = signal ]; then expect_status 130; else expect_status 5; fi
		[ $((SECONDS - start)) -lt 40 ] || die "it took $((SECONDS - start)) s to end by a $end"
		kill -CONT "$server_pid"
	done
}

test_nbd_disk_has_limits() {
	kit memory 16M
	guest --disk "nbd:unix:$socket,iops=20" --cmdline root= --stats -- sh -c '
		dd if=/dev/vda of=/dev/null bs=4k count=60 iflag=direct 2>/dev/null'
	expect_status 0
	[ "$(counter vda.limited)" -gt 0 ] || die "the limit did not bite: $(cat err)"
}

test_no_server_is_told_with_a_cure() {
	socket=$PWD/nothing
	guest_on '' true
	expect_status 125
	expect_in err "nothing: No such file or directory: start the server, or correct its address"
	kit memory 1M
	guest_on :exportname= true
	expect_status 0
}
