# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash disable=SC2034,SC2154,SC2016
# (the library's variables; the guest's shell expands what we quote)
#
# Guests by configuration file, messages as JSON, and guests in pipes, as CI jobs have them.

# Of Debian's kernel with Karma's initramfs.
write_config() {	# FILE [LINE]...
	local file=$1
	shift
	printf '%s\n' "kernel = $KARMA_KERNEL" "initrd = $INITRAMFS" "timeout = $LIMIT" "$@" >"$file"
}

run_karma() {	# ARGUMENT...
	status=0
	"$KARMA" "$@" >out 2>err || status=$?
}

test_guest_of_a_file() {
	echo "of disk one" >one && truncate -s 1M one
	echo "of disk two" >two,2 && truncate -s 2M two,2
	write_config web.conf 'memory = 256M' 'cmdline = root= "quoted words" ; and #these' \
		'command = sh' 'command = -c' \
		'command = head -n 1 /dev/vda; head -n 1 /dev/vdb; cat /proc/cmdline /sys/block/vdb/ro' \
		'[disk]' 'path = one' '[disk]' 'path = two,2' 'ro = yes'
	run_karma run --config web.conf
	expect_status 0
	expect_in out '^of disk one$'
	expect_in out '^of disk two$'
	expect_in out 'root= "quoted words" ; and #these$'
	[ "$(tail -n 1 out)" = 1 ] || die "vdb is not read-only"
}

test_options_win_over_the_file() {
	write_config web.conf 'memory = 256M' 'stats = yes' 'command = false'
	run_karma run --config ./web.conf --stats=off --memory 400M -- \
		awk '/MemTotal/ { exit $2 < 300000 }' /proc/meminfo
	expect_status 0
	expect_not_in err '^stats'
}

test_file_in_etc_is_found_by_its_name() {
	[ "${KARMA_SOFT_HOST-}" = 1 ] || [ "$(id -u)" = 0 ] || skip "may not write /etc/karma"
	mkdir -p /etc/karma
	write_config /etc/karma/karma-test-1.conf 'command = poweroff' 'on-panic = nonsense'
	run_karma run --config karma-test-1
	expect_status 125
	expect_in err '^karma: /etc/karma/karma-test-1.conf:5: on-panic nonsense: is none of exit, restart, wait'
	run_karma config check karma-test-1
	expect_status 125
	sed -i 's/nonsense/wait/' /etc/karma/karma-test-1.conf
	run_karma config check karma-test-1
	expect_status 0
	expect_out "/etc/karma/karma-test-1.conf: in order"
	# Its name is in the messages.
	run_karma run --config karma-test-1 -- sh -c 'exit 126'
	rm /etc/karma/karma-test-1.conf
	expect_status 123
	expect_in err "^karma: karma-test-1: the command's status 126"
}

test_printed_config_runs_the_same_guest() {
	truncate -s 3M disk
	run_karma run --kernel "$KARMA_KERNEL" --initrd "$INITRAMFS" --timeout "$LIMIT" --cpus 2 \
		--memory 256M --cmdline 'root= panic=-1' --disk disk,ro,serial=S1 --print-config -- \
		sh -c 'nproc; cat /sys/block/vda/serial; exit 7'
	expect_status 0
	cp out job.conf
	run_karma config check job.conf
	expect_status 0
	run_karma run --config job.conf --print-config
	expect_status 0
	# Another name, of the file, and nothing else.
	sed -i '/^name = job$/d' out
	cmp job.conf out || die "the printed file prints another one: $(diff job.conf out)"
	run_karma run --config job.conf
	expect_status 7
	printf '2\nS1' | cmp - out || die "stdout is: $(cat out)"
}

test_config_check_looks_for_files() {
	write_config web.conf '[disk]' 'path = missing' '[disk]' 'path = nbd:unix:/missing'
	run_karma config check web.conf
	expect_status 125
	expect_in err '^karma: web.conf: disk missing: No such file'
	[ "$(wc -l <err)" = 1 ] || die "more messages: $(cat err)"
	run_karma config check
	expect_status 125
	run_karma config --help
	expect_status 0
}

test_messages_as_json() {
	# From the process in the sandbox as from the one above it.
	run_karma run --kernel "$KARMA_KERNEL" --initrd "$INITRAMFS" --timeout "$LIMIT" \
		--log-format json --console none --name web-1 --stats -- sh -c 'echo c >/proc/sysrq-trigger'
	expect_status 126
	expect_in err '"level":"notice","guest":"web-1","message":"the guest.s kernel panicked: sysrq'
	expect_in err '"level":"info","guest":"web-1","message":"stats exit.hypercall [0-9]+"}$'
	if grep -Ev '^\{"time":"20[0-9]{2}(-[0-9]{2}){2}T[0-9]{2}(:[0-9]{2}){2}\.[0-9]{3}Z","level":"(error|notice|info)","guest":"web-1","message":"([^"\\]|\\u[0-9a-f]{4})*"\}$' err; then
		die "these lines are no objects"
	fi
	run_karma run --kernel /nonexistent --log-format json
	expect_status 125
	expect_in err '^\{"time".*"message":".*kernel /nonexistent: cannot open: No such file'
	run_karma run --log-format json --cpus many
	expect_in err '^\{"time".*"message":"--cpus many: is no whole number'
	run_karma run --log-format yaml --kernel k
	expect_in err '^karma: --log-format yaml: is none of text, json'
}

test_guest_in_a_pipe() {
	# Bytes as they are, at once, no colours, and no terminal is touched.
	mkfifo to_guest
	"$KARMA" run --kernel "$KARMA_KERNEL" --initrd "$INITRAMFS" --timeout "$LIMIT" -- \
		sh -c 'printf "no newline"; read -r line; printf "\033[1m%s\r\n" "$line"; exit 5' \
		<to_guest 2>err | cat >out &
	guest_pid=$!
	exec 7>to_guest
	# It is here before the guest goes on.
	wait_for '^no newline$' "$LIMIT"
	send "a line"
	exec 7>&-
	wait $guest_pid || true
	printf 'no newline\033[1ma line\r\n' | cmp - out || die "stdout is: $(od -c out)"
	[ ! -s err ] || die "stderr has: $(cat err)"
}

test_ci_job_in_a_guest() {
	mkdir suite
	printf '%s\n' 'echo "found $(cat data)"; echo "a result" >results/r1; exit "$1"' >suite/run
	echo "the data" >suite/data
	status=0
	RESULTS=$PWD/results TIMEOUT=$LIMIT KARMA=$KARMA \
		"$KARMA_ROOT/examples/ci/run-in-guest" "$KARMA_KERNEL" suite sh ./run 3 >out 2>err || status=$?
	expect_status 3
	expect_out "found the data"
	cmp out results/console.log
	[ "$(cat results/r1)" = "a result" ] || die "no result in $(ls results)"
	status=0
	RESULTS=$PWD/results TIMEOUT=$LIMIT KARMA=$KARMA \
		"$KARMA_ROOT/examples/ci/run-in-guest" "$KARMA_KERNEL" "$KARMA_ROOT/examples/ci/tests" \
		./run-tests >out 2>err || status=$?
	expect_status 0
	[ "$(grep -c '^ok ' results/tests.tap)" = 3 ] || die "not three are ok: $(cat out)"
}

test_wrong_words_are_named_with_the_right_ones() {
	: >vmlinuz
	echo "kernel = $PWD/vmlinuz" >web.conf
	wrong() {	# PATTERN WORD...
		status=0
		"$KARMA" "${@:2}" >out 2>err </dev/null || status=$?
		expect_status 125
		expect_in err "$1"
	}
	wrong '--kernel: is no command: to run a guest write `karma run --kernel`' --kernel vmlinuz
	wrong 'vmlinuz: is no command: to run a guest write `karma run --kernel vmlinuz`' vmlinuz
	wrong 'runn: is no command: see `karma --help`' runn
	wrong 'web: is one argument too many: see `karma check --help`' check web
	wrong 'chek: is no command: write `karma config check FILE`' config chek web.conf
	wrong 'more: is one argument too many' config check web.conf more
	wrong 'names no network: give tap=NAME, fd=N or user' run --kernel vmlinuz --net ''
	wrong 'vmlinuz: is no option: give a kernel as `--kernel vmlinuz`' run vmlinuz
	mkfifo fifo
	echo "kernel = $PWD/fifo" >web.conf
	wrong "web.conf: kernel $PWD/fifo: is a FIFO or pipe: give a regular file" config check web.conf
}
