# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash disable=SC2034,SC2154,SC2016
# (the library's variables; the guest's shell expands what we quote)
#
# karma exec and karma cp: the agent of Karma's initramfs, with Debian's driver of vsock.

# A guest, web, that runs until its input ends.
start_reachable() {	# OPTION...
	export XDG_RUNTIME_DIR=$PWD
	start_guest --kernel "$KARMA_KERNEL" --initrd "$INITRAMFS" --name web --vsock on "$@"
}

start_idle() {
	start_reachable -- sh -c 'echo up; read -r line; ls /proc | grep -c "^[0-9]"'
	wait_for '^up' 200
}

in_guest() { "$KARMA" exec web -- "$@"; }

# STATUS COMMAND...: it exits with that.
exits() {
	local wanted=$1 got=0
	shift
	"$@" >exec.out 2>exec.err || got=$?
	[ $got = "$wanted" ] || die "$*: status $got, not $wanted: $(cat exec.out exec.err)"
}

test_agent_runs_commands() {
	start_idle
	exits 7 in_guest sh -c 'echo output; echo error >&2; exit 7'
	[ "$(cat exec.out)" = output ] || die "output: $(cat exec.out)"
	[ "$(cat exec.err)" = error ] || die "error output: $(cat exec.err)"
	exits 137 in_guest sh -c 'kill -9 $$'
	exits 127 in_guest nowhere
	exits 126 in_guest /etc/passwd
	exits 125 "$KARMA" exec web -w /nowhere -- true
	exits 125 "$KARMA" exec web -u nobody -- true
	expect_in exec.err '^karma: web: nobody: no such user'
	exits 125 "$KARMA" exec nobody -- true

	[ "$("$KARMA" exec -w /bin -e A=1 -e B='x y' web sh -c 'echo $A,$B,$PWD,$HOME,$USER')" = "1,x y,/bin,/root,root" ] ||
		die "environment"
	in_guest sh -c 'echo app:x:1000:1000::/tmp:/bin/sh >>/etc/passwd; echo app:x:1000: >>/etc/group
		echo more:x:1001:app >>/etc/group'
	[ "$("$KARMA" exec web -u app -- sh -c 'id -u; id -g; id -G; pwd; echo $HOME' | xargs)" = \
		"1000 1000 1000 1001 /tmp /tmp" ] || die "user"

	head -c 1048576 /dev/urandom >sent
	"$KARMA" exec -i web -- cat <sent >came
	cmp sent came || die "what came back differs"
	[ "$("$KARMA" exec web -- wc -c <sent)" = 0 ] || die "without -i there is input"
	send over
	end_guest
	expect_status 0
}

test_agent_takes_signals_and_has_terminals() {
	start_idle
	: >exec.out
	"$KARMA" exec web -- sh -c 'trap "exit 9" TERM; echo started; while :; do sleep 0.1; done' >exec.out &
	local client=$! end=$((SECONDS + 60))
	until printed started exec.out || [ $SECONDS -ge $end ]; do nap 0.1; done
	kill -TERM $client
	status=0
	wait $client || status=$?
	[ $status = 9 ] || die "after SIGTERM: status $status"

	# A terminal of ours, whose size, keys and mode are the guest's; the mode is restored.
	cat >session <<-END
	stty rows 33 cols 99
	stty -a >before
	$KARMA exec -t web -- sh -c 'tty; stty size; sleep 1000' ; echo status \$?
	stty -a >after
	END
	mkfifo keys
	: >exec.out
	script -qec 'sh session' /dev/null <keys >exec.out &
	client=$!
	exec 6>keys
	until printed '33 99' exec.out || [ $SECONDS -ge $end ]; do nap 0.1; done
	printf '\003' >&6
	wait $client || die "script: $?"
	exec 6>&-
	expect_in exec.out '^/dev/pts/0'
	expect_in exec.out 'status 130'
	cmp before after || die "the terminal's mode is another"
	send over
	end_guest
	expect_status 0
}

# How many the supervisor and the guest's process have.
descriptors() {
	find "/proc/$guest_pid/fd" "/proc/$(guest_process)/fd" -type l | wc -l
}

test_agent_runs_many_and_leaves_nothing() {
	local i clients=()
	start_idle
	in_guest sh -c 'ls /proc | grep -c "^[0-9]"' >before
	descriptors >descriptors.before
	for ((i = 0; i < 64; i++)); do
		"$KARMA" exec web -e I=$i -- sh -c 'sleep 2; echo $I' >many.$i 2>&1 &
		clients+=($!)
	done
	for ((i = 0; i < 64; i++)); do
		wait "${clients[i]}" || die "exec $i of 64: $(cat many.$i)"
		[ "$(cat many.$i)" = $i ] || die "exec $i of 64: $(cat many.$i)"
	done
	for ((i = 0; i < ${KARMA_EXECS:-20}; i++)); do
		in_guest true || die "exec $i"
		# To the agent, which gets no frame, and to nobody.
		"$KARMA" connect web 842 </dev/null >/dev/null || die "connect $i: $?"
		exits 1 "$KARMA" connect web 23
	done
	# The last process may be about to end.
	for ((i = 0; i < 50; i++)); do
		in_guest sh -c 'ls /proc | grep -c "^[0-9]"' >after
		[ "$(cat after)" -gt "$(cat before)" ] || break
		nap 0.1
	done
	[ "$(cat after)" -le "$(cat before)" ] || die "processes: $(cat before), then $(cat after): $(in_guest ps)"
	descriptors >descriptors.after
	cmp descriptors.before descriptors.after ||
		die "descriptors: $(ls -l "/proc/$guest_pid/fd" "/proc/$(guest_process)/fd")"
	send over
	end_guest
	expect_status 0
}

test_agent_copies() {
	start_idle
	mkdir -p tree/sub
	echo text >tree/file
	ln tree/file tree/sub/linked
	ln -s ../file tree/sub/link
	head -c 3000000 /dev/urandom >tree/large
	truncate -s 64M tree/sparse
	chmod 600 tree/file
	touch -d @1000000000 tree/file tree/large
	"$KARMA" cp tree web:/tmp || die "to the guest: $?"
	[ "$(in_guest sh -c 'cd /tmp/tree && cat sub/link && stat -c %a.%h.%Y file && du -k sparse | cut -f 1' | xargs)" = \
		"text 600.2.1000000000 0" ] || die "in the guest: $(in_guest ls -lR /tmp/tree)"
	"$KARMA" cp web:/tmp/tree back || die "from the guest: $?"
	diff -r --no-dereference tree back || die "what came back differs"
	[ "$(stat -c %a.%h.%Y back/file)" = 600.2.1000000000 ] || die "mode, links or time: $(ls -l back)"
	[ "$(stat -c %b back/sparse)" -lt 100 ] || die "sparse: $(stat back/sparse)"
	"$KARMA" cp web:/proc/version . || die "a file without a size: $?"
	cmp version <(in_guest cat /proc/version) || die "a file without a size is another"
	# By standard input and output, and not into a directory.
	head -c 300000 tree/large | "$KARMA" cp - web:/tmp/piped || die "from standard input: $?"
	"$KARMA" cp web:/tmp/piped - | cmp - <(head -c 300000 tree/large) || die "to standard output differs"
	exits 125 "$KARMA" cp - web:/tmp
	expect_in exec.err '^karma: web: /tmp: Is a directory'
	exits 125 "$KARMA" cp web:/nowhere .
	expect_in exec.err '^karma: web: /nowhere: No such file'
	exits 125 "$KARMA" cp tree back

	exits 125 "$KARMA" cp web:/dev/zero .
	send over
	end_guest
	expect_status 0
}

test_agent_copy_that_is_killed_leaves_nothing() {
	local i client end=$((SECONDS + 60))
	start_idle
	mkdir into
	head -c 200000000 /dev/zero >large
	in_guest sh -c 'mkdir /tmp/into && head -c 200000000 /dev/zero >/tmp/large'

	"$KARMA" cp web:/tmp/large into 2>err.copy &
	client=$!
	until compgen -G 'into/.karma-*' >/dev/null || [ $SECONDS -ge $end ]; do :; done
	kill -TERM $client
	status=0
	wait $client || status=$?
	[ $status = 143 ] || die "cp from the guest: status $status: $(ls -lA into; cat err.copy)"
	[ -z "$(ls -A into)" ] || die "cp from the guest leaves $(ls -A into)"

	"$KARMA" cp large web:/tmp/into 2>err.copy &
	client=$!
	in_guest sh -c 'until [ -n "$(ls -A /tmp/into)" ]; do :; done'
	kill -KILL $client
	status=0
	wait $client || status=$?
	[ $status = 137 ] || die "cp to the guest: status $status: $(in_guest ls -lA /tmp/into; cat err.copy)"
	in_guest sh -c 'until [ -z "$(ls -A /tmp/into)" ]; do sleep 0.1; [ ! -e /tmp/into/large ] || exit; done'
	[ -z "$(in_guest ls -A /tmp/into)" ] || die "cp to the guest leaves $(in_guest ls -A /tmp/into)"
	send over
	end_guest
	expect_status 0
}

test_agent_stays_when_a_disk_takes_over() {
	local image=$KARMA_ROOT/build/test/debian.img end=$((SECONDS + 200))
	[ -r "$image" ] || die "no $image: see tests/guest/make-debian-image"
	LIMIT=240
	start_reachable --disk "$image,overlay=overlay"
	# The agent is there before the disk's init is.
	until [ "$(in_guest cat /proc/1/comm 2>err.exec)" = systemd ]; do
		[ $SECONDS -lt $end ] || die "no systemd: $(cat err.exec err)"
		nap 0.5
	done
	[ "$(in_guest sh -c '. /etc/os-release; echo $ID; stat -c %i /; findmnt -no SOURCE /; ls -d /new' 2>err.exec |
		xargs)" = "debian 2 /dev/vda" ] || die "the root: $(cat err.exec)"
	"$KARMA" exec -t web -- tty >exec.out || die "a terminal: $?"
	expect_in exec.out '^/dev/pts/'
	"$KARMA" cp web:/etc/hostname . || die "cp: $?"
	[ "$(cat hostname)" = debian-guest ] || die "a copy: $(cat hostname)"
	"$KARMA" stop --force web
	end_guest
	expect_status 143
}
