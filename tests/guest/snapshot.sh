# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash disable=SC2034,SC2154,SC2016
# (the library's variables; the guest's shell expands what we quote)
#
# Guests that are saved, restored and forked.

# A guest that counts the lines that it is sent, and writes the last one to its disk.
counting() {
	truncate -s 1M base
	operated --console stdio --memory 128M --disk base,overlay=over --cmdline root= -- sh -c 'i=0
		while read -r line; do
			i=$((i + 1)); echo "$line is $i, behind $(head -c 16 /dev/vda | tr -d "\0")"
			echo "$line" >/dev/vda; sync
		done'
	send first
	wait_for '^first is 1' 100
}

# restored NAME: go on from `saved`, and say something.
restored() {
	local name=$1 end=$((SECONDS + 60)) input
	mkfifo "$name.in"
	"$KARMA" run --restore saved --name "$name" --timeout "$LIMIT" <"$name.in" >"$name.out" 2>"$name.err" &
	exec {input}>"$name.in"
	echo "$name" >&"$input"
	until printed "^$name is" "$name.out"; do
		[ $SECONDS -lt $end ] || die "$name does not go on: $(cat "$name.out" "$name.err")"
		nap 0.1
	done
}

test_snapshot_goes_on_where_it_was() {
	counting
	"$KARMA" snapshot web saved >told || die "no snapshot: $(cat err)"
	expect_in told '^saved: [0-9.]+M, for which the guest was paused [0-9.]+ ms$'
	[ "$(stat -c %a saved)" = 700 ] || die "mode $(stat -c %a saved)"
	[ -z "$(ls -d saved.*)" ] || die "left over: $(ls -d saved.*)"
	# The guest has gone on, and its copies don't know.
	send second
	wait_for '^second is 2, behind first' 30
	restored one
	restored two
	expect_in one.out '^one is 2, behind first'
	expect_in two.out '^two is 2, behind first'
	"$KARMA" ps >list
	expect_in list '^one .*, from saved$'
	"$KARMA" stats web >figures
	expect_in figures 'snapshots\.count +1$'
	# One that goes on no further than its snapshot.
	"$KARMA" snapshot one again --stop || die "no snapshot: $(cat one.err)"
	[ -z "$(state_of one)" ] || die "it runs on"
	[ -s again/overlay-0 ] || die "no overlay: $(ls again)"
	"$KARMA" stop --force two web
	guest_pid=
}

test_snapshot_of_a_command_by_the_agent() {
	operated --memory 128M -- sh -c 'while read -r line; do i=$((i + 1)); echo "$line is $i"; done
		echo "alone behind $i"; echo wrong >&2; exit 5'
	send first
	wait_for '^first is 1' 100
	"$KARMA" snapshot web saved >told || die "no snapshot: $(cat err)"
	"$KARMA" run --restore saved --name one --timeout "$LIMIT" </dev/null >one.out 2>one.err || status=$?
	[ "$status" = 5 ] || die "status $status: $(cat one.out one.err)"
	[ "$(cat one.out)" = "alone behind 1
wrong" ] || die "one: $(cat one.out one.err)"
	# The original knows nothing of that.
	send second
	wait_for '^second is 2' 30
	"$KARMA" fork web --names copy >names || die "no fork: $(cat err)"
	"$KARMA" wait "$(cat names)" || status=$?
	[ "$status" = 5 ] || die "the fork has status $status"
	send third
	wait_for '^third is 3' 30
	"$KARMA" stop --force web
	guest_pid=
}

# A disk whose sector N begins with the number N, as tests/guest/hostile/go_on.c wants it; of that time, as overlays
# of tests/guest/snapshots do.
numbered_disk() {	# FILE
	perl -e 'print pack("V x508", $_) for 0 .. 2047' >"$1"
	touch -d @1 "$1"
}

# Bare metal, which looks whether CPUs, timers, memory and rings are as they were.
test_bare_guest_goes_on_in_all_its_parts() {
	local copy
	numbered_disk base
	export XDG_RUNTIME_DIR=$PWD
	start_guest --name web --kernel "$KARMA_ROOT/build/test/hostile" --cmdline "hostile=go-on cpus=2" --memory 64M --cpus 2 \
		--disk base,overlay=over --console stdio
	wait_for waiting 30
	"$KARMA" snapshot web saved --stop || die "no snapshot: $(cat err)"
	end_guest
	for copy in 1 2; do
		status=0
		"$KARMA" run --restore saved --timeout 30 >out 2>err </dev/null || status=$?
		expect_status 42
	done
}

# Whatever format there ever was; and none that is to come.
test_kept_snapshots_go_on() {
	local kept
	numbered_disk base
	for kept in "$KARMA_ROOT"/tests/guest/snapshots/format-*.tar.xz; do
		rm -rf kept
		tar xf "$kept" --no-same-owner
		sed -i "s|= /base\$|= $PWD/base|; s|= /kernel\$|= $KARMA_ROOT/build/test/hostile|" kept/config
		status=0
		"$KARMA" run --restore kept >out 2>err </dev/null || status=$?
		if [ $status = 125 ] && [ "${KARMA_SOFT_HOST-}" != 1 ] && grep -Eq "lacks CPU features|CPU of another vendor" err; then
			skip "kept by another kind of CPU: $(cat err)"
		fi
		expect_status 42
	done
	# Bytes 8 to 11: the format.
	printf '\143' | dd of=kept/state bs=1 seek=8 conv=notrunc status=none
	status=0
	"$KARMA" run --restore kept >out 2>err </dev/null || status=$?
	expect_status 125
	expect_in err 'has format 99, and this Karma knows [0-9]+: restore it with the Karma that has made it'
}

# Sets date and random to what a restored guest found.
found() {	# NAME
	local line
	line=$(sed -nE "s/^$1 is 1 ([0-9]+) ([0-9a-f]{64}).*/\1 \2/p" "$1.out")
	date=${line% *} random=${line#* }
	[ -n "$line" ] || die "$1: $(cat "$1.out")"
	[ $(($(date +%s) - date)) -le 60 ] || die "$1 has the date $(date -d "@$date")"
}

test_clones_are_guests_of_their_own() {
	operated --cpus 2 --console stdio -- sh -c 'cd /sys/kernel/karma
		date -s "2001-01-01 00:00:00" >/dev/null
		echo up
		while [ "$(cat generation)" = 0 ]; do usleep 10000; done
		number=$(head -c 32 /dev/urandom | hexdump -v -e "32/1 \"%02x\"")
		echo "$(cat name) is $(cat generation) $(date +%s) $number"
		sleep 1000'
	wait_for '^up' 100
	"$KARMA" snapshot web saved >told || die "no snapshot: $(cat err)"
	restored one
	restored two
	found one
	other=$random
	found two
	[ "$random" != "$other" ] || die "both drew $random"
	"$KARMA" stop --force one two web
	guest_pid=
}

test_fork_starts_guests_beside_theirs() {
	counting
	"$KARMA" fork web --count 2 --names copy >names || die "no fork: $(cat err)"
	[ "$(xargs <names)" = 'copy1 copy2' ] || die "names: $(cat names)"
	send second
	wait_for '^second is 2' 30
	[ "$(state_of copy1) $(state_of copy2)" = 'running running' ] || die "$("$KARMA" ps)"
	[ -z "$(ls -d /dev/shm/karma-fork-*)" ] || die "left over: $(ls -d /dev/shm/karma-fork-*)"
	"$KARMA" stop --force copy1 copy2 web
	guest_pid=
}

# held_up: a snapshot of a guest whose process is stopped, which holds it up; sets $snapshot.
held_up() {
	local end=$((SECONDS + 30))
	kill -STOP "$(guest_process)"
	"$KARMA" snapshot web saved 2>snapshot.err &
	snapshot=$!
	until compgen -G 'saved.karma-*/memory' >/dev/null; do
		[ $SECONDS -lt $end ] || die "nothing begins: $(cat snapshot.err)"
		nap 0.1
	done
}

test_snapshot_whose_makers_are_killed_leaves_nothing() {
	local snapshot
	counting
	held_up
	kill -9 "$snapshot"
	wait "$snapshot" || true
	kill -CONT "$(guest_process)"
	send second
	wait_for '^second is 2' 30
	[ ! -e saved ] || die "there is one"
	# What the client has left goes with the next.
	held_up
	kill -9 "$guest_pid"
	status=0
	wait "$snapshot" || status=$?
	[ $status = 125 ] || die "status $status: $(cat snapshot.err)"
	[ -z "$(ls -d saved*)" ] || die "left over: $(ls -d saved*)"
	guest_pid=
}
