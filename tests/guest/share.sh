# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash disable=SC2034,SC2154,SC2016
# (the library's variables; the guest's shell expands what we quote)
#
# Devices of vhost-user servers: the real programs, by Debian's drivers, with Karma's sandbox closed.

# A server of one connection, which the test ends with itself if the guest has not.
start_server() {	# SOCKET COMMAND...
	"${@:2}" >server.log 2>&1 &
	server_pid=$!
	local end=$((SECONDS + 30))
	until listens "$1"; do
		kill -0 "$server_pid" 2>/dev/null || { cat server.log >&2; die "${*:2}: ended"; }
		[ $SECONDS -lt $end ] || { cat server.log >&2; die "${*:2}: does not listen"; }
		nap 0.1
	done
}

clean_up_server() {
	[ -z "${server_pid-}" ] || kill "$server_pid" 2>/dev/null || true
}

start_virtiofsd() {	# DIRECTORY
	local program
	for program in /usr/libexec/virtiofsd /usr/lib/qemu/virtiofsd ''; do
		[ ! -x "$program" ] || break
	done
	[ -n "$program" ] || skip "no virtiofsd: install virtiofsd or qemu-system-common"
	case $program in
	*/qemu/*) start_server "$PWD/fs" "$program" --socket-path="$PWD/fs" -o source="$1" -o cache=none ;;
	*) start_server "$PWD/fs" "$program" --socket-path "$PWD/fs" --shared-dir "$1" --cache never ;;
	esac
	trap 'clean_up; clean_up_server' EXIT
}

test_share_by_virtiofsd() {
	mkdir shared
	head -c 3000000 /dev/urandom >shared/data
	start_virtiofsd "$PWD/shared"
	guest --share "unix:$PWD/fs:data" --stats -- sh -c '
		mkdir /tmp/mnt && mount -t virtiofs data /tmp/mnt || exit 99
		sha256sum /tmp/mnt/data
		dd if=/dev/urandom of=/tmp/mnt/back bs=64k count=32 2>/dev/null
		sha256sum /tmp/mnt/back
		mkdir /tmp/mnt/tree && mv /tmp/mnt/back /tmp/mnt/tree/file && rm /tmp/mnt/data
		ls /tmp/mnt/tree'
	expect_status 0
	expect_in out '^file$'
	[ ! -e shared/data ] || die "what the guest has removed is there"
	expect_in out "^$(sha256sum <shared/tree/file | cut -d ' ' -f 1)  /tmp/mnt/back"
	[ "$(counter share0.starts)" -ge 2 ] || die "starts: $(grep share0 err)"
	[ "$(counter share0.request.notifications)" -ge 30 ] || die "notifications: $(grep share0 err)"
}

# By Karma's own server, twice: each has a process, which is gone with the guest.
test_share_of_two_directories() {
	mkdir shared fixed
	head -c 3000000 /dev/urandom >shared/data
	echo fixed >fixed/file
	guest --share shared:data --share "$PWD/fixed,ro" --share fixed:/mnt/fixed --cpus 2 --stats -- sh -c '
		mkdir /tmp/a /tmp/b && mount -t virtiofs data /tmp/a && mount -t virtiofs share1 /tmp/b || exit 99
		cmp /tmp/b/file /mnt/fixed/file || exit 99
		echo "ahead: $(cat "/sys/class/bdi/0:$(stat -c %d /mnt/fixed)/read_ahead_kb")"
		sha256sum /tmp/a/data; cat /tmp/b/file
		dd if=/dev/urandom of=/tmp/a/back bs=64k count=32 2>/dev/null
		sha256sum /tmp/a/back
		rm /tmp/a/data
		echo more >>/tmp/b/file || echo refused'
	expect_status 0
	expect_in out "^$(sha256sum <shared/back | cut -d ' ' -f 1)  /tmp/a/back"
	expect_in out '^fixed$'
	expect_in out '^refused$'
	expect_in out '^ahead: 1024$'
	[ "$(cat fixed/file)" = fixed ] || die "what is read-only was written"
	[ ! -e shared/data ] || die "what the guest has removed is there"
	[ "$(counter share1.starts)" -ge 2 ] || die "starts: $(grep share1 err)"
	! pgrep -x karma-share || die "a server is left"
}

# As an ordinary user, whose files they are; the driver gives the device up between two mounts.
test_share_of_an_ordinary_user_is_reset_and_mounted_again() {
	let_user_in
	mkdir shared
	chown 65534:65534 shared
	status=0
	"${become[@]}" "$KARMA" run --kernel "$KARMA_KERNEL" --initrd "$INITRAMFS" --timeout "$LIMIT" --stats --share shared \
		-- sh -c '
		mkdir /tmp/mnt && mount -t virtiofs share0 /tmp/mnt || exit 99
		echo first >/tmp/mnt/file
		umount /tmp/mnt
		driver=/sys/bus/virtio/drivers/virtiofs
		device=$(basename $driver/virtio[0-9]*)
		echo $device >$driver/unbind && echo $device >$driver/bind
		mount -t virtiofs share0 /tmp/mnt || exit 98
		cat /tmp/mnt/file && echo second >>/tmp/mnt/file' >out 2>err || status=$?
	expect_status 0
	expect_out first
	[ "$(cat shared/file)" = "$(printf 'first\nsecond')" ] || die "the file: $(cat shared/file)"
	[ "$(stat -c %u shared/file)" = 65534 ] || die "its owner: $(stat -c %u shared/file)"
	[ "$(counter share0.starts)" = 4 ] || die "starts: $(grep share0 err)"
}

test_share_is_there_again_after_a_restart() {
	mkdir shared
	guest --share shared --reboot restart --on-panic exit -- sh -c '
		mkdir /tmp/mnt && mount -t virtiofs share0 /tmp/mnt || exit 99
		echo start >>/tmp/mnt/starts
		[ "$(wc -l </tmp/mnt/starts)" = 2 ] || reboot -f'
	expect_status 0
	[ "$(cat shared/starts)" = "$(printf 'start\nstart')" ] || die "starts: $(cat shared/starts)"
	! pgrep -x karma-share || die "a server is left"
}

# With requests before and after, which the same mount serves; and beside a server of Karma's, which shares with the
# supervisor the history of messages alone, and with the guest's process its memory.
test_share_is_paused_and_resumed() {
	mkdir shared own
	truncate -s 1M disk
	start_virtiofsd "$PWD/shared"
	export XDG_RUNTIME_DIR=$PWD
	start_guest --kernel "$KARMA_KERNEL" --initrd "$INITRAMFS" --name web --share "unix:$PWD/fs" --share own \
		--disk disk,overlay=overlay --cmdline root= -- sh -c '
		mkdir /tmp/mnt && mount -t virtiofs share0 /tmp/mnt || exit 99
		echo before >/tmp/mnt/before; echo mounted
		read go
		echo after >/tmp/mnt/after; echo written'
	wait_for '^mounted' 200
	local maps
	maps=$(grep -E '^[^ ]+ ...s' "/proc/$(pgrep -P "$guest_pid" -x karma-share)/maps" | grep -v memfd:) || true
	[ "$(wc -l <<<"$maps")" = 1 ] || die "its server shares $maps"
	"$KARMA" pause web || die "pause: $?"
	"$KARMA" resume web || die "resume: $?"
	send go
	wait_for '^written' 60
	end_guest
	expect_status 0
	[ "$(cat shared/before shared/after)" = "$(printf 'before\nafter')" ] || die "the files: $(ls -l shared)"
}

test_share_whose_server_is_killed_is_told_of() {
	mkdir shared
	start_virtiofsd "$PWD/shared"
	start_guest --kernel "$KARMA_KERNEL" --initrd "$INITRAMFS" --share "unix:$PWD/fs" -- sh -c '
		mkdir /tmp/mnt && mount -t virtiofs share0 /tmp/mnt && echo mounted
		read go
		echo on'
	wait_for '^mounted' 200
	kill -9 "$server_pid"
	until printed 'its server has ended' err; do nap 0.1; done
	# The guest goes on without it.
	send go
	wait_for '^on' 60
	end_guest
	expect_status 0
	[ "$(grep -c 'its server' err)" = 1 ] || die "messages: $(cat err)"
}

test_share_without_its_server_does_not_start() {
	guest --share "unix:$PWD/absent" -- true
	expect_status 125
	expect_in err '--share unix:.*/absent: its server can.t be reached: No such file or directory: start it first'
	guest --share "$PWD/absent" -- true
	expect_status 125
	expect_in err '--share .*/absent: No such file or directory: give a directory that is there'
	touch file
	guest --share file -- true
	expect_status 125
	expect_in err '--share file: is no directory'
}

test_vhost_user_disk_by_qemu_storage_daemon() {
	command -v qemu-storage-daemon >/dev/null || skip "no qemu-storage-daemon: install qemu-system-common"
	make_disk disk 64M
	start_server "$PWD/blk" qemu-storage-daemon --blockdev "driver=file,node-name=disk,filename=$PWD/disk" \
		--export "type=vhost-user-blk,id=export,node-name=disk,addr.type=unix,addr.path=$PWD/blk,writable=on,num-queues=2"
	trap 'clean_up; clean_up_server' EXIT
	guest --vhost-user "$PWD/blk,type=blk" --cpus 2 --stats -- sh -c '
		mkdir /tmp/mnt && mount -t ext4 /dev/vda /tmp/mnt || exit 99
		dd if=/dev/urandom of=/tmp/mnt/data bs=1M count=16 2>/dev/null
		sync; echo 3 >/proc/sys/vm/drop_caches
		sha256sum </tmp/mnt/data >/tmp/mnt/sum
		umount /tmp/mnt && mount -t ext4 /dev/vda /tmp/mnt && [ "$(sha256sum </tmp/mnt/data)" = "$(cat /tmp/mnt/sum)" ] &&
			umount /tmp/mnt && echo same'
	expect_status 0
	expect_in out '^same$'
	kill "$server_pid"
	wait "$server_pid" || true
	check_disk disk
	[ "$(counter vhost0.starts)" -ge 2 ] || die "starts: $(grep vhost0 err)"
}

test_vhost_user_network_by_passt() {
	passt --help 2>&1 | grep -q -- --vhost-user || skip "no passt with --vhost-user: Debian 13 has one"
	start_server "$PWD/net" passt --foreground --vhost-user --socket "$PWD/net"
	trap 'clean_up; clean_up_server' EXIT
	guest --vhost-user "$PWD/net,type=net" --stats -- sh -c '
		ip addr show dev eth0; ip route'
	expect_status 0
	expect_in out '^ *inet [0-9]'
	expect_in out '^default via .* dev eth0'
	[ "$(counter vhost0.transmit.notifications)" -ge 1 ] || die "notifications: $(grep vhost0 err)"
}
