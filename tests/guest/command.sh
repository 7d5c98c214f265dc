# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash disable=SC2034,SC2154,SC2016
# (the library's variables; the guest's shell expands what we quote)
#
# A command that is on no terminal: by the guest's agent, with input, output and error output apart.

test_command_has_its_output_and_error_output_apart() {
	guest --cmdline loglevel=7 -- sh -c 'printf "out\0\r\n"; printf "err\0\r\n" >&2; echo told >/dev/kmsg; exit 7'
	expect_status 7
	printf 'out\0\r\n' | cmp - out || die "stdout: $(od -c out | head)"
	grep -aFx "$(printf 'err\r')" <(tr -d '\0' <err) >/dev/null || die "stderr: $(od -c err | head -n 40)"
	grep -aq '\] told' err || die "the kernel's messages are not on stderr: $(cat err)"
}

test_command_takes_any_input_to_its_end() {
	head -c 1048576 /dev/urandom >input
	status=0
	"$KARMA" run --kernel "$KARMA_KERNEL" --initrd "$INITRAMFS" --timeout "$LIMIT" -- \
		sh -c 'sha256sum; [ ! -t 0 ]' <input >out 2>err || status=$?
	expect_status 0
	expect_out "$(sha256sum <input)"
}

test_command_whose_reader_goes_gets_sigpipe() {
	status=0
	"$KARMA" run --kernel "$KARMA_KERNEL" --initrd "$INITRAMFS" --timeout "$LIMIT" -- \
		sh -c 'yes; echo "yes: $?" >&2' 2>err </dev/null | head -n 1 >out
	expect_out y
	expect_in err '^yes: 141'
}

test_command_whose_output_is_not_read_waits_and_loses_nothing() {
	"$KARMA" run --kernel "$KARMA_KERNEL" --initrd "$INITRAMFS" --timeout "$LIMIT" -- \
		seq 1 200000 2>err </dev/null | (sleep 5; cat) | cmp - <(seq 1 200000) || die "lost something: $(cat err)"
}

test_command_that_cannot_run_is_told_on_stderr() {
	guest -- no-such-command
	expect_status 123
	expect_in err 'no-such-command: No such file or directory'
	[ ! -s out ] || die "stdout: $(cat out)"
}

test_command_of_an_initramfs_without_the_agent_is_on_the_console() {
	# What says that it is there.
	tail -c +513 "$INITRAMFS" >initramfs.img
	INITRAMFS=$PWD/initramfs.img
	guest -- sh -c 'echo out; echo err >&2; exit 3'
	expect_status 3
	expect_out 'out
err'
}

test_command_is_on_the_console_if_that_is_asked_for() {
	guest --console stdio -- sh -c 'echo out; echo err >&2; exit 3'
	expect_status 3
	expect_out 'out
err'
}
