# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
#
# The software-emulated host that these tests run in where the machine can't virtualize.

# QEMU's emulated SVM forgets an interrupt at times; another one brings it back.
test_soft_host_is_woken_every_second() {
	[ "${KARMA_SOFT_HOST-}" = 1 ] || skip "not in a soft host"
	words() { sed -n 's/^bytes_received: //p' /sys/kernel/debug/virtio-ports/vport*p1; }
	before=$(words)
	sleep 5
	[ $(($(words) - before)) -ge 15 ] || die "of five words came $(($(words) - before)) bytes"
}

# What looks like soft hosts that run the tests of a file here, of which one test fails each time and one the first.
test_check_names_those_that_held_when_run_again() {
	mkdir -p tree/scripts tree/tests/guest
	cp "$KARMA_ROOT"/tests/guest/{check,run,lib.sh} tree/tests/guest
	cat >tree/scripts/soft-host <<-'END'
		#!/bin/bash
		case $* in *--where*) echo soft; exit ;; esac
		until [ "$1" = -- ]; do
			if [ "$1" = --env ]; then export "$2"; fi
			shift
		done
		shift
		exec "$@"
	END
	chmod +x tree/scripts/soft-host
	cat >tree/tests/guest/some.sh <<-'END'
		test_holds() { :; }
		test_fails() { echo bad; false; }
		test_is_skipped() { skip "no reason"; }
		test_holds_once_more() {
			mkdir "$SEEN" 2>/dev/null || return 0
			echo "what was seen first"; seq 20; false
		}
	END
	if SEEN=$PWD/seen tree/tests/guest/check /boot/vmlinuz-none >out; then die "all passed: $(cat out)"; fi
	tail -n 7 out >end
	cat >expected <<-'END'
		held when run again: test_holds_once_more (it failed)
		    what was seen first
		    1
		    2
		    3
		    4
		2 passed, 1 failed, 1 skipped
	END
	cmp end expected || die "it ends with: $(cat end)"
}
