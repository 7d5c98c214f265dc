# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash disable=SC2034,SC2154,SC2016
# (the library's variables; the guest's shell expands what we quote)
#
# Guests that are saved, restored and forked.

# A guest that counts the lines that it is sent.
counting() {	# OPTION...
	operated --console stdio "$@" -- sh -c 'i=0; while read -r line; do i=$((i + 1)); echo "$line is $i"; done'
	send first
	wait_for '^first is 1' 100
}

# restored NAME [OPTION]...: go on from `saved`, and say something.
restored() {
	local name=$1 end=$((SECONDS + 60))
	shift
	: >"$name.out"
	{ echo "$name"; sleep 1000; } | "$KARMA" run --restore saved --name "$name" --timeout "$LIMIT" "$@" >"$name.out" 2>"$name.err" &
	until printed "^$name is " "$name.out"; do
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
	wait_for '^second is 2' 30
	restored one
	restored two
	expect_in one.out '^one is 2'
	expect_in two.out '^two is 2'
	"$KARMA" ps >list
	expect_in list '^one .*, from saved$'
	"$KARMA" stats web >stats
	expect_in stats 'snapshots\.count +1$'
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

# A guest's process that is stopped holds up its snapshot.
test_snapshot_whose_makers_are_killed_leaves_nothing() {
	counting
	local process end
	process=$(guest_process)
	kill -STOP "$process"
	"$KARMA" snapshot web saved 2>snapshot.err &
	end=$((SECONDS + 30))
	until [ -e saved.karma-*/config ]; do
		[ $SECONDS -lt $end ] || die "nothing begins: $(cat snapshot.err)"
		nap 0.1
	done
	kill -9 $!
	wait $! || true
	kill -CONT "$process"
	send second
	wait_for '^second is 2' 30
	[ ! -e saved ] || die "there is one"
	# What the client has left goes with the next.
	kill -STOP "$process"
	"$KARMA" snapshot web saved 2>snapshot.err &
	until [ -e saved.karma-*/config ]; do
		[ $SECONDS -lt $end ] || die "nothing begins: $(cat snapshot.err)"
		nap 0.1
	done
	kill -9 "$guest_pid"
	status=0
	wait $! || status=$?
	[ $status = 125 ] || die "status $status: $(cat snapshot.err)"
	[ -z "$(ls -d saved*)" ] || die "left over: $(ls -d saved*)"
	guest_pid=
}
